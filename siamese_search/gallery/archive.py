"""Archives: a whole gallery as one file, and a gallery of such a file.

An archive is a ZIP file whose members are not compressed: ``gallery.db`` as it was at one moment,
the gallery's own pictures under their names there, and ``siasearch.json``, which describes them.
One may come from anybody. So nothing is written but under names of our own, and no more bytes than
the file has; and no gallery is there before all of it is verified.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from siamese_search import __version__
from siamese_search.errors import (
    GalleryDamaged,
    GalleryFormatError,
    ImageError,
    StorageError,
    UsageError,
)
from siamese_search.files import new_file, require_place, temporary_folder, whole_file, whole_folder
from siamese_search.gallery.copies import COPY_PATH, KEPT, copied_bytes, kept_pictures
from siamese_search.gallery.opening import DATABASE
from siamese_search.pictures.read import MAX_FILE_BYTES, content_hash, read_file
from siamese_search.records import Copy, Progress, Watcher
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.exchange import Exchange, copy_database

ABOUT = "siasearch.json"
FORMAT = 1
ABOUT_BYTES = 1 << 16  # at most
KEPT_PATH = re.compile(rf"{KEPT}/([0-9a-f]{{64}})(\.[a-z0-9]{{1,8}})?")
MEMBERS = 2_000_000  # at most
DIRECTORY_BYTES = 512 << 20  # of the list of members, at most
BLOCK = 1 << 20
TRIES = 3  # while others remove pictures for good
# The end of a ZIP file, and what stands before it where there are many members or bytes.
END, LOCATOR, END64 = map(struct.Struct, ("<4s4H2LH", "<4sLQL", "<4sQ2H2L4Q"))
MODIFIED = (1980, 1, 1, 0, 0, 0)  # the least that ZIP knows: equal galleries, equal archives
DAMAGES = (
    zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, RuntimeError, OverflowError,
    struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Archived:
    """A gallery in an archive: how many ``pictures`` of its own are in it, the items whose pictures
    the gallery should have and has not, and how many items were ``left_out``, since they have no
    embedding: that is where it is shared alone.
    """

    identities: int
    items: int
    pictures: int
    missing: tuple[int, ...] = ()
    left_out: int = 0


class _Gone(Exception):
    """A picture was removed for good after the database was copied."""


# Out


@contextmanager
def copied_state(catalog: Catalog, out: Path) -> Iterator[Exchange]:
    """A gallery's database as it is now, to be read at leisure: a copy beside ``out``."""
    try:
        with temporary_folder(out.absolute()) as place:
            path = place / DATABASE
            copy_database(catalog, path)
            with closing(Exchange(path)) as state:
                try:
                    yield state
                except GalleryDamaged as error:  # it was so before
                    said = str(error).replace(str(path), str(catalog.path))
                    raise GalleryDamaged(said) from error
    except OSError as error:
        raise StorageError(f"{out} could not be written: {error.strerror or error}") from error


def export_archive(
    catalog: Catalog,
    out: Path,
    pictures: bool,
    watch: Watcher,
    only: Sequence[int] | None = None,
) -> Archived:
    """Write a gallery as one archive, as it was at one moment; of its items ``only`` some, and no
    kept probes then.

    Without ``pictures``, its copies of images stay out. Raises GalleryDamaged for a gallery with a
    fault, since nobody could restore it.
    """
    require_place(out)
    for _ in range(TRIES):
        try:
            return _export(catalog, out, pictures, watch, only)
        except _Gone:
            continue
    raise StorageError(f"others remove pictures from {catalog.path.parent} just now: try again")


def _export(
    catalog: Catalog, out: Path, pictures: bool, watch: Watcher, only: Sequence[int] | None
) -> Archived:
    with copied_state(catalog, out) as state:
        if only is not None:
            state.keep_only(only)
        state.make_portable()
        for fault in state.faults():
            raise GalleryDamaged(f"{fault}: `siasearch check` says what helps; nothing was written")
        with whole_file(out) as file, zipfile.ZipFile(file, "w") as archive:
            count, missing = 0, list[int]()
            if pictures:
                count, missing = _write_pictures(catalog, state, archive, watch)
            state.forget_copies(missing if pictures else None)
            facts = _facts(state, count)
            with open(state.path, "rb") as database:
                facts["database"] = {
                    "bytes": state.path.stat().st_size,
                    "sha256": hashlib.file_digest(database, "sha256").hexdigest(),
                }
            archive.writestr(_member(ABOUT), json.dumps(facts, indent=1))
            with open(state.path, "rb") as database, _opened(archive, DATABASE) as member:
                while block := database.read(BLOCK):
                    member.write(block)
        return Archived(facts["identities"], facts["items"], count, tuple(missing))


def _write_pictures(
    catalog: Catalog, state: Exchange, archive: zipfile.ZipFile, watch: Watcher
) -> tuple[int, list[int]]:
    """Write a gallery's own pictures; returns how many, and the items whose copies are missing."""
    folder = catalog.path.parent
    count, missing = 0, list[int]()
    total = state.count_copies()
    for copy in state.copies_by_number():
        data = copied_bytes(folder, copy)
        if data is not None:
            archive.writestr(_member(copy.path), data)
            count += 1
        elif copy.path in catalog.copies_of([copy.content]):
            missing.append(copy.item)
        else:
            raise _Gone
        watch(Progress("writing pictures", count, total))
    kept = dict(kept_pictures(folder))
    needed = state.need_files(kept.values())
    for path, content in kept.items():
        data = _whole(path, content) if content in needed else None
        if data is not None:
            archive.writestr(_member(f"{KEPT}/{path.name}"), data)
            count += 1
    return count, missing


def _whole(path: Path, content: str) -> bytes | None:
    try:
        data = read_file(str(path))
    except ImageError:  # it is gone: nobody needs it any more
        return None
    return data if content_hash(data) == content else None


def _facts(state: Exchange, pictures: int) -> dict[str, Any]:
    generation = state.state().generation
    identities, items = state.totals()
    return {
        "format": FORMAT,
        "siasearch": __version__,
        "encoder": generation.encoder,
        "fingerprint": generation.fingerprint,
        "identities": identities,
        "items": items,
        "pictures": pictures,
    }


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, MODIFIED)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def _opened(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(_member(name), "w", force_zip64=True)


# In


def import_archive(path: Path, folder: Path, watch: Watcher) -> Archived:
    """Make a gallery of an archive in a new folder: whole, or not at all.

    Raises UsageError where there is no such file, StorageError where something is in the folder,
    GalleryDamaged for what is no archive of a gallery, is damaged, or holds anything else, and
    GalleryFormatError for one by a newer siasearch.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    with whole_folder(folder) as place:
        try:
            with open(path, "rb") as file:
                size = require_bounded(file, path)
                with zipfile.ZipFile(file) as archive:
                    members = _members(archive, path, size)
                    facts = _described(archive, members, path)
                    _write_database(archive, members, facts, place, path)
                    pictures = _restore_pictures(archive, members, place, path, watch)
        except DAMAGES as error:
            raise _refused(path, str(error)) from error
        with closing(_restored(place / DATABASE, path)) as state:
            _require_sound(state, pictures, path)
            state.make_portable()
            for name in pictures:
                if kept := KEPT_PATH.fullmatch(name):
                    own = name.partition("/")[2]
                    state.place_kept(kept[1], own, str(folder.absolute() / name))
            return Archived(*state.totals(), len(pictures))


def _refused(path: Path, why: str) -> GalleryDamaged:
    return GalleryDamaged(
        f"{path} is no archive as `siasearch export` writes them, or damaged ({why}): nothing was"
        " imported"
    )


def require_bounded(file: IO[bytes], path: Path) -> int:
    """The bytes of a file. Raises GalleryDamaged where it lists so many members that their list
    alone fills the memory; ``zipfile`` would read that as a whole.
    """
    size = file.seek(0, 2)
    tail = END.size + LOCATOR.size + END64.size
    file.seek(max(0, size - tail))
    end = file.read(tail)
    if size < END.size or END.unpack(end[-END.size :])[0] != b"PK\5\6":
        raise _refused(path, "it has no end of a ZIP file")
    _, _, _, _, members, length, _, _ = END.unpack(end[-END.size :])
    if len(end) == tail and end[END64.size :].startswith(b"PK\6\7"):
        signature, *_, members, length, _ = END64.unpack(end[: END64.size])
        if signature != b"PK\6\6":
            raise _refused(path, "it has no end of a ZIP file")
    if members > MEMBERS or length > min(DIRECTORY_BYTES, size):
        raise _refused(path, f"it lists {members} members in {length} bytes")
    file.seek(0)
    return size


def _members(archive: zipfile.ZipFile, path: Path, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members by name. Raises GalleryDamaged where one is not as ours are: by its name, a
    link, compressed (so that it may be larger than the file), or sharing bytes with another.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for info in archive.infolist():
        name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
        ours = name in (ABOUT, DATABASE) or COPY_PATH.fullmatch(name) or KEPT_PATH.fullmatch(name)
        if not ours or info.orig_filename != name:
            raise _refused(path, f"a member is called {info.orig_filename!r}")
        if name in members:
            raise _refused(path, f"there are two {name!r}")
        if kind not in (0, stat.S_IFREG):
            raise _refused(path, f"{name!r} is no regular file")
        packed = info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size
        if packed or info.flag_bits & 1:
            raise _refused(path, f"{name!r} is compressed or encrypted")
        if name not in (ABOUT, DATABASE) and info.file_size > MAX_FILE_BYTES:
            raise _refused(path, f"{name!r} is too large for a picture")
        total += info.file_size
        members[name] = info
    if total > size:
        raise _refused(path, f"its members have {total} bytes, more than it has itself")
    if not {ABOUT, DATABASE} <= members.keys():
        raise _refused(path, f"it lacks {ABOUT} or {DATABASE}")
    return members


def _described(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], path: Path
) -> dict[str, Any]:
    if members[ABOUT].file_size > ABOUT_BYTES:
        raise _refused(path, f"{ABOUT} is too large")
    facts = json.loads(archive.read(ABOUT))
    if not isinstance(facts, dict) or not isinstance(facts.get("database"), dict):
        raise _refused(path, f"{ABOUT} describes no gallery")
    if isinstance(facts.get("format"), int) and facts["format"] > FORMAT:
        raise GalleryFormatError(f"{path} was written by a newer siasearch: upgrade it")
    return facts


def _write_database(
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    facts: dict[str, Any],
    place: Path,
    path: Path,
) -> None:
    digest = hashlib.sha256()
    with archive.open(members[DATABASE]) as source, new_file(place / DATABASE) as target:
        while block := source.read(BLOCK):
            digest.update(block)
            target.write(block)
    described = members[DATABASE].file_size, digest.hexdigest()
    if described != (facts["database"].get("bytes"), facts["database"].get("sha256")):
        raise _refused(path, f"{DATABASE} is not what {ABOUT} describes")


def _restore_pictures(
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    place: Path,
    path: Path,
    watch: Watcher,
) -> set[str]:
    """Write the pictures, each of which is what its name says; returns these names."""
    names = members.keys() - {ABOUT, DATABASE}
    for done, name in enumerate(sorted(names), 1):
        data = archive.read(members[name])
        copied = COPY_PATH.fullmatch(name)
        wanted = copied[2] if copied else name[len(KEPT) + 1 :][:64]
        if content_hash(data) != wanted:
            raise _refused(path, f"{name!r} has other content than its name says")
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with new_file(target, sync=False) as file:
            file.write(data)
        watch(Progress("restoring pictures", done, len(names)))
    return names


def _restored(database: Path, path: Path) -> Exchange:
    try:
        return Exchange(database)
    except GalleryDamaged as error:
        raise _refused(path, str(error).replace(str(database), DATABASE)) from error


def _require_sound(state: Exchange, pictures: set[str], path: Path) -> None:
    """Raise GalleryDamaged where the database is no gallery's, or the pictures are not its own."""
    strange = state.strangeness()
    if strange:
        raise _refused(path, f"{DATABASE} {strange}")
    try:
        for fault in state.faults():
            raise _refused(path, fault.replace(str(state.path), DATABASE))
        copies = {copy.path for copy in state.copies_by_number() if _is_right(copy)}
    except (TypeError, ValueError, AttributeError) as error:  # values of other kinds
        raise _refused(path, f"{DATABASE} makes no sense: {error}") from error
    if len(copies) != state.count_copies() or not copies <= pictures:
        raise _refused(path, "it lacks pictures of items")
    others = pictures - copies
    if any(not KEPT_PATH.fullmatch(name) for name in others):
        raise _refused(path, "it has pictures of no item")


def _is_right(copy: Copy) -> bool:
    named = COPY_PATH.fullmatch(copy.path) if isinstance(copy.path, str) else None
    return named is not None and named[2] == copy.content
