"""Every metric against a slow and obvious computation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from siamese_search.evaluation import metrics


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_ranks_recall_and_reciprocal_rank(random: np.random.Generator) -> None:
    scores = random.integers(0, 6, (40, 7)) / 5  # with ties
    own = random.integers(0, 7, 40)
    slow = []
    for row, mine in zip(scores.tolist(), own.tolist(), strict=True):
        before = [s for n, s in enumerate(row) if n != mine and s >= row[mine]]
        slow.append(1 + len(before))
    assert metrics.ranks(scores, own).tolist() == slow
    for k in (1, 3, 7):
        assert metrics.recall_at(slow, k) == sum(rank <= k for rank in slow) / 40
    assert metrics.reciprocal_rank(slow) == pytest.approx(sum(1 / rank for rank in slow) / 40)


def test_precision_and_map_at_r(random: np.random.Generator) -> None:
    relevant = random.random((30, 12)) < 0.4
    wanted = random.integers(0, 12, 30)
    for k in (1, 5):
        slow = sum(sum(row[:k]) / k for row in relevant.tolist()) / 30
        assert metrics.precision_at(relevant, k) == pytest.approx(slow)
    averages = []
    for row, count in zip(relevant.tolist(), wanted.tolist(), strict=True):
        if count:
            precisions = [sum(row[: n + 1]) / (n + 1) for n in range(count) if row[n]]
            averages.append(sum(precisions) / count)
    assert metrics.map_at_r(relevant, wanted) == pytest.approx(sum(averages) / len(averages))
    # By hand: found at ranks 1 and 3 of 3 wanted: (1 + 2/3) / 3.
    assert metrics.map_at_r([[True, False, True]], [3]) == pytest.approx(5 / 9)


@pytest.mark.parametrize("fpir", [0.0, 0.05, 0.1, 0.5])
def test_tpir_at_fpir(random: np.random.Generator, fpir: float) -> None:
    scores = random.integers(0, 30, 200) / 30
    enrolled = random.random(200) < 0.6
    right = (random.random(200) < 0.7) & enrolled
    tpir, threshold = metrics.tpir_at_fpir(scores, right, enrolled, fpir)
    strangers = scores[~enrolled].tolist()
    slow = max(
        sum(r and s >= t for s, r, e in zip(scores, right, enrolled, strict=True) if e)
        for t in [*sorted(set(scores.tolist())), 2.0]
        if sum(s >= t for s in strangers) <= fpir * len(strangers)
    )
    assert tpir == pytest.approx(slow / enrolled.sum())
    assert sum(s >= threshold for s in strangers) <= fpir * len(strangers)


def test_verification(random: np.random.Generator) -> None:
    genuine = random.integers(4, 12, 60) / 12
    impostor = random.integers(0, 9, 90) / 12
    pairs = itertools.product(genuine.tolist(), impostor.tolist())
    slow = np.mean([1.0 if g > i else 0.5 if g == i else 0.0 for g, i in pairs])
    assert metrics.area_under_curve(genuine, impostor) == pytest.approx(float(slow))
    rates = [
        (float((impostor >= t).mean()), float((genuine < t).mean()))
        for t in [*sorted({*genuine.tolist(), *impostor.tolist()}), math.inf]
    ]
    _, fmr, fnmr = metrics.error_rates(genuine, impostor)
    assert np.allclose(np.stack([fmr, fnmr], axis=1), rates)
    gap = min(abs(a - b) for a, b in rates)
    equal = metrics.equal_error_rate(genuine, impostor)
    assert any(
        equal == pytest.approx((a + b) / 2) for a, b in rates if abs(a - b) == pytest.approx(gap)
    )
    for wanted in (0.0, 0.1, 0.3):
        slowly = min(b for a, b in rates if a <= wanted)
        assert metrics.fnmr_at_fmr(genuine, impostor, wanted) == pytest.approx(slowly)
    assert metrics.equal_error_rate([0.9, 0.8], [0.1]) == 0
    assert metrics.area_under_curve([0.9, 0.8], [0.1]) == 1


def test_calibration_error(random: np.random.Generator) -> None:
    confidence = random.random(500)
    right = random.random(500) < confidence**2
    enrolled = random.random(500) < 0.9
    # Half of the probes are strangers, where a confidence is a probability.
    weights = np.where(enrolled, 0.5 / enrolled.sum(), 0.5 / (~enrolled).sum())
    total = 0.0
    for number in range(10):
        inside = [
            n
            for n, c in enumerate(confidence)
            if number / 10 <= c < (number + 1) / 10 or (number == 9 and c == 1)
        ]
        share = sum(weights[n] for n in inside)
        mean = sum(weights[n] * confidence[n] for n in inside) / share
        accuracy = sum(weights[n] * right[n] for n in inside) / share
        total += share * abs(mean - accuracy)
    slow = total / sum(weights)
    assert metrics.calibration_error(confidence, right, enrolled) == pytest.approx(slow)
    assert metrics.calibration_error([1.0, 0.0], [True, False], [True, False]) == 0


def test_the_calibration_error_does_not_depend_on_how_many_probes_are_strangers() -> None:
    confidence, right, enrolled = [0.7, 0.2, 0.5], [True, False, False], [True, True, False]
    once = metrics.calibration_error(confidence, right, enrolled)
    often = [1, 1, 9]
    more = metrics.calibration_error(
        np.repeat(confidence, often), np.repeat(right, often), np.repeat(enrolled, often)
    )
    assert more == pytest.approx(once)


def test_confusions_are_counted() -> None:
    truth, named = list("aaabbc"), list("abbbac")
    assert metrics.confusions(named, truth) == [("a", "b", 2), ("b", "a", 1)]
    assert metrics.confusions(named, truth, most=1) == [("a", "b", 2)]


def test_nothing_to_measure_is_not_a_number() -> None:
    for value in (
        metrics.recall_at([], 1),
        metrics.reciprocal_rank([]),
        metrics.map_at_r([[True]], [0]),
        metrics.tpir_at_fpir([0.5], [True], [True], 0.1)[0],
        metrics.area_under_curve([], [0.1]),
        metrics.equal_error_rate([0.1], []),
        metrics.fnmr_at_fmr([], [], 0.1),
        metrics.calibration_error([], [], []),
        metrics.calibration_error([0.5], [True], [True]),  # no stranger
    ):
        assert math.isnan(value)


def test_three_errors_are_to_be_expected_before_a_rate_is_told() -> None:
    for rate, needed in ((0.001, 3000), (0.01, 300), (0.02, 150), (0.1, 30), (0.3, 10)):
        assert metrics.samples_needed(rate) == needed
        assert metrics.tells(rate, needed)
        assert not metrics.tells(rate, needed - 1)
        # With one sample less, no error at all would not rule the rate out at 95 %.
        assert (1 - rate) ** (needed - 1) < 0.055
    assert not metrics.tells(0.0, 10**9)
