"""The catalog: what ``gallery.db``, the truth of a gallery, holds, and how it is asked and changed.

Every change is one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple
from datetime import UTC, datetime
from pathlib import Path
from zlib import crc32

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.errors import GalleryDamaged, GalleryError, GalleryMismatch, UsageError
from siamese_search.records import Calibration, Generation, Item, NewItem, Snapshot
from siamese_search.storage.database import Database, create
from siamese_search.storage.generations import CHUNK, State


class Catalog(Database):
    """An open ``gallery.db``. Threads may share it; other processes may have it open too."""

    @classmethod
    def create(cls, path: Path, fingerprint: str, encoder: str, dimension: int) -> None:
        """Make an empty gallery's database; whole or not at all. Keeps one that is there."""

        def fill(db: sqlite3.Connection) -> None:
            row = (1, fingerprint, encoder, dimension)
            db.execute("INSERT INTO generations VALUES (?, ?, ?, ?)", row)
            db.execute("INSERT INTO settings VALUES ('generation', 1)")

        create(path, fill)

    # State

    def state(self) -> State:
        """The active generation, its snapshot, and the last numbers given out."""
        with self._guard():
            active = self._db.execute(
                "SELECT * FROM generations WHERE id ="
                " (SELECT value FROM settings WHERE key = 'generation')"
            ).fetchone()
            if active is None:
                raise GalleryDamaged(f"{self.path} names no active generation: run check")
            snapshot = self._db.execute(
                "SELECT * FROM snapshots WHERE generation = ?", active[:1]
            ).fetchone()
            return State(
                Generation(*active),
                snapshot and Snapshot(*snapshot),
                self._setting("epoch"),
                self._sequence("items"),
                self._sequence("removals"),
            )

    def _sequence(self, table: str) -> int:
        return self._value("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,))

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
        generation: int,
        before_commit: Callable[[Sequence[int | None]], None] = lambda numbers: None,
        *,
        distractor: bool = False,
    ) -> list[int | None]:
        """Enrol items with their embeddings (n, dimension) in one transaction.

        Returns their numbers, None for content that is enrolled already. ``before_commit`` gets
        them while no other process can write. New identities are distractors where that is said.
        Raises GalleryMismatch where the gallery has moved to another generation.
        """
        added = datetime.now(UTC).isoformat(timespec="seconds")
        vectors = np.ascontiguousarray(embeddings, "<f4")
        numbers: list[int | None] = []
        with self.writing():
            if self._setting("generation") != generation:
                raise GalleryMismatch(
                    f"{self.path.parent} was rebuilt under another encoder meanwhile: add again"
                )
            for item, vector in zip(items, vectors, strict=True):
                content = bytes.fromhex(item.content)
                if self._value("SELECT id FROM items WHERE content = ?", (content,)):
                    numbers.append(None)
                    continue
                identity = self._identity(item.identity, distractor)
                number = self._db.execute(
                    "INSERT INTO items (identity, content, source, copy, size, added)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (identity, content, item.source, item.copy, item.size, added),
                ).lastrowid
                assert number is not None
                numbers.append(number)
                self._store(generation, [(number, vector.tobytes())])
                self._db.executemany(
                    "INSERT INTO metadata VALUES (?, ?, ?)",
                    [(number, key, value) for key, value in item.metadata.items()],
                )
            before_commit(numbers)
        return numbers

    def _identity(self, name: str, distractor: bool = False) -> int:
        self._db.execute(
            "INSERT INTO identities (name, distractor) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (name, distractor),
        )
        return self._value("SELECT id FROM identities WHERE name = ?", (name,))

    def _store(self, generation: int, rows: Iterable[tuple[int, bytes]]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO embeddings (generation, item, vector, checksum)"
            f" VALUES ({generation:d}, ?, ?, ?)",
            [(number, vector, crc32(vector)) for number, vector in rows],
        )

    def annotate(
        self, sources: Mapping[int, str], metadata: Mapping[int, Mapping[str, str]]
    ) -> None:
        """Note where items' images lie now, and metadata to add or replace, by item number."""
        with self.writing():
            self._db.executemany(
                "UPDATE items SET source = ? WHERE id = ?",
                [(source, number) for number, source in sources.items()],
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO metadata SELECT id, ?, ? FROM items WHERE id = ?",
                [
                    (key, value, number)
                    for number, pairs in metadata.items()
                    for key, value in pairs.items()
                ],
            )

    def remove(self, numbers: Sequence[int]) -> list[Item]:
        """Remove items, and identities left without any. Returns what was removed."""
        with self.writing():
            removed = list(self.items(numbers))
            for item in removed:
                self._db.execute("INSERT INTO removals (item) VALUES (?)", (item.number,))
                self._db.execute("DELETE FROM items WHERE id = ?", (item.number,))
            self._drop_empty({item.identity for item in removed})
        return removed

    def relabel(self, numbers: Sequence[int], new: str) -> int:
        """Give items another identity, merging with it where it exists. Returns how many.

        A new name for distractors alone is a distractor; one that exists stays what it is.
        """
        with self.writing():
            relabelled = list(self.items(numbers))
            old = {item.identity for item in relabelled}
            identity = self._identity(new, distractor=self.distractors(old) == old)
            self._db.executemany(
                "UPDATE items SET identity = ? WHERE id = ?",
                [(identity, item.number) for item in relabelled],
            )
            self._drop_empty({new, *(item.identity for item in relabelled)})
        return len(relabelled)

    def _drop_empty(self, names: Iterable[str]) -> None:
        self._db.executemany(
            "DELETE FROM identities WHERE name = ?"
            " AND NOT EXISTS (SELECT 1 FROM items WHERE identity = identities.id)",
            [(name,) for name in names],
        )

    # Calibration and distractors

    def set_calibration(self, generation: Generation, calibration: Calibration) -> None:
        """Keep how a generation decides."""
        content = json.dumps(asdict(calibration))
        with self.writing():
            if self._setting("generation") != generation.number:
                raise GalleryMismatch(
                    f"{self.path.parent} was rebuilt under another encoder meanwhile: try again"
                )
            self._db.execute(
                "INSERT OR REPLACE INTO calibrations VALUES (?, ?)", (generation.number, content)
            )

    def calibration(self, generation: Generation) -> Calibration | None:
        """How a generation decides, None where it has not been calibrated."""
        with self._guard():
            row = self._db.execute(
                "SELECT content FROM calibrations WHERE generation = ?", (generation.number,)
            ).fetchone()
        if row is None:
            return None
        try:
            fields = json.loads(row[0])
            fields["thresholds"] = {float(r): float(t) for r, t in fields["thresholds"].items()}
            return Calibration(**fields)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise GalleryDamaged(
                f"{self.path}: the calibration is damaged ({error}): run `siasearch calibrate`"
            ) from error

    def is_distractor(self, identity: str) -> bool | None:
        """Whether an identity must never be named; None where there is no such identity."""
        with self._guard():
            row = self._db.execute(
                "SELECT distractor FROM identities WHERE name = ?", (identity,)
            ).fetchone()
        return None if row is None else bool(row[0])

    def count_distractors(self) -> int:
        """How many identities must never be named."""
        with self._guard():
            return self._value("SELECT count(*) FROM identities WHERE distractor")

    def distractors(self, identities: Iterable[str] | None) -> set[str]:
        """Which of these, or of all, must never be named."""
        with self._guard():
            if identities is None:
                rows = self._db.execute("SELECT name FROM identities WHERE distractor")
            else:
                rows = self._db.execute(
                    "SELECT name FROM identities WHERE distractor AND name IN"
                    " (SELECT value FROM json_each(?))",
                    (json.dumps(list(identities)),),
                )
            return {name for (name,) in rows}

    # Unknowns

    def keep_unknown(
        self, content: str, source: str, generation: Generation, vector: FloatArray
    ) -> None:
        """Keep a probe that nobody fitted; its place and embedding are brought up to date.

        Raises GalleryMismatch where the embedding is not of the active generation.
        """
        added = datetime.now(UTC).isoformat(timespec="seconds")
        stored = np.ascontiguousarray(vector, "<f4").tobytes()
        with self.writing():
            if self._setting("generation") != generation.number:
                raise GalleryMismatch(f"{self.path.parent} was rebuilt meanwhile: ask again")
            self._db.execute(
                "INSERT INTO unknowns (content, source, added, generation, vector)"
                " VALUES (?, ?, ?, ?, ?) ON CONFLICT (content) DO UPDATE SET"
                " source = excluded.source, generation = excluded.generation,"
                " vector = excluded.vector",
                (bytes.fromhex(content), source, added, generation.number, stored),
            )

    def unknowns(self) -> list[tuple[int, str, str, int, FloatArray]]:
        """(number, content hash, source, generation, embedding) of the probes that were kept."""
        with self._guard():
            rows = self._db.execute(
                "SELECT id, content, source, generation, vector FROM unknowns ORDER BY id"
            ).fetchall()
        return [
            (number, content.hex(), source, generation, np.frombuffer(vector, "<f4"))
            for number, content, source, generation, vector in rows
        ]

    def drop_unknowns(self, numbers: Iterable[int]) -> int:
        """Forget kept probes; returns how many there were."""
        with self.writing():
            return self._db.execute(
                "DELETE FROM unknowns WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(numbers)),),
            ).rowcount

    # Look-ups

    def known(self, contents: Iterable[str]) -> dict[str, tuple[int, str, str | None]]:
        """For content that is enrolled: (item number, identity, source) by its hash."""
        sql = (
            "SELECT items.id, name, source FROM items JOIN identities"
            " ON identities.id = items.identity WHERE content = ?"
        )
        with self._guard():
            rows = {c: self._db.execute(sql, (bytes.fromhex(c),)).fetchone() for c in contents}
        return {content: row for content, row in rows.items() if row}

    def owners(self, numbers: Iterable[int]) -> dict[int, tuple[str, str | None]]:
        """(identity, source) of items, by number; removed ones are left out."""
        with self._guard():
            return {
                number: (identity, source)
                for number, identity, source in self._by_numbers(
                    "SELECT items.id, name, source FROM items JOIN identities"
                    " ON identities.id = items.identity WHERE items.id IN",
                    numbers,
                )
            }

    def items(self, numbers: Iterable[int]) -> list[Item]:
        """Whole items by number; removed ones are left out."""
        with self._guard():
            return [
                Item(number, name, source, content.hex(), added, size, copy, json.loads(metadata))
                for number, name, source, content, added, size, copy, metadata in self._by_numbers(
                    "SELECT items.id, name, source, content, added, size, copy,"
                    " (SELECT json_group_object(key, value) FROM metadata WHERE item = items.id)"
                    " FROM items JOIN identities ON identities.id = items.identity"
                    " WHERE items.id IN",
                    numbers,
                )
            ]

    def _by_numbers(self, sql: str, numbers: Iterable[int]) -> Iterator[tuple]:  # type: ignore[type-arg]
        # As one JSON parameter: SQLite bounds the number of parameters.
        wanted = json.dumps([int(number) for number in numbers])
        return self._db.execute(f"{sql} (SELECT value FROM json_each(?)) ORDER BY 1", (wanted,))

    def numbers(self, identity: str) -> list[int]:
        """The numbers of an identity's items."""
        with self._guard():
            rows = self._db.execute(
                "SELECT id FROM items WHERE identity = (SELECT id FROM identities WHERE name = ?)"
                " ORDER BY id",
                (identity,),
            )
            return [number for (number,) in rows]

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

    def copies(self) -> list[tuple[int, str, str]]:
        """(item number, path within the gallery, content hash) of the images kept as copies."""
        with self._guard():
            rows = self._db.execute("SELECT id, copy, content FROM items WHERE copy IS NOT NULL")
            return [(number, copy, content.hex()) for number, copy, content in rows]

    def removed_after(self, removal: int) -> IntArray:
        """The items removed since a removal's number."""
        with self._guard():
            rows = self._db.execute("SELECT item FROM removals WHERE id > ?", (removal,))
            return np.array([row[0] for row in rows], np.int64)

    def embeddings(
        self, generation: Generation, after: int = 0, upto: int | None = None
    ) -> Iterator[tuple[IntArray, FloatArray]]:
        """Stream (items (n,), vectors (n, dimension)) by item number, in chunks.

        Each chunk is a short read of its own, so that a long stream holds up no writer.
        """
        upto = 2**62 if upto is None else upto
        while True:
            with self._guard():
                rows = self._db.execute(
                    "SELECT item, vector, checksum FROM embeddings WHERE item > ? AND item <= ?"
                    " AND generation = ? ORDER BY item LIMIT ?",
                    (after, upto, generation.number, CHUNK),
                ).fetchall()
            if not rows:
                return
            size = 4 * generation.dimension
            for number, vector, checksum in rows:
                if len(vector) != size or crc32(vector) != checksum:
                    raise GalleryDamaged(
                        f"{self.path}: the embedding of item {number} is damaged:"
                        f" `siasearch remove --item {number}` and enrol it again"
                    )
            after = rows[-1][0]
            vectors = np.frombuffer(b"".join(vector for _, vector, _ in rows), "<f4")
            yield (
                np.array([number for number, _, _ in rows], np.int64),
                vectors.reshape(len(rows), generation.dimension).astype(np.float32, copy=False),
            )

    # Snapshots

    def set_snapshot(self, snapshot: Snapshot) -> str | None:
        """Make an index file the one to use; forget the removals it has folded in.

        Returns the file it replaces, None where there was none. Raises GalleryError where
        another process has made a newer one meanwhile.
        """
        with self.writing():
            current = self._db.execute(
                "SELECT file, last_item, last_removal FROM snapshots WHERE generation = ?",
                (snapshot.generation,),
            ).fetchone()
            if current and current[1:] > (snapshot.last_item, snapshot.last_removal):
                raise GalleryError("another process has just compacted this gallery")
            marks = ", ".join("?" * len(astuple(snapshot)))
            self._db.execute(
                f"INSERT OR REPLACE INTO snapshots VALUES ({marks})", astuple(snapshot)
            )
            if self._setting("generation") == snapshot.generation:
                self._db.execute("DELETE FROM removals WHERE id <= ?", (snapshot.last_removal,))
        return current and str(current[0])

    def wanted_index(self) -> tuple[str, float] | None:
        """The recipe and the recall that were asked for, None where nothing was."""
        with self._guard():
            rows = self._db.execute(
                "SELECT key, value FROM settings WHERE key IN ('recipe', 'recall')"
            )
            found = dict(rows.fetchall())
        return (str(found["recipe"]), float(found["recall"])) if len(found) == 2 else None

    def want_index(self, recipe: str, recall: float) -> None:
        """Keep what later index files shall be like."""
        with self.writing():
            self._db.executemany(
                "INSERT OR REPLACE INTO settings VALUES (?, ?)",
                [("recipe", recipe), ("recall", recall)],
            )

    def snapshot_files(self) -> set[str]:
        """The index files that the database knows."""
        with self._guard():
            return {file for (file,) in self._db.execute("SELECT file FROM snapshots")}

    # Generations

    def generation(self, fingerprint: str, encoder: str, dimension: int) -> Generation:
        """The generation of an encoder, made where there is none yet."""
        with self.writing():
            self._db.execute(
                "INSERT INTO generations (fingerprint, encoder, dimension) VALUES (?, ?, ?)"
                " ON CONFLICT (fingerprint) DO UPDATE SET encoder = excluded.encoder",
                (fingerprint, encoder, dimension),
            )
            row = self._db.execute(
                "SELECT * FROM generations WHERE fingerprint = ?", (fingerprint,)
            ).fetchone()
            return Generation(*row)

    def unembedded(self, generation: Generation, after: int = 0, limit: int = CHUNK) -> list[int]:
        """Numbers of items without an embedding in a generation, ascending."""
        with self._guard():
            rows = self._db.execute(
                "SELECT id FROM items WHERE id > ? AND NOT EXISTS (SELECT 1 FROM embeddings"
                " WHERE item = items.id AND generation = ?) ORDER BY id LIMIT ?",
                (after, generation.number, limit),
            )
            return [number for (number,) in rows]

    def count_unembedded(self, generation: Generation) -> int:
        """How many items have no embedding in a generation."""
        with self._guard():
            return self._value(
                "SELECT count(*) FROM items WHERE NOT EXISTS (SELECT 1 FROM embeddings"
                " WHERE item = items.id AND generation = ?)",
                (generation.number,),
            )

    def store(self, generation: Generation, numbers: Sequence[int], embeddings: FloatArray) -> None:
        """Store embeddings (n, dimension) of items, without those removed meanwhile."""
        vectors = np.ascontiguousarray(embeddings, "<f4")
        with self.writing():
            present = {item.number for item in self.items(numbers)}
            self._store(
                generation.number,
                [(n, v.tobytes()) for n, v in zip(numbers, vectors, strict=True) if n in present],
            )
            # An index file of this generation would not know of them.
            self._db.execute("DELETE FROM snapshots WHERE generation = ?", (generation.number,))
            self._new_epoch()

    def switch(self, generation: Generation, without: Iterable[int] = ()) -> bool:
        """Make a generation the active one, if all items but ``without`` are embedded in it.

        ``prune`` then drops what it replaces.
        """
        with self.writing():
            if set(self.unembedded(generation, limit=2**62)) - set(without):
                return False
            self._db.execute(
                "UPDATE settings SET value = ? WHERE key = 'generation'", (generation.number,)
            )
            self._new_epoch()
            self._db.execute("DELETE FROM snapshots")
            self._db.execute("DELETE FROM removals")
            self._db.execute("UPDATE settings SET value = 1 WHERE key = 'prune'")
        return True

    def prune(self) -> None:
        """Drop the embeddings that a switch has replaced; those of items it lacks stay.

        In small transactions, since a reader waits for each. A kill half-way loses nothing; the
        next call goes on.
        """
        if not self._setting("prune"):
            return
        active = self.state().generation.number
        deleted = -1
        while deleted:
            with self.writing():
                deleted = self._db.execute(
                    "DELETE FROM embeddings WHERE rowid IN (SELECT old.rowid FROM embeddings old"
                    " JOIN embeddings new ON new.item = old.item AND new.generation = ?"
                    " WHERE old.generation <> ? LIMIT ?)",
                    (active, active, CHUNK),
                ).rowcount
        with self.writing():
            self._db.execute(
                "DELETE FROM generations WHERE id <> ? AND NOT EXISTS"
                " (SELECT 1 FROM embeddings WHERE generation = generations.id)",
                (active,),
            )
            self._db.execute("UPDATE settings SET value = 0 WHERE key = 'prune'")

    def _setting(self, key: str) -> int:
        with self._guard():
            return self._value("SELECT value FROM settings WHERE key = ?", (key,))

    def _new_epoch(self) -> None:
        self._db.execute("UPDATE settings SET value = value + 1 WHERE key = 'epoch'")

    # Check

    def faults(self) -> Iterator[str]:
        """What is wrong inside the database, one line each."""
        try:
            for (line,) in self._db.execute("PRAGMA integrity_check"):
                if line != "ok":
                    yield f"{self.path}: {line}"
            for table, row, parent, _ in self._db.execute("PRAGMA foreign_key_check"):
                yield f"{self.path}: row {row} of {table} points to nothing in {parent}"
            for table in ("items", "identities"):
                count, stored = self._db.execute(
                    f"SELECT count(*), (SELECT value FROM settings WHERE key = ?) FROM {table}",
                    (table,),
                ).fetchone()
                if count != stored:
                    yield f"{self.path}: {count} {table}, but {stored} are counted in settings"
            yield from self._unreadable_rows()
        except sqlite3.DatabaseError as error:
            yield f"{self.path}: {error}"

    def _unreadable_rows(self) -> Iterator[str]:
        """Rows whose content is damaged where SQLite itself does not notice."""
        rows = self._db.execute(
            "SELECT item, vector, checksum, dimension FROM embeddings"
            " JOIN generations ON generations.id = generation"
        )
        for item, vector, checksum, dimension in rows:
            if len(vector) != 4 * dimension or crc32(vector) != checksum:
                yield f"{self.path}: the embedding of item {item} is damaged"
        for table, columns in (
            ("identities", "name"),
            ("items", "source, copy, added"),
            ("metadata", "key, value"),
        ):
            number = "item" if table == "metadata" else "id"
            casts = ", ".join(f"CAST({column} AS BLOB)" for column in columns.split(", "))
            for row, *texts in self._db.execute(f"SELECT {number}, {casts} FROM {table}"):
                try:
                    [text.decode() for text in texts if text is not None]
                except UnicodeDecodeError:
                    yield f"{self.path}: row {row} of {table} holds damaged text"
