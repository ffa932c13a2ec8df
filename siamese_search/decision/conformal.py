"""Conformal p-values: how often a stranger shows as much evidence.

Vovk, Gammerman and Shafer (2005). Where a probe is a stranger like those of the calibration, its
p-value is p or less in at most a share p of cases, whatever the distribution.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import IntArray

KEPT_EVIDENCE = 1000  # strangers whose evidence is kept, at most


class PValues:
    """The p-values of evidence among ``total`` strangers, of whom ``kept`` (see there) is known."""

    def __init__(self, kept: Sequence[float], total: int) -> None:
        self._descending = -np.asarray(kept, np.float64)
        self._ranks = _ranks(total)
        self._total = total

    def of(self, evidence: float) -> float:
        """(1 + strangers as good) / (n + 1); never less where not all of them are kept."""
        reached = int(np.searchsorted(self._descending, -evidence, side="right"))
        whole = reached == len(self._ranks)
        as_good = self._total if whole else int(self._ranks[reached]) - 1
        return (1 + as_good) / (self._total + 1)


def kept(values: npt.ArrayLike) -> tuple[float, ...]:
    """The evidence of strangers (n,) to be kept, best first: all of it that is finite, or the best
    half of what there is room for and as many of the others at equal distances.
    """
    ordered = np.sort(np.asarray(values, np.float64))[::-1]
    chosen = ordered[_ranks(len(ordered)) - 1]
    return tuple(round(float(value), 6) for value in chosen if np.isfinite(value))


def _ranks(total: int) -> IntArray:
    """Which of so many strangers are kept: their ranks, from 1."""
    if total <= KEPT_EVIDENCE:
        return np.arange(1, total + 1)
    half = KEPT_EVIDENCE // 2
    others = np.linspace(half + 1, total, KEPT_EVIDENCE - half).round().astype(np.int64)
    return np.concatenate([np.arange(1, half + 1), others])
