"""What an answer says, in words: who it is, or whom it is most like, and how sure that is.

A confidence is that of the best identity, whether it is named or not; so it stands beside that
name; where it was never fitted, nothing does. Knows nothing of how answers come about.
"""

from __future__ import annotations

from collections.abc import Iterable

from siamese_search.records import Identification, Verification


def sure(confidence: float) -> str:
    """A probability for people. It is an estimate, so never 0 % nor 100 %."""
    if confidence < 0.01:
        return "less than 1% sure"
    if confidence > 0.99:
        return "more than 99% sure"
    return f"{confidence:.0%} sure"


def facts(confidence: float | None, *others: str) -> Iterable[str]:
    """How sure one may be, where that is known, and what is said with it."""
    return others if confidence is None else (sure(confidence), *others)


def verdict(answer: Identification) -> str:
    """A name, or *unknown* and whom the picture is most like; with the score of either, and what an
    unknown one would have needed. Not for an answer without candidates.
    """
    best = answer.matches[0]
    score = f"score {best.score:.3f}"
    if answer.identity is not None:  # somebody may be called unknown
        name = answer.identity
        name = repr(name) if name.startswith("unknown") else name
        return f"{name} ({'; '.join(facts(answer.confidence, score))})"
    nearest = ", ".join([f"nearest: {best.identity}", *facts(answer.confidence)])
    if best.distractor:
        return f"unknown, like a distractor ({nearest}; {score})"
    return f"unknown ({nearest}; {score}, {needed(answer.threshold)})"


def compared(answer: Verification) -> str:
    """Whether two pictures show the same, and how sure that is."""
    scores = f"score {answer.score:.3f}, {needed(answer.threshold)}"
    if answer.same is None:
        return f"not known ({scores})"
    if answer.same:
        return f"same ({'; '.join(facts(answer.confidence, scores))})"
    unlike = "".join(f"{one} that they are the same; " for one in facts(answer.confidence))
    return f"different ({unlike}{scores})"


def needed(threshold: float | None) -> str:
    """What a score must reach."""
    return "threshold not known" if threshold is None else f"threshold {threshold:.3f}"
