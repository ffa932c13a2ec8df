"""Index files: float32 vectors, item numbers and a FAISS index, in one file that is mapped.

The layout is that of safetensors, so that other programs can take a file apart: ``vectors``
(n, dimension), ``items`` (n,), and ``index``, the bytes that FAISS writes. How it is searched
stands in the header's metadata.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np
import numpy.typing as npt

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.errors import GalleryError, StorageError, UsageError
from siamese_search.index.recipes import Wanted, build, serves
from siamese_search.index.segments import Base, Tuning

HEADER = 4096  # bytes before the first tensor, so that it lies at a page's start
TYPES = {"F32": "<f4", "I64": "<i8", "U8": "|u1"}
# What a file of another kind, or a damaged one, may raise.
UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, MemoryError),
)


@dataclass(frozen=True)
class Written:
    """An index file as it was written. ``recall`` is None where its recipe is exact."""

    sha256: str
    items: int
    recipe: str
    recall: float | None


def write_index(
    path: Path,
    dimension: int,
    chunks: Iterable[tuple[IntArray, FloatArray]],
    wanted: Wanted | None = None,
    previous: Path | None = None,
) -> Written:
    """Write an index file of (items, vectors) chunks by way of a temporary name, synced.

    Items ascend. ``previous`` is a file of the same gallery, which the caller trusts: what it has
    learned saves training. Holds little more than FAISS's index in memory. Raises StorageError, or
    UsageError where the recipe does not work with these vectors.
    """
    temporary = path.with_name(f".{path.name}")
    try:
        with open(temporary, "w+b") as file:
            file.write(bytes(HEADER))
            parts = [np.empty(0, np.int64)]
            for numbers, vectors in chunks:
                file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
                parts.append(numbers)
            file.flush()
            items = np.concatenate(parts)
            tuning = _write_rest(file, dimension, items, wanted or Wanted(), previous)
            file.flush()
            os.fsync(file.fileno())
        _try(temporary, dimension, tuning)
        checksum = sha256(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise StorageError(f"{path}: the index file could not be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return Written(checksum, len(items), tuning.recipe, tuning.recall)


def _try(path: Path, dimension: int, tuning: Tuning) -> None:
    """Raise UsageError where a file that was just written cannot be searched."""
    try:
        base = open_index(path, dimension)
        base.candidates(base.vectors[:1], 1, None, exact=False)
    except (GalleryError, RuntimeError) as error:
        raise UsageError(
            f"an index {tuning.recipe!r} can be made, but not searched: take auto, or another"
            " FAISS factory string"
        ) from error


def _write_rest(
    file: BinaryIO, dimension: int, items: IntArray, wanted: Wanted, previous: Path | None
) -> Tuning:
    """Build the index of the vectors that the file holds, and write all else."""
    shape = len(items), dimension
    vectors = np.empty(shape, np.float32)
    if len(items):
        vectors = np.memmap(file, "<f4", "r", HEADER, shape)
    recipe = wanted.resolved(*shape)
    earlier = None if previous is None else _continued(previous, recipe, items, dimension)
    index, tuning = build(vectors, wanted, earlier)
    del vectors
    ends = [file.seek(0, os.SEEK_END)]
    ends.append(ends[-1] + file.write(items.astype("<i8").tobytes()))
    # FAISS's own writer overlooks an error in its last flush, and would leave a cut file.
    faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, 1 << 20))
    ends.append(file.seek(0, os.SEEK_END))
    starts = [HEADER, *ends]
    tensors = {
        name: {"dtype": kind, "shape": shape, "data_offsets": [start - HEADER, end - HEADER]}
        for name, kind, shape, start, end in (
            ("vectors", "F32", shape, starts[0], ends[0]),
            ("items", "I64", [len(items)], starts[1], ends[1]),
            ("index", "U8", [ends[2] - starts[2]], starts[2], ends[2]),
        )
    }
    metadata = {name: json.dumps(value) for name, value in asdict(tuning).items()}
    header = json.dumps({"__metadata__": metadata} | tensors).encode()
    file.seek(0)
    file.write((HEADER - 8).to_bytes(8, "little") + header.ljust(HEADER - 8))
    return tuning


def _continued(
    previous: Path, recipe: str, items: IntArray, dimension: int
) -> tuple[faiss.Index, Tuning, bool] | None:
    """What ``build`` may go on from: a file's index, copied, since a mapped one cannot grow."""
    try:
        tensors, tuning = _parts(previous)
        if not serves(tuning, recipe, len(items)):
            return None
        index = faiss.read_index(faiss.PyCallbackIOReader(_reader(tensors["index"]), 1 << 20))
    except UNREADABLE:
        return None
    before = tensors["items"]
    if (index.d, index.ntotal) != (dimension, len(before)):
        return None
    return index, tuning, np.array_equal(before, items[: len(before)])


def _reader(content: npt.NDArray[np.uint8]) -> Callable[[int], bytes]:
    """As a file's ``read``: not all of it is copied at once."""
    at = 0

    def read(size: int) -> bytes:
        nonlocal at
        at += size
        return content[at - size : at].tobytes()

    return read


def open_index(path: Path, dimension: int) -> Base:
    """Map an index file, which the caller trusts. Raises GalleryError for any other file."""
    try:
        tensors, tuning = _parts(path)
        # Without a copy: what FAISS needs of it is read when it is needed.
        reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(tensors["index"]), len(tensors["index"]))
        index = faiss.read_index(reader)
        vectors, items = tensors["vectors"], tensors["items"]
        shape = len(items), dimension
        if (index.ntotal, index.d) != shape or vectors.shape != shape:
            raise ValueError("its parts do not fit together")
        return Base(items, vectors, index, tuning, owner=(tensors, reader))
    except UNREADABLE as error:
        raise GalleryError(f"{path} is no index of this format") from error


def _parts(path: Path) -> tuple[dict[str, npt.NDArray[Any]], Tuning]:
    """The mapped tensors of an index file and how it is searched; see the errors it may raise."""
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header = json.loads(mapped[8:HEADER])
    content = np.frombuffer(mapped, np.uint8)
    tensors = {}
    for name in ("vectors", "items", "index"):
        first, end = (HEADER + offset for offset in header[name]["data_offsets"])
        if not HEADER <= first <= end <= len(content):
            raise ValueError("a tensor lies outside of the file")
        flat = content[first:end].view(TYPES[header[name]["dtype"]])
        tensors[name] = np.require(flat.reshape(header[name]["shape"]), requirements="A")
    metadata = header["__metadata__"]
    return tensors, Tuning(**{name: json.loads(value) for name, value in metadata.items()})


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
