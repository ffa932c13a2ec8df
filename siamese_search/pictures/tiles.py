"""Tiles: what is no picture, shown as one: a short text, or any picture of it.

Knows nothing of encoders.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.pictures.render import prepare

if TYPE_CHECKING:  # numpy.typing takes time to load
    import numpy.typing as npt

LINES: Final = 8  # of text on a tile
LETTERS: Final = 18  # of a line
FONT: Final = "DejaVuSans.ttf"  # most systems have it, and it knows many scripts
SIDE: Final = 320  # pixels of a tile of text, before it is scaled


def tile(shown: Any, side: int) -> npt.NDArray[np.uint8]:
    """A text, or a picture as ``render.prepare`` takes it, as uint8 (side, side, 3), on white.

    Raises ImageError for anything else.
    """
    if isinstance(shown, str):
        shown = _written(shown)
    return prepare(shown, Preprocessing(side, side, resize="pad", crop_fraction=1.0))


def _written(text: str) -> Image.Image:
    lines = textwrap.wrap(text, LETTERS, max_lines=LINES, placeholder=" …")
    image = Image.new("RGB", (SIDE, SIDE), "white")
    size = SIDE // (LINES + 2)
    font: Any
    try:
        font = ImageFont.truetype(FONT, size)
    except OSError:
        font = ImageFont.load_default(size)
    margin = SIDE // 16
    ImageDraw.Draw(image).multiline_text((margin, margin), "\n".join(lines), "black", font)
    return image
