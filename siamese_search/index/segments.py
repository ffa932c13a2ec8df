"""Segments: where an index looks for candidates. A base is mapped from a file, a delta grows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from siamese_search.machine import cores

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Two float32 sums of the products of unit vectors in another order differ by less: by 1e-6 or so.
ROUNDING = 1e-5
BLOCK_ROWS = 8192  # vectors that are multiplied at once: a product of that size stays in cache
FIRST_ROWS = 1024  # in the first block, where most are the best so far
BLOCK_QUERIES = 256
SPARE = 16  # candidates beyond those asked for, so that one search nearly always settles
MANY = 16  # queries from which on multiplying matrices is faster than scanning for each
SHARED_BYTES = 64 << 20  # of vectors, from which on the cores share a query's scan


@dataclass(frozen=True)
class Candidates:
    """What a segment offers for queries: ``items`` and ``scores`` (q, m), -1 and -inf where there
    are fewer, in any order. What it does not offer scores at most ``rest`` (q,).
    """

    items: IntArray
    scores: FloatArray
    rest: FloatArray


class Segment:
    """Vectors (n, dimension) with their item numbers (n,), ascending; searched in full."""

    spare = SPARE  # candidates that it looks at beyond those wanted

    def __init__(self, items: IntArray, vectors: FloatArray) -> None:
        self.items = items
        self.vectors = vectors
        self.removed: BoolArray | None = None  # by position, None while there are none

    @property
    def count(self) -> int:
        """How many can be found."""
        gone = 0 if self.removed is None else int(np.count_nonzero(self.removed))
        return len(self.items) - gone

    @property
    def present(self) -> IntArray:
        """The numbers of those that can be found, ascending."""
        return self.items if self.removed is None else self.items[~self.removed]

    def positions(self, items: IntArray) -> IntArray:
        """Where those of the given items lie that are here."""
        found = np.searchsorted(self.items, items)
        inside = found < len(self.items)
        found, items = found[inside], items[inside]
        positions: IntArray = found[self.items[found] == items]
        return positions

    def holds(self, items: IntArray) -> BoolArray:
        """Which of the given items can be found here."""
        if not len(self.items):
            return np.zeros(len(items), bool)
        places = np.minimum(np.searchsorted(self.items, items), len(self.items) - 1)
        held: BoolArray = self.items[places] == items
        return held if self.removed is None else held & ~self.removed[places]

    def remove(self, items: IntArray) -> None:
        """Leave items out from now on."""
        if not len(items):
            return
        positions = self.positions(items)
        if len(positions):
            if self.removed is None:
                self.removed = np.zeros(len(self.items), bool)
            self.removed[positions] = True

    def selected(self, allowed: IntArray | None) -> BoolArray | None:
        """Which positions may be found, None for all."""
        if allowed is None:
            return None if self.removed is None else ~self.removed
        selected = np.zeros(len(self.items), bool)
        selected[self.positions(allowed)] = True
        return selected if self.removed is None else selected & ~self.removed

    def candidates(
        self, queries: FloatArray, wanted: int, selected: BoolArray | None, exact: bool = True
    ) -> Candidates:
        """The best ``wanted`` for each query (q, dimension) and some more, or all there are.

        They are the best for certain where ``exact`` is asked for.
        """
        del exact
        return self._exhaustive(queries, wanted + SPARE, selected)

    def _exhaustive(
        self, queries: FloatArray, wanted: int, selected: BoolArray | None
    ) -> Candidates:
        count = len(self.items) if selected is None else int(np.count_nonzero(selected))
        positions, scores = scan(self.vectors, queries, min(wanted, count), selected)
        rest = -np.inf if count <= wanted else scores.min(axis=1) + ROUNDING
        return self._offer(queries, positions, rest)

    def _offer(
        self,
        queries: FloatArray,
        positions: IntArray,
        rest: FloatArray | float,
        threads: int | None = 1,
    ) -> Candidates:
        """What lies at positions (q, m), scored pair by pair: it matters to no score where its
        items lie, and who else is asked about.
        """
        with _threads(threads):  # more of them spin for a while, in the way of the next search
            scores = products(queries, self.vectors, positions)
        items = self.items[positions] if len(self.items) else positions
        items[positions < 0] = -1
        return Candidates(items, scores, np.broadcast_to(np.float32(rest), len(queries)))


class Delta(Segment):
    """What was enrolled since the base was written: it grows in memory."""

    def __init__(self, dimension: int) -> None:
        super().__init__(np.empty(0, np.int64), np.empty((0, dimension), np.float32))
        self._room = self.vectors  # with space to grow into, so that adding does not copy all

    def add(self, items: IntArray, vectors: FloatArray) -> None:
        """Append items, whose numbers are above all that are here."""
        before, after = len(self.items), len(self.items) + len(items)
        if after > len(self._room):
            self._room = np.empty((max(after, 2 * before), vectors.shape[1]), np.float32)
            self._room[:before] = self.vectors
        self._room[before:after] = vectors
        self.vectors = self._room[:after]
        self.items = np.concatenate([self.items, items])
        if self.removed is not None:
            self.removed = np.concatenate([self.removed, np.zeros(len(items), bool)])


@dataclass(frozen=True)
class Tuning:
    """How a base is searched, as its file says.

    ``error`` is what a score of FAISS's may be off, None where it is too coarse to decide by: then
    ``spare`` candidates more than wanted are scored again, and ``effort`` is FAISS's parameter of
    that kind (``nprobe``, ``efSearch``). ``recall`` is the measured recall@10 against exact search.
    """

    recipe: str
    trained: int  # how many vectors there were when it was trained
    error: float | None = None
    effort: int | None = None
    spare: int = 0
    recall: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for what no file of ours says: FAISS would end the process over some."""
        for value, kind, least in (
            (self.trained, int, 0),
            (self.spare, int, 0),
            (1 if self.effort is None else self.effort, int, 1),
            (0.0 if self.error is None else self.error, float, 0.0),
            (0.0 if self.recall is None else self.recall, float, 0.0),
        ):
            if not isinstance(value, kind) or not least <= value < 1 << 40:
                raise ValueError(f"{value!r} is no number that an index is searched by")


class Base(Segment):
    """A mapped index file: float32 vectors, and a FAISS index of their positions to search by."""

    def __init__(
        self,
        items: IntArray,
        vectors: FloatArray,
        index: faiss.Index,
        tuning: Tuning,
        owner: object = None,  # what keeps the memory of ``index`` alive
    ) -> None:
        super().__init__(items, vectors)
        self.index: Any = faiss.downcast_index(index)
        self.tuning = tuning
        self.spare = max(SPARE, tuning.spare)
        self._owner = index, owner
        if tuning.effort is not None:
            set_effort(self.index, tuning.effort)
        self._lists = Lists.of(self.index) if cores() > 1 else None

    def candidates(
        self, queries: FloatArray, wanted: int, selected: BoolArray | None, exact: bool = True
    ) -> Candidates:
        count = len(self.items) if selected is None else int(np.count_nonzero(selected))
        rough = self.tuning.error is None
        if rough and not exact and count > wanted:
            return self._approximate(queries, wanted, selected, count)
        wanted += SPARE
        if rough or count <= wanted or len(queries) >= MANY:
            return self._exhaustive(queries, wanted, selected)
        if len(queries) < cores() and self.vectors.nbytes >= SHARED_BYTES:
            positions, scores = self._in_parts(queries, wanted, selected)
        else:
            with _threads(1 if len(queries) == 1 else None):  # others would only be waited for
                found = self.index.search(queries, wanted, params=_parameters(selected))
            scores, positions = found
        return self._offer(queries, positions, scores.min(axis=1) + (self.tuning.error or 0))

    def _in_parts(
        self, queries: FloatArray, wanted: int, selected: BoolArray | None
    ) -> tuple[IntArray, FloatArray]:
        """A search by all cores, each scanning a part: FAISS itself gives a query one core."""
        count = cores()  # once: threads may be given different ones
        bounds = np.linspace(0, len(self.items), count + 1).astype(int).tolist()

        def part(core: int) -> tuple[FloatArray, IntArray]:
            own = faiss.IDSelectorRange(bounds[core], bounds[core + 1])
            found: tuple[FloatArray, IntArray] = self.index.search(
                queries, wanted, params=_parameters(selected, own)
            )
            return found

        scores, positions = _shared(part, count)
        # FAISS pads with its least score; ours is -inf.
        scores[positions < 0] = -np.inf
        return best_of(positions, scores, wanted)

    def _approximate(
        self, queries: FloatArray, wanted: int, selected: BoolArray | None, count: int
    ) -> Candidates:
        """By FAISS's coarse scores, then by true ones; nothing is known of what it did not find."""
        reach = min((wanted + self.tuning.spare) * len(self.items) // count, len(self.items))
        # A query alone is done by one thread: others of FAISS's would only be waited for.
        threads = 1 if len(queries) == 1 else None
        with _threads(threads):
            if self._lists is not None and len(queries) == 1:
                positions = self._lists.search(queries, reach)
            else:
                positions = approximate(self.index, queries, reach)
        if selected is not None:
            positions[(positions >= 0) & ~selected[positions]] = -1
        found = self._offer(queries, positions, -np.inf, threads)
        items, scores = best_of(found.items, found.scores, wanted)
        short = np.flatnonzero((items < 0).any(axis=1))
        if len(short):
            exact = self._exhaustive(queries[short], wanted, selected)
            items[short], scores[short] = exact.items, exact.scores
        return Candidates(items, scores, found.rest)


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
        parts = min(cores(), inverted.nprobe)

        def part(core: int) -> tuple[FloatArray, IntArray]:
            # Every so-manieth, so that near lists, which have more to keep, are shared as well.
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

        found, positions = _shared(part, parts)
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


def approximate(index: faiss.Index, queries: FloatArray, count: int) -> IntArray:
    """The positions (q, count) that FAISS finds nearest, best first, -1 where there are fewer."""
    positions: IntArray = index.search(queries, count)[1]
    positions[positions >= index.ntotal] = -1  # as only a damaged file would have it
    return positions


def products(queries: FloatArray, vectors: FloatArray, positions: IntArray) -> FloatArray:
    """Inner products of queries with the vectors at positions (q, m), -inf where those are -1."""
    scores = np.empty(positions.shape, np.float32)
    faiss.fvec_inner_products_by_idx(
        faiss.swig_ptr(scores),
        faiss.swig_ptr(queries),
        faiss.swig_ptr(vectors),
        faiss.swig_ptr(np.ascontiguousarray(positions)),
        vectors.shape[1],
        *positions.shape,
    )
    scores[positions < 0] = -np.inf
    return scores


def scan(
    vectors: FloatArray, queries: FloatArray, wanted: int, selected: BoolArray | None = None
) -> tuple[IntArray, FloatArray]:
    """The best ``wanted`` positions for each query in any order, of those that are ``selected``,
    which must be as many.

    Multiplies matrices block by block, in float32; returns (q, wanted) positions and scores.
    """
    chosen = None if selected is None else np.flatnonzero(selected)
    if chosen is not None and 2 * len(chosen) > len(vectors):
        chosen = None  # multiplying by all is faster than gathering these
    count = len(vectors) if chosen is None else len(chosen)
    found = []
    for start in range(0, max(1, len(queries)), BLOCK_QUERIES):
        block = queries[start : start + BLOCK_QUERIES]
        positions = np.full((len(block), wanted), -1, np.int64)
        scores = np.full((len(block), wanted), -np.inf, np.float32)
        first, rows = 0, max(FIRST_ROWS, wanted)
        while wanted and first < count:
            end = min(first + rows, count)
            near = np.arange(first, end) if chosen is None else chosen[first:end]
            new = block @ vectors[slice(first, end) if chosen is None else near].T
            if chosen is None and selected is not None:
                new[:, ~selected[first:end]] = -np.inf
            where = np.broadcast_to(near, new.shape)
            if first:
                new, where = _above(scores.min(axis=1, keepdims=True), new, where)
            positions, scores = best_of(
                np.concatenate([positions, where], axis=1),
                np.concatenate([scores, new], axis=1),
                wanted,
            )
            # Of as many again as were seen, about ``wanted`` are better than the best so far.
            first, rows = end, min(2 * rows, BLOCK_ROWS)
        found.append((positions, scores))
    return np.concatenate([p for p, _ in found]), np.concatenate([s for _, s in found])


def _above(
    floor: FloatArray, scores: FloatArray, positions: IntArray
) -> tuple[FloatArray, IntArray]:
    """What lies above a floor (q, 1), in as many columns as the query with the most needs."""
    rows, columns = divmod(np.flatnonzero(scores > floor), scores.shape[1])
    counts = np.bincount(rows, minlength=len(scores))
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = len(scores), int(counts.max(initial=0))
    kept, where = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
    kept[rows, place], where[rows, place] = scores[rows, columns], positions[rows, columns]
    return kept, where


def best_of(positions: IntArray, scores: FloatArray, wanted: int) -> tuple[IntArray, FloatArray]:
    """The ``wanted`` columns of the highest scores in each row, in any order."""
    if scores.shape[1] <= wanted:
        return positions, scores
    columns = np.argpartition(-scores, wanted - 1, axis=1)[:, :wanted]
    return (
        np.take_along_axis(positions, columns, axis=1),
        np.take_along_axis(scores, columns, axis=1),
    )


def _parameters(
    selected: BoolArray | None, part: faiss.IDSelector | None = None
) -> faiss.SearchParameters | None:
    """What restricts a search to selected positions within a part."""
    selectors = [] if part is None else [part]
    if selected is not None:
        selectors.append(faiss.IDSelectorBitmap(np.packbits(selected, bitorder="little")))
    if not selectors:
        return None
    both = selectors[0] if len(selectors) == 1 else faiss.IDSelectorAnd(*selectors)
    return faiss.SearchParameters(sel=both)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """FAISS's threads in this thread's calls, where a count is given."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _shared(
    part: Callable[[int], tuple[FloatArray, IntArray]], count: int
) -> tuple[FloatArray, IntArray]:
    """What the cores find, each by ``part`` with its number, in columns side by side."""
    others = [_pool().submit(part, core) for core in range(1, count)]
    with _threads(1):  # this thread is one of them: waking one takes as long as a short search
        found = [part(0), *(other.result() for other in others)]
    scores = np.concatenate([scores for scores, _ in found], axis=1)
    return scores, np.concatenate([positions for _, positions in found], axis=1)


@cache
def _pool() -> ThreadPoolExecutor:
    # Each scans on its own: no threads of FAISS's below these.
    return ThreadPoolExecutor(cores(), initializer=lambda: faiss.omp_set_num_threads(1))


def _alone() -> None:
    """In a forked process, where no thread has come along: FAISS would wait for its own."""
    _pool.cache_clear()
    faiss.omp_set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alone)
