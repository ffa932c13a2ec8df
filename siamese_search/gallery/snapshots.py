"""Snapshots: index files that cache what the catalog holds, and the index that is searched.

A snapshot covers the items up to a point; later changes are merged in from the catalog.
Losing a snapshot costs time, never an answer. Knows nothing of SQL and FAISS themselves, nor of
when a snapshot is written: that is ``compaction``.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from siamese_search.errors import GalleryError
from siamese_search.gallery.guarded import GuardedIndex, is_unit
from siamese_search.index import Engine, FaissEngine, Index, sha256
from siamese_search.records import Generation, Snapshot
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.generations import State

log = logging.getLogger("siasearch")

# Below this a snapshot is read in full to verify it; above, if its size, time or inode changed.
SMALL_BYTES = 64 << 20
INDEX_NAME = re.compile(r"\.?index-\d+-[0-9a-f]{12}\.faiss")
TRIES = 5  # to open a snapshot that others replace


@dataclass(frozen=True)
class Opened:
    """An index as it was opened for a state, with the item and the removal up to which it goes."""

    state: State
    index: Index
    last_item: int = 0
    last_removal: int = 0


@dataclass(frozen=True)
class Loaded:
    """An index that is what a state of the catalog says, and the catalog's version then."""

    state: State
    index: Index
    version: tuple[int, int]


class Snapshots:
    """The index of one gallery folder, kept in step with its catalog."""

    def __init__(self, folder: Path, catalog: Catalog, engine: Engine | None = None) -> None:
        self.engine: Engine = engine or FaissEngine()
        self._folder = folder
        self._catalog = catalog
        self._loaded: Loaded | None = None
        self._lock = threading.RLock()

    @contextmanager
    def searching(self) -> Iterator[tuple[Index, Generation]]:
        """The index as of now and its generation, inside a read transaction for look-ups."""
        with self._lock:
            self._catch_up()  # the bulk outside the transaction, which would hold up writers
            with self._catalog.reading():
                loaded = self._catch_up()
                yield loaded.index, loaded.state.generation

    def release(self) -> None:
        """Let go of the index and its file; the next search opens what is there then."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
            if loaded is not None:
                loaded.index.close()  # whoever knows it yet holds nothing any more

    def _catch_up(self) -> Loaded:
        """Bring the loaded index to what the catalog says now."""
        version = self._catalog.version()
        loaded = self._loaded
        if loaded is not None and version == loaded.version:
            return loaded
        state = self._catalog.state()
        if loaded is None or _kept(loaded.state) != _kept(state):
            self.release()  # not two of them in memory
            opened = self._open(state)
        else:
            before = loaded.state
            opened = Opened(state, loaded.index, before.last_item, before.last_removal)
        state, index = opened.state, opened.index
        self._loaded = None
        try:
            for items, vectors in self._catalog.embeddings(
                state.generation, opened.last_item, state.last_item
            ):
                index.add(items, vectors)
            index.remove(self._catalog.removed_after(opened.last_removal))
        except BaseException:
            index.close()  # half-changed
            raise
        self._loaded = Loaded(state, index, version)
        return self._loaded

    def _open(self, state: State) -> Opened:
        """The snapshot's index, or an empty one; of a later state where another process has
        replaced the snapshot meanwhile.
        """
        for _ in range(TRIES):
            snapshot = state.snapshot
            if snapshot is None:
                break
            fault = self.fault(snapshot)
            if fault is None:
                path = self._folder / snapshot.file
                try:
                    index = self.engine.read(path, state.generation.dimension)
                    guarded = GuardedIndex(index, partial(self._without_snapshot, path))
                    return Opened(state, guarded, snapshot.last_item, snapshot.last_removal)
                except GalleryError as error:
                    fault = str(error)
            now = self._catalog.state()
            if now.snapshot == snapshot:
                log.warning("%s; answering from the database. `siasearch rebuild` mends it.", fault)
                break
            state = now
        empty = self.engine.empty(state.generation.dimension)
        return Opened(state, GuardedIndex(empty, partial(self._without_snapshot, None)))

    def _without_snapshot(self, path: Path | None) -> Index:
        """An index of what the database holds, in place of one that gave what cannot be; that was
        of the file ``path`` where there is one.
        """
        state = self._catalog.state()
        index = self.engine.empty(state.generation.dimension)
        left_out: list[int] = []
        for items, vectors in self._catalog.embeddings(state.generation, upto=state.last_item):
            sound = is_unit(vectors)
            left_out += items[~sound].tolist()
            index.add(items[sound], vectors[sound])
        if left_out:
            log.warning(
                "%d embeddings, of item %d for one, are not of unit length, and so not found:"
                " `siasearch check` names them, remove them and enrol them again",
                len(left_out),
                left_out[0],
            )
        elif path is not None:
            log.warning(
                "%s is damaged (it gives a cosine that is none); answering from the database."
                " `siasearch rebuild` mends it.",
                path,
            )
        return index

    def fault(self, snapshot: Snapshot, thorough: bool = False) -> str | None:
        """What is wrong with a snapshot's file, None if it may be trusted."""
        if not names_index(snapshot.file):
            return f"{snapshot.file!r} is no name of an index file"
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


def names_index(file: object) -> bool:
    """Whether a file that a database names, perhaps somebody else's, can be an index file here."""
    return isinstance(file, str) and bool(INDEX_NAME.fullmatch(file))


def _kept(state: State) -> tuple[Generation, Snapshot | None, int]:
    """What must be as it was for an index to be added to."""
    return state.generation, state.snapshot, state.epoch
