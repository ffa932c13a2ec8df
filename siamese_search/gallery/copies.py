"""Copies: the images that a gallery keeps, and the bytes that were enrolled.

A gallery may come from somebody else, so a copy's path in its database is believed only where it
is one that siasearch makes, and nothing on the way leads out of the gallery.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from siamese_search.errors import ImageError, StorageError
from siamese_search.files import (
    delete,
    is_left_behind,
    left_alone,
    make_folder,
    new_file,
    sync_folder,
    underway,
    write_whole,
)
from siamese_search.pictures.memory import suffix_of
from siamese_search.pictures.read import content_hash, file_fault, read_file
from siamese_search.records import Copy, Item, RemovedCopy
from siamese_search.storage.catalog import Catalog

log = logging.getLogger("siasearch")

COPIES = "images"
KEPT = "unknowns"  # pictures without a file of their own that were kept because nobody fitted
# Earlier releases kept any suffix that a file's name could bear.
SUFFIX = r"(\.[^./\\\0]{0,180})?"
COPY_NAME = re.compile(rf"[0-9a-f]{{64}}{SUFFIX}|\.[0-9a-f]{{64}}{SUFFIX}\.[0-9a-f]{{8}}")
COPY_PATH = re.compile(rf"{COPIES}/([0-9a-f]{{2}})/(\1[0-9a-f]{{62}}){SUFFIX}")
HIDDEN = "0" * 8  # the mark of a copy whose item was removed and can be put back
KEPT_NAME = re.compile(r"([0-9a-f]{64})(\.[a-z0-9]{1,8})?|\.[0-9a-f]{64}(\.[a-z0-9]{1,8})?\.tmp")
KEPT_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")


def copy_path(content: str, source: str) -> str:
    """Where in a gallery a copy lies; with the suffix of the source, a path or a suffix alone,
    unless that is an odd one.
    """
    suffix = Path(f"x{source}" if source.startswith(".") else source).suffix.lower()
    kept = suffix if KEPT_SUFFIX.fullmatch(suffix) else ""
    return f"{COPIES}/{content[:2]}/{content}{kept}"


def own_copy(folder: Path, copy: str, content: str) -> Path:
    """The file of a gallery's copy, by its path there and the content's hash.

    Raises ImageError where that is no path of ours, or leads out of the gallery.
    """
    made = COPY_PATH.fullmatch(copy) if isinstance(copy, str) else None
    if made is None or made[2] != content:
        raise ImageError(f"{copy!r} is no path of a copy of it")
    path = folder / copy
    if not _leads_to(path, folder, copy):
        raise ImageError(f"{copy!r} leads out of the gallery")
    return path


def _leads_to(path: Path, folder: Path, place: str) -> bool:
    """Whether a path is ``place`` below the folder, without a link on the way or at its end."""
    return Path(os.path.realpath(path)) == Path(os.path.realpath(folder)) / place


def copies_in(folder: Path) -> Iterator[Path]:
    """The files in a gallery's folder that are named as copies are, also temporary ones.

    The gallery may share its folder with somebody's pictures.
    """
    for place in folder.glob(f"{COPIES}/??"):
        if place.is_dir() and _leads_to(place, folder, f"{COPIES}/{place.name}"):
            yield from (path for path in place.iterdir() if COPY_NAME.fullmatch(path.name))


def copy_fault(folder: Path, copy: Copy) -> str | None:
    """What is wrong with a copy, None where it is as it was made."""
    try:
        return file_fault(own_copy(folder, copy.path, copy.content), copy.content)
    except ImageError as error:
        return str(error)


def settle_copies(catalog: Catalog, folder: Path) -> None:
    """After a change: hide the copies of what it removed, delete those that belong to nothing now.

    They are hidden as long as they can be put back, under names as ``NewCopies`` has them. What was
    removed and enrolled again belongs to an item, whatever else was done with it.
    """
    dropped = catalog.take_dropped_copies()
    if not dropped and not _shown(folder, catalog.removed_copies()):
        return
    with catalog.writing():  # nobody enrols the same content again meanwhile, or takes this back
        kept = catalog.removed_copies()
        shown = _shown(folder, kept)
        there = catalog.copies_of(copy.content for copy in (*shown, *dropped))
        for copy in shown:
            if copy.path not in there:
                _rename(folder, copy, hide=True)
        hidden = {copy.path for copy in kept} - there
        emptied: set[Path] = set()
        for copy in dropped:
            if copy.path in hidden:
                continue
            places = _places(folder, copy)
            if copy.path in there:  # where it could not get its name again, it stays
                places = places[1:] if places and places[0].exists() else []
            for path in places:
                try:
                    if path.exists():
                        path.unlink()
                        emptied.add(path.parent)
                except OSError as error:
                    log.warning("%s was not deleted: %s", copy.path, error.strerror)
        for place in emptied:  # what is removed for good must not come back
            with suppress(OSError):
                sync_folder(place)


def _shown(folder: Path, copies: Iterable[RemovedCopy]) -> list[RemovedCopy]:
    """Those that are not hidden. They may be thousands, of which few are new: no path is looked at
    closely for that.
    """
    return [copy for copy in copies if os.path.lexists(f"{folder}/{copy.path}")]


def _hidden(path: Path) -> Path:
    """Where a copy is hidden."""
    return path.with_name(f".{path.name}.{HIDDEN}")


def kept_path(folder: Path, data: bytes) -> Path:
    """Where a gallery keeps a picture that has no file of its own, because nobody fitted."""
    return folder / KEPT / f"{content_hash(data)}{suffix_of(data)}"


def keep_picture(path: Path, data: bytes) -> None:
    """Write a picture to its ``kept_path``, inside the transaction that notes it.

    Raises StorageError where it cannot be written.
    """
    place = path.parent
    try:
        make_folder(place)
    except OSError as error:
        raise StorageError(f"{place}: {error.strerror}") from error
    if not _leads_to(place, place.parent, KEPT):
        raise StorageError(f"{place} leads out of the gallery: nothing is kept there")
    write_whole(path, data)


def kept_pictures(folder: Path) -> Iterator[tuple[Path, str]]:
    """The pictures that a gallery has kept because nobody fitted, each with its SHA-256 (hex)."""
    if _leads_to(folder / KEPT, folder, KEPT):
        for path in sorted(folder.glob(f"{KEPT}/*")):
            named = KEPT_NAME.fullmatch(path.name)
            if named and named[1]:
                yield path, named[1]


def copied_bytes(folder: Path, copy: Copy) -> bytes | None:
    """The bytes of a gallery's copy, also where it is hidden since its item was removed; None where
    it is gone, or is not as it was made.
    """
    try:
        path = own_copy(folder, copy.path, copy.content)
    except ImageError:
        return None
    for place in (path, _hidden(path), path):  # it may come back
        with suppress(ImageError):
            data = read_file(str(place))
            if content_hash(data) == copy.content:
                return data
    return None


def publish_again(folder: Path, copies: Iterable[RemovedCopy]) -> None:
    """Give hidden copies their names again, inside the transaction that puts back their items.

    Raises StorageError where one stays hidden: its item would be without it.
    """
    folders = {path.parent for copy in copies for path in _rename(folder, copy, hide=False)}
    for place in folders:
        sync_folder(place)


def _rename(folder: Path, copy: RemovedCopy, hide: bool) -> list[Path]:
    """Hide a copy, or the other way round; returns where it was and is, if it was there."""
    places = _places(folder, copy)
    if len(places) < 2:
        return []
    shown, *hidden = places
    moves = [(shown, hidden[0])] if hide else [(place, shown) for place in hidden]
    for before, after in moves:
        try:
            before.replace(after)
        except FileNotFoundError:  # that was done before, or it lies at the other place
            continue
        except OSError as error:
            if not hide:
                raise StorageError(f"{before}: {error.strerror}; nothing was put back") from error
            log.warning("%s was left as it is: %s", copy.path, error.strerror)
            return []
        return [before, after]
    return []


def _places(folder: Path, copy: RemovedCopy) -> list[Path]:
    """A copy's file, and where it is hidden, or was by an earlier release, if it may be; nothing
    where that is none of ours.
    """
    try:
        path = own_copy(folder, copy.path, copy.content)
    except ImageError as error:
        log.warning("%s: not deleted", error)
        return []
    hidden = [path.with_name(f".{path.name}.{mark}") for mark in (HIDDEN, copy.mark)]
    return [path, *(place for place in hidden if COPY_NAME.fullmatch(place.name))]


def enrolled_bytes(item: Item, folder: Path) -> bytes:
    """The bytes that were enrolled: of the gallery's copy, else of the source if still the same.

    Raises ImageError where there are none.
    """
    if item.copy is not None:
        path = str(own_copy(folder, item.copy, item.content))
    elif item.source is not None:
        path = item.source
    elif item.size:
        raise ImageError("was enrolled without a file, and the gallery has no copy of it")
    else:
        raise ImageError("was enrolled as an embedding, without an image")
    data = read_file(path)
    if content_hash(data) != item.content:
        raise ImageError("has other content than when it was enrolled")
    return data


class NewCopies:
    """The copies that one run of enrolment makes: written first, named with their items' commit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run = secrets.token_hex(4)
        self._unpublished: set[Path] = set()
        self._underway = ExitStack()
        self._underway.enter_context(underway(folder))

    def write(self, copy: str, data: bytes) -> None:
        """Write a copy under a name of this run's own; StorageError where it cannot."""
        path = self._temporary(copy)
        if not _leads_to(path.parent, self._folder, str(Path(copy).parent)):
            raise StorageError(f"{path.parent} leads out of the gallery: no copies are kept there")
        self._unpublished.add(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path) as file:
                file.write(data)
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}") from error

    def publish(self, copies: Mapping[str, bool]) -> None:
        """Give copies their names, inside the transaction that commits their items; those that are
        False belong to none.
        """
        made: set[Path] = set()
        for copy, belongs in copies.items():
            temporary = self._temporary(copy)
            if belongs:
                temporary.replace(self._folder / copy)
            else:
                temporary.unlink(missing_ok=True)
            made.add(temporary)
        if made:  # another process may have made their folders, and not synced them yet
            for folder in {path.parent for path in made} | {self._folder / COPIES, self._folder}:
                sync_folder(folder)
        for copy, belongs in copies.items():
            if belongs:  # what is hidden since the same picture was removed is of no use now
                with suppress(OSError):
                    _hidden(self._folder / copy).unlink(missing_ok=True)
        self._unpublished -= made

    def close(self) -> None:
        """As ``discard``."""
        self.discard()

    def discard(self) -> None:
        """Delete what was not published; no more is written."""
        for path in self._unpublished:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        self._underway.close()

    def _temporary(self, copy: str) -> Path:
        path = self._folder / copy
        return path.with_name(f".{path.name}.{self._run}")


def sweep_copies(folder: Path, catalog: Catalog) -> None:
    """Delete copies of images that the database does not name and nobody is about to commit.

    What was removed may be put back.
    """
    with left_alone(folder) as alone:
        old = [path for path in copies_in(folder) if is_left_behind(path, alone)]
        if not old:
            return
        known = {folder / copy.path for copy in catalog.copies()}
        known |= {path for copy in catalog.removed_copies() for path in _places(folder, copy)}
        for path in old:
            if path not in known:
                delete(path)


def sweep_kept(folder: Path, catalog: Catalog) -> None:
    """Delete kept pictures that nothing needs any more.

    They are told by their content, which is in their name: a gallery may have been moved.
    """
    if not _leads_to(folder / KEPT, folder, KEPT):
        return
    named = [(path, KEPT_NAME.fullmatch(path.name)) for path in folder.glob(f"{KEPT}/*")]
    kept = [(path, name[1]) for path, name in named if name]
    if not kept:
        return
    with catalog.writing():  # nobody keeps one meanwhile
        needed = catalog.need_files(content for _, content in kept if content)
        for path, content in kept:
            if content not in needed:
                delete(path)
