"""How the score of a probe's best identity comes about, and what it needed to be named.

Knows nothing of pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

from siamese_search.arrays import FloatArray
from siamese_search.decision import rules
from siamese_search.decision.evidence import RUNNER_UP, taken_off
from siamese_search.gallery.gallery import Gallery
from siamese_search.records import Identification, Match

ROUNDING = 1e-5  # of a score
REACH = 64  # nearest items among which the best identity's is sought first


@dataclass(frozen=True)
class RunnerUp:
    """The identity that scores best after the best."""

    identity: str
    score: float


@dataclass(frozen=True)
class Derivation:
    """Why the best ``identity`` of a probe was named or not.

    Its ``score`` is made by ``rule`` of its ``items``, and has the ``votes`` of a closer look where
    ``voted``; else these, if any, have only put it first. ``item`` is the one that is nearest to
    the probe, with its ``cosine``, None where a search does not find it; ``prototype`` is the
    cosine of their prototype, None where the rule has no use for it. ``decides`` says what must
    reach ``needed``: the score, or the ``evidence``, at the rate ``fpir``; None where no threshold
    is known.
    """

    identity: str
    distractor: bool
    score: float
    rule: str
    items: int
    item: int
    cosine: float | None
    prototype: float | None
    runner_up: RunnerUp | None
    decides: str
    evidence: float | None
    needed: float | None
    fpir: float | None
    own_metric: bool
    votes: float | None = None
    voted: bool = False

    def lines(self) -> list[str]:
        """The same in words."""
        own = " Cosines are by the gallery's own metric." if self.own_metric else ""
        made, looked = self.score, ""
        if self.votes is not None and self.voted:
            made -= self.votes
            looked = f" With {self.votes:.3f} for places that match it is {self.score:.3f}."
        elif self.votes is not None:
            looked = f" In the order of candidates {self.votes:.3f} is added for places that match."
        return [f"{self.identity} scores {made:.3f}, {self._made()}.{looked}{own}", self._needed()]

    def _made(self) -> str:
        if self.items == 1:
            return "the cosine of its only item"
        rule = f"; rule {self.rule}"
        nearest = f"its nearest item, number {self.item}"
        prototype = f"its prototype, the mean of its {self.items} items"
        if self.rule == "best":
            return f"the cosine of {nearest}{rule}"
        if self.rule == "prototype":
            return f"the cosine of {prototype}{rule}"
        if self.rule == "trimmed":
            return f"the cosine of {prototype} without outlying ones{rule}"
        if self.rule == "mean-of-best":
            return f"the mean cosine of its {min(rules.NEAREST, self.items)} nearest items{rule}"
        if self.cosine is None or self.prototype is None:
            return f"the mean of the cosines of {nearest}, and of {prototype}{rule}"
        parts = f"{self.cosine:.3f} ({nearest}) and {self.prototype:.3f} ({prototype})"
        return f"the mean of {parts}{rule}"

    def _needed(self) -> str:
        second = self.runner_up
        others = f"Runner-up: {second.identity}, {second.score:.3f}. " if second else ""
        if self.distractor:
            return f"{others}{self.identity} is a distractor: it is never named."
        if self.needed is None:
            return f"{others}The encoder's threshold is not known, so nothing is named."
        if self.evidence is not None and second is not None:
            made = f"{self.score:.3f} − {RUNNER_UP:g} × {max(0.0, second.score):.3f}"
            compared = self._compared(self.evidence)
            return (
                f"{others}Evidence: {made} = {self.evidence:.3f}; it {compared} {self.needed:.3f},"
                f" which an FPIR of {self.fpir:.3g} needs."
            )
        whose = "which is needed without a runner-up" if self.fpir else "the encoder's threshold"
        return f"{others}The score {self._compared(self.score)} {self.needed:.3f}, {whose}."

    def _compared(self, value: float) -> str:
        reaches = self.needed is not None and value >= self.needed
        return "reaches" if reaches else "does not reach"


def derived(gallery: Gallery, vector: FloatArray, answer: Identification) -> Derivation:
    """How the answer for an embedding, float32 (1, dimension), comes about.

    ``answer`` has several of the best identities, where there are so many, and one at least.
    """
    best, others = answer.matches[0], answer.matches[1:]
    plain = gallery.identify_embeddings(vector, k=REACH)[0].matches
    score = next((m.score for m in plain if m.identity == best.identity), best.score)
    voted = abs(best.score - score) > ROUNDING
    votes = best.score - score if voted else best.closer
    second = max(others, key=lambda match: match.score, default=None)
    calibration = gallery.calibration
    rule = calibration.rule if calibration else rules.DEFAULT_RULE
    items = dict(gallery.identities()).get(best.identity, 1)
    cosine = _cosine(gallery, vector, best)
    prototype = None
    if items > 1 and rule == "balanced" and cosine is not None:
        prototype = 2 * score - cosine
    less = taken_off(others) if calibration else 0.0
    judged = calibration is not None and bool(others)
    needed = answer.threshold
    return Derivation(
        identity=best.identity,
        distractor=best.distractor,
        score=best.score,
        rule=rule,
        items=items,
        item=best.item,
        cosine=cosine,
        prototype=score if rule == "prototype" else prototype,
        runner_up=RunnerUp(second.identity, second.score) if second else None,
        decides="evidence" if calibration else "score",
        evidence=best.score - less if judged else None,
        needed=needed - less if judged and needed is not None else needed,
        fpir=calibration.fpir if calibration else None,
        own_metric=calibration is not None and calibration.metric is not None,
        votes=votes,
        voted=voted,
    )


def _cosine(gallery: Gallery, vector: FloatArray, best: Match) -> float | None:
    """The cosine of an identity's nearest item, None where a search does not find it."""
    reach, total = REACH, len(gallery)
    while True:
        numbers, cosines = gallery.search(vector, min(reach, total))
        found = dict(zip(numbers[0].tolist(), cosines[0].tolist(), strict=True))
        if best.item in found or reach >= total:
            return found.get(best.item)
        reach *= 8
