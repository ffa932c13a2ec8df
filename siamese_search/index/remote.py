"""Search over a collection of Milvus, and a delta enrolled since.

Milvus says which items may be near. Their vectors come from whoever stores them, are scored pair by
pair as those of an index file are, and ties are ordered by item number: so an answer is that of an
index file, as long as Milvus searches exactly. What it finds and is not stored any more is left
out. Knows nothing of galleries and SQL.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np

from siamese_search.arrays import BoolArray, FloatArray, IntArray
from siamese_search.errors import UsageError
from siamese_search.index.contract import AUTO, Wanted, Written
from siamese_search.index.kernels import ROUNDING
from siamese_search.index.milvus import MOST, Milvus, is_lite
from siamese_search.index.search import SearchIndex

log = logging.getLogger("siasearch")

SPARE = 16  # candidates beyond those asked for, so that one search nearly always settles
BLOCK = 256  # queries that are searched at a time
AT_ONCE = 20_000_000  # vectors compared by one request, all queries together: none may take long
FEW = 4096  # allowed items that are scored without Milvus
EXACT, GRAPH = "FLAT", "HNSW"
EXACT_AT_MOST = 100_000  # items that a server searches exactly, unless something else is wanted
PROBES, K = 200, 10  # that recall is measured with
EFFORTS = (64, 128, 256, 512, 1024, 2048)

Found = tuple[IntArray, FloatArray]


class Stored(Protocol):
    """What is stored of the items now, as an index holds it."""

    def items(self) -> IntArray:
        """The numbers of all, ascending."""

    def holds(self, items: IntArray) -> BoolArray:
        """Which items are stored (n,)."""

    def vectors(self, items: IntArray) -> tuple[IntArray, FloatArray]:
        """Those of the items, ascending, that are stored, and their vectors."""

    def chunks(self, upto: int, after: int = 0) -> Iterator[tuple[IntArray, FloatArray]]:
        """All items above a number, up to another, ascending, and their vectors, in chunks."""


class RemoteIndex:
    """Search over a collection and a delta; see ``contract.Index``.

    Exact also with more than a few items ``allowed`` where the collection is; else as near to it.
    """

    def __init__(
        self,
        engine: Milvus,
        name: str,
        dimension: int,
        stored: Stored,
        count: int,
        last: int,
        effort: int | None = None,
    ) -> None:
        """``count`` items up to number ``last`` are in the collection ``name``. ``effort`` is how
        far a graph is searched, None where all are.
        """
        self.dimension = dimension
        self._engine = engine
        self._name = name
        self._stored = stored
        self._count = count
        self._last = last
        self._effort = effort
        self._gone = np.empty(0, np.int64)
        self._delta = SearchIndex(dimension)

    def __len__(self) -> int:
        return self._in_collection + len(self._delta)

    @property
    def _in_collection(self) -> int:
        return max(0, self._count - len(self._gone))

    @property
    def items(self) -> IntArray:
        """The numbers of the items that can be found, ascending."""
        return self._stored.items()

    def add(self, items: IntArray, vectors: FloatArray) -> None:
        """Append items, whose numbers are above all that are here, with vectors (n, dimension)."""
        self._delta.add(items, vectors)

    def remove(self, items: IntArray) -> None:
        """Leave items out from now on; those that are not here are ignored."""
        self._gone = np.union1d(self._gone, items[items <= self._last])
        self._delta.remove(items)

    def holds(self, items: IntArray) -> BoolArray:
        """Which items can be found (n,)."""
        return self._stored.holds(items)

    def vectors(self, items: IntArray) -> FloatArray:
        """The vectors of items, ascending, that can be found: float32 (n, dimension)."""
        return self._stored.vectors(items)[1]

    def close(self) -> None:
        """Let go of the delta: from now on nothing can be found."""
        self._count, self._delta = 0, SearchIndex(self.dimension)

    def search(self, queries: FloatArray, k: int, allowed: IntArray | None = None) -> Found:
        """See ``contract.Index.search``."""
        queries = np.ascontiguousarray(queries, np.float32)
        found = self._delta.search(queries, k, allowed)
        if not len(queries) or not self._in_collection:
            return found
        if allowed is not None:
            allowed = allowed[allowed <= self._last]
            if len(allowed) <= FEW:
                return _best(found, self._among(queries, k, allowed, allowed), k)
        block = max(1, min(BLOCK, AT_ONCE // self._in_collection))
        for start in range(0, len(queries), block):
            part = slice(start, start + block)
            near = self._nearest(queries[part], k, allowed)
            found[0][part], found[1][part] = _best((found[0][part], found[1][part]), near, k)
        return found

    def _nearest(self, queries: FloatArray, k: int, allowed: IntArray | None) -> Found:
        """The k nearest of the collection: candidates, until nothing better can be left."""
        share = 1.0 if allowed is None else self._in_collection / len(allowed)
        wanted = math.ceil(k * max(share, 1.0)) + SPARE
        available = self._in_collection if allowed is None else len(allowed)
        items, scores = _nothing(len(queries), k)
        pending = np.arange(len(queries))
        while len(pending):
            if wanted > MOST:
                items[pending], scores[pending] = self._all(queries[pending], k, allowed)
                break
            asked = queries[pending]
            numbers, rough = self._engine.search(self._name, asked, wanted, self._effort)
            candidates = np.unique(numbers[(numbers >= 0) & (numbers <= self._last)])
            best = self._among(asked, k, candidates, allowed)
            items[pending], scores[pending] = best
            whole = (best[0] >= 0).sum(axis=1) >= min(k, available)
            ended = numbers[:, -1] < 0  # it has no others
            settled = whole & (ended | (self._effort is not None))
            # Equal scores may lie behind the last one.
            settled |= whole & (best[1][:, -1] > rough[:, -1] + ROUNDING)
            pending, ended = pending[~settled], ended[~settled]
            wanted = MOST + 1 if ended.any() else 4 * wanted
        return items, scores

    def _among(
        self, queries: FloatArray, k: int, items: IntArray, allowed: IntArray | None
    ) -> Found:
        """The k nearest of certain items that are stored and allowed."""
        if allowed is not None and items is not allowed:
            items = np.intersect1d(items, allowed, assume_unique=True)
        exact = SearchIndex(self.dimension)
        exact.add(*self._stored.vectors(items))
        return exact.search(queries, k)

    def _all(self, queries: FloatArray, k: int, allowed: IntArray | None) -> Found:
        """The k nearest, by reading all: for what Milvus cannot be asked."""
        return scanned(self._stored.chunks(self._last), queries, k, self.dimension, allowed)


def scanned(
    chunks: Iterable[tuple[IntArray, FloatArray]],
    queries: FloatArray,
    k: int,
    dimension: int,
    allowed: IntArray | None = None,
) -> Found:
    """The k nearest of queries (q, dimension) among (items, vectors) chunks, exactly."""
    found = _nothing(len(queries), k)
    for items, vectors in chunks:
        part = SearchIndex(dimension)
        part.add(items, vectors)
        found = _best(found, part.search(queries, k, allowed), k)
    return found


def _nothing(rows: int, k: int) -> Found:
    return np.full((rows, k), -1, np.int64), np.full((rows, k), -np.inf, np.float32)


def _best(one: Found, other: Found, k: int) -> Found:
    """The k best of two answers, best first, equal scores by ascending item."""
    items = np.concatenate([one[0], other[0]], axis=1)
    scores = np.concatenate([one[1], other[1]], axis=1)
    order = np.lexsort((items, -scores), axis=1)[:, :k]
    return np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)


# Writing


def write_collection(
    engine: Milvus,
    name: str,
    dimension: int,
    chunks: Callable[[], Iterable[tuple[IntArray, FloatArray]]],
    count: int,
    wanted: Wanted,
) -> Written:
    """Write a new collection of (items, vectors) chunks, of about ``count`` items.

    Raises UsageError for a recipe that Milvus is not asked for, EngineUnavailable where it fails.
    """
    kind = chosen(wanted, is_lite(engine.address), count)
    engine.make(name, dimension, kind)
    written, probes = 0, np.empty((0, dimension), np.float32)
    random = np.random.default_rng(0)
    for items, vectors in chunks():
        engine.put(name, items, vectors)
        written += len(items)
        if kind == GRAPH:
            share = min(1.0, 2 * PROBES / max(count, 1))
            probes = np.concatenate([probes, vectors[random.random(len(vectors)) < share]])
    engine.settle(name)
    if kind != GRAPH or not written:
        return Written("", written, kind, None)
    effort, recall = _tuned(engine, name, probes[:PROBES], chunks(), wanted.recall)
    if recall < wanted.recall:
        log.warning("the index of Milvus reaches recall@10 %.3f, not %g", recall, wanted.recall)
    return Written("", written, f"{GRAPH} ef={effort}", recall)


def chosen(wanted: Wanted, lite: bool, count: int) -> str:
    """The kind of index for so many items. Raises UsageError where there is none of that name."""
    if wanted.recipe == AUTO:
        return EXACT if lite or count <= EXACT_AT_MOST else GRAPH
    if wanted.recipe not in (EXACT, GRAPH):
        raise UsageError(f"Milvus is asked for {EXACT}, {GRAPH} or auto, not {wanted.recipe!r}")
    if lite and wanted.recipe != EXACT:
        raise UsageError(f"milvus-lite searches all items ({EXACT}): {GRAPH} needs a server")
    return wanted.recipe


def effort_of(recipe: str) -> int | None:
    """How far a collection's graph is searched, as its recipe says; None where all are."""
    kind, _, effort = recipe.partition(" ef=")
    return int(effort) if kind == GRAPH and effort.isdigit() else None


def _tuned(
    engine: Milvus,
    name: str,
    probes: FloatArray,
    chunks: Iterable[tuple[IntArray, FloatArray]],
    target: float,
) -> tuple[int, float]:
    """The least effort that finds a wanted share of the ten nearest items of some that are there,
    without these themselves, and the share; the highest where none does.
    """
    truth, _ = scanned(chunks, probes, K + 1, probes.shape[1])
    effort, recall = EFFORTS[0], 0.0
    for effort in EFFORTS:
        found, _ = engine.search(name, probes, K + 1 + SPARE, effort)
        # The probe itself is among the eleven, and is found whenever anything is.
        hits = (truth[:, 1:, None] == found[:, None]).any(axis=2) & (truth[:, 1:] >= 0)
        recall = float((hits.sum(axis=1) / np.maximum((truth[:, 1:] >= 0).sum(axis=1), 1)).mean())
        if recall >= target:
            break
    return effort, recall
