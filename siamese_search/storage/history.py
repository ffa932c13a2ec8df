"""History: a gallery's last change, and what takes it back.

One change is kept, until the next one, so that the database does not grow and what was removed does
not stay for ever. Knows nothing of pictures and of the copies of them but their paths.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from siamese_search.errors import GalleryDamaged, UsageError
from siamese_search.records import UNDOABLE, Change, RemovedCopy
from siamese_search.storage.seals import Seals

MARK = 8  # characters of a change's run that mark the copies of what it removed
# An item as it is, but for what its table of the same change has beside.
BEFORE = (
    "json_object('identity', name, 'distractor', distractor, 'was', was, 'source', source,"
    " 'size', size, 'added', added, 'checksum', checksum, 'metadata',"
    " json((SELECT json_group_object(key, value) FROM metadata WHERE item = items.id)))"
)
INVERSE = {"add": "remove", "remove": "add", "relabel": "relabel", "drop": "keep"}


def new_run() -> str:
    """What tells a change from all others, also where it takes several transactions."""
    return secrets.token_hex(16)


class History(Seals):
    """The last change in an open ``gallery.db``."""

    _dropped: tuple[RemovedCopy, ...] = ()

    def last_change(self) -> Change | None:
        """What was changed last, None where nothing was, or that is forgotten."""
        with self._guard():
            row = self._db.execute(
                "SELECT id, what, identity, new, items, at, whole FROM changes"
                " ORDER BY id DESC LIMIT 1"
            ).fetchone()
        if row is None:
            return None
        number, what, identity, new, items, at, whole = row
        return Change(number, what, identity, new, items, at, bool(whole))

    def forget_change(self) -> None:
        """Forget the last change: it cannot be taken back any more."""
        if self.last_change() is not None:
            with self.writing():
                self._forget()

    def undo(
        self,
        number: int | None = None,
        before_commit: Callable[[list[RemovedCopy]], object] = lambda copies: None,
    ) -> Change:
        """Take the last change back; that becomes the last change itself.

        What was removed gets new numbers. ``before_commit`` gets the copies of images that are to
        be there again, while no other process can write. Returns what was taken back. Raises
        UsageError where there is nothing, where it was too much, or where the last change is not
        that of the ``number``.
        """
        with self.writing():
            change = self.last_change()
            if change is None:
                raise UsageError(
                    f"nothing to take back in {self.path.parent}: the last change is forgotten by"
                    " `compact` and `rebuild`"
                )
            if number is not None and change.number != number:
                raise UsageError("the gallery has been changed meanwhile: look again")
            if not change.undoable:
                raise UsageError(
                    f"the last change in {self.path.parent} was of {change.items} items: it cannot"
                    f" be taken back, since no more than {UNDOABLE} are kept"
                )
            old, new = change.identity, change.new
            names = (old, None) if new is None else (new, old)
            redo = self._noted(new_run(), INVERSE[change.what], change.items, *names)
            self._take_out(redo, self._added_by(change.number))
            copies = self._put_back(change.number, redo)
            self._keep_again(change.number)
            self._forget(but=-1 if change.what == "drop" else redo)
            before_commit(copies)
        return change

    # Inside the transaction of a change

    def _noted(
        self, run: str, what: str, items: int, identity: str | None = None, new: str | None = None
    ) -> int:
        """The number of a change, made where it is not underway yet; ``items`` are added to it."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._db.execute(
            "INSERT INTO changes (run, what, identity, new, items, at, whole)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run) DO UPDATE SET"
            " items = items + excluded.items, at = excluded.at",
            (run, what, identity, new, items, at, what == "add" or items <= UNDOABLE),
        )
        return self._value("SELECT id FROM changes WHERE run = ?", (run,))

    def _begun(
        self, run: str, what: str, items: int, identity: str | None = None, new: str | None = None
    ) -> int:
        """The number of a change; the one before is forgotten."""
        number = self._noted(run, what, items, identity, new)
        self._forget(but=number)
        return number

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
            "SELECT items.id FROM undo_added JOIN items ON items.id BETWEEN first AND last"
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

    def _keep_probes(self, change: int, wanted: str) -> None:
        """Keep probes that are about to be dropped, whose numbers are a list in JSON."""
        if self._is_kept(change):
            self._db.execute(
                "INSERT INTO undo_unknowns (change, content, source, added, fingerprint, vector)"
                " SELECT ?, content, source, added, fingerprint, vector FROM unknowns"
                " LEFT JOIN generations ON generations.id = generation"
                " WHERE unknowns.id IN (SELECT value FROM json_each(?))",
                (change, wanted),
            )

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

    def _put_back(self, change: int, redo: int) -> list[RemovedCopy]:
        """Make items what they were before a change; returns the copies of those removed by it."""
        mark = self._mark(change)
        copies: list[RemovedCopy] = []
        made: list[int] = []
        left: set[str] = set()
        rows = self._db.execute(
            "SELECT item, removed, content, copy, before FROM undo_items WHERE change = ?"
            " ORDER BY item",
            (change,),
        ).fetchall()
        self._keep(redo, [item for item, removed, *_ in rows if not removed])
        for item, removed, content, copy, kept in rows:
            before = json.loads(kept)
            identity, _ = self._identity(before["identity"], bool(before["distractor"]))
            number = item
            if removed:
                number = self._insert(identity, content, copy, before)
                made.append(number)
                self._restore_vectors(change, item, number)
                if copy is not None:
                    copies.append(RemovedCopy(copy, content.hex(), mark))
            else:
                left |= self._owner(item)
                self._db.execute(
                    "UPDATE items SET identity = ?, was = ? WHERE id = ?",
                    (identity, before["was"], item),
                )
                self._db.execute("DELETE FROM metadata WHERE item = ?", (item,))
            self._db.executemany(
                "INSERT INTO metadata (item, key, value) SELECT id, ?, ? FROM items WHERE id = ?",
                [(key, value, number) for key, value in before["metadata"].items()],
            )
            self._seal_as_before(number, item, before)
        self._note_added(redo, made)
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

    def _seal_as_before(self, number: int, item: int, before: dict[str, object]) -> None:
        """Seal what was put back. Raises GalleryDamaged where it is not what was kept."""
        self._seal([number])
        kept = before.get("checksum")  # of changes before format 6 there is none
        if kept is not None and kept != self._value(
            "SELECT checksum FROM items WHERE id = ?", (number,)
        ):
            raise GalleryDamaged(
                f"{self.path}: what was kept of item {item} is damaged, so that the last change"
                " cannot be taken back"
            )

    def _restore_vectors(self, change: int, item: int, number: int) -> None:
        """Give an item, by its new number, the embeddings that it had by its old one."""
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

    def _keep_again(self, change: int) -> None:
        """Put back the probes that a change has dropped."""
        self._db.execute(
            # One by a generation that is gone is embedded again.
            "INSERT OR IGNORE INTO unknowns (content, source, added, generation, vector)"
            " SELECT content, source, added, coalesce(generations.id, -1), vector"
            " FROM undo_unknowns LEFT JOIN generations"
            " ON generations.fingerprint = undo_unknowns.fingerprint WHERE change = ?",
            (change,),
        )

    def _forget(self, but: int = -1) -> None:
        """Forget all changes but one; what they removed is gone for good."""
        self._drop_copies(
            f"SELECT copy, content, substr(run, 1, {MARK}) FROM undo_items JOIN changes"
            " ON changes.id = change WHERE change <> ? AND removed AND copy IS NOT NULL",
            but,
        )
        self._db.execute("DELETE FROM changes WHERE id <> ?", (but,))

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
