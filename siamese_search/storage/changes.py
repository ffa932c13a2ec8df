"""Changes: which of a gallery's last changes can be taken back, or done again, in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from siamese_search.records import Change
from siamese_search.storage.seals import Seals


class Changes(Seals):
    """The two stacks of changes in an open ``gallery.db``, without what they have kept."""

    def __init__(self, path: Path, spill: bool = True) -> None:
        super().__init__(path, spill)
        self._noting = threading.local()

    @contextmanager
    def noting(self) -> Iterator[list[int]]:
        """Gives the numbers of the changes that this thread makes inside, the last one last."""
        numbers: list[int] = []
        self._noting.numbers = numbers
        try:
            yield numbers
        finally:
            self._noting.numbers = None

    def _note(self, number: int) -> None:
        if getattr(self._noting, "numbers", None) is not None:
            self._noting.numbers.append(number)

    def run_of(self, number: int) -> str | None:
        """The run of an enrolment that can be taken back; None where there is no such change."""
        with self._guard():
            row = self._db.execute(
                "SELECT run FROM changes WHERE id = ? AND what = 'add' AND NOT undone", (number,)
            ).fetchone()
        return row and str(row[0])

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
