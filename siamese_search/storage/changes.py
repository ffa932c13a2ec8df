"""Changes: which of a gallery's last changes can be taken back, or done again, in order."""

from __future__ import annotations

from siamese_search.records import Change
from siamese_search.storage.seals import Seals


class Changes(Seals):
    """The two stacks of changes in an open ``gallery.db``, without what they have kept."""

    def changes(self, *, undone: bool = False) -> list[Change]:
        """What ``undo`` would take back, the last one first; or ``redo`` do again, of what was
        ``undone``.
        """
        with self._guard():
            rows = self._db.execute(
                "SELECT id, what, identity, new, items, at, whole FROM changes"
                " WHERE undone = ? ORDER BY id DESC",
                (undone,),
            ).fetchall()
        return [
            Change(number, what, identity, new, items, at, bool(whole))
            for number, what, identity, new, items, at, whole in rows
        ]

    def last_change(self, *, undone: bool = False) -> Change | None:
        """The first of these; None where there is nothing, or it is forgotten."""
        return next(iter(self.changes(undone=undone)), None)
