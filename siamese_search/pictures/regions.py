"""Regions of a picture: a box that is given, its centre, windows over all of it; and turns of it.

Boxes are pixels of the upright picture. What pays, and where: benchmarks/closer.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

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


def parse_box(text: str) -> Box:
    """The box that ``X,Y,W,H`` means. Raises UsageError."""
    try:
        box = Box(*(int(part) for part in text.split(",")))
    except (ValueError, TypeError):
        raise UsageError(f"{text!r} is no box: give X,Y,W,H in pixels, like 40,0,320,240") from None
    if box.left < 0 or box.top < 0 or box.width < 1 or box.height < 1:
        raise UsageError(f"the box {text} has no pixels, or begins outside of the picture")
    return box


def cropped(image: Image.Image, box: Box) -> Image.Image:
    """What lies in a box. Raises ImageError where that is not all within the picture."""
    right, bottom = box.left + box.width, box.top + box.height
    if min(box) < 0 or not box.width * box.height or right > image.width or bottom > image.height:
        raise ImageError(
            f"the box {','.join(map(str, box))} does not lie within the picture, which is"
            f" {image.width} x {image.height}"
        )
    return image.crop((box.left, box.top, right, bottom))


def centre(width: int, height: int, share: float) -> Box:
    """The box in the middle that has ``share`` of both sides, of one pixel at least."""
    if not 0 < share <= 1:
        raise UsageError(f"a centre has a share above 0 of each side, and 1 at most, not {share:g}")
    wide, high = max(1, round(share * width)), max(1, round(share * height))
    return Box((width - wide) // 2, (height - high) // 2, wide, high)


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


def before_turns(preprocessing: Preprocessing) -> Preprocessing:
    """How to render a picture that is then turned: as much around it as an encoder cuts off."""
    if preprocessing.resize != "crop":
        return preprocessing
    share = preprocessing.crop_fraction
    return replace(
        preprocessing,
        width=round(preprocessing.width / share),
        height=round(preprocessing.height / share),
        crop_fraction=1.0,
    )


def turns(pixels: PixelArray, count: int, preprocessing: Preprocessing) -> PixelArray:
    """A picture and its anticlockwise turns by equal steps: uint8 (count, height, width, channels).

    ``pixels`` (H, W, channels) are rendered by ``before_turns``; what an encoder takes is cut out
    of the middle of each turn. Corners that turn in from outside have the median colour of the
    border. Quarter turns of a square only move pixels. Raises UsageError for a count out of range.
    """
    if not 1 <= count <= MOST_TURNS:
        raise UsageError(f"{count} turns: ask for 1 to {MOST_TURNS}, like 8")
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
