"""Limits: how large a picture may be, and what is said of one that is too large or not whole.

Knows nothing of formats.
"""

from __future__ import annotations

import math
import os
from typing import Final

from PIL import Image

from siamese_search.errors import ImageError, UsageError

PIXELS: Final = "SIASEARCH_MAX_PIXELS"
"""The environment variable that names another cap on pixels."""

REDUCED: Final = 0.25
"""What a pixel counts that is decoded at reduced scale only."""


def most_pixels() -> int | None:
    """The cap on pixels: Pillow's, which the environment may set; None where there is none.

    Raises UsageError where that says anything but a whole number above 0.
    """
    asked = os.environ.get(PIXELS)
    if asked:
        if not asked.isdecimal() or not int(asked):
            raise UsageError(f"{PIXELS} is {asked!r}: it needs a whole number above 0")
        Image.MAX_IMAGE_PIXELS = int(asked)  # Pillow looks, too
    return Image.MAX_IMAGE_PIXELS


def check_pixels(width: int, height: int, each: float = 1.0) -> None:
    """Raise ImageError for no pixels, or more than the cap, where one counts ``each``."""
    cap = most_pixels()
    if width < 1 or height < 1:
        raise ImageError("the picture has no pixels")
    if cap is not None and width * height * each > cap:
        most = math.floor(cap / each)
        raise ImageError(
            f"too many pixels: {width:,} x {height:,} is more than {most:,}; scale it down, or set"
            f" {PIXELS}"
        )


def cut_short() -> ImageError:
    return ImageError("the file is cut short")
