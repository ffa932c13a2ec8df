"""Identification: from a probe's embedding to the k best identities, or *unknown*."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from siamese_search import scoring
from siamese_search.catalog import Catalog
from siamese_search.encoder import Encoder
from siamese_search.enrolment import as_embeddings
from siamese_search.errors import GalleryMismatch, UsageError
from siamese_search.index import SearchIndex
from siamese_search.records import Generation, Identification, Match
from siamese_search.snapshots import Snapshots

CANDIDATES = 64  # items looked at first; nearly always they hold the k best identities
FEWEST = 5  # identities that are compared at least, so that the best one is the same for every k
BLOCK = 256
KEPT = 8192  # identities whose prototypes are kept

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class Identifier:
    """Identifies embeddings in one gallery."""

    def __init__(self, catalog: Catalog, snapshots: Snapshots) -> None:
        self._catalog = catalog
        self._snapshots = snapshots
        self._known: MembersOf | None = None
        self._version: tuple[int, int] | None = None

    def identify(
        self,
        encoder: Encoder,
        embeddings: FloatArray,
        k: int,
        threshold: float | None,
        where: Mapping[str, str] | None,
        rule: str | None = None,
    ) -> list[Identification]:
        """Identify by embeddings of ``encoder``, float32 (n, dimension) of unit length.

        Raises GalleryMismatch where it is not the active encoder, UsageError for bad input.
        """
        if k < 1:
            raise UsageError(f"k is {k}: ask for at least one identity")
        threshold = encoder.threshold if threshold is None else threshold
        if not -1 <= threshold <= 1:
            raise UsageError(f"the threshold is {threshold}: a cosine lies between -1 and 1")
        rule = rule or scoring.DEFAULT_RULE
        if rule not in scoring.RULES:
            raise UsageError(f"unknown rule {rule!r}: choose one of {', '.join(scoring.RULES)}")
        queries = as_embeddings(embeddings, encoder.dimension)
        ranked: list[tuple[Match, ...]] = []
        # Block by block, since others cannot commit while one is searched.
        for start in range(0, len(queries), BLOCK):
            with self._snapshots.searching() as (index, generation):
                require(encoder, generation, self._catalog.path.parent)
                allowed = None if where is None else self._catalog.where(where)
                ranked += self._rank(index, queries[start : start + BLOCK], k, allowed, rule)
        return [scoring.decide(matches, threshold, encoder.confidence) for matches in ranked]

    def _rank(
        self,
        index: SearchIndex,
        queries: FloatArray,
        k: int,
        allowed: IntArray | None,
        rule: str,
    ) -> list[tuple[Match, ...]]:
        """The k best identities of each query, or as many as there are.

        The rule ranks the identities of the nearest items, which an exact search finds.
        """
        identities, items = self._catalog.totals()
        k = min(k, identities)
        least = min(max(k, FEWEST), identities)
        wanted = max(4 * k, CANDIDATES)
        available = len(index) if allowed is None else len(allowed)
        if not k or not available:
            return [()] * len(queries)
        candidates = self._nearest(index, queries, wanted, allowed)
        if wanted < available:  # several items may be of one identity, so too few may be reached
            for row, found in enumerate(candidates):
                if len(found) < least:
                    query = queries[row : row + 1]
                    self._complete(index, query, least, wanted, allowed, found)
        if rule != "best" and identities < items:
            members = self._members(index, allowed)
            members.load({identity for found in candidates for identity in found})
            candidates = [
                _rescored(query, found, scoring.RULES[rule], members)
                for query, found in zip(queries, candidates, strict=True)
            ]
        return [tuple(itertools.islice(found.values(), k)) for found in candidates]

    def _nearest(
        self, index: SearchIndex, queries: FloatArray, wanted: int, allowed: IntArray | None
    ) -> list[dict[str, Match]]:
        """The identities of the ``wanted`` nearest items of each query, best first."""
        found, scores = index.search(queries, wanted, allowed)
        owners = self._catalog.owners(set(found[found >= 0].tolist()))
        return [
            scoring.best_items(zip(row, cosines, strict=True), owners)
            for row, cosines in zip(found.tolist(), scores.tolist(), strict=True)
        ]

    def _complete(
        self,
        index: SearchIndex,
        query: FloatArray,
        least: int,
        wanted: int,
        allowed: IntArray | None,
        found: dict[str, Match],
    ) -> None:
        """Add further identities for a query, sought among the items of those not found yet."""
        others, new = index.items if allowed is None else allowed, dict(found)
        while new and len(found) < least:
            for identity in new:
                others = np.setdiff1d(others, self._catalog.numbers(identity))
            (new,) = self._nearest(index, query, wanted, others)
            found.update(new)

    def _members(self, index: SearchIndex, allowed: IntArray | None) -> MembersOf:
        """The items of identities; what is known of them is kept until the gallery changes."""
        if allowed is not None:
            return MembersOf(self._catalog, index, allowed)
        version = self._catalog.version()
        if self._known is None or self._known.index is not index or version != self._version:
            self._known, self._version = MembersOf(self._catalog, index), version
        return self._known


class MembersOf:
    """The items of identities in one state of a gallery, loaded when they are asked for."""

    def __init__(
        self, catalog: Catalog, index: SearchIndex, allowed: IntArray | None = None
    ) -> None:
        self.index = index
        self._catalog = catalog
        self._allowed = allowed
        self._members: dict[str, scoring.Members] = {}

    def load(self, identities: set[str]) -> None:
        """Make sure that these are here; forgets others where there are too many."""
        if len(self._members) > KEPT:
            self._members.clear()
        missing = identities - self._members.keys()
        for identity, numbers in self._catalog.members(missing).items():
            if self._allowed is not None:
                numbers = np.intersect1d(numbers, self._allowed)
            self._members[identity] = scoring.Members(numbers, self.index.vectors)

    def __getitem__(self, identity: str) -> scoring.Members:
        return self._members[identity]


def _rescored(
    query: FloatArray, found: dict[str, Match], rule: scoring.Rule, members: MembersOf
) -> dict[str, Match]:
    """The same identities with the rule's scores, best first."""
    matches = list(found.values())
    best = np.array([match.score for match in matches], np.float32)
    scores = rule(query, best, [members[identity] for identity in found])
    order = np.argsort(-scores, kind="stable")
    return {
        matches[n].identity: dataclasses.replace(matches[n], score=float(scores[n]))
        for n in order.tolist()
    }


def require(encoder: Encoder, generation: Generation, gallery: Path) -> None:
    """Raise GalleryMismatch where an encoder is not that of a gallery's generation."""
    if encoder.fingerprint != generation.fingerprint:
        raise GalleryMismatch(
            f"{gallery} was made by the encoder {generation.encoder!r}"
            f" ({generation.fingerprint[:12]}), not by {encoder.name!r}"
            f" ({encoder.fingerprint[:12]}): use that one, or run"
            f" `siasearch rebuild --encoder {encoder.location}`"
        )
