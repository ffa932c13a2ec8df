"""Exchange: a gallery's database as it is at one moment, and items that come with all that is known
of them.

Opened by a connection of its own, since it may take minutes. Knows nothing of archives and tables.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from siamese_search.arrays import FloatArray
from siamese_search.errors import GalleryDamaged, UsageError
from siamese_search.records import Copy, Generation
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.database import Database, connect, mapped
from siamese_search.storage.facts import ROWS, Facts, fault_in
from siamese_search.storage.history import new_run

CHUNK = 1024
CACHE_KIB = 128 << 10  # of the database's pages, while many items come
SKIP, REPLACE, ERROR = "skip", "replace", "error"  # what is done with what is enrolled already
CONFLICTS = (SKIP, REPLACE, ERROR)
# What belongs to SQLite, or to the library that migrates: it may differ between their releases.
OTHERS = ("sqlite_", "_sqlite_")


class Block(NamedTuple):
    """Some items: their numbers, what is known of them, their embeddings, float32 (n, dimension),
    None where these were not asked for, and places, packed, by number, of those that have them.
    """

    numbers: list[int]
    facts: list[Facts]
    embeddings: FloatArray | None
    places: Mapping[int, bytes] = MappingProxyType({})


@dataclass(frozen=True)
class TakenIn:
    """What became of items that came: how many were ``added``, how many of these ``replaced`` one
    with the same picture, and how many were ``skipped``, since it is enrolled; ``renamed`` of these
    are enrolled as another identity. Of another gallery's, some were ``left_out``, since they have
    no embedding.
    """

    added: int
    replaced: int
    skipped: int
    renamed: int
    left_out: int = 0


class _Known(NamedTuple):
    """An item that is enrolled, by its content."""

    number: int
    identity: str
    copy: str | None


def copy_database(source: Database, target: Path) -> None:
    """Write a database as it is at one moment into a new file, while others write.

    It is one read transaction: whoever commits meanwhile waits until the pages are copied.
    """
    mode = "rw" if source.writable else "ro"  # what a crash has left can be taken back by "rw" only
    with (
        mapped(source.path),
        closing(connect(source.path, mode)) as db,
        closing(connect(target, "rwc")) as copy,
    ):
        copy.execute("PRAGMA journal_mode = OFF")  # a copy that is not whole is deleted
        copy.execute("PRAGMA synchronous = OFF")
        db.backup(copy)


class Exchange(Catalog):
    """A ``gallery.db`` that is handed on, or takes in what somebody has handed on."""

    def strangeness(self) -> str | None:
        """What the database has beside the tables of a gallery, or otherwise: a trigger, say, which
        would run whenever items are changed. None where there is nothing.
        """
        from siamese_search.storage.schema import migrate  # its library takes time to load

        with closing(sqlite3.connect(":memory:")) as new:
            migrate(new)
            expected = _schema(new)
        with self._guard():
            found = _schema(self._db)
        differing = sorted(name for name, _ in expected.items() ^ found.items())
        return f"has an unknown {differing[0]!r}" if differing else None

    def make_portable(self) -> None:
        """Leave out what is of use in its folder alone, and what was removed: where its index
        is, and the last changes.
        """
        with self.writing():
            self._forget()
            self._db.execute("DELETE FROM snapshots")
            self._db.execute("DELETE FROM removals")
            self._db.execute("DELETE FROM settings WHERE key IN ('engine', 'collections')")
        self.take_dropped_copies()

    def keep_only(self, numbers: Sequence[int]) -> None:
        """Remove all other items, and kept probes, for good."""
        every = self.identity_numbers()[0]
        self.remove(np.setdiff1d(every, np.array(numbers, np.int64)).tolist())
        self.drop_unknowns(probe.number for probe in self.unknowns())
        self.make_portable()
        with self._guard():
            self._db.execute("VACUUM")

    def copies_by_number(self) -> Iterator[Copy]:
        """The images kept as copies, in short reads of their own."""
        last = 0
        while True:
            with self._guard():
                rows = self._db.execute(
                    "SELECT id, copy, content FROM items WHERE id > ? AND copy IS NOT NULL"
                    " ORDER BY id LIMIT ?",
                    (last, CHUNK),
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            for number, path, content in rows:
                yield Copy(number, path, content.hex())

    def forget_copies(self, numbers: list[int] | None = None) -> None:
        """Note that there are no copies of the images of items, of any where none are named."""
        wanted = [copy.item for copy in self.copies_by_number()] if numbers is None else numbers
        with self.writing():
            for start in range(0, len(wanted), CHUNK):
                some = wanted[start : start + CHUNK]
                self._db.execute(
                    "UPDATE items SET copy = NULL WHERE id IN (SELECT value FROM json_each(?))",
                    (json.dumps(some),),
                )
                self._seal(some)

    def place_kept(self, content: str, name: str, path: str) -> None:
        """Note where a picture lies now that a gallery has kept under a name, because nobody
        fitted, by its SHA-256 (hex).
        """
        there = "content = ? AND (source LIKE '%/' || ? OR source LIKE '%\\' || ?)"
        facts = bytes.fromhex(content), name, name
        with self.writing():
            self._db.execute(f"UPDATE unknowns SET source = ? WHERE {there}", (path, *facts))
            moved = self._db.execute(f"SELECT id FROM items WHERE {there}", facts).fetchall()
            numbers = [number for (number,) in moved]
            self.items(numbers)  # raises: what is damaged must not be sealed
            self._db.executemany(
                "UPDATE items SET source = ? WHERE id = ?", [(path, one) for one in numbers]
            )
            self._seal(numbers)

    # Items out

    def exported(
        self, generation: Generation, *, embedded: bool = True, places: bool = False
    ) -> Iterator[Block]:
        """All items by number, in blocks; with embeddings, those that have one.

        Raises GalleryDamaged, naming an item, where something is not as it was stored.
        """
        last = 0
        while True:
            with self._guard():
                rows = self._db.execute(
                    f"{ROWS} WHERE items.id > ? ORDER BY items.id LIMIT {CHUNK}", (last,)
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            for fault in filter(None, map(fault_in, rows)):
                raise GalleryDamaged(f"{self.path}: {fault}: run `siasearch check`")
            if not embedded:
                yield Block([row[0] for row in rows], [Facts.of(row) for row in rows], None)
                continue
            found, vectors = self.vectors(generation, np.array([row[0] for row in rows], np.int64))
            numbers = found.tolist()
            there = set(numbers)
            facts = [Facts.of(row) for row in rows if row[0] in there]
            if numbers:
                packed = self._packed_places(generation.number, numbers) if places else {}
                yield Block(numbers, facts, vectors, packed)

    def _packed_places(self, generation: int, numbers: Iterable[int]) -> dict[int, bytes]:
        """As they are stored: they are told to be sound when they are used."""
        with self._guard():
            rows = self._db.execute(
                "SELECT item, content FROM places WHERE generation = ?"
                " AND item IN (SELECT value FROM json_each(?))",
                (generation, json.dumps(list(numbers))),
            )
            return dict(rows.fetchall())

    # Items in

    def take_in(
        self,
        blocks: Callable[[], Iterable[Block]],
        fingerprint: str,
        origin: Path,
        conflict: str = SKIP,
        before_commit: Callable[[set[str]], object] = lambda copies: None,
    ) -> TakenIn:
        """Enrol items with all that is known of them, all or none, as one change.

        ``blocks`` gives them, anew each time that it is called; errors name their ``origin``. By
        ``conflict``, what is enrolled already is skipped, replaced, or an error. ``before_commit``
        gets the paths of the copies that belong to what was added. Raises UsageError for what is an
        error, for a picture that comes twice, and for an identity that is a distractor here and not
        there, or the other way round; GalleryMismatch where the embeddings are of another encoder.
        """
        with self.writing():
            self._db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            generation = self._require_active(fingerprint)
            taking = _Taking(self, generation, origin, conflict, self.state().last_item)
            replaced = sum(len(taking.known(one)) for one in blocks()) if conflict == REPLACE else 0
            with ExitStack() as changing:
                change: int | None = None
                run = new_run()
                for block in blocks():
                    chosen = taking.chosen(block)
                    if not chosen:
                        continue
                    if change is None:
                        # How many it removes tells whether these are kept.
                        first = ("remove", replaced) if replaced else ("add", 0)
                        change = changing.enter_context(self._changing(run, *first))
                    taking.enrol(block, chosen, change)
                    self._noted(run, "add", len(chosen))
            before_commit(taking.copies)
        return taking.done()


class _Taking:
    """Items that are taken in by one transaction."""

    def __init__(
        self, catalog: Exchange, generation: int, origin: Path, conflict: str, last: int
    ) -> None:
        self._catalog = catalog
        self._db = catalog._db
        self._generation = generation
        self._origin = origin
        self._conflict = conflict
        self._last = last  # number that was given out before
        self._identities: dict[str, tuple[int, bool]] = {}
        self._added = self._replaced = self._skipped = self._renamed = 0
        self.copies: set[str] = set()

    def done(self) -> TakenIn:
        return TakenIn(self._added, self._replaced, self._skipped, self._renamed)

    def known(self, block: Block) -> dict[bytes, _Known]:
        """Which of the block's pictures are enrolled."""
        sql = (
            "SELECT items.id, name, copy FROM items JOIN identities"
            " ON identities.id = items.identity WHERE content = ?"
        )
        contents = [one.content for one in block.facts]
        rows = ((one, self._db.execute(sql, (one,)).fetchone()) for one in contents)
        return {content: _Known(*row) for content, row in rows if row}

    def chosen(self, block: Block) -> list[int]:
        """The rows of the block that are to be enrolled; those in the way of them are removed
        later. Raises UsageError where one may not be.
        """
        known = self.known(block)
        contents = set()
        chosen = []
        for row, facts in enumerate(block.facts):
            there = known.get(facts.content)
            if facts.content in contents or (there and there.number > self._last):
                raise self._refused(block.numbers[row], facts, "has a picture that comes twice")
            contents.add(facts.content)
            if there is None or self._conflict == REPLACE:
                chosen.append(row)
            elif self._conflict == ERROR:
                why = f"is enrolled already, as item {there.number} ({there.identity!r})"
                raise self._refused(block.numbers[row], facts, why)
            else:
                self._skipped += 1
                self._renamed += there.identity != facts.identity
        return chosen

    def enrol(self, block: Block, chosen: Sequence[int], change: int) -> None:
        """Enrol rows of a block, in place of what is there."""
        assert block.embeddings is not None
        catalog = self._catalog
        before = self.known(block) if self._conflict == REPLACE else {}
        places = dict(block.places)
        if before:
            numbers = [one.number for one in before.values()]
            kept = catalog._packed_places(self._generation, numbers)
            catalog._take_out(change, numbers)
            self._replaced += len(numbers)
            self._identities.clear()  # some may have gone
            for row in chosen:
                old = before.get(block.facts[row].content)
                if old and old.number in kept:
                    places.setdefault(block.numbers[row], kept[old.number])
        made = []
        for row in chosen:
            facts = block.facts[row]
            old = before.get(facts.content)
            if old and old.copy:  # the same picture
                facts = replace(facts, copy=old.copy)
            made.append(self._insert(block.numbers[row], facts))
        vectors = np.ascontiguousarray(block.embeddings, "<f4")
        catalog._store(
            self._generation,
            [(number, vectors[row].tobytes()) for row, number in zip(chosen, made, strict=True)],
        )
        if places and catalog.keeps_places():
            numbered = zip(made, (places.get(block.numbers[row]) for row in chosen), strict=True)
            self._db.executemany(
                "INSERT INTO places (generation, item, content) VALUES (?, ?, ?)",
                [(self._generation, number, one) for number, one in numbered if one is not None],
            )
        catalog._note_added(change, made)
        catalog._drop_probes(change, catalog._kept_probes(made))
        self._added += len(made)

    def _refused(self, number: int, facts: Facts, why: str) -> UsageError:
        """The error for an item, by its number where it comes from."""
        picture = facts.source or facts.content.hex()
        return UsageError(
            f"{self._origin}: its item {number} ({facts.identity!r}, {picture}) {why}: nothing of"
            " it was imported"
        )

    def _insert(self, comes_as: int, facts: Facts) -> int:
        known = self._identities.get(facts.identity)
        if known is None:
            known = self._catalog._identity(facts.identity, facts.distractor)
            self._identities[facts.identity] = known
        if known[1] != facts.distractor:
            what = "a distractor" if known[1] else "no distractor"
            why = f"is refused, since {facts.identity!r} is {what} here"
            raise self._refused(comes_as, facts, why)
        number = self._db.execute(
            "INSERT INTO items (identity, content, source, copy, size, added, was, checksum)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (known[0], facts.content, facts.source, facts.copy, facts.size, facts.added, facts.was,
             facts.checksum),
        ).lastrowid  # fmt: skip
        assert number is not None
        self._db.executemany(
            "INSERT INTO metadata (item, key, value) VALUES (?, ?, ?)",
            [(number, key, value) for key, value in facts.metadata.items()],
        )
        if facts.copy is not None:
            self.copies.add(facts.copy)
        return number


def _schema(db: sqlite3.Connection) -> dict[tuple[str, str], str | None]:
    """The definition of each table, index, trigger and view, by its kind and name."""
    rows = db.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    return {(kind, name): sql for kind, name, sql in rows if not name.startswith(OTHERS)}
