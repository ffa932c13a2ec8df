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
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.decision.metric import Metric
from siamese_search.errors import GalleryError
from siamese_search.forks import Followed
from siamese_search.gallery.guarded import GuardedIndex, is_unit
from siamese_search.gallery.remote import Remote, is_remote
from siamese_search.gallery.stored import dimension_of, projected
from siamese_search.gallery.verifying import Verification
from siamese_search.index import Engine, FaissEngine, Index, sha256
from siamese_search.records import Generation, Snapshot
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.generations import State

log = logging.getLogger("siasearch")

MENDED = "`siasearch compact` writes it anew"

# Below this a snapshot is read in full to verify it before it is used; above, while it is, unless
# its size, time or inode have changed.
SMALL_BYTES = 64 << 20
INDEX_NAME = re.compile(r"\.?index-\d+-[0-9a-f]{12}\.faiss")
TRIES = 5  # to open a snapshot that others replace


@dataclass(frozen=True)
class View:
    """What answers at a moment: an index, the generation whose embeddings it holds, and the metric
    by which these, and so what is asked, are projected; None where they are not.
    """

    index: Index
    generation: Generation
    metric: Metric | None

    def projected(self, embeddings: FloatArray) -> FloatArray:
        """Embeddings (n, dimension) of what is asked, float32 (n, index.dimension), to be compared
        with what the index holds.
        """
        return embeddings if self.metric is None else self.metric.apply_to_probes(embeddings)


class Searched(Protocol):
    """What can be searched: a gallery, or what it would be under another metric."""

    def searching(self) -> AbstractContextManager[View]:
        """What answers as of now, in one consistent state."""


@dataclass(frozen=True)
class Opened:
    """An index as it was opened for a state, with the item and the removal up to which it goes."""

    state: State
    metric: Metric | None
    index: Index
    last_item: int = 0
    last_removal: int = 0


@dataclass(frozen=True)
class Loaded:
    """An index that is what a state of the catalog says, and the catalog's version then."""

    state: State
    metric: Metric | None
    index: Index
    version: tuple[int, int]


class Snapshots(Followed):
    """The index of one gallery folder, kept in step with its catalog."""

    def __init__(self, folder: Path, catalog: Catalog, engine: Engine | None = None) -> None:
        self.engine: Engine = engine or FaissEngine()
        self._folder = folder
        self._catalog = catalog
        self.remote = Remote(folder, catalog)
        self._loaded: Loaded | None = None
        self._verification: Verification | None = None  # of the file that is loaded
        self._damaged: set[str] = set()  # files that turned out not to be as they were written
        self._lock = threading.RLock()
        self.follow_forks()

    def in_child(self) -> None:
        """Another thread may have been changing the index."""
        self._lock = threading.RLock()
        self._loaded = self._verification = None

    @contextmanager
    def searching(self) -> Iterator[View]:
        """What answers as of now, inside a read transaction for look-ups."""
        with self._lock:
            self._catch_up()  # the bulk outside the transaction, which would hold up writers
            with self._catalog.reading():
                loaded = self._catch_up()
                yield View(loaded.index, loaded.state.generation, loaded.metric)

    def release(self) -> None:
        """Let go of the index and its file; the next search opens what is there then."""
        with self._lock:
            if self._verification is not None:
                self._verification.stop()
                self._verification = None
            loaded, self._loaded = self._loaded, None
            if loaded is not None:
                loaded.index.close()  # whoever knows it yet holds nothing any more

    def close(self) -> None:
        """Let go of all, connections too."""
        self.release()
        self.remote.close()

    def _catch_up(self) -> Loaded:
        """Bring the loaded index to what the catalog says now."""
        self._distrust()
        version = self._catalog.version()
        loaded = self._loaded
        if loaded is not None and version == loaded.version:
            return loaded
        state = self._catalog.state()
        if loaded is None or _kept(loaded.state) != _kept(state):
            self.release()  # not two of them in memory
            opened = self._open()
        else:
            before = loaded.state
            opened = Opened(
                state, loaded.metric, loaded.index, before.last_item, before.last_removal
            )
        state, metric, index = opened.state, opened.metric, opened.index
        self._loaded = None
        try:
            for items, vectors in self.projected(state, metric, opened.last_item):
                index.add(items, vectors)
            index.remove(self._catalog.removed_after(opened.last_removal))
        except BaseException:
            index.close()  # half-changed
            raise
        self._loaded = Loaded(state, metric, index, version)
        return self._loaded

    def _distrust(self) -> None:
        """Let go of the file that is loaded if it has turned out to be damaged."""
        verification, loaded = self._verification, self._loaded
        if verification is not None and verification.failed:
            if loaded is not None and loaded.state.snapshot is not None:
                self._damaged.add(loaded.state.snapshot.file)
            self.release()

    def verified(self) -> bool:
        """Whether the index file in use is as it was written; waits until that is known."""
        with self.searching():
            verification = self._verification
        return verification is None or verification.wait()

    def projected(
        self, state: State, metric: Metric | None, after: int = 0
    ) -> Iterator[tuple[IntArray, FloatArray]]:
        """A state's items (n,) from a number on, with their vectors (n, p), as an index holds
        them, in chunks.
        """
        for items, vectors in self._catalog.embeddings(state.generation, after, state.last_item):
            yield items, projected(metric, vectors)

    def _open(self) -> Opened:
        """The snapshot's index, or an empty one; of the state now, or of a later one where another
        process has replaced the snapshot meanwhile.
        """
        state, metric = self._catalog.state_with_metric()
        for _ in range(TRIES):
            snapshot = state.snapshot
            if snapshot is None or snapshot.metric != state.metric:
                break
            if is_remote(snapshot.file):
                kept = self.remote.index(snapshot, state, metric)
                guarded = GuardedIndex(kept, partial(self._without_snapshot, None))
                return Opened(state, metric, guarded, snapshot.last_item, snapshot.last_removal)
            fault = self.fault(snapshot)
            if fault is None:
                path = self._folder / snapshot.file
                try:
                    untouched = self._is_untouched(snapshot)
                    index = self.engine.read(path, dimension_of(state, metric))
                    if untouched:
                        self._verification = Verification(path, snapshot.sha256)
                    guarded = GuardedIndex(index, partial(self._without_snapshot, path))
                    return Opened(state, metric, guarded, snapshot.last_item, snapshot.last_removal)
                except (GalleryError, OSError) as error:
                    fault = str(error)
            now, its_metric = self._catalog.state_with_metric()
            if now.snapshot == snapshot and now.metric == state.metric:
                log.warning("%s; answering from the database: %s", fault, MENDED)
                break
            state, metric = now, its_metric
        empty = self.engine.empty(dimension_of(state, metric))
        return Opened(state, metric, GuardedIndex(empty, partial(self._without_snapshot, None)))

    def _without_snapshot(self, path: Path | None) -> Index:
        """An index of what the database holds, in place of one that gave what cannot be; that was
        of the file ``path`` where there is one.
        """
        state, metric = self._catalog.state_with_metric()
        if self._verification is not None:  # what it would find is found already
            self._verification.stop()
        index = self.engine.empty(dimension_of(state, metric))
        left_out: list[int] = []
        for items, vectors in self.projected(state, metric):
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
                "%s is damaged (it gives a cosine that is none); answering from the database: %s",
                path,
                MENDED,
            )
        return index

    def fault(self, snapshot: Snapshot, thorough: bool = False) -> str | None:
        """What is wrong with a snapshot's file, None if it may be trusted."""
        if not names_index(snapshot.file):
            return f"{snapshot.file!r} is no name of an index file"
        path = self._folder / snapshot.file
        if snapshot.file in self._damaged:
            return f"{path} is damaged (wrong checksum)"
        try:
            if not thorough and self._is_untouched(snapshot):
                return None
            if path.stat().st_size != snapshot.size or sha256(path) != snapshot.sha256:
                return f"{path} is damaged (wrong checksum)"
        except FileNotFoundError:
            return f"{path} is missing"
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
        return None

    def _is_untouched(self, snapshot: Snapshot) -> bool:
        """Whether a file is large, and looks as if nobody had written to it: then it is used at
        once, and verified meanwhile.
        """
        status = (self._folder / snapshot.file).stat()
        stamp = status.st_size, status.st_mtime_ns, status.st_ino
        known = snapshot.size, snapshot.mtime_ns, snapshot.inode
        return snapshot.size > SMALL_BYTES and stamp == known


def names_index(file: object) -> bool:
    """Whether a file that a database names, perhaps somebody else's, can be an index file here."""
    return isinstance(file, str) and bool(INDEX_NAME.fullmatch(file))


def _kept(state: State) -> tuple[Generation, Snapshot | None, int, int | None]:
    """What must be as it was for an index to be added to."""
    return state.generation, state.snapshot, state.epoch, state.metric
