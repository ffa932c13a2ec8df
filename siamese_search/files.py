"""Files that are whole or not there. Knows nothing of what they hold."""

from __future__ import annotations

import csv
import errno
import glob
import logging
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from siamese_search.errors import StorageError, UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("siasearch")

_BINARY = getattr(os, "O_BINARY", 0)
_RANDOM = re.compile("[0-9a-f]{8}")  # the end of a temporary folder's name
CELL_BYTES = 1 << 20  # of CSV, at most
STALE_SECONDS = 3600.0  # after which a file that nothing names belongs to no running process


def as_path(place: str | os.PathLike[str]) -> Path:
    """A place as a path. Raises UsageError for what is none, or no file can be called."""
    if not isinstance(place, (str, os.PathLike)):
        raise UsageError(f"{place!r} is no path of a file or folder")
    text = os.fspath(place)
    try:
        possible = "\0" not in os.fsencode(text).decode("latin-1")
    except UnicodeEncodeError:  # half of a surrogate pair
        possible = False
    if not possible:
        raise UsageError(f"{text!r} cannot be the path of a file or folder")
    return Path(text)


def take_long_cells() -> None:
    """Let readers of CSV take cells of a megabyte: embeddings are long, and of a row with too much
    that row alone is refused.
    """
    csv.field_size_limit(max(CELL_BYTES, csv.field_size_limit()))


def require_place(path: Path) -> None:
    """Raise StorageError where no file can be written: to be told before long work."""
    if path.is_dir():
        raise StorageError(f"{path} is a folder: name a file to write")
    if path.exists() and not path.is_file():  # a device would be replaced, too
        raise StorageError(f"{path} is no regular file: name another to write")
    if not path.parent.is_dir():
        raise StorageError(f"{path} could not be written: there is no folder {path.parent}")


def require_new_folder(path: Path) -> None:
    """Raise StorageError where something is there already, but for an empty folder."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise StorageError(f"{path} is there already: name a new folder")


def read_regular(path: Path, most: int) -> bytes:
    """A regular file's content. Raises OSError for anything else, a pipe say, which may never end,
    and for more than ``most`` bytes.
    """
    # Without waiting for whoever opens a pipe's other end.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
        return file.read()


@contextmanager
def new_file(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """A file to write, synced in the end; there is none where that fails, with an OSError."""
    try:
        with open(path, "w+b") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise


@contextmanager
def whole_file(
    path: Path, temporary: Path | None = None, *, sync: bool = True
) -> Iterator[BinaryIO]:
    """A file to write by way of a temporary name, beside it, which replaces one that is there.

    Others see all of it or what was there before. Without ``sync`` that holds while the system
    runs. Where it fails, with an OSError or what the writer raises, what was there stays.
    """
    temporary = temporary or path.with_name(f".{path.name}.tmp")
    with new_file(temporary, sync=sync) as file:
        yield file
    try:
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a whole file, its name synced as well. Raises StorageError, and leaves what was there,
    where it cannot.
    """
    require_place(path)
    try:
        with whole_file(path) as file:
            file.write(content)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error.strerror}") from error


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A folder beside a path, for what is made on the way to it; it is gone in the end. Those that
    a process left there that was killed go, too.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if _RANDOM.fullmatch(left.name.rpartition(".")[2]) and left.is_dir():
            with left_alone(left) as alone, suppress(OSError):
                # One without files may have been made just now.
                if is_left_behind(left, alone and any(left.iterdir())):
                    shutil.rmtree(left, ignore_errors=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.mkdir(parents=True)
    try:
        with underway(temporary):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill by way of a temporary name beside it; there is none where that fails.

    Raises StorageError where something is there already, but for an empty folder.
    """
    path = path.absolute()
    require_new_folder(path)
    try:
        with temporary_folder(path) as temporary:
            yield temporary
            if hasattr(os, "sync"):  # all its files at once
                os.sync()
            if path.is_dir():
                path.rmdir()
            temporary.rename(path)
            sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror}") from error


def delete(path: Path) -> None:
    """Delete a file, where the system lets it be deleted now."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # still open on Windows: the next compaction's turn
        log.debug("cannot delete %s yet: %s", path, error)


@contextmanager
def underway(folder: Path) -> Iterator[None]:
    """While files are made in a folder, or below, that nothing names yet, so that nobody takes them
    for those of a process that is gone; see ``left_alone``. Waits while somebody sweeps there.
    """
    with ExitStack() as held:
        if fcntl is not None:
            with suppress(OSError):  # what cannot be locked is told by age
                fcntl.flock(held.enter_context(_opened(folder)), fcntl.LOCK_SH)
        yield


@contextmanager
def left_alone(folder: Path) -> Iterator[bool]:
    """Whether no process makes files there, nor begins to meanwhile; false where that is open."""
    with ExitStack() as held:
        alone = False
        if fcntl is not None:
            with suppress(OSError):
                descriptor = held.enter_context(_opened(folder))
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alone = True
        yield alone


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While a folder is this process's alone, where the system can lock it. Raises StorageError
    where it is locked already.
    """
    with ExitStack() as held:
        if fcntl is not None:
            try:
                descriptor = held.enter_context(_opened(folder))
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StorageError(
                    f"another run is writing to {folder}: wait for its end, or name another folder"
                ) from error
            except OSError as error:
                log.debug("cannot lock %s: %s", folder, error)
        yield


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_left_behind(path: Path, alone: bool = False) -> bool:
    """Whether a file that nothing names is from a process that is gone: an old one, or any where
    its folder is ``left_alone``.
    """
    try:
        return alone or time.time() - path.stat().st_mtime > STALE_SECONDS
    except OSError:
        return False


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, durably. Keeps one that is there. Raises OSError."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Make what was done to names in a folder durable, where the system lets it be opened."""
    if hasattr(os, "O_DIRECTORY"):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError:  # one may be allowed to make files there, but not to list them
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
