"""Shards: the embeddings of some pictures as a table, made without a gallery, by any machine.

A shard is enrolled in a small gallery of its own beside the table, which is written from it at the
end. So it has all that enrolment has: a run that was ended at any time goes on where it was, what
comes twice is embedded once, and the table is there whole, or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import UsageError
from siamese_search.files import require_place, write_whole
from siamese_search.gallery.enrolment import Enrolment
from siamese_search.gallery.exchange import export_table, opened_table
from siamese_search.gallery.opening import DATABASE
from siamese_search.gallery.parquet import pyarrow_modules
from siamese_search.pictures.sources import Files
from siamese_search.records import ImageFile, Rejection, Watcher
from siamese_search.storage.catalog import Catalog

TABLES = (".parquet", ".npz")
LOCK, ASKED = "lock", "asked.json"


@dataclass(frozen=True)
class Embedded:
    """A shard's table: its ``items``, how many files were ``skipped`` since others have the same
    content, what was ``rejected``, and whether it was there ``already``.
    """

    items: int
    skipped: int = 0
    rejected: tuple[Rejection, ...] = ()
    already: bool = False


def part_of(files: Files, number: int, parts: int) -> Iterator[ImageFile | Rejection]:
    """The files that fall to a part, from 1 on, of so many. Each falls to one, the same on every
    machine, wherever the folder lies there. Raises UsageError where no part has any.
    """
    file = None
    for file in files:
        name = os.path.basename(file.path)
        if isinstance(file, ImageFile):
            name = f"{file.identity}/{name}"
        if zlib.crc32(name.encode(errors="surrogateescape")) % parts == number - 1:
            yield file
    if file is None:
        raise UsageError("there is no picture to embed, in no part: name a folder that has some")


def embed_shard(
    files: Files,
    out: Path,
    encoder: Encoder,
    asked: Mapping[str, object] | None = None,
    watch: Watcher = lambda progress: None,
    *,
    empty: bool = False,
) -> Embedded:
    """Write the embeddings of pictures as a table, .parquet or .npz, which ``import`` enrols.

    A table that is there is left as it is. What an ended run has embedded is kept beside it, and
    taken up by the next that is ``asked`` the same, as JSON can say it. Raises UsageError where
    the table that is there is of another encoder, another process is making it, or there is no
    picture to embed, unless the table may be ``empty``.
    """
    require_place(out)
    if out.suffix.lower() not in TABLES:
        raise UsageError(f"{out}: name a file that ends in {' or '.join(TABLES)}")
    if out.exists():
        return _already(out, encoder)
    if out.suffix.lower() == ".parquet":
        pyarrow_modules()  # tells before long work that it is missing
    work = out.with_name(f".{out.name}.work")
    with _alone(work):
        if out.exists():  # by another process meanwhile
            shutil.rmtree(work)
            return _already(out, encoder)
        _continue(work, json.dumps({"encoder": encoder.fingerprint} | dict(asked or {})))
        database = work / DATABASE
        Catalog.create(database, encoder.fingerprint, encoder.name, encoder.dimension)
        with closing(Catalog(database)) as catalog:
            enrolment = Enrolment(catalog, encoder, watch=watch)
            enrolment.run(files)
            report = enrolment.report()
            if report.items or empty:
                export_table(catalog, out, None, watch, True, report.rejected)
        shutil.rmtree(work)
    if not report.items and not empty:
        reasons = "".join(f"; {one.path}: {one.reason}" for one in report.rejected[:1])
        raise UsageError(f"{out}: there is no picture to embed{reasons}")
    return Embedded(report.items, report.skipped, report.rejected)


def _already(out: Path, encoder: Encoder) -> Embedded:
    table = opened_table(out)
    if table.fingerprint != encoder.fingerprint:
        raise UsageError(
            f"{out} is there already, by the encoder {table.encoder!r} ({table.fingerprint[:12]}),"
            f" not {encoder.name!r} ({encoder.fingerprint[:12]}): delete it, or name another file"
        )
    items = sum(len(block.numbers) for block in table.blocks())
    return Embedded(items, rejected=table.rejected, already=True)


def _continue(work: Path, asked: str) -> None:
    """Keep what an ended run was asked alike, and nothing else."""
    note = work / ASKED
    if note.is_file() and note.read_text("utf-8") == asked:
        return
    for path in work.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_whole(note, asked.encode())


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """While no other process makes the same table. Raises UsageError where one does."""
    from filelock import FileLock, Timeout

    work.mkdir(exist_ok=True)
    lock = FileLock(work / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(f"another process is making it, in {work}: leave it to that") from None
    try:
        yield
    finally:
        lock.release()
