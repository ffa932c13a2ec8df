"""The tables of ``gallery.db``, as append-only migrations, each in its transaction.

``indexes/README.md`` explains them. Only the catalog calls this, and only to create or upgrade.
"""

from __future__ import annotations

import sqlite3

from sqlite_utils import Database, Migrations

from siamese_search.storage.facts import ROWS, Facts

migrations = Migrations("siasearch")


@migrations()
def v001_first_format(db: Database) -> None:
    # AUTOINCREMENT: a number is never given out twice, so a removed item cannot come back in a
    # snapshot or a delta under somebody else's name.
    for statement in (
        "CREATE TABLE settings (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
        "CREATE TABLE identities (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
        """CREATE TABLE items (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            identity INTEGER NOT NULL REFERENCES identities(id),
            content BLOB NOT NULL UNIQUE,
            source TEXT,
            copy TEXT,
            size INTEGER NOT NULL,
            added TEXT NOT NULL)""",
        "CREATE INDEX items_by_identity ON items(identity)",
        """CREATE TABLE metadata (
            item INTEGER NOT NULL REFERENCES items(id) ON DELETE CASCADE,
            key TEXT NOT NULL,
            value TEXT NOT NULL,
            PRIMARY KEY (item, key)) WITHOUT ROWID""",
        "CREATE INDEX metadata_by_value ON metadata(key, value, item)",
        """CREATE TABLE generations (
            id INTEGER PRIMARY KEY,
            fingerprint TEXT NOT NULL UNIQUE,
            encoder TEXT NOT NULL,
            dimension INTEGER NOT NULL)""",
        """CREATE TABLE embeddings (
            generation INTEGER NOT NULL REFERENCES generations(id) ON DELETE CASCADE,
            item INTEGER NOT NULL REFERENCES items(id) ON DELETE CASCADE,
            vector BLOB NOT NULL,
            checksum INTEGER NOT NULL,
            UNIQUE (item, generation))""",
        "CREATE TABLE removals (id INTEGER PRIMARY KEY AUTOINCREMENT, item INTEGER NOT NULL)",
        """CREATE TABLE snapshots (
            generation INTEGER PRIMARY KEY REFERENCES generations(id) ON DELETE CASCADE,
            file TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            size INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL,
            inode INTEGER NOT NULL,
            items INTEGER NOT NULL,
            last_item INTEGER NOT NULL,
            last_removal INTEGER NOT NULL)""",
        # Totals, so that no command has to count a million rows.
        "INSERT INTO settings VALUES ('items', 0), ('identities', 0), ('epoch', 0), ('prune', 0)",
        *(
            f"""CREATE TRIGGER {table}_{event} AFTER {event} ON {table} BEGIN
                UPDATE settings SET value = value {step} WHERE key = '{table}'; END"""
            for table in ("items", "identities")
            for event, step in (("insert", "+ 1"), ("delete", "- 1"))
        ),
    ):
        db.execute(statement)


@migrations()
def v002_calibration_and_unknowns(db: Database) -> None:
    for statement in (
        # What a generation's threshold was chosen by; a distractor is never named.
        """CREATE TABLE calibrations (
            generation INTEGER PRIMARY KEY REFERENCES generations(id) ON DELETE CASCADE,
            content TEXT NOT NULL)""",
        "ALTER TABLE identities ADD COLUMN distractor INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX distractors ON identities(id) WHERE distractor",
        # Probes that were kept because nobody fitted, until somebody looks at them.
        """CREATE TABLE unknowns (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            content BLOB NOT NULL UNIQUE,
            source TEXT NOT NULL,
            added TEXT NOT NULL,
            generation INTEGER NOT NULL,
            vector BLOB NOT NULL)""",
    ):
        db.execute(statement)


@migrations()
def v003_index_recipes(db: Database) -> None:
    for statement in (
        # Index files have another layout: they are made anew, from the embeddings.
        "DELETE FROM snapshots",
        "ALTER TABLE snapshots ADD COLUMN recipe TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE snapshots ADD COLUMN recall REAL",
    ):
        db.execute(statement)


@migrations()
def v004_metrics_and_places(db: Database) -> None:
    for statement in (
        # What projects a generation's embeddings before they are compared; the newest is in use.
        """CREATE TABLE metrics (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            generation INTEGER NOT NULL REFERENCES generations(id) ON DELETE CASCADE,
            content BLOB NOT NULL,
            checksum INTEGER NOT NULL,
            identities INTEGER NOT NULL,
            items INTEGER NOT NULL,
            last_item INTEGER NOT NULL)""",
        "CREATE INDEX metrics_by_generation ON metrics(generation)",
        # Local features of items, for a closer look at the best candidates.
        """CREATE TABLE places (
            generation INTEGER NOT NULL REFERENCES generations(id) ON DELETE CASCADE,
            item INTEGER NOT NULL REFERENCES items(id) ON DELETE CASCADE,
            content BLOB NOT NULL,
            UNIQUE (item, generation))""",
        # The metric by which an index file's vectors were projected; null: they are as embedded.
        "ALTER TABLE snapshots ADD COLUMN metric INTEGER",
    ):
        db.execute(statement)


@migrations()
def v005_last_change(db: Database) -> None:
    for statement in (
        # The identity that an item was enrolled as, where it has another one now.
        "ALTER TABLE items ADD COLUMN was TEXT",
        # The last change, and what takes it back: one row, but while that is done.
        """CREATE TABLE changes (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            run TEXT NOT NULL UNIQUE,
            what TEXT NOT NULL,
            identity TEXT,
            new TEXT,
            items INTEGER NOT NULL,
            at TEXT NOT NULL,
            whole INTEGER NOT NULL)""",
        """CREATE TABLE undo_added (
            change INTEGER NOT NULL REFERENCES changes(id) ON DELETE CASCADE,
            first INTEGER NOT NULL,
            last INTEGER NOT NULL)""",
        """CREATE TABLE undo_items (
            change INTEGER NOT NULL REFERENCES changes(id) ON DELETE CASCADE,
            item INTEGER NOT NULL,
            removed INTEGER NOT NULL,
            content BLOB NOT NULL,
            copy TEXT,
            before TEXT NOT NULL,
            PRIMARY KEY (change, item))""",
        """CREATE TABLE undo_embeddings (
            change INTEGER NOT NULL REFERENCES changes(id) ON DELETE CASCADE,
            item INTEGER NOT NULL,
            fingerprint TEXT NOT NULL,
            vector BLOB NOT NULL,
            checksum INTEGER NOT NULL)""",
        """CREATE TABLE undo_places (
            change INTEGER NOT NULL REFERENCES changes(id) ON DELETE CASCADE,
            item INTEGER NOT NULL,
            fingerprint TEXT NOT NULL,
            content BLOB NOT NULL)""",
        """CREATE TABLE undo_unknowns (
            change INTEGER NOT NULL REFERENCES changes(id) ON DELETE CASCADE,
            content BLOB NOT NULL,
            source TEXT NOT NULL,
            added TEXT NOT NULL,
            fingerprint TEXT,
            vector BLOB NOT NULL)""",
        "CREATE INDEX undo_embeddings_by_item ON undo_embeddings(change, item)",
        "CREATE INDEX undo_places_by_item ON undo_places(change, item)",
    ):
        db.execute(statement)


@migrations()
def v006_last_changes(db: Database) -> None:
    for statement in (
        # Several changes: those that were made (0), and those that were taken back (1).
        "ALTER TABLE changes ADD COLUMN undone INTEGER NOT NULL DEFAULT 0",
        # Kept probes come back by their own numbers. Those that a change has put back (0) are
        # dropped again where it is taken back itself.
        "ALTER TABLE undo_unknowns ADD COLUMN number INTEGER",
        "ALTER TABLE undo_unknowns ADD COLUMN dropped INTEGER NOT NULL DEFAULT 1",
        "CREATE INDEX undo_unknowns_by_change ON undo_unknowns(change)",
        "CREATE INDEX undo_added_by_change ON undo_added(change)",
    ):
        db.execute(statement)


@migrations()
def v007_seals(db: Database) -> None:
    # What is there is taken as it is: from now on damage shows.
    db.execute("ALTER TABLE items ADD COLUMN checksum INTEGER")
    last = 0
    while rows := db.execute(f"{ROWS} WHERE items.id > {last} ORDER BY 1 LIMIT 1024").fetchall():
        for row in rows:
            checksum = Facts.of(row).checksum
            db.execute("UPDATE items SET checksum = ? WHERE id = ?", [checksum, row[0]])
        last = rows[-1][0]


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a database to the newest format."""
    migrations.apply(Database(connection, execute_plugins=False))
