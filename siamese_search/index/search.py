"""Search over a base, which an index file holds, a delta enrolled since, and removals.

Candidates are scored again pair by pair and ties ordered by item number, so an answer does not
depend on how items are spread over segments, as long as the base's recipe is exact. With a filter
any answer is exact. Knows nothing of how a base is laid out in its file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from siamese_search.arrays import BoolArray, FloatArray, IntArray
from siamese_search.index.file import open_index
from siamese_search.index.segments import Base, Candidates, Delta, Segment

CELLS = 1 << 22  # candidates held at a time


class SearchIndex:
    """Search over a base, a delta and removals; see ``contract.Index``."""

    def __init__(self, dimension: int, base: Base | None = None) -> None:
        self.dimension = dimension
        self.base = base
        self._delta = Delta(dimension)

    @classmethod
    def read(cls, path: Path, dimension: int) -> SearchIndex:
        """Map an index file, which the caller trusts. Raises GalleryError for any other file."""
        return cls(dimension, open_index(path, dimension))

    def __len__(self) -> int:
        return sum(segment.count for segment in self._segments)

    @property
    def items(self) -> IntArray:
        """The numbers of the items that can be found, ascending."""
        parts = [segment.present for segment in self._segments]
        return np.concatenate(parts)

    def add(self, items: IntArray, vectors: FloatArray) -> None:
        """Append items, whose numbers are above all that are here, with vectors (n, dimension)."""
        self._delta.add(items, np.asarray(vectors, np.float32))

    def remove(self, items: IntArray) -> None:
        """Leave items out from now on; those that are not here are ignored."""
        for segment in self._segments:
            segment.remove(items)

    def holds(self, items: IntArray) -> BoolArray:
        """Which items can be found (n,)."""
        held: BoolArray = np.any([segment.holds(items) for segment in self._segments], axis=0)
        return held

    def vectors(self, items: IntArray) -> FloatArray:
        """The vectors of items, ascending, that can be found: float32 (n, dimension)."""
        parts = []
        for segment in self._segments:
            positions = segment.positions(items)
            if segment.removed is not None:
                positions = positions[~segment.removed[positions]]
            parts.append(segment.vectors[positions])
        return np.concatenate(parts)

    def close(self) -> None:
        """Let go of the base and its file: from now on nothing can be found."""
        self.base = None
        self._delta = Delta(self.dimension)

    @property
    def _segments(self) -> list[Segment]:
        return [self._delta] if self.base is None else [self.base, self._delta]

    def search(
        self, queries: FloatArray, k: int, allowed: IntArray | None = None
    ) -> tuple[IntArray, FloatArray]:
        """The k nearest items of each query (q, dimension), among ``allowed`` if given.

        Returns items int64 (q, k) and inner products float32 (q, k), best first, equal scores by
        ascending item (of those that a base which is not exact has found); where fewer exist,
        padded with item -1 and score -inf.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        items = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        segments = [segment for segment in self._segments if len(segment.items)]
        chosen = [segment.selected(allowed) for segment in segments]
        wanted, pending = k, np.arange(len(queries) if segments else 0)
        while len(pending):
            held = wanted + max(segment.spare for segment in segments)
            rows, unsettled = max(1, CELLS // held), []
            for start in range(0, len(pending), rows):
                block = pending[start : start + rows]
                found = [
                    # A filter may leave nothing near, which is where a rough index looks.
                    segment.candidates(queries[block], wanted, selected, allowed is not None)
                    for segment, selected in zip(segments, chosen, strict=True)
                ]
                best, exact, settled = _merged(found, k)
                items[block, : best.shape[1]], scores[block, : best.shape[1]] = best, exact
                unsettled.append(block[~settled])
            wanted, pending = 4 * wanted, np.concatenate(unsettled)
        return items, scores


def _merged(parts: list[Candidates], k: int) -> tuple[IntArray, FloatArray, BoolArray]:
    """The k best of several segments for each query, and whether nothing left behind could be
    among them: items (q, at most k), scores likewise, settled (q,).
    """
    items = np.concatenate([part.items for part in parts], axis=1)
    scores = np.concatenate([part.scores for part in parts], axis=1)
    order = np.lexsort((items, -scores), axis=1)[:, :k]
    rows = np.arange(len(order))[:, None]
    items, scores = items[rows, order], scores[rows, order]
    rest = np.max([part.rest for part in parts], axis=0)
    worst = scores[:, -1] if scores.shape[1] == k else np.full(len(scores), -np.inf)
    return items, scores, (rest == -np.inf) | (worst > rest)
