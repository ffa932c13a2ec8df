"""Inverted lists: a single probe's search by all cores, and how far an index looks.

Knows nothing of items and files.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.index.kernels import best_of, in_parallel
from siamese_search.machine import all_cores


class Lists:
    """An index of inverted lists, perhaps of projections, whose lists the cores share."""

    def __init__(self, projections: list[Any], inverted: Any) -> None:
        self._projections = projections
        self._inverted = inverted
        self._quantizer = faiss.downcast_index(inverted.quantizer)

    @classmethod
    def of(cls, index: Any) -> Lists | None:
        """Those of a FAISS index, None where it is of another kind."""
        projections = []
        if isinstance(index, faiss.IndexPreTransform):
            chain = (index.chain.at(number) for number in range(index.chain.size()))
            projections = [faiss.downcast_VectorTransform(one) for one in chain]
            index = faiss.downcast_index(index.index)
        return cls(projections, index) if isinstance(index, faiss.IndexIVF) else None

    def search(self, query: FloatArray, count: int) -> IntArray:
        """As ``approximate``, for one query (1, dimension)."""
        for projection in self._projections:
            query = projection.apply(query)
        inverted = self._inverted
        distances, lists = self._nearest(query)
        # Coarse scores depend on it a little: processes that share the cores should answer alike.
        parts = min(all_cores(), inverted.nprobe)

        def part(core: int) -> tuple[FloatArray, IntArray]:
            # Interleaved, so that near lists, which have more to keep, are shared out evenly.
            near = np.ascontiguousarray(lists[:, core::parts])
            far = np.ascontiguousarray(distances[:, core::parts])
            found, positions = np.empty((1, count), np.float32), np.empty((1, count), np.int64)
            inverted.search_preassigned_c(
                1,
                faiss.swig_ptr(query),
                count,
                *map(faiss.swig_ptr, (near, far, found, positions)),
                False,
                faiss.SearchParametersIVF(nprobe=near.shape[1]),
            )
            return found, positions

        found, positions = in_parallel(part, parts)
        scores = found if inverted.metric_type == faiss.METRIC_INNER_PRODUCT else -found
        scores[positions < 0] = -np.inf
        positions, _ = best_of(positions, scores, count)
        positions[positions >= inverted.ntotal] = -1
        return positions

    def _nearest(self, query: FloatArray) -> tuple[FloatArray, IntArray]:
        """Distances and numbers (1, nprobe) of the lists to look at."""
        quantizer, count = self._quantizer, self._inverted.nprobe
        if not isinstance(quantizer, faiss.IndexFlatL2) or count >= quantizer.ntotal:
            distances, lists = quantizer.search(query, count)
            return distances, lists
        # FAISS would put them in order, which takes it as long as the distances.
        distances = np.empty((1, quantizer.ntotal), np.float32)
        to, of = faiss.swig_ptr(distances), faiss.swig_ptr(query)
        faiss.fvec_L2sqr_ny(to, of, quantizer.get_xb(), quantizer.d, quantizer.ntotal)
        lists = np.argpartition(distances, count - 1)[:, :count]
        return np.take_along_axis(distances, lists, axis=1), lists


def set_effort(index: faiss.Index, effort: int) -> None:
    """Set how much of an index a search looks at, whatever that is called for its kind."""
    name = effort_name(index)
    if name is not None:
        faiss.ParameterSpace().set_index_parameter(index, name, effort)


def effort_name(index: faiss.Index) -> str | None:
    """``nprobe`` or ``efSearch``, None where an index has neither."""
    space = faiss.ParameterSpace()
    space.initialize(index)
    ranges = space.parameter_ranges
    names = [ranges.at(number).name for number in range(ranges.size())]
    return next((name for name in names if name.split("_")[-1] in ("nprobe", "efSearch")), None)
