from __future__ import annotations

import math

import numpy as np
import pytest

from siamese_search.arrays import DoubleArray, IntArray
from siamese_search.decision import conformal
from siamese_search.decision.binomial import clopper_pearson
from siamese_search.decision.evidence import RATES, RUNNER_UP
from siamese_search.decision.reference import Reference
from siamese_search.decision.strangers import Strangers

DRAWS = 40
UNKNOWN = Reference.of({})


def sum_of_binomials(trials: int, share: float, hits: range) -> float:
    return sum(math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in hits)


@pytest.mark.parametrize(("hits", "trials"), [(0, 5), (1, 5), (5, 5), (3, 300), (20, 100)])
def test_counted_shares_have_the_bounds_that_binomial_sums_give(hits: int, trials: int) -> None:
    lower, upper = clopper_pearson(hits, trials, 0.9)
    if hits:  # so low that as many hits or more come about once in 20
        as_many = range(hits, trials + 1)
        assert sum_of_binomials(trials, lower, as_many) == pytest.approx(0.05, rel=2e-3)
    else:
        assert lower == 0
    if hits < trials:
        assert sum_of_binomials(trials, upper, range(hits + 1)) == pytest.approx(0.05, rel=2e-3)
    else:
        assert upper == 1


def test_bounds_of_counts_that_are_not_whole_lie_between() -> None:
    bounds = np.array([clopper_pearson(hits, 30) for hits in (0.001, 1, 1.5, 2, 29.999)])
    assert (np.diff(bounds, axis=0) > 0).all()
    assert bounds[0, 0] < 1e-6


# ------------------------------------------------------------------- bounds over identities × rates


def simulated(seed: int, identities: int, each: int) -> tuple[DoubleArray, IntArray, DoubleArray]:
    """A gallery's own evidence (n,), each item searched without its identity, with the identities
    (n,), and that of many strangers: by a slow, obvious loop over the best item of each identity.
    """
    random = np.random.default_rng(seed)

    def pictures(count: int, each: int) -> DoubleArray:
        centres = random.normal(size=(count, 24)).repeat(each, axis=0)
        vectors = centres + 0.7 * random.normal(size=centres.shape)
        unit: DoubleArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    items, strangers = pictures(identities, each), pictures(4000, 1)
    groups = np.arange(identities).repeat(each)

    def shown(probes: DoubleArray, own: IntArray | None) -> DoubleArray:
        scores = (probes @ items.T).reshape(len(probes), identities, each).max(axis=2)
        if own is not None:
            scores[np.arange(len(probes)), own] = -1
        ranked = np.sort(scores, axis=1)
        found: DoubleArray = ranked[:, -1] - RUNNER_UP * np.maximum(ranked[:, -2], 0)
        return found

    return shown(items, groups), groups, shown(strangers, None)


def known_to_an_encoder(each: int) -> Reference:
    """What an encoder's record would say, from a gallery of other identities."""
    values = simulated(10**6, 60, each)[2]
    standard = (values - values.mean()) / values.std()
    tail = {rate: float(np.quantile(standard, 1 - rate)) for rate in RATES}
    return Reference(float(values.std()), tail, 1.0, 0.0, identities=60)


@pytest.mark.parametrize("each", [1, 4])
@pytest.mark.parametrize("identities", [5, 10, 20, 60])
def test_the_true_rate_lies_within_the_bounds_and_near_what_was_asked(
    identities: int, each: int
) -> None:
    draws = [simulated(draw, identities, each) for draw in range(DRAWS)]
    for reference in (known_to_an_encoder(each), UNKNOWN):
        models = [
            (Strangers(values, groups, reference, identities - 1, mutual=True), strangers)
            for values, groups, strangers in draws
        ]
        for rate in (0.001, 0.01, 0.05, 0.1):
            true, inside = [], []
            for model, strangers in models:
                threshold, (lower, upper) = model.threshold(rate), model.bounds(rate)
                found = float((strangers >= threshold).mean())
                true.append(found)
                # A rate below one in 4,000 shows as nought here.
                inside.append(lower <= max(found, 1 / len(strangers)) and found <= upper)
            assert np.mean(inside) >= 0.8, (reference, rate)
            assert np.mean(true) <= 1.6 * rate, (reference, rate)
            if rate >= 0.05:
                assert np.mean(true) >= rate / 1.7, (reference, rate)


def test_bounds_are_counted_where_there_are_enough_and_wide_where_not() -> None:
    random = np.random.default_rng(0)
    many = Strangers(random.normal(size=5000), np.arange(5000), UNKNOWN, 40, mutual=False)
    assert many.independent == 5000
    assert many.known == pytest.approx(3 / 5000)
    assert many.bounds(0.01) == clopper_pearson(50, 5000)
    few = Strangers(random.normal(size=20), np.arange(20), UNKNOWN, 40, mutual=False)
    for rate in (0.001, 0.01):
        lower, upper = few.bounds(rate)
        assert lower < rate / 5
        assert upper > 4 * rate
    # So near to what is counted that there is no step.
    assert few.threshold(few.known) == pytest.approx(few.threshold(few.known * 0.99), abs=0.15)


def test_pictures_of_one_thing_count_for_less() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=200)
    alone = Strangers(values, np.arange(200), UNKNOWN, 40, mutual=False)
    together = Strangers(values, np.arange(200) // 20, UNKNOWN, 40, mutual=False)
    assert alone.independent == 200
    assert together.independent == pytest.approx(200 / (1 + 19 * 0.5))
    mutual = Strangers(values, np.arange(200), UNKNOWN, 40, mutual=True)
    assert mutual.independent < alone.independent
    for narrow, wide in zip(alone.bounds(0.1), together.bounds(0.1), strict=True):
        assert abs(wide - 0.1) > abs(narrow - 0.1)


def test_who_is_never_named_reaches_no_threshold() -> None:
    """Half of the strangers are like a distractor: thresholds are those for twice the rate."""
    random = np.random.default_rng(0)
    values = random.normal(size=4000)
    absorbed = np.concatenate([values, np.full(4000, -np.inf)])
    whole = Strangers(values, np.arange(4000), UNKNOWN, 40, mutual=False)
    half = Strangers(absorbed, np.arange(8000), UNKNOWN, 40, mutual=False)
    for rate in (0.005, 0.05, 0.15):
        assert half.threshold(rate) == pytest.approx(whole.threshold(2 * rate), abs=1e-3)
    assert (half.location, half.scale) == pytest.approx((whole.location, whole.scale), abs=1e-2)


# ------------------------------------------------------------------------------------ p-values


@pytest.mark.parametrize("count", [7, 1000, 2600])
def test_p_values_count_the_strangers_that_are_as_good(count: int) -> None:
    random = np.random.default_rng(0)
    strangers = random.normal(size=count).round(3)
    kept = conformal.kept(strangers)
    assert len(kept) == min(count, conformal.KEPT_EVIDENCE)
    for shown in [*random.normal(size=50), *strangers[:20], -9.0, 9.0]:
        slow = (1 + sum(value >= shown for value in strangers.tolist())) / (count + 1)
        found = conformal.p_value(float(shown), kept, count)
        if count <= 1000 or slow <= 400 / count:
            assert found == pytest.approx(slow)
        else:  # what is not kept counts as good
            assert slow <= found <= slow + 5 / count
    assert conformal.p_value(-math.inf, kept, count) == 1


def test_who_is_never_named_is_as_good_as_no_evidence() -> None:
    kept = conformal.kept([0.1, -math.inf, 0.3])
    assert kept == (0.3, 0.1)
    assert conformal.p_value(0.2, kept, 3) == 2 / 4
    assert conformal.p_value(0.05, kept, 3) == 3 / 4
    assert conformal.p_value(-math.inf, kept, 3) == 1


def test_strangers_have_small_p_values_as_seldom_as_these_say() -> None:
    random = np.random.default_rng(0)
    found = []
    for _ in range(300):
        strangers = random.gamma(2.0, size=40)
        kept = conformal.kept(strangers)
        found += [conformal.p_value(x, kept, 40) for x in random.gamma(2.0, size=40).tolist()]
    for p in (0.05, 0.1, 0.5):
        assert 0.8 * p <= np.mean(np.array(found) <= p) <= 1.05 * p
