"""Identification: from a probe's embedding to the k best identities, or *unknown*."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.decision import rules
from siamese_search.decision.judge import Judge, calibrated, decide, fixed
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.vectors import as_embeddings
from siamese_search.errors import UsageError
from siamese_search.gallery.active import require
from siamese_search.gallery.members import MembersOf
from siamese_search.gallery.self_test import without_item
from siamese_search.gallery.snapshots import Snapshots
from siamese_search.index import SearchIndex
from siamese_search.records import Calibration, Identification, LeftOut, Match
from siamese_search.storage.catalog import Catalog

CANDIDATES = 64  # items looked at first; nearly always they hold the k best identities
DEEP = 4096  # items looked at before identities are sought one after the other
FEWEST = 5  # identities that are compared at least, so that a small k hardly changes which is best
BLOCK = 256
SCORES = 1 << 22  # held at a time where every identity's is asked for


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
        fpir: float | None = None,
    ) -> list[Identification]:
        """Identify by embeddings of ``encoder``, float32 (n, dimension) of unit length.

        Raises GalleryMismatch where it is not the active encoder, UsageError for bad input.
        """
        if k < 1:
            raise UsageError(f"k is {k}: ask for at least one identity")
        if threshold is not None and not -1 <= threshold <= 1:
            raise UsageError(f"the threshold is {threshold}: a cosine lies between -1 and 1")
        if rule is not None:
            rules.known_rule(rule)
        queries = as_embeddings(embeddings, encoder.dimension)
        answers: list[Identification] = []
        # Block by block, since others cannot commit while one is searched.
        for start in range(0, max(1, len(queries)), BLOCK):
            block = queries[start : start + BLOCK]
            with self._snapshots.searching() as (index, generation):
                require(encoder, generation, self._catalog.path.parent)
                allowed = None if where is None else self._catalog.where(where)
                calibration = self._catalog.calibration(generation)
                chosen = rule or (calibration.rule if calibration else rules.DEFAULT_RULE)
                judge = _judge(calibration, encoder, threshold, chosen, fpir)
                ranked = self._rank(index, block, max(k, 2), allowed, chosen)
                # A filter leaves out rivals that the rate was calibrated with.
                filtered = allowed is not None and calibration is not None
                rivals = self._rank(index, block, 3, None, chosen) if filtered else ranked
            answers += [
                decide(matches, k, judge, others)
                for matches, others in zip(ranked, rivals, strict=True)
            ]
        return answers

    def search(self, embeddings: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
        """The k nearest items of embeddings (n, dimension), all under one encoder, and cosines."""
        number, queries = 0, np.empty((0, 0), np.float32)
        found: list[tuple[IntArray, FloatArray]] = []
        while not found or BLOCK * len(found) < len(queries):
            with self._snapshots.searching() as (index, generation):
                if generation.number != number:  # at the start, or others have switched encoders
                    number, found = generation.number, []
                    queries = as_embeddings(embeddings, index.dimension)
                start = BLOCK * len(found)
                found.append(index.search(queries[start : start + BLOCK], k))
        items, scores = zip(*found, strict=True)
        return np.concatenate(items), np.concatenate(scores)

    def left_out(self, rule: str, limit: int | None = None, seed: int = 0) -> Iterator[LeftOut]:
        """The gallery's own items, each searched without itself.

        With a ``limit``, about as many of them, identities having as many each where they can. What
        others change meanwhile may be seen in one item and not in another.
        """
        with self._snapshots.searching() as (index, _):
            items = index.items
            if limit is not None and len(items) > limit:
                random = np.random.default_rng(seed)
                names = [name for name, _ in self._catalog.identities()]
                if len(names) > limit:
                    names = random.choice(names, limit, replace=False).tolist()
                each = max(1, limit // len(names))
                members = self._catalog.members(names)
                chosen = [random.permutation(members[name])[:each] for name in sorted(members)]
                items = np.sort(np.concatenate(chosen))
        for start in range(0, len(items), BLOCK):
            with self._snapshots.searching() as (index, _):
                found = list(self._left_out(index, items[start : start + BLOCK], rule))
            yield from found

    def _left_out(self, index: SearchIndex, items: IntArray, rule: str) -> Iterator[LeftOut]:
        items = items[index.holds(items)]
        vectors = index.vectors(items)
        owners = self._catalog.owners(items.tolist())
        ranked = self._rank(index, vectors, 3, None, rule)
        members = self._members(index, None)
        members.load({owner for owner, _ in owners.values()})
        for row, item in enumerate(items.tolist()):
            own, path = owners[item]
            others = [match for match in ranked[row] if match.identity != own][:2]
            score = without_item(members[own], item, vectors[row], rules.RULES[rule])
            yield LeftOut(item, own, path, score, tuple(others))

    def alike(self, cosine: float) -> set[tuple[int, int, float]]:
        """Pairs of items (lower number first) where one is the other's nearest, at that cosine or
        above, which is given with them.
        """
        with self._snapshots.searching() as (index, _):
            items = index.items
        pairs = {}
        for start in range(0, len(items), BLOCK):
            with self._snapshots.searching() as (index, _):
                block = items[start : start + BLOCK]
                block = block[index.holds(block)]
                found, scores = index.search(index.vectors(block), 2)
            for item, near, cosines in zip(
                block.tolist(), found.tolist(), scores.tolist(), strict=True
            ):
                place = int(near[0] == item)  # after itself, or an equal one before it
                if near[place] >= 0 and cosines[place] >= cosine:
                    pairs[min(item, near[place]), max(item, near[place])] = cosines[place]
        return {(first, second, score) for (first, second), score in pairs.items()}

    def scores(
        self, encoder: Encoder, embeddings: FloatArray, rule: str
    ) -> tuple[list[str], Iterator[FloatArray]]:
        """Every identity's score: names (m,), and float32 (b, m) for b embeddings at a time.

        Whoever others remove meanwhile scores -inf from then on; whom they enrol is left out.
        """
        queries = as_embeddings(embeddings, encoder.dimension)
        with self._snapshots.searching() as (index, generation):
            require(encoder, generation, self._catalog.path.parent)
            names = list(self._everybody(index))
        return names, self._scores(encoder, queries, names, rules.RULES[rule])

    def _scores(
        self, encoder: Encoder, queries: FloatArray, names: list[str], rule: rules.Rule
    ) -> Iterator[FloatArray]:
        members: dict[str, rules.Members] = {}
        seen = None
        rows = max(1, min(BLOCK, SCORES // max(1, len(names))))
        for start in range(0, len(queries), rows):
            block = queries[start : start + rows]
            scores = np.full((len(block), len(names)), -np.inf, np.float32)
            with self._snapshots.searching() as (index, generation):
                require(encoder, generation, self._catalog.path.parent)
                now = index, self._catalog.version()
                if now != seen:
                    members, seen = self._everybody(index), now
                here = [column for column, name in enumerate(names) if name in members]
                owned = [members[names[column]] for column in here]
                scores[:, here] = rules.scored(block, owned, rule)
            yield scores

    def _everybody(self, index: SearchIndex) -> dict[str, rules.Members]:
        """All identities by name, but for those of whom no item can be found under the encoder."""
        members = MembersOf(self._catalog, index)
        names = [name for name, _ in self._catalog.identities()]
        members.load(set(names))
        return {name: members[name] for name in names if len(members[name].numbers)}

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
                _rescored(query, found, rules.RULES[rule], members) if found else found
                for query, found in zip(queries, candidates, strict=True)
            ]
        ranked = [tuple(itertools.islice(found.values(), k)) for found in candidates]
        never = self._catalog.distractors({m.identity for found in ranked for m in found})
        if not never:
            return ranked
        return [
            tuple(dataclasses.replace(m, distractor=m.identity in never) for m in found)
            for found in ranked
        ]

    def _nearest(
        self, index: SearchIndex, queries: FloatArray, wanted: int, allowed: IntArray | None
    ) -> list[dict[str, Match]]:
        """The identities of the ``wanted`` nearest items of each query, best first."""
        found, scores = index.search(queries, wanted, allowed)
        owners = self._catalog.owners(set(found[found >= 0].tolist()))
        return [
            rules.best_items(zip(row, cosines, strict=True), owners)
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
        """Add further identities for a query: sought farther away, then among the items of those
        not found yet.
        """
        reach = wanted
        while len(found) < least and reach < DEEP:
            reach *= 8
            (new,) = self._nearest(index, query, reach, allowed)
            found.update(new)
        others, members, new = allowed, self._members(index, allowed), dict(found)
        while new and len(found) < least:
            members.load(set(new))
            numbers = np.concatenate([members[identity].numbers for identity in new])
            others = np.setdiff1d(index.items if others is None else others, numbers, True)
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


def _judge(
    calibration: Calibration | None,
    encoder: Encoder,
    threshold: float | None,
    rule: str,
    fpir: float | None,
) -> Judge:
    """How probes are decided. Raises UsageError for a rate where nothing is calibrated for it."""
    if calibration is not None and calibration.rule == rule:
        return calibrated(calibration, fpir, threshold, encoder.threshold)
    if fpir is not None:
        raise UsageError(
            f"the gallery is not calibrated for the rule {rule}: run `siasearch calibrate`"
        )
    return fixed(encoder.threshold if threshold is None else threshold, encoder.confidence)


def _rescored(
    query: FloatArray, found: dict[str, Match], rule: rules.Rule, members: MembersOf
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
