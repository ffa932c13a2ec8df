"""Tables as Parquet files, which pandas and databases open. Needs pyarrow."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from siamese_search.arrays import FloatArray
from siamese_search.errors import UsageError
from siamese_search.gallery.tables import (
    ENCODER,
    FACTS,
    PLACES,
    ROWS,
    Blocks,
    Table,
    about_of,
    block_of,
    refused,
    rejected_in,
    require_encoder,
    row_of,
)
from siamese_search.records import Generation, Rejection
from siamese_search.storage.exchange import Block

GROUP = 16  # blocks that are compressed together
TEXTS = tuple(name for name in FACTS if name not in ("number", "size", "distractor"))
ABOUT = b"siasearch"  # in the schema's metadata: what the table says of itself, as JSON
MALFORMED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)  # JSON
MOST_BYTES = 1 << 30  # of a group of rows, at most: it is read as a whole


def write_parquet(
    file: IO[bytes],
    generation: Generation,
    blocks: Blocks,
    rejected: Sequence[Rejection] = (),
    *,
    places: bool = False,
) -> None:
    """Write a row for each item, its embedding as a list of float32, and with ``places`` these, as
    they are stored. Raises UsageError where pyarrow is not installed.
    """
    arrow, parquet = pyarrow_modules()
    kinds = {"number": arrow.int64(), "size": arrow.int64(), "distractor": arrow.bool_()}
    columns = [(name, kinds.get(name, arrow.string())) for name in (*FACTS, *ENCODER)]
    vector = arrow.list_(arrow.float32(), generation.dimension)
    about = {ABOUT: json.dumps(about_of(generation, rejected))}
    columns += [("embedding", vector), *[(PLACES, arrow.binary())] * places]
    schema = arrow.schema(columns, metadata=about)
    settings = {"compression": "zstd", "compression_level": 1, "write_page_checksum": True}
    repeated = ["identity", *ENCODER]
    with parquet.ParquetWriter(file, schema, use_dictionary=repeated, **settings) as writer:
        for some in _grouped(blocks()):
            writer.write_table(
                arrow.table(_columns(arrow, some, generation, schema), schema=schema),
                row_group_size=GROUP * ROWS,
            )


def _columns(
    arrow: Any, blocks: list[Block], generation: Generation, schema: Any
) -> dict[str, Any]:
    pairs = chain.from_iterable(zip(block.numbers, block.facts, strict=True) for block in blocks)
    rows = [row_of(*pair) for pair in pairs]
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in FACTS}
    columns["metadata"] = [json.dumps(row["metadata"], ensure_ascii=False) for row in rows]
    columns |= {"encoder": [generation.encoder] * len(rows)}
    columns |= {"fingerprint": [generation.fingerprint] * len(rows)}
    vectors = [block.embeddings for block in blocks if block.embeddings is not None]
    flat = np.concatenate(vectors).reshape(-1) if vectors else np.empty(0, np.float32)
    vector = schema.field("embedding").type
    columns["embedding"] = arrow.FixedSizeListArray.from_arrays(arrow.array(flat), type=vector)
    if PLACES in schema.names:
        columns[PLACES] = [block.places.get(one) for block in blocks for one in block.numbers]
    return columns


def _grouped(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """A large group of rows is read at less cost than many small ones. There is always one."""
    some: list[Block] = []
    for block in blocks:
        some.append(block)
        if len(some) == GROUP:
            yield some
            some = []
    yield some


def read_parquet(path: Path) -> Table:
    """A table that ``write_parquet`` wrote, or that another program has made of one.

    Raises UsageError where pyarrow is not installed, or columns are missing; GalleryDamaged for a
    file that is none.
    """
    arrow, parquet = pyarrow_modules()
    try:
        with parquet.ParquetFile(path) as file:
            missing = {*FACTS, *ENCODER, "embedding"} - {"number", *file.schema_arrow.names}
            if missing:
                raise UsageError(f"{path} has no column {min(missing)!r}: nothing was imported")
            for group in range(file.metadata.num_row_groups):
                if file.metadata.row_group(group).total_byte_size > MOST_BYTES:
                    raise refused(path, "its groups of rows are too large")
            first = next(file.iter_batches(1, columns=[*ENCODER, "embedding"]), None)
            about = json.loads((file.schema_arrow.metadata or {}).get(ABOUT, "{}"))
            rejected = rejected_in(about)
    except (arrow.ArrowException, OSError, *MALFORMED) as error:
        raise refused(path, error) from error
    if first is not None and first.num_rows:
        (row,) = first.to_pylist()
        dimension = len(row["embedding"] or ())
    elif about:
        row, dimension = about, about.get("dimension")
    else:
        raise UsageError(f"{path} has no items")
    named = all(isinstance(row.get(name), str) for name in ENCODER)
    if not named or not isinstance(dimension, int) or dimension < 1:
        raise refused(path, "it names no encoder, or has no embeddings")

    def blocks() -> Iterator[Block]:
        number = 1
        try:
            with parquet.ParquetFile(path, page_checksum_verification=True) as file:
                for batch in file.iter_batches(ROWS):
                    vectors = _vectors(batch.column("embedding"), dimension, path)
                    rows = batch.drop_columns(["embedding"]).to_pylist()
                    places = [one.pop(PLACES, None) for one in rows]
                    require_encoder(path, rows, row["fingerprint"])
                    for one in rows:
                        one["metadata"] = json.loads(one["metadata"])
                    yield block_of(rows, vectors, dimension, number, path, places)
                    number += len(rows)
        except (arrow.ArrowException, OSError, *MALFORMED) as error:
            raise refused(path, error) from error

    return Table(row["encoder"], row["fingerprint"], dimension, blocks, rejected)


def _vectors(column: Any, dimension: int, path: Path) -> FloatArray:
    """Embeddings (n, dimension) of a column of lists."""
    flat = column.flatten().to_numpy(zero_copy_only=False)
    lengths = np.array(column.value_lengths().to_numpy(zero_copy_only=False))
    if column.null_count or (lengths != dimension).any() or flat.dtype.kind != "f":
        raise refused(path, f"its embeddings are not all of {dimension} numbers")
    return flat.astype(np.float32).reshape(-1, dimension)  # type: ignore[no-any-return]


def pyarrow_modules() -> tuple[Any, Any]:
    """The library and its part for Parquet. Raises UsageError where it is not installed."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UsageError(
            "Parquet files need pyarrow: pip install 'siamese-search[parquet]'; .npz files do not"
        ) from error
