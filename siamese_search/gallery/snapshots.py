"""Snapshots: index files that cache what the catalog holds, and the index that is searched.

A snapshot covers the items up to a point; what came or went since is merged in from the catalog.
Losing a snapshot costs time, never an answer. Knows nothing of SQL and FAISS themselves.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from siamese_search.errors import GalleryError, SiaSearchError, StorageError, UsageError
from siamese_search.files import STALE_SECONDS, delete, sync_folder
from siamese_search.gallery.compaction import pending_in
from siamese_search.gallery.copies import COPY_NAME
from siamese_search.index import EXACT_RECIPES, SearchIndex, Wanted, Written, sha256, write_index
from siamese_search.records import Generation, Snapshot
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.database import LOCK_NAME
from siamese_search.storage.generations import State

log = logging.getLogger("siasearch")

PACKAGE = Path(__file__).parents[2]

# Below this a snapshot is read in full to verify it; above, if its size, time or inode changed.
SMALL_BYTES = 64 << 20
# Changes to fold in before compaction pays: an eighth of the base keeps its cost per item constant,
# but what is pending must be read on opening, and is searched in full.
PENDING_AT_LEAST = 256
PENDING_SHARE = 8
PENDING_AT_MOST = 20_000
PENDING_UNDERWAY = 4096
FEW_CHANGES = 1000  # for which nobody wants to wait while an index of many items is trained
MANY_ITEMS = 50_000
TRIES = 5  # to open a snapshot that others replace

# The files that siasearch makes, with their temporary names; nothing else is ever deleted.
INDEX_NAME = re.compile(r"\.?index-\d+-[0-9a-f]{12}\.faiss")
DATABASE_NAME = re.compile(r"\.gallery\.db\.[0-9a-f]{8}(-journal)?")


class Snapshots:
    """The index of one gallery folder, kept in step with its catalog."""

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        self._folder = folder
        self._catalog = catalog
        self._index: SearchIndex | None = None
        self._loaded: State | None = None
        self._version: tuple[int, int] | None = None
        self._failed = 0  # pending changes with which another process could not compact
        self._lock = threading.RLock()

    @contextmanager
    def searching(self) -> Iterator[tuple[SearchIndex, Generation]]:
        """The index as of now and its generation, inside a read transaction for look-ups."""
        with self._lock:
            self._catch_up()  # the bulk outside the transaction, which would hold up writers
            with self._catalog.reading():
                yield self._catch_up()

    def _catch_up(self) -> tuple[SearchIndex, Generation]:
        """Bring the loaded index to what the catalog says now."""
        version = self._catalog.version()
        if self._index is not None and self._loaded is not None and version == self._version:
            return self._index, self._loaded.generation
        state = self._catalog.state()
        loaded, index = self._loaded, self._index
        if (
            index is None
            or loaded is None
            or (loaded.generation, loaded.snapshot, loaded.epoch)
            != (state.generation, state.snapshot, state.epoch)
        ):
            self._index = index = None  # not two of them in memory
            state, index, item, removal = self._open(state)
        else:
            item, removal = loaded.last_item, loaded.last_removal
        self._index = None  # an exception half-way must not leave it half-changed
        for items, vectors in self._catalog.embeddings(state.generation, item, state.last_item):
            index.add(items, vectors)
        index.remove(self._catalog.removed_after(removal))
        self._index, self._loaded, self._version = index, state, version
        return index, state.generation

    def _open(self, state: State) -> tuple[State, SearchIndex, int, int]:
        """The snapshot's index with the item and removal up to which it goes, or an empty one; of a
        later state where another process has replaced the snapshot meanwhile.
        """
        for _ in range(TRIES):
            snapshot = state.snapshot
            if snapshot is None:
                break
            path = self._folder / snapshot.file
            fault = self.fault(snapshot)
            if fault is None:
                try:
                    index = SearchIndex.read(path, state.generation.dimension)
                    return state, index, snapshot.last_item, snapshot.last_removal
                except GalleryError as error:
                    fault = str(error)
            now = self._catalog.state()
            if now.snapshot == snapshot:
                log.warning("%s; answering from the database. `siasearch rebuild` mends it.", fault)
                break
            state = now
        return state, SearchIndex(state.generation.dimension), 0, 0

    def fault(self, snapshot: Snapshot, thorough: bool = False) -> str | None:
        """What is wrong with a snapshot's file, None if it may be trusted."""
        path = self._folder / snapshot.file
        try:
            status = path.stat()
            stamp = status.st_size, status.st_mtime_ns, status.st_ino
            if stamp == (snapshot.size, snapshot.mtime_ns, snapshot.inode) and (
                not thorough and snapshot.size > SMALL_BYTES
            ):
                return None
            if status.st_size != snapshot.size or sha256(path) != snapshot.sha256:
                return f"{path} is damaged (wrong checksum)"
        except FileNotFoundError:
            return f"{path} is missing"
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
        return None

    def is_due(self, underway: bool = False) -> bool:
        """Whether enough has changed since the last snapshot to write a new one.

        ``underway`` says that more is to come, so that only what has doubled is worth it.
        """
        state = self._catalog.state()
        snapshot, pending = state.snapshot, pending_in(state)
        items = snapshot.items if snapshot else 0
        if underway:
            return pending > max(PENDING_UNDERWAY, items)
        enough = max(PENDING_AT_LEAST, min(items // PENDING_SHARE, PENDING_AT_MOST))
        return pending > (enough if snapshot else 0)

    @contextmanager
    def maintenance(self, wait: bool) -> Iterator[None]:
        """One process compacts or rebuilds at a time. Raises StorageError where it is another."""
        from filelock import FileLock, Timeout

        self._catalog.require_writable()
        lock = FileLock(self._folder / LOCK_NAME, is_singleton=True)
        try:
            with lock.acquire(timeout=-1 if wait else 0):
                yield
        except Timeout as error:
            raise StorageError(f"{self._folder} is being compacted by another process") from error
        except OSError as error:
            raise StorageError(f"{error.filename or self._folder}: {error.strerror}") from error

    def compact(self, wait: bool = True, wanted: Wanted | None = None) -> None:
        """Write a snapshot of all that is enrolled, switch to it, and drop what it replaces.

        ``wanted`` is kept for later compactions; without it, what was wanted last holds. Raises
        UsageError where the recipe does not fit what is enrolled.
        """
        with self.maintenance(wait):
            self._catalog.prune()
            state = self._catalog.state()
            generation = state.generation
            # A name of its own: the file that the database names is never written to.
            path = self._folder / f"index-{generation.number}-{secrets.token_hex(6)}.faiss"
            written = self._write(path, state, wanted)
            sync_folder(self._folder)
            status = path.stat()
            self._catalog.set_snapshot(
                Snapshot(
                    generation=generation.number,
                    file=path.name,
                    sha256=written.sha256,
                    size=status.st_size,
                    mtime_ns=status.st_mtime_ns,
                    inode=status.st_ino,
                    items=written.items,
                    last_item=state.last_item,
                    last_removal=state.last_removal,
                    recipe=written.recipe,
                    recall=written.recall,
                )
            )
            if wanted is not None:
                self._catalog.want_index(wanted.recipe, wanted.recall)
            self._sweep()
            if wait:  # a command of its own, which may take its time
                self._sweep_copies()

    def compact_if_due(self, *, changed: int | None = None, underway: bool = False) -> bool:
        """Compact where enough has changed and no other process does; returns whether it did.

        Whoever ``changed`` just a few items does not wait for an index that takes long to build:
        another process builds it. What has changed is committed, so failing here loses nothing.
        """
        if not (self._catalog.writable and self.is_due(underway)):
            return False
        try:
            if changed is not None and changed < FEW_CHANGES and self._takes_long():
                self._compact_elsewhere()
                return False
            self.compact(wait=False)
        except StorageError as error:
            log.info("the index file is left as it was: %s", error)
            return False
        except SiaSearchError as error:
            log.warning("the index file is left as it was: %s", error)
            return False
        return True

    def _takes_long(self) -> bool:
        if not sys.executable or getattr(sys, "frozen", False):
            return False  # there is no Python to start
        kept = self._catalog.wanted_index()
        items = self._catalog.totals()[1]
        dimension = self._catalog.state().generation.dimension
        recipe = Wanted(*(kept or ())).resolved(items, dimension)
        return items >= MANY_ITEMS and recipe not in EXACT_RECIPES

    def _compact_elsewhere(self) -> None:
        """Start a process that compacts, and outlives this one.

        Where one has failed, the next is started once twice as much has changed.
        """
        pending = pending_in(self._catalog.state())
        if pending < 2 * self._failed:
            return
        with self.maintenance(wait=False):  # raises where somebody is at it
            pass
        folder = str(self._folder.absolute())
        command = (sys.executable, "-m", "siamese_search", "compact", "--if-due", "-g", folder)
        nowhere = subprocess.DEVNULL
        places = [str(PACKAGE), os.environ.get("PYTHONPATH", "")]
        # A pipe would break when this process ends.
        said = tempfile.TemporaryFile()  # noqa: SIM115  closed in the end by ``follow``
        try:
            started = subprocess.Popen(
                command,
                stdin=nowhere,
                stdout=nowhere,
                stderr=said,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))},
                start_new_session=True,
            )
        except OSError as error:
            said.close()
            raise StorageError(f"{sys.executable}: {error.strerror}") from error
        log.info("%s is compacted by process %d", folder, started.pid)

        def follow() -> None:
            failed = started.wait() != 0  # so that no zombie stays
            self._failed = pending if failed else 0
            with said:
                said.seek(0)
                last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
            if failed:
                log.warning("%s could not be compacted by another process: %s", folder, last)

        threading.Thread(target=follow, daemon=True).start()

    def _write(self, path: Path, state: State, wanted: Wanted | None) -> Written:
        """Write an index file of all that is enrolled."""
        generation, snapshot = state.generation, state.snapshot
        previous = None
        if snapshot is not None and self.fault(snapshot) is None:
            previous = self._folder / snapshot.file

        def write(recipe: Wanted) -> Written:
            chunks = self._catalog.embeddings(generation, upto=state.last_item)
            return write_index(path, generation.dimension, chunks, recipe, previous)

        if wanted is not None:
            return write(wanted.checked(generation.dimension))
        kept = self._catalog.wanted_index()
        if kept is None:
            return write(Wanted())
        try:
            return write(Wanted(*kept).checked(generation.dimension))
        except UsageError as error:  # it fitted what was enrolled then
            log.warning("%s; the index is made by the recipe auto this time", error)
            return write(Wanted())

    def _sweep(self) -> None:
        """Delete what the database does not name: replaced files, half-written ones."""
        known = self._catalog.snapshot_files()
        for path in self._folder.glob("*index-*.faiss"):
            if INDEX_NAME.fullmatch(path.name) and path.name not in known:
                delete(path)
        for path in self._folder.glob(".gallery.db.*"):
            if DATABASE_NAME.fullmatch(path.name) and self._is_left_behind(path):
                delete(path)

    def _sweep_copies(self) -> None:
        """Delete copies of images that the database does not name, once they are old.

        Another process may be about to commit young ones. The gallery may share its folder with
        somebody's pictures, so only names that siasearch makes count.
        """
        old = [
            path
            for path in self._folder.glob("images/??/*")
            if COPY_NAME.fullmatch(path.name) and self._is_left_behind(path)
        ]
        known = {copy for _, copy, _ in self._catalog.copies()} if old else set()
        for path in old:
            if path.relative_to(self._folder).as_posix() not in known:
                delete(path)

    @staticmethod
    def _is_left_behind(path: Path) -> bool:
        """Whether a file that nothing names is from a process that is gone."""
        try:
            return time.time() - path.stat().st_mtime > STALE_SECONDS
        except OSError:
            return False

    def differences(self) -> Iterator[str]:
        """Where the snapshot's content disagrees with the database, one line each."""
        state = self._catalog.state()
        snapshot = state.snapshot
        if snapshot is None:
            return
        fault = self.fault(snapshot, thorough=True)
        if fault:
            yield fault
            return
        path = self._folder / snapshot.file
        try:
            base = SearchIndex.read(path, state.generation.dimension).base
        except GalleryError as error:
            yield str(error)
            return
        assert base is not None
        seen = np.zeros(len(base.items), bool)
        seen[base.positions(self._catalog.removed_after(snapshot.last_removal))] = True
        for items, vectors in self._catalog.embeddings(state.generation, upto=snapshot.last_item):
            positions = base.positions(items)
            seen[positions] = True
            for item in np.setdiff1d(items, base.items[positions]):
                yield f"{path}: item {item} is missing"
            present = np.isin(items, base.items[positions])
            differing = (base.vectors[positions] != vectors[present]).any(axis=1)
            for item in items[present][differing]:
                yield f"{path}: item {item} has another embedding than the database"
        for item in base.items[~seen]:
            yield f"{path}: item {item} is not in the database"
