"""Attacks by gradient: pictures that are changed so that a gallery answers what somebody wants.

Projected gradient (Madry et al. 2018) within a bound on every pixel, or within a patch (Brown et
al. 2017), on an encoder's twin that gives slopes. Knows nothing of how galleries decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from siamese_search.arrays import FloatArray, PixelArray
from siamese_search.evaluation.agreement import View
from siamese_search.evaluation.changes import Random, rounded

BATCH = 8  # pictures at a time: what a gradient needs of memory is many times a picture
STRIDE = 2.5  # how far all steps together would go, in bounds


class Twin(Protocol):
    """An encoder that gives slopes."""

    def slopes(
        self, pixels: FloatArray, by_embedding: Callable[[FloatArray], FloatArray]
    ) -> FloatArray:
        """Slopes of values by pixels, given those by embeddings; see ``TorchRuntime``."""


@dataclass(frozen=True)
class Bounds:
    """Between which values each pixel may be chosen, float32 (n, height, width, channels)."""

    low: FloatArray
    high: FloatArray


def within(pixels: PixelArray, strength: float) -> Bounds:
    """Every value may change by so much of 255 (L-inf)."""
    values = pixels.astype(np.float32)
    return Bounds(np.maximum(values - strength, 0), np.minimum(values + strength, 255))


def patch(pixels: PixelArray, share: float, random: Random) -> Bounds:
    """A square of a share of the picture's area, somewhere, may become anything."""
    bounds = Bounds(pixels.astype(np.float32), pixels.astype(np.float32))
    height, width = pixels.shape[1:3]
    side = min(height, width, max(1, round((share * height * width) ** 0.5)))
    for row in range(len(pixels)):
        top, left = random.integers(height - side + 1), random.integers(width - side + 1)
        place = (row, slice(top, top + side), slice(left, left + side))
        bounds.low[place], bounds.high[place] = 0, 255
    return bounds


@dataclass(frozen=True)
class Aim:
    """What an attack on n pictures wants more of: ``by_embedding`` gives, for embeddings of some
    of them (their rows first), the slopes of that. It must hold in all ``views``.
    """

    by_embedding: Callable[[slice, FloatArray], FloatArray]
    views: Sequence[View]


def attacked(
    twin: Twin, bounds: Bounds, aim: Aim, steps: int, random: Random
) -> Iterator[PixelArray]:
    """Pictures (n, height, width, channels) within bounds that serve the aim, some at a time.

    From a random place within the bounds, so many steps along the sign of the gradient.
    """
    for begin in range(0, len(bounds.low), BATCH):
        part = slice(begin, begin + BATCH)
        low, high = bounds.low[part], bounds.high[part]
        stride = STRIDE / 2 * (high - low) / steps
        values = random.uniform(low, high).astype(np.float32)
        for _ in range(steps):
            slopes = _slopes(twin, values, aim, part)
            values = np.clip(values + stride * np.sign(slopes), low, high)
        yield rounded(values)


def _slopes(twin: Twin, values: FloatArray, aim: Aim, part: slice) -> FloatArray:
    """Summed over all views, each of the same length."""
    total = np.zeros_like(values)
    for view in aim.views:
        found = twin.slopes(view.make(values), lambda seen: aim.by_embedding(part, seen))
        total += view.back(found)
    return total
