"""Pictures to try networks on: some of a folder, or drawn ones where there are none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from siamese_search.arrays import PixelArray
from siamese_search.errors import ImageError, UsageError
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.pictures.render import load
from siamese_search.pictures.sources import find, not_empty
from siamese_search.records import ImageFile

TILES = (2, 4, 8, 16)  # a side


def pictures_of(folder: str, count: int, tell: Callable[[str, str], object]) -> list[str]:
    """Some pictures, from all over a folder, that can be read; ``tell`` gets the path and the
    reason of each that cannot. Raises UsageError where there are none.
    """
    files = not_empty(find([folder]), [folder])
    found = [one.path for one in files if isinstance(one, ImageFile)]
    chosen: list[str] = []
    for path in found[:: max(1, len(found) // count)][:count]:
        try:
            load(path, Preprocessing(32, 32))
        except ImageError as error:
            tell(path, str(error))
        else:
            chosen.append(path)
    if not chosen:
        raise UsageError(f"{folder} has no pictures that can be read: name another folder")
    return chosen


def drawn_pixels(how: Preprocessing, count: int = len(TILES)) -> list[PixelArray]:
    """Pixels as an encoder takes them: uint8 (height, width, channels), always the same."""
    return [drawn(number, how.height, how.width, how.channels) for number in range(count)]


def drawn(number: int, height: int, width: int, channels: int = 3) -> PixelArray:
    """A picture of a number: tiles of colours that run into each other, and grain."""
    random = np.random.default_rng(number)
    side = TILES[number % len(TILES)]
    tiles = random.uniform(0, 255, (side, side, channels))
    rows, columns = _weights(height, side), _weights(width, side)
    smooth = np.einsum("ha,abc,wb->hwc", rows, tiles, columns, optimize=True)
    grain = random.normal(0, 8, (height, width, channels))
    picture: PixelArray = (smooth + grain).clip(0, 255).astype(np.uint8)
    return picture


def _weights(length: int, side: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """How much each tile counts at each pixel, (length, side): linear between their centres."""
    places = (np.arange(length) + 0.5) * side / length - 0.5
    apart = np.abs(places.clip(0, side - 1)[:, None] - np.arange(side))
    return (1 - apart).clip(0)
