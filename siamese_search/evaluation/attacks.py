"""Attacks by gradient: pictures that are changed so that a gallery answers what somebody wants.

Projected gradient (Madry et al. 2018) within a bound on every pixel, or within a patch (Brown et
al. 2017), on an encoder's twin that gives slopes. Knows nothing of how galleries decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from siamese_search.arrays import DoubleArray, FloatArray, PixelArray
from siamese_search.evaluation.agreement import View
from siamese_search.evaluation.changes import Random, rounded

BATCH = 8  # pictures at a time: what a gradient needs of memory is many times a picture
STRIDE = 1.0  # of the first step, in widths of what is allowed, over the number of steps
MOMENTUM = 0.75


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


Valued = tuple[DoubleArray, FloatArray]
"""Values (n,), and their slopes."""


@dataclass(frozen=True)
class Aim:
    """What an attack on n pictures wants more of: ``by_embedding`` gives, for embeddings of those
    of some rows, its values and their slopes by embeddings. It is summed over all ``views``.
    """

    by_embedding: Callable[[slice, FloatArray], Valued]
    views: Sequence[View]


def attacked(
    twin: Twin, bounds: Bounds, start: PixelArray, aim: Aim, steps: int
) -> Iterator[PixelArray]:
    """Pictures (n, height, width, channels) within bounds that serve the aim, some at a time.

    So many steps from ``start`` along the sign of the gradient, which keeps some of its momentum
    (Dong et al. 2018), ever shorter ones; of all that were passed the best.
    """
    for begin in range(0, len(start), BATCH):
        part = slice(begin, begin + BATCH)
        low, high = bounds.low[part], bounds.high[part]
        values = np.clip(start[part].astype(np.float32), low, high)
        best, most = values, np.full(len(values), -np.inf)
        pace = np.zeros_like(values)
        for step in range(steps + 1):
            worth, slopes = _valued(twin, values, aim, part)
            better = worth > most
            most = np.where(better, worth, most)
            best = np.where(better[:, None, None, None], values, best)
            pace = MOMENTUM * pace + slopes / _size(slopes)
            stride = STRIDE * (high - low) * np.float32((1 - step / (steps + 1)) / steps)
            values = np.clip(values + stride * np.sign(pace), low, high)
        yield rounded(best)


def _size(slopes: FloatArray) -> FloatArray:
    """The mean of what is in each of n, of a shape to divide by; never nought."""
    mean: FloatArray = np.abs(slopes).mean(axis=(1, 2, 3), keepdims=True)
    return np.maximum(mean, np.float32(1e-20))


def _valued(twin: Twin, values: FloatArray, aim: Aim, part: slice) -> Valued:
    """The aim's values of pictures, summed over all views, and their slopes by pixels."""
    worth, slopes = np.zeros(len(values)), np.zeros_like(values)
    for view in aim.views:

        def by_embedding(seen: FloatArray) -> FloatArray:
            found, by = aim.by_embedding(part, seen)
            worth[:] += found
            return by

        slopes += view.back(twin.slopes(view.make(values), by_embedding))
    return worth, slopes
