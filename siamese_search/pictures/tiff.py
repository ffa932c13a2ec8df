"""TIFF: opened by Pillow where it shows it rightly, else read by ``samples`` or refused.

Pillow is given a classic directory of the tags that matter for pixels: so it has nothing to warn
of, and reads BigTIFF of either byte order.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from io import BytesIO
from typing import Any, Final

from PIL import Image, _imaging

from siamese_search.pictures import samples
from siamese_search.pictures.directory import (
    COMPRESSION,
    HEIGHT,
    PLAIN,
    SAMPLES,
    TILE_HEIGHT,
    TILE_WIDTH,
    TILES,
    WIDTH,
    directory,
    require_parts,
    rewritten,
    unsupported,
)
from siamese_search.pictures.limits import check_pixels

_COMPRESSIONS: Final = PLAIN | {2, 3, 4, 6, 7, 32771}  # what usual builds of libtiff have
_MOST_SAMPLES: Final = 6


def open_tiff(data: bytes) -> Image.Image:
    """The first picture of a TIFF, not decoded where Pillow can do that.

    Raises ImageError where a part is missing, there are too many pixels, or its kind cannot be
    shown as it is meant.
    """
    from PIL.TiffImagePlugin import TiffImageFile

    tiff = directory(data)
    check_pixels(tiff.number(WIDTH, 0), tiff.number(HEIGHT, 0))
    if tiff.numbers(TILES):
        check_pixels(tiff.number(TILE_WIDTH, 0), tiff.number(TILE_HEIGHT, 0))
    require_parts(data, tiff)
    if tiff.number(COMPRESSION, 1) not in _COMPRESSIONS:
        raise unsupported(f"compression {tiff.number(COMPRESSION, 1)}")
    _quiet()
    if samples.are_deep(tiff):
        return samples.picture(data, tiff)
    if tiff.number(SAMPLES, 1) > _MOST_SAMPLES:  # which Pillow would log
        raise unsupported(f"{tiff.number(SAMPLES, 1)} samples a pixel")
    try:
        return TiffImageFile(BytesIO(rewritten(data, tiff)))
    except SyntaxError as error:
        raise unsupported(str(error)) from error


@cache
def _quiet() -> None:
    """Have libtiff print nothing of its own. Pillow says that it failed, too."""
    with suppress(OSError, AttributeError):  # where it cannot be reached, it prints
        silence: Any = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        silence.argtypes, silence.restype = [ctypes.c_void_p], ctypes.c_void_p
        silence(None)
