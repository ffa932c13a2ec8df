"""Which encoders there are: those that are shipped, those of installed packages, and folders.

Opens no network.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from siamese_search.embedding import offers
from siamese_search.embedding.record import (
    DESCRIPTION,
    SHIPPED,
    EncoderRecord,
    read_record,
    shipped,
)
from siamese_search.errors import EncoderError, UsageError
from siamese_search.records import Rejection
from siamese_search.words import printable

DEPTH = 3  # folders below the one that is looked through
MOST = 10_000  # folders that are looked into


@dataclass(frozen=True)
class KnownEncoder:
    """An encoder that can be used: ``location`` is what to call it by, ``source`` says whether it
    is ``shipped`` or a ``folder``.
    """

    location: str
    source: str
    folder: Path
    record: EncoderRecord


@dataclass(frozen=True)
class OfferedEncoder:
    """An encoder that a package offers, by what to call it: NAME@PACKAGE. Nothing else is known of
    it until it is asked for, since that runs the package's code.
    """

    location: str


def known_encoders(
    folders: Sequence[str | os.PathLike[str]] = (),
) -> Iterator[KnownEncoder | OfferedEncoder | Rejection]:
    """Those that are shipped, those of installed packages, and those in folders or below, by
    default the current one.

    An encoder that cannot be opened is a Rejection with the reason. Raises UsageError, before
    anything is looked at, for what is no folder.
    """
    for place in folders:
        if not os.path.isdir(place):
            raise UsageError(f"{printable(place)} is no folder: name folders that have encoders")

    def each() -> Iterator[KnownEncoder | OfferedEncoder | Rejection]:
        for name in shipped():
            yield _opened(name, "shipped", SHIPPED / name)
        yield from map(OfferedEncoder, offers.locations())
        seen: set[str] = {os.path.realpath(SHIPPED)}
        for place in folders or (os.curdir,):
            for folder in _with_encoders(os.fspath(place), seen):
                yield _opened(folder, "folder", Path(folder).absolute())

    return each()


def _opened(location: str, source: str, folder: Path) -> KnownEncoder | Rejection:
    try:
        return KnownEncoder(location, source, folder, read_record(folder))
    except EncoderError as error:
        return Rejection(printable(location), str(error))


def _with_encoders(root: str, seen: set[str]) -> Iterator[str]:
    """The folders that have an ``encoder.json``, from ``root`` on, level by level in name order;
    no hidden ones, nothing twice, and nothing of what is installed or ``seen``.
    """
    level, looked = [root], 0
    for depth in range(DEPTH + 1):
        below: list[str] = []
        for folder in level:
            real = os.path.realpath(folder)
            if real in seen or looked >= MOST:
                continue
            seen.add(real)
            looked += 1
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                continue
            if any(entry.name == DESCRIPTION for entry in entries):
                yield os.path.normpath(folder)
            elif depth < DEPTH and not _is_environment(entries):
                below += [
                    entry.path
                    for entry in entries
                    if not entry.name.startswith(".") and entry.is_dir()
                ]
        level = below


def _is_environment(entries: Sequence[os.DirEntry[str]]) -> bool:
    """Whether a folder holds installed packages rather than somebody's files."""
    names = {entry.name for entry in entries}
    return bool(names & {"pyvenv.cfg", "gallery.db", "site-packages"})
