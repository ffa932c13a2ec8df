"""What a gallery asks of an index, and of the engine that keeps indexes in files.

Any index passes ``tests/test_index_contract.py``. Knows of no library that searches, nor of what
stands in a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from siamese_search.arrays import BoolArray, FloatArray, IntArray

AUTO = "auto"
RECALL = 0.99  # at k = 10


@dataclass(frozen=True)
class Wanted:
    """What a gallery's index shall be: ``auto`` or what an engine calls it, and a recall@10."""

    recipe: str = AUTO
    recall: float = RECALL

    def changed(self, recipe: str | None, recall: float | None) -> Wanted:
        """The same but for what is given."""
        return Wanted(
            self.recipe if recipe is None else recipe, self.recall if recall is None else recall
        )


@dataclass(frozen=True)
class Written:
    """An index file as it was written. ``recall`` is None where its recipe is exact."""

    sha256: str
    items: int
    recipe: str
    recall: float | None


@dataclass(frozen=True)
class Previous:
    """An earlier index file of the same gallery, and the SHA-256 that it was written with."""

    path: Path
    sha256: str


class Index(Protocol):
    """Unit vectors by item number, and the nearest of them by inner product.

    Not thread-safe. Item numbers are int64, vectors float32 (n, dimension).
    """

    @property
    def dimension(self) -> int:
        """How long a vector is."""

    @property
    def items(self) -> IntArray:
        """The numbers of the items that can be found, ascending."""

    def __len__(self) -> int:
        """How many can be found."""

    def add(self, items: IntArray, vectors: FloatArray) -> None:
        """Append items, ascending, whose numbers are above all that are here or were."""

    def remove(self, items: IntArray) -> None:
        """Leave items out from now on; those that are not here are ignored."""

    def holds(self, items: IntArray) -> BoolArray:
        """Which items can be found (n,)."""

    def vectors(self, items: IntArray) -> FloatArray:
        """The vectors of those of the items, ascending, that can be found."""

    def search(
        self, queries: FloatArray, k: int, allowed: IntArray | None = None
    ) -> tuple[IntArray, FloatArray]:
        """The k nearest items of each query (q, dimension), among ``allowed``, ascending, if given.

        Returns items int64 (q, k) and inner products float32 (q, k), best first, equal scores by
        ascending item; where fewer exist, padded with item -1 and score -inf. What was added since
        the file was written is always searched in full. Exact with ``allowed``, and without where
        the recipe is exact; else as near to it as the recall that was measured.
        """

    def close(self) -> None:
        """Let go of all that is held, files too: from now on nothing can be found."""


class Engine(Protocol):
    """Makes indexes, and keeps them in files."""

    def empty(self, dimension: int) -> Index:
        """An index of nothing, in memory."""

    def read(self, path: Path, dimension: int) -> Index:
        """Open an index file, which the caller trusts.

        Raises GalleryError for any other file, GalleryFormatError for one of a newer siasearch.
        """

    def write(
        self,
        path: Path,
        dimension: int,
        chunks: Iterable[tuple[IntArray, FloatArray]],
        wanted: Wanted | None = None,
        previous: Previous | None = None,
    ) -> Written:
        """Write an index file of (items, vectors) chunks, whole or not at all, synced.

        Items ascend. What ``previous`` has learned may save work, if it is as it was written; items
        and vectors are those of the chunks. Raises StorageError, or UsageError where the recipe
        that is wanted does not work with these vectors.
        """
