"""Segments: where an index looks for candidates. A base is mapped from a file, a delta grows.

Knows nothing of how a base's FAISS index was chosen, trained and written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from siamese_search.arrays import BoolArray, FloatArray, IntArray
from siamese_search.index.kernels import (
    ROUNDING,
    approximate,
    best_of,
    faiss_threads,
    in_parallel,
    products,
    restricted_to,
    scan,
)
from siamese_search.index.lists import Lists, set_effort
from siamese_search.machine import all_cores, cores

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
        with faiss_threads(threads):  # more of them spin for a while, in the way of the next search
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
        self._lists = Lists.of(self.index) if all_cores() > 1 else None

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
            with faiss_threads(1 if len(queries) == 1 else None):  # others would only be waited for
                found = self.index.search(queries, wanted, params=restricted_to(selected))
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
                queries, wanted, params=restricted_to(selected, own)
            )
            return found

        scores, positions = in_parallel(part, count)
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
        with faiss_threads(threads):
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
