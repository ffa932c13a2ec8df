"""The index: nearest neighbours by inner product, and the only user of FAISS.

A base segment comes from an index file, a delta segment holds what was enrolled since, removals
are left out while searching. Candidates are scored again in double precision and ties ordered by
item number, so an answer does not depend on how items are spread over segments.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from siamese_search.errors import GalleryError, StorageError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Two float32 sums of the same products in another order differ by less than this.
ROUNDING = 1e-5
SPARE = 16
BLOCK_VALUES = 1 << 22  # candidates of a block of queries held at a time


@dataclass
class Segment:
    """Vectors in a flat FAISS index with their item numbers, ascending."""

    items: IntArray
    flat: faiss.IndexFlatIP
    owner: object = None  # what keeps ``flat`` alive where that is another index

    @property
    def vectors(self) -> FloatArray:
        """The stored float32 (n, dimension), without a copy."""
        if not len(self.items):
            return np.empty((0, self.flat.d), np.float32)
        flat = faiss.rev_swig_ptr(self.flat.get_xb(), self.flat.ntotal * self.flat.d)
        vectors: FloatArray = flat.reshape(-1, self.flat.d)
        return vectors

    def positions(self, items: IntArray) -> IntArray:
        """Where those of the given items lie that are here."""
        found = np.searchsorted(self.items, items)
        inside = found < len(self.items)
        found, items = found[inside], items[inside]
        positions: IntArray = found[self.items[found] == items]
        return positions


@dataclass(frozen=True)
class Candidates:
    """What a segment offers for a block of queries: positions and float32 scores (q, m)."""

    segment: Segment
    positions: IntArray
    approximate: FloatArray
    complete: bool  # nothing else may be found there

    def of(self, row: int) -> tuple[Segment, IntArray, FloatArray, float]:
        """One query's, with what the rest of the segment scores at most."""
        approximate = self.approximate[row]
        rest = -np.inf if self.complete else float(approximate.min()) + ROUNDING
        return self.segment, self.positions[row], approximate, rest


class SearchIndex:
    """Exact search over a base, a delta and removals. Not thread-safe while being changed."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.base = _empty(dimension)
        self._delta = _empty(dimension)
        self._removed = np.empty(0, np.int64)

    @classmethod
    def read(cls, path: Path, dimension: int) -> SearchIndex:
        """Open an index file, whose checksum the caller has verified.

        Raises GalleryError for any other kind of index.
        """
        try:
            # By a reader of ours: FAISS opens no path that is not plain text everywhere.
            with open(path, "rb") as file:
                owner = faiss.read_index(faiss.PyCallbackIOReader(file.read, 1 << 20))
            mapped: Any = faiss.downcast_index(owner)
            flat: Any = faiss.downcast_index(mapped.index)
            items = faiss.vector_to_array(mapped.id_map)
        except (RuntimeError, AttributeError, MemoryError, OSError) as error:
            raise GalleryError(f"{path} is no index of this format") from error
        if (
            not isinstance(flat, faiss.IndexFlatIP)
            or flat.d != dimension
            or len(items) != flat.ntotal
        ):
            raise GalleryError(f"{path} is no index of this format")
        index = cls(dimension)
        index.base = Segment(items, flat, owner=owner)
        return index

    def __len__(self) -> int:
        return len(self.base.items) + len(self._delta.items) - len(self._removed)

    @property
    def items(self) -> IntArray:
        """The numbers of the items that can be found, ascending."""
        return np.setdiff1d(
            np.concatenate([segment.items for segment in self._segments]), self._removed
        )

    def add(self, items: IntArray, vectors: FloatArray) -> None:
        """Append items, whose numbers are above all that are here, with vectors (n, dimension)."""
        self._delta.flat.add(np.ascontiguousarray(vectors, np.float32))
        self._delta.items = np.concatenate([self._delta.items, items])

    def remove(self, items: IntArray) -> None:
        """Leave items out from now on; those that are not here are ignored."""
        here = [segment.items[segment.positions(items)] for segment in self._segments]
        self._removed = np.union1d(self._removed, np.concatenate(here))

    @property
    def _segments(self) -> tuple[Segment, Segment]:
        return self.base, self._delta

    def search(
        self, queries: FloatArray, k: int, allowed: IntArray | None = None
    ) -> tuple[IntArray, FloatArray]:
        """The k nearest items of each query (q, dimension), among ``allowed`` if given.

        Returns items int64 (q, k) and inner products float32 (q, k), best first, equal scores by
        ascending item; where fewer exist, padded with item -1 and score -inf.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        items = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        wanted, pending = k + SPARE, np.arange(len(queries))
        while len(pending):
            unsettled = []
            rows = max(1, BLOCK_VALUES // wanted)
            for block in np.split(pending, range(rows, len(pending), rows)):
                found = [
                    self._candidates(segment, queries[block], wanted, allowed)
                    for segment in self._segments
                ]
                for row, query in enumerate(block):
                    parts = [candidates.of(row) for candidates in found]
                    best, exact, settled = _merge(queries[query], parts, k)
                    items[query, : len(best)], scores[query, : len(best)] = best, exact
                    if not settled:
                        unsettled.append(query)
            wanted, pending = 4 * wanted, np.array(unsettled, np.int64)
        return items, scores

    def vectors(self, items: IntArray) -> FloatArray:
        """The vectors of items, ascending, that can be found: float32 (n, dimension)."""
        items = np.setdiff1d(items, self._removed)
        parts = [segment.vectors[segment.positions(items)] for segment in self._segments]
        return np.concatenate(parts)

    def _candidates(
        self, segment: Segment, queries: FloatArray, wanted: int, allowed: IntArray | None
    ) -> Candidates:
        """The best ``wanted`` of a segment for each query, or all that may be found."""
        selected = self._selected(segment, allowed)
        count = len(segment.items) if selected is None else np.count_nonzero(selected)
        if count <= wanted:  # all of them: no search to run
            positions = np.arange(count) if selected is None else np.flatnonzero(selected)
            approximate = queries @ segment.vectors[positions].T
            return Candidates(
                segment, np.broadcast_to(positions, approximate.shape), approximate, complete=True
            )
        parameters = None
        if selected is not None:
            packed = np.packbits(selected, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(packed), faiss.swig_ptr(packed))
            parameters = faiss.SearchParameters(sel=selector)
        approximate, positions = segment.flat.search(queries, wanted, params=parameters)
        return Candidates(segment, positions, approximate, complete=False)

    def _selected(self, segment: Segment, allowed: IntArray | None) -> BoolArray | None:
        """Which positions of a segment may be found, None for all."""
        removed = segment.positions(self._removed)
        if allowed is None and not len(removed):
            return None
        selected = np.full(len(segment.items), allowed is None)
        if allowed is not None:
            selected[segment.positions(allowed)] = True
        selected[removed] = False
        return selected


def _merge(
    query: FloatArray, parts: list[tuple[Segment, IntArray, FloatArray, float]], k: int
) -> tuple[IntArray, FloatArray, bool]:
    """The k best of several parts, and whether nothing left behind could be among them."""
    together = np.concatenate([approximate for _, _, approximate, _ in parts])
    # Only what can be among the k best is worth scoring exactly.
    reach = np.partition(together, -k)[-k] - 2 * ROUNDING if len(together) > k else -np.inf
    near = [
        (segment, positions[approximate >= reach]) for segment, positions, approximate, _ in parts
    ]
    items = np.concatenate([segment.items[positions] for segment, positions in near])
    exact = [
        np.einsum("ij,j->i", segment.vectors[positions].astype(np.float64), query.astype(float))
        for segment, positions in near
    ]
    scores = np.concatenate(exact).astype(np.float32)
    order = np.lexsort((items, -scores))[:k]
    rest = max(rest for _, _, _, rest in parts)
    settled = rest == -np.inf or (len(order) == k and float(scores[order[-1]]) > rest)
    return items[order], scores[order], settled


def _empty(dimension: int) -> Segment:
    return Segment(np.empty(0, np.int64), faiss.IndexFlatIP(dimension))


def write_index(
    path: Path, dimension: int, chunks: Iterable[tuple[IntArray, FloatArray]]
) -> tuple[str, int]:
    """Write an index file of (items, vectors) chunks by way of a temporary name, synced.

    Returns its SHA-256 and the number of items. Raises StorageError.
    """
    mapped = faiss.IndexIDMap(faiss.IndexFlatIP(dimension))
    for items, vectors in chunks:
        mapped.add_with_ids(np.ascontiguousarray(vectors, np.float32), items)
    temporary = path.with_name(f".{path.name}")
    digest = hashlib.sha256()
    try:
        # FAISS's own writer overlooks an error in its last flush, and would leave a cut file.
        with open(temporary, "wb") as file:

            def write(data: bytes) -> None:
                digest.update(data)
                file.write(data)

            faiss.write_index(mapped, faiss.PyCallbackIOWriter(write, 1 << 20))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path}: the index file could not be written: {error}") from error
    return digest.hexdigest(), int(mapped.ntotal)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
