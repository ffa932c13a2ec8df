"""Reading image files: whole, bounded, never waiting; also open ones; and their hashes.

Knows nothing of formats.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from io import FileIO
from numbers import Number
from typing import Any, Final

from siamese_search.errors import ImageError, UsageError

MAX_FILE_BYTES: Final = 256 * 2**20
"""A larger file is refused unread."""
OTHER_CONTENT: Final = "has other content than before"


def kind_of(mode: int) -> str:
    kinds: tuple[tuple[Callable[[int], bool], str], ...] = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for test, name in kinds if test(mode)), "a device")


def os_reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file (any more)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return str(error) or type(error).__name__


def read_file(path: str) -> bytes:
    """The contents of a regular file of at most :data:`MAX_FILE_BYTES`.

    Raises ImageError, with a plain reason, for anything else: a pipe (which is not waited on), an
    empty file, one that vanished or may not be read.
    """
    with open_file(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise ImageError(_too_many_bytes(size))
            data = file.readall()
        except OSError as error:
            raise ImageError(os_reason(error)) from error
        except MemoryError as error:
            raise ImageError("there is not enough memory to read it") from error
    return require_bytes(data)


def open_file(path: str) -> FileIO:
    """A regular file, open to be read. Raises ImageError as ``read_file``, but for its size."""
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"):  # not all exist everywhere
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENXIO:
            raise ImageError("a socket or device, not a regular file") from error
        raise ImageError(os_reason(error)) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        names = ": name the files in it" * stat.S_ISDIR(mode)
        raise ImageError(f"{kind_of(mode)}, not a regular file{names}")
    return FileIO(descriptor)


def require_bytes(data: bytes) -> bytes:
    """A file's contents; ImageError where there are none, or more than :data:`MAX_FILE_BYTES`."""
    if not data:
        raise ImageError("empty file")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(_too_many_bytes(len(data)))
    return data


def several(images: Any) -> Iterator[Any]:
    """One picture, or each of several, as they are.

    A picture is a path, bytes, an open file, a Pillow image or an array (height, width, 3) or
    (height, width). Raises UsageError, naming it, for what cannot be one.
    """
    one = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike))
    one = one or hasattr(images, "read") or getattr(images, "ndim", 0) in (2, 3)
    if one or not isinstance(images, Iterable):
        _require_picture(images, "images")
        return iter([images])
    if isinstance(images, Mapping):
        raise UsageError(f"images is a {type(images).__name__}: give its pictures as a list")
    return _each(images)


def _each(images: Iterable[Any]) -> Iterator[Any]:
    for number, image in enumerate(images):
        _require_picture(image, f"images[{number}]")
        yield image


def _require_picture(image: Any, place: str) -> None:
    """Raise UsageError for what is easily given by mistake; what else is none shows later."""
    if image is None or isinstance(image, (Number, Mapping, list, tuple, set, frozenset)):
        what = "None" if image is None else f"of type {type(image).__name__}"
        raise UsageError(
            f"{place} is {what}: a picture is a path, bytes, an open file, a PIL image or an array,"
            " and several are one flat list of these"
        )


def is_path(image: Any) -> bool:
    """Whether a picture is the path of a file."""
    return isinstance(image, (str, os.PathLike))


def file_bytes(image: Any) -> bytes | None:
    """What the file holds that a picture is: a path, bytes, or one that is open; None for pixels.

    Raises ImageError where it cannot be read, is empty or larger than is read.
    """
    if is_path(image):
        return read_file(os.fspath(image))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return require_bytes(bytes(image))
    if hasattr(image, "read"):
        return require_bytes(_read(image))
    return None


def _read(file: Any) -> bytes:
    try:
        with suppress(OSError):  # a pipe has no beginning to go back to
            if file.seekable():
                file.seek(0)
        data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # closed, or not open to read
        raise ImageError(str(error)) from error
    if not isinstance(data, bytes):
        raise ImageError("an open file that gives text: open it with mode 'rb'")
    return data


def content_hash(data: bytes) -> str:
    """SHA-256 of a file's contents, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _too_many_bytes(size: int) -> str:
    return f"the file has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read"


def file_fault(path: str | os.PathLike[str], content: str) -> str | None:
    """What is wrong with a file that had this content, None where it still has."""
    try:
        same = content_hash(read_file(os.fspath(path))) == content
    except ImageError as error:
        return str(error)
    return None if same else OTHER_CONTENT
