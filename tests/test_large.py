"""Galleries whose index is not exact: what is large elsewhere is 2,000 items here."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray
from siamese_search.cli.common import open_gallery
from siamese_search.errors import UsageError
from siamese_search.gallery.compaction import Compaction
from siamese_search.gallery.snapshots import Snapshots
from siamese_search.index import FaissEngine, Written, recipes
from siamese_search.processes import command, environment

pytestmark = pytest.mark.slow

Pictures = Callable[..., Path]
ITEMS = 2400


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "EXACT_AT_MOST", 2000)
    monkeypatch.setattr(recipes, "PROBES", 250)


def clustered(dimension: int, count: int = ITEMS) -> tuple[FloatArray, list[str]]:
    """Six to an identity."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(count // 6, dimension)).repeat(6, axis=0)
    vectors += 0.4 * random.normal(size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), [f"id{n // 6}" for n in range(count)]


def test_an_index_becomes_approximate_and_exact_again_with_its_size(
    tmp_path: Path, toy: Encoder
) -> None:
    vectors, names = clustered(toy.dimension)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors[:1800], names[:1800])
        assert (gallery.info().recipe, gallery.info().recall) == ("SQfp16", None)
        gallery.enroll_embeddings(vectors[1800:], names[1800:])
        gallery.compact()
        facts = gallery.info()
        assert facts.recipe == "PCAR48,IVF512,PQ24x4fs"
        assert (facts.recall or 0) >= 0.99
        answers = gallery.identify_embeddings(vectors[::40])
        assert [answer.identity for answer in answers] == names[::40]
        assert gallery.check() == []
        for name in dict.fromkeys(names[:900]):
            gallery.remove(name)
        gallery.compact()
        assert gallery.info().recipe == "SQfp16"


def test_a_recipe_and_a_recall_hold_until_others_are_chosen(tmp_path: Path, toy: Encoder) -> None:
    vectors, names = clustered(toy.dimension)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors[:1500], names[:1500])
        gallery.compact("HNSW16")
        gallery.compact(recall=0.9)
        gallery.enroll_embeddings(vectors[1500:], names[1500:])
        gallery.compact()
        facts = gallery.info()
        assert (facts.recipe, facts.indexed) == ("HNSW16", ITEMS)
        assert (facts.recall or 0) >= 0.9
        for recall in (0, -1, 1.5, float("nan")):
            with pytest.raises(UsageError, match="share"):
                gallery.compact(recall=recall)
        with pytest.raises(UsageError, match="FAISS makes no index"):
            gallery.compact("")
        gallery.compact("auto")
        assert str(gallery.info().recipe).startswith("PCAR48")


def test_a_recipe_that_does_not_fit_any_more_gives_way_to_auto(
    tmp_path: Path, toy: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    vectors, names = clustered(toy.dimension)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors, names)
        gallery.compact("IVF1800,Flat", 0.5)
        for name in dict.fromkeys(names[:1200]):
            gallery.remove(name)
        # What it has learned from more items would serve fewer as well.
        (tmp_path / "gallery" / str(gallery.info().index)).unlink()
        gallery.compact()
        assert gallery.info().recipe == "SQfp16"
        assert "made by the recipe auto this time" in caplog.text


def test_what_cannot_be_indexed_is_enrolled_all_the_same(
    tmp_path: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vectors, names = clustered(toy.dimension)

    def refusing(*_: object) -> None:
        raise UsageError("no index today")

    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        monkeypatch.setattr("siamese_search.index.engine.write_index", refusing)
        assert len(gallery.enroll_embeddings(vectors[:300], names[:300])) == 300
        assert "no index today" in caplog.text
        assert gallery.identify_embeddings(vectors[:1])[0].identity == "id0"


def compacted_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From some twenty changes on, by another process."""
    monkeypatch.setattr("siamese_search.gallery.compaction.MANY_ITEMS", 2000)
    monkeypatch.setattr("siamese_search.gallery.compaction.PENDING_SHARE", 100)
    monkeypatch.setattr("siamese_search.gallery.compaction.PENDING_AT_LEAST", 20)


def test_a_few_changes_do_not_wait_for_a_long_compaction(
    tmp_path: Path,
    toy: Encoder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    vectors, names = clustered(toy.dimension)
    compacted_elsewhere(monkeypatch)
    with Gallery.open(tmp_path / "gallery", toy, background=True) as gallery:
        gallery.enroll_embeddings(vectors[:-300], names[:-300])
        before = gallery.info().index
        caplog.set_level(logging.INFO, "siasearch")
        with monkeypatch.context() as patched:
            patched.setattr(Compaction, "compact", lambda *a, **k: pytest.fail("it waits"))
            gallery.enroll_embeddings(vectors[-300:], names[-300:])
            assert "is compacted by process" in caplog.text
            deadline = time.monotonic() + 60
            # In the other process 2,400 items are few, so that its index is exact.
            while gallery.info().index == before and time.monotonic() < deadline:
                time.sleep(0.1)
        assert (gallery.info().indexed, gallery.info().recipe) == (ITEMS, "SQfp16")
        assert gallery.identify_embeddings(vectors[-1:])[0].identity == names[-1]
        assert gallery.check() == []
        assert not gallery.compact_if_due()


def test_a_compaction_elsewhere_that_fails_is_said_and_not_started_again_at_once(
    tmp_path: Path,
    toy: Encoder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    vectors, names = clustered(toy.dimension)
    compacted_elsewhere(monkeypatch)
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho no memory >&2\nexit 3\n")
    script.chmod(0o755)
    with Gallery.open(tmp_path / "gallery", toy, background=True) as gallery:
        gallery.enroll_embeddings(vectors[:-200], names[:-200])
        caplog.set_level(logging.INFO, "siasearch")
        monkeypatch.setattr("sys.executable", str(script))
        gallery.enroll_embeddings(vectors[-200:-120], names[-200:-120])
        deadline = time.monotonic() + 60
        while "no memory" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "could not be compacted by another process: no memory" in caplog.text
        for row in range(-120, -90):
            gallery.enroll_embeddings(vectors[row : row + 1 or None], [names[row]])
        assert caplog.text.count("is compacted by process") == 1
        gallery.enroll_embeddings(vectors[-90:], names[-90:])  # twice as many by now
        assert caplog.text.count("is compacted by process") == 2


def test_no_process_is_started_by_python_that_does_not_ask_for_it(
    tmp_path: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, names = clustered(toy.dimension, 3000)
    compacted_elsewhere(monkeypatch)
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail("a process is started"))
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors[:2100], names[:2100])
        assert gallery.info().indexed == 2100
        for start in range(2100, 3000, 100):  # left until a quarter as much has changed
            block = slice(start, start + 100)
            gallery.enroll_embeddings(vectors[block], names[block])
            assert gallery.info().indexed == (2100 if start < 2600 else 2700)
            items = gallery.search(vectors[block], 1)[0][:, 0]
            assert items.tolist() == list(range(start + 1, start + 101))
        gallery.compact()
        assert gallery.info().indexed == 3000
        gallery.remove("id0")
        assert gallery.info().indexed == 3000
        assert gallery.check() == []


def test_a_process_that_compacts_imports_nothing_that_lies_about(
    tmp_path: Path,
    toy: Encoder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    vectors, names = clustered(toy.dimension)
    compacted_elsewhere(monkeypatch)
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for name in ("typer", "numpy", "siamese_search", "filelock", "sitecustomize"):
        script = f"open({str(tmp_path / 'executed')!r}, 'a').write({name!r})"
        (downloads / f"{name}.py").write_text(script)
    monkeypatch.chdir(downloads)
    for path in ("", os.pathsep.join(["", ".", os.environ.get("PYTHONPATH", "")])):
        monkeypatch.setenv("PYTHONPATH", path)
        folder = tmp_path / f"gallery {len(path)}"
        with Gallery.open(folder, toy, background=True) as gallery:
            gallery.enroll_embeddings(vectors[:-300], names[:-300])
            gallery.enroll_embeddings(vectors[-300:], names[-300:])
            deadline = time.monotonic() + 120
            while gallery.info().indexed < ITEMS and time.monotonic() < deadline:
                time.sleep(0.1)
            assert gallery.info().indexed == ITEMS, caplog.text
        assert not (tmp_path / "executed").exists()


def test_a_process_in_the_background_ends_once_its_gallery_is_gone(
    tmp_path: Path, toy: Encoder
) -> None:
    Gallery.open(tmp_path / "gallery", toy).close()
    database = tmp_path / "gallery" / "gallery.db"
    process = subprocess.Popen(
        [*command(), "query", "-", "-g", str(tmp_path / "gallery")],  # it waits for its input
        stdin=subprocess.PIPE,
        env=environment(database),
    )
    with process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=3)
        database.unlink()
        assert process.wait(timeout=60) == 0


def test_the_command_line_allows_a_process_in_the_background(tmp_path: Path, toy: Encoder) -> None:
    Gallery.open(tmp_path / "gallery", toy).close()
    with open_gallery(tmp_path / "gallery") as gallery:
        assert gallery._compaction._may_start_others()
    with Gallery.open(tmp_path / "gallery") as gallery:
        assert not gallery._compaction._may_start_others()


@pytest.mark.parametrize("background", [False, True])
def test_embeddings_that_come_in_blocks_are_written_a_few_times(
    background: bool, tmp_path: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, names = clustered(toy.dimension, 2700)
    monkeypatch.setattr("siamese_search.gallery.compaction.MANY_ITEMS", 500)
    monkeypatch.setattr("siamese_search.gallery.compaction.FEW_CHANGES", 50)
    monkeypatch.setattr("siamese_search.gallery.compaction.PENDING_AT_LEAST", 10)
    monkeypatch.setattr("siamese_search.gallery.compaction.PENDING_AT_MOST", 50)
    elsewhere: list[int] = []
    monkeypatch.setattr(Compaction, "_compact_elsewhere", lambda self: elsewhere.append(1))
    written: list[int] = []
    write = FaissEngine.write

    def counting(*arguments: Any, **named: Any) -> Written:
        made = write(*arguments, **named)
        written.append(made.items)
        return made

    monkeypatch.setattr(FaissEngine, "write", counting)
    with Gallery.open(tmp_path / "gallery", toy, background=background) as gallery:
        for start in range(0, 2700, 60):
            block = slice(start, start + 60)
            gallery.enroll_embeddings(vectors[block], names[block])
            pending = len(gallery) - gallery.info().indexed
            assert pending <= max(60, len(gallery) // 4)
        assert sum(written) <= 6 * 2700  # after every block it would be 22 times
        assert bool(elsewhere) == background
        assert gallery.check() == []


def test_others_can_ask_while_many_embeddings_are_enrolled(tmp_path: Path, toy: Encoder) -> None:
    vectors, names = clustered(toy.dimension, 12_000)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors[:600], names[:600])
        waits, done = [], threading.Event()

        def ask() -> None:
            with Gallery.open(tmp_path / "gallery", toy) as other:
                while not done.is_set():
                    begun = time.monotonic()
                    for asked in (gallery, other):
                        assert asked.identify_embeddings(vectors[:1])[0].identity == "id0"
                    waits.append(time.monotonic() - begun)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            begun = time.monotonic()
            gallery.enroll_embeddings(vectors[600:], names[600:])
            took = time.monotonic() - begun
        finally:
            done.set()
            asking.join()
    assert len(waits) > 3
    assert max(waits) < max(0.5, took / 2)


def test_embeddings_are_not_enrolled_under_a_distractors_name(
    tmp_path: Path, toy: Encoder, pictures: Pictures
) -> None:
    vectors, _ = clustered(toy.dimension, 6)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([pictures({"poster": 1})], distractor=True)
        with pytest.raises(UsageError, match="'poster' is enrolled as a distractor"):
            gallery.enroll_embeddings(vectors[:2], ["cat", "poster"])
        assert gallery.identities() == [("poster", 1)]


def test_a_batch_is_searched_in_blocks_and_an_absurd_k_is_refused(
    tmp_path: Path, toy: Encoder
) -> None:
    vectors, names = clustered(toy.dimension)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors, names)
        items, scores = gallery.search(vectors[:600], 3)
        assert items.shape == scores.shape == (600, 3)
        assert items[:, 0].tolist() == list(range(1, 601))
        assert gallery.search(vectors[:0], 3)[0].shape == (0, 3)
        for k in (0, 10**9):
            with pytest.raises(UsageError, match=f"k is {k}"):
                gallery.search(vectors[:1], k)


def test_a_snapshot_that_others_replace_is_opened_in_its_new_form(
    tmp_path: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, names = clustered(toy.dimension)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors, names)
        fault = Snapshots.fault

        def replaced(self: Snapshots, *arguments: Any, **named: Any) -> str | None:
            monkeypatch.setattr(Snapshots, "fault", fault)
            gallery.compact()
            return fault(self, *arguments, **named)

        with Gallery.open(tmp_path / "gallery", toy) as other:
            monkeypatch.setattr(Snapshots, "fault", replaced)
            with other._snapshots.searching() as view:
                assert len(view.index) == ITEMS
            psutil = pytest.importorskip("psutil")
            opened = [Path(found.path).name for found in psutil.Process().open_files()]
            assert gallery.info().index in opened
