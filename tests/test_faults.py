"""Damaged files, full disks and missing permissions: noticed, named, and nothing made worse."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from siamese_search import cli
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import (
    GalleryDamaged,
    GalleryFormatError,
    GalleryMismatch,
    SiaSearchError,
)
from siamese_search.gallery.gallery import Gallery
from siamese_search.index import SearchIndex, sha256

Answers = tuple[list[list[int]], list[list[float]], list[tuple[str, int]], list[object]]
ITEMS = 40


def unit(rows: int, dimension: int, seed: int) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension))
    unit: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float32)


def answers(folder: Path) -> Answers:
    """What a gallery says: items found with their scores, identities, and what it knows of each.

    Without source and time, descriptive text that SQLite, having no checksums, cannot vouch for.
    """
    with Gallery.open(folder) as gallery:
        items, scores = gallery.search(unit(8, gallery.info().dimension, seed=9), 50)
        identities = gallery.identities()
        known = [item for name, _ in identities for item in gallery.items(name)]
        details = [(item.number, item.identity, item.content, item.metadata) for item in known]
        return items.tolist(), scores.tolist(), identities, [*details]


def fill(folder: Path, encoder: Encoder, seed: int = 1) -> Path:
    """A gallery with most items in its index file, a few after it, and two removals."""
    with Gallery.open(folder, encoder) as gallery:
        names = [f"identity {number % 7}" for number in range(ITEMS)]
        facts = [{"shelf": str(number % 3)} for number in range(ITEMS)]
        vectors = unit(ITEMS, encoder.dimension, seed)
        gallery.enroll_embeddings(vectors[:30], names[:30], facts[:30])
        gallery.compact()
        gallery.enroll_embeddings(vectors[30:], names[30:], facts[30:])
        gallery.remove(item=3)
        gallery.remove(item=35)
    return folder


@pytest.fixture
def folder(tmp_path: Path, toy: Encoder) -> Path:
    return fill(tmp_path / "gallery", toy)


def index_file(folder: Path) -> Path:
    with Gallery.open(folder) as gallery:
        return folder / str(gallery.info().index)


def mutations(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Flipped bytes, zeroed stretches, cuts, tails and repetitions of a file, all different."""
    random = np.random.default_rng(seed)
    for number in range(count):
        changed = bytearray(content)
        place = int(random.integers(len(content)))
        kind = number % 6
        if kind == 0:
            del changed[place:]
        elif kind == 1:
            changed += random.bytes(1 + place % 100)
        elif kind == 2:
            length = int(random.integers(1, 200))
            changed[place : place + length] = bytes(len(changed[place : place + length]))
        else:
            # The header is where a mutation does the most harm.
            if kind == 5:
                place %= 128
            for spot in {place, *random.integers(len(content), size=kind - 3).tolist()}:
                changed[spot] ^= int(random.integers(1, 256))
        if bytes(changed) != content:
            yield bytes(changed)


# The index file


def test_a_mutated_index_file_is_noticed_before_faiss_reads_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, path = answers(folder), index_file(folder)
    content = path.read_bytes()

    def refuse(path: Path) -> SearchIndex:
        raise AssertionError(f"FAISS was given {path}")

    monkeypatch.setattr(SearchIndex, "read", refuse)
    mutated = list(mutations(content, 300, seed=2))
    assert len(mutated) >= 200
    for changed in mutated:
        path.write_bytes(changed)
        assert answers(folder) == before
        with Gallery.open(folder) as gallery:
            (fault,) = gallery.check()
        assert str(path) in fault
        assert "checksum" in fault


def other_types() -> list[Callable[[], faiss.Index]]:
    return [
        lambda: faiss.IndexFlatL2(49),
        lambda: faiss.IndexIDMap(faiss.IndexFlatIP(13)),
        lambda: faiss.IndexHNSWFlat(49, 8),
    ]


def replaced_by(what: str, path: Path, tmp_path: Path, toy: Encoder) -> None:
    """Put something else in the place of an index file."""
    if what == "missing":
        path.unlink()
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "a folder":
        path.unlink()
        path.mkdir()
    elif what == "another gallery's":
        shutil.copy(index_file(fill(tmp_path / "other", toy, seed=77)), path)
    else:
        index = other_types()[int(what[-1])]()
        faiss.write_index(index, str(path))


@pytest.mark.parametrize("mend", ["rebuild", "compact", "enrolling more"])
@pytest.mark.parametrize(
    "what", ["missing", "empty", "another gallery's", "type 0", "type 1", "type 2"]
)
def test_a_replaced_index_file_changes_no_answer_and_is_mended(
    what: str, mend: str, folder: Path, tmp_path: Path, toy: Encoder
) -> None:
    before, path = answers(folder), index_file(folder)
    replaced_by(what, path, tmp_path, toy)
    assert answers(folder) == before
    with Gallery.open(folder, toy) as gallery:
        (fault,) = gallery.check()
        assert str(path) in fault
        if mend == "enrolling more":
            extra = unit(300, 49, seed=5)
            numbers = gallery.enroll_embeddings(extra, ["extra"] * 300)
            gallery.remove("extra")
            assert len(numbers) == 300
        else:
            getattr(gallery, mend)()
        assert gallery.check() == []
    assert answers(folder) == before


@pytest.mark.parametrize("what", ["type 0", "type 1", "type 2", "empty"])
def test_an_index_file_of_another_type_is_not_used_even_with_the_right_checksum(
    what: str, folder: Path, tmp_path: Path, toy: Encoder
) -> None:
    before, path = answers(folder), index_file(folder)
    replaced_by(what, path, tmp_path, toy)
    db = sqlite3.connect(folder / "gallery.db")
    with db:
        db.execute(
            "UPDATE snapshots SET sha256 = ?, size = ?", (sha256(path), len(path.read_bytes()))
        )
    db.close()
    assert answers(folder) == before
    with Gallery.open(folder) as gallery:
        assert gallery.check()
        gallery.compact()
        assert gallery.check() == []
    assert answers(folder) == before


def test_an_index_path_that_is_a_folder_is_named(
    folder: Path, tmp_path: Path, toy: Encoder
) -> None:
    before, path = answers(folder), index_file(folder)
    replaced_by("a folder", path, tmp_path, toy)
    assert answers(folder) == before
    with Gallery.open(folder) as gallery:
        assert str(path) in gallery.check()[0]
        gallery.compact()
        assert gallery.check() == []


# The database


def verdict(folder: Path, before: Answers) -> str:
    """What siasearch makes of a gallery: an error, faults, the same as before, or something else.

    Raises whatever is none of our own errors.
    """
    try:
        with Gallery.open(folder) as gallery:
            if gallery.check():
                return "named"
    except GalleryDamaged:
        return "named"
    except SiaSearchError:
        return "error"
    try:
        return "same" if answers(folder) == before else "unnoticed"
    except SiaSearchError:
        return "error"


def test_a_damaged_database_is_named_and_left_as_it_is(folder: Path) -> None:
    before = answers(folder)
    path = folder / "gallery.db"
    content = path.read_bytes()
    verdicts: dict[str, list[int]] = {}
    for number, changed in enumerate(mutations(content, 240, seed=3)):
        path.write_bytes(changed)
        verdicts.setdefault(verdict(folder, before), []).append(number)
        assert path.read_bytes() == changed, f"mutation {number} was written to"
    assert len(verdicts["named"]) > 60
    assert "unnoticed" not in verdicts


def test_a_flipped_bit_in_any_stored_embedding_is_named_and_not_passed_on(folder: Path) -> None:
    random = np.random.default_rng(4)
    db = sqlite3.connect(folder / "gallery.db", isolation_level=None)
    index = index_file(folder)
    for item, vector in db.execute("SELECT item, vector FROM embeddings").fetchall():
        flipped = bytearray(vector)
        flipped[int(random.integers(len(vector)))] ^= 1 << int(random.integers(8))
        db.execute("UPDATE embeddings SET vector = ? WHERE item = ?", (bytes(flipped), item))
        with Gallery.open(folder) as gallery:
            assert any(f"item {item} " in fault for fault in gallery.check())
            with pytest.raises(GalleryDamaged, match=f"item {item} "):
                gallery.compact()
            assert index_file(folder) == index
        db.execute("UPDATE embeddings SET vector = ? WHERE item = ?", (vector, item))
    db.close()
    with Gallery.open(folder) as gallery:
        assert gallery.check() == []


@pytest.mark.parametrize("what", ["empty", "text", "another database", "cut", "header"])
def test_commands_on_a_damaged_database_are_one_clear_line(
    what: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "gallery.db"
    content = path.read_bytes()
    path.unlink()
    if what == "another database":
        db = sqlite3.connect(path)
        with db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE shelves (name)")
        db.close()
    else:
        damaged = {
            "empty": b"",
            "text": b"not a database\n" * 5000,
            "cut": content[: len(content) // 2],
            "header": b"\0" * 100 + content[100:],
        }
        path.write_bytes(damaged[what])
    damaged_bytes = path.read_bytes()
    assert run(monkeypatch, "check", "--gallery", str(folder)) == 1
    assert "gallery.db" in capsys.readouterr().out
    for command in (["info"], ["list"], ["compact"], ["remove", "identity 1"]):
        code = run(monkeypatch, *command, "--gallery", str(folder))
        printed = capsys.readouterr()
        # Half of a database may well be listed; but whatever stops says why.
        assert code == 2 or (what == "cut" and code == 0 and command[0] in ("info", "list"))
        assert code == 0 or (printed.err.startswith("error: ") and printed.err.count("\n") == 1)
    assert path.read_bytes() == damaged_bytes


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a command run in this process."""
    monkeypatch.setattr(sys, "argv", ["siasearch", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_newer_format_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = sqlite3.connect(folder / "gallery.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(GalleryFormatError, match="99"):
        Gallery.open(folder)
    assert run(monkeypatch, "list", "--gallery", str(folder)) == 2


def test_another_encoder_is_refused(folder: Path, coarse: Encoder) -> None:
    before = answers(folder)
    with pytest.raises(GalleryMismatch, match="coarse"):
        Gallery.open(folder, coarse)
    assert answers(folder) == before


def test_a_journal_left_by_a_kill_is_rolled_back(folder: Path) -> None:
    before = answers(folder)
    script = (
        "import os, signal, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA cache_size = 1')\n"
        "db.execute('BEGIN IMMEDIATE')\n"
        "db.execute('UPDATE embeddings SET vector = zeroblob(5000)')\n"
        "db.execute('UPDATE identities SET name = name || hex(zeroblob(4000))')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    content = (folder / "gallery.db").read_bytes()
    subprocess.run([sys.executable, "-c", script, str(folder / "gallery.db")], check=False)
    assert (folder / "gallery.db-journal").stat().st_size > 0
    assert (folder / "gallery.db").read_bytes() != content
    assert answers(folder) == before
    with Gallery.open(folder) as gallery:
        assert gallery.check() == []


def test_damage_is_reported_as_json(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = index_file(folder)
    path.write_bytes(path.read_bytes()[:-1])
    assert run(monkeypatch, "check", "--json", "--gallery", str(folder)) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert str(path) in report["faults"][0]


# What is known of items, and what decides


ITEM_CHANGES = {
    "a name": "UPDATE identities SET name = 'identitx 1' WHERE name = 'identity 1'",
    "whose an item is": "UPDATE items SET identity = 1 + identity % 6 WHERE id = 2",
    "never named": "UPDATE identities SET distractor = 1 WHERE name = 'identity 1'",
    "a source": "UPDATE items SET source = 'elsewhere' WHERE id = 2",
    "metadata": "UPDATE metadata SET value = '7' WHERE item = 2",
    "content": "UPDATE items SET content = zeroblob(32) WHERE id = 2",
    "a time": "UPDATE items SET added = '2001' WHERE id = 2",
}


@pytest.mark.parametrize("what", ITEM_CHANGES)
def test_what_is_known_of_an_item_is_shown_as_it_was_or_not_at_all(
    what: str, folder: Path, toy: Encoder
) -> None:
    vectors = unit(ITEMS, 49, seed=1)
    with Gallery.open(folder, toy) as gallery:
        assert gallery.identify_embeddings(vectors[1:2])[0].matches[0].item == 2
    db = sqlite3.connect(folder / "gallery.db")
    with db:
        db.execute(ITEM_CHANGES[what])
    db.close()
    with Gallery.open(folder, toy) as gallery:
        assert any("what is known of item 2 is damaged" in fault for fault in gallery.check())
        with pytest.raises(GalleryDamaged, match="remove --item"):
            gallery.identify_embeddings(vectors[1:2], k=7)
        with pytest.raises(GalleryDamaged, match="item 2 is damaged"):
            gallery.items_by_number([2])
        with pytest.raises(GalleryDamaged, match="item 2 is damaged"):
            gallery.relabel(None, "mended", item=2)  # damage is not sealed
        gallery.remove(item=2)
        assert not any("item 2 " in fault for fault in gallery.check())


def test_a_change_that_was_kept_and_damaged_is_not_taken_back(folder: Path, toy: Encoder) -> None:
    with Gallery.open(folder, toy) as gallery:
        gallery.remove("identity 1")
        before = len(gallery)
    db = sqlite3.connect(folder / "gallery.db")
    with db:
        db.execute("UPDATE undo_items SET before = replace(before, 'identity 1', 'identity 2')")
    db.close()
    with Gallery.open(folder, toy) as gallery:
        with pytest.raises(GalleryDamaged, match="cannot be taken back"):
            gallery.undo()
        assert len(gallery) == before
        assert gallery.check() == []


@pytest.mark.parametrize("change", ['"rule": "bests"', '"rule": "balance"', "[" * 100_000])
def test_a_calibration_by_which_nothing_can_be_decided_is_named(
    change: str, folder: Path, toy: Encoder
) -> None:
    with Gallery.open(folder, toy) as gallery:
        gallery.calibrate(0.2, rule="best", metric="none")
    db = sqlite3.connect(folder / "gallery.db")
    with db:
        (content,) = db.execute("SELECT content FROM calibrations").fetchone()
        fields = json.loads(content)
        del fields["checksum"]  # as earlier releases wrote it
        damaged = json.dumps(fields).replace('"rule": "best"', change)
        db.execute("UPDATE calibrations SET content = ?", (damaged,))
    db.close()
    with Gallery.open(folder, toy) as gallery:
        assert any("the calibration is damaged" in fault for fault in gallery.check())
        with pytest.raises(GalleryDamaged, match="siasearch calibrate"):
            gallery.identify_embeddings(unit(1, 49, seed=1))
        gallery.calibrate(0.2)
        assert gallery.check() == []


def test_items_beyond_the_last_number_given_out_are_named(folder: Path, toy: Encoder) -> None:
    db = sqlite3.connect(folder / "gallery.db")
    with db:
        db.execute("UPDATE sqlite_sequence SET seq = 20 WHERE name = 'items'")
    db.close()
    with Gallery.open(folder, toy) as gallery:
        assert any("items go up to 40, but" in fault for fault in gallery.check())
