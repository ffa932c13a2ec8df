"""Finding image files below folders, with the identities that their places imply.

Opens nothing but folders; knows nothing of what files hold.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from siamese_search.pictures.read import kind_of, os_reason
from siamese_search.records import ImageFile, Rejection, printable

if TYPE_CHECKING:  # numpy.typing takes time to load
    pass

_CLUTTER: Final = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_GALLERY: Final = "gallery.db"  # a folder below the root that has one is passed over, too


def find_images(root: str) -> Iterator[ImageFile | Rejection]:
    """Every file under a folder, in name order, with the identity that its folder implies.

    An identity is the folder's path relative to ``root`` with ``/`` between its parts. A file
    directly in ``root``, or ``root`` itself if it is a file, is its own identity, named by its
    stem. Hidden names, operating-system clutter
    and galleries are passed over. What can be no image (a
    pipe, a dangling link, a folder that cannot be listed, a link to a folder that contains it, a
    name that is not UTF-8) is a :class:`Rejection`; whether a regular file is an image shows when
    it is decoded. Paths are absolute; links in them are kept. Nothing is opened but folders.
    """
    root = os.path.abspath(root)
    found = _classify(root, is_link=os.path.islink(root))
    if isinstance(found, Rejection):
        yield found
    elif stat.S_ISDIR(found.st_mode):
        yield from _walk(root, found)
    else:
        yield ImageFile(root, _stem(os.path.basename(root)))


def _walk(root: str, status: os.stat_result) -> Iterator[ImageFile | Rejection]:
    # Kept as a stack, not by recursion: folders nest deeper than Python's calls may.
    above = _folders_above(root)
    stack = [(_list(root), "", (status.st_dev, status.st_ino))]
    while stack:
        names, identity, _ = stack[-1]
        entry = next(names, None)
        if entry is None:
            stack.pop()
        elif isinstance(entry, Rejection):
            yield entry
        elif entry.is_file(follow_symlinks=False) and _is_text(entry.name):
            yield ImageFile(entry.path, identity or _stem(entry.name))
        else:
            found = _classify(entry.path, is_link=entry.is_symlink())
            if isinstance(found, Rejection):
                yield found
            elif not stat.S_ISDIR(found.st_mode):
                yield ImageFile(entry.path, identity or _stem(entry.name))
            else:
                place = (found.st_dev, found.st_ino)
                if place in above or any(place == passed for _, _, passed in stack):
                    reason = "the link leads back to a folder that contains it"
                    yield Rejection(entry.path, reason)
                else:
                    inner = f"{identity}/{entry.name}" if identity else entry.name
                    if not os.path.lexists(os.path.join(entry.path, _GALLERY)):
                        stack.append((_list(entry.path), inner, place))


def _list(folder: str) -> Iterator[os.DirEntry[str] | Rejection]:
    """A folder's entries that are not passed over, sorted by name."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        yield Rejection(folder, f"the folder cannot be read: {os_reason(error)}")
        return
    for entry in entries:
        if not entry.name.startswith(".") and entry.name.lower() not in _CLUTTER:
            yield entry


def _classify(path: str, *, is_link: bool) -> os.stat_result | Rejection:
    """The status of a regular file or a folder, links followed; anything else is rejected."""
    if not _is_text(path):
        return Rejection(printable(path), "the name is not valid UTF-8: rename it")
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = os_reason(error)
        if is_link and isinstance(error, FileNotFoundError):
            reason = "the link leads nowhere"
        elif isinstance(error, OSError) and error.errno == errno.ELOOP:
            reason = "the link leads back to itself"
        return Rejection(path, reason)
    if stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
        return status
    return Rejection(path, f"{kind_of(status.st_mode)}, not a regular file")


def _folders_above(root: str) -> set[tuple[int, int]]:
    """Device and inode of every folder that contains ``root``, by its name and behind links."""
    above: set[tuple[int, int]] = set()
    for path in (root, os.path.realpath(root)):
        while (parent := os.path.dirname(path)) != path:
            path = parent
            try:
                status = os.stat(path)
            except OSError:
                continue
            above.add((status.st_dev, status.st_ino))
    return above


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]
