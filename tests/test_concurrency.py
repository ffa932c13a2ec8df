"""Several processes and threads on one gallery at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from crashing import prepare_process

from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import GalleryMismatch, StorageError, UsageError
from siamese_search.gallery import viewing
from siamese_search.gallery.gallery import Gallery
from siamese_search.gallery.snapshots import Snapshots
from siamese_search.records import EnrollmentReport
from siamese_search.storage.catalog import Catalog

PERMANENT = range(8)
PASSING = range(8, 14)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    (tmp_path / "pictures").mkdir()
    made = [tmp_path / "pictures" / f"{number:02}.png" for number in range(60)]
    for number, path in enumerate(made):
        picture(number).save(path)
    return made


def processes(count: int) -> ProcessPoolExecutor:
    """Fresh processes that commit and compact every few items."""
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=prepare_process)


def wait_for(file: Path) -> None:
    for _ in range(3000):
        if file.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{file} never came")


def enrol(folder: Path, encoder: Path, paths: list[Path], go: Path, copy: bool) -> EnrollmentReport:
    opened = Encoder.open(encoder)
    (go.parent / f"ready-{paths[0].stem}").touch()
    wait_for(go)
    with Gallery.open(folder, opened) as gallery:
        return gallery.enroll(paths, copy=copy)


@pytest.mark.parametrize("copy", [False, True])
def test_two_processes_that_enrol_overlapping_pictures_lose_and_double_nothing(
    copy: bool, tmp_path: Path, toy_folder: Path, paths: list[Path]
) -> None:
    folder, go = tmp_path / "gallery", tmp_path / "go"
    shares = [paths[:40], paths[20:][::-1]]
    with processes(2) as pool:
        # Both make the gallery, too.
        enrolling = [pool.submit(enrol, folder, toy_folder, share, go, copy) for share in shares]
        for share in shares:
            wait_for(tmp_path / f"ready-{share[0].stem}")
        go.touch()
        reports = [future.result() for future in enrolling]
    assert sum(report.added for report in reports) == 60
    assert sum(report.skipped for report in reports) == 20
    assert not any(report.rejected for report in reports)
    with Gallery.open(folder) as gallery:
        assert gallery.check() == []
        assert [name for name, _ in gallery.identities()] == [path.stem for path in paths]
        assert len(gallery) == 60
        assert len(list(folder.rglob("*.png"))) == (60 if copy else 0)


def disturb(folder: Path, encoders: list[Path], paths: list[Path], stop: Path) -> int:
    """Enrol, remove, relabel, compact and rebuild, over and over; returns how often."""
    opened = [Encoder.open(encoder) for encoder in encoders]
    rounds = 0
    with Gallery.open(folder) as gallery:
        while not stop.exists() or rounds < 3:
            gallery.enroll([paths[number] for number in PASSING])
            gallery.relabel(paths[8].stem, f"renamed {rounds}")
            gallery.compact()
            gallery.remove(f"renamed {rounds}")
            for number in PASSING[1:]:
                gallery.remove(paths[number].stem)
            rounds += 1
            gallery.rebuild(opened[rounds % 2])
        gallery.rebuild(opened[0])
    return rounds


LOOKS = 10


def look(folder: Path, paths: list[Path], seconds: float) -> tuple[int, int]:
    """Identify for a while, and often. Every answer must be that of some committed state."""
    probes = [paths[number] for number in [*PERMANENT, PASSING[0]]]
    permanent = {path.stem for path in probes[:-1]}
    deadline = time.monotonic() + seconds
    looks = 0
    dimensions = set()
    with Gallery.open(folder) as gallery:
        while time.monotonic() < deadline or looks < LOOKS:  # a busy machine takes longer
            found = gallery.identify(probes, k=20, rule="best")
            looks += 1
            for path, answer in zip(probes[:-1], found[:-1], strict=True):
                assert answer.identity == path.stem, (path, answer)
                assert answer.score == pytest.approx(1.0, abs=1e-5)
            names = [{match.identity for match in answer.matches} for answer in found]
            assert all(seen == names[0] for seen in names), "an answer between two states"
            assert permanent <= names[0]
            passing = found[-1].matches[0]
            # Enrolled and renamed, or not there at all.
            if passing.identity == paths[8].stem or passing.identity.startswith("renamed"):
                assert passing.score == pytest.approx(1.0, abs=1e-5)
            else:
                assert found[-1].identity is None
            dimensions.add(gallery.info().dimension)
            assert gallery.check() == []
    return looks, len(dimensions)


def test_a_reader_sees_only_committed_states_while_another_process_changes_everything(
    tmp_path: Path, toy_folder: Path, coarse_folder: Path, paths: list[Path]
) -> None:
    folder, stop = tmp_path / "gallery", tmp_path / "stop"
    with processes(2) as pool:
        pool.submit(
            enrol, folder, toy_folder, [paths[number] for number in PERMANENT], tmp_path, False
        ).result()
        writer = pool.submit(disturb, folder, [toy_folder, coarse_folder], paths, stop)
        try:
            looks, dimensions = pool.submit(look, folder, paths, 2.5).result()
        finally:
            stop.touch()
        rounds = writer.result()
    assert rounds >= 3
    assert looks >= LOOKS
    assert dimensions == 2
    with Gallery.open(folder) as gallery:
        assert gallery.check() == []
        assert len(gallery) == len(PERMANENT)


def test_an_open_gallery_sees_what_another_one_changes(
    tmp_path: Path, toy: Encoder, coarse: Encoder, paths: list[Path]
) -> None:
    with (
        Gallery.open(tmp_path / "gallery", toy) as writer,
        Gallery.open(tmp_path / "gallery") as reader,
    ):

        def seen(path: Path) -> str | None:
            return reader.identify([path])[0].identity

        assert seen(paths[0]) is None
        writer.enroll(paths[:10])
        assert seen(paths[0]) == "00"
        writer.relabel("00", "first")
        assert seen(paths[0]) == "first"
        writer.compact()
        assert seen(paths[0]) == "first"
        writer.remove("first")
        assert seen(paths[0]) is None
        writer.compact()
        assert seen(paths[0]) is None
        writer.rebuild(coarse)
        assert seen(paths[5]) == "05"
        assert reader.encoder.dimension == coarse.dimension
        assert reader.check() == []


def test_threads_share_a_gallery(tmp_path: Path, toy: Encoder, paths: list[Path]) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery, ThreadPoolExecutor(6) as pool:

        def enrol_and_find(number: int) -> None:
            gallery.enroll([paths[number]])
            # What this thread was told is enrolled, it must find at once.
            assert gallery.identify([paths[number]])[0].identity == paths[number].stem
            if number % 3 == 0:
                gallery.relabel(paths[number].stem, f"new {number}")
                assert gallery.identify([paths[number]])[0].identity == f"new {number}"
            if number % 3 == 1:
                gallery.remove(paths[number].stem)
                assert gallery.identify([paths[number]])[0].identity is None
            if number % 7 == 0:
                gallery.compact()

        list(pool.map(enrol_and_find, range(60)))
        assert gallery.check() == []
        assert len(gallery) == 40


def test_threads_that_enrol_the_same_pictures_double_nothing(
    tmp_path: Path, toy: Encoder, paths: list[Path]
) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery, ThreadPoolExecutor(4) as pool:
        enrolling = [pool.submit(gallery.enroll, paths[:20], copy=True) for _ in range(4)]
        assert sum(future.result().added for future in enrolling) == 20
        assert gallery.check() == []


def test_a_commit_while_another_thread_catches_up_is_seen(
    tmp_path: Path, toy: Encoder, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll(paths[:1])
        vector = toy.embed([paths[2]])
        gallery.search(vector, 1)  # what is loaded now has to catch up
        gallery.enroll(paths[1:2])
        state = Catalog.state
        reading, written = threading.Event(), threading.Event()
        main = threading.current_thread()

        def slow_state(self: Catalog) -> Any:
            found = state(self)
            if threading.current_thread() is not main and not reading.is_set():
                reading.set()
                written.wait(5)
            return found

        with ThreadPoolExecutor(1) as pool:
            monkeypatch.setattr(Catalog, "state", slow_state)
            looking = pool.submit(gallery.search, vector, 1)
            assert reading.wait(5)
            gallery.enroll(paths[2:3])
            written.set()
            looking.result()
        monkeypatch.undo()
        assert gallery.search(vector, 1)[0].tolist() == [[3]]


def test_an_index_file_swept_while_it_is_opened_costs_no_answer(
    tmp_path: Path, toy: Encoder, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as writer:
        writer.enroll(paths[:10])
        writer.compact()
        fault = Snapshots.fault
        swept: list[bool] = []

        def fault_then_sweep(self: Snapshots, *arguments: Any, **options: Any) -> str | None:
            found = fault(self, *arguments, **options)
            if not swept:
                swept.append(True)
                writer.compact()
            return found

        monkeypatch.setattr(Snapshots, "fault", fault_then_sweep)
        with Gallery.open(tmp_path / "gallery", toy) as reader:
            found = reader.identify(paths[:10])
    assert [answer.identity for answer in found] == [path.stem for path in paths[:10]]
    assert swept


def test_a_switch_between_embedding_and_searching_is_noticed(
    tmp_path: Path,
    toy: Encoder,
    coarse: Encoder,
    paths: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        Gallery.open(tmp_path / "gallery", toy) as writer,
        Gallery.open(tmp_path / "gallery", toy) as reader,
    ):
        writer.enroll(paths[:5])
        vectors = toy.embed(paths[:5])
        switched: list[bool] = []

        def describe_then_switch(*asked: Any) -> Any:
            found = viewing.describe_turns(*asked)
            if not switched:
                switched.append(True)
                writer.rebuild(coarse)
            return found

        monkeypatch.setattr("siamese_search.gallery.answering.describe_turns", describe_then_switch)
        found = reader.identify(paths[:5])
        assert [answer.identity for answer in found] == [path.stem for path in paths[:5]]
        with pytest.raises(UsageError, match="49"):
            reader.identify_embeddings(vectors)


def test_enrolling_while_the_gallery_is_rebuilt_goes_into_the_new_generation_or_says_so(
    tmp_path: Path, toy: Encoder, coarse: Encoder, paths: list[Path]
) -> None:
    folder = tmp_path / "gallery"
    with Gallery.open(folder, toy) as gallery:
        gallery.enroll(paths[:30])

    def rebuild() -> bool:
        with Gallery.open(folder) as gallery:
            return gallery.rebuild(coarse).switched

    def enrol_one_by_one() -> int:
        told = 0
        with Gallery.open(folder) as gallery:
            for path in paths[30:]:
                while True:
                    try:
                        told += gallery.enroll([path]).added
                        break
                    except GalleryMismatch:
                        continue
        return told

    with ThreadPoolExecutor(2) as pool:
        futures: list[Future[Any]] = [pool.submit(enrol_one_by_one), pool.submit(rebuild)]
        assert futures[1].result()
        assert futures[0].result() == 30
    with Gallery.open(folder) as gallery:
        assert gallery.check() == []
        assert len(gallery) == 60
        found = gallery.identify(paths)
    assert [answer.identity for answer in found] == [path.stem for path in paths]


def test_only_one_process_rebuilds_at_a_time(
    tmp_path: Path, toy: Encoder, coarse: Encoder, paths: list[Path]
) -> None:
    with (
        Gallery.open(tmp_path / "gallery", toy) as first,
        Gallery.open(tmp_path / "gallery", toy) as second,
    ):
        first.enroll(paths[:3])
        refused: list[bool] = []

        def try_as_well(progress: object) -> None:
            del progress
            with ThreadPoolExecutor(1) as pool, pytest.raises(StorageError, match="another"):
                pool.submit(second.rebuild, coarse).result()
            refused.append(True)

        assert first.rebuild(coarse, watch=try_as_well).switched
        assert refused
        assert np.isfinite(second.search(coarse.embed(paths[:1]), 1)[1]).all()
