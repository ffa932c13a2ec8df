"""What an answer says, in words: who it is, or whom it is most like, and how sure that is.

A confidence is that of the best identity, whether it is named or not; so it stands beside that
name. Knows nothing of how answers come about.
"""

from __future__ import annotations

from siamese_search.records import Identification, Verification


def sure(confidence: float) -> str:
    """A probability for people. It is an estimate, so never 0 % nor 100 %."""
    if confidence < 0.01:
        return "less than 1% sure"
    if confidence > 0.99:
        return "more than 99% sure"
    return f"{confidence:.0%} sure"


def verdict(answer: Identification) -> str:
    """A name, or *unknown* and whom the picture is most like; with the score of either, and what an
    unknown one would have needed. Not for an answer without candidates.
    """
    best = answer.matches[0]
    score = f"score {best.score:.3f}"
    if answer.identity is not None:  # somebody may be called unknown
        name = answer.identity
        name = repr(name) if name.startswith("unknown") else name
        return f"{name} ({sure(answer.confidence)}; {score})"
    nearest = f"nearest: {best.identity}, {sure(answer.confidence)}"
    if best.distractor:
        return f"unknown, like a distractor ({nearest}; {score})"
    return f"unknown ({nearest}; {score}, threshold {answer.threshold:.3f})"


def compared(answer: Verification) -> str:
    """Whether two pictures show the same, and how sure that is."""
    scores = f"score {answer.score:.3f}, threshold {answer.threshold:.3f}"
    if answer.same:
        return f"same ({sure(answer.confidence)}; {scores})"
    return f"different ({sure(answer.confidence)} that they are the same; {scores})"
