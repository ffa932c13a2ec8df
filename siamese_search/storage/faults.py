"""Faults: what is wrong inside a gallery's database. Knows nothing of the files beside it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from zlib import crc32

from siamese_search.decision import closer
from siamese_search.decision.metric import Metric
from siamese_search.errors import GalleryError
from siamese_search.storage.facts import ROWS, fault_in

TEXTS = {
    "identities": ("id", ("name",)),
    "items": ("id", ("source", "copy", "added")),
    "metadata": ("item", ("key", "value")),
}
"""Of each table, what names a row and the columns that hold text."""


def faults_in(db: sqlite3.Connection) -> Iterator[str]:
    """What is wrong in a database, one line each. Raises sqlite3.DatabaseError where it ends."""
    for (line,) in db.execute("PRAGMA integrity_check"):
        if line != "ok":
            yield line
    for table, row, parent, _ in db.execute("PRAGMA foreign_key_check"):
        yield f"row {row} of {table} points to nothing in {parent}"
    for table in ("items", "identities"):
        count, stored = db.execute(
            f"SELECT count(*), (SELECT value FROM settings WHERE key = ?) FROM {table}",
            (table,),
        ).fetchone()
        if count != stored:
            yield f"{count} {table}, but {stored} are counted in settings"
    yield from _damaged_embeddings(db)
    yield from _damaged_places(db)
    yield from _damaged_metrics(db)
    texts = list(_damaged_texts(db))
    yield from texts
    if not texts:  # else they cannot be read
        yield from filter(None, map(fault_in, db.execute(ROWS)))
    yield from _skipped_numbers(db)


def _damaged_embeddings(db: sqlite3.Connection) -> Iterator[str]:
    rows = db.execute(
        "SELECT item, vector, checksum, dimension FROM embeddings"
        " JOIN generations ON generations.id = generation"
    )
    for item, vector, checksum, dimension in rows:
        if len(vector) != 4 * dimension or crc32(vector) != checksum:
            yield f"the embedding of item {item} is damaged"


def _damaged_places(db: sqlite3.Connection) -> Iterator[str]:
    for item, content in db.execute("SELECT item, content FROM places"):
        fault = closer.fault(content)
        if fault:
            yield f"the places of item {item} {fault}: run `siasearch rebuild`"


def _damaged_metrics(db: sqlite3.Connection) -> Iterator[str]:
    """Metrics that are named by a calibration, and not as they were stored."""
    rows = db.execute(
        "SELECT metrics.content, metrics.checksum, dimension FROM calibrations"
        " JOIN generations ON generations.id = calibrations.generation"
        " LEFT JOIN metrics ON metrics.generation = calibrations.generation"
        " AND metrics.id = json_extract(calibrations.content, '$.metric')"
        " WHERE json_valid(calibrations.content)"
        " AND json_extract(calibrations.content, '$.metric') IS NOT NULL"
    )
    for content, checksum, dimension in rows:
        fault = metric_fault(content, checksum, dimension)
        if fault:
            yield f"the metric {fault}: run `siasearch calibrate`"


def metric_fault(content: object, checksum: object, dimension: int) -> str | None:
    """What is wrong with a stored metric of ``dimension`` descriptors, None where it is sound."""
    if content is None:
        return "is missing"
    if not isinstance(content, bytes) or crc32(content) != checksum:
        return "is damaged (wrong checksum)"
    try:
        found = Metric.from_bytes(content)
    except GalleryError as error:
        return f"cannot be read ({error})"
    if len(found.mean) != dimension:
        return f"is of {len(found.mean)} dimensions, the embeddings of {dimension}"
    return None


def _skipped_numbers(db: sqlite3.Connection) -> Iterator[str]:
    """Numbers that were given out, though the database says that they were not: a search would not
    look for these items.
    """
    for table in ("items", "removals"):
        last, given = db.execute(
            f"SELECT coalesce(max(id), 0), (SELECT seq FROM sqlite_sequence WHERE name = ?)"
            f" FROM {table}",
            (table,),
        ).fetchone()
        if (not isinstance(given, int) and (last or given is not None)) or last > (given or 0):
            yield f"{table} go up to {last}, but sqlite_sequence says {given}"


def _damaged_texts(db: sqlite3.Connection) -> Iterator[str]:
    """Rows whose text is damaged, which SQLite itself does not notice."""
    for table, (number, columns) in TEXTS.items():
        casts = ", ".join(f"CAST({column} AS BLOB)" for column in columns)
        for row, *texts in db.execute(f"SELECT {number}, {casts} FROM {table}"):
            try:
                for text in texts:
                    if text is not None:
                        text.decode()
            except UnicodeDecodeError:
                yield f"row {row} of {table} holds damaged text"
