"""Index files: float32 vectors, item numbers and a FAISS index, in one file that is mapped.

The layout is that of safetensors, so that other programs can take a file apart: ``vectors``
(n, dimension), ``items`` (n,), and ``index``, the bytes that FAISS writes. How it is searched
stands in the header's metadata. Knows nothing of how an index is chosen and trained.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np

from siamese_search.arrays import ByteArray, FloatArray, IntArray
from siamese_search.errors import GalleryError, GalleryFormatError, StorageError, UsageError
from siamese_search.files import whole_file
from siamese_search.index import recipes
from siamese_search.index.contract import Previous, Wanted, Written
from siamese_search.index.segments import Base, Tuning

log = logging.getLogger("siasearch")

FORMAT = 1  # a file of another says so in its metadata, as ``format``
HEADER = 4096  # bytes before the first tensor, so that it lies at a page's start
TENSORS = ("vectors", "items", "index")
TYPES = {"F32": "<f4", "I64": "<i8", "U8": "|u1"}
# What a file of another kind, or a damaged one, may raise.
UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, MemoryError),
)


@dataclass(frozen=True)
class Parts:
    """An index file taken apart: its tensors, mapped, and how it is searched."""

    vectors: FloatArray
    items: IntArray
    index: ByteArray  # as FAISS writes it
    tuning: Tuning


def write_index(
    path: Path,
    dimension: int,
    chunks: Iterable[tuple[IntArray, FloatArray]],
    wanted: Wanted | None = None,
    previous: Previous | None = None,
) -> Written:
    """Write an index file of (items, vectors) chunks by way of a temporary name, synced.

    Items ascend. What ``previous`` has learned saves training; it is verified in full before that,
    since what is taken from a damaged file would stay wrong. Holds little more than FAISS's index
    in memory. Raises StorageError, or UsageError where the recipe does not work with these vectors.
    """
    wanted = recipes.checked(wanted or Wanted(), dimension)
    temporary = path.with_name(f".{path.name}")
    try:
        with whole_file(path, temporary) as file:
            file.write(bytes(HEADER))
            parts = [np.empty(0, np.int64)]
            for numbers, vectors in chunks:
                file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
                parts.append(numbers)
            file.flush()
            items = np.concatenate(parts)
            tuning = _write_rest(file, dimension, items, wanted, previous)
            file.flush()
            _try(temporary, dimension, tuning)
            checksum = sha256(temporary)
    except (OSError, RuntimeError) as error:
        raise StorageError(f"{path}: the index file could not be written: {error}") from error
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
    file: BinaryIO, dimension: int, items: IntArray, wanted: Wanted, previous: Previous | None
) -> Tuning:
    """Build the index of the vectors that the file holds, and write all else."""
    shape = len(items), dimension
    vectors = np.empty(shape, np.float32)
    if len(items):
        vectors = np.memmap(file, "<f4", "r", HEADER, shape)
    recipe = recipes.resolved(wanted, *shape)
    earlier = None if previous is None else _earlier(previous, recipe, items, dimension)
    built = recipes.build(vectors, wanted, earlier)
    tuning = built.tuning
    del vectors, earlier
    ends = [file.seek(0, os.SEEK_END)]
    ends.append(ends[-1] + file.write(items.astype("<i8").tobytes()))
    # FAISS's own writer overlooks an error in its last flush, and would leave a cut file.
    faiss.write_index(built.index, faiss.PyCallbackIOWriter(file.write, 1 << 20))
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


def _earlier(
    previous: Previous, recipe: str, items: IntArray, dimension: int
) -> recipes.Earlier | None:
    """What ``build`` may go on from, None where there is nothing of use."""
    try:
        parts = _parts(previous.path)
        if not recipes.serves(parts.tuning, recipe, len(items)):
            return None
        if sha256(previous.path) != previous.sha256:
            log.warning("%s is damaged (wrong checksum): nothing is taken from it", previous.path)
            return None
        # A copy, since a mapped one cannot grow.
        index = faiss.read_index(faiss.PyCallbackIOReader(_reader(parts.index), 1 << 20))
    except (GalleryError, *UNREADABLE):
        return None
    before = parts.items
    if (index.d, index.ntotal) != (dimension, len(before)):
        return None
    goes_on = np.array_equal(before, items[: len(before)])
    return recipes.Earlier(index, parts.tuning, goes_on)


def _reader(content: ByteArray) -> Callable[[int], bytes]:
    """As a file's ``read``: not all of it is copied at once."""
    at = 0

    def read(size: int) -> bytes:
        nonlocal at
        at += size
        return content[at - size : at].tobytes()

    return read


def open_index(path: Path, dimension: int) -> Base:
    """Map an index file, which the caller trusts.

    Raises GalleryError for any other file, GalleryFormatError for one of a newer siasearch.
    """
    try:
        parts = _parts(path)
        # Without a copy: what FAISS needs of it is read when it is needed.
        reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(parts.index), len(parts.index))
        index = faiss.read_index(reader)
        shape = len(parts.items), dimension
        if (index.ntotal, index.d) != shape or parts.vectors.shape != shape:
            raise ValueError("its parts do not fit together")
        if not (np.diff(parts.items) > 0).all():
            raise ValueError("its items do not ascend")
        return Base(parts.items, parts.vectors, index, parts.tuning, owner=(parts, reader))
    except UNREADABLE as error:
        raise GalleryError(f"{path} is no index of this format") from error


def _parts(path: Path) -> Parts:
    """Take an index file apart. Raises GalleryFormatError, or one of ``UNREADABLE``."""
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header = json.loads(mapped[8:HEADER])
    tuning = _tuning(path, header)
    content = np.frombuffer(mapped, np.uint8)
    tensors: dict[str, Any] = {}
    for name in TENSORS:
        first, end = (HEADER + offset for offset in header[name]["data_offsets"])
        if not HEADER <= first <= end <= len(content):
            raise ValueError("a tensor lies outside of the file")
        flat = content[first:end].view(TYPES[header[name]["dtype"]])
        tensors[name] = np.require(flat.reshape(header[name]["shape"]), requirements="A")
    return Parts(**tensors, tuning=tuning)


def _tuning(path: Path, header: dict[str, Any]) -> Tuning:
    """How a file is searched. Raises GalleryFormatError where a newer siasearch wrote it."""
    metadata = {name: json.loads(value) for name, value in header["__metadata__"].items()}
    number = metadata.pop("format", FORMAT)
    if number != FORMAT:
        raise GalleryFormatError(
            f"{path} is an index of format {number!r}, this siasearch reads {FORMAT}: upgrade it"
        )
    new = metadata.keys() - {field.name for field in fields(Tuning)}
    new |= header.keys() - {"__metadata__", *TENSORS}
    if new:
        raise GalleryFormatError(
            f"{path} is an index with {min(new)!r}, which this siasearch does not know: upgrade it"
        )
    return Tuning(**metadata)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
