"""Compaction: when a new index file is due, how it is made, and what it replaces.

Knows nothing of how items are searched and of what stands in an index file.
"""

from __future__ import annotations

import logging
import re
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from siamese_search.decision.metric import Metric
from siamese_search.errors import DiskFull, SiaSearchError, StorageError, UsageError
from siamese_search.files import delete, is_left_behind, left_alone, sync_folder
from siamese_search.gallery.copies import sweep_copies, sweep_kept
from siamese_search.gallery.opening import DATABASE
from siamese_search.gallery.snapshots import INDEX_NAME, Snapshots, dimension_of, names_index
from siamese_search.index import Previous, Wanted, Written
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

# The files that siasearch makes, with their temporary names; nothing else is ever deleted.
DATABASE_NAME = re.compile(r"\.gallery\.db\.[0-9a-f]{8}(-journal)?")


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

    def compact(self, wait: bool = True, wanted: Wanted | None = None) -> None:
        """Write a snapshot of all that is enrolled, switch to it, and drop what it replaces.

        ``wanted`` is kept for later compactions; without it, what was wanted last holds. Raises
        UsageError where the recipe does not fit what is enrolled.
        """
        with self.maintenance(wait):
            self._catalog.prune()
            self._sweep()  # what takes the space of the new file
            while not self._make(wanted):  # calibrated meanwhile
                pass
            self._snapshots.release()  # what it has in memory is no longer of use
            if wanted is not None:
                self._catalog.want_index(wanted.recipe, wanted.recall)
            self._sweep()
            if wait:  # a command of its own, which may take its time
                sweep_copies(self._folder, self._catalog)
                sweep_kept(self._folder, self._catalog)

    def wanted(self, recipe: str | None, recall: float | None) -> Wanted | None:
        """What is asked for, with what was wanted before where one is None; None where both are."""
        if recipe is None and recall is None:
            return None
        kept = self._catalog.wanted_index()
        before = Wanted(kept.recipe, kept.recall) if kept else Wanted()
        return before.changed(recipe, recall)

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
        if not (self._catalog.writable and self.is_due(underway)):
            return False
        try:
            if changed is not None and self._catalog.totals()[1] >= MANY_ITEMS:
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
            log.warning("the index file is left as it was: %s", error)
            return False
        return True

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
                env=environment(),
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
