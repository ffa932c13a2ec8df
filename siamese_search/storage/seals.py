"""Seals: a checksum of all that is known of an item, kept beside it, so that no damage is shown as
what was enrolled, nor decides unnoticed.

Of an item's embedding it says nothing: that has a checksum of its own.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator

from siamese_search.errors import GalleryDamaged
from siamese_search.records import Item
from siamese_search.storage.facts import ROWS, Facts, fault_in
from siamese_search.storage.generations import Generations
from siamese_search.storage.homes import Homes


class Seals(Generations, Homes):
    """The items in an open ``gallery.db``, each with all that is known of it."""

    # Items that were looked at in a state of the database; whether they are never named.
    _sound: tuple[tuple[int, int], dict[int, bool]] | None = None

    def items(self, numbers: Iterable[int]) -> list[Item]:
        """Whole items by number; removed ones are left out.

        Raises GalleryDamaged, naming an item, where something is not as it was stored.
        """
        return [
            Item(number, one.identity, self.located(one.source, one.size), one.content.hex(),
                 one.added, one.size, one.copy, dict(one.metadata))
            for number, one in self._sealed(numbers)
        ]  # fmt: skip

    def never_named(self, numbers: Iterable[int]) -> set[int]:
        """Those of items that are of a distractor.

        Raises GalleryDamaged, naming an item, where something is not as it was stored.
        """
        version = self.version()
        if self._sound is None or self._sound[0] != version:
            self._sound = version, {}
        known, wanted = self._sound[1], set(numbers)
        # By `-`, all that are known would be gone through.
        new = {number for number in wanted if number not in known}
        if new:
            known.update((number, facts.distractor) for number, facts in self._sealed(new))
        return {number for number in wanted if known.get(number)}

    def _sealed(self, numbers: Iterable[int]) -> Iterator[tuple[int, Facts]]:
        with self._guard():
            rows = list(self._by_numbers(f"{ROWS} WHERE items.id IN", numbers))
        for row in rows:
            fault = fault_in(row)
            if fault:
                raise GalleryDamaged(
                    f"{self.path}: {fault}: `siasearch remove --item {row[0]}` and enrol it again"
                )
            yield row[0], Facts.of(row)

    def _by_numbers(self, sql: str, numbers: Iterable[int]) -> sqlite3.Cursor:
        # As one JSON parameter: SQLite bounds the number of parameters.
        wanted = json.dumps([int(number) for number in numbers])
        return self._db.execute(f"{sql} (SELECT value FROM json_each(?)) ORDER BY 1", (wanted,))

    def _seal(self, numbers: Iterable[int]) -> None:
        """Note the checksums of items that were changed in this transaction."""
        rows = self._by_numbers(f"{ROWS} WHERE items.id IN", numbers).fetchall()
        self._db.executemany(
            "UPDATE items SET checksum = ? WHERE id = ?",
            [(Facts.of(row).checksum, row[0]) for row in rows],
        )
