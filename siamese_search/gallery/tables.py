"""Tables: items, with all that is known of them, and their embeddings, as NPZ and CSV files.

A file may come from anybody: a row is verified before it is an item, and no pickle is ever read.
Knows nothing of galleries.
"""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from siamese_search.arrays import FloatArray
from siamese_search.decision import closer
from siamese_search.embedding.vectors import as_embeddings
from siamese_search.errors import GalleryDamaged, UsageError
from siamese_search.files import take_long_cells
from siamese_search.gallery.archive import DAMAGES, MODIFIED, require_bounded
from siamese_search.pictures.sources import normalised, texts_of
from siamese_search.records import Generation, Rejection
from siamese_search.storage.exchange import Block
from siamese_search.storage.facts import Facts

ROWS = 1024  # that are read together
LINE_BYTES = 1 << 20  # of what is known of one item, at most
ABOUT_BYTES = 1 << 26  # of what a table says of itself, at most
MOST_REJECTED = 10_000  # files that a table names
DIMENSIONS = 1 << 16  # at most
FACTS = ("number", "identity", "path", "content", "size", "added", "was", "distractor", "metadata")
ENCODER = ("encoder", "fingerprint")
PLACES = "places"
EMBEDDINGS, ITEMS, ABOUT = "embeddings.npy", "items.jsonl", "about.json"
HASH = re.compile("[0-9a-f]{64}")
Blocks = Callable[[], Iterator[Block]]


@dataclass(frozen=True)
class Table:
    """A file's items: the encoder of its embeddings, its blocks, read anew at each call, and what
    could not be embedded.
    """

    encoder: str
    fingerprint: str
    dimension: int
    blocks: Blocks
    rejected: tuple[Rejection, ...] = ()


# What a table says of itself


def about_of(generation: Generation, rejected: Sequence[Rejection]) -> dict[str, Any]:
    """The encoder, and the first of what could not be embedded."""
    return {
        "encoder": generation.encoder,
        "fingerprint": generation.fingerprint,
        "dimension": generation.dimension,
        "rejected": [{"path": r.path, "reason": r.reason} for r in rejected[:MOST_REJECTED]],
    }


def rejected_in(about: Mapping[str, Any]) -> tuple[Rejection, ...]:
    """What could not be embedded, as a table says; nothing in older ones."""
    return tuple(Rejection(str(r["path"]), str(r["reason"])) for r in about.get("rejected", ()))


# A row


def row_of(number: int, facts: Facts) -> dict[str, Any]:
    """What is known of an item, by the names of columns."""
    return {
        "number": number,
        "identity": facts.identity,
        "path": facts.source,
        "content": facts.content.hex(),
        "size": facts.size,
        "added": facts.added,
        "was": facts.was,
        "distractor": facts.distractor,
        "metadata": dict(facts.metadata),
    }


def facts_of(row: Mapping[str, Any], where: str) -> Facts:
    """What a row knows of an item. Raises UsageError, saying ``where``, for what makes no sense."""
    try:
        missing = [name for name in FACTS[1:] if name not in row]
        if missing:
            raise UsageError(f"it has no {missing[0]!r}")
        content, path, size, added = (row[name] for name in ("content", "path", "size", "added"))
        if not isinstance(content, str) or not HASH.fullmatch(content):
            raise UsageError(f"its content is {content!r}: it needs a SHA-256 in hex")
        if not isinstance(size, int) or not 0 <= size < 1 << 63:
            raise UsageError(f"its size is {size!r}: it needs a number of bytes")
        if not (path is None or isinstance(path, str)) or not isinstance(row["distractor"], bool):
            raise UsageError("its path is no text, or its distractor neither true nor false")
        datetime.fromisoformat(added)
        metadata = texts_of(row["metadata"], "its metadata")
        "".join((path or "", added)).encode()
        was = None if row["was"] is None else _name(row["was"])
        identity = _name(row["identity"])
    except (UsageError, ValueError, TypeError) as error:
        raise UsageError(f"{where}: {error}: nothing was imported") from error
    return Facts(
        identity, row["distractor"], bytes.fromhex(content), path, None, size, added, was, metadata
    )


@lru_cache(maxsize=4096)
def _name(label: str) -> str:
    return normalised(label)


def block_of(
    rows: list[dict[str, Any]],
    embeddings: FloatArray,
    dimension: int,
    first: int,
    path: Path,
    places: Sequence[bytes | None] = (),
) -> Block:
    """Rows with their embeddings (n, dimension), and packed places (n) where there are any; the
    ``first`` row is counted from 1.
    """
    try:
        vectors = as_embeddings(embeddings, dimension)
    except UsageError as error:
        raise UsageError(f"{path}, rows from {first} on: {error}; nothing was imported") from error
    facts = [facts_of(row, f"{path}, row {number}") for number, row in enumerate(rows, first)]
    packed = {number: one for number, one in enumerate(places, first) if one is not None}
    closer.shape_of(list(packed.values()))  # raises where they are not sound, or not alike
    return Block(list(range(first, first + len(rows))), facts, vectors, packed)


def refused(path: Path, why: object) -> GalleryDamaged:
    """The error for a file that is no table of ours."""
    return GalleryDamaged(
        f"{path} is no table as `siasearch export` writes them, or damaged ({why}): nothing was"
        " imported"
    )


# NPZ


def write_npz(
    file: IO[bytes],
    generation: Generation,
    count: int,
    blocks: Blocks,
    rejected: Sequence[Rejection] = (),
) -> None:
    """Write ``count`` items: an array of embeddings, and a line of JSON for each item."""
    about = about_of(generation, rejected) | {"items": count}
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(ABOUT, MODIFIED), json.dumps(about))
        with archive.open(zipfile.ZipInfo(EMBEDDINGS, MODIFIED), "w", force_zip64=True) as member:
            header = {"descr": "<f4", "fortran_order": False}
            np.lib.format.write_array_header_1_0(
                member, header | {"shape": (count, generation.dimension)}
            )
            for block in blocks():
                member.write(np.ascontiguousarray(block.embeddings, "<f4").tobytes())
        with archive.open(zipfile.ZipInfo(ITEMS, MODIFIED), "w", force_zip64=True) as member:
            for block in blocks():
                rows = map(row_of, block.numbers, block.facts)
                lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                member.write("".join(lines).encode())


def read_npz(path: Path) -> Table:
    """A table that ``write_npz`` wrote. Raises GalleryDamaged for anything else."""
    try:
        with open(path, "rb") as file:
            require_bounded(file, path)
            with zipfile.ZipFile(file) as archive:
                with archive.open(ABOUT) as member:
                    about = json.loads(member.read(ABOUT_BYTES))
                count, dimension = _shape(archive, path)
        encoder, fingerprint = about["encoder"], about["fingerprint"]
        if (about["items"], about["dimension"]) != (count, dimension):
            raise refused(path, f"it has {count} embeddings of {dimension} values")
        if not isinstance(encoder, str) or not isinstance(fingerprint, str):
            raise refused(path, "it names no encoder")
        rejected = rejected_in(about)
    except (KeyError, TypeError, *DAMAGES) as error:
        raise refused(path, error) from error

    def blocks() -> Iterator[Block]:
        with zipfile.ZipFile(path) as archive:
            try:
                yield from _blocks(archive, path, count, dimension)
            except (KeyError, TypeError, *DAMAGES) as error:
                raise refused(path, error) from error

    return Table(encoder, fingerprint, dimension, blocks, rejected)


def _shape(archive: zipfile.ZipFile, path: Path) -> tuple[int, int]:
    with archive.open(EMBEDDINGS) as member:
        return _header(member, path)


def _header(member: IO[bytes], path: Path) -> tuple[int, int]:
    """The shape of an array, up to whose first value it reads."""
    version = np.lib.format.read_magic(member)
    if version != (1, 0):
        raise refused(path, f"{EMBEDDINGS} has the version {version}")
    shape, fortran, kind = np.lib.format.read_array_header_1_0(member)
    sound = len(shape) == 2 and not fortran and kind == np.dtype("<f4")
    if not sound or not 0 < shape[1] <= DIMENSIONS:
        raise refused(path, f"{EMBEDDINGS} is no float32 of (items, dimension), row by row")
    return shape[0], shape[1]


def _blocks(archive: zipfile.ZipFile, path: Path, count: int, dimension: int) -> Iterator[Block]:
    with archive.open(EMBEDDINGS) as vectors, archive.open(ITEMS) as lines:
        _header(vectors, path)
        for first in range(0, count, ROWS):
            number = min(ROWS, count - first)
            data = vectors.read(4 * number * dimension)
            block = np.frombuffer(data, "<f4").reshape(number, dimension)
            rows = [json.loads(lines.readline(LINE_BYTES)) for _ in range(number)]
            yield block_of(rows, block, dimension, first + 1, path)
        if vectors.read(1) or lines.read(1):  # to their ends, where their checksums are compared
            raise refused(path, f"there are more than {count} items")


# CSV


def write_csv(file: IO[bytes], generation: Generation, blocks: Blocks, *, embedded: bool) -> None:
    """Write a row for each item; ``embedded`` ones with the values of their embedding, parted by
    spaces, and the encoder that they are of.
    """
    text = TextIOWrapper(file, "utf-8", newline="")
    try:
        writer = csv.writer(text)
        writer.writerow((*FACTS, *ENCODER, "embedding") if embedded else FACTS)
        for block in blocks():
            for place, row in enumerate(map(row_of, block.numbers, block.facts)):
                cells = [*row.values()]
                cells[-1] = json.dumps(row["metadata"], ensure_ascii=False)
                if embedded and block.embeddings is not None:
                    # Nine digits tell every float32 from all others.
                    values = " ".join(map("%.9g".__mod__, block.embeddings[place].tolist()))
                    cells += [generation.encoder, generation.fingerprint, values]
                writer.writerow(cells)
    finally:
        text.detach()  # whoever has opened the file closes it


def read_csv(path: Path) -> Table:
    """A table that ``write_csv`` wrote with embeddings. Raises UsageError for one without."""
    first = next(_csv_rows(path), None)
    if first is None:
        raise UsageError(f"{path} has no items")
    for name in (*ENCODER, "embedding"):
        if first.get(name) is None:
            raise UsageError(
                f"{path} has no column {name!r}: `siasearch export --embeddings` writes one that"
                " can be imported; `siasearch add` enrols the pictures of a CSV with the columns"
                " path and label"
            )
    dimension = len(first["embedding"].split())

    def blocks() -> Iterator[Block]:
        rows, number = _csv_rows(path), 1
        while some := list(islice(rows, ROWS)):
            require_encoder(path, some, first["fingerprint"])
            vectors = [_values(row, f"{path}, row {n}") for n, row in enumerate(some, number)]
            for n, vector in enumerate(vectors, number):
                if len(vector) != dimension:
                    raise UsageError(f"{path}, row {n}: its embedding has {len(vector)} values")
            facts = [_typed(row, f"{path}, row {n}") for n, row in enumerate(some, number)]
            yield block_of(facts, np.stack(vectors), dimension, number, path)
            number += len(some)

    return Table(first["encoder"], first["fingerprint"], dimension, blocks)


def require_encoder(path: Path, rows: Iterable[Mapping[str, Any]], fingerprint: str) -> None:
    """Raise UsageError where rows are of several encoders."""
    if any(row["fingerprint"] != fingerprint for row in rows):
        raise UsageError(f"{path} has embeddings of several encoders: nothing was imported")


def _csv_rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as text:
            take_long_cells()
            yield from csv.DictReader(text, restkey="", restval=None, strict=True)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no CSV: {error}: nothing was imported") from error


def _values(row: Mapping[str, str], where: str) -> FloatArray:
    try:
        return np.array(row["embedding"].split(), np.float64).astype(np.float32)
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{where}: its embedding has no numbers: nothing was imported") from error


def _typed(row: Mapping[str, str], where: str) -> dict[str, Any]:
    """A row whose cells are what they say; empty ones nothing, where that may be."""
    try:
        return {
            **row,
            "path": row["path"] or None,
            "was": row["was"] or None,
            "size": int(row["size"]),
            "distractor": {"true": True, "false": False}[row["distractor"].lower()],
            "metadata": json.loads(row["metadata"]),
        }
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{where} makes no sense ({error}): nothing was imported") from error
