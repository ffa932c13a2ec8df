"""Kernels: how vectors are multiplied and the best of them kept. Knows nothing of items."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import faiss
import numpy as np

from siamese_search.arrays import BoolArray, FloatArray, IntArray
from siamese_search.machine import cores

# Two float32 sums of the products of unit vectors in another order differ by less: by 1e-6 or so.
ROUNDING = 1e-5
BLOCK_ROWS = 8192  # vectors that are multiplied at once: a product of that size stays in cache
FIRST_ROWS = 1024  # in the first block, where most are the best so far
BLOCK_QUERIES = 256


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
    return shown(scores)


def shown(scores: FloatArray) -> FloatArray:
    """The same, in place, with infinity for what is no number: only damage gives that, and it must
    not pass for the worst score, which nobody sees.
    """
    damaged = np.isnan(scores)
    if damaged.any():
        scores[damaged] = np.inf
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
            if not first:
                shown(new)
            else:
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
    with np.errstate(invalid="ignore"):
        above = ~(scores <= floor)  # what is no number, too
    rows, columns = divmod(np.flatnonzero(above), scores.shape[1])
    counts = np.bincount(rows, minlength=len(scores))
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = len(scores), int(counts.max(initial=0))
    kept, where = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
    kept[rows, place], where[rows, place] = scores[rows, columns], positions[rows, columns]
    return shown(kept), where


def best_of(positions: IntArray, scores: FloatArray, wanted: int) -> tuple[IntArray, FloatArray]:
    """The ``wanted`` columns of the highest scores in each row, in any order."""
    if scores.shape[1] <= wanted:
        return positions, scores
    columns = np.argpartition(-scores, wanted - 1, axis=1)[:, :wanted]
    return (
        np.take_along_axis(positions, columns, axis=1),
        np.take_along_axis(scores, columns, axis=1),
    )


def restricted_to(
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
def faiss_threads(count: int | None) -> Iterator[None]:
    """FAISS's threads in this thread's calls: so many, else this process's share of the cores."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count or min(before, cores()))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def in_parallel(
    part: Callable[[int], tuple[FloatArray, IntArray]], count: int
) -> tuple[FloatArray, IntArray]:
    """What the cores find, each by ``part`` with its number, in columns side by side."""
    others = [_pool().submit(part, core) for core in range(1, count)]
    with faiss_threads(1):  # this thread is one of them: waking one takes as long as a short search
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
