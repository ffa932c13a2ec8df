"""Calibration: from the scores of strangers to a threshold of a known error rate, and to a
probability.

What decides is the *evidence*: the best identity's score less half of the runner-up's. Somebody who
is not enrolled resembles several identities alike; who is enrolled stands out. The false positive
identification rate (FPIR, ISO/IEC 19795-1) is the share of strangers whose evidence reaches the
threshold. Every enrolled item is a stranger once its own identity is left out; where there are too
few of them for the rate that is asked, the threshold is extrapolated from one that they do tell,
by the shape that the strangers' evidence had for the encoder on classes held out of its training.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from siamese_search.errors import UsageError
from siamese_search.records import Audit, Calibration, LeftOut

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MARGIN = 0.5  # of the runner-up's score; why: benchmarks/openset.py
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
FEWEST = 5  # identities without which nothing can be said
KNOWN = 3  # strangers above a threshold that is read off rather than extrapolated
WEIGHT = 10.0  # identities that the encoder's own scale counts for
FREEDOM = 0.7  # independent strangers that an identity counts for
OWN_FIT = 10  # identities whose items find each other, for confidence to be the gallery's own
RESAMPLES = 200
RESAMPLED = 0.4  # of the identities


@dataclass(frozen=True)
class Reference:
    """What is known of an encoder's evidence from classes held out of its training.

    ``scale`` is the standard deviation of strangers' evidence; ``tail`` what a share of strangers
    (the key) exceeds, in that unit, from their mean; ``slope`` and ``offset`` give the log-odds
    that the best identity is right, from evidence in that unit.
    """

    scale: float
    tail: Mapping[float, float]
    slope: float
    offset: float

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Reference:
        """As an encoder's record has it; a normal distribution where it has none."""
        known = record.get("strangers")
        if known is None:
            tail = {rate: -NormalDist().inv_cdf(rate) for rate in RATES}
            return cls(0.06, tail, 1.3, -2.0)
        tail = {float(rate): float(value) for rate, value in known["tail"].items()}
        return cls(known["scale"], tail, known["slope"], known["offset"])

    def exceeded(self, rate: float) -> float:
        """What a share of strangers exceeds, in standard deviations."""
        rates = sorted(self.tail)
        return float(np.interp(math.log(rate), np.log(rates), [self.tail[r] for r in rates]))


def evidence(best: npt.ArrayLike, runner_up: npt.ArrayLike) -> FloatArray:
    """The best score less ``MARGIN`` of the runner-up's, which is nought where there is none."""
    second = np.maximum(np.asarray(runner_up, np.float64), 0.0)
    return np.asarray(best, np.float64) - MARGIN * second


def fit(
    strangers: npt.ArrayLike,
    groups: npt.ArrayLike,
    genuine: npt.ArrayLike,
    right: npt.ArrayLike,
    owners: Sequence[str],
    reference: Reference,
    fpir: float,
    rule: str,
    totals: tuple[int, int],
    source: str,
) -> Calibration:
    """Calibrate by evidence of strangers (n,) with their groups, and of enrolled probes (m,).

    ``groups`` number what belongs together (an identity's items), which says less than as many
    strangers; ``owners`` are the genuine probes' identities; ``right`` tells whether a genuine
    probe's best identity was its own; ``totals`` are the identities and items of the gallery.
    Raises UsageError where there is too little.
    """
    _require_rate(fpir)
    values, members = np.asarray(strangers, np.float64), np.asarray(groups)
    _, members = np.unique(members, return_inverse=True)
    count = int(members.max()) + 1 if len(members) else 0
    if count < FEWEST:
        raise UsageError(
            f"{count} identities cannot tell how strangers score: enrol {FEWEST} or more, or name"
            " pictures of things that are not enrolled by --strangers"
        )
    model = _Strangers(values, members, reference)
    thresholds = {rate: model.threshold(rate) for rate in RATES}
    if fpir not in thresholds:
        thresholds[fpir] = model.threshold(fpir)
    thresholds = dict(sorted(thresholds.items()))
    lower, upper = _interval(model, members, fpir, thresholds)
    hits = np.asarray(right, bool)
    slope, offset, fitted = reference.slope, reference.offset, False
    if len({owner for owner, hit in zip(owners, hits, strict=True) if hit}) >= OWN_FIT:
        scores = np.concatenate([values, np.asarray(genuine, np.float64)])
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


def self_test(
    left_out: Sequence[LeftOut],
) -> tuple[FloatArray, FloatArray, BoolArray, list[str]]:
    """What a gallery's own items say of it, each searched without itself.

    Returns the evidence (n,) of each once its own identity is left out, as a stranger; and the
    evidence (m,) of those whose identity has others, as genuine probes, with whether their own
    identity was the best, and their identities.
    """
    strangers, genuine, right, owners = [], [], [], []
    for one in left_out:
        first, second = ([match.score for match in one.others] + [0.0, 0.0])[:2]
        strangers.append(evidence(first, second))
        if one.own is not None:
            best, next_best = sorted([one.own, first, second], reverse=True)[:2]
            genuine.append(evidence(best, next_best))
            right.append(one.own >= first)
            owners.append(one.identity)
    return np.array(strangers, float), np.array(genuine, float), np.array(right, bool), owners


def audited(left_out: Sequence[LeftOut], duplicate: float) -> Audit:
    """What a person should look at, from every item searched without itself."""
    suspects = sorted((one for one in left_out if one.own is not None), key=lambda one: -one.doubt)
    pairs = {
        (min(one.item, one.nearest), max(one.item, one.nearest), one.cosine)
        for one in left_out
        if one.nearest >= 0 and one.cosine >= duplicate
    }
    doubles = {pair[:2]: pair for pair in sorted(pairs)}.values()
    sizes = Counter(one.identity for one in left_out)
    mistaken = Counter(
        tuple(sorted((one.identity, one.others[0].identity))) for one in left_out if one.doubt > 0
    )
    confusable = [(a, b, count, sizes[a] + sizes[b]) for (a, b), count in mistaken.items()]
    return Audit(
        tuple(suspects),
        tuple(sorted(doubles, key=lambda pair: (-pair[2], pair))),
        tuple(sorted(confusable, key=lambda pair: (-pair[2] / pair[3], pair))),
        len(left_out),
    )


def _require_rate(fpir: float) -> None:
    if not RATES[0] - 1e-9 <= fpir <= RATES[-1] + 1e-9:
        raise UsageError(
            f"the FPIR is {fpir:g}: a share from {RATES[0]:g} to {RATES[-1]:g}, like 0.01"
        )


class _Strangers:
    """The distribution of strangers' evidence, from a sample and what the encoder knows."""

    def __init__(self, values: FloatArray, groups: IntArray, reference: Reference) -> None:
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
        return float(np.quantile(self._values, 1 - known)) + steps * self.scale


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
    _require_rate(fpir)
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


def probability(log_odds: float) -> float:
    """The logistic, never overflowing."""
    return 0.5 + 0.5 * math.tanh(log_odds / 2)


def logistic(
    scores: npt.ArrayLike, right: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> tuple[float, float]:
    """Slope and offset of the logistic of the score that fits best (Platt 1999).

    His smoothed targets keep it finite where scores separate right from wrong.
    """
    values = np.asarray(scores, np.float64)
    hits = np.asarray(right, bool)
    counts = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    positive, negative = counts[hits].sum(), counts[~hits].sum()
    targets = np.where(hits, (positive + 1) / (positive + 2), 1 / (negative + 2))
    inputs = np.stack([values, np.ones_like(values)], axis=1)
    parameters = np.array([1.0, 0.0])
    ridge = 1e-6 * np.eye(2) * len(values)
    for _ in range(100):  # Newton's method; the ridge keeps steps short on flat ground
        chances = 1 / (1 + np.exp(-np.clip(inputs @ parameters, -30, 30)))
        gradient = inputs.T @ (counts * (targets - chances))
        slopes = counts * chances * (1 - chances)
        curvature = (inputs * slopes[:, None]).T @ inputs + ridge
        step = np.linalg.solve(curvature, gradient)
        parameters += step * min(1.0, 10 / np.abs(step).max())
        if np.abs(step).max() < 1e-9:
            break
    return float(parameters[0]), float(parameters[1])


@dataclass(frozen=True)
class Trials:
    """Trials of identification: each probe's best score and evidence, whether it is enrolled, and
    whether its best identity was the right one.
    """

    best: FloatArray
    evidence: FloatArray
    enrolled: BoolArray
    right: BoolArray


def trials(
    embeddings: npt.NDArray[np.float32], labels: IntArray, most: int = 5, draws: int = 20
) -> list[Trials]:
    """Identification with half of the classes enrolled, one to ``most`` pictures each in turn.

    All other pictures are probes, those of the other classes strangers; scores by the balanced
    rule. ``embeddings`` is (n, dimension), ``labels`` (n,).
    """
    random = np.random.default_rng(0)
    classes = np.unique(labels)
    members = {c: np.flatnonzero(labels == c) for c in classes}
    made = []
    for draw in range(draws):
        chosen = np.sort(random.permutation(classes)[: max(1, len(classes) // 2)])
        shots = [min(1 + draw % most, max(1, len(members[c]) - 1)) for c in chosen]
        enrolled = [random.permutation(members[c])[:n] for c, n in zip(chosen, shots, strict=True)]
        probes = np.setdiff1d(np.arange(len(labels)), np.concatenate(enrolled))
        cosines = embeddings[probes] @ embeddings[np.concatenate(enrolled)].T
        starts = np.cumsum([0, *shots[:-1]])
        means = np.stack([embeddings[own].mean(axis=0) for own in enrolled])
        prototypes = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6)
        best = np.maximum.reduceat(cosines, starts, axis=1)
        scores = (best + embeddings[probes] @ prototypes.T) / 2
        ranked = np.sort(scores, axis=1)[:, ::-1]
        second = ranked[:, 1] if scores.shape[1] > 1 else np.zeros(len(probes))
        made.append(
            Trials(
                ranked[:, 0].astype(np.float64),
                evidence(ranked[:, 0], second),
                np.isin(labels[probes], chosen),
                chosen[scores.argmax(axis=1)] == labels[probes],
            )
        )
    return made


def record(embeddings: npt.NDArray[np.float32], labels: IntArray) -> tuple[float, dict[str, Any]]:
    """What an encoder's record says, from classes (n,) that it was not trained on.

    Returns the threshold from which the best identity is rather right than wrong, and the fields
    of ``calibration``: the logistic of the score, and what ``Reference`` needs.
    """
    made = trials(embeddings, labels)
    slope, offset = logistic(
        np.concatenate([t.best for t in made]), np.concatenate([t.right for t in made])
    )
    if slope <= 0:  # scores that say nothing: never be sure
        slope, offset = 1.0, -1.0
    threshold = round(float(np.clip(-offset / slope, -1.0, 1.0)), 4)
    fields: dict[str, Any] = {
        "slope": round(slope, 4),
        "offset": round(offset, 4),
        "target": "probability that the best-scoring identity is right",
        "data": f"{len(labels)} held-out pictures of {len(np.unique(labels))} classes; half of the"
        " classes enrolled with 1 to 5 pictures, all others as probes; 20 draws",
    }
    tested = _standardised(made)
    # A gallery with several items each fits its own confidence; this is for those with one.
    single = _standardised(trials(embeddings, labels, most=1))
    if tested is not None and single is not None:
        values, scale, _, enrolled, _ = tested
        slope, offset = logistic(single[0], single[2], single[4])
        if slope > 0:
            tail = np.quantile(values[~enrolled], 1 - np.array(RATES))
            fields["strangers"] = {
                "scale": round(scale, 5),
                "tail": {
                    str(rate): round(float(t), 3) for rate, t in zip(RATES, tail, strict=True)
                },
                "slope": round(slope, 4),
                "offset": round(offset, 4),
            }
    return threshold, fields


def _standardised(
    made: list[Trials],
) -> tuple[FloatArray, float, BoolArray, BoolArray, FloatArray] | None:
    """Evidence of all probes in standard deviations from the strangers' mean, and the mean of these
    deviations; which are right and which enrolled; weights with which strangers count half.

    None where there are no strangers, or nobody else.
    """
    parts = [
        t
        for t in made
        if t.enrolled.any() and len(strange := t.evidence[~t.enrolled]) > 1 and strange.std() > 0
    ]
    if not parts:
        return None
    values, scales, weights = [], [], []
    for t in parts:
        strange, share = t.evidence[~t.enrolled], t.enrolled.mean()
        scales.append(float(strange.std()))
        values.append((t.evidence - strange.mean()) / strange.std())
        weights.append(np.where(t.enrolled, 0.5 / share, 0.5 / (1 - share)))
    return (
        np.concatenate(values),
        float(np.mean(scales)),
        np.concatenate([t.right for t in parts]),
        np.concatenate([t.enrolled for t in parts]),
        np.concatenate(weights),
    )
