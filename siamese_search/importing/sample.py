"""Drawn pictures, to try networks on where there are no real ones."""

from __future__ import annotations

import numpy as np

from siamese_search.arrays import PixelArray
from siamese_search.pictures.preprocessing import Preprocessing

TILES = (2, 4, 8, 16)  # a side


def drawn_pixels(how: Preprocessing, count: int = len(TILES)) -> list[PixelArray]:
    """Pixels as an encoder takes them: uint8 (height, width, channels), always the same."""
    return [drawn(number, how.height, how.width, how.channels) for number in range(count)]


def drawn(number: int, height: int, width: int, channels: int = 3) -> PixelArray:
    """A picture of a number: tiles of colours that run into each other, and grain."""
    random = np.random.default_rng(number)
    side = TILES[number % len(TILES)]
    tiles = random.uniform(0, 255, (side, side, channels))
    rows, columns = _weights(height, side), _weights(width, side)
    smooth = np.einsum("ha,abc,wb->hwc", rows, tiles, columns)
    grain = random.normal(0, 8, (height, width, channels))
    return (smooth + grain).clip(0, 255).astype(np.uint8)


def _weights(length: int, side: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """How much each tile counts at each pixel, (length, side): linear between their centres."""
    places = (np.arange(length) + 0.5) * side / length - 0.5
    apart = np.abs(places.clip(0, side - 1)[:, None] - np.arange(side))
    return (1 - apart).clip(0)


