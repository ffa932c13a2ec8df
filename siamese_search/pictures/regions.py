"""Regions of a picture: a box that is given, or windows over all of it; and turns of it.

Boxes are pixels of the upright picture. What pays, and where: benchmarks/turns.py and closer.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from operator import index
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from siamese_search.errors import ImageError, UsageError
from siamese_search.pictures.preprocessing import Preprocessing

PixelArray = npt.NDArray[np.uint8]

MOST_TURNS = 64


class Box(NamedTuple):
    """A rectangle, in pixels from the upper left corner."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Region:
    """A part of a picture, taken for a picture of its own.

    ``image`` is a path, a PIL image or an array; ``box`` is (left, top, width, height) in pixels of
    the upright picture. Raises UsageError for a box that has no pixels or begins outside.
    """

    image: Any
    box: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        try:
            box = Box(*(index(side) for side in self.box))
        except TypeError:
            raise UsageError(
                f"{self.box!r} is no box: give (left, top, width, height) in whole pixels"
            ) from None
        if box.left < 0 or box.top < 0 or box.width < 1 or box.height < 1:
            raise UsageError(f"the box {in_words(box)} has no pixels, or begins outside")
        object.__setattr__(self, "box", box)


def in_words(box: Box) -> str:
    """A box as ``parse_box`` takes it."""
    return ",".join(map(str, box))


def parse_box(text: str) -> Box:
    """The box that ``X,Y,W,H`` means. Raises UsageError."""
    try:
        return Box(*(int(part) for part in text.split(",")))
    except (ValueError, TypeError):
        raise UsageError(f"{text!r} is no box: give X,Y,W,H in pixels, like 40,0,320,240") from None


def require_within(box: Box, width: int, height: int) -> None:
    """Raise ImageError where a box does not lie within a picture of that size."""
    if box.left + box.width > width or box.top + box.height > height:
        raise ImageError(
            f"the box {in_words(box)} does not lie within the picture, which is {width} x {height}"
        )


def windows(width: int, height: int, along: int) -> list[Box]:
    """Boxes that cover a picture row by row, ``along`` of them in each direction.

    Each overlaps the next by half, so what is cut by one lies whole in another if it is no larger
    than half a box. One along is the whole picture.
    """
    if along < 1:
        raise UsageError(f"{along} windows along each side: ask for one at least")
    wide, high = (max(1, round(2 * side / (along + 1))) for side in (width, height))
    lefts = np.linspace(0, width - wide, along).round().astype(int).tolist()
    tops = np.linspace(0, height - high, along).round().astype(int).tolist()
    return [Box(left, top, wide, high) for top in tops for left in lefts]


def require_turns(count: int) -> None:
    """Raise UsageError for a number of turns out of range."""
    if not isinstance(count, Integral) or not 1 <= count <= MOST_TURNS:
        raise UsageError(f"{count} turns: ask for 1 to {MOST_TURNS}, like 8")


def turns(pixels: PixelArray, count: int, preprocessing: Preprocessing) -> PixelArray:
    """A picture and its anticlockwise turns by equal steps: uint8 (count, height, width, channels).

    ``pixels`` (H, W, channels) are rendered by ``preprocessing.uncut()``; what an encoder takes is
    cut out of the middle of each turn. Corners that turn in from outside have the median colour
    of the border. Quarter turns of a square only move pixels. Raises UsageError for a count out of
    range.
    """
    require_turns(count)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = tuple(np.median(border, axis=0).astype(int).tolist())
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    top = (pixels.shape[0] - preprocessing.height) // 2
    left = (pixels.shape[1] - preprocessing.width) // 2
    made = []
    for number in range(count):
        angle = 360 * number / count
        fill = colour[0] if len(colour) == 1 else colour
        turned = np.asarray(image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=fill))
        cut = turned[top : top + preprocessing.height, left : left + preprocessing.width]
        made.append(cut.reshape(preprocessing.height, preprocessing.width, -1))
    return np.stack(made)
