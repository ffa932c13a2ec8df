"""Evidence, and what is known of an encoder's from classes held out of its training.

What decides is the *evidence*: the best identity's score less half of the runner-up's. Somebody who
is not enrolled resembles several identities alike; who is enrolled stands out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import BoolArray, DoubleArray, IntArray
from siamese_search.decision.evidence import RATES, best_two, evidence, logistic

WEIGHT = 10.0  # strangers that the scale of an encoder's record counts for
SHARES = 500  # of a distribution that are looked at
IDENTITIES = 40  # of the galleries that a record was made with, unless it says how many
VAGUENESS = 0.25  # of a tail's steepness, from one set of classes to another
BODY = (0.5, 0.7, 0.9, 0.97, 0.99)  # rates below the tail
ONWARD = 0.01  # the rate from which on a tail's mean steepness continues beyond the least

KNOWN = 3  # strangers above a quantile that is read off rather than extrapolated
GUMBEL = math.sqrt(6) / math.pi  # the scale of a Gumbel distribution with standard deviation 1

Pictures = tuple[npt.NDArray[np.float32], IntArray]  # embeddings (n, dimension), classes (n,)


@dataclass(frozen=True)
class Reference:
    """What is known of an encoder's evidence from classes held out of its training.

    ``scale`` is the standard deviation of strangers' evidence; ``tail`` what a share of strangers
    (the key) exceeds, in that unit, from their mean; ``slope`` and ``offset`` give the log-odds
    that the best identity is right, from evidence in that unit. They come from galleries of
    ``identities``. ``weight`` is how many strangers
    the scale counts for, ``vagueness`` the relative standard error of the tail's steepness.
    """

    scale: float
    tail: Mapping[float, float]
    slope: float
    offset: float
    identities: int = IDENTITIES
    weight: float = WEIGHT
    vagueness: float = VAGUENESS

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Reference:
        """As an encoder's record has it; where it has nothing, Gumbel's distribution, that of the
        best of many scores, with little weight.
        """
        known = record.get("strangers")
        if known is None:
            tail = {rate: gumbel(rate) for rate in RATES}
            return cls(0.06, tail, 1.3, -2.0, weight=1.0, vagueness=2 * VAGUENESS)
        tail = {float(rate): float(value) for rate, value in known["tail"].items()}
        identities = max(2, int(record.get("classes", 2 * IDENTITIES)) // 2)
        return cls(known["scale"], tail, known["slope"], known["offset"], identities)

    def scale_among(self, identities: int) -> float:
        """The scale in a gallery of so many: the best of more scores varies less."""
        return self.scale * _spread_of_best(identities) / _spread_of_best(self.identities)

    def exceeded(self, rate: npt.ArrayLike) -> DoubleArray:
        """What a share of strangers exceeds, in standard deviations."""
        rates, values = self._known
        found: DoubleArray = np.interp(np.log(np.asarray(rate, np.float64)), np.log(rates), values)
        return found

    def beyond(self, standard: npt.ArrayLike) -> DoubleArray:
        """The share of strangers that exceed what is given in standard deviations.

        Above what is known it falls off exponentially, as it does on average from the rate of
        ``ONWARD`` on.
        """
        rates, values = self._known
        given = np.asarray(standard, np.float64)
        pace = math.log(ONWARD / rates[0]) / max(1e-6, values[0] - float(self.exceeded(ONWARD)))
        inside = np.interp(given, values[::-1], np.log(rates[::-1]))
        found: DoubleArray = np.exp(inside - pace * np.maximum(0.0, given - values[0]))
        return found

    @cached_property
    def _known(self) -> tuple[DoubleArray, DoubleArray]:
        """Rates and what they exceed: the tail, and Gumbel's distribution below it."""
        points = sorted(self.tail.items()) + [(rate, gumbel(rate)) for rate in BODY]
        rates, values = np.array(points).T
        return rates, np.minimum.accumulate(values)


def _spread_of_best(count: int) -> float:
    """The standard deviation of the best of so many scores, were they normal."""
    shares = (np.arange(SHARES) + 0.5) / SHARES
    normal = NormalDist()
    return float(np.std([normal.inv_cdf(share ** (1 / max(1, count))) for share in shares]))


@dataclass(frozen=True)
class Trials:
    """Trials of identification: each probe's best score and evidence, whether it is enrolled, and
    whether its best identity was the right one.
    """

    best: DoubleArray
    evidence: DoubleArray
    enrolled: BoolArray
    right: BoolArray


def trials(
    embeddings: npt.NDArray[np.float32],
    labels: IntArray,
    most: int = 5,
    draws: int = 20,
    apart: Pictures | None = None,
) -> list[Trials]:
    """Identification with half of the classes enrolled, one to ``most`` pictures each in turn.

    All other pictures are probes, or those ``apart`` instead, those of the other classes strangers;
    scores by the balanced rule. ``embeddings`` is (n, dimension), ``labels`` (n,).
    """
    random = np.random.default_rng(0)
    classes = np.unique(labels)
    members = {c: np.flatnonzero(labels == c) for c in classes}
    made = []
    for draw in range(draws):
        chosen = np.sort(random.permutation(classes)[: max(1, len(classes) // 2)])
        shots = [min(1 + draw % most, max(1, len(members[c]) - 1)) for c in chosen]
        enrolled = [random.permutation(members[c])[:n] for c, n in zip(chosen, shots, strict=True)]
        left = np.setdiff1d(np.arange(len(labels)), np.concatenate(enrolled))
        probes, truth = (embeddings[left], labels[left]) if apart is None else apart
        cosines = probes @ embeddings[np.concatenate(enrolled)].T
        starts = np.cumsum([0, *shots[:-1]])
        means = np.stack([embeddings[own].mean(axis=0) for own in enrolled])
        prototypes = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6)
        best = np.maximum.reduceat(cosines, starts, axis=1)
        scores = (best + probes @ prototypes.T) / 2
        first, second = best_two(scores)
        made.append(
            Trials(
                first.astype(np.float64),
                evidence(first, second),
                np.isin(truth, chosen),
                chosen[scores.argmax(axis=1)] == truth,
            )
        )
    return made


def record(
    embeddings: npt.NDArray[np.float32],
    labels: IntArray,
    apart: Pictures | None = None,
    what: str = "held-out pictures",
) -> tuple[float, dict[str, Any]]:
    """What an encoder's record says, from classes (n,) that it was not trained on.

    Pictures ``apart``, of the same classes but taken another day, tell better than others of the
    same day how sure one may be with one picture each.

    Returns the threshold from which the best identity is rather right than wrong, and the fields
    of ``calibration``: the logistic of the score, and what ``Reference`` needs. The threshold is 1
    where scores do not tell right from wrong. ``what`` says in words which pictures these are.
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
        "data": f"{len(labels)} {what} of {len(np.unique(labels))} classes; half of the"
        " classes enrolled with 1 to 5 pictures, all others as probes; 20 draws",
    }
    tested = _standardised(made)
    # A gallery with several items each fits its own confidence; this is for those with one.
    single = _standardised(trials(embeddings, labels, most=1, apart=apart))
    if tested is not None and single is not None:
        values, scale, _, enrolled, _ = tested
        slope, offset = logistic(single[0], single[2], single[4])
        if slope > 0:
            # Pictures of a class resemble each other: as many strangers as ``calibration`` counts.
            count = len(np.unique(labels))
            clusters = count * min(2.0, math.sqrt(len(labels) / count))
            quantiles = np.quantile(values[~enrolled], 1 - np.array(RATES))
            tail = careful_tail(
                dict(zip(RATES, quantiles.tolist(), strict=True)), min(0.3, KNOWN / clusters)
            )
            fields["strangers"] = {
                "scale": round(scale, 5),
                "tail": {str(rate): round(value, 3) for rate, value in tail.items()},
                "slope": round(slope, 4),
                "offset": round(offset, 4),
            }
    return threshold, fields


def careful_tail(tail: Mapping[float, float], known: float) -> dict[float, float]:
    """The tail of strangers' evidence where it is not known below a rate ``known``.

    From there on it grows as a Gumbel distribution's, to which the best of many scores tends, since
    quantiles of few classes lie too low. Both are in standard deviations from the mean.
    """
    rates = sorted(tail)
    least = float(np.interp(math.log(known), np.log(rates), [tail[rate] for rate in rates]))
    return {
        rate: value if rate >= known else max(value, least + gumbel(rate) - gumbel(known))
        for rate, value in tail.items()
    }


def gumbel(rate: float) -> float:
    """What a share of a Gumbel distribution of mean 0 and standard deviation 1 exceeds."""
    return GUMBEL * (-math.log(-math.log1p(-rate)) - float(np.euler_gamma))


def _standardised(
    made: list[Trials],
) -> tuple[DoubleArray, float, BoolArray, BoolArray, DoubleArray] | None:
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
