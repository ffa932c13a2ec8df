"""Identification: from a probe's embedding to the k best identities, or *unknown*."""

from __future__ import annotations

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
BLOCK = 256

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class Identifier:
    """Identifies embeddings in one gallery."""

    def __init__(self, catalog: Catalog, snapshots: Snapshots) -> None:
        self._catalog = catalog
        self._snapshots = snapshots

    def identify(
        self,
        encoder: Encoder,
        embeddings: FloatArray,
        k: int,
        threshold: float | None,
        where: Mapping[str, str] | None,
    ) -> list[Identification]:
        """Identify by embeddings of ``encoder``, float32 (n, dimension) of unit length.

        Raises GalleryMismatch where it is not the active encoder, UsageError for bad input.
        """
        if k < 1:
            raise UsageError(f"k is {k}: ask for at least one identity")
        threshold = encoder.threshold if threshold is None else threshold
        if not -1 <= threshold <= 1:
            raise UsageError(f"the threshold is {threshold}: a cosine lies between -1 and 1")
        queries = as_embeddings(embeddings, encoder.dimension)
        ranked: list[tuple[Match, ...]] = []
        # Block by block, since others cannot commit while one is searched.
        for start in range(0, len(queries), BLOCK):
            with self._snapshots.searching() as (index, generation):
                require(encoder, generation, self._catalog.path.parent)
                allowed = None if where is None else self._catalog.where(where)
                ranked += self._rank(index, queries[start : start + BLOCK], k, allowed)
        return [scoring.decide(matches, threshold, encoder.confidence) for matches in ranked]

    def _rank(
        self, index: SearchIndex, queries: FloatArray, k: int, allowed: IntArray | None
    ) -> list[tuple[Match, ...]]:
        """The k best identities of each query, or as many as there are."""
        k = min(k, self._catalog.totals()[0])
        wanted = max(4 * k, CANDIDATES)
        available = len(index) if allowed is None else len(allowed)
        if not k or not available:
            return [()] * len(queries)
        ranked = self._best(index, queries, k, wanted, allowed)
        if wanted < available:  # several items may be of one identity, so k may not be reached
            for row, matches in enumerate(ranked):
                if len(matches) < k:
                    query = queries[row : row + 1]
                    ranked[row] = self._completed(index, query, k, wanted, allowed, matches)
        return ranked

    def _best(
        self,
        index: SearchIndex,
        queries: FloatArray,
        k: int,
        wanted: int,
        allowed: IntArray | None,
    ) -> list[tuple[Match, ...]]:
        """The up to k identities among the ``wanted`` nearest items of each query."""
        found, scores = index.search(queries, wanted, allowed)
        owners = self._catalog.owners(set(found[found >= 0].tolist()))
        return [
            scoring.best_per_identity(zip(row, cosines, strict=True), owners, k)
            for row, cosines in zip(found.tolist(), scores.tolist(), strict=True)
        ]

    def _completed(
        self,
        index: SearchIndex,
        query: FloatArray,
        k: int,
        wanted: int,
        allowed: IntArray | None,
        matches: tuple[Match, ...],
    ) -> tuple[Match, ...]:
        """Further identities for a query, sought among the items of those not found yet."""
        others, new = index.items if allowed is None else allowed, matches
        while new and len(matches) < k:
            for match in new:
                others = np.setdiff1d(others, self._catalog.numbers(match.identity))
            (new,) = self._best(index, query, k - len(matches), wanted, others)
            matches += new
        return matches


def require(encoder: Encoder, generation: Generation, gallery: Path) -> None:
    """Raise GalleryMismatch where an encoder is not that of a gallery's generation."""
    if encoder.fingerprint != generation.fingerprint:
        raise GalleryMismatch(
            f"{gallery} was made by the encoder {generation.encoder!r}"
            f" ({generation.fingerprint[:12]}), not by {encoder.name!r}"
            f" ({encoder.fingerprint[:12]}): use that one, or run"
            f" `siasearch rebuild --encoder {encoder.location}`"
        )
