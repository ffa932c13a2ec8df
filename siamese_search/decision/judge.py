"""The judge: from ranked identities to an identity, or *unknown*.

Knows nothing of how scores come about.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from siamese_search.decision import conformal
from siamese_search.decision.calibration import threshold_at
from siamese_search.decision.evidence import evidence_of, probability, taken_off
from siamese_search.records import Calibration, Identification, Match


@dataclass(frozen=True)
class Verdict:
    """What the score of a probe's best identity must reach, the probability that this identity is
    right, and how often a stranger shows as much evidence: each None where it is not known.
    """

    threshold: float | None
    confidence: float | None
    p_value: float | None = None


class Judge(ABC):
    """Decides whether the best of a probe's identities is named."""

    def decide(
        self, matches: tuple[Match, ...], k: int, rivals: Sequence[Match] | None = None
    ) -> Identification:
        """The best identity if its score reaches the threshold and it may be named, else *unknown*.

        ``matches`` are two identities or more, best first, where there are so many; ``k`` of them
        are shown. ``rivals`` are the best identities whatever the filter, where there is one.
        """
        verdict = self._verdict(matches, matches if rivals is None else rivals)
        identity = score = None
        if matches:
            best, score = matches[0], matches[0].score
            reaches = verdict.threshold is not None and score >= verdict.threshold
            named = reaches and not best.distractor
            identity = best.identity if named else None
        return Identification(
            identity=identity,
            score=score,
            confidence=verdict.confidence,
            threshold=verdict.threshold,
            matches=matches[:k],
            p_value=verdict.p_value,
        )

    @abstractmethod
    def _verdict(self, matches: Sequence[Match], rivals: Sequence[Match]) -> Verdict: ...


class FixedJudge(Judge):
    """One threshold on the score for every probe; None names nothing."""

    def __init__(
        self, threshold: float | None, confidence: Callable[[float], float | None]
    ) -> None:
        self._threshold = threshold
        self._confidence = confidence

    def _verdict(self, matches: Sequence[Match], rivals: Sequence[Match]) -> Verdict:  # noqa: ARG002
        return Verdict(self._threshold, self._confidence(matches[0].score) if matches else 0.0)


class CalibratedJudge(Judge):
    """What lets evidence pass at the rate asked for; a given ``threshold`` is for all probes.

    Where there is no rival to stand out from, the score must reach ``alone`` at least. ``sure``
    tells whether the confidence was fitted on anything, by the gallery or by the encoder. Raises
    UsageError for a rate that the calibration does not offer.
    """

    def __init__(
        self,
        calibration: Calibration,
        alone: float,
        fpir: float | None = None,
        threshold: float | None = None,
        sure: bool = True,
    ) -> None:
        self._sure = sure
        self._calibration = calibration
        self._alone = alone
        self._given = threshold
        self._needed = threshold_at(
            calibration.fpir if fpir is None else fpir, calibration.thresholds
        )

    def _verdict(self, matches: Sequence[Match], rivals: Sequence[Match]) -> Verdict:
        if not matches:
            return Verdict(self._needed if self._given is None else self._given, 0.0)
        best, others = matches[0], [m for m in rivals if m.identity != matches[0].identity]
        less = taken_off(others)
        least = self._needed + less if others else max(self._needed, self._alone)
        standard = (best.score - less - self._calibration.location) / self._calibration.scale
        p_value = None
        known = self._calibration.evidence
        if known and others:
            shown = evidence_of(matches, rivals)
            p_value = conformal.p_value(shown, known, self._calibration.strangers)
        odds = self._calibration.slope * standard + self._calibration.offset
        return Verdict(
            least if self._given is None else self._given,
            probability(odds) if self._sure else None,
            p_value,
        )
