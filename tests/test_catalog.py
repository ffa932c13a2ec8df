from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from siamese_search.errors import (
    GalleryDamaged,
    GalleryFormatError,
    GalleryMismatch,
    StorageError,
)
from siamese_search.records import Calibration, NewItem
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.database import FORMAT

DIMENSION = 6
TOY, OTHER = "f" * 64, "e" * 64  # fingerprints
CALIBRATION = Calibration(
    fpir=0.01,
    rule="best",
    thresholds={0.01: 0.5},
    location=0.0,
    scale=1.0,
    slope=1.0,
    offset=0.0,
    lower=0.0,
    upper=0.1,
    strangers=10,
    extrapolated=True,
    fitted=False,
    identities=2,
    items=4,
    source="gallery",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Catalog.create(tmp_path / "gallery.db", TOY, "toy", DIMENSION)
    return tmp_path / "gallery.db"


@pytest.fixture
def catalog(path: Path) -> Iterator[Catalog]:
    opened = Catalog(path)
    yield opened
    opened.close()


def new(identity: str, content: str, **fields: object) -> NewItem:
    return NewItem(identity, hashlib.sha256(content.encode()).hexdigest(), f"/{content}", **fields)  # type: ignore[arg-type]


def vectors(*seeds: int) -> npt.NDArray[np.float32]:
    return np.stack(
        [np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32) for seed in seeds]
    )


def test_items_come_back_as_they_went_in(catalog: Catalog) -> None:
    items = [
        new("cat", "a", size=5, metadata={"shop": "x", "year": "1"}),
        new("dog", "b", copy="c"),
    ]
    numbers = catalog.add(items, vectors(1, 2), TOY)
    stored = catalog.items([number for number in numbers if number])
    assert [
        (item.identity, item.content, item.source, item.size, item.copy, item.metadata)
        for item in stored
    ] == [
        (item.identity, item.content, item.source, item.size, item.copy, item.metadata)
        for item in items
    ]
    ((found, embeddings),) = catalog.embeddings(catalog.state().generation)
    assert found.tolist() == numbers
    assert np.array_equal(embeddings, vectors(1, 2))


def test_the_same_content_is_enrolled_once(catalog: Catalog) -> None:
    assert catalog.add([new("cat", "a"), new("cat", "a")], vectors(1, 1), TOY) == [1, None]
    assert catalog.add([new("dog", "a")], vectors(1), TOY) == [None]
    assert catalog.totals() == (1, 1)  # and no empty identity "dog" is left


def test_numbers_are_never_given_out_twice(catalog: Catalog) -> None:
    catalog.add([new("cat", "a"), new("cat", "b")], vectors(1, 2), TOY)
    catalog.remove([2])
    assert catalog.add([new("cat", "b")], vectors(2), TOY) == [3]
    assert catalog.removed_after(0).tolist() == [2]


def test_removing_the_last_item_removes_the_identity(catalog: Catalog) -> None:
    catalog.add([new("cat", "a"), new("dog", "b")], vectors(1, 2), TOY)
    assert catalog.remove([1, 99]) == [1]
    assert catalog.identities() == [("dog", 1)]
    assert catalog.totals() == (1, 1)
    assert list(catalog.faults()) == []


def test_relabelling_renames_moves_and_merges(catalog: Catalog) -> None:
    catalog.add([new("cat", "a"), new("cat", "b"), new("dog", "c")], vectors(1, 2, 3), TOY)
    assert catalog.relabel([1], "lynx") == 1
    assert catalog.identities() == [("cat", 1), ("dog", 1), ("lynx", 1)]
    assert catalog.relabel([2, 3], "lynx") == 2
    assert catalog.identities() == [("lynx", 3)]
    assert catalog.relabel([1], "lynx") == 0
    assert catalog.totals() == (1, 3)


def test_where_needs_all_conditions(catalog: Catalog) -> None:
    rows = [{"shop": "x", "year": "1"}, {"shop": "x", "year": "2"}, {"shop": "y"}, {}]
    items = [new("cat", str(number), metadata=row) for number, row in enumerate(rows)]
    catalog.add(items, vectors(1, 2, 3, 4), TOY)
    assert catalog.where({"shop": "x"}).tolist() == [1, 2]
    assert catalog.where({"shop": "x", "year": "2"}).tolist() == [2]
    assert catalog.where({"shop": "z"}).tolist() == []


def test_a_failed_batch_leaves_nothing(catalog: Catalog) -> None:
    with pytest.raises(ValueError, match="zip"):
        catalog.add([new("cat", "a"), new("cat", "b")], vectors(1), TOY)
    assert catalog.totals() == (0, 0)


def test_embeddings_stream_in_chunks_by_item(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese_search.storage.generations.CHUNK", 3)
    catalog.add([new("cat", str(n)) for n in range(8)], vectors(*range(8)), TOY)
    generation = catalog.state().generation
    chunks = list(catalog.embeddings(generation, after=1, upto=7))
    assert [items.tolist() for items, _ in chunks] == [[2, 3, 4], [5, 6, 7]]
    assert np.array_equal(np.concatenate([v for _, v in chunks]), vectors(*range(1, 7)))


def test_a_generation_is_switched_to_only_when_complete(catalog: Catalog) -> None:
    catalog.add([new("cat", "a"), new("cat", "b")], vectors(1, 2), TOY)
    target = catalog.generation(OTHER, "other", DIMENSION)
    assert catalog.generation(OTHER, "other", DIMENSION) == target
    catalog.store(target, [1], vectors(3))
    assert not catalog.switch(target)
    assert catalog.state().generation.number == 1
    assert catalog.unembedded(target) == [2]
    catalog.store(target, [2, 77], vectors(4, 5))  # 77 was removed meanwhile
    assert catalog.switch(target)
    assert catalog.state().generation == target
    ((_, embeddings),) = catalog.embeddings(target)
    assert np.array_equal(embeddings, vectors(3, 4))
    with pytest.raises(GalleryMismatch):
        catalog.add([new("cat", "c")], vectors(1), TOY)


def test_what_the_new_generation_lacks_keeps_its_old_embedding(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese_search.storage.generations.CHUNK", 1)
    catalog.add([new("cat", "a"), new("cat", "b")], vectors(1, 2), TOY)
    old = catalog.state().generation
    target = catalog.generation(OTHER, "other", DIMENSION)
    catalog.store(target, [1], vectors(3))
    assert catalog.switch(target, without=[2])
    catalog.prune()
    ((items, embeddings),) = catalog.embeddings(old)
    assert (items.tolist(), embeddings.tolist()) == ([2], vectors(2).tolist())


def test_an_unfinished_rebuild_is_not_pruned(catalog: Catalog) -> None:
    catalog.add([new("cat", "a"), new("cat", "b")], vectors(1, 2), TOY)
    target = catalog.generation(OTHER, "other", DIMENSION)
    catalog.store(target, [1], vectors(3))
    catalog.prune()
    assert catalog.unembedded(target) == [2]


def test_an_older_format_is_upgraded_on_opening(path: Path) -> None:
    older = sqlite3.connect(path)
    # As format 1 was.
    older.execute("DROP TABLE calibrations")
    older.execute("DROP TABLE unknowns")
    older.execute("DROP INDEX distractors")
    older.execute("ALTER TABLE identities DROP COLUMN distractor")
    older.execute("ALTER TABLE snapshots DROP COLUMN recipe")
    older.execute("ALTER TABLE snapshots DROP COLUMN recall")
    older.execute("ALTER TABLE snapshots DROP COLUMN metric")
    older.execute("DROP TABLE metrics")
    older.execute("DROP TABLE places")
    for table in ("added", "items", "embeddings", "places", "unknowns"):
        older.execute(f"DROP TABLE undo_{table}")
    older.execute("DROP TABLE changes")
    older.execute("ALTER TABLE items DROP COLUMN was")
    older.execute("ALTER TABLE items DROP COLUMN checksum")
    older.execute("DELETE FROM _sqlite_migrations WHERE name > 'v002'")
    older.execute("PRAGMA user_version = 1")
    older.commit()
    older.close()
    catalog = Catalog(path)
    assert catalog.totals() == (0, 0)
    assert catalog.count_distractors() == 0
    catalog.close()
    now = sqlite3.connect(path)
    assert now.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    now.close()


def test_creating_twice_keeps_the_first(path: Path, catalog: Catalog) -> None:
    catalog.add([new("cat", "a")], vectors(1), TOY)
    Catalog.create(path, "0" * 64, "other", 3)
    assert catalog.totals() == (1, 1)
    names = {p.name for p in path.parent.iterdir()}
    assert names <= {"gallery.db", "gallery.db-journal", ".maintenance.lock"}


def test_other_files_and_newer_formats_are_refused(tmp_path: Path, path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be read as one" * 50)
    with pytest.raises(GalleryDamaged):
        Catalog(tmp_path / "text.db")
    stranger = sqlite3.connect(tmp_path / "stranger.db")
    stranger.execute("CREATE TABLE t (x)")
    stranger.close()
    with pytest.raises(GalleryDamaged, match="not a gallery"):
        Catalog(tmp_path / "stranger.db")
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(GalleryFormatError, match="upgrade"):
        Catalog(path)


def test_waiting_for_another_writer_ends_with_a_clear_error(
    path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese_search.storage.database.BUSY_SECONDS", 0.05)
    impatient = Catalog(path)
    with catalog.writing(), pytest.raises(StorageError, match="another process"):
        impatient.add([new("cat", "a")], vectors(1), TOY)
    assert impatient.add([new("cat", "a")], vectors(1), TOY) == [1]
    impatient.close()


def test_who_waits_to_write_lets_threads_of_its_process_read(path: Path, catalog: Catalog) -> None:
    with closing(Catalog(path)) as other, ThreadPoolExecutor(1) as pool:
        with other.writing():
            added = pool.submit(catalog.add, [new("cat", "a")], vectors(1), TOY)
            for _ in range(20):
                assert catalog.totals() == (0, 0)
                time.sleep(0.01)
            assert not added.done()
        assert added.result() == [1]


def test_threads_of_its_process_do_not_use_up_the_time_to_wait_for_others(
    path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese_search.storage.database.BUSY_SECONDS", 1.0)
    with closing(Catalog(path)) as other, ThreadPoolExecutor(1) as pool:
        with other.writing():
            with catalog.reading():
                added = pool.submit(catalog.add, [new("cat", "a")], vectors(1), TOY)
                time.sleep(1.2)
            time.sleep(0.1)
        assert added.result() == [1]


def test_a_check_waits_while_others_write(path: Path, catalog: Catalog) -> None:
    """Also where a thread that waits to write has the connection wait for nobody."""
    catalog.add([new("cat", "a")], vectors(1), TOY)
    catalog._db.execute("PRAGMA busy_timeout = 0")
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        other.execute("BEGIN EXCLUSIVE")
        faults = pool.submit(lambda: list(catalog.faults()))
        time.sleep(0.1)
        assert not faults.done()
        other.execute("ROLLBACK")
        assert faults.result() == []


def test_faults_are_named(path: Path, catalog: Catalog) -> None:
    catalog.add([new("cat", "a")], vectors(1), TOY)
    vandal = sqlite3.connect(path)
    vandal.execute("UPDATE embeddings SET vector = zeroblob(24)")
    vandal.execute("UPDATE settings SET value = 7 WHERE key = 'items'")
    vandal.execute("UPDATE items SET identity = 55, added = CAST(x'ff' AS TEXT)")
    vandal.commit()
    vandal.close()
    faults = "\n".join(catalog.faults())
    assert "the embedding of item 1 is damaged" in faults
    assert "1 items, but 7 are counted" in faults
    assert "points to nothing in identities" in faults
    assert "row 1 of items holds damaged text" in faults
    with pytest.raises(GalleryDamaged, match="remove --item 1"):
        list(catalog.embeddings(catalog.state().generation))


def test_what_an_encoder_has_embedded_is_not_kept_after_a_switch(catalog: Catalog) -> None:
    old = catalog.state().generation
    assert catalog.switch(catalog.generation(OTHER, "other", DIMENSION))
    with pytest.raises(GalleryMismatch, match="meanwhile"):
        catalog.add([new("cat", "a")], vectors(1), TOY)
    with pytest.raises(GalleryMismatch, match="meanwhile"):
        catalog.keep_unknown("00" * 32, "/probe", TOY, vectors(1)[0])
    with pytest.raises(GalleryMismatch, match="meanwhile"):
        catalog.set_calibration(old, CALIBRATION)
    assert catalog.add([new("cat", "a")], vectors(1), OTHER) == [1]


def test_an_identity_is_a_distractor_or_none_whoever_was_first(catalog: Catalog) -> None:
    assert catalog.add([new("cat", "a")], vectors(1), TOY) == [1]
    assert catalog.add(
        [new("cat", "b"), new("poster", "c")], vectors(2, 3), TOY, distractor=True
    ) == [None, 2]
    assert catalog.add([new("poster", "d"), new("cat", "e")], vectors(4, 5), TOY) == [None, 3]
    assert catalog.distractors(None) == {"poster"}
    assert catalog.identities() == [("cat", 2), ("poster", 1)]


def test_a_generation_gets_no_number_that_a_kept_probe_remembers(catalog: Catalog) -> None:
    """Else its embedding would pass for one of another encoder."""
    catalog.add([new("cat", "a"), new("cat", "b")], vectors(1, 2), TOY)
    first = catalog.state().generation
    second = catalog.generation(OTHER, "other", DIMENSION)
    catalog.store(second, [1], vectors(3))
    assert catalog.switch(second, without=[2])
    catalog.prune()  # which leaves the first generation, for item 2
    catalog.keep_unknown("00" * 32, "/probe", OTHER, vectors(4)[0])
    catalog.store(first, [1], vectors(1))
    assert catalog.switch(first)
    catalog.prune()
    third = catalog.generation("d" * 64, "third", DIMENSION)
    (probe,) = catalog.unknowns()
    assert (probe.number, probe.content, probe.source) == (1, "00" * 32, "/probe")
    assert probe.generation != third.number


def test_a_calibration_with_a_field_of_a_newer_release_says_so(
    path: Path, catalog: Catalog
) -> None:
    generation = catalog.state().generation
    catalog.set_calibration(generation, CALIBRATION)
    assert catalog.calibration(generation) == CALIBRATION
    newer = sqlite3.connect(path)
    newer.execute(
        "UPDATE calibrations SET content ="
        " json_set(json_remove(content, '$.checksum'), '$.weather', 'fine')"
    )
    newer.commit()
    newer.close()
    with pytest.raises(GalleryFormatError, match=r"newer siasearch \(weather\): upgrade"):
        catalog.calibration(generation)
