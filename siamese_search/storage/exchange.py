"""Exchange: a gallery's database as it is at one moment, and items that come with all that is known
of them.

Opened by a connection of its own, since it may take minutes. Knows nothing of archives and tables.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from siamese_search.records import Copy
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.database import Database, connect, mapped

CHUNK = 1024
# What belongs to SQLite, or to the library that migrates: it may differ between their releases.
OTHERS = ("sqlite_", "_sqlite_")


def copy_database(source: Database, target: Path) -> None:
    """Write a database as it is at one moment into a new file, while others write.

    It is one read transaction: whoever commits meanwhile waits until the pages are copied.
    """
    mode = "rw" if source.writable else "ro"  # what a crash has left can be taken back by "rw" only
    with (
        mapped(source.path),
        closing(connect(source.path, mode)) as db,
        closing(connect(target, "rwc")) as copy,
    ):
        copy.execute("PRAGMA journal_mode = OFF")  # a copy that is not whole is deleted
        copy.execute("PRAGMA synchronous = OFF")
        db.backup(copy)


class Exchange(Catalog):
    """A ``gallery.db`` that is handed on, or takes in what somebody has handed on."""

    def strangeness(self) -> str | None:
        """What the database has beside the tables of a gallery, or otherwise: a trigger, say, which
        would run whenever items are changed. None where there is nothing.
        """
        from siamese_search.storage.schema import migrate  # its library takes time to load

        with closing(sqlite3.connect(":memory:")) as new:
            migrate(new)
            expected = _schema(new)
        with self._guard():
            found = _schema(self._db)
        differing = sorted(name for name, _ in expected.items() ^ found.items())
        return f"has an unknown {differing[0]!r}" if differing else None

    def make_portable(self) -> None:
        """Leave out what is of use in its folder alone, and what was removed: index files' rows,
        and the last changes.
        """
        with self.writing():
            self._forget()
            self._db.execute("DELETE FROM snapshots")
            self._db.execute("DELETE FROM removals")
        self.take_dropped_copies()

    def copies_by_number(self) -> Iterator[Copy]:
        """The images kept as copies, in short reads of their own."""
        last = 0
        while True:
            with self._guard():
                rows = self._db.execute(
                    "SELECT id, copy, content FROM items WHERE id > ? AND copy IS NOT NULL"
                    " ORDER BY id LIMIT ?",
                    (last, CHUNK),
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            for number, path, content in rows:
                yield Copy(number, path, content.hex())

    def forget_copies(self, numbers: list[int] | None = None) -> None:
        """Note that there are no copies of the images of items, of any where none are named."""
        wanted = [copy.item for copy in self.copies_by_number()] if numbers is None else numbers
        with self.writing():
            for start in range(0, len(wanted), CHUNK):
                some = wanted[start : start + CHUNK]
                self._db.execute(
                    "UPDATE items SET copy = NULL WHERE id IN (SELECT value FROM json_each(?))",
                    (json.dumps(some),),
                )
                self._seal(some)

    def place_kept(self, content: str, name: str, path: str) -> None:
        """Note where a picture lies now that a gallery has kept under a name, because nobody
        fitted, by its SHA-256 (hex).
        """
        there = "content = ? AND (source LIKE '%/' || ? OR source LIKE '%\\' || ?)"
        facts = bytes.fromhex(content), name, name
        with self.writing():
            self._db.execute(f"UPDATE unknowns SET source = ? WHERE {there}", (path, *facts))
            moved = self._db.execute(f"SELECT id FROM items WHERE {there}", facts).fetchall()
            numbers = [number for (number,) in moved]
            self.items(numbers)  # raises: what is damaged must not be sealed
            self._db.executemany(
                "UPDATE items SET source = ? WHERE id = ?", [(path, one) for one in numbers]
            )
            self._seal(numbers)


def _schema(db: sqlite3.Connection) -> dict[tuple[str, str], str | None]:
    """The definition of each table, index, trigger and view, by its kind and name."""
    rows = db.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    return {(kind, name): sql for kind, name, sql in rows if not name.startswith(OTHERS)}
