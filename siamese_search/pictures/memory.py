"""Pictures in memory: any of them as the contents of a file that holds it.

Knows nothing of encoders and galleries.
"""

from __future__ import annotations

from typing import Any

from PIL import ImageOps

from siamese_search.errors import ImageError
from siamese_search.pictures import colour
from siamese_search.pictures.containers import recognise
from siamese_search.pictures.limits import check_pixels
from siamese_search.pictures.read import file_bytes, require_bytes
from siamese_search.pictures.regions import Region
from siamese_search.pictures.render import as_image, cut_out
from siamese_search.pictures.video import Frame


def contents(image: Any) -> bytes:
    """A file's contents for any picture; pixels, also those of a region, as PPM or PGM, which every
    release writes alike; a frame of a video as JPEG, since there are many.

    Raises ImageError as ``file_bytes``, and for what is no picture.
    """
    if isinstance(image, Frame):
        return image.kept()
    if isinstance(image, Region):
        image = cut_out(image)
    data = file_bytes(image)
    return require_bytes(_pixmap(image)) if data is None else data


def suffix_of(data: bytes) -> str:
    """The suffix that a file with these contents usually has; none for what is not known."""
    try:
        return f".{recognise(data).lower()}"
    except ImageError:
        return ""


def _pixmap(image: Any) -> bytes:
    image = as_image(image)
    try:
        check_pixels(*image.size)
        upright = ImageOps.exif_transpose(image)
        profile = image.info.get("icc_profile")
        grey = image.mode in ("1", "L") and "transparency" not in image.info
        shown = colour.displayed(colour.resizable(upright), profile, grey=grey)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"the picture cannot be used: {error}") from error
    kind = b"P5" if shown.mode == "L" else b"P6"
    return b"%b\n%d %d\n255\n" % (kind, shown.width, shown.height) + shown.tobytes()
