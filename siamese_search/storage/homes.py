"""Homes: the folders in which a gallery has lain, so that pictures moved with it are found.

Paths of pictures are stored as they were. Where one is not there any more, it may lie as it lay
beside the gallery's folder at that time, if a file of its size is there: a copy of the gallery may
lie beside other pictures. Whoever reads it compares its content, as ever.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress

from siamese_search.storage.database import Database

MOST = 8  # that are remembered, the last ones


class Homes(Database):
    """An open ``gallery.db`` and the folders in which it has lain."""

    _before: list[str] | None = None  # homes that are not this one, the last first

    def note_home(self) -> None:
        """Note, inside a transaction, where the gallery lies while paths are stored."""
        here, homes = str(self.path.parent), self._homes()
        if homes[-1:] != [here]:
            kept = [*(home for home in homes if home != here), here][-MOST:]
            self._db.execute(
                "INSERT OR REPLACE INTO settings (key, value) VALUES ('homes', ?)",
                (json.dumps(kept),),
            )

    def located(self, source: str | None, size: int) -> str | None:
        """Where a picture of ``size`` bytes lies: at its stored path, or else, if a file of that
        size is there, where it was beside the gallery's folder.
        """
        if self._before is None:
            here = str(self.path.parent)
            self._before = [home for home in reversed(self._homes()) if home != here]
        if not source or not self._before or os.path.exists(source):
            return source
        for home in self._before:
            with suppress(ValueError, OSError):  # on another drive, or not there
                moved = os.path.normpath(self.path.parent / os.path.relpath(source, home))
                if os.stat(moved).st_size == size:
                    return moved
        return source

    def _homes(self) -> list[str]:
        with self._guard():
            row = self._db.execute("SELECT value FROM settings WHERE key = 'homes'").fetchone()
        with suppress(ValueError, TypeError):  # damaged: it is but a help
            found = json.loads(row[0]) if row else []
            return [home for home in found if isinstance(home, str) and os.path.isabs(home)]
        return []
