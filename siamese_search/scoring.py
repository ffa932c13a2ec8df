"""From scored items to identities: aggregation and the decision. Scores are cosines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from siamese_search.records import Identification, Match


def best_per_identity(
    scored: Iterable[tuple[int, float]], owners: Mapping[int, tuple[str, str | None]], k: int
) -> tuple[Match, ...]:
    """The k best identities, each with its best item.

    ``scored`` are (item, cosine), best first; ``owners`` give (identity, path) of the items.
    """
    matches: dict[str, Match] = {}
    for item, score in scored:
        if item not in owners:
            continue
        identity, path = owners[item]
        if identity not in matches:
            matches[identity] = Match(identity, score, item, path)
            if len(matches) == k:
                break
    return tuple(matches.values())


def decide(
    matches: tuple[Match, ...], threshold: float, confidence: Callable[[float], float]
) -> Identification:
    """The best identity if its score reaches the threshold, else *unknown*."""
    if not matches:
        return Identification(None, None, 0.0, threshold, matches)
    best = matches[0]
    identity = best.identity if best.score >= threshold else None
    return Identification(identity, best.score, confidence(best.score), threshold, matches)
