"""Metrics of identification, retrieval and verification, from scores. Higher scores are closer.

Identification (ISO/IEC 19795-1): probes against enrolled identities, some probes' identities not
among them (strangers). Verification: pairs, genuine or impostor. Retrieval: items ranked for a
probe. All are shares between 0 and 1; NaN where there is nothing to measure. Knows nothing of
galleries, pictures and embeddings.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import DoubleArray, IntArray

SHOWING = 3  # of so many samples one has an error of that rate with 95 % (the rule of three)


class OperatingPoint(NamedTuple):
    """A TPIR, and the threshold that it was measured at."""

    tpir: float
    threshold: float


class ErrorRates(NamedTuple):
    """Thresholds (m,) with the FMR (m,) and the FNMR (m,) at each: the DET curve."""

    thresholds: DoubleArray
    fmr: DoubleArray
    fnmr: DoubleArray


class Confusion(NamedTuple):
    """What probes were, what they were taken for, and how often."""

    own: str
    named: str
    times: int


def ranks(scores: npt.ArrayLike, own: npt.ArrayLike) -> IntArray:
    """The rank, from 1, of each probe's own identity: scores (n, identities), own (n,) columns.

    Of identities that score alike, the own one comes last.
    """
    values, columns = np.asarray(scores, np.float64), np.asarray(own, np.int64)
    mine = values[np.arange(len(values)), columns]
    found: IntArray = (values >= mine[:, None]).sum(axis=1).astype(np.int64)
    return found


def recall_at(own_ranks: npt.ArrayLike, k: int) -> float:
    """How many probes have their own identity among the k best; over k, this is the CMC curve."""
    values = np.asarray(own_ranks)
    return float((values <= k).mean()) if len(values) else math.nan


def reciprocal_rank(own_ranks: npt.ArrayLike) -> float:
    """The mean reciprocal rank (MRR) of the own identity."""
    values = np.asarray(own_ranks, np.float64)
    return float((1 / values).mean()) if len(values) else math.nan


def precision_at(relevant: npt.ArrayLike, k: int) -> float:
    """The mean share of relevant items among the k best: relevant (n, at least k), best first."""
    values = np.asarray(relevant, bool)
    return float(values[:, :k].mean()) if values.size else math.nan


def average_precisions(relevant: npt.ArrayLike, wanted: npt.ArrayLike) -> DoubleArray:
    """Average precision at R (Musgrave et al. 2020) of each probe, R being how many are wanted.

    ``relevant`` (n, at least the largest R) tells which items are wanted, best first; ``wanted``
    (n,) how many there are. Returns float64 (n,), NaN for probes with none.
    """
    values, counts = np.asarray(relevant, bool), np.asarray(wanted, np.int64)
    found = np.full(len(counts), np.nan)
    for number, (row, count) in enumerate(zip(values, counts, strict=True)):
        if count:
            hits = row[:count]
            precision = np.cumsum(hits) / np.arange(1, count + 1)
            found[number] = (precision * hits).sum() / count
    return found


def map_at_r(relevant: npt.ArrayLike, wanted: npt.ArrayLike) -> float:
    """The mean of ``average_precisions`` (mAP@R), without probes that have none."""
    found = average_precisions(relevant, wanted)
    found = found[~np.isnan(found)]
    return float(found.mean()) if len(found) else math.nan


def reached_by(scores: npt.ArrayLike, share: float) -> float:
    """The least threshold that at most this share of the scores (n,) reaches."""
    values = np.sort(np.asarray(scores))[::-1]
    # Just above the first one that must not pass any more.
    return float(np.nextafter(values[int(share * len(values))], np.inf))


def samples_needed(rate: float) -> int:
    """How many samples show a rate: 3 / rate, the rule of three (ISO/IEC 19795-1).

    Where fewer had no error at all, a rate as high would not be ruled out at 95 %.
    """
    return math.ceil(SHOWING / rate - 1e-6) if rate > 0 else sys.maxsize


def tells(rate: float, samples: int) -> bool:
    """Whether so many samples show a rate (see ``samples_needed``)."""
    return samples >= samples_needed(rate)


def tpir_at_fpir(
    scores: npt.ArrayLike, right: npt.ArrayLike, enrolled: npt.ArrayLike, fpir: float
) -> OperatingPoint:
    """The rank-1 TPIR (ISO/IEC 19795-1) where at most a share ``fpir`` of the strangers pass.

    ``scores`` (n,) are what is compared with the threshold, ``right`` whether the best identity is
    the own one, ``enrolled`` whether there is one.
    """
    values, hits, known = (np.asarray(a) for a in (scores, right, enrolled))
    if known.all() or not known.any():
        return OperatingPoint(math.nan, math.nan)
    threshold = reached_by(values[~known], fpir)
    return OperatingPoint(float((hits & (values >= threshold))[known].mean()), threshold)


def area_under_curve(genuine: npt.ArrayLike, impostor: npt.ArrayLike) -> float:
    """The area under the ROC: how often a genuine score is above an impostor's, ties half."""
    good, bad = np.asarray(genuine, np.float64), np.sort(np.asarray(impostor, np.float64))
    if not len(good) or not len(bad):
        return math.nan
    below = np.searchsorted(bad, good, "left") + np.searchsorted(bad, good, "right")
    return float(below.mean() / 2 / len(bad))


def error_rates(genuine: npt.ArrayLike, impostor: npt.ArrayLike) -> ErrorRates:
    """The error rates at every threshold where they change.

    A pair matches where its score is at the threshold or above.
    """
    good, bad = (np.sort(np.asarray(a, np.float64)) for a in (genuine, impostor))
    thresholds = np.unique(np.concatenate([good, bad, [np.inf]]))
    fmr = 1 - np.searchsorted(bad, thresholds, "left") / max(len(bad), 1)
    fnmr = np.searchsorted(good, thresholds, "left") / max(len(good), 1)
    return ErrorRates(thresholds, fmr, fnmr)


def spread(across: npt.ArrayLike, up: npt.ArrayLike, most: int) -> IntArray:
    """The numbers, ascending, of at most so many points of a curve (n,), evenly along its way on
    logarithmic scales, where nought lies at half of the least share that is not.
    """
    rates = [np.asarray(values, np.float64) for values in (across, up)]
    shown = [np.maximum(values, values[values > 0].min(initial=1.0) / 2) for values in rates]
    turns = [np.abs(np.diff(np.log(v), prepend=np.log(v[:1]))) for v in shown]
    way = np.sum(turns, axis=0).cumsum()
    places: IntArray = np.searchsorted(way, np.linspace(0, way[-1], most)).astype(np.int64)
    return np.unique(places)


def equal_error_rate(genuine: npt.ArrayLike, impostor: npt.ArrayLike) -> float:
    """The EER: where as many genuine pairs are refused as impostors pass, the mean of the two at
    the threshold where they differ least.
    """
    if not len(np.asarray(genuine)) or not len(np.asarray(impostor)):
        return math.nan
    rates = error_rates(genuine, impostor)
    place = int(np.abs(rates.fmr - rates.fnmr).argmin())
    return float((rates.fmr[place] + rates.fnmr[place]) / 2)


def fnmr_at_fmr(genuine: npt.ArrayLike, impostor: npt.ArrayLike, fmr: float) -> float:
    """The least share of genuine pairs refused where at most ``fmr`` of the impostors match."""
    if not len(np.asarray(genuine)) or not len(np.asarray(impostor)):
        return math.nan
    rates = error_rates(genuine, impostor)
    return float(rates.fnmr[rates.fmr <= fmr].min())


def calibration_error(
    confidence: npt.ArrayLike, right: npt.ArrayLike, enrolled: npt.ArrayLike, bins: int = 10
) -> float:
    """The expected calibration error (Guo et al. 2017) in bins of equal width.

    A confidence is a probability where half of the probes are strangers. So those that are
    ``enrolled`` (n,) weigh half here, the others half; NaN where there are none of either.
    """
    chances, hits = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    known = np.asarray(enrolled, bool)
    if known.all() or not known.any():
        return math.nan
    shares = np.where(known, 0.5 / known.sum(), 0.5 / (~known).sum())
    place = np.minimum((chances * bins).astype(int), bins - 1)
    gaps = np.bincount(place, shares * (chances - hits), minlength=bins)
    return float(np.abs(gaps).sum())


def confusions(named: Sequence[str], truth: Sequence[str], most: int = 20) -> list[Confusion]:
    """What was taken for what, most often first."""
    wrong = Counter((own, found) for own, found in zip(truth, named, strict=True) if own != found)
    ranked = sorted(wrong.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Confusion(own, found, count) for (own, found), count in ranked[:most]]
