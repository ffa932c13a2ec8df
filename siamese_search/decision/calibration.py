"""Calibration: from the scores of strangers to a threshold of a known error rate, and to a
probability.

The false positive identification rate (FPIR, ISO/IEC 19795-1) is the share of strangers whose
evidence (see ``reference.py``) reaches the threshold. Every enrolled item is a stranger once its
own identity is left out; where there are too few of them for the rate that is asked, the threshold
is extrapolated from one that they do tell, by the shape that the strangers' evidence had for the
encoder on classes held out of its training.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from siamese_search.arrays import BoolArray, DoubleArray, IntArray
from siamese_search.decision.evidence import RATES, evidence, logistic
from siamese_search.decision.reference import Reference
from siamese_search.errors import UsageError
from siamese_search.records import Calibration, LeftOut

FPIR = 0.01  # unless another is asked for
FEWEST = 5  # identities without which nothing can be said
KNOWN = 3  # strangers above a threshold that is read off rather than extrapolated
WEIGHT = 10.0  # identities that the encoder's own scale counts for
FREEDOM = 0.7  # independent strangers that an identity counts for
OWN_FIT = 10  # identities whose items find each other, for confidence to be the gallery's own
RESAMPLES = 200
RESAMPLED = 0.4  # of the identities


@dataclass(frozen=True)
class Evidence:
    """Evidence of strangers (n,) with what each shows, and of genuine probes (m,) with their
    identities and whether these were the best.

    Several of the same identity or thing say less than as many strangers do.
    """

    strangers: DoubleArray
    shown: Sequence[str]
    genuine: DoubleArray
    owners: Sequence[str]
    right: BoolArray


def self_test(left_out: Sequence[LeftOut]) -> Evidence:
    """What a gallery's own items say of it, each searched without itself.

    Each is a stranger once its own identity is left out, and a genuine probe where that has others.
    """
    strangers, genuine, owners, right = [], [], [], []
    for one in left_out:
        first, second = ([match.score for match in one.others] + [0.0, 0.0])[:2]
        strangers.append(evidence(first, second))
        if one.own is not None:
            best, next_best = sorted([one.own, first, second], reverse=True)[:2]
            genuine.append(evidence(best, next_best))
            owners.append(one.identity)
            right.append(one.own >= first)
    return Evidence(
        np.array(strangers, float),
        [one.identity for one in left_out],
        np.array(genuine, float),
        owners,
        np.array(right, bool),
    )


def fit(
    seen: Evidence,
    reference: Reference,
    fpir: float,
    rule: str,
    totals: tuple[int, int],
    source: str,
) -> Calibration:
    """Calibrate for an FPIR; ``totals`` are the identities and items of the gallery.

    Raises UsageError where there is too little.
    """
    require_rate(fpir)
    values, hits = seen.strangers, seen.right
    groups = np.unique(np.array(seen.shown, str), return_inverse=True)[1]
    count = len(set(seen.shown))
    if count < FEWEST and source == "strangers":
        raise UsageError(
            f"pictures of {count} strangers cannot tell how strangers score: name pictures of"
            f" {FEWEST} things or more that are not enrolled, in a folder each"
        )
    if count < FEWEST:
        raise UsageError(
            f"{count} identities cannot tell how strangers score: enrol {FEWEST} or more, or name"
            " pictures of things that are not enrolled by --strangers"
        )
    model = _Strangers(values, groups, reference)
    thresholds = {rate: model.threshold(rate) for rate in RATES}
    if fpir not in thresholds:
        thresholds[fpir] = model.threshold(fpir)
    thresholds = dict(sorted(thresholds.items()))
    lower, upper = _interval(model, groups, fpir, thresholds)
    slope, offset, fitted = reference.slope, reference.offset, False
    if len({owner for owner, hit in zip(seen.owners, hits, strict=True) if hit}) >= OWN_FIT:
        scores = np.concatenate([values, seen.genuine])
        truth = np.concatenate([np.zeros(len(values), bool), hits])
        share = np.where(np.arange(len(scores)) < len(values), 0.5 / len(values), 0.5 / len(hits))
        found = logistic((scores - model.location) / model.scale, truth, share * len(scores))
        if found[0] > 0:
            (slope, offset), fitted = found, True
    return Calibration(
        fpir=fpir,
        rule=rule,
        thresholds=thresholds,
        location=model.location,
        scale=model.scale,
        slope=slope,
        offset=offset,
        lower=lower,
        upper=upper,
        strangers=len(values),
        extrapolated=fpir < model.known,
        fitted=fitted,
        identities=totals[0],
        items=totals[1],
        source=source,
    )


def require_rate(fpir: float) -> None:
    """Raise UsageError for an FPIR that thresholds are not known for."""
    if not RATES[0] - 1e-9 <= fpir <= RATES[-1] + 1e-9:
        raise UsageError(
            f"the FPIR is {fpir:g}: a share from {RATES[0]:g} to {RATES[-1]:g}, like 0.01"
        )


class _Strangers:
    """The distribution of strangers' evidence, from a sample and what the encoder knows."""

    def __init__(self, values: DoubleArray, groups: IntArray, reference: Reference) -> None:
        self._values, self._reference = values, reference
        count = int(groups.max()) + 1
        # Items of an identity resemble each other, and two identities are each other's strangers.
        clusters = count * min(2.0, math.sqrt(len(values) / count))
        self._free = FREEDOM * clusters
        self.known = min(0.3, KNOWN / clusters)  # the least rate that the sample tells itself
        self._measure()

    def _measure(self) -> None:
        self.location = float(self._values.mean())
        variance = self._free * float(self._values.var()) + WEIGHT * self._reference.scale**2
        self.scale = max(1e-6, math.sqrt(variance / (self._free + WEIGHT)))

    def of(self, chosen: IntArray) -> _Strangers:
        """The same judged by other values, some of its own."""
        other = copy.copy(self)
        other._values = self._values[chosen]
        other._measure()
        return other

    def threshold(self, rate: float) -> float:
        """What a share of strangers exceeds."""
        known = max(rate, self.known)
        exceeded = self._reference.exceeded
        steps = exceeded(rate) - exceeded(known)
        # A few strangers give only a vague location: Student's distribution, as for a prediction.
        normal = -NormalDist().inv_cdf(rate)
        wider = student(normal, self._free) * math.sqrt(1 + 1 / self._free) / normal - 1
        steps += max(0.0, wider) * exceeded(rate) if normal > 0 else 0.0
        # What one more stranger exceeds at that rate on average, be they few (Weibull 1939).
        base = float(np.quantile(self._values, 1 - known, method="weibull"))
        return base + steps * self.scale


def student(normal: float, freedom: float) -> float:
    """Student's quantile by the normal one (Abramowitz and Stegun 1964, 26.7.5)."""
    z, n = normal, max(freedom - 1, 2.0)
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)


def rate_at(threshold: float, thresholds: Mapping[float, float]) -> float:
    """The rate that belongs to a threshold, between the rates that are known."""
    rates = np.array(sorted(thresholds))
    values = np.array([thresholds[rate] for rate in rates])
    return float(np.exp(np.interp(-threshold, -values, np.log(rates))))


def threshold_at(fpir: float, thresholds: Mapping[float, float]) -> float:
    """The threshold that belongs to a rate, between the rates that are known."""
    require_rate(fpir)
    rates = sorted(thresholds)
    values = [thresholds[rate] for rate in rates]
    return float(np.interp(math.log(fpir), np.log(rates), values))


def _interval(
    sample: _Strangers, groups: IntArray, fpir: float, thresholds: Mapping[float, float]
) -> tuple[float, float]:
    """Between which rates the true one lies eight times in ten or so.

    By drawing other identities instead, fewer than there are: quantiles of the tail vary more from
    sample to sample than draws from one sample do (Bickel et al. 1997).
    """
    random = np.random.default_rng(0)
    count = int(groups.max()) + 1
    parts = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    rates = []
    for _ in range(RESAMPLES):
        drawn = random.integers(count, size=max(3, round(RESAMPLED * count)))
        other = sample.of(np.concatenate([parts[group] for group in drawn]))
        rates.append(rate_at(other.threshold(fpir), thresholds))
    low, high = np.quantile(rates, [0.05, 0.95])
    return float(low), float(high)
