"""An index in Milvus answers as one in a file does, and loses nothing when Milvus or we fail.

By milvus-lite; benchmarks/engines.py has a real server, more items and more kills.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shell import Shell

from siamese_search import Gallery
from siamese_search.arrays import FloatArray
from siamese_search.errors import EngineUnavailable, UsageError
from siamese_search.gallery.remote import MARK, Place
from siamese_search.index import milvus
from siamese_search.index.milvus import Among, Between, Milvus, checked_address, expression
from siamese_search.serving.representation import of_gallery

pytest.importorskip("pymilvus", reason="pymilvus is not installed")
pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")

ITEMS, DIMENSION = 1500, 49
HOSTILE = [
    "", " ", "'", '"', "\\", "\\'", '\\"', "' or item > 0 or '", '"] or item in [1', "{item}",
    "item", "%", "_", "null", "None", "naïve", "\u202e", "\u0000x"[1:], "🦆", "a\nb", "a\tb",
    "--", "/* */", "NaN", "1", "$meta", "ß", "SS", "e\u0301", "é", "x" * 5000,
]  # fmt: skip


def vectors_of(seed: int, count: int) -> FloatArray:
    """Unit vectors, ten around each of some centres; the first hundred score alike for axis 0."""
    random = np.random.default_rng(seed)
    made = random.normal(size=(-(-count // 10), DIMENSION)).repeat(10, axis=0)[:count]
    made += 0.3 * random.normal(size=made.shape)
    made[:100, 0] = 0
    unit = made / np.linalg.norm(made, axis=1, keepdims=True)
    unit[:100] *= np.sqrt(0.75)
    unit[:100, 0] = 0.5
    found: FloatArray = unit.astype(np.float32)
    return found


VECTORS = vectors_of(0, ITEMS)
NAMES = [text for text in HOSTILE if text.isprintable()]  # others are no names
LABELS = [f"{NAMES[row // 10 % len(NAMES)]}{row // 10}" for row in range(ITEMS)]
METADATA = [{"note": HOSTILE[row % len(HOSTILE)]} for row in range(ITEMS)]
PROBES = np.concatenate([vectors_of(1, 150)[100:], VECTORS[::10], np.eye(DIMENSION, dtype="f4")])


def filled(folder: Path, encoder: Path, count: int = ITEMS) -> Gallery:
    gallery = Gallery.open(folder, encoder)
    gallery.enroll_embeddings(VECTORS[:count], LABELS[:count], METADATA[:count])
    return gallery


def answers(gallery: Gallery) -> list[Any]:
    """What a gallery says of probes, in every way."""
    items, scores = gallery.search(PROBES, 12)
    note = HOSTILE[7]
    return [
        items.tolist(),
        scores.tolist(),
        gallery.identify_embeddings(PROBES[:20], k=3, rule="best"),
        gallery.identify_embeddings(PROBES[:20], k=3, where={"note": note}),
    ]


def engine_of(gallery: Gallery) -> tuple[Milvus, str]:
    snapshot = gallery._catalog.state().snapshot
    assert snapshot is not None
    place = Place.of(snapshot.file)
    return gallery._snapshots.remote.engine(place.address), place.collection


@pytest.fixture
def moved(tmp_path: Path, toy_folder: Path) -> Iterator[Gallery]:
    """A gallery of few items whose index is in a milvus-lite file inside of it."""
    with filled(tmp_path / "gallery", toy_folder, 120) as gallery:
        gallery.compact(engine="milvus", uri=str(tmp_path / "gallery" / "milvus.db"))
        yield gallery


def test_a_gallery_moved_there_and_back_answers_the_same_rank_for_rank(
    tmp_path: Path, toy_folder: Path
) -> None:
    with filled(tmp_path / "gallery", toy_folder) as gallery:
        before = answers(gallery)
        tied = before[0][-DIMENSION]  # of axis 0: a hundred score the same
        assert tied == sorted(tied)
        filters = [gallery._catalog.where({"note": note}).tolist() for note in HOSTILE if note]
        gallery.compact(engine="milvus", uri=str(tmp_path / "elsewhere.db"))
        info = gallery.info()
        assert (info.engine, info.recipe, info.recall) == ("milvus", "FLAT", None)
        assert info.indexed == ITEMS
        assert not list((tmp_path / "gallery").glob("*.faiss"))
        assert answers(gallery) == before
        # More than Milvus gives, or exactly all there are.
        for k in (ITEMS, ITEMS + 5):
            items, scores = gallery._identifier.search(PROBES[:3], k)
            assert (np.sort(items[:, :ITEMS], axis=1) == np.arange(1, ITEMS + 1)).all()
            assert (items[:, ITEMS:] == -1).all()
            assert (np.diff(scores[:, :ITEMS], axis=1) <= 0).all()
        assert filters == [
            gallery._catalog.where({"note": note}).tolist() for note in HOSTILE if note
        ]
        assert gallery.check() == []
        gallery.compact(engine="faiss")
        assert gallery.info().engine == "faiss"
        assert answers(gallery) == before
        assert gallery.check() == []


def test_a_filter_of_many_items_gives_the_nearest_among_them(
    moved: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese_search.index.remote.FEW", 0)
    allowed = np.arange(1, 121, 3)
    with moved._snapshots.searching() as view:
        items, scores = view.index.search(PROBES, 7, allowed)
    cosines = PROBES @ VECTORS[allowed - 1].T
    expected = -np.sort(-cosines, axis=1)[:, :7]
    assert np.isin(items, allowed).all()
    assert np.allclose(scores, expected, atol=1e-6)


def test_no_request_compares_more_vectors_than_can_be_soon(
    moved: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = moved.search(PROBES, 5)
    sizes = []

    def search(self: Any, name: str, queries: Any, *rest: Any) -> Any:
        sizes.append(len(queries))
        return whole(self, name, queries, *rest)

    whole = Milvus.search
    monkeypatch.setattr(Milvus, "search", search)
    monkeypatch.setattr("siamese_search.index.remote.AT_ONCE", 2 * 120)
    after = moved.search(PROBES, 5)
    assert max(sizes) == 2
    assert (after[0] == before[0]).all()
    assert (after[1] == before[1]).all()


def test_what_was_just_enrolled_removed_or_undone_is_answered_at_once(moved: Gallery) -> None:
    new = vectors_of(5, 110)[100:]
    moved.enroll_embeddings(new, [f"new {row}" for row in range(10)])
    assert moved.info().indexed == 130
    assert [one.matches[0].identity for one in moved.identify_embeddings(new)] == [
        f"new {row}" for row in range(10)
    ]
    moved.remove(identity="new 3")
    assert moved.identify_embeddings(new[3:4])[0].matches[0].identity != "new 3"
    moved.undo()
    assert moved.identify_embeddings(new[3:4])[0].matches[0].identity == "new 3"
    moved.relabel("new 3", "newer")
    assert moved.identify_embeddings(new[3:4])[0].matches[0].identity == "newer"
    assert moved.check() == []


def test_changes_wait_in_the_gallery_while_milvus_fails_and_are_applied_later(
    moved: Gallery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    new = vectors_of(6, 102)[100:]

    def fail(*_: object) -> None:
        raise EngineUnavailable("Milvus at nowhere: it does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(Milvus, "put", fail)
        patch.setattr(Milvus, "take_out", fail)
        moved.enroll_embeddings(new[:1], ["waiting"])
        moved.remove(item=7)
        assert "does not answer" in caplog.text
        assert moved.info().indexed == 120
        # Searched with what waits, all the same.
        assert moved.identify_embeddings(new[:1])[0].matches[0].identity == "waiting"
        assert 7 not in moved.search(VECTORS[6:7], 5)[0]
        assert moved.check() == []
    moved.enroll_embeddings(new[1:], ["next"])
    engine, name = engine_of(moved)
    expected = [*range(1, 7), *range(8, 123)]
    assert engine.items(name, 1, 200).tolist() == expected
    assert moved.info().indexed == 121


def test_check_names_what_differs_and_repair_mends_it(moved: Gallery) -> None:
    before = answers(moved)
    engine, name = engine_of(moved)
    engine.take_out(name, np.array([5, 6]))
    engine.put(name, np.array([9]), VECTORS[:1])
    moved.remove(item=11)
    engine.put(name, np.array([11]), VECTORS[10:11])  # as if it had never been told
    faults = moved.check()
    assert [fault.partition(": ")[2] for fault in faults] == [
        "item 5 is missing",
        "item 6 is missing",
        "item 9 has another embedding than the database",
        "item 11 is not in the database",
    ]
    assert len(moved.repair()) == 4
    assert moved.check() == []
    moved.undo()
    engine.drop(name)
    with pytest.raises(EngineUnavailable, match="compact --engine milvus"):
        moved.search(VECTORS[:1], 1)
    assert "no collection" in moved.check()[0]
    moved.repair()
    assert moved.check() == []
    assert len(before) == len(answers(moved))


KILLED = """
import os, sys
import numpy as np
from siamese_search import Gallery
from siamese_search.index.milvus import Milvus

def killed(self, name, items, vectors):
    put(self, name, items[: len(items) // 2], vectors[: len(items) // 2])
    os.kill(os.getpid(), 9)

put, Milvus.put = Milvus.put, killed
random = np.random.default_rng(3)
vectors = random.normal(size=(40, 49)).astype("f4")
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
with Gallery.open(sys.argv[1]) as gallery:
    gallery.enroll_embeddings(vectors, [f"killed {row}" for row in range(40)])
"""


def test_a_kill_in_the_middle_of_writing_loses_nothing(moved: Gallery) -> None:
    folder = moved.folder
    moved.close()
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    with Gallery.open(folder) as gallery:
        assert len(gallery) == 160
        assert gallery.info().indexed == 120
        names = {name for name, _ in gallery._catalog.identities()}
        assert {f"killed {row}" for row in range(40)} <= names
        assert gallery.repair() == []
        assert gallery.check() == []
        assert gallery.info().indexed == 160
        engine, name = engine_of(gallery)
        assert len(engine.items(name, 1, 1000)) == 160


def test_a_move_that_fails_leaves_the_gallery_as_it_was(
    tmp_path: Path, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(tmp_path / "gallery", toy_folder, 50) as gallery:
        before = gallery.info()
        with pytest.raises(EngineUnavailable, match="does not answer"):
            gallery.compact(engine="milvus", uri="http://127.0.0.1:1")
        assert gallery.info() == before
        with monkeypatch.context() as patch:
            patch.setattr(Milvus, "settle", lambda *_: pytest.fail("interrupted"))
            with pytest.raises(pytest.fail.Exception):
                gallery.compact(engine="milvus", uri=str(tmp_path / "other.db"))
        assert gallery.info() == before
        (left,) = [f for f in gallery._catalog.collections() if "other.db" in f]
        gallery.compact(engine="milvus", uri=str(tmp_path / "other.db"))
        engine, name = engine_of(gallery)
        assert engine.has(name)
        assert not engine.has(Place.of(left).collection)
        assert gallery._catalog.collections() == []


def test_a_milvus_that_is_gone_is_named_and_left_behind(
    shell: Shell, tmp_path: Path, toy_folder: Path
) -> None:
    with filled(tmp_path / "g", toy_folder, 50) as gallery:
        before = gallery.search(PROBES, 5)
        gallery.compact(engine="milvus", uri=str(tmp_path / "g" / "milvus.db"))
    shutil.rmtree(tmp_path / "g" / "milvus.db")
    for command in (["audit"], ["check"]):
        said = shell(*command, "-g", "g", code=2).stderr
        assert said.count("\n") == 1
        assert "milvus.db is missing" in said
        assert "compact --engine milvus" in said
    (facts,) = shell.json("info", "-g", "g")
    assert facts["engine"] == "milvus"
    shell("remove", "--item", "50", "-g", "g", "--yes")
    (facts,) = shell.json("compact", "--engine", "faiss", "-g", "g")
    assert facts["engine"] == "faiss"
    assert facts["indexed"] == 49
    with Gallery.open(tmp_path / "g") as gallery:
        assert (gallery.search(PROBES[150:151], 5)[0] == before[0][150]).all()


def test_a_milvus_that_does_not_answer_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(milvus, "SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        engine = Milvus(f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        with pytest.raises(EngineUnavailable, match="compact --engine faiss"):
            engine.search("siasearch_0123456789abcdef", VECTORS[:1], 1, None)
        assert time.monotonic() - begun < 20


def test_a_milvus_lite_file_takes_one_process(moved: Gallery, shell: Shell) -> None:
    moved.search(VECTORS[:1], 1)
    said = shell.separate("audit", "-g", moved.folder, code=2)
    assert said.stdout == ""
    assert said.stderr.count("\n") == 1
    assert "another process has it open" in said.stderr


def test_a_copy_reads_the_collection_and_never_writes_to_it(moved: Gallery, tmp_path: Path) -> None:
    engine, name = engine_of(moved)
    full = str(moved.folder / "milvus.db")
    moved.compact(engine="milvus", uri=str(tmp_path / "shared.db"))
    engine, name = engine_of(moved)
    shutil.copytree(moved.folder, tmp_path / "copy")
    with Gallery.open(tmp_path / "copy") as copy:
        assert (copy.search(PROBES, 3)[0] == moved.search(PROBES, 3)[0]).all()
        copy.remove(identity=LABELS[0])
        copy.compact()
        other, its_own = engine_of(copy)
        assert its_own != name
        assert len(other.items(its_own, 1, 200)) == 110
    assert len(engine.items(name, 1, 200)) == 120
    assert moved.check() == []
    assert full  # the first file stays where it is


def test_an_archive_does_not_tell_where_milvus_is(moved: Gallery, tmp_path: Path) -> None:
    moved.export(tmp_path / "g.zip")
    with zipfile.ZipFile(tmp_path / "g.zip") as archive:
        (database,) = [name for name in archive.namelist() if name.endswith("gallery.db")]
        assert b"milvus.db" not in archive.read(database)


def test_the_server_does_not_tell_where_milvus_is(moved: Gallery) -> None:
    facts = of_gallery("coins", moved, read_only=True)
    assert facts["engine"] == "milvus"
    assert "milvus.db" not in str(facts)


@pytest.mark.parametrize(
    "address",
    ["http://root:geheim@host:19530", "http://x:geheim@[", "http://host:1/?token=geheim"],
)
def test_a_password_is_neither_kept_nor_repeated(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked_address(address)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("address", ["", "milvus", "ftp://host/x.db", "http://", "x.db/", "\0.db"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="no address of Milvus"):
        checked_address(address)


def test_a_token_is_sent_to_the_address_it_is_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(milvus.TOKEN, "root:one")
    assert milvus.token_for("http://host:1") == ""
    monkeypatch.setenv(milvus.ADDRESS, "http://host:1")
    assert milvus.token_for("http://host:1") == "root:one"
    assert milvus.token_for("http://somebody.else:1") == ""
    (tmp_path / "token").write_text("root:two\n", "utf-8-sig")
    monkeypatch.setenv(milvus.TOKEN_FILE, str(tmp_path / "token"))
    assert milvus.token_for("http://host:1") == "root:two"
    (tmp_path / "token").unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        milvus.token_for("http://host:1")


def test_filters_hold_whole_numbers_and_nothing_else() -> None:
    assert expression(Between(3, 9)) == "item >= 3 && item <= 9"
    assert expression(Among((1, 2))) == "item in [1, 2]"
    hostile: Any = "1] or item in [2"
    with pytest.raises(ValueError, match="format"):
        expression(Among((hostile,)))


@pytest.mark.parametrize(
    "file",
    ["x.db#siasearch_1", "x.db#other", "http://a:b@h#siasearch_0123456789abcdef", "", "#"],
)
def test_a_place_that_a_strange_gallery_names_is_refused(file: str) -> None:
    with pytest.raises((UsageError, Exception)) as caught:
        Place.of(MARK + file)
    assert "Milvus" in str(caught.value)


def test_wrong_options_are_refused(shell: Shell, tmp_path: Path, toy_folder: Path) -> None:
    filled(tmp_path / "g", toy_folder, 20).close()
    os.environ.pop(milvus.ADDRESS, None)
    for options, reason in (
        (["--engine", "other"], "faiss or milvus"),
        (["--engine", "milvus"], "where is Milvus"),
        (["--engine", "faiss", "--uri", "x.db"], "leave out"),
        (["--engine", "milvus", "--uri", "x.db", "--recipe", "HNSW"], "needs a server"),
        (["--engine", "milvus", "--uri", "x.db", "--recipe", "IVF4,Flat"], "FLAT, HNSW or auto"),
    ):
        assert reason in shell("compact", "-g", "g", *options, code=2).stderr
