"""Conformal p-values: how often a stranger shows as much evidence.

Vovk, Gammerman and Shafer (2005). Where a probe is a stranger like those of the calibration, its
p-value is p or less in at most a share p of cases, whatever the distribution. Knows nothing of
thresholds.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from operator import neg

import numpy as np
import numpy.typing as npt

KEPT_EVIDENCE = 1000  # strangers whose evidence is kept, at most
WHOLE = KEPT_EVIDENCE // 2  # of the best, none is left out


def p_value(evidence: float, strangers: Sequence[float], total: int) -> float:
    """(1 + strangers as good) / (n + 1), n being ``total``.

    ``strangers`` is their evidence as it was ``kept``; between two that are kept, those that are
    not count as good. So do all for what is never named, whose evidence is -inf: no less is shown.
    """
    if evidence == -math.inf:
        return 1.0
    reached = bisect_right(strangers, -evidence, key=neg)
    as_good = total if reached == min(total, KEPT_EVIDENCE) else _rank(reached, total) - 1
    return (1 + as_good) / (total + 1)


def kept(values: npt.ArrayLike) -> tuple[float, ...]:
    """The evidence of strangers (n,) to be kept, best first: all of it that is finite, or the best
    half of what there is room for and as many of the others at equal distances.
    """
    ordered = np.sort(np.asarray(values, np.float64))[::-1]
    total = len(ordered)
    chosen = [ordered[_rank(place, total) - 1] for place in range(min(total, KEPT_EVIDENCE))]
    return tuple(round(float(value), 6) for value in chosen if np.isfinite(value))


def _rank(place: int, total: int) -> int:
    """The rank, from 1, of the stranger that is kept at a place, from 0."""
    if total <= KEPT_EVIDENCE or place < WHOLE:
        return place + 1
    step = (total - WHOLE - 1) / (KEPT_EVIDENCE - WHOLE - 1)
    return WHOLE + 1 + round((place - WHOLE) * step)
