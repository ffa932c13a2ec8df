"""The judge: from ranked identities to an identity, or *unknown*.

Knows nothing of how scores come about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from siamese_search.decision.calibration import threshold_at
from siamese_search.decision.evidence import evidence, probability
from siamese_search.records import Calibration, Identification, Match

Judge = Callable[[Sequence[Match], Sequence[Match]], tuple[float, float]]
"""The threshold and the confidence for a probe's identities, best first, and for its rivals, which
are the best identities whatever the filter."""


def decide(
    matches: tuple[Match, ...], k: int, judge: Judge, rivals: Sequence[Match]
) -> Identification:
    """The best identity if its score reaches the threshold and it may be named, else *unknown*.

    ``matches`` are two identities or more, where there are so many; ``k`` of them are shown.
    """
    threshold, confidence = judge(matches, rivals)
    if not matches:
        return Identification(None, None, confidence, threshold, matches)
    best = matches[0]
    named = best.score >= threshold and not best.distractor
    identity = best.identity if named else None
    return Identification(identity, best.score, confidence, threshold, matches[:k])


def fixed(threshold: float, confidence: Callable[[float], float]) -> Judge:
    """One threshold for every probe."""
    return lambda matches, _: (threshold, confidence(matches[0].score) if matches else 0.0)


def calibrated(
    calibration: Calibration, fpir: float | None, threshold: float | None, alone: float
) -> Judge:
    """What lets evidence pass at the rate asked for; a given threshold is for all probes.

    Where there is no rival to stand out from, the score must reach ``alone`` at least.
    """
    rate = calibration.fpir if fpir is None else fpir
    needed = threshold_at(rate, calibration.thresholds)

    def judge(matches: Sequence[Match], rivals: Sequence[Match]) -> tuple[float, float]:
        if not matches:
            return needed if threshold is None else threshold, 0.0
        best = matches[0]
        others = [match.score for match in rivals if match.identity != best.identity]
        shown = float(evidence(best.score, others[0] if others else 0.0))
        least = needed + best.score - shown if others else max(needed, alone)
        standard = (shown - calibration.location) / calibration.scale
        return (
            least if threshold is None else threshold,
            probability(calibration.slope * standard + calibration.offset),
        )

    return judge
