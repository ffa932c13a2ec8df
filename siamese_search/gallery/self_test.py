"""Auditing: what in a gallery a person should look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from siamese_search.arrays import FloatArray
from siamese_search.decision import rules
from siamese_search.records import Audit, LeftOut


def audited(left_out: Sequence[LeftOut], duplicates: Iterable[tuple[int, int, float]]) -> Audit:
    """From every item searched without itself, and pairs of items with their cosines."""
    suspects = sorted((one for one in left_out if one.own is not None), key=lambda one: -one.doubt)
    sizes = Counter(one.identity for one in left_out)
    mistaken = Counter(
        tuple(sorted((one.identity, one.others[0].identity))) for one in left_out if one.doubt > 0
    )
    confusable = [(a, b, count, sizes[a] + sizes[b]) for (a, b), count in mistaken.items()]
    return Audit(
        tuple(suspects),
        tuple(sorted(duplicates, key=lambda pair: (-pair[2], pair))),
        tuple(sorted(confusable, key=lambda pair: (-pair[2] / pair[3], pair))),
        len(left_out),
    )


def without_item(
    members: rules.Members, item: int, vector: FloatArray, rule: rules.Rule
) -> float | None:
    """An identity's score for one of its items by the others, None where there are none."""
    others = members.without(item)
    if others is None:
        return None
    best = np.array([(others.vectors @ vector).max()], np.float32)
    return float(rule(vector, best, [others])[0])
