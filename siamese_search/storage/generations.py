"""Generations: a gallery's embeddings under one encoder, which of them is active, and its index
file.

Knows nothing of identities, and of items only their numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from zlib import crc32

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.errors import (
    GalleryDamaged,
    GalleryError,
    GalleryMismatch,
)
from siamese_search.records import (
    Generation,
    Snapshot,
)
from siamese_search.storage.engines import Engines
from siamese_search.storage.places import PlacesTable

CHUNK = 4096
GENERATION = "id, fingerprint, encoder, dimension"
SNAPSHOT = [field.name for field in fields(Snapshot)]


@dataclass(frozen=True)
class WantedIndex:
    """What index files shall be like: a recipe, and the least recall@10 that it is tuned to."""

    recipe: str
    recall: float


@dataclass(frozen=True)
class State:
    """What a reader compares with what it has loaded."""

    generation: Generation
    snapshot: Snapshot | None
    epoch: int  # changes where embeddings of earlier items do, which numbers alone do not tell
    last_item: int
    last_removal: int
    metric: int | None = None  # of the calibration in use, None where plain cosines are compared


class MetricChanged(GalleryError):
    """An index file was written by another metric than is in use."""


class Generations(PlacesTable, Engines):
    """The generations in an open ``gallery.db``."""

    def state(self) -> State:
        """The active generation, its snapshot, and the last numbers given out."""
        with self._guard():
            active = self._db.execute(
                f"SELECT {GENERATION} FROM generations WHERE id ="
                " (SELECT value FROM settings WHERE key = 'generation')"
            ).fetchone()
            if active is None:
                raise GalleryDamaged(f"{self.path} names no active generation: run check")
            snapshot = self._db.execute(
                f"SELECT {', '.join(SNAPSHOT)} FROM snapshots WHERE generation = ?", active[:1]
            ).fetchone()
            return State(
                Generation(*active),
                snapshot and Snapshot(*snapshot),
                self._setting("epoch"),
                self._sequence("items"),
                self._sequence("removals"),
                self._metric_in_use(active[0]),
            )

    def _sequence(self, table: str) -> int:
        return self._value("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,))

    def _require_active(self, fingerprint: str) -> int:
        """The active generation's number; GalleryMismatch where it is of another encoder.

        By the fingerprint: whoever embedded before a switch may learn the number after it.
        """
        generation = self.state().generation
        if generation.fingerprint != fingerprint:
            raise GalleryMismatch(
                f"{self.path.parent} was rebuilt under another encoder meanwhile: try again"
            )
        return generation.number

    def generation(self, fingerprint: str, encoder: str, dimension: int) -> Generation:
        """The generation of an encoder, made where there is none yet."""
        with self.writing():
            self._db.execute(
                # A number that nothing remembers any more, not even a kept probe.
                "INSERT INTO generations (id, fingerprint, encoder, dimension)"
                " SELECT 1 + max(id), ?, ?, ? FROM"
                " (SELECT id FROM generations UNION ALL SELECT generation FROM unknowns) WHERE true"
                " ON CONFLICT (fingerprint) DO UPDATE SET encoder = excluded.encoder",
                (fingerprint, encoder, dimension),
            )
            row = self._db.execute(
                f"SELECT {GENERATION} FROM generations WHERE fingerprint = ?", (fingerprint,)
            ).fetchone()
            return Generation(*row)

    def switch(self, generation: Generation, without: Iterable[int] = ()) -> bool:
        """Make a generation the active one, if all items but ``without`` are embedded in it.

        ``prune`` then drops what it replaces.
        """
        with self.writing():
            if set(self.unembedded(generation, limit=2**62)) - set(without):
                return False
            if self._setting("generation") != generation.number:
                self._forget()  # what was removed has no embedding in the new one
            # How it decided, until it is calibrated again: a kill may come between.
            self._db.execute(
                "INSERT OR REPLACE INTO settings (key, value) SELECT 'recalibrate', content"
                " FROM calibrations WHERE generation <> ? AND generation ="
                " (SELECT value FROM settings WHERE key = 'generation')",
                (generation.number,),
            )
            self._db.execute(
                "UPDATE settings SET value = ? WHERE key = 'generation'", (generation.number,)
            )
            self._new_epoch()
            self._db.execute("DELETE FROM snapshots")
            self._db.execute("DELETE FROM removals")
            self._db.execute("UPDATE settings SET value = 1 WHERE key = 'prune'")
        return True

    def _forget(self, changes: Iterable[int] | None = None) -> None:
        """Forget what can be taken back, inside a transaction; ``History`` knows how."""

    def prune(self) -> None:
        """Drop the embeddings that a switch has replaced; those of items it lacks stay.

        In small transactions, since a reader waits for each. A kill half-way loses nothing; the
        next call goes on.
        """
        if not self._setting("prune"):
            return
        active = self.state().generation.number
        for table in ("places", "embeddings"):
            deleted = -1
            while deleted:
                with self.writing():
                    deleted = self._db.execute(
                        f"DELETE FROM {table} WHERE rowid IN (SELECT old.rowid FROM {table} old"
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

    def _new_epoch(self) -> None:
        self._db.execute("UPDATE settings SET value = value + 1 WHERE key = 'epoch'")

    # Embeddings

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
            self._require_sound(rows, generation)
            after = rows[-1][0]
            yield _stacked([(number, vector) for number, vector, _ in rows], generation)

    def vectors(self, generation: Generation, numbers: IntArray) -> tuple[IntArray, FloatArray]:
        """Those of items (n,) that have an embedding, ascending, and these: (m, dimension)."""
        found: list[tuple[int, bytes]] = []
        for start in range(0, len(numbers), CHUNK):
            wanted = json.dumps(numbers[start : start + CHUNK].tolist())
            with self._guard():
                rows = self._db.execute(
                    "SELECT item, vector, checksum FROM embeddings WHERE generation = ?"
                    " AND item IN (SELECT value FROM json_each(?)) ORDER BY item",
                    (generation.number, wanted),
                ).fetchall()
            self._require_sound(rows, generation)
            found += [(number, vector) for number, vector, _ in rows]
        return _stacked(found, generation)

    def embedded(self, generation: Generation, numbers: IntArray | None = None) -> IntArray:
        """The items that have an embedding, of certain ones (n,) or all, ascending."""
        among = "" if numbers is None else " AND item IN (SELECT value FROM json_each(?))"
        wanted = () if numbers is None else (json.dumps(numbers.tolist()),)
        with self._guard():
            rows = self._db.execute(
                f"SELECT item FROM embeddings WHERE generation = ?{among} ORDER BY item",
                (generation.number, *wanted),
            ).fetchall()
        return np.fromiter((row[0] for row in rows), np.int64, len(rows))

    def _require_sound(
        self, rows: Iterable[tuple[int, bytes, int]], generation: Generation
    ) -> None:
        """Raise GalleryDamaged, naming an item, for an embedding that is not as it was stored."""
        for number, vector, checksum in rows:
            if len(vector) != 4 * generation.dimension or crc32(vector) != checksum:
                raise GalleryDamaged(
                    f"{self.path}: the embedding of item {number} is damaged:"
                    f" `siasearch remove --item {number}` and enrol it again"
                )

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

    def store(
        self,
        generation: Generation,
        numbers: Sequence[int],
        embeddings: FloatArray,
        places: Sequence[FloatArray | None] = (),
    ) -> None:
        """Store embeddings (n, dimension) of items, without those removed meanwhile; with places,
        see ``closer.py``, if any are given.
        """
        vectors = np.ascontiguousarray(embeddings, "<f4")
        with self.writing():
            rows = self._db.execute(
                "SELECT id FROM items WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(numbers)),),
            )
            present = {number for (number,) in rows}
            self._store(
                generation.number,
                [(n, v.tobytes()) for n, v in zip(numbers, vectors, strict=True) if n in present],
            )
            pairs = zip(numbers, places, strict=False)
            self._store_places(generation.number, [pair for pair in pairs if pair[0] in present])
            # An index file of this generation would not know of them.
            self._db.execute("DELETE FROM snapshots WHERE generation = ?", (generation.number,))
            self._new_epoch()

    def _store(self, generation: int, rows: Iterable[tuple[int, bytes]]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO embeddings (generation, item, vector, checksum)"
            f" VALUES ({generation:d}, ?, ?, ?)",
            [(number, vector, crc32(vector)) for number, vector in rows],
        )

    # Snapshots

    def set_snapshot(self, snapshot: Snapshot) -> str | None:
        """Make an index file the one to use; forget the removals it has folded in.

        Returns the file it replaces, None where there was none. Raises GalleryError where
        another process has made a newer one meanwhile, MetricChanged where it was written by
        another metric than is in use.
        """
        with self.writing():
            if self._metric_in_use(snapshot.generation) != snapshot.metric:
                raise MetricChanged(
                    "the gallery was calibrated while it was compacted: compact it again"
                )
            current = self._db.execute(
                "SELECT file, last_item, last_removal FROM snapshots WHERE generation = ?",
                (snapshot.generation,),
            ).fetchone()
            if current and current[1:] > (snapshot.last_item, snapshot.last_removal):
                raise GalleryError("another process has just compacted this gallery")
            self._db.execute(
                f"INSERT OR REPLACE INTO snapshots ({', '.join(SNAPSHOT)})"
                f" VALUES ({', '.join(f':{column}' for column in SNAPSHOT)})",
                asdict(snapshot),
            )
            if self._setting("generation") == snapshot.generation:
                self._db.execute("DELETE FROM removals WHERE id <= ?", (snapshot.last_removal,))
        return current and str(current[0])

    def snapshot_files(self) -> set[str]:
        """The index files that the database knows."""
        with self._guard():
            return {file for (file,) in self._db.execute("SELECT file FROM snapshots")}

    def removed_after(self, removal: int) -> IntArray:
        """The items removed since a removal's number."""
        with self._guard():
            rows = self._db.execute("SELECT item FROM removals WHERE id > ?", (removal,))
            return np.array([row[0] for row in rows], np.int64)

    def wanted_index(self) -> WantedIndex | None:
        """What index files shall be like, None where nothing was asked for."""
        with self._guard():
            rows = self._db.execute(
                "SELECT key, value FROM settings WHERE key IN ('recipe', 'recall')"
            )
            found = dict(rows.fetchall())
        if len(found) < 2:
            return None
        return WantedIndex(str(found["recipe"]), float(found["recall"]))

    def want_index(self, recipe: str, recall: float) -> None:
        """Keep what later index files shall be like."""
        with self.writing():
            self._db.executemany(
                "INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)",
                [("recipe", recipe), ("recall", recall)],
            )

    def _metric_in_use(self, generation: int) -> int | None:
        """The number of the metric that a generation's calibration names.

        What is no calibration names none: reading that one says so.
        """
        with self._guard():
            row = self._db.execute(
                "SELECT json_extract(content, '$.metric') FROM calibrations"
                " WHERE generation = ? AND json_valid(content)",
                (generation,),
            ).fetchone()
        return row[0] if row and isinstance(row[0], int) else None


def _stacked(
    rows: Sequence[tuple[int, bytes]], generation: Generation
) -> tuple[IntArray, FloatArray]:
    """Items (n,) and their vectors (n, dimension), as the database holds them."""
    vectors = np.frombuffer(b"".join(vector for _, vector in rows), "<f4")
    return (
        np.array([number for number, _ in rows], np.int64),
        vectors.reshape(len(rows), generation.dimension).astype(np.float32, copy=False),
    )
