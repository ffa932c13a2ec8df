"""Standard errors of figures that come from draws out of the same pictures.

Draws overlap, so the deviation between them over the root of their number says too little. What
counts is how a figure would vary with other identities. Knows nothing of encoders and galleries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

from siamese_search.arrays import DoubleArray

LEVEL = 0.05  # the probability with which chance may make a difference


@dataclass(frozen=True)
class Shares:
    """How many ``of`` the probes of n identities were right in s draws: float64 (n, s), nought
    where an identity was not asked. The figure is the share of all.
    """

    right: DoubleArray
    of: DoubleArray

    @property
    def mean(self) -> float:
        return float(self.right.sum() / self.of.sum())

    @property
    def draws(self) -> tuple[float, ...]:
        return tuple((self.right.sum(axis=0) / self.of.sum(axis=0)).tolist())

    @property
    def error(self) -> float:
        """Clustered two ways, by identities and by draws (Cameron, Gelbach and Miller 2011)."""
        residuals = self.right - self.mean * self.of
        by_identity, by_draw = _clustered(residuals.sum(axis=1)), 0.0
        if residuals.shape[1] > 1:
            by_draw = _clustered(residuals.sum(axis=0)) - float((residuals**2).sum())
        return math.sqrt(by_identity + max(0.0, by_draw)) / float(self.of.sum())

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the error."""
        identities, draws = self.of.shape
        return int(min(identities, draws if draws > 1 else identities)) - 1

    def less(self, other: Shares) -> Shares:
        """The difference, of the same probes in the same draws."""
        return Shares(self.right - other.right, self.of)


@dataclass(frozen=True)
class Halves:
    """A figure of every draw, float64 (s,), which takes ``kept`` of ``classes`` identities."""

    values: DoubleArray
    kept: int
    classes: int

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def draws(self) -> tuple[float, ...]:
        return tuple(self.values.tolist())

    @property
    def error(self) -> float:
        """The delete-d jackknife (Shao and Wu 1989): figures of halves vary as much as those of
        other identities of the whole number would. What chance does within a draw comes on top,
        though the mean of draws has little of it. So it is too large: that of differences 1.5 to
        1.9 times, in simulations of 20 to 40 identities.
        """
        factor = math.sqrt(self.kept / (self.classes - self.kept))
        return factor * float(self.values.std(ddof=1))

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the error."""
        return len(self.values) - 1

    def less(self, other: Self) -> Halves:
        """The difference, of the same probes in the same draws."""
        return Halves(self.values - other.values, self.kept, self.classes)


Measured = Shares | Halves


def beyond_chance(mean: float, error: float, freedom: int, tests: float = 1) -> bool:
    """Whether a difference is not nought, at 95 %, by Student's t. It is one of so many ``tests``,
    none of which may be told by chance (Bonferroni).
    """
    return abs(mean) > student(freedom, LEVEL / tests) * error


def student(freedom: int, level: float = LEVEL) -> float:
    """The two-sided quantile of Student's t (Abramowitz and Stegun 1964, 26.7.5) that chance
    exceeds with a probability of ``level``.
    """
    sure = NormalDist().inv_cdf(1 - level / 2)
    first = (sure**3 + sure) / 4
    second = (5 * sure**5 + 16 * sure**3 + 3 * sure) / 96
    third = (3 * sure**7 + 19 * sure**5 + 17 * sure**3 - 15 * sure) / 384
    return sure + first / freedom + second / freedom**2 + third / freedom**3


def _clustered(sums: DoubleArray) -> float:
    """The variance of a sum, by the sums of its clusters."""
    return float((sums**2).sum()) * len(sums) / (len(sums) - 1)
