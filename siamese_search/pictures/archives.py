"""Archives: the pictures in zip and tar files, one after the other, without unpacking them.

No name in an archive ever becomes a path: a member is in memory, or, where it is large, in a
nameless temporary file. What an archive says of itself is not believed: members, their sizes and
all that is unpacked are bounded by what is read.
"""

from __future__ import annotations

import bz2
import gzip
import os
import stat
import tarfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final

from siamese_search.pictures.choosing import NOTHING, Exclusion
from siamese_search.pictures.find import is_hidden_or_system
from siamese_search.pictures.kind import PICTURES, Kind
from siamese_search.pictures.read import MAX_FILE_BYTES
from siamese_search.records import Rejection

MEMBERS: Final = 100_000
TOTAL_BYTES: Final = 16 << 30  # unpacked
_AT_ONCE: Final = 16 << 20  # bytes that a library may ask for at once: a header, or a directory
_IN_MEMORY: Final = 1 << 20  # bytes of a member that is kept in memory
_PIECE: Final = 1 << 18
_TARS: Final[dict[str, Callable[..., Any]]] = {
    ".tar": open, ".tar.gz": gzip.open, ".tgz": gzip.open, ".tar.bz2": bz2.open, ".tbz2": bz2.open,
}  # fmt: skip
# Others are unpacked in memory that only the archive bounds.
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_FAULTS: Final = (
    OSError, EOFError, ValueError, LookupError, NotImplementedError, RuntimeError, OverflowError,
    zipfile.BadZipFile, tarfile.TarError, zlib.error,
)  # fmt: skip


class _TooMuch(Exception):
    """An archive, or a member of it, goes beyond a bound; says which."""


class Member:
    """A picture in an archive, as an open file that is always read from its beginning."""

    def __init__(self, name: str, content: IO[bytes]) -> None:
        self.name = name
        self._content = content
        self._one = threading.Lock()
        weakref.finalize(self, content.close)

    def seekable(self) -> bool:
        """Whoever reads it need not go back."""
        return False

    def read(self, most: int = -1) -> bytes:
        """At most so many bytes of it; all by default."""
        with self._one:
            self._content.seek(0)
            return self._content.read(most)


@dataclass(frozen=True)
class _Entry:
    """What an archive says of a member. ``fault`` is why it is not read."""

    name: str
    open: Callable[[], IO[bytes] | None]
    fault: str | None = None

    @property
    def parts(self) -> list[str]:
        """Its folders' names and its own, as text that can be printed."""
        name = self.name.encode("utf-8", "backslashreplace").decode()
        return [part for part in name.split("/") if part not in ("", ".")]


def is_archive(path: str, kind: Kind = PICTURES) -> bool:
    """Whether a file is a zip or tar archive by its name, and not of the ``kind`` itself."""
    if kind.suffixes is not None and kind.takes(path):
        return False
    return os.path.isfile(path) and path.lower().endswith((".zip", *_TARS))


def members(
    path: str, kind: Kind = PICTURES, exclude: Exclusion = NOTHING
) -> Iterator[Member | Rejection]:
    """The pictures in an archive, in its order, named by its path and theirs in it.

    As in a folder, what is hidden, of a system or excluded is passed over, and what is not of the
    ``kind`` by its name, as archives are. What cannot be read is a rejection; so is the archive
    itself where it is damaged, or goes beyond a bound: then its rest is not looked at.
    """
    left = TOTAL_BYTES
    try:
        with open(path, "rb") as file:
            entries = _zip(file) if path.lower().endswith(".zip") else _tar(file, path)
            for entry in entries:
                if not _wanted(entry.parts, kind, exclude):
                    continue
                name = "/".join([path, *entry.parts])
                if entry.fault is not None:
                    yield Rejection(name, entry.fault)
                    continue
                try:
                    content, size = _content(entry, min(left, MAX_FILE_BYTES))
                except _FAULTS as error:
                    yield Rejection(name, f"it cannot be unpacked: {_words(error)}")
                    continue
                left -= size
                if left <= 0:
                    raise _TooMuch(f"it unpacks to more than {TOTAL_BYTES >> 30} GiB")
                if content is None:
                    yield Rejection(name, f"it has more than {MAX_FILE_BYTES >> 20} MiB")
                else:
                    yield Member(name, content)
    except _TooMuch as error:
        yield Rejection(path, f"{error}: unpack it yourself, and name the folder")
    except _FAULTS as error:
        yield Rejection(path, f"the archive is damaged, or none: {_words(error)}")


def _wanted(parts: Sequence[str], kind: Kind, exclude: Exclusion) -> bool:
    if not parts or not kind.takes(parts[-1]) or any(map(is_hidden_or_system, parts)):
        return False
    return not any(exclude("/".join(parts[:n])) for n in range(1, len(parts) + 1))


def _content(entry: _Entry, most: int) -> tuple[IO[bytes] | None, int]:
    """What is in a member, None where that is more than ``most`` bytes; and how many were read."""
    opened = entry.open()
    if opened is None:
        raise OSError("it has no content")
    size = 0
    content = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
    try:
        with opened:
            while piece := opened.read(_PIECE):
                size += len(piece)
                if size > most:
                    content.close()
                    return None, size
                content.write(piece)
    except BaseException:
        content.close()
        raise
    return content, size


def _zip(file: IO[bytes]) -> Iterator[_Entry]:
    with zipfile.ZipFile(_Bounded(file)) as archive:
        _require_few(len(archive.infolist()))
        for one in archive.infolist():
            mode = one.external_attr >> 16
            fault = None
            if one.is_dir():
                continue
            if one.flag_bits & 1:
                fault = "it is encrypted"
            elif one.compress_type not in _METHODS:
                fault = "it is compressed in a way that is not read: deflate it"
            elif mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                fault = "it is a link or device, no file"
            yield _Entry(one.filename, partial(archive.open, one), fault)


def _tar(file: IO[bytes], path: str) -> Iterator[_Entry]:
    suffix = next(one for one in _TARS if path.lower().endswith(one))
    with (
        nullcontext(file) if suffix == ".tar" else _TARS[suffix](file, "rb") as unpacked,
        tarfile.open(fileobj=_Bounded(unpacked), mode="r:") as archive,
    ):
        number = total = 0
        while (one := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # else all of them are kept
            number += 1
            _require_few(number)
            if one.size < 0:
                raise tarfile.ReadError("a member has less than no bytes")
            total += one.size
            if total > TOTAL_BYTES:
                raise _TooMuch(f"it unpacks to more than {TOTAL_BYTES >> 30} GiB")
            if one.isdir():
                continue
            fault = None
            if not one.isreg() or one.issparse():
                fault = "it is a link, a device or full of holes, no plain file"
            yield _Entry(one.name, partial(archive.extractfile, one), fault)


def _require_few(members: int) -> None:
    if members > MEMBERS:
        raise _TooMuch(f"it has more than {MEMBERS:,} members")


class _Bounded:
    """An open file that gives no more at once than a sound archive needs."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size if 0 <= size <= _AT_ONCE else _AT_ONCE + 1)
        if len(data) > _AT_ONCE:
            raise _TooMuch(f"it has a directory or header of more than {_AT_ONCE >> 20} MiB")
        return data


def _words(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
