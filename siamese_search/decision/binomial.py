"""Bounds for a share that was counted.

Knows nothing of evidence or strangers.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import DoubleArray

POINTS = 4001  # of the density that is summed up


def clopper_pearson(hits: float, trials: float, confidence: float = 0.9) -> tuple[float, float]:
    """Between which shares the true one lies with this confidence (Clopper and Pearson 1934).

    It holds at least as often as ``confidence`` says. Neither count needs to be whole: where trials
    resemble each other, they stand for fewer (Korn and Graubard 1998).
    """
    beyond = (1 - confidence) / 2
    missed = max(0.0, trials - hits)
    lower = float(beta_quantile(beyond, hits, missed + 1)) if hits > 0 else 0.0
    upper = float(beta_quantile(1 - beyond, hits + 1, missed)) if missed > 0 else 1.0
    return lower, upper


def beta_quantile(shares: npt.ArrayLike, a: float, b: float) -> DoubleArray:
    """Quantiles of a beta distribution, by summing up the density of its log-odds."""
    spread = math.sqrt(1 / a + 1 / a**2 + 1 / b + 1 / b**2)  # no less than that of the log-odds
    odds = math.log(a / b) + np.linspace(-12 * spread, 12 * spread, POINTS)
    # x = 1 / (1 + exp(-odds)); the density of the log-odds is x^a (1 - x)^b.
    logarithm = -a * np.logaddexp(0, -odds) - b * np.logaddexp(0, odds)
    density = np.exp(logarithm - logarithm.max())
    total = np.cumsum(density) - density / 2
    found = np.interp(np.asarray(shares, np.float64) * density.sum(), total, odds)
    return np.asarray(np.exp(-np.logaddexp(0, -found)), np.float64)
