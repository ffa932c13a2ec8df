"""Engines: where a gallery's later indexes are made, and what was made there and may be left over.

Knows nothing of how these are asked.
"""

from __future__ import annotations

import json
from contextlib import suppress

from siamese_search.storage.database import Database


class Engines(Database):
    """What an open ``gallery.db`` says of engines elsewhere."""

    def engine(self) -> str | None:
        """The address of the engine in which later indexes are made; None where in files."""
        found = self._text("engine")
        return found or None

    def want_engine(self, address: str | None) -> None:
        """Make later indexes at an address; in files where it is None."""
        with self.writing():
            self._put("engine", address)

    def collections(self) -> list[str]:
        """What was made elsewhere, or is about to be, and is not in use as far as is known."""
        with suppress(ValueError):
            found = json.loads(self._text("collections") or "[]")
            if isinstance(found, list):
                return [one for one in found if isinstance(one, str)]
        return []

    def note_collections(self, collections: list[str]) -> None:
        """Keep these as what ``collections`` gives."""
        if collections != self.collections():
            with self.writing():
                self._put("collections", json.dumps(collections) if collections else None)

    def _text(self, key: str) -> str | None:
        with self._guard():
            row = self._db.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
        return row[0] if row and isinstance(row[0], str) else None

    def _put(self, key: str, value: str | None) -> None:
        if value is None:
            self._db.execute("DELETE FROM settings WHERE key = ?", (key,))
        else:
            self._db.execute(
                "INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", (key, value)
            )
