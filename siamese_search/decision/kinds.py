"""Whether probes are of another kind than what is enrolled: shop photos, say, where catalogue
pictures of the same sort of things are enrolled.

Their descriptors then lie about another mean, which hides what tells identities apart, and either
side is better compared about its own (``Metric.centred_on``). The mean of pictures that show quite
other things is apart as well, but that says what they show, and taking it off does harm. So the two
sides must also vary in the same directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import DoubleArray, FloatArray, IntArray
from siamese_search.decision.learning import FEWEST, sample
from siamese_search.decision.metric import finite, unit
from siamese_search.errors import UsageError

# Why these: dev/experiments.md.
APART = 0.1  # of the variance: 0.2 to 0.5 for catalogue and shop, nought where both are alike
BEYOND = 2.0  # times what chance explains
ALIKE = 0.3  # 0.5 for catalogue and shop, 1 where both are alike, 0.05 to 0.25 for other things
COMPARED, EACH = 2000, 20  # pictures of a side, and of one thing, whose directions are compared


def of_another_kind(
    vectors: npt.ArrayLike,
    probes: npt.ArrayLike,
    identities: npt.ArrayLike | None = None,
    shown: npt.ArrayLike | None = None,
) -> bool:
    """Whether probes (m, d) are of another kind than items (n, d) but of like things.

    ``identities`` (n,) and ``shown`` (m,) name what each picture shows, None where each shows
    another thing. It is so where the means are apart, by more than the draw of things explains, and
    both sides vary alike. False below ``FEWEST`` things of either. Raises UsageError for what is
    not finite, or of another shape.
    """
    ours = finite(vectors)
    items = _Side.of(ours, identities)
    asked = _Side.of(finite(probes, ours.shape[1]), shown)
    if min(items.things, asked.things) < FEWEST:
        return False
    chance = items.chance + asked.chance
    distance = float(np.square(items.mean - asked.mean).sum()) - chance
    if distance <= max(APART * (items.variance + asked.variance) / 2, BEYOND * chance):
        return False
    return items.alike(asked) >= ALIKE


@dataclass(frozen=True)
class _Side:
    """Items, or probes: the mean (d,) of their descriptors, their variance, and how far the mean is
    off by chance, squared. Of some pictures (k,), directions from the mean (k, d) and what they
    show.
    """

    mean: DoubleArray
    variance: float
    chance: float
    things: int
    directions: FloatArray
    shown: IntArray

    @classmethod
    def of(cls, vectors: FloatArray, shown: npt.ArrayLike | None) -> _Side:
        """Of descriptors (n, d), and what each shows (n,)."""
        names = np.arange(len(vectors)) if shown is None else np.asarray(shown)
        if names.shape != (len(vectors),):
            raise UsageError(f"names have the shape {names.shape}, not ({len(vectors)},)")
        rows = unit(vectors)
        there = rows.any(axis=1)
        rows, owners = rows[there], np.unique(names[there], return_inverse=True)[1]
        if not len(rows):
            return cls(np.zeros(vectors.shape[1]), 0.0, 0.0, 0, rows, owners)
        mean = rows.mean(axis=0, dtype=np.float64)
        counts = np.bincount(owners)
        things = len(counts)
        order = np.argsort(owners, kind="stable")
        starts = np.cumsum(counts) - counts
        sums = np.add.reduceat(rows[order], starts, axis=0, dtype=np.float64)
        # Several pictures of one thing tell less of a mean than as many things do.
        off = float(np.square(sums - counts[:, None] * mean).sum()) / len(rows) ** 2
        chance = off * things / max(1, things - 1)
        kept = sample(owners, COMPARED, EACH)
        directions = unit((rows[kept] - mean).astype(np.float32))
        variance = 1 - float(mean @ mean)  # since rows are of unit length
        return cls(mean, variance, chance, things, directions, owners[kept])

    def alike(self, other: _Side) -> float:
        """The cosine of the two sides' covariance matrices: 1 where they vary in the same
        directions, about 0 where in none. Pairs of pictures of one thing say nothing of that.
        """
        across = float(np.square(self.directions @ other.directions.T).mean())
        own = self._own() * other._own()
        return across / math.sqrt(own) if own > 0 else 0.0

    def _own(self) -> float:
        squares = np.square(self.directions @ self.directions.T)
        return float(squares[self.shown[:, None] != self.shown].mean())
