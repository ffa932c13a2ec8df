"""Which strangers got a name, thing by thing: ten pictures of one thing are no ten strangers.

Knows nothing of galleries.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from siamese_search.decision.strangers import counted_bounds
from siamese_search.evaluation.results import Mistake, StrangerRate, StrangerResult
from siamese_search.records import Identification


def how_sure(answer: Identification | Mistake) -> tuple[float, float]:
    """What puts answers in order: the confidence, and the score where that is equal or unknown."""
    return answer.confidence or 0.0, answer.score or 0.0


def mistaken(path: str, identity: str | None, answer: Identification) -> Mistake:
    """A probe that got a wrong name, or none; ``identity`` is None for a stranger."""
    match = answer.matches[0]
    return Mistake(
        path=path,
        identity=identity,
        named=answer.identity,
        score=match.score,
        confidence=answer.confidence,
        nearest=match.path,
        best=match.identity,
    )


def stranger_results(
    labels: Sequence[str], answers: Sequence[Identification], paths: Sequence[str]
) -> tuple[StrangerResult, ...]:
    """What became of the n probes of strangers, by their labels; the most often named first."""
    rows = defaultdict(list)
    for row, label in enumerate(labels):
        rows[label].append(row)
    found = []
    for label, own in rows.items():
        named = [row for row in own if answers[row].identity is not None]
        called = Counter(answers[row].identity or "" for row in named)
        worst = max(named, key=lambda row: how_sure(answers[row]), default=None)
        found.append(
            StrangerResult(
                name=label,
                probes=len(own),
                named=len(named),
                called=tuple(sorted(called.items(), key=lambda pair: (-pair[1], pair[0]))),
                worst=None if worst is None else mistaken(paths[worst], None, answers[worst]),
            )
        )
    return tuple(sorted(found, key=lambda one: (-one.named / one.probes, -one.named, one.name)))


def stranger_rate(results: Sequence[StrangerResult], asked: float | None) -> StrangerRate | None:
    """How many strangers were named, counted and bounded by what they show; None without any."""
    if not results:
        return None
    groups = np.repeat(np.arange(len(results)), [one.probes for one in results])
    named = np.concatenate([np.arange(one.probes) < one.named for one in results])
    lower, upper = counted_bounds(named, groups)
    return StrangerRate(
        probes=len(named),
        named=int(named.sum()),
        things=len(results),
        named_things=sum(one.named > 0 for one in results),
        lower=lower,
        upper=upper,
        asked=asked,
    )
