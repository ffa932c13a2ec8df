"""A gallery under its own metric: what it gains, that it is used whole or not at all, and only with
the calibration that was made under it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from conftest import picture, seal, write_toy_encoder
from PIL import Image

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray
from siamese_search.decision.learning import (
    UNJUDGED,
    UNJUDGED_WITHOUT_PRIOR,
    Prior,
    learned,
)
from siamese_search.decision.metric import Metric, plain
from siamese_search.errors import GalleryDamaged, GalleryError, UsageError
from siamese_search.gallery import unknowns
from siamese_search.gallery.compaction import Compaction
from siamese_search.gallery.grouping import separating, separating_unseen
from siamese_search.index import Written
from siamese_search.records import Identification, Snapshot
from siamese_search.storage.generations import Generations

IDENTITIES, EACH = 40, 5


def noisy(
    dimension: int, identities: int, each: int, seed: int = 0
) -> tuple[FloatArray, list[str]]:
    """Items of identities that differ little, with much noise along a quarter of the directions."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(identities, dimension)).repeat(each, axis=0)
    noise = np.where(np.arange(dimension) < dimension // 4, 4.0, 0.5)
    vectors = centres + noise * random.normal(size=centres.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), [f"s{seed}-{n // each}" for n in range(len(vectors))]


@pytest.fixture
def split(toy: Encoder) -> tuple[FloatArray, list[str], FloatArray, list[str]]:
    """What is enrolled, and four probes of each of these identities."""
    vectors, names = noisy(toy.dimension, IDENTITIES, EACH + 4)
    enrolled = np.arange(len(names)) % (EACH + 4) < EACH
    own = [name for name, here in zip(names, enrolled, strict=True) if here]
    asked = [name for name, here in zip(names, enrolled, strict=True) if not here]
    return vectors[enrolled], own, vectors[~enrolled], asked


Split = tuple[FloatArray, list[str], FloatArray, list[str]]


@pytest.fixture
def folder(tmp_path: Path, toy: Encoder, split: Split) -> Path:
    """A gallery without a calibration."""
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(split[0], split[1])
    return tmp_path / "gallery"


def stored(gallery: Gallery) -> Metric:
    _, found = gallery._catalog.state_with_metric()
    assert found is not None
    return found


def shares(
    gallery: Gallery, probes: FloatArray, names: list[str], strangers: FloatArray
) -> tuple[float, float]:
    """The shares of probes that are named rightly, and of strangers that are named."""
    right = [
        a.identity == n for a, n in zip(gallery.identify_embeddings(probes), names, strict=True)
    ]
    wrong = [a.identity is not None for a in gallery.identify_embeddings(strangers)]
    return float(np.mean(right)), float(np.mean(wrong))


def slow_best(metric: Metric, vectors: FloatArray, names: list[str], probe: FloatArray) -> float:
    """The best score by the balanced rule, item by item."""

    def moved(vector: FloatArray) -> np.ndarray:
        found = (vector.astype(float) - metric.mean) @ metric.projection.astype(float)
        scaled: np.ndarray = found / np.linalg.norm(found)
        return scaled

    asked, scores = moved(probe), []
    for name in set(names):
        own = [moved(v) for v, n in zip(vectors, names, strict=True) if n == name]
        mean = np.mean(own, axis=0)
        best = max(float(one @ asked) for one in own)
        scores.append((best + float(mean @ asked) / float(np.linalg.norm(mean))) / 2)
    return max(scores)


def same(first: list[Identification], second: list[Identification]) -> bool:
    """Whether answers are the same, within what a projection rounds."""
    return all(
        a.identity == b.identity
        and [m.item for m in a.matches] == [m.item for m in b.matches]
        and [m.score for m in a.matches] == pytest.approx([m.score for m in b.matches], abs=1e-6)
        and a.threshold == pytest.approx(b.threshold, abs=1e-6)
        for a, b in zip(first, second, strict=True)
    )


def test_more_are_named_rightly_by_the_metric_and_no_more_strangers(
    folder: Path, split: Split, toy: Encoder
) -> None:
    vectors, names, probes, asked = split
    strangers, _ = noisy(toy.dimension, 100, 4, seed=1)
    with Gallery.open(folder, toy) as gallery:
        gallery.calibrate(0.1, metric="none")
        assert gallery.info().metric is None
        before = shares(gallery, probes, asked, strangers)
        found = gallery.calibrate(metric="auto")
        after = shares(gallery, probes, asked, strangers)
        assert found.metric is not None
        assert after[0] > before[0] + 0.2
        assert after[1] < 0.2
        (answer,) = gallery.identify_embeddings(probes[:1])
        expected = slow_best(stored(gallery), vectors, names, probes[0])
        assert answer.score == pytest.approx(expected, abs=1e-5)
        said = str(gallery.info().metric)
        assert said.startswith("learned from 200 items of 40 identities: ")
        assert said.endswith(" more in 100 held-out items are named rightly")
        assert gallery.check() == []


def test_scores_searches_and_self_tests_are_of_the_metric_and_samples_as_embedded(
    folder: Path, split: Split, toy: Encoder
) -> None:
    vectors, names, probes, _ = split
    with Gallery.open(folder, toy) as gallery:
        gallery.calibrate(0.1)
        moved = stored(gallery).apply(vectors)
        cosines = stored(gallery).apply(probes[:3]) @ moved.T
        items, scores = gallery.search(probes[:3], 4)
        assert items.tolist() == (1 + np.argsort(-cosines, axis=1)[:, :4]).tolist()
        assert scores == pytest.approx(-np.sort(-cosines, axis=1)[:, :4], abs=1e-5)
        called, table = gallery.scores(probes[:3])
        best = [slow_best(stored(gallery), vectors, names, probe) for probe in probes[:3]]
        assert table.max(axis=1) == pytest.approx(np.array(best), abs=1e-5)
        assert len(called) == IDENTITIES
        drawn, embeddings = gallery.sample(10)
        assert embeddings.tolist() == vectors[[item.number - 1 for item in drawn]].tolist()


def test_items_searched_without_themselves_score_as_what_was_never_seen(
    folder: Path, split: Split, toy: Encoder
) -> None:
    vectors, names, probes, shown = split
    with Gallery.open(folder, toy) as gallery:
        assert not gallery.has_learned
        gallery.calibrate(0.1)
        assert gallery.has_learned
        left_out = list(gallery.left_out(rule="best"))
        assert sorted(one.item for one in left_out) == list(range(1, len(names) + 1))
        own = np.mean([one.own for one in left_out if one.own is not None])
        known = stored(gallery).apply(vectors) @ stored(gallery).apply(vectors).T
        np.fill_diagonal(known, -1)
        same = np.array(names)[:, None] == np.array(names)
        asked = stored(gallery).apply(probes) @ stored(gallery).apply(vectors).T
        theirs = np.array(shown)[:, None] == np.array(names)
        unseen = np.where(theirs, asked, -1).max(axis=1).mean()
        learned = np.where(same, known, -1).max(axis=1).mean()
        assert abs(own - unseen) < 0.006 < learned - unseen


def test_unknowns_are_grouped_by_what_separates_things_that_the_metric_has_not_seen(
    folder: Path, split: Split, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []

    def linked(vectors: FloatArray, threshold: float) -> list[list[int]]:
        told.append(threshold)
        return [[row] for row in range(len(vectors))]

    monkeypatch.setattr(unknowns, "linked", linked)
    with Gallery.open(folder, toy) as gallery:
        gallery.calibrate(0.1)
        list(gallery.identify_each([picture(1)], threshold=1.0, keep_unknown=True))
        gallery.unknowns()
        metric = stored(gallery)
        unseen = separating_unseen(split[0], np.arange(IDENTITIES).repeat(EACH), None, metric)
        assert told == [pytest.approx(unseen, abs=1e-4)]
        assert unseen != pytest.approx(separating(metric.apply(split[0]), split[1]), abs=1e-3)


def test_an_audit_finds_wrong_labels_that_the_gallery_has_learned_from(
    tmp_path: Path, split: Split, toy: Encoder
) -> None:
    vectors, names = split[0], list(split[1])
    wrong = list(range(0, 100, 10))
    for item in wrong:
        names[item] = names[(item + 3 * EACH) % len(names)]
    with Gallery.open(tmp_path / "wrong", toy) as gallery:
        gallery.enroll_embeddings(vectors, names)
        before = {one.item - 1 for one in gallery.audit().suspects if one.doubt > 0}
        gallery.calibrate(0.1)
        assert gallery.has_learned
        found = [one.item - 1 for one in gallery.audit().suspects if one.doubt > 0]
        assert len(before & {*wrong}) == len({*found} & {*wrong}) == len(wrong)


def test_answers_do_not_depend_on_the_index_file(folder: Path, split: Split, toy: Encoder) -> None:
    _, _, probes, _ = split
    with Gallery.open(folder, toy) as gallery:
        gallery.calibrate(0.1)
        file = gallery.info().index
        assert file is not None
        expected = gallery.identify_embeddings(probes)
    more, called = noisy(toy.dimension, 3, 2, seed=2)
    (folder / file).unlink()
    with Gallery.open(folder, toy) as gallery:
        assert same(gallery.identify_embeddings(probes), expected)
        gallery.compact()
        assert gallery.info().indexed == IDENTITIES * EACH
        assert same(gallery.identify_embeddings(probes), expected)
        gallery.enroll_embeddings(more, called)
        gallery.remove("s0-3")
        merged = gallery.identify_embeddings(probes)
        assert "s0-3" not in {answer.identity for answer in merged}
        gallery.compact()
        assert same(gallery.identify_embeddings(probes), merged)
        assert gallery.check() == []
    with Gallery.open(folder, toy) as gallery:
        assert same(gallery.identify_embeddings(probes), merged)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE metrics SET content = zeroblob(length(content))",
        "UPDATE metrics SET checksum = checksum + 1",
        "DELETE FROM metrics",
        "UPDATE metrics SET content = 'text'",
    ],
)
def test_a_damaged_metric_is_never_used_and_is_learned_again(
    damage: str, folder: Path, split: Split, toy: Encoder
) -> None:
    _, _, probes, _ = split
    with Gallery.open(folder, toy) as gallery:
        gallery.calibrate(0.1)
        expected = gallery.identify_embeddings(probes)
    with sqlite3.connect(folder / "gallery.db") as db:
        db.execute(damage)
    db.close()
    with Gallery.open(folder, toy) as gallery:
        for use in (
            lambda: gallery.identify_embeddings(probes),
            lambda: gallery.search(probes, 1),
            lambda: list(gallery.left_out()),
            gallery.compact,
        ):
            with pytest.raises(GalleryDamaged, match="siasearch calibrate"):
                use()
        assert any(
            "metric" in fault and "siasearch calibrate" in fault for fault in gallery.check()
        )
        assert gallery.info().metric == "damaged: run `siasearch calibrate`"
        gallery.calibrate(0.1)
        assert gallery.check() == []
        assert same(gallery.identify_embeddings(probes), expected)


def test_a_metric_of_another_dimension_is_named(folder: Path, toy: Encoder) -> None:
    with Gallery.open(folder, toy) as gallery:
        generation = gallery._catalog.state().generation
        calibration = gallery.calibrate(0.1)
        gallery._catalog.set_calibration(generation, calibration, plain(7))
        with pytest.raises(GalleryDamaged, match="of 7 dimensions"):
            gallery.search(np.eye(1, toy.dimension, dtype=np.float32), 1)


def test_a_calibration_that_fails_to_be_kept_changes_nothing(
    folder: Path, split: Split, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, probes, _ = split

    def failing(_: Generations) -> None:
        raise KeyboardInterrupt

    with Gallery.open(folder, toy) as gallery:
        expected = gallery.identify_embeddings(probes)
        before = gallery.info()
        with monkeypatch.context() as patched:
            patched.setattr(Generations, "_new_epoch", failing)  # the last step of all
            with pytest.raises(KeyboardInterrupt):
                gallery.calibrate(0.1, metric="auto")
        assert gallery.calibration is None
        assert replace(gallery.info(), bytes=0) == replace(before, bytes=0)
        assert same(gallery.identify_embeddings(probes), expected)
        with sqlite3.connect(folder / "gallery.db") as db:
            assert db.execute("SELECT count(*) FROM metrics").fetchone() == (0,)
        db.close()
        assert gallery._catalog.wanted_metric() is None


def test_who_reads_meanwhile_sees_the_old_or_the_new_and_never_both(
    folder: Path, split: Split, toy: Encoder
) -> None:
    _, _, probes, _ = split
    seen: list[list[Identification]] = []
    done = threading.Event()

    def read() -> None:
        with Gallery.open(folder, toy) as reader:
            while not done.is_set():
                seen.append(reader.identify_embeddings(probes[:20]))
            seen.append(reader.identify_embeddings(probes[:20]))

    with Gallery.open(folder, toy) as gallery:
        allowed = [gallery.identify_embeddings(probes[:20])]
        thread = threading.Thread(target=read)
        thread.start()
        try:
            for wanted in ("auto", "none", "auto"):
                gallery.calibrate(0.1, metric=wanted)
                allowed.append(gallery.identify_embeddings(probes[:20]))
        finally:
            done.set()
            thread.join()
    assert all(any(same(answers, one) for one in allowed) for answers in seen)
    assert same(seen[-1], allowed[-1])


def test_the_choice_holds_until_another_is_made(folder: Path, toy: Encoder) -> None:
    with Gallery.open(folder, toy) as gallery:
        assert gallery.calibrate(0.1, metric="none").metric is None
        assert gallery.calibrate(0.1).metric is None
        assert gallery.calibrate(0.1, metric="auto").metric is not None
        assert gallery.calibrate(0.2).metric is not None
        with pytest.raises(UsageError, match="auto, none"):
            gallery.calibrate(0.1, metric="cosine")
        assert gallery.calibrate(0.1, metric="none").metric is None
        with sqlite3.connect(folder / "gallery.db") as db:
            assert db.execute("SELECT count(*) FROM metrics").fetchone() == (0,)
        db.close()
        assert gallery.check() == []


def test_the_same_metric_is_kept_with_its_index_file(folder: Path, toy: Encoder) -> None:
    with Gallery.open(folder, toy) as gallery:
        first, file = gallery.calibrate(0.1), gallery.info().index
        second = gallery.calibrate(0.05)
        assert (second.metric, gallery.info().index) == (first.metric, file)


def test_without_a_metric_calibrating_touches_no_index_file(folder: Path, toy: Encoder) -> None:
    with Gallery.open(folder, toy) as gallery:
        file = gallery.info().index
        gallery.calibrate(0.1, metric="none")
        assert gallery.info().index == file


def test_an_index_file_of_another_metric_is_not_taken(folder: Path, toy: Encoder) -> None:
    with Gallery.open(folder, toy) as gallery:
        before = gallery._catalog.state().snapshot
        assert isinstance(before, Snapshot)
        assert before.metric is None
        gallery.calibrate(0.1)
        with pytest.raises(GalleryError, match="compact it again"):
            gallery._catalog.set_snapshot(before)
        now = gallery._catalog.state()
        assert now.snapshot is not None
        assert now.snapshot.metric == now.metric is not None


def test_a_stale_metric_is_learned_again_along_the_way(
    folder: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese_search.gallery.compaction.PENDING_AT_LEAST", 20)
    vectors, names = noisy(toy.dimension, 20, 5, seed=3)
    with Gallery.open(folder, toy) as gallery:
        first = gallery.calibrate(0.1)
        with monkeypatch.context() as patched:
            patched.setattr("siamese_search.gallery.calibrating.AGAIN_AT_MOST", 100)
            gallery.enroll_embeddings(vectors[:60], names[:60])
        assert gallery.calibration == first
        assert gallery.is_stale(first)
        gallery.enroll_embeddings(vectors[60:], names[60:])
        found = gallery.calibration
        assert found is not None
        assert found.metric not in (None, first.metric)
        assert (found.fpir, found.items) == (0.1, 300)
        assert gallery.info().indexed == 300
        assert gallery.check() == []


def test_a_gallery_without_a_metric_stays_stale_until_it_is_calibrated(
    folder: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese_search.gallery.compaction.PENDING_AT_LEAST", 20)
    vectors, names = noisy(toy.dimension, 20, 5, seed=3)
    with Gallery.open(folder, toy) as gallery:
        first = gallery.calibrate(0.1, metric="none")
        gallery.enroll_embeddings(vectors, names)
        assert gallery.calibration == first


def test_a_large_gallery_learns_and_tries_by_a_file(
    folder: Path, split: Split, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, probes, asked = split
    monkeypatch.setattr("siamese_search.gallery.learning.HELD", 50)
    with Gallery.open(folder, toy) as gallery:
        gallery.calibrate(0.1, metric="none")
        before, _ = shares(gallery, probes, asked, probes)
        found = gallery.calibrate(0.1, metric="auto")
        assert found.metric is not None
        assert shares(gallery, probes, asked, probes)[0] > before + 0.2
        files = [path.name for path in folder.glob("*index-*.faiss")]
        assert files == [gallery.info().index]
        assert gallery.calibrate(0.1, metric="none").metric is None
        assert gallery.check() == []


def test_duplicates_are_told_by_the_embeddings_whatever_the_metric(
    folder: Path, split: Split, toy: Encoder
) -> None:
    vectors, names, _, _ = split
    random = np.random.default_rng(5)
    near = vectors[:2] + 0.02 * random.normal(size=(2, toy.dimension))
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    with Gallery.open(folder, toy) as gallery:
        gallery.enroll_embeddings(near.astype(np.float32), names[:2])
        gallery.calibrate(0.1, metric="none")
        plainly = gallery.audit().duplicates
        assert [pair[:2] for pair in plainly] == [(2, 202), (1, 201)] or len(plainly) == 2
        assert gallery.calibrate(0.1, metric="auto").metric is not None
        found = gallery.audit().duplicates
        assert [pair[:2] for pair in found] == [pair[:2] for pair in plainly]
        assert [p[2] for p in found] == pytest.approx([p[2] for p in plainly], abs=1e-6)


def test_another_rule_goes_by_what_was_calibrated_but_promises_no_rate(
    folder: Path, split: Split, toy: Encoder
) -> None:
    _, _, probes, asked = split
    with Gallery.open(folder, toy) as gallery:
        gallery.calibrate(0.1)
        answers = gallery.identify_embeddings(probes, rule="best")
        assert np.mean([a.identity == n for a, n in zip(answers, asked, strict=True)]) > 0.3
        with pytest.raises(UsageError, match="not calibrated for the rule best"):
            gallery.identify_embeddings(probes, rule="best", fpir=0.1)


def test_who_is_left_alone_is_not_named_for_a_stranger(folder: Path, toy: Encoder) -> None:
    strangers, _ = noisy(toy.dimension, 100, 1, seed=1)
    with Gallery.open(folder, toy) as gallery:
        gallery.calibrate(0.1)
        for name, _ in gallery.identities()[1:]:
            gallery.remove(name)
        named = [a.identity is not None for a in gallery.identify_embeddings(strangers)]
        assert np.mean(named) < 0.2


def test_items_removed_while_it_learns_are_left_out(
    folder: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gallery.open(folder, toy) as other, Gallery.open(folder, toy) as gallery:

        def removing(*arguments: object) -> Metric | None:
            other.remove("s0-7")
            return learned(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr("siamese_search.gallery.learning.learned", removing)
        found = gallery.calibrate(0.1)
        assert (found.metric is not None, found.strangers) == (True, 195)
        assert gallery.check() == []


def spread(count: int, dimension: int, width: float) -> FloatArray:
    """Vectors about one, as far apart as ``width``."""
    random = np.random.default_rng(6)
    vectors = np.eye(1, dimension) + width * random.normal(size=(count, dimension))
    scaled: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled.astype(np.float32)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda d: (noisy(d, 4, 20)[0], [f"id{n // 20}" for n in range(80)]), "4 identities"),
        (lambda d: (noisy(d, 1, 90)[0], ["one"] * 90), "1 identities"),
        (lambda d: (spread(60, d, 1e-6), [f"id{n // 6}" for n in range(60)]), "too few"),
        (lambda d: (noisy(d, 49, 1)[0], [f"id{n}" for n in range(49)]), None),
    ],
    ids=["four identities", "one identity", "identical pictures", "one item each of a few"],
)
def test_galleries_that_teach_nothing_have_no_metric(
    make: Callable[[int], tuple[FloatArray, list[str]]],
    expected: str | None,
    tmp_path: Path,
    toy: Encoder,
) -> None:
    vectors, names = make(toy.dimension)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors, names)
        if expected is None:
            assert gallery.calibrate(0.1).metric is None
        else:
            with pytest.raises(UsageError, match=expected):
                gallery.calibrate(0.1)
        assert gallery.info().metric is None
        assert len(gallery.identify_embeddings(vectors[:3])) == 3


def test_one_identity_of_many_items_does_not_spoil_it_for_the_others(
    folder: Path, split: Split, toy: Encoder
) -> None:
    _, _, probes, asked = split
    many, _ = noisy(toy.dimension, 1, 600, seed=8)
    with Gallery.open(folder, toy) as gallery:
        gallery.enroll_embeddings(many, ["many"] * len(many))
        gallery.calibrate(0.1, metric="none")
        before = shares(gallery, probes, asked, probes)[0]
        gallery.calibrate(0.1, metric="auto")
        assert shares(gallery, probes, asked, probes)[0] >= before
        assert gallery.check() == []


@pytest.mark.parametrize("damage", [np.nan, 0.0, 3.0])
def test_embeddings_that_are_none_teach_nothing(damage: float, folder: Path, toy: Encoder) -> None:
    broken = np.full(toy.dimension, damage, "<f4").tobytes()
    with sqlite3.connect(folder / "gallery.db") as db:
        db.execute(
            "UPDATE embeddings SET vector = ?, checksum = ? WHERE item = 3", (broken, crc32(broken))
        )
    db.close()
    with Gallery.open(folder, toy) as gallery:
        for file in folder.glob("index-*.faiss"):
            file.unlink()
        found = gallery.calibrate(0.1)
        assert found.metric is not None
        assert np.isfinite(list(found.thresholds.values())).all()
        assert "learned from 199 items" in str(gallery.info().metric)
        assert any("item 3 is not of unit length" in fault for fault in gallery.check())


@pytest.mark.parametrize("knowing", [False, True])
def test_one_item_each_have_a_metric_next_to_plain_cosines(tmp_path: Path, knowing: bool) -> None:
    """Nothing can be held out to tell how much of one helps."""
    vectors, names = noisy(49, 60, 1)
    known, owners = noisy(49, 100, 10, seed=7)
    centres = np.stack([known[np.array(owners) == owner].mean(axis=0) for owner in owners])
    within = (known - centres).T @ (known - centres)
    prior = Prior(known.mean(axis=0), within.astype(np.float32)) if knowing else None
    write_toy_encoder(tmp_path / "toy", prior=prior)
    with Gallery.open(tmp_path / "gallery", tmp_path / "toy", "cpu") as gallery:
        gallery.enroll_embeddings(vectors, names)
        assert gallery.calibrate(0.1, metric="none").metric is None
        assert gallery.calibrate(0.1, metric="auto").metric is not None
        _, metric = gallery._catalog.state_with_metric()
        assert metric is not None
        assert (metric.gain, metric.kind, metric.items) == (None, "total", 60)
        assert metric.shrinkage == (UNJUDGED if knowing else UNJUDGED_WITHOUT_PRIOR)
        _, scores = gallery.search(vectors[:5], 3)
        moved = metric.apply(vectors)
        expected = -np.sort(-moved[:5] @ moved.T, axis=1)[:, :3]
        assert scores == pytest.approx(expected, abs=1e-5)
        assert "nothing can be held out to judge it" in str(gallery.info().metric)


@pytest.mark.parametrize(
    "counts", [[46, 1, 1, 1, 1], [300] + 49 * [1], [4] * 4 + 44 * [1], 49 * [1]]
)
def test_few_or_uneven_galleries_have_none_that_nothing_judged(counts: list[int]) -> None:
    """An identity of many items would rule it."""
    vectors, _ = noisy(49, sum(counts), 1)
    names = np.repeat(np.arange(len(counts)), counts)
    assert learned(vectors, names) is None


def test_one_picture_each_is_found_more_often_by_it(tmp_path: Path, toy: Encoder) -> None:
    """Where pictures differ in what says nothing of who is on them."""
    vectors, owners = noisy(toy.dimension, 60, 6, seed=3)
    names = np.array(owners)
    first = np.unique(names, return_index=True)[1]
    probes = np.setdiff1d(np.arange(len(names)), first)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors[first], names[first].tolist())

        def found(metric: str) -> int:
            gallery.calibrate(0.1, metric=metric)
            answers = gallery.identify_embeddings(vectors[probes], k=1)
            best = [answer.matches[0].identity for answer in answers]
            return int((np.array(best) == names[probes]).sum())

        assert found("none") < found("auto")


def test_a_rebuild_under_another_encoder_learns_the_metric_anew(
    tmp_path: Path, toy: Encoder, coarse: Encoder
) -> None:
    random = np.random.default_rng(0)
    for identity in range(12):
        place = tmp_path / "pictures" / f"id{identity}"
        place.mkdir(parents=True)
        tiles = random.integers(0, 256, (4, 4, 3)).repeat(4, 0).repeat(4, 1)
        for number in range(5):
            # One light and shadow that is no identity's.
            shadow = random.normal() * np.linspace(-90, 90, 16)[:, None, None]
            pixels = tiles + shadow + random.normal(0, 4, tiles.shape)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number}.png")
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([tmp_path / "pictures"])
        first = gallery.calibrate(0.1, metric="auto")
        report = gallery.rebuild(coarse)
        assert report.calibration == gallery.calibration
        assert report.calibration is not None
        assert report.calibration.metric != first.metric or first.metric is None
        assert gallery.info().dimension == coarse.dimension
        assert gallery.info().indexed == 60
        assert gallery.check() == []


def test_strangers_are_asked_under_the_metric_that_is_learned(
    folder: Path, toy: Encoder, pictures: Callable[..., Path]
) -> None:
    places = pictures({f"stranger{n}": 2 for n in range(8)})
    with Gallery.open(folder, toy) as gallery:
        found = gallery.calibrate(0.1, strangers=places)
        assert found.metric is not None
        shown = []
        for path in sorted(places.rglob("*.png")):
            (answer,) = gallery.identify([path], k=2)
            shown.append(answer.matches[0].score - max(answer.matches[1].score, 0) / 2)
        assert found.location == pytest.approx(np.mean(shown), abs=1e-5)


def test_distractors_teach_nothing_and_are_never_named_by_the_metric(
    folder: Path, split: Split, toy: Encoder
) -> None:
    vectors, names, _, _ = split
    with Gallery.open(folder, toy) as gallery:
        with sqlite3.connect(folder / "gallery.db") as db:
            db.execute("UPDATE identities SET distractor = 1 WHERE name = 's0-0'")
        db.close()
        seal(folder)
        gallery.calibrate(0.1)
        assert "195 items of 39 identities" in str(gallery.info().metric)
        assert gallery.identify_embeddings(vectors[:1])[0].identity is None
        assert names[0] == "s0-0"


def test_a_compaction_that_meets_a_calibration_takes_its_metric(
    folder: Path, split: Split, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, probes, _ = split
    write = Compaction._write
    with Gallery.open(folder, toy) as other, Gallery.open(folder, toy) as gallery:

        def meeting(self: Compaction, *arguments: Any) -> Written:
            written = write(self, *arguments)
            monkeypatch.setattr(Compaction, "_write", write)
            other.calibrate(0.1)
            return written

        # Another process could not, since this one is at it.
        monkeypatch.setattr(other._compaction, "compact_if_due", lambda **_: False)
        monkeypatch.setattr(Compaction, "_write", meeting)
        gallery.compact()
        state = gallery._catalog.state()
        assert state.snapshot is not None
        assert state.snapshot.metric == state.metric is not None
        assert gallery.check() == []
        found, expected = (one.identify_embeddings(probes) for one in (gallery, other))
        assert same(found, expected)


def test_compaction_that_fails_leaves_answers_from_the_database(
    folder: Path, split: Split, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, probes, _ = split
    with Gallery.open(folder, toy) as gallery:
        with monkeypatch.context() as patched:
            patched.setattr(Compaction, "is_due", lambda *_: False)
            gallery.calibrate(0.1)
        assert gallery.info().index is None
        expected = gallery.identify_embeddings(probes)
        gallery.compact()
        assert same(gallery.identify_embeddings(probes), expected)


def test_of_encoders_that_embed_alike_a_rebuild_says_whose_prior_counts(
    tmp_path: Path, pictures: Callable[..., Path]
) -> None:
    plain = write_toy_encoder(tmp_path / "one" / "toy")
    prior = Prior(np.zeros(49, np.float32), np.eye(49, dtype=np.float32))
    known = write_toy_encoder(tmp_path / "two" / "toy", prior=prior)

    def knows(gallery: Gallery) -> bool:
        return gallery._active.now().encoder.prior is not None

    with (
        Gallery.open(tmp_path / "gallery", plain) as server,
        Gallery.open(tmp_path / "gallery", plain) as other,
    ):
        server.enroll([pictures({"a": 2, "b": 2})])
        assert not knows(server)
        assert other.rebuild(known).embedded == 0
        assert knows(other)
        assert knows(server)  # which was opened before
    with Gallery.open(tmp_path / "gallery", plain) as gallery:
        assert knows(gallery)  # as it was rebuilt, though another lies at hand
    with Gallery.open(tmp_path / "gallery") as gallery:
        assert knows(gallery)
        gallery.rebuild(plain)
        assert not knows(gallery)
    known.rename(tmp_path / "moved")
    with Gallery.open(tmp_path / "gallery", tmp_path / "moved") as gallery:
        assert not knows(gallery)
