"""Stored vectors: what the database holds of a gallery's items, as an index of them holds it.

Knows nothing of indexes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from siamese_search.arrays import BoolArray, FloatArray, IntArray
from siamese_search.decision.metric import Metric
from siamese_search.gallery.guarded import is_unit
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.generations import State


class StoredVectors:
    """The items of a state, and their vectors by a metric; see ``index.remote.Stored``."""

    def __init__(self, catalog: Catalog, state: State, metric: Metric | None) -> None:
        self._catalog = catalog
        self._generation = state.generation
        self._metric = metric

    def items(self) -> IntArray:
        """The numbers of all, ascending."""
        return self._catalog.embedded(self._generation)

    def holds(self, items: IntArray) -> BoolArray:
        """Which items are stored (n,)."""
        return np.isin(items, self._catalog.embedded(self._generation, items))

    def vectors(self, items: IntArray) -> tuple[IntArray, FloatArray]:
        """Those of the items, ascending, that are stored, and their vectors."""
        numbers, embeddings = self._catalog.vectors(self._generation, items)
        return numbers, projected(self._metric, embeddings)

    def chunks(self, upto: int, after: int = 0) -> Iterator[tuple[IntArray, FloatArray]]:
        """All items above a number, up to another, ascending, and their vectors, in chunks."""
        for items, embeddings in self._catalog.embeddings(self._generation, after, upto):
            yield items, projected(self._metric, embeddings)


def dimension_of(state: State, metric: Metric | None) -> int:
    """How long the vectors in an index are."""
    return state.generation.dimension if metric is None else metric.dimension


def projected(metric: Metric | None, vectors: FloatArray) -> FloatArray:
    """Embeddings (n, dimension) as an index of a metric holds them, float32 (n, p).

    What is not of unit length, and so damaged, becomes nought, which is not, either.
    """
    if metric is None:
        return vectors
    sound = is_unit(vectors)
    return metric.apply(np.where(sound[:, None], vectors, np.float32(0)))
