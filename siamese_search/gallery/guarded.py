"""A guarded index: what it gives is looked at, since a large file is not read in full to open it.

Damage in a vector shows as a length that is not 1, and so as a cosine beyond 1. Then the index is
given up for one that comes from the database. Knows nothing of files and databases.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from siamese_search.arrays import BoolArray, FloatArray, IntArray
from siamese_search.embedding.vectors import LENGTH_TOLERANCE
from siamese_search.errors import GalleryDamaged
from siamese_search.index import Index

# What two vectors give that are as long as may be; a zero beyond -1 is what pads an answer.
HIGHEST = (1 + LENGTH_TOLERANCE) ** 2
SHORTEST, LONGEST = (1 - LENGTH_TOLERANCE) ** 2, HIGHEST


def is_unit(vectors: FloatArray) -> BoolArray:
    """Which of vectors (n, dimension) are finite and of unit length (n,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
        unit: BoolArray = (squares >= SHORTEST) & (squares <= LONGEST)
    return unit


class GuardedIndex:
    """An ``Index`` of unit vectors, searched by unit vectors, that never gives what cannot be.

    ``instead`` makes the one that takes its place where it would; it must hold the same items.
    """

    def __init__(self, index: Index, instead: Callable[[], Index]) -> None:
        self._index = index
        self._instead = instead

    @property
    def dimension(self) -> int:
        return self._index.dimension

    @property
    def items(self) -> IntArray:
        return self._index.items

    def __len__(self) -> int:
        return len(self._index)

    def add(self, items: IntArray, vectors: FloatArray) -> None:
        self._index.add(items, vectors)

    def remove(self, items: IntArray) -> None:
        self._index.remove(items)

    def holds(self, items: IntArray) -> BoolArray:
        return self._index.holds(items)

    def vectors(self, items: IntArray) -> FloatArray:
        """As any index; raises GalleryDamaged where the database has no such vectors either."""
        vectors = self._index.vectors(items)
        if is_unit(vectors).all():
            return vectors
        self._replace()
        sound = self._index.vectors(items)
        if len(sound) != len(vectors):
            raise GalleryDamaged(
                "embeddings in the database are not of unit length: `siasearch check` names them"
            )
        return sound

    def search(
        self, queries: FloatArray, k: int, allowed: IntArray | None = None
    ) -> tuple[IntArray, FloatArray]:
        items, scores = self._index.search(queries, k, allowed)
        if not _are_cosines(items, scores):
            self._replace()
            items, scores = self._index.search(queries, k, allowed)
        return items, np.minimum(scores, np.float32(1))  # rounding may add a little

    def close(self) -> None:
        self._index.close()

    def _replace(self) -> None:
        self._index.close()
        self._index = self._instead()


def _are_cosines(items: IntArray, scores: FloatArray) -> bool:
    """Whether all scores that belong to an item may be cosines."""
    if not scores.size:
        return True
    # The most that is seen of an answer: it costs next to nothing. NaN compares as false.
    if not scores.max() <= HIGHEST:
        return False
    return bool(scores.min() >= -HIGHEST or (scores[items >= 0] >= -HIGHEST).all())
