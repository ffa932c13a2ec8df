"""A gallery's database file: opening, format, transactions, and SQLite's errors as ours.

A rollback journal with full syncing, never WAL: WAL carries a corruption race in SQLite before
3.51.3, and a gallery may be opened by any library. Of the tables it knows
``settings`` alone.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from siamese_search.errors import (
    DiskFull,
    GalleryDamaged,
    GalleryFormatError,
    GalleryMissing,
    StorageError,
    UsageError,
)
from siamese_search.files import make_folder, sync_folder, underway
from siamese_search.forks import Followed, leave

FORMAT = 7
APPLICATION_ID = 0x53494153  # "SIAS": `file gallery.db` tells whose it is
PAGE_BYTES = 16384  # a 512-d float32 vector is 2 KiB; a 4 KiB page would hold just one
BUSY_SECONDS = 60.0
PAUSE = 0.005  # seconds between two tries to write
LOCK_NAME = ".maintenance.lock"  # held while a gallery is made, compacted or rebuilt
# Random, not counted: what was restored from a backup and then changed is no state that was before.
NEW_STAMP = (
    "INSERT OR REPLACE INTO settings (key, value) VALUES ('version', lower(hex(randomblob(8))))"
)


class Database(Followed):
    """An open database. Threads may share it; other processes may have it open too. A forked
    process opens it anew.
    """

    def __init__(self, path: Path, spill: bool = True) -> None:
        """Without ``spill``, what a transaction writes stays in memory until it is committed, and
        others can read as long.
        """
        self.path = path
        self._spill = spill
        self._lock = threading.RLock()
        self._checking = threading.RLock()  # held by a check, which goes without the lock
        self._open()
        self.follow_forks()

    def _open(self) -> None:
        self._process = os.getpid()
        self._closed = False
        path = self.path
        self.writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
        self._file = _identity(path)  # before it is opened: what is replaced meanwhile is noticed
        with mapped(path):
            self._db = connect(path, "rw" if self.writable else "ro")
            try:
                self._check_owner()
                if self.writable:
                    _make_durable(self._db)
                if not self._spill:
                    self._db.execute("PRAGMA cache_spill = OFF")
                self._check_format()
            except BaseException:
                self._db.close()
                raise

    def _check_owner(self) -> None:
        identifier = self._value("PRAGMA application_id")
        if identifier != APPLICATION_ID:
            raise GalleryDamaged(
                f"{self.path} is not a gallery's database: restore it from a backup, or take"
                " another --gallery"
            )

    def _check_format(self) -> None:
        version = self._value("PRAGMA user_version")
        if version > FORMAT:
            raise GalleryFormatError(
                f"{self.path} has format {version}, this siasearch reads up to {FORMAT}: upgrade it"
            )
        if version < 1:
            raise GalleryDamaged(
                f"{self.path} is damaged (it says no format): restore it from a backup"
            )
        if version < FORMAT:
            self._upgrade()

    def _upgrade(self) -> None:
        """Bring an older format to this one, in one transaction."""
        from siamese_search.storage.schema import migrate

        if not self.writable:
            raise GalleryFormatError(f"{self.path} has an older format: open it once writable")
        with self.writing():
            migrate(self._db)
            self._db.execute(f"PRAGMA user_version = {FORMAT}")

    def close(self) -> None:
        """Let go of the file, once no other thread reads or writes; closing again does nothing."""
        with self._lock, self._checking:  # in this order: a thread may check what it reads
            self._closed = True
            if self._process == os.getpid():
                self._db.close()

    @property
    def closed(self) -> bool:
        return self._closed

    def require_open(self) -> None:
        """Raise UsageError where it is closed."""
        if self._closed:
            raise UsageError(f"the gallery {self.path.parent} is closed: open it again")

    # Forks: SQLite allows no connection to be used, nor closed, by a forked process

    def before_fork(self) -> None:
        self._lock.acquire()  # so that no thread is in a transaction

    def after_fork(self) -> None:
        self._lock.release()

    def in_child(self) -> None:
        leave(self._db)
        self._lock, self._checking = threading.RLock(), threading.RLock()

    # Transactions

    @contextmanager
    def _guard(self) -> Iterator[None]:
        with self._lock, mapped(self.path):
            self.require_open()
            if self._process != os.getpid():
                self._open()
            elif not self._db.in_transaction and _identity(self.path) != self._file:
                # SQLite would go on with the file that it has open, which nobody finds any more.
                raise _replaced(self.path)
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One consistent view, also inside another. Keep it short: in rollback mode a reader holds
        up commits.
        """
        with self._guard():
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._roll_back()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All or nothing; waits up to a minute for another writer to begin, while threads of this
        process may read. Raises UsageError where this thread reads meanwhile.
        """
        self.require_writable()
        deadline = None
        while True:
            with self._guard():
                if self._db.in_transaction:
                    raise UsageError(
                        f"the gallery {self.path.parent} cannot be changed inside"
                        " `with gallery.reading()`: change it after that"
                    )
                if deadline is None:  # what threads of this process take does not count
                    deadline = time.monotonic() + BUSY_SECONDS
                try:
                    if self._begins_to_write(time.monotonic() >= deadline):
                        before = self._db.total_changes
                        yield
                        if self._db.total_changes != before:
                            self._db.execute(NEW_STAMP)
                        self._db.execute("COMMIT")
                        return
                finally:
                    self._roll_back()
            time.sleep(PAUSE)

    def _begins_to_write(self, last: bool) -> bool:
        """Whether a transaction could begin; where ``last``, SQLite's error if it could not."""
        # SQLite would wait under the guard, and so keep this process's readers waiting as well.
        self._db.execute("PRAGMA busy_timeout = 0")
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if last or not is_busy(error):
                raise
            return False
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {round(1000 * BUSY_SECONDS)}")
        return True

    def _roll_back(self) -> None:
        """End a transaction that is not committed; one that was closed inside has ended."""
        if not self._closed and self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def require_writable(self) -> None:
        """Raise StorageError where nothing can be written."""
        if not self.writable:
            raise StorageError(f"{self.path} cannot be written: check its permissions")

    def version(self) -> tuple[int, int]:
        """Changes whenever anybody, here or in another process, has changed anything."""
        with self._guard():
            # data_version tells of other connections, total_changes of this one.
            return self._value("PRAGMA data_version"), self._db.total_changes

    def stamp(self) -> str:
        """What tells this state from all others, whoever has the database open, and when."""
        with self._guard():
            row = self._db.execute("SELECT value FROM settings WHERE key = 'version'").fetchone()
        return "0" if row is None else str(row[0])

    def _value(self, sql: str, parameters: Sequence[object] = ()) -> int:
        row = self._db.execute(sql, parameters).fetchone()
        return 0 if row is None or row[0] is None else row[0]

    def _setting(self, key: str) -> int:
        with self._guard():
            return self._value("SELECT value FROM settings WHERE key = ?", (key,))


def create(path: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    """Make a database of the newest format; whole or not at all. Keeps one that is there."""
    from filelock import FileLock

    from siamese_search.storage.schema import migrate

    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with mapped(path), ExitStack() as making:
        make_folder(path.parent)
        making.enter_context(underway(path.parent))
        try:
            db = connect(temporary, "rwc")
            try:
                _make_durable(db)
                db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                db.execute("BEGIN")  # once for all: every commit waits for the disk
                migrate(db)
                fill(db)
                db.execute(NEW_STAMP)
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {FORMAT}")
                db.execute("COMMIT")
            finally:
                db.close()
            with FileLock(path.with_name(LOCK_NAME)):
                if not path.exists():
                    os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            for leftover in (temporary, Path(f"{temporary}-journal")):
                leftover.unlink(missing_ok=True)


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a database file; ``mode`` is ``ro``, ``rw`` or ``rwc`` (create)."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    db = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False
    )
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA temp_store = MEMORY")  # there may be no folder for temporary files
    return db


def _make_durable(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = TRUNCATE")  # commits by a truncation, which is synced
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = ON")  # what is removed is overwritten


def is_busy(error: sqlite3.DatabaseError) -> bool:
    """Whether another connection has what was asked for."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


@contextmanager
def mapped(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system say into our errors."""
    try:
        yield
    except UnicodeDecodeError as error:  # damage inside a name that SQLite's message quotes
        raise _damaged(path, error) from error
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or str(error).startswith(
            # What SQLite says of damaged schema and text, without a code of its own.
            ("Could not decode", "unsupported file", "malformed", "no such column", "no such table")
        ):
            raise _damaged(path, error) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StorageError(
                f"{path} is held by another process, or another gallery object of this one:"
                " try again"
            ) from error
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_DBMOVED:
            raise _replaced(path) from error
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_ROLLBACK:
            raise StorageError(
                f"{path}: a change was interrupted, and must be taken back first: run `siasearch"
                " info` once where the gallery can be written to"
            ) from error
        if code == sqlite3.SQLITE_CANTOPEN:
            raise StorageError(f"{path} cannot be opened: check its permissions") from error
        if code == sqlite3.SQLITE_FULL:
            raise DiskFull(f"{path}: the disk is full; nothing of this step was kept") from error
        if code == sqlite3.SQLITE_IOERR:  # also where only the end of a commit was not synced
            raise StorageError(
                f"{path}: {error}; whether this step was kept is not certain: look before you go on"
            ) from error
        if isinstance(error, sqlite3.OperationalError):
            raise StorageError(f"{path}: {error}; nothing of this step was kept") from error
        raise
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror}") from error


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells the file at a path from another that takes its place; None where none is there."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _replaced(path: Path) -> GalleryMissing:
    return GalleryMissing(
        f"{path} was removed or replaced while the gallery was open: open the gallery again"
    )


def _damaged(path: Path, error: Exception) -> GalleryDamaged:
    return GalleryDamaged(
        f"{path} is damaged ({error}): restore it from a backup, or save what can be read"
        " with `sqlite3 gallery.db .recover`; nothing was overwritten"
    )
