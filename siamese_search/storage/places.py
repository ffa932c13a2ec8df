"""Places: local features of a gallery's items, by which the best candidates are looked at closely.

Items without them are found all the same. Knows nothing of identities, and of items only their
numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.decision import closer
from siamese_search.errors import GalleryDamaged
from siamese_search.storage.database import Database

CHUNK = 1024  # rows that are deleted or asked for at a time


class PlacesTable(Database):
    """The places in an open ``gallery.db``. A generation is named by its number."""

    def places(self, generation: int, numbers: Iterable[int]) -> tuple[IntArray, FloatArray]:
        """Those of items that have places, ascending, and these: (m, count, dimension).

        Raises GalleryDamaged, naming an item, for places that are not as they were stored.
        """
        wanted = json.dumps([int(number) for number in numbers])
        with self._guard():
            rows = self._db.execute(
                "SELECT item, content FROM places WHERE generation = ?"
                " AND item IN (SELECT value FROM json_each(?)) ORDER BY item",
                (generation, wanted),
            ).fetchall()
        items = np.array([number for number, _ in rows], np.int64)
        try:
            return items, closer.unpack([content for _, content in rows])
        except GalleryDamaged:
            for number, content in rows:
                fault = closer.fault(content)
                if fault is not None:
                    raise GalleryDamaged(
                        f"{self.path}: the places of item {number} {fault}: run `siasearch rebuild`"
                    ) from None
            raise

    def count_places(self, generation: int) -> int:
        """How many items have places."""
        with self._guard():
            return self._value("SELECT count(*) FROM places WHERE generation = ?", (generation,))

    def some_places(self, generation: int) -> bytes | None:
        """The packed places of some item, None where none has any."""
        with self._guard():
            row = self._db.execute(
                "SELECT content FROM places WHERE generation = ? LIMIT 1", (generation,)
            ).fetchone()
        return None if row is None else row[0]

    def unplaced(self, generation: int, after: int = 0, limit: int = CHUNK) -> list[int]:
        """Numbers of items that have a picture and an embedding, but no sound places, ascending."""
        found: list[int] = []
        while len(found) < limit:
            with self._guard():
                rows = self._db.execute(
                    "SELECT items.id, places.content FROM items JOIN embeddings"
                    " ON embeddings.item = items.id AND embeddings.generation = ?"
                    " LEFT JOIN places ON places.item = items.id AND places.generation = ?"
                    " WHERE items.id > ? AND (source IS NOT NULL OR copy IS NOT NULL)"
                    " ORDER BY items.id LIMIT ?",
                    (generation, generation, after, CHUNK),
                ).fetchall()
            if not rows:
                break
            after = rows[-1][0]
            found += [
                number
                for number, content in rows
                if content is None or closer.fault(content) is not None
            ]
        return found[:limit]

    def drop_damaged_places(self, generation: int) -> None:
        """Delete places that are not as they were stored: an item without is found all the same."""
        with self._guard():
            rows = self._db.execute(
                "SELECT item, content FROM places WHERE generation = ?", (generation,)
            )
            damaged = [item for item, content in rows if closer.fault(content) is not None]
        if damaged:
            with self.writing():
                self._db.execute(
                    "DELETE FROM places WHERE generation = ?"
                    " AND item IN (SELECT value FROM json_each(?))",
                    (generation, json.dumps(damaged)),
                )

    def store_places(
        self, generation: int, numbers: Sequence[int], places: Sequence[FloatArray | None]
    ) -> None:
        """Store the places (count, dimension) of items, without those removed meanwhile."""
        with self.writing():
            rows = self._db.execute(
                "SELECT id FROM items WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(numbers)),),
            )
            present = {number for (number,) in rows}
            pairs = zip(numbers, places, strict=True)
            self._store_places(generation, [pair for pair in pairs if pair[0] in present])

    def _store_places(
        self, generation: int, places: Iterable[tuple[int, FloatArray | None]]
    ) -> None:
        """Inside a transaction, for items that are there."""
        if self.keeps_places():
            self._db.executemany(
                "INSERT OR REPLACE INTO places (generation, item, content) VALUES (?, ?, ?)",
                [(generation, item, closer.pack(one)) for item, one in places if one is not None],
            )

    def keeps_places(self) -> bool:
        """Whether places are kept of what is enrolled."""
        with self._guard():
            row = self._db.execute("SELECT value FROM settings WHERE key = 'closer'").fetchone()
        return row is None or row[0] != "none"

    def want_places(self, closer: str) -> None:
        """Keep places of what is enrolled from now on (``auto``), or not (``none``). Those that are
        there stay until ``drop_unwanted_places``, so that a choice can be taken back.
        """
        with self.writing():
            self._db.execute(
                "INSERT OR REPLACE INTO settings (key, value) VALUES ('closer', ?)", (closer,)
            )

    def drop_unwanted_places(self) -> None:
        """Delete all places, in small transactions, where none are kept any more."""
        deleted = 0 if self.keeps_places() else -1
        while deleted:
            with self.writing():
                deleted = self._db.execute(
                    "DELETE FROM places WHERE rowid IN (SELECT rowid FROM places LIMIT ?)", (CHUNK,)
                ).rowcount
