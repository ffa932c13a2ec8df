"""History: a gallery's last changes, and what takes them back.

Two stacks of changes: what was done, and what of it was taken back and can be done again until
something else is changed. A change is kept as what it added, removed, altered and dropped; to take
it back makes its inverse, which lies on the other stack. Few are kept, so that the database does
not grow. Knows nothing of pictures and of the copies of them but their paths.
"""

from __future__ import annotations

import json
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from siamese_search.errors import GalleryDamaged, UsageError
from siamese_search.records import UNDOABLE, Change, RemovedCopy
from siamese_search.storage.changes import Changes
from siamese_search.storage.facts import facts_before

STEPS = 10  # changes that can be taken back, one after the other
MARK = 8  # characters of a change's run that mark the copies of what it removed
# An item as it is, but for what its table of the same change has beside.
BEFORE = (
    "json_object('identity', name, 'distractor', distractor, 'was', was, 'source', source,"
    " 'size', size, 'added', added, 'checksum', checksum, 'metadata',"
    " json((SELECT json_group_object(key, value) FROM metadata WHERE item = items.id)))"
)


def new_run() -> str:
    """What tells a change from all others, also where it takes several transactions."""
    return secrets.token_hex(16)


class History(Changes):
    """The last changes in an open ``gallery.db``."""

    _dropped: tuple[RemovedCopy, ...] = ()

    def forget_changes(self) -> None:
        """Forget all changes: they cannot be taken back any more."""
        with self._guard():
            some = self._value("SELECT count(*) FROM changes")
        if some:
            with self.writing():
                self._forget()

    def undo(
        self,
        number: int | None = None,
        before_commit: Callable[[list[RemovedCopy]], object] = lambda copies: None,
    ) -> Change:
        """Take the last change back; the one before is the last one then.

        What was removed gets new numbers. ``before_commit`` gets the copies of images that are to
        be there again, while no other process can write. Returns what was taken back. Raises
        UsageError where there is nothing, where it was too much, or where the last change is not
        that of the ``number``.
        """
        return self._turned(False, number, before_commit)

    def redo(
        self,
        number: int | None = None,
        before_commit: Callable[[list[RemovedCopy]], object] = lambda copies: None,
    ) -> Change:
        """Do again what was taken back last, as ``undo`` takes back."""
        return self._turned(True, number, before_commit)

    def _turned(
        self, undone: bool, number: int | None, before_commit: Callable[[list[RemovedCopy]], object]
    ) -> Change:
        with self.writing():
            change = self.last_change(undone=undone)
            if change is None:
                raise UsageError(self._nothing(undone))
            if number is not None and change.number != number:
                raise UsageError("the gallery has been changed meanwhile: look again")
            if not change.undoable:
                which = "taken back last" if undone else "the last change"
                how = "done again" if undone else "taken back"
                raise UsageError(
                    f"{which} in {self.path.parent} was of {change.items} items: it cannot be"
                    f" {how}, since no more than {UNDOABLE} are kept"
                )
            facts = change.what, change.items, change.identity, change.new
            inverse = self._noted(new_run(), *facts, undone=not undone)
            self._note(inverse)
            self._take_out(inverse, self._added_by(change.number))
            copies = self._put_back(change.number, inverse)
            self._swap_probes(change.number, inverse)
            self._forget([change.number])
            self._trim(undone=not undone)
            before_commit(copies)
        return change

    def _nothing(self, undone: bool) -> str:
        """Why there is nothing to take back, or to do again."""
        place = self.path.parent
        if undone:
            return f"nothing to do again in {place}: the next change after an `undo` forgets it"
        if self.last_change(undone=True):
            return f"nothing more to take back in {place}; `redo` does the last one again"
        return (
            f"nothing to take back in {place}: the last {STEPS} changes are kept, until `compact`,"
            " `rebuild` or `remove --forever`"
        )

    # Inside the transaction of a change

    def _noted(
        self,
        run: str,
        what: str,
        items: int,
        identity: str | None = None,
        new: str | None = None,
        *,
        undone: bool = False,
    ) -> int:
        """The number of a change. That of the same ``run`` goes on if nothing came between.

        What a run adds is what it is about, whatever else it does.
        """
        at = datetime.now(UTC).isoformat(timespec="seconds")
        last = self._db.execute("SELECT id, run FROM changes ORDER BY id DESC LIMIT 1").fetchone()
        if last is not None and last[1].startswith(run):
            self._db.execute(
                "UPDATE changes SET at = ?, items = CASE ? WHEN what THEN items + ? WHEN 'add'"
                " THEN ? ELSE items END, what = CASE ? WHEN 'add' THEN 'add' ELSE what END,"
                " identity = CASE WHEN ? <> 'add' OR identity = ? THEN identity END WHERE id = ?",
                (at, what, items, items, what, what, identity, last[0]),
            )
            return int(last[0])
        known = self._value("SELECT count(*) FROM changes WHERE run = ?", (run,))
        whole = (what == "add") is not undone or items <= UNDOABLE
        number = self._db.execute(
            "INSERT INTO changes (run, what, identity, new, items, at, whole, undone)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (run + new_run() * known, what, identity, new, items, at, whole, undone),
        ).lastrowid
        assert number is not None
        return number

    @contextmanager
    def _changing(
        self, run: str, what: str, items: int, identity: str | None = None, new: str | None = None
    ) -> Iterator[int]:
        """The number of a change that is made inside; what was taken back before is forgotten."""
        number = self._noted(run, what, items, identity, new)
        self._note(number)
        self._forget(self._changes(undone=True))
        yield number
        self._trim(undone=False)

    def _changes(self, *, undone: bool) -> list[int]:
        """The numbers of a stack's changes, the last first."""
        rows = self._db.execute(
            "SELECT id FROM changes WHERE undone = ? ORDER BY id DESC", (undone,)
        )
        return [number for (number,) in rows]

    def _trim(self, *, undone: bool) -> None:
        """Forget the oldest changes of a stack: what is beyond one that is not kept cannot be
        reached, and there are bounds for all.
        """
        numbers, kept = self._changes(undone=undone), 0
        for place, number in enumerate(numbers):
            for table in ("undo_items", "undo_unknowns"):
                kept += self._value(f"SELECT count(*) FROM {table} WHERE change = ?", (number,))
            if place and (place >= STEPS or kept > UNDOABLE):
                self._forget(numbers[place:])
                return
            if not self._is_kept(number):
                self._forget(numbers[place + 1 :])
                return

    def _is_kept(self, change: int) -> bool:
        return bool(self._value("SELECT whole FROM changes WHERE id = ?", (change,)))

    def _note_added(self, change: int, numbers: Sequence[int]) -> None:
        """Note items that were enrolled in this transaction, whose numbers have no gaps."""
        if numbers:
            self._db.execute(
                "INSERT INTO undo_added (change, first, last) VALUES (?, ?, ?)",
                (change, numbers[0], numbers[-1]),
            )

    def _added_by(self, change: int) -> list[int]:
        rows = self._db.execute(
            "SELECT DISTINCT items.id FROM undo_added JOIN items ON items.id BETWEEN first AND last"
            " WHERE change = ? ORDER BY 1",
            (change,),
        )
        return [number for (number,) in rows]

    def _keep(self, change: int, numbers: Iterable[int], *, removed: bool = False) -> None:
        """Keep items as they are; all of them where they are about to be removed."""
        wanted = json.dumps(list(numbers))
        chosen = "WHERE items.id IN (SELECT value FROM json_each(?))"
        if not self._is_kept(change):
            if removed:
                self._drop_copies(
                    f"SELECT copy, content, '' FROM items {chosen} AND copy IS NOT NULL", wanted
                )
            return
        self._db.execute(
            "INSERT OR IGNORE INTO undo_items (change, item, removed, content, copy, before)"
            f" SELECT ?, items.id, ?, content, copy, {BEFORE}"
            f" FROM items JOIN identities ON identities.id = items.identity {chosen}",
            (change, removed, wanted),
        )
        if removed:
            for table, columns in (("embeddings", "vector, checksum"), ("places", "content")):
                self._db.execute(
                    f"INSERT INTO undo_{table} (change, item, fingerprint, {columns})"
                    f" SELECT ?, item, fingerprint, {columns} FROM {table}"
                    " JOIN generations ON generations.id = generation"
                    " WHERE item IN (SELECT value FROM json_each(?))",
                    (change, wanted),
                )
        elif self._value("SELECT count(*) FROM undo_items WHERE change = ?", (change,)) > UNDOABLE:
            self._db.execute("DELETE FROM undo_items WHERE change = ?", (change,))
            self._db.execute("UPDATE changes SET whole = 0 WHERE id = ?", (change,))

    def _drop_probes(self, change: int, numbers: Iterable[int]) -> None:
        """Drop kept probes."""
        wanted = json.dumps(list(numbers))
        if self._is_kept(change):
            self._db.execute(
                "INSERT INTO undo_unknowns"
                " (change, number, dropped, content, source, added, fingerprint, vector)"
                " SELECT ?, unknowns.id, 1, content, source, added, fingerprint, vector"
                " FROM unknowns LEFT JOIN generations ON generations.id = generation"
                " WHERE unknowns.id IN (SELECT value FROM json_each(?))",
                (change, wanted),
            )
        self._db.execute(
            "DELETE FROM unknowns WHERE id IN (SELECT value FROM json_each(?))", (wanted,)
        )

    def _kept_probes(self, items: Sequence[int]) -> list[int]:
        """The kept probes that are the same pictures as items whose numbers have no gaps."""
        rows = self._db.execute(
            "SELECT unknowns.id FROM unknowns JOIN items ON items.content = unknowns.content"
            " WHERE items.id BETWEEN ? AND ?",
            (items[0], items[-1]),
        )
        return [number for (number,) in rows]

    def _take_out(self, change: int, numbers: Sequence[int]) -> None:
        """Remove items, and identities left without any."""
        self._keep(change, numbers, removed=True)
        wanted = json.dumps(list(numbers))
        chosen = "IN (SELECT value FROM json_each(?))"
        owners = [
            row[0]
            for row in self._db.execute(
                f"SELECT DISTINCT name FROM items JOIN identities ON identities.id = identity"
                f" WHERE items.id {chosen}",
                (wanted,),
            )
        ]
        self._db.execute("INSERT INTO removals (item) SELECT value FROM json_each(?)", (wanted,))
        self._db.execute(f"DELETE FROM items WHERE id {chosen}", (wanted,))
        self._drop_empty(owners)

    def _put_back(self, change: int, inverse: int) -> list[RemovedCopy]:
        """Make items what they were before a change; returns the copies of those removed by it.

        Items are known by their content, since those that were back already have new numbers.
        """
        mark = self._mark(change)
        copies: list[RemovedCopy] = []
        made: dict[int, int] = {}  # new numbers, which have no gaps, by the old ones, ascending
        left: set[str] = set()
        rows = [
            (*row, self._value("SELECT id FROM items WHERE content = ?", (row[2],)))
            for row in self._db.execute(
                "SELECT item, removed, content, copy, before FROM undo_items WHERE change = ?"
                " ORDER BY item",
                (change,),
            ).fetchall()
        ]
        self._keep(inverse, [there for _, removed, *_, there in rows if there and not removed])
        for item, removed, content, copy, kept, there in rows:
            if bool(there) is bool(removed):  # a change of that run has come between
                continue
            before = facts_before(content, copy, kept)
            if before is None:
                what = f"what was kept of item {item} is damaged: it cannot be taken back"
                raise GalleryDamaged(f"{self.path}: {what}")
            identity, _ = self._identity(before["identity"], bool(before["distractor"]))
            number = there
            if removed:
                number = self._insert(identity, content, copy, before)
                made[item] = number
                self._embed_again(change, item, number)
                if copy is not None:
                    copies.append(RemovedCopy(copy, content.hex(), mark))
            else:
                left |= self._owner(number)
                self._db.execute(
                    "UPDATE items SET identity = ?, was = ? WHERE id = ?",
                    (identity, before["was"], number),
                )
                self._db.execute("DELETE FROM metadata WHERE item = ?", (number,))
            self._db.executemany(
                "INSERT INTO metadata (item, key, value) VALUES (?, ?, ?)",
                [(number, key, value) for key, value in before["metadata"].items()],
            )
            self._seal([number])
        self._renumber(made)
        self._note_added(inverse, list(made.values()))
        self._drop_empty(left)
        return copies

    def _insert(
        self, identity: int, content: bytes, copy: str | None, before: dict[str, object]
    ) -> int:
        number = self._db.execute(
            "INSERT INTO items (identity, content, source, copy, size, added, was)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (identity, content, before["source"], copy, before["size"], before["added"],
             before["was"]),
        ).lastrowid  # fmt: skip
        assert number is not None
        return number

    def _embed_again(self, change: int, item: int, number: int) -> None:
        """Give an item that is back the embeddings that it had by its old number."""
        kept = {"embeddings": "vector, checksum"}
        if self.keeps_places():
            kept["places"] = "content"
        for table, columns in kept.items():
            self._db.execute(
                f"INSERT INTO {table} (generation, item, {columns})"
                f" SELECT generations.id, ?, {columns} FROM undo_{table} AS kept"
                " JOIN generations ON generations.fingerprint = kept.fingerprint"
                " WHERE change = ? AND item = ?",
                (number, change, item),
            )

    def _renumber(self, made: Mapping[int, int]) -> None:
        """Note items that are back in the changes that enrolled them; all at once, for they may be
        many, and so may the ranges of what was enrolled.
        """
        old, new = list(made), list(made.values())
        rows = self._db.execute("SELECT change, first, last FROM undo_added").fetchall()
        for change, first, last in rows:
            self._note_added(change, new[bisect_left(old, first) : bisect_right(old, last)])

    def _swap_probes(self, change: int, inverse: int) -> None:
        """Put back the probes that a change has dropped, and drop those that it has put back."""
        again = self._db.execute(
            "SELECT unknowns.id FROM unknowns JOIN undo_unknowns AS kept"
            " ON kept.content = unknowns.content WHERE change = ? AND NOT dropped",
            (change,),
        ).fetchall()
        self._drop_probes(inverse, [number for (number,) in again])
        self._db.execute(
            # One by a generation that is gone is embedded again.
            "INSERT OR IGNORE INTO unknowns (id, content, source, added, generation, vector)"
            " SELECT number, content, source, added, coalesce(generations.id, -1), vector"
            " FROM undo_unknowns LEFT JOIN generations"
            " ON generations.fingerprint = undo_unknowns.fingerprint"
            " WHERE change = ? AND dropped",
            (change,),
        )
        self._db.execute(
            "INSERT INTO undo_unknowns (change, dropped, content, source, added, vector)"
            " SELECT ?, 0, content, '', '', x'' FROM undo_unknowns WHERE change = ? AND dropped",
            (inverse, change),
        )

    def _forget(self, changes: Iterable[int] | None = None) -> None:
        """Forget changes, all if None; what they removed is gone for good."""
        every = [number for (number,) in self._db.execute("SELECT id FROM changes")]
        gone = json.dumps(every if changes is None else list(changes))
        self._drop_copies(
            f"SELECT copy, content, substr(run, 1, {MARK}) FROM undo_items JOIN changes"
            " ON changes.id = change WHERE removed AND copy IS NOT NULL"
            " AND change IN (SELECT value FROM json_each(?))",
            gone,
        )
        self._db.execute(
            "DELETE FROM changes WHERE id IN (SELECT value FROM json_each(?))", (gone,)
        )

    # Identities

    def _identity(self, name: str, distractor: bool) -> tuple[int, bool]:
        """An identity's number and whether it is a distractor; made where there is none yet."""
        row = self._db.execute(
            "SELECT id, distractor FROM identities WHERE name = ?", (name,)
        ).fetchone()
        if row is not None:
            return row[0], bool(row[1])
        made = self._db.execute(
            "INSERT INTO identities (name, distractor) VALUES (?, ?)", (name, distractor)
        ).lastrowid
        assert made is not None
        return made, distractor

    def _owner(self, item: int) -> set[str]:
        rows = self._db.execute(
            "SELECT name FROM items JOIN identities ON identities.id = identity WHERE items.id = ?",
            (item,),
        )
        return {name for (name,) in rows}

    def _drop_empty(self, names: Iterable[str]) -> None:
        self._db.executemany(
            "DELETE FROM identities WHERE name = ?"
            " AND NOT EXISTS (SELECT 1 FROM items WHERE identity = identities.id)",
            [(name,) for name in names],
        )

    # Copies of images

    def removed_copies(self) -> list[RemovedCopy]:
        """The copies of what was removed and can be put back."""
        with self._guard():
            rows = self._db.execute(
                f"SELECT copy, content, substr(run, 1, {MARK}) FROM undo_items JOIN changes"
                " ON changes.id = change WHERE removed AND copy IS NOT NULL"
            )
            return [RemovedCopy(path, content.hex(), mark) for path, content, mark in rows]

    def take_dropped_copies(self) -> tuple[RemovedCopy, ...]:
        """The copies that belong to nothing since this object's last changes; they may belong to
        something again, or the change may have failed.
        """
        with self._guard():
            dropped, self._dropped = self._dropped, ()
            return dropped

    def _drop_copies(self, sql: str, parameter: object) -> None:
        rows = self._db.execute(sql, (parameter,))
        self._dropped += tuple(
            RemovedCopy(path, content.hex(), mark) for path, content, mark in rows
        )

    def _mark(self, change: int) -> str:
        (run,) = self._db.execute("SELECT run FROM changes WHERE id = ?", (change,)).fetchone()
        return str(run[:MARK])
