"""Curves over identities and shots, against slow and obvious computations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray
from siamese_search.errors import UsageError
from siamese_search.evaluation import curves, summary
from siamese_search.evaluation.evaluate import evaluate_embeddings


def clustered(random: np.random.Generator, classes: int, each: int, spread: float) -> FloatArray:
    """Unit vectors (classes * each, 49), those of a class one after the other."""
    vectors = random.normal(size=(classes, 49)).repeat(each, axis=0)
    vectors += spread * random.normal(size=vectors.shape)
    unit: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def slowly_measured(
    tried: list[tuple[dict[int, float], int | None]], never: set[int], fpir: float
) -> tuple[float, float]:
    """recall@1 and TPIR of probes, given as the scores of a gallery and who they are."""
    genuine, strange, first = [], [], 0
    for scores, own in tried:
        best, second = [*sorted(scores.values(), reverse=True), 0.0][:2]
        shown = best - 0.5 * max(second, 0.0)
        if own is None:
            named = max(scores, key=lambda name: scores[name])
            strange.append(-math.inf if named in never else shown)
        elif all(scores[own] > score for name, score in scores.items() if name != own):
            first += 1
            genuine.append(shown)
    known = sum(own is not None for _, own in tried)
    allowed = [
        threshold
        for threshold in [*genuine, *strange, math.inf]
        if sum(value >= threshold for value in strange) <= fpir * len(strange)
    ]
    return first / known, max(sum(g >= t for g in genuine) for t in allowed) / known


@pytest.mark.parametrize(("identities", "never"), [(12, []), (12, [1, 4, 5]), (23, [0]), (1, [])])
@pytest.mark.parametrize("fpir", [0.15, 0.3])
def test_every_probe_is_asked_of_galleries_that_grow(
    identities: int, never: list[int], fpir: float
) -> None:
    random = np.random.default_rng(identities)
    scores = random.normal(size=(80, identities)).astype(np.float32)
    scores[:20] = np.round(scores[:20])  # with ties
    own = random.integers(-1, identities, 80)
    own[np.isin(own, never) | (np.arange(80) % 4 == 0)] = -1
    if never:  # which of several alike is a stranger's best would be open
        scores[own < 0] = random.normal(size=((own < 0).sum(), identities))
    growth = curves.Growth(np.isin(np.arange(identities), never), seeds=[3, 4])
    for block in (slice(0, 30), slice(30, 31), slice(31, 80)):
        growth.add(scores[block], own[block])
    found = growth.curve(fpir)
    assert found.at[-1] == identities
    assert found.strangers == (own < 0).sum()
    assert np.isnan(growth.curve(2.9 / found.strangers).tpir).all()  # too few to tell
    for draw, seed in enumerate((3, 4)):
        order = np.random.default_rng(seed).permutation(identities).tolist()
        for point, size in enumerate(found.at):
            tried: list[tuple[dict[int, float], int | None]] = []
            for row, mine in zip(scores.tolist(), own.tolist(), strict=True):
                gallery = order[:size]
                if mine >= 0 and mine not in gallery:
                    gallery = [*order[: size - 1], mine]
                tried.append(({name: row[name] for name in gallery}, mine if mine >= 0 else None))
            slow = slowly_measured(tried, set(never), fpir)
            fast = found.recall[draw, point], found.tpir[draw, point]
            assert fast == pytest.approx(slow, abs=1e-6)


def test_two_identities_by_hand() -> None:
    growth = curves.Growth(np.zeros(2, bool), seeds=[0])
    scores = [[0.9, 0.2], [0.6, 0.4], *[[0.5, 0.8]] * 10]
    growth.add(np.array(scores, np.float32), np.array([0, 1, *[-1] * 10]))
    found = growth.curve(0.3)
    # The second is taken for the first; strangers show 0.8 - 0.25, the first probe 0.9 - 0.1.
    assert (found.at, found.recall.tolist(), found.tpir.tolist()) == ((2,), [[0.5]], [[0.5]])


def test_sizes_and_shots_go_in_round_steps_as_far_as_there_are_any() -> None:
    assert curves.sizes(3) == [3]
    assert curves.sizes(5) == [5]
    assert curves.sizes(81) == [5, 10, 20, 50, 81]
    assert curves.sizes(1000) == [5, 10, 20, 50, 100, 200, 500, 1000]
    assert curves.shot_steps([4, 4, 4], 1) == [1, 2, 3]
    assert curves.shot_steps([3, 6, 6, 200], 1) == [1, 2, 3, 5]
    assert curves.shot_steps([9, 9], 7) == [1, 2, 3, 5, 7]


@pytest.mark.parametrize("rule", ["best", "balanced"])
def test_shots_are_compared_by_the_same_classes_and_probes(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "BLOCK", 7)
    random = np.random.default_rng(0)
    vectors = clustered(random, 9, 6, spread=1.5)
    rows = [random.permutation(np.arange(6 * n, 6 * n + 6)) for n in range(6)]
    rows[5] = rows[5][:3]  # has no picture beyond the last step
    strangers = np.arange(36, 54)
    found = curves.over_shots(vectors, rows, strangers, [1, 2, 4], 0.2, rule)
    assert (found.what, found.at) == ("shots", (1, 2, 4))
    for point, shots in enumerate(found.at):
        tried: list[tuple[dict[int, float], int | None]] = []
        probes = [(row, n) for n in range(5) for row in rows[n][4:].tolist()]
        for row, own in [*probes, *((row, None) for row in strangers.tolist())]:
            scores = {}
            for name in range(5):
                enrolled = vectors[rows[name][:shots]]
                mean = enrolled.mean(axis=0) / np.linalg.norm(enrolled.mean(axis=0))
                best = max(float(one @ vectors[row]) for one in enrolled)
                scores[name] = best if rule == "best" else (best + float(mean @ vectors[row])) / 2
            tried.append((scores, own))
        slow = slowly_measured(tried, set(), 0.2)
        assert (found.recall[0, point], found.tpir[0, point]) == pytest.approx(slow)
    few = curves.over_shots(vectors, rows[4:], strangers, [1, 4], 0.2, rule)
    assert np.isnan(few.recall).all()


def test_a_curve_ends_at_what_is_measured_with_all_identities(tmp_path: Path, toy: Encoder) -> None:
    random = np.random.default_rng(1)
    vectors = clustered(random, 34, 4, spread=1.5)
    names = [f"id{n // 4}" for n in range(136)]
    first = np.arange(0, 96, 4)  # of 24 classes; ten are strangers
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors[first], [names[n] for n in first])
        probes = np.setdiff1d(np.arange(136), first)
        asked = vectors[probes], [names[n] for n in probes]
        assert evaluate_embeddings(gallery, *asked).growth[0].fpir == 0.01
        found = evaluate_embeddings(gallery, *asked, fpir=0.1, seeds=[0, 1, 2])
        (curve,) = found.growth
        assert curve.at == (5, 10, 20, 24)
        assert curve.recall[:, -1].tolist() == [found.figures["recall@1"]] * 3
        assert curve.tpir[:, -1].tolist() == [found.figures["TPIR at FPIR 0.1"]] * 3
        assert curve.recall[:, 0].min() > curve.recall[:, -1].max()  # among fewer it is easier
        again = evaluate_embeddings(gallery, *asked, fpir=0.1, seeds=[1]).growth[0]
        assert again.recall[0].tolist() == curve.recall[1].tolist()
        gallery.calibrate(0.1)
        assert evaluate_embeddings(gallery, *asked).growth[0].fpir == 0.1
        assert evaluate_embeddings(gallery, *asked, fpir=0.02).growth[0].fpir == 0.02
        known = evaluate_embeddings(gallery, vectors[first + 1], [names[n] for n in first])
        assert np.isnan(known.growth[0].tpir).all()
    joined = curves.pooled([curve, again])
    assert joined.recall.shape == (4, 4)
    assert joined.tpir[3].tolist() == again.tpir[0].tolist()


def test_scores_come_in_blocks_and_see_what_others_do_between_them(
    tmp_path: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = clustered(np.random.default_rng(2), 6, 3, spread=1.0)
    names = [f"id{n // 3}" for n in range(18)]
    probes = clustered(np.random.default_rng(3), 11, 1, spread=1.0)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors, names)
        whole = gallery.scores(probes)
        monkeypatch.setattr(
            "siamese_search.gallery.identification.SCORES", 24
        )  # four probes of six
        found, parts = gallery.score_blocks(probes)
        blocks = list(parts)
        assert [len(block) for block in blocks] == [4, 4, 3]
        assert found == whole[0] == sorted(set(names))
        assert np.allclose(np.concatenate(blocks), whole[1], atol=1e-6)
        assert gallery.scores(probes[:0])[1].shape == (0, 6)

        _, parts = gallery.score_blocks(probes)
        assert np.array_equal(next(parts), blocks[0])
        with Gallery.open(tmp_path / "gallery", toy) as other:  # nothing holds it up
            other.remove("id2")
            other.enroll_embeddings(probes[:1], ["new"])
        second = next(parts)
        assert np.isneginf(second[:, 2]).all()
        kept = [0, 1, 3, 4, 5]
        assert np.allclose(second[:, kept], blocks[1][:, kept], atol=1e-6)
        with pytest.raises(UsageError, match="embeddings of shape"):
            gallery.score_blocks(probes[:, :5])


def test_too_many_pairs_to_hold_are_sampled_by_probe_and_said_so(
    tmp_path: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = clustered(np.random.default_rng(4), 8, 20, spread=1.5)
    names = [f"id{n // 20}" for n in range(160)]
    first = np.arange(0, 160, 20)
    probes = np.setdiff1d(np.arange(160), first)
    asked = vectors[probes], [names[n] for n in probes]
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors[first], [names[n] for n in first])
        whole = evaluate_embeddings(gallery, *asked)
        assert not caplog.messages
        monkeypatch.setattr(summary, "PAIRS", 400)
        part = evaluate_embeddings(gallery, *asked)
    (message,) = caplog.messages
    assert "152 probes have 1216 scores with 8 identities" in message
    assert "measured by 50 of the probes" in message
    pairs = zip(whole.figures.items(), part.figures.values(), strict=True)
    changed = {name for (name, before), after in pairs if before != after and before == before}
    assert changed <= {"EER", "AUC", "FNMR at FMR 0.001", "FNMR at FMR 0.01"}
    assert part.figures["AUC"] == pytest.approx(whole.figures["AUC"], abs=0.05)
    assert part.mistakes == whole.mistakes
