"""Calibration: from the scores of strangers to a threshold of a known error rate, and to a
probability.

The false positive identification rate (FPIR, ISO/IEC 19795-1) is the share of strangers who get a
name: whose evidence (see ``evidence.py``) reaches the threshold. Every enrolled item is a stranger
once its own identity is left out. Knows nothing of how a gallery is searched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from siamese_search.arrays import BoolArray, DoubleArray
from siamese_search.decision import conformal
from siamese_search.decision.evidence import RATES, evidence, evidence_of, logistic
from siamese_search.decision.reference import Reference
from siamese_search.decision.strangers import Strangers
from siamese_search.errors import UsageError, require_between
from siamese_search.records import Calibration, LeftOut, Match

FPIR = 0.01  # unless another is asked for
FEWEST_STRANGE = 5  # identities without which nothing can be said of strangers
OWN_FIT = 10  # identities whose items find each other, for confidence to be the gallery's own
REACHING = 0.5  # of the enrolled pictures, which must reach a threshold if they are shown again


@dataclass(frozen=True)
class Evidence:
    """What a gallery's own items, or pictures of strangers, say of it.

    The evidence of strangers (n,), -inf where what fits best is never named, with what each shows;
    of genuine probes (m,) with their identities and whether these were the best; and ``again``
    (k,) what enrolled pictures would have if they were shown again.

    Several of the same identity or thing say less than as many strangers do.
    """

    strangers: DoubleArray
    shown: Sequence[str]
    genuine: DoubleArray
    owners: Sequence[str]
    right: BoolArray
    again: DoubleArray = field(default_factory=lambda: np.empty(0))


def self_test(
    left_out: Sequence[LeftOut], never: frozenset[str] | set[str] = frozenset()
) -> Evidence:
    """What a gallery's own items say of it, each searched without itself.

    Each is a stranger once its own identity is left out, and a genuine probe where that has others;
    but for those of ``never``, who are not named.
    """
    strangers, genuine, owners, right, again = [], [], [], [], []
    for one in left_out:
        strangers.append(evidence_of(one.others))
        if one.identity in never:
            continue
        first = one.others[0].score if one.others else 0.0
        again.append(float(evidence(1.0, first)))
        if one.own is not None:
            genuine.append(genuine_evidence(one))
            owners.append(one.identity)
            right.append(one.own >= first)
    return Evidence(
        np.array(strangers, float),
        [one.identity for one in left_out],
        np.array(genuine, float),
        owners,
        np.array(right, bool),
        np.array(again, float),
    )


def genuine_evidence(one: LeftOut) -> float:
    """The evidence for the best identity of an item whose own has others, searched without it."""
    assert one.own is not None
    own = Match(one.identity, one.own, one.item, one.path)
    # Of equal scores the own comes first.
    return evidence_of(sorted([own, *one.others], key=lambda match: -match.score))


def fit(
    seen: Evidence,
    reference: Reference,
    fpir: float,
    rule: str,
    totals: tuple[int, int],
    source: str,
) -> Calibration:
    """Calibrate for an FPIR; ``totals`` are the identities and items of the gallery.

    Raises UsageError where there is too little, at all or for this rate.
    """
    require_rate(fpir)
    _require_strangers(len(set(seen.shown)), source)
    values = seen.strangers[np.isfinite(seen.strangers)]
    if len(values) < FEWEST_STRANGE:
        raise UsageError(
            f"all but {len(values)} of {len(seen.strangers)} strangers are most like what is never"
            " named: with so many distractors nothing can be said of the others"
        )
    groups = np.unique(np.array(seen.shown, str), return_inverse=True)[1]
    gallery = source != "strangers"
    model = Strangers(seen.strangers, groups, reference, totals[0] - gallery, mutual=gallery)
    thresholds = _offered(model, fpir, seen.again)
    lower, upper = model.bounds(fpir)
    slope, offset, fitted = reference.slope, reference.offset, False
    hits = seen.right
    if len({owner for owner, hit in zip(seen.owners, hits, strict=True) if hit}) >= OWN_FIT:
        # Half of the probes are strangers; those that what is never named fits have no confidence.
        shown = np.isfinite(seen.genuine)
        scores = np.concatenate([values, seen.genuine[shown]])
        truth = np.concatenate([np.zeros(len(values), bool), hits[shown]])
        share = np.repeat(
            [0.5 / len(seen.strangers), 0.5 / len(hits)], [len(values), int(shown.sum())]
        )
        found = logistic((scores - model.location) / model.scale, truth, share * len(scores))
        if found[0] > 0:
            (slope, offset), fitted = found, True
    named_at = {
        rate: float((hits & (seen.genuine >= needed)).mean())
        for rate, needed in thresholds.items()
        if len(hits)
    }
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
        strangers=len(seen.strangers),
        extrapolated=fpir < model.known,
        fitted=fitted,
        identities=totals[0],
        items=totals[1],
        source=source,
        independent=model.independent,
        evidence=conformal.kept(seen.strangers),
        genuine=len(hits),
        named=named_at.get(fpir),
        things=len(set(seen.shown)),
        named_at=named_at,
    )


def require_rate(fpir: float) -> None:
    """Raise UsageError for an FPIR that thresholds are not known for."""
    what = f"a share of strangers from {RATES[0]:g} to {RATES[-1]:g}, like 0.01 for 1 in 100"
    require_between("fpir", fpir, RATES[0], RATES[-1], what)


def _require_strangers(count: int, source: str) -> None:
    if count < FEWEST_STRANGE and source == "strangers":
        raise UsageError(
            f"pictures of {count} strangers cannot tell how strangers score: name pictures of"
            f" {FEWEST_STRANGE} things or more that are not enrolled, in a folder each"
        )
    if count < FEWEST_STRANGE:
        raise UsageError(
            f"{count} identities cannot tell how strangers score: enrol {FEWEST_STRANGE} or more,"
            " or name pictures of things that are not enrolled by --strangers"
        )


def _offered(model: Strangers, fpir: float, again: DoubleArray) -> dict[float, float]:
    """Thresholds by rate, from the least that can be offered: a threshold that enrolled pictures do
    not reach themselves is none.

    Raises UsageError where ``fpir`` is less.
    """
    reach = float(np.quantile(again, 1 - REACHING)) if len(again) else math.inf
    every = {rate: model.threshold(rate) for rate in sorted({*RATES, fpir})}
    offered = {rate: value for rate, value in every.items() if value <= reach}
    if fpir in offered:
        return offered
    few = f"{model.independent:.0f} strangers are too few for an FPIR of {fpir:g}"
    why = "not even enrolled pictures would be known if they were shown again"
    if not offered:
        raise UsageError(f"{few}, or for any: {why}; enrol more, or name others by --strangers")
    raise UsageError(
        f"{few}: {why}; enrol more, name pictures of strangers by --strangers, or take a rate from"
        f" {min(offered):g} on"
    )


def rate_at(threshold: float, thresholds: Mapping[float, float]) -> float:
    """The rate that belongs to a threshold, between the rates that are known."""
    rates = np.array(sorted(thresholds))
    values = np.array([thresholds[rate] for rate in rates])
    return float(np.exp(np.interp(-threshold, -values, np.log(rates))))


def threshold_at(fpir: float, thresholds: Mapping[float, float]) -> float:
    """The threshold that belongs to a rate, between the rates that are known.

    Raises UsageError for a rate that is none, or less than what can be offered.
    """
    require_rate(fpir)
    rates = sorted(thresholds)
    if fpir < rates[0] - 1e-9:
        raise UsageError(
            f"the gallery is calibrated with too few strangers for an FPIR of {fpir:g}: take a rate"
            f" from {rates[0]:g} on, or enrol more and run `siasearch calibrate`"
        )
    values = [thresholds[rate] for rate in rates]
    return float(np.interp(math.log(fpir), np.log(rates), values))
