"""Compaction: when a new index file is due, how it is made, and what it replaces.

Knows nothing of how items are searched and of what stands in an index file.
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
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from siamese_search.decision.metric import Metric
from siamese_search.errors import DiskFull, SiaSearchError, StorageError, UsageError
from siamese_search.files import delete, is_left_behind, left_alone, sync_folder
from siamese_search.gallery.copies import sweep_copies, sweep_kept
from siamese_search.gallery.opening import DATABASE
from siamese_search.gallery.snapshots import INDEX_NAME, Snapshots, names_index
from siamese_search.gallery.stored import dimension_of
from siamese_search.index import AUTO, Previous, Wanted, Written
from siamese_search.index.milvus import ADDRESS
from siamese_search.processes import PLACE, command, environment
from siamese_search.records import Snapshot
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.database import LOCK_NAME
from siamese_search.storage.generations import MetricChanged, State

log = logging.getLogger("siasearch")

# Changes to fold in before compaction pays: an eighth of the base keeps its cost per item constant,
# but what is pending must be read on opening, and is searched in full.
PENDING_AT_LEAST = 256
PENDING_SHARE = 8
PENDING_AT_MOST = 20_000
PENDING_UNDERWAY = 4096
# Where somebody waits for a long compaction, a quarter: all that are made while a gallery grows in
# blocks write five times its items at most, and most of them go on with what was learned.
WAITING_SHARE = 4
FEW_CHANGES = 1000  # for which nobody wants to wait while an index of many items is made
MANY_ITEMS = 50_000

FAISS, MILVUS = "faiss", "milvus"

# The files that siasearch makes, with their temporary names; nothing else is ever deleted.
DATABASE_NAME = re.compile(r"\.gallery\.db\.[0-9a-f]{8}(-journal)?")


@dataclass(frozen=True)
class Chosen:
    """The engine that is chosen: Milvus at an address, FAISS in files where that is None."""

    address: str | None


class Compaction:
    """Writes the index files of one gallery folder.

    With ``background`` long compactions that nobody should wait for are done by a process that it
    starts, and that outlives this one.
    """

    def __init__(
        self, folder: Path, catalog: Catalog, snapshots: Snapshots, background: bool = False
    ) -> None:
        self._folder = folder
        self._catalog = catalog
        self._snapshots = snapshots
        self._background = background
        self._failed = 0  # pending changes with which another process could not compact

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

    def compact(
        self,
        wait: bool = True,
        wanted: Wanted | None = None,
        chosen: Chosen | None = None,
        anew: bool = False,
    ) -> None:
        """Write a snapshot of all that is enrolled, switch to it, and drop what it replaces; where
        it is a collection, write only what has changed, unless something is asked for, or ``anew``.

        ``wanted`` and the engine ``chosen`` are kept for later compactions; without them, what was
        wanted last holds. Raises UsageError where the recipe does not fit what is enrolled.
        """
        with self.maintenance(wait):
            self._catalog.prune()
            self._sweep()  # what takes the space of the new file
            anew = anew or wanted is not None or chosen is not None
            address = chosen.address if chosen else self._catalog.engine()
            if anew or address is None or not self._snapshots.remote.apply():
                self._write_anew(wanted, address)
            self._snapshots.release()  # what it has in memory is no longer of use
            if wanted is not None:
                self._catalog.want_index(wanted.recipe, wanted.recall)
            if address != self._catalog.engine():
                self._catalog.want_engine(address)
            self._sweep()
            if wait:  # a command of its own, which may take its time
                sweep_copies(self._folder, self._catalog)
                sweep_kept(self._folder, self._catalog)
                self._catalog.drop_unwanted_places()

    def chosen(self, engine: str | None, address: str | None) -> Chosen | None:
        """The engine that is asked for; None where none is. Raises UsageError for what is none."""
        if engine is None and address is None:
            return None
        if engine not in (None, FAISS, MILVUS):
            raise UsageError(f"engine is {engine!r}: take {FAISS} or {MILVUS}")
        if engine == FAISS:
            if address is not None:
                raise UsageError(f"{FAISS} keeps its index in the gallery: leave out the address")
            return Chosen(None)
        given = address or self._catalog.engine() or os.environ.get(ADDRESS)
        if not given:
            raise UsageError(
                f"where is Milvus? Give --uri, or {ADDRESS}: http://HOST:19530, or milvus.db for a"
                " milvus-lite file"
            )
        kept = given == self._catalog.engine()
        return Chosen(given if kept else self._snapshots.remote.address(given))

    def wanted(
        self, recipe: str | None, recall: float | None, chosen: Chosen | None = None
    ) -> Wanted | None:
        """What is asked for, with what was wanted before where one is None; None where both are.

        A recipe is of its engine: of another one that is ``chosen`` it is auto until it is given.
        """
        kept = self._catalog.wanted_index()
        moved = chosen is not None and chosen.address != self._catalog.engine()
        if recipe is None and recall is None and not (moved and kept):
            return None
        before = Wanted(AUTO if moved else kept.recipe, kept.recall) if kept else Wanted()
        return before.changed(recipe, recall)

    def _write_anew(self, wanted: Wanted | None, address: str | None) -> None:
        """Write a snapshot of all, as often as the gallery is calibrated meanwhile."""
        snapshot = self._catalog.state().snapshot
        if address is None:
            while not self._make(wanted):
                pass
        else:
            while not self._make_elsewhere(address, wanted):
                pass
        remote = self._snapshots.remote
        # A copied gallery leaves alone what is that of the one it was copied from.
        ours = snapshot is not None and remote.is_own(snapshot)
        remote.forget(snapshot.file if ours and snapshot else None)

    def _make_elsewhere(self, address: str, wanted: Wanted | None) -> bool:
        """Write a collection and switch to it; false where another metric is in use by then."""
        state, metric = self._catalog.state_with_metric()
        kept = self._catalog.wanted_index()
        if wanted is None and kept is not None:
            wanted = Wanted(kept.recipe, kept.recall)
        written = self._snapshots.remote.write(address, state, metric, wanted)
        try:
            self._catalog.set_snapshot(written)
        except MetricChanged:
            return False
        return True

    def _make(self, wanted: Wanted | None) -> bool:
        """Write a snapshot and switch to it; false where another metric is in use by then."""
        state, metric = self._catalog.state_with_metric()
        # A name of its own: the file that the database names is never written to.
        path = self._folder / f"index-{state.generation.number}-{secrets.token_hex(6)}.faiss"
        written = self._write(path, state, metric, wanted)
        try:
            return self._switch_to(path, written, state)
        except BaseException:
            # A commit may be there although the disk reported an error. What cannot be told now,
            # the next compaction sweeps.
            with suppress(SiaSearchError):
                if path.name not in self._catalog.snapshot_files():
                    delete(path)
            raise

    def _switch_to(self, path: Path, written: Written, state: State) -> bool:
        """Make a file that was written for a state the one in use; false, and it is deleted, where
        another metric is in use by now.
        """
        sync_folder(self._folder)
        status = path.stat()
        snapshot = Snapshot(
            generation=state.generation.number,
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
            metric=state.metric,
        )
        try:
            self._catalog.set_snapshot(snapshot)
        except MetricChanged:
            delete(path)
            return False
        return True

    def _write(
        self, path: Path, state: State, metric: Metric | None, wanted: Wanted | None
    ) -> Written:
        """Write an index file of all that is enrolled."""
        snapshot = state.snapshot
        previous = None
        if snapshot is not None and names_index(snapshot.file) and snapshot.metric == state.metric:
            previous = Previous(self._folder / snapshot.file, snapshot.sha256)

        def write(recipe: Wanted) -> Written:
            chunks = self._snapshots.projected(state, metric)
            engine = self._snapshots.engine
            return engine.write(path, dimension_of(state, metric), chunks, recipe, previous)

        kept = self._catalog.wanted_index()
        if wanted is not None or kept is None:
            return write(wanted or Wanted())
        try:
            return write(Wanted(kept.recipe, kept.recall))
        except UsageError as error:  # it fitted what was enrolled then
            log.warning("%s; the index is made by the recipe auto this time", error)
            return write(Wanted())

    # When

    def is_due(self, underway: bool = False) -> bool:
        """Whether enough has changed since the last snapshot to write a new one.

        ``underway`` says that more is to come, so that only what has doubled is worth it.
        """
        state = self._catalog.state()
        items, pending = _indexed(state), pending_in(state)
        if underway:
            return pending > max(PENDING_UNDERWAY, items)
        enough = max(PENDING_AT_LEAST, min(items // PENDING_SHARE, PENDING_AT_MOST))
        return pending > (enough if state.snapshot else 0)

    def compact_if_due(
        self, *, changed: int | None = None, in_blocks: bool = False, underway: bool = False
    ) -> bool:
        """Compact where enough has changed and no other process does; returns whether it did.

        Whoever ``changed`` a few items, or many ``in_blocks`` of which more may come, does not wait
        for an index of many items each time: another process makes it, where that is allowed; else
        it is left until a quarter as much has changed as it holds. What has changed is committed,
        and found without it, so leaving or failing here loses nothing.
        """
        if not (self._catalog.writable and self._is_due(underway)):
            return False
        try:
            quick = self._takes_changes(self._catalog.state())
            if not quick and changed is not None and self._catalog.totals()[1] >= MANY_ITEMS:
                pressing = self._is_pressing()
                few = changed < FEW_CHANGES
                if (few or not pressing) and self._may_start_others():
                    self._compact_elsewhere()
                    return False
                if (few or in_blocks) and not pressing:
                    return False
            self.compact(wait=False)
        except StorageError as error:
            log.info("the index file is left as it was: %s", error)
            return False
        except SiaSearchError as error:
            log.warning("the index is left as it was: %s", error)
            return False
        return True

    def _is_due(self, underway: bool) -> bool:
        """As ``is_due``; a collection takes each change at once."""
        state = self._catalog.state()
        if not self._takes_changes(state):
            return self.is_due(underway)
        return pending_in(state) > (PENDING_UNDERWAY if underway else 0)

    def _takes_changes(self, state: State) -> bool:
        return self._catalog.engine() is not None and self._snapshots.remote.takes_changes(state)

    def _is_pressing(self) -> bool:
        """Whether so much has changed that somebody must wait for it."""
        state = self._catalog.state()
        return pending_in(state) > _indexed(state) // WAITING_SHARE

    # By another process

    def _may_start_others(self) -> bool:
        """Whether it is allowed, and there is a Python to start."""
        return self._background and bool(sys.executable) and not getattr(sys, "frozen", False)

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
        nowhere = subprocess.DEVNULL
        try:
            # A pipe would break when this process ends.
            said = tempfile.TemporaryFile()  # noqa: SIM115  closed in the end by ``follow``
        except OSError as error:
            raise StorageError(f"no temporary file can be made: {error.strerror}") from error
        try:
            started = subprocess.Popen(
                (*command(), "compact", "--if-due", "-g", folder),
                stdin=nowhere,
                stdout=nowhere,
                stderr=said,
                cwd=PLACE,
                env=environment(self._catalog.path),
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

    # What is left over

    @contextmanager
    def making_room(self) -> Iterator[None]:
        """Where the disk gets full, delete what a process that is gone has left, and say so."""
        try:
            yield
        except DiskFull as error:
            left = 0
            with suppress(StorageError), self.maintenance(wait=False):
                left = self._sweep()
            if left:
                raise DiskFull(f"{error}; left-over files were deleted: try again") from error
            raise

    def _sweep(self) -> int:
        """Delete what the database does not name: replaced files, half-written ones. Returns how
        many there were.
        """
        known = self._catalog.snapshot_files()
        found = [
            path
            for path in self._folder.glob("*index-*.faiss")
            if INDEX_NAME.fullmatch(path.name) and path.name not in known
        ]
        with left_alone(self._folder) as alone:
            found += [
                path
                for path in self._folder.glob(".gallery.db.*")
                if DATABASE_NAME.fullmatch(path.name) and is_left_behind(path, alone)
            ]
            for path in found:
                delete(path)
        if found:  # what is removed for good must not come back
            with suppress(OSError):
                sync_folder(self._folder)
        return len(found)


def index_new(folder: Path, background: bool) -> None:
    """Write the index file of a gallery that was just made, where it can be; see ``Compaction``."""
    folder = folder.absolute()
    with closing(Catalog(folder / DATABASE)) as catalog:
        snapshots = Snapshots(folder, catalog)
        Compaction(folder, catalog, snapshots, background).compact_if_due(changed=1)
        snapshots.release()


def pending_in(state: State) -> int:
    """How many items were added or removed since the snapshot was written."""
    snapshot = state.snapshot
    seen = (snapshot.last_item, snapshot.last_removal) if snapshot else (0, 0)
    return state.last_item - seen[0] + state.last_removal - seen[1]


def _indexed(state: State) -> int:
    """How many items the snapshot holds."""
    return state.snapshot.items if state.snapshot else 0
