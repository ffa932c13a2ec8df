"""What strangers' evidence is like: from a sample, and beyond it from what the encoder knows.

A threshold that several strangers exceed is read off. A higher one is extrapolated from the highest
that is read off: beyond a high threshold the excess falls off as it did for the encoder on classes
held out of its training, in units of the sample's standard deviation (peaks over a threshold,
Pickands 1975). How steeply it falls is known only roughly, and counted in.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import BoolArray, DoubleArray, IntArray
from siamese_search.decision.binomial import beta_quantile, clopper_pearson
from siamese_search.decision.reference import Reference

KNOWN = 3  # independent strangers above a threshold that is read off rather than extrapolated
LARGEST_KNOWN = 0.3
ALIKE = 0.5  # the correlation of pictures of one thing
FREEDOM = 0.6  # independent strangers that one who is enrolled counts for: two are each other's
CONFIDENCE = 0.9  # with which the bounds hold
NORMAL_QUANTILE = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
FARTHEST, STEP = 30.0, 0.02  # standard deviations over which an excess is sought
QUANTILES, NODES = 30, 15  # of what is averaged over


class Strangers:
    """The distribution of strangers' evidence.

    ``values`` (n,) is that of a sample, -inf where what fits best is never named; ``groups`` (n,)
    number from 0 what each shows; ``rivals`` is how many identities they are compared with;
    ``mutual`` tells that they are these themselves, as the items of a gallery are.
    """

    def __init__(
        self,
        values: DoubleArray,
        groups: IntArray,
        reference: Reference,
        rivals: int,
        mutual: bool,
    ) -> None:
        self._sorted = np.sort(values)[::-1]
        shown = self._sorted[np.isfinite(self._sorted)]
        count = independent(groups)
        self.independent = max(1.0, FREEDOM * count - 1) if mutual else count
        # The least rate that the sample tells itself.
        self.known = min(KNOWN / self.independent, LARGEST_KNOWN, len(shown) / (len(values) + 1))
        self.location = float(shown.mean()) if len(shown) else 0.0
        free = self.independent * len(shown) / max(1, len(values))
        spread = float(shown.var()) if len(shown) else 0.0
        variance = free * spread + reference.weight * reference.scale_among(rivals) ** 2
        self.scale = max(1e-6, math.sqrt(variance / (free + reference.weight)))
        # By how much the excess may be stretched: the scale's standard error and the shape's.
        self._stretch = math.sqrt(1 / (free + reference.weight) + reference.vagueness**2)
        self._reference = reference
        self._excess = np.arange(0, FARTHEST, STEP)
        self._left = self._on_average()

    def _on_average(self) -> DoubleArray:
        """The rate at each excess over the highest threshold read off, averaged over what may be:
        the rate at that threshold, and how much the excess is stretched.
        """
        shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
        count = self.independent
        rates = beta_quantile(shares, self.known * count, (1 - self.known) * count)
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        total = np.zeros(len(self._excess))
        for node, weight in zip(nodes, weights / weights.sum(), strict=True):
            stretched = self._excess / math.exp(self._stretch * node)
            total += weight * self._rate(rates[:, None], stretched).mean(axis=0)
        return total

    def _rate(self, base: npt.ArrayLike, excess: float | DoubleArray) -> DoubleArray:
        """The share that exceeds a threshold by ``excess`` standard deviations, of which the share
        ``base`` exceeds it at all.
        """
        return self._reference.beyond(self._reference.exceeded(base) + excess)

    def threshold(self, rate: float) -> float:
        """What a share ``rate`` of strangers exceeds, on average over what may be."""
        base = self._quantile(max(rate, self.known))
        if rate >= self.known:
            return base
        excess = np.interp(-math.log(rate), -np.log(self._left), self._excess)
        return base + self.scale * float(excess)

    def _quantile(self, rate: float) -> float:
        """What one more stranger exceeds at that rate on average, be they few (Weibull 1939)."""
        place = min(rate * (len(self._sorted) + 1), len(self._sorted)) - 1  # from the top
        below = max(0, math.floor(place))
        above = min(below + 1, len(self._sorted) - 1)
        if not math.isfinite(self._sorted[above]):
            above = below
        part = max(0.0, place - below)
        return float((1 - part) * self._sorted[below] + part * self._sorted[above])

    def bounds(self, rate: float) -> tuple[float, float]:
        """Between which rates the true one lies at the threshold for ``rate``.

        What was counted is bounded by Clopper and Pearson, what is extrapolated by how the excess
        may be stretched; the two are joined on the scale of logarithms (Zou and Donner 2008).
        """
        counted = max(rate, self.known)
        low, high = clopper_pearson(counted * self.independent, self.independent, CONFIDENCE)
        if rate >= self.known:
            return low, high
        excess = (self.threshold(rate) - self._quantile(self.known)) / self.scale
        wide = math.exp(NORMAL_QUANTILE * self._stretch)
        middle, fewer, steeper, more, flatter = np.log(
            [
                float(self._rate(base, excess / stretch))
                for base, stretch in (
                    (counted, 1.0),
                    (low, 1.0),
                    (counted, 1 / wide),
                    (high, 1.0),
                    (counted, wide),
                )
            ]
        )
        down = math.hypot(middle - fewer, middle - steeper)
        up = math.hypot(more - middle, flatter - middle)
        return math.exp(middle - down), min(1.0, math.exp(middle + up))


def counted_bounds(named: BoolArray, groups: IntArray) -> tuple[float, float]:
    """Between which rates the true one lies, where of n pictures some were ``named`` (n,).

    ``groups`` (n,) number from 0 what each shows: pictures of one thing get a name together, so
    they count for fewer (see ``independent``).
    """
    count = independent(groups)
    return clopper_pearson(float(named.mean()) * count, count, CONFIDENCE)


def independent(groups: IntArray) -> float:
    """How many independent strangers pictures count for, if several show the same (Kish 1965)."""
    sizes = np.bincount(groups)
    alike = float((sizes**2).sum() / sizes.sum())  # as many a picture has around it, and itself
    return len(groups) / (1 + (alike - 1) * ALIKE)
