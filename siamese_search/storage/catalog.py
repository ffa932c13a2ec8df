"""The catalog: what ``gallery.db``, the truth of a gallery, holds, and how it is asked and changed.

Every change is one transaction.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.errors import UsageError
from siamese_search.records import Copy, NewItem
from siamese_search.storage.calibrations import Calibrations
from siamese_search.storage.database import BUSY_SECONDS, PAUSE, create, is_busy
from siamese_search.storage.facts import Enrolled, Facts, KeptProbe, Source
from siamese_search.storage.faults import faults_in
from siamese_search.storage.generations import CHUNK
from siamese_search.storage.history import History, new_run
from siamese_search.storage.listing import Listing


class Catalog(History, Calibrations, Listing):
    """An open ``gallery.db``. Threads may share it; other processes may have it open too."""

    @classmethod
    def create(cls, path: Path, fingerprint: str, encoder: str, dimension: int) -> None:
        """Make an empty gallery's database; whole or not at all. Keeps one that is there."""

        def fill(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO generations (id, fingerprint, encoder, dimension) VALUES (1, ?, ?, ?)",
                (fingerprint, encoder, dimension),
            )
            db.execute("INSERT INTO settings (key, value) VALUES ('generation', 1)")

        create(path, fill)

    # Totals

    def totals(self) -> tuple[int, int]:
        """How many identities and items there are."""
        with self._guard():
            return self._setting("identities"), self._setting("items")

    def count_after(self, item: int) -> int:
        """How many items have a number above that."""
        with self._guard():
            return self._value("SELECT count(*) FROM items WHERE id > ?", (item,))

    # Enrolment and edits

    def add(
        self,
        items: Sequence[NewItem],
        embeddings: FloatArray,
        fingerprint: str,
        before_commit: Callable[[Sequence[int | None]], None] = lambda numbers: None,
        *,
        distractor: bool = False,
        places: Sequence[FloatArray | None] = (),
        run: str | None = None,
    ) -> list[int | None]:
        """Enrol items with their embeddings (n, dimension) in one transaction; with places, see
        ``closer.py``, if any are given.

        Returns their numbers; None for content that is enrolled already, and for an identity that
        is a distractor where these are none, or the other way round. ``before_commit`` gets them
        while no other process can write. Transactions of one ``run`` are one change. Raises
        GalleryMismatch where the encoder that embedded them, by its fingerprint, is not the active
        one.
        """
        added = datetime.now(UTC).isoformat(timespec="seconds")
        vectors = np.ascontiguousarray(embeddings, "<f4")
        numbers: list[int | None] = []
        with self.writing():
            self.note_home()
            generation = self._require_active(fingerprint)
            for item, vector in zip(items, vectors, strict=True):
                number = self._add(item, added, distractor)
                if number is not None:
                    self._store(generation, [(number, vector.tobytes())])
                numbers.append(number)
            self._store_places(
                generation,
                [(n, one) for n, one in zip(numbers, places, strict=False) if n is not None],
            )
            made = [number for number in numbers if number is not None]
            if made:
                names = {
                    item.identity for item, n in zip(items, numbers, strict=True) if n is not None
                }
                changing = self._changing(run or new_run(), "add", len(made), _only(names))
                with changing as change:
                    self._note_added(change, made)
                    self._drop_probes(change, self._kept_probes(made))
            before_commit(numbers)
        return numbers

    def _add(self, item: NewItem, added: str, distractor: bool) -> int | None:
        content = bytes.fromhex(item.content)
        if self._value("SELECT id FROM items WHERE content = ?", (content,)):
            return None
        identity, kind = self._identity(item.identity, distractor)
        if kind != distractor:
            return None
        facts = Facts(
            item.identity, distractor, content, item.source, item.copy, item.size, added, None,
            item.metadata,
        )  # fmt: skip
        number = self._db.execute(
            "INSERT INTO items (identity, content, source, copy, size, added, checksum)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (identity, content, item.source, item.copy, item.size, added, facts.checksum),
        ).lastrowid
        self._db.executemany(
            "INSERT INTO metadata (item, key, value) VALUES (?, ?, ?)",
            [(number, key, value) for key, value in item.metadata.items()],
        )
        return number

    def annotate(
        self,
        sources: Mapping[int, str],
        metadata: Mapping[int, Mapping[str, str]],
        run: str | None = None,
    ) -> None:
        """Note where items' images lie now, and metadata to add or replace, by item number.

        Metadata are part of the change of a ``run``.
        """
        numbers = sources.keys() | metadata.keys()
        with self.writing():
            self.note_home()
            # Reading them raises: what is damaged must not be sealed.
            described = [
                item.number
                for item in self.items(numbers)
                if {**item.metadata, **metadata.get(item.number, {})} != item.metadata
            ]
            if described:
                changing = self._changing(run or new_run(), "annotate", len(described))
                with changing as change:
                    self._keep(change, described)
            self._db.executemany(
                "UPDATE items SET source = ? WHERE id = ?",
                [(source, number) for number, source in sources.items()],
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO metadata (item, key, value)"
                " SELECT id, ?, ? FROM items WHERE id = ?",
                [
                    (key, value, number)
                    for number, pairs in metadata.items()
                    for key, value in pairs.items()
                ],
            )
            self._seal(numbers)

    def note_copies(
        self, copies: Mapping[int, str], before_commit: Callable[[set[int]], object]
    ) -> int:
        """Note the paths of copies, by item number, of items that have none; returns how many.

        ``before_commit`` gets the numbers of these items while no other process can write.
        """
        with self.writing():
            # Reading them raises: what is damaged must not be sealed.
            without = {item.number for item in self.items(copies) if item.copy is None}
            self._db.executemany(
                "UPDATE items SET copy = ? WHERE id = ?",
                [(copies[number], number) for number in without],
            )
            self._seal(without)
            before_commit(without)
        return len(without)

    def remove(self, numbers: Sequence[int]) -> list[int]:
        """Remove items, damaged ones as well, and identities left without any. Returns the numbers
        of those that were there.
        """
        with self.writing():
            there = self.owners(numbers)
            if there:
                names = {identity for identity, _ in there.values()}
                changing = self._changing(new_run(), "remove", len(there), _only(names))
                with changing as change:
                    self._take_out(change, list(there))
        return list(there)

    def relabel(self, numbers: Sequence[int], new: str, merge: bool = True) -> int:
        """Give items another identity, merging with it where it exists. Returns how many had
        another one.

        A new name for distractors alone is a distractor; one that exists stays what it is. Without
        ``merge``, raises UsageError where it exists.
        """
        with self.writing():
            if not merge and self.count_items(new):
                raise UsageError(f"{new!r} exists already: merge the two, or take another name")
            relabelled = [item for item in self.items(numbers) if item.identity != new]
            if not relabelled:
                return 0
            old = {item.identity for item in relabelled}
            facts = "relabel", len(relabelled), _only(old), new
            with self._changing(new_run(), *facts) as change:
                self._keep(change, [item.number for item in relabelled])
                identity, _ = self._identity(new, distractor=self.distractors(old) == old)
                self._db.executemany(
                    "UPDATE items SET was = nullif(coalesce(was, ?), ?), identity = ? WHERE id = ?",
                    [(item.identity, new, identity, item.number) for item in relabelled],
                )
                self._seal(item.number for item in relabelled)
                self._drop_empty(old)
        return len(relabelled)

    # Unknowns

    def keep_unknown(
        self,
        content: str,
        source: str,
        fingerprint: str,
        vector: FloatArray,
        before_commit: Callable[[], object] = lambda: None,
    ) -> None:
        """Keep a probe that nobody fitted, unless it is enrolled; its place and embedding are
        brought up to date.

        ``before_commit`` writes its picture, while no other process can write. Raises
        GalleryMismatch where the encoder that embedded it, by its fingerprint, is not the active
        one.
        """
        added = datetime.now(UTC).isoformat(timespec="seconds")
        stored = np.ascontiguousarray(vector, "<f4").tobytes()
        with self.writing():
            generation = self._require_active(fingerprint)
            self._db.execute(
                "INSERT INTO unknowns (content, source, added, generation, vector)"
                " SELECT ?, ?, ?, ?, ?"
                " WHERE NOT EXISTS (SELECT 1 FROM items WHERE content = ?)"
                " ON CONFLICT (content) DO UPDATE SET"
                " source = excluded.source, generation = excluded.generation,"
                " vector = excluded.vector",
                (bytes.fromhex(content), source, added, generation, stored, bytes.fromhex(content)),
            )
            before_commit()

    def unknowns(self, latest: int = -1) -> list[KeptProbe]:
        """The probes that were kept, in the order in which they were; the ``latest`` or all."""
        with self._guard():
            rows = self._db.execute(
                "SELECT id, content, source, generation, vector FROM unknowns"
                " ORDER BY id DESC LIMIT ?",
                (latest,),
            ).fetchall()
        return [
            KeptProbe(number, content.hex(), source, generation, np.frombuffer(vector, "<f4"))
            for number, content, source, generation, vector in reversed(rows)
        ]

    def count_unknowns(self) -> int:
        """How many probes are kept."""
        with self._guard():
            return self._value("SELECT count(*) FROM unknowns")

    def unknown_source(self, number: int) -> str | None:
        """Where the picture of a kept probe lies; None where there is no such probe."""
        with self._guard():
            row = self._db.execute("SELECT source FROM unknowns WHERE id = ?", (number,)).fetchone()
        return row and str(row[0])

    def drop_unknowns(self, numbers: Iterable[int], run: str | None = None) -> int:
        """Forget kept probes; returns how many there were.

        With ``run`` that is part of a change that enrolled them.
        """
        wanted = list(numbers)
        with self.writing():
            count = self._value(
                "SELECT count(*) FROM unknowns WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(wanted),),
            )
            if count:
                with self._changing(run or new_run(), "drop", count) as change:
                    self._drop_probes(change, wanted)
        return count

    # Look-ups

    def known(self, contents: Iterable[str]) -> dict[str, Enrolled]:
        """For content that is enrolled: whose item it is, by its hash."""
        sql = (
            "SELECT items.id, name, source, was, copy IS NOT NULL, EXISTS (SELECT 1 FROM embeddings"
            " WHERE item = items.id AND generation ="
            " (SELECT value FROM settings WHERE key = 'generation'))"
            " FROM items JOIN identities ON identities.id = items.identity WHERE content = ?"
        )
        with self._guard():
            rows = {c: self._db.execute(sql, (bytes.fromhex(c),)).fetchone() for c in contents}
        return {content: Enrolled(*row) for content, row in rows.items() if row}

    def owners(self, numbers: Iterable[int]) -> dict[int, tuple[str, str | None]]:
        """(identity, source) of items, by number; removed ones are left out."""
        with self._guard():
            return {
                number: (identity, self.located(source, size))
                for number, identity, source, size in self._by_numbers(
                    "SELECT items.id, name, source, size FROM items JOIN identities"
                    " ON identities.id = items.identity WHERE items.id IN",
                    numbers,
                )
            }

    def identity_numbers(self) -> tuple[IntArray, IntArray]:
        """All items (n,), ascending, and the numbers of their identities (n,), -1 for those that
        are never named.
        """
        with self._guard():
            rows = self._db.execute(
                "SELECT items.id, CASE WHEN distractor THEN -1 ELSE identity END FROM items"
                " JOIN identities ON identities.id = identity ORDER BY items.id"
            ).fetchall()
        found = np.array(rows, np.int64).reshape(-1, 2)
        return found[:, 0].copy(), found[:, 1].copy()

    def members(self, identities: Iterable[str]) -> dict[str, IntArray]:
        """The numbers of the items of identities, by name, ascending."""
        wanted = json.dumps(list(identities))
        found: dict[str, list[int]] = {}
        with self._guard():
            for name, number in self._db.execute(
                "SELECT name, items.id FROM items JOIN identities"
                " ON identities.id = items.identity"
                " WHERE name IN (SELECT value FROM json_each(?)) ORDER BY items.id",
                (wanted,),
            ):
                found.setdefault(name, []).append(number)
        return {name: np.array(numbers, np.int64) for name, numbers in found.items()}

    def several(self, allowed: IntArray | None = None) -> dict[str, int]:
        """The identities with several items, or several of those ``allowed``, by name, with a
        number that changes with the set of their items.
        """
        mixed = "sum(1 + (id * 2654435761) % 4294967291)"
        which = "" if allowed is None else "WHERE id IN (SELECT value FROM json_each(?))"
        wanted = () if allowed is None else (json.dumps(allowed.tolist()),)
        with self._guard():
            rows = self._db.execute(
                f"SELECT name, mark FROM (SELECT identity, {mixed} AS mark FROM items {which}"
                " GROUP BY identity HAVING count(*) > 1) AS found"
                " JOIN identities ON identities.id = found.identity ORDER BY name",
                wanted,
            )
            return dict(rows.fetchall())

    def identities(self) -> list[tuple[str, int]]:
        """Every identity with its number of items, by name."""
        with self._guard():
            return self._db.execute(
                "SELECT name, count(*) FROM identities JOIN items ON items.identity = identities.id"
                " GROUP BY identities.id ORDER BY name"
            ).fetchall()

    def where(self, conditions: Mapping[str, str]) -> IntArray:
        """The numbers of the items whose metadata equal all conditions, ascending."""
        if not conditions:
            raise UsageError("a filter needs at least one condition, as key=value")
        one = "SELECT item FROM metadata WHERE key = ? AND value = ?"
        sql = " INTERSECT ".join([one] * len(conditions)) + " ORDER BY 1"
        with self._guard():
            parameters = [text for condition in conditions.items() for text in condition]
            return np.array([row[0] for row in self._db.execute(sql, parameters)], np.int64)

    def copies(self) -> list[Copy]:
        """The images kept as copies."""
        with self._guard():
            rows = self._db.execute("SELECT id, copy, content FROM items WHERE copy IS NOT NULL")
            return [Copy(number, path, content.hex()) for number, path, content in rows]

    def copies_of(self, contents: Iterable[str]) -> set[str]:
        """The paths of the copies that are kept of images, by their hashes."""
        sql = "SELECT copy FROM items WHERE content = ? AND copy IS NOT NULL"
        with self._guard():
            rows = [self._db.execute(sql, (bytes.fromhex(c),)).fetchone() for c in set(contents)]
        return {row[0] for row in rows if row}

    def need_files(self, contents: Iterable[str]) -> set[str]:
        """Those contents, by their hash, of which an item, a kept probe, or what can be taken back
        needs a file, since the gallery has no copy.
        """
        kept = (
            "SELECT content FROM unknowns UNION SELECT content FROM undo_unknowns"
            " UNION SELECT content FROM undo_items WHERE copy IS NULL"
        )
        item = "SELECT 1 FROM items WHERE content = ? AND copy IS NULL"
        with self._guard():
            needed = {content.hex() for (content,) in self._db.execute(kept)}
            return {
                one for one in contents if one in needed or self._value(item, (bytes.fromhex(one),))
            }

    def sources(self) -> Iterator[Source]:
        """The files that items were enrolled from, in short reads of their own."""
        last = 0
        while True:
            with self._guard():
                rows = self._db.execute(
                    "SELECT id, source, content, size, added, copy IS NOT NULL FROM items"
                    " WHERE id > ? AND source IS NOT NULL ORDER BY id LIMIT ?",
                    (last, CHUNK),
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            for number, path, content, size, added, copied in rows:
                place = self.located(path, size) or path
                yield Source(number, path, place, content.hex(), size, added, bool(copied))

    def faults(self) -> Iterator[str]:
        """What is wrong inside the database, one line each."""
        with self._checking:  # others go on meanwhile: it may take minutes
            self.require_open()
            deadline = time.monotonic() + BUSY_SECONDS
            while True:
                found: list[str] = []
                try:
                    found.extend(faults_in(self._db))
                except sqlite3.DatabaseError as error:
                    # A thread that waits to write lets the connection wait for nobody.
                    if is_busy(error) and time.monotonic() < deadline:
                        time.sleep(PAUSE)
                        continue
                    found.append(str(error))
                break
        yield from (f"{self.path}: {fault}" for fault in found)


def _only(names: set[str]) -> str | None:
    """The identity of items that have these, None where they are several."""
    return next(iter(names)) if len(names) == 1 else None
