"""Listing: identities and their items a page at a time, at the cost of a page."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from siamese_search.storage.database import Database


class Listed(NamedTuple):
    """An identity in a list: how many items it has, and the number of the first one."""

    name: str
    items: int
    distractor: bool
    cover: int


ROWS = (
    "SELECT name, (SELECT count(*) FROM items WHERE identity = identities.id), distractor,"
    " (SELECT min(id) FROM items WHERE identity = identities.id) FROM identities"
)


class Listing(Database):
    """What an open ``gallery.db`` lists."""

    _searched: tuple[str, str, list[str]] | None = None  # for what, in which state, and what came

    def listed(self, search: str, after: str, offset: int, limit: int) -> list[Listed]:
        """Identities by name, of those whose name contains ``search``, in any case, and is above
        ``after``; without the first ``offset``, at most ``limit``.
        """
        with self._guard():
            if search:
                names = self._containing(search)
                start = bisect_right(names, after) + offset
                wanted = json.dumps(names[start : start + limit])
                rows = self._db.execute(
                    f"{ROWS} WHERE name IN (SELECT value FROM json_each(?)) ORDER BY name",
                    (wanted,),
                )
            else:  # what is left out costs a step in the index of names
                rows = self._db.execute(
                    f"{ROWS} WHERE name > ? ORDER BY name LIMIT ? OFFSET ?", (after, limit, offset)
                )
            return [Listed(name, items, bool(never), cover) for name, items, never, cover in rows]

    def count_listed(self, search: str) -> int:
        """How many identities there are whose name contains ``search``, in any case."""
        with self._guard():
            return len(self._containing(search)) if search else self._setting("identities")

    def _containing(self, search: str) -> list[str]:
        """The names that contain it, ascending: kept for the next page."""
        stamp = self.stamp()
        if self._searched is None or self._searched[:2] != (search, stamp):
            rows = self._db.execute("SELECT name FROM identities ORDER BY name").fetchall()
            folded = search.casefold()
            names = [name for (name,) in rows if folded in name.casefold()]
            self._searched = search, stamp, names
        return self._searched[2]

    def numbers(
        self, identity: str, after: int = 0, offset: int = 0, limit: int | None = None
    ) -> list[int]:
        """The numbers of an identity's items, ascending, of those above ``after``; without the
        first ``offset``, at most ``limit``.
        """
        with self._guard():
            rows = self._db.execute(
                "SELECT id FROM items WHERE identity = (SELECT id FROM identities WHERE name = ?)"
                " AND id > ? ORDER BY id LIMIT ? OFFSET ?",
                (identity, after, -1 if limit is None else limit, offset),
            )
            return [number for (number,) in rows]

    def count_items(self, identity: str) -> int:
        """How many items an identity has."""
        with self._guard():
            return self._value(
                "SELECT count(*) FROM items"
                " WHERE identity = (SELECT id FROM identities WHERE name = ?)",
                (identity,),
            )

    def count_copies(self) -> int:
        """Of how many items there is a copy of the image."""
        with self._guard():
            return self._value("SELECT count(copy) FROM items")

    def replaced(self, after: int) -> list[tuple[int, str]]:
        """The items up to number ``after`` whose files, by their names, have other items of the
        same identity since: (number, file).
        """
        with self._guard():
            return self._db.execute(
                "WITH new AS (SELECT identity, source FROM items WHERE id > ?)"
                " SELECT id, source FROM items WHERE identity IN (SELECT identity FROM new)"
                " AND id <= ? AND source IN (SELECT source FROM new) ORDER BY id",
                (after, after),
            ).fetchall()

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
