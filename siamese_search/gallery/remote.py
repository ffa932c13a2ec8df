"""Remote: a gallery's index in a collection of Milvus, which is a cache as an index file is.

The outbox needs no table of its own: it is all items above the snapshot's ``last_item``, and all
removals above its ``last_removal``, which are written in the transaction of the change itself.
Until they are applied, searches merge them in. To apply them twice does no harm. Knows nothing of
SQL, and of Milvus only what ``index.milvus`` offers.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.decision.metric import Metric
from siamese_search.errors import EngineUnavailable, GalleryError, UsageError
from siamese_search.gallery.stored import StoredVectors, dimension_of
from siamese_search.index import Wanted
from siamese_search.index.milvus import COLLECTION, Milvus, checked_address, is_lite
from siamese_search.index.remote import RemoteIndex, effort_of, write_collection
from siamese_search.records import Snapshot
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.generations import MetricChanged, State

log = logging.getLogger("siasearch")

MARK = "milvus:"
SAMPLE = 1000  # vectors that a check compares
ROUNDING = 1e-5  # of what is projected


@dataclass(frozen=True)
class Place:
    """A collection at an address, as a snapshot's ``file`` names it."""

    address: str
    collection: str

    def __str__(self) -> str:
        return f"{MARK}{self.address}#{self.collection}"

    @classmethod
    def of(cls, file: str) -> Place:
        """Raises GalleryError for what cannot be one, since a gallery may be somebody else's."""
        address, _, collection = file.removeprefix(MARK).rpartition("#")
        if not COLLECTION.fullmatch(collection):
            raise GalleryError(f"{file!r} names no collection of Milvus: run `siasearch compact`")
        return cls(checked_address(address), collection)


def is_remote(file: str) -> bool:
    """Whether a snapshot is a collection, and no file."""
    return isinstance(file, str) and file.startswith(MARK)  # damage may make anything of it


class Remote:
    """The collections of one gallery folder, and the connections to where they are."""

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        self._folder = folder
        self._catalog = catalog
        self._engines: dict[str, Milvus] = {}

    def address(self, given: str) -> str:
        """An address as the gallery keeps it: a path inside of it without the folder's."""
        checked_address(given)
        if not is_lite(given):
            return given.rstrip("/")
        path = Path(given).absolute()
        inside = path.is_relative_to(self._folder)
        return str(path.relative_to(self._folder) if inside else path)

    def engine(self, address: str, create: bool = False) -> Milvus:
        """The connection to an address, made when something is asked."""
        if address not in self._engines or create:
            full = str(self._folder / address) if is_lite(address) else address
            if address in self._engines:
                self._engines[address].close()
            self._engines[address] = Milvus(full, create)
        return self._engines[address]

    def close(self) -> None:
        """Let go of all connections."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def index(self, snapshot: Snapshot, state: State, metric: Metric | None) -> RemoteIndex:
        """What a snapshot holds, to be searched; nothing is asked of Milvus yet."""
        place = Place.of(snapshot.file)
        return RemoteIndex(
            self.engine(place.address),
            place.collection,
            dimension_of(state, metric),
            StoredVectors(self._catalog, state, metric),
            snapshot.items,
            snapshot.last_item,
            effort_of(snapshot.recipe),
        )

    # Writing

    def write(
        self, address: str, state: State, metric: Metric | None, wanted: Wanted | None
    ) -> Snapshot:
        """Write all items of a state into a new collection, which is noted until it is in use."""
        place = Place(address, f"siasearch_{secrets.token_hex(8)}")
        engine = self.engine(address, create=True)
        engine.has(place.collection)  # raises where it does not answer, before anything is noted
        self._catalog.note_collections([*self._catalog.collections(), str(place)])
        stored = StoredVectors(self._catalog, state, metric)
        written = write_collection(
            engine,
            place.collection,
            dimension_of(state, metric),
            lambda: stored.chunks(state.last_item),
            self._catalog.totals()[1],
            wanted or Wanted(),
        )
        return Snapshot(
            generation=state.generation.number,
            file=str(place),
            sha256=written.sha256,
            size=0,
            mtime_ns=0,
            inode=self._inode(),
            items=written.items,
            last_item=state.last_item,
            last_removal=state.last_removal,
            recipe=written.recipe,
            recall=written.recall,
            metric=state.metric,
        )

    def takes_changes(self, state: State) -> bool:
        """Whether the snapshot is a collection into which changes may be written."""
        snapshot = state.snapshot
        return snapshot is not None and snapshot.metric == state.metric and self.is_own(snapshot)

    def is_own(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot is a collection that this gallery has made, not one that it is a copy
        of, which is told by the file of its database.
        """
        return is_remote(snapshot.file) and snapshot.inode == self._inode()

    def _inode(self) -> int:
        return os.stat(self._catalog.path).st_ino

    def apply(self) -> bool:
        """Write what has changed into the collection; whether it takes changes."""
        state, metric = self._catalog.state_with_metric()
        snapshot = state.snapshot
        if snapshot is None or not self.takes_changes(state):
            return False
        place, engine = Place.of(snapshot.file), self._engine_of(snapshot)
        stored, added = StoredVectors(self._catalog, state, metric), 0
        for items, vectors in stored.chunks(state.last_item, snapshot.last_item):
            engine.put(place.collection, items, vectors)
            added += len(items)
        gone = np.unique(self._catalog.removed_after(snapshot.last_removal))
        engine.take_out(place.collection, gone)
        known = int(np.count_nonzero(gone <= snapshot.last_item))
        applied = dataclasses.replace(
            snapshot,
            items=max(0, snapshot.items + added - known),
            last_item=state.last_item,
            last_removal=state.last_removal,
        )
        if applied != snapshot:
            try:
                self._catalog.set_snapshot(applied)
            except MetricChanged:
                return False
        return True

    def _engine_of(self, snapshot: Snapshot) -> Milvus:
        return self.engine(Place.of(snapshot.file).address)

    def forget(self, replaced: str | None) -> None:
        """Drop what a new snapshot has replaced, and what was left half-written.

        What cannot be dropped now, since Milvus does not answer, is named once and then left.
        """
        left = self._catalog.collections()
        if replaced is not None and is_remote(replaced):
            left.append(replaced)
        in_use = self._catalog.snapshot_files()
        for file in left:
            if file in in_use:
                continue
            try:
                place = Place.of(file)
                self.engine(place.address).drop(place.collection)
            except (EngineUnavailable, UsageError) as error:
                log.warning("%s may be left over: %s", file.removeprefix(MARK), error)
        self._catalog.note_collections([])

    # Checking

    def is_there(self) -> bool:
        """Whether the collection in use, if one is, can be found."""
        snapshot = self._catalog.state().snapshot
        if snapshot is None or not is_remote(snapshot.file):
            return False
        return self._engine_of(snapshot).has(Place.of(snapshot.file).collection)

    def recount(self) -> None:
        """Note how many items the collection holds, once it holds what the database says."""
        state = self._catalog.state()
        snapshot = state.snapshot
        if snapshot is not None:
            items = self._catalog.embedded(state.generation)
            count = int(np.count_nonzero(items <= snapshot.last_item))
            if count != snapshot.items:
                self._catalog.set_snapshot(dataclasses.replace(snapshot, items=count))

    def differences(self, repair: bool = False) -> Iterator[str]:
        """Where the collection disagrees with the database, one line each; mended with ``repair``,
        for which all vectors are compared, not a sample.
        """
        state, metric = self._catalog.state_with_metric()
        snapshot = state.snapshot
        if snapshot is None:
            return
        place, engine = Place.of(snapshot.file), self._engine_of(snapshot)
        if not engine.has(place.collection):
            yield f"{place.address} has no collection {place.collection}"
            return
        pending = self._catalog.removed_after(snapshot.last_removal)
        stored = StoredVectors(self._catalog, state, metric)
        step = 1 if repair else max(1, snapshot.items // SAMPLE)
        first = 1
        for items, vectors in stored.chunks(snapshot.last_item):
            last = int(items[-1])
            there = engine.items(place.collection, first, last)
            first = last + 1
            wrong = np.setdiff1d(items, there)
            for item in wrong:
                yield f"{place.address}: item {item} is missing"
            differing = self._differing(engine, place, items[::step], vectors[::step])
            for item in np.setdiff1d(differing, wrong):
                yield f"{place.address}: item {item} has another embedding than the database"
            if repair:
                mended = np.isin(items, np.union1d(wrong, differing))
                engine.put(place.collection, items[mended], vectors[mended])
            yield from self._surplus(engine, place, np.setdiff1d(there, items), pending, repair)
        rest = engine.items(place.collection, first, snapshot.last_item)
        yield from self._surplus(engine, place, rest, pending, repair)

    @staticmethod
    def _differing(engine: Milvus, place: Place, items: IntArray, vectors: FloatArray) -> IntArray:
        numbers, held = engine.vectors(place.collection, items)
        expected = vectors[np.searchsorted(items, numbers)]
        if held.shape != expected.shape:
            return numbers
        close = (np.abs(held - expected) <= ROUNDING).all(axis=1)
        differing: IntArray = numbers[~close]
        return differing

    @staticmethod
    def _surplus(
        engine: Milvus, place: Place, there: IntArray, pending: IntArray, repair: bool
    ) -> Iterator[str]:
        surplus = np.setdiff1d(there, pending)
        for item in surplus:
            yield f"{place.address}: item {item} is not in the database"
        if repair:
            engine.take_out(place.collection, surplus)
