"""Finding the files of a kind below folders, with the identities that their places imply.

Opens nothing but folders; knows nothing of what files hold.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from siamese_search.pictures.choosing import NOTHING, Exclusion, inside, stem
from siamese_search.pictures.kind import PICTURES, Kind
from siamese_search.pictures.read import kind_of, os_reason
from siamese_search.records import ImageFile, Rejection
from siamese_search.words import printable

Passed = Callable[[str, str], object]
"""Told the path of what is passed over, and why: one of the words below."""

NO_KIND: Final = "no kind"  # a file in a folder that is not of the kind by its name
SYSTEM: Final = "system"  # a folder that is hidden, or of a system
EXCLUDED: Final = "excluded"
DRAWING: Final = "drawing"

# Folders of macOS, Synology, QNAP and Windows: miniatures, what was deleted, snapshots.
_SYSTEM: Final = frozenset({
    "__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin",
    "system volume information", "lost+found",
})  # fmt: skip
_CLUTTER: Final = frozenset({"gallery.db", "gallery.db-journal"})
# What a gallery in the root keeps there, beside somebody's pictures.
_KEPT: Final = re.compile(r"/(index-[^/]*\.faiss|(images/[0-9a-f]{2}|unknowns)/[0-9a-f]{64}[^/]*)")
_GALLERY: Final = "gallery.db"  # a folder below the root that has one is passed over, too


@dataclass(frozen=True)
class Directly:
    """What lies directly in a folder: the files that may be of a kind, and folders, by name."""

    files: tuple[str, ...]
    folders: tuple[str, ...]


def _untold(path: str, why: str) -> None:
    """In place of whoever wants to know what is passed over."""


def find_images(
    root: str, passed: Passed = _untold, kind: Kind = PICTURES, exclude: Exclusion = NOTHING
) -> Iterator[ImageFile | Rejection]:
    """Every file under a folder, in name order, with the identity that its folder implies.

    An identity is the folder's path relative to ``root`` with ``/`` between its parts. A file
    directly in ``root``, or ``root`` itself if it is a file, is its own identity, named by its
    stem. Hidden names, folders of systems and galleries are passed over, and so are what is to
    ``exclude`` and files in a folder that are not of the ``kind`` by their names (texts, side-cars,
    films). ``passed`` is told of what is not hidden, and of all folders but galleries.
    What can be no image (a pipe, a dangling link, a folder that cannot be listed, a link to a
    folder that contains it, a name that is not UTF-8) is a :class:`Rejection`; whether a regular
    file is an image shows when it is decoded. Paths are absolute; links in them are kept. Nothing
    is opened but folders.
    """
    root = os.path.abspath(root)
    found = _classify(root, is_link=os.path.islink(root))
    if isinstance(found, Rejection):
        yield found
    elif stat.S_ISDIR(found.st_mode):
        yield from _walk(root, found, passed, kind, exclude)
    else:
        yield ImageFile(root, stem(os.path.basename(root)))


def directly_in(folder: str, kind: Kind = PICTURES, exclude: Exclusion = NOTHING) -> Directly:
    """What lies directly in a folder, without what ``find_images`` passes over or rejects."""
    files: list[str] = []
    folders: list[str] = []
    root = os.path.abspath(folder)
    for entry in _list(root, root, _untold, exclude):
        if isinstance(entry, Rejection):
            continue
        if entry.place is not None:
            folders.append(entry.name)
        elif kind.takes(entry.name):
            files.append(entry.name)
    return Directly(tuple(files), tuple(folders))


def is_hidden_or_system(name: str) -> bool:
    """Whether a file or folder is called as what is hidden, or as a folder of a system."""
    return name.startswith(".") or name.lower() in _SYSTEM


def _walk(
    root: str, status: os.stat_result, passed: Passed, kind: Kind, exclude: Exclusion
) -> Iterator[ImageFile | Rejection]:
    # Kept as a stack, not by recursion: folders nest deeper than Python's calls may.
    above = _folders_above(root)
    stack = [(_list(root, root, passed, exclude), "", (status.st_dev, status.st_ino))]
    shared = os.path.lexists(os.path.join(root, _GALLERY))
    while stack:
        names, identity, _ = stack[-1]
        entry = next(names, None)
        if entry is None:
            stack.pop()
        elif isinstance(entry, Rejection):
            yield entry
        elif entry.place is None:
            if shared and _KEPT.fullmatch(entry.path.removeprefix(root)):
                continue
            if kind.takes(entry.name):
                yield ImageFile(entry.path, identity or stem(entry.name))
            else:
                passed(entry.path, NO_KIND)
        elif entry.place in above or any(entry.place == outer for _, _, outer in stack):
            yield Rejection(entry.path, "the link leads back to a folder that contains it")
        else:
            inner = f"{identity}/{entry.name}" if identity else entry.name
            if not os.path.lexists(os.path.join(entry.path, _GALLERY)):
                names = _list(entry.path, root, passed, exclude)
                stack.append((names, inner, entry.place))


@dataclass(frozen=True)
class _Entry:
    """A regular file in a folder, or a folder, with device and inode as its ``place``."""

    name: str
    path: str
    place: tuple[int, int] | None = None


def _list(
    folder: str, root: str, passed: Passed, exclude: Exclusion
) -> Iterator[_Entry | Rejection]:
    """A folder's entries that are not passed over, sorted by name."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        yield Rejection(folder, f"the folder cannot be read: {os_reason(error)}")
        return
    for entry in entries:
        if is_hidden_or_system(entry.name):
            if entry.is_dir(follow_symlinks=False):
                passed(entry.path, SYSTEM)
            continue
        if entry.name.lower() in _CLUTTER:
            continue
        if exclude.patterns and exclude(inside(root, entry.path)):
            passed(entry.path, EXCLUDED)
            continue
        if entry.is_file(follow_symlinks=False) and _is_text(entry.name):
            yield _Entry(entry.name, entry.path)
            continue
        found = _classify(entry.path, is_link=entry.is_symlink())
        if isinstance(found, Rejection):
            yield found
        elif stat.S_ISDIR(found.st_mode):
            yield _Entry(entry.name, entry.path, (found.st_dev, found.st_ino))
        else:
            yield _Entry(entry.name, entry.path)


def _classify(path: str, *, is_link: bool) -> os.stat_result | Rejection:
    """The status of a regular file or a folder, links followed; anything else is rejected."""
    if not _is_text(path):
        return Rejection(printable(path), _unreadable_name())
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


def _unreadable_name() -> str:
    encoding = sys.getfilesystemencoding()
    if encoding == "utf-8":
        return "the name is not valid UTF-8: rename it"
    return f"the name is not valid in this locale ({encoding}): set PYTHONUTF8=1"
