"""The engine of FAISS: mapped files, and what came since in memory. Knows nothing of galleries."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.index.contract import Previous, Wanted, Written
from siamese_search.index.file import write_index
from siamese_search.index.search import SearchIndex


class FaissEngine:
    """Makes ``SearchIndex``es; see ``contract.Engine``."""

    def empty(self, dimension: int) -> SearchIndex:
        """An index of nothing, in memory."""
        return SearchIndex(dimension)

    def read(self, path: Path, dimension: int) -> SearchIndex:
        """Map an index file, which the caller trusts. Raises GalleryError for any other file."""
        return SearchIndex.read(path, dimension)

    def write(
        self,
        path: Path,
        dimension: int,
        chunks: Iterable[tuple[IntArray, FloatArray]],
        wanted: Wanted | None = None,
        previous: Previous | None = None,
    ) -> Written:
        """See ``file.write_index``."""
        return write_index(path, dimension, chunks, wanted, previous)
