"""Decode image files, whole or a region, into the pixels that an encoder takes.

Knows nothing of encoders, galleries or indexes.
"""

from __future__ import annotations

import io
import math
import struct
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from siamese_search.errors import ImageError, UsageError
from siamese_search.machine import give_back_memory
from siamese_search.pictures import apart, colour
from siamese_search.pictures.containers import open_image, pixels_at_once, recognise
from siamese_search.pictures.directory import orientation_of
from siamese_search.pictures.jpeg import Jpeg
from siamese_search.pictures.limits import check_pixels, cut_short
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.pictures.read import file_bytes, read_file
from siamese_search.pictures.regions import Box, Region, require_within

if TYPE_CHECKING:  # numpy.typing takes time to load
    import numpy.typing as npt


LARGE_PIXELS: Final = 16_000_000
"""Pictures that decode to more pixels than this are decoded one at a time, to bound memory."""

DRAFT_RESERVE: Final = 1.4
"""How many times the target's sides a JPEG that is decoded at reduced scale keeps at least."""

TRIM_MARGIN: Final = 1.15
"""The side of a trimmed picture, in extents of what is drawn."""

TRIM_LEAST: Final = 0.25
"""The least extent that is taken for what is drawn, in long sides of the picture."""

TRIM_RESERVE: Final = 8
"""How many times the target's long side a picture that is trimmed keeps before."""

large: AbstractContextManager[object] = threading.RLock()
"""Held while a large picture is decoded; a process that decodes for another has its own."""

_REDUCING_GAP: Final = 3.0
_SHARED = threading.Lock()
_RESAMPLING: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
# EXIF orientation to what makes the picture upright; 5 to 8 swap width and height.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load(image: Any, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """The pixels an encoder takes from a path, a picture in memory, or a region of one of these.

    As :func:`decode` and :func:`prepare`, with their errors and those of reading a file.
    """
    box = None
    if isinstance(image, Region):
        image, box = image.image, Box(*image.box)
    data = file_bytes(image)
    return prepare(image, preprocessing, box) if data is None else decode(data, preprocessing, box)


def decode(
    data: bytes, preprocessing: Preprocessing, box: Box | None = None
) -> npt.NDArray[np.uint8]:
    """The pixels an encoder takes from an image file's contents, or from a box of the picture.

    Returns uint8 (height, width, channels), C-contiguous and writable, of exactly the size that
    ``preprocessing`` names: upright, in sRGB, on white, as a viewer would show the picture
    (animations and multi-page files: the first). Safe to call from several threads.

    Raises ImageError if the contents are no image of a supported format, are damaged or cut
    short, or claim more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``, which is read at each call; and
    where the box does not lie within the upright picture. Where ``SIASEARCH_DECODING`` is
    ``apart``, another process decodes, see :class:`~siamese_search.pictures.apart.Decoders`.
    """
    kind = recognise(data)
    if apart.is_apart():
        return apart.DECODERS.decode(data, preprocessing, box)
    with _as_image_error(f"damaged {kind} file"), _alone(pixels_at_once(kind, data)):
        image, orientation = open_image(kind, data)
        pixels = _render(image, preprocessing, orientation, box, ours=True)
        del image  # before the next large one begins
        return pixels


def prepare(
    image: Image.Image | npt.NDArray[np.uint8],
    preprocessing: Preprocessing,
    box: Box | None = None,
) -> npt.NDArray[np.uint8]:
    """The pixels an encoder takes from a picture in memory; as :func:`decode` from there on.

    ``image`` is a Pillow image of any mode, turned upright if it carries an EXIF orientation, or
    uint8 (height, width, 3) sRGB or (height, width) grey. Raises ImageError for other arrays,
    ImageError for a picture that is empty, too large, or fails to load.
    """
    with _as_image_error("the picture cannot be used"):
        shown = as_image(image)
        if box is not None:  # several regions of one picture, each in a thread of its own
            with _SHARED:
                shown.load()
        return _render(shown, preprocessing, None, box)


def upright(image: Any) -> Image.Image:
    """A path's picture, or one in memory: upright, in sRGB, over white, decoded in full.

    For many regions of one picture, which would be decoded for each of them otherwise; threads may
    share it. Raises as :func:`load` does.
    """
    data = file_bytes(image)
    if data is not None:
        kind = recognise(data)
        if apart.is_apart():
            return apart.DECODERS.upright(data)
        with _as_image_error(f"damaged {kind} file"), _alone(pixels_at_once(kind, data)):
            opened, orientation = open_image(kind, data)
            return _whole(opened, orientation)
    with _as_image_error("the picture cannot be used"):
        return _whole(as_image(image), None)


def cut_out(region: Region) -> Image.Image:
    """The part of a picture that a region is, as :func:`upright`."""
    picture, box = upright(region.image), Box(*region.box)
    require_within(box, picture.width, picture.height)
    return picture.crop((box.left, box.top, box.left + box.width, box.top + box.height))


def as_image(image: Any) -> Image.Image:
    """A Pillow image as it is, or that of an array; ImageError for what is neither."""
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"of type {type(image).__name__}: a picture is a path, bytes, an open file, a PIL image"
            " or an array"
        )
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2:] == (3,)):
        raise ImageError(
            f"an array of {image.dtype} and shape {image.shape} is no picture: it needs uint8 of"
            f" shape (height, width, 3) or (height, width){_mended(image)}"
        )
    if image.size == 0:
        raise ImageError("the picture has no pixels")
    return Image.fromarray(image)


def _mended(array: npt.NDArray[Any]) -> str:
    """In words, how an array that is nearly a picture becomes one; nothing for others."""
    ways = {
        (True, 1): "take array[..., 0]",
        (True, 4): "take PIL.Image.fromarray(array), which knows that it is transparent",
        (False, 3): "take array.transpose(1, 2, 0)",
        (False, 1): "take array[0]",
    }
    if array.dtype.kind == "f":
        return "; floats from 0 to 1 become that by (array * 255).round().astype('uint8')"
    if array.ndim != 3 or array.dtype != np.uint8:
        return ""
    way = ways.get((True, array.shape[2])) or ways.get((False, array.shape[0]))
    return f": {way}" if way else ""


def _whole(image: Image.Image, orientation: int | None) -> Image.Image:
    """All of an open image, upright, in sRGB."""
    check_pixels(*image.size)
    with _alone(image.width * image.height):
        image.load()
        if orientation is None:
            orientation = orientation_of(image)
        profile = image.info.get("icc_profile")
        shown = colour.displayed(colour.resizable(image), profile, grey=False)
        shown = shown.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else shown.copy()
    shown.info = {}  # it is as it says already
    return shown


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height of the picture in an image file's contents, upright; it is not decoded,
    unless SIASEARCH_DECODING is ``apart``. Raises ImageError as ``decode`` does.
    """
    kind = recognise(data)
    if apart.is_apart():
        whole = apart.DECODERS.upright(data)
        return whole.width, whole.height
    with _as_image_error(f"damaged {kind} file"):
        image, orientation = open_image(kind, data)
        turned = (orientation_of(image) if orientation is None else orientation) >= 5
        return (image.height, image.width) if turned else (image.width, image.height)


def miniature(data: bytes, side: int) -> npt.NDArray[np.uint8]:
    """The whole picture of an image file's contents, uint8 (side, side, 3), padded with white.

    Raises ImageError as ``decode`` does.
    """
    return decode(data, Preprocessing(side, side, resize="pad", crop_fraction=1.0))


def thumbnail(path: str, side: int) -> bytes:
    """A picture as a JPEG of at most ``side`` pixels each way, padded with white.

    Raises ImageError as ``decode`` does.
    """
    return encode(miniature(read_file(path), side), "JPEG")


def encode(pixels: npt.NDArray[np.uint8], form: Literal["JPEG", "PNG"]) -> bytes:
    """The bytes of an image file of uint8 (height, width, 3)."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format=form, quality=80)
    return content.getvalue()


@contextmanager
def _alone(pixels: int) -> Iterator[None]:
    """Decoding a picture of so many pixels: large ones one at a time."""
    if pixels <= LARGE_PIXELS:
        yield
        return
    with large:
        try:
            yield
        finally:
            give_back_memory()


@contextmanager
def _as_image_error(what: str) -> Iterator[None]:
    """Whatever Pillow raises as an ImageError, which says ``what`` has happened."""
    try:
        yield
    except (ImageError, UsageError):
        raise
    except Exception as error:
        raise _image_error(error, what) from error


def _image_error(error: Exception, what: str) -> ImageError:
    # Pillow answers damage with whatever its parsers stumble over: OSError, SyntaxError,
    # ValueError, struct.error, EOFError, IndexError, KeyError, TypeError, zlib.error and more.
    if isinstance(error, MemoryError):
        return ImageError("there is not enough memory to decode it")
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(f"too many pixels: {error}")
    detail = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, struct.error | EOFError) or "truncated" in detail.lower():
        return cut_short()
    return ImageError(f"{what}: {detail[:200]}")


_Sides = tuple[float, float, float, float]  # left, top, right, bottom


class _Frame(NamedTuple):
    """Which part of the stored picture is scaled to which size, both as stored (not upright).

    Nothing outside of ``region`` shows.
    """

    box: _Sides
    size: tuple[int, int]
    region: _Sides


def _stored(box: Box | None, size: tuple[int, int], orientation: int) -> Box:
    """Where a box of the upright picture lies in the picture as it is stored; None is all of it."""
    width, height = size
    if box is None:
        return Box(0, 0, width, height)
    swapped = orientation >= 5
    require_within(box, *(size[::-1] if swapped else size))
    left, top, wide, high = box
    if swapped:
        left, top, wide, high = top, left, high, wide
    if orientation in (2, 3, 7, 8):
        left = width - left - wide
    if orientation in (3, 4, 6, 7):
        top = height - top - high
    return Box(left, top, wide, high)


def _frame(
    size: tuple[int, int], how: Preprocessing, orientation: int, region: Box | None
) -> _Frame:
    x, y, width, height = _stored(region, size, orientation)
    whole = (float(x), float(y), float(x + width), float(y + height))
    target_width, target_height = how.width, how.height
    if orientation >= 5:
        target_width, target_height = target_height, target_width
    if how.resize == "crop":
        scale = min(width / target_width, height / target_height) * how.crop_fraction
        left = max(0.0, (width - target_width * scale) / 2)
        top = max(0.0, (height - target_height * scale) / 2)
        box = (x + left, y + top, x + width - left, y + height - top)
        return _Frame(box, (target_width, target_height), whole)
    if how.resize == "squash":
        return _Frame(whole, (target_width, target_height), whole)
    scale = min(target_width / width, target_height / height)
    if how.resize == "trim":  # enough to find what is drawn and to show it sharp
        scale = min(1.0, TRIM_RESERVE * max(target_width, target_height) / max(width, height))
    return _Frame(whole, (max(1, round(width * scale)), max(1, round(height * scale))), whole)


def _render(
    image: Image.Image,
    how: Preprocessing,
    orientation: int | None,
    region: Box | None,
    ours: bool = False,
) -> npt.NDArray[np.uint8]:
    """Crop, scale, turn upright and colour an open image, or a region of it.

    ``orientation`` None: as it states. What is ``ours`` is closed as soon as it can be.
    """
    grey = how.channels == 1
    held = image.size
    frame = None
    if isinstance(image, Jpeg):
        orientation = orientation_of(image)
        full = _frame(image.size, how, orientation, region)
        luminance = grey and not colour.needs_colours(image.info.get("icc_profile"))
        frame = _draft(image, full, "L" if luminance else None)
        if not image.in_full:
            held = image.size
    check_pixels(*held)
    with _alone(math.prod(held)):
        image.load()
        if orientation is None:  # a PNG may state it behind the pixels
            orientation = orientation_of(image)
        box, size, seen = frame or _frame(image.size, how, orientation, region)
        factor = _factor(image, box, size)
        if factor > 1:
            source = colour.reduced(image, factor)
            box, seen = _times(1 / factor, box), _times(1 / factor, seen)
        else:
            source = colour.resizable(image)
        if region is not None:  # what lies around it must not tint its edges
            left, top = math.floor(seen[0]), math.floor(seen[1])
            right, bottom = min(math.ceil(seen[2]), source.width), math.ceil(seen[3])
            source = source.crop((left, top, right, min(bottom, source.height)))
            box = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
        scaled = source.resize(size, _RESAMPLING[how.interpolation], box, _REDUCING_GAP)
        del source
        if ours:
            image.close()
    shown = colour.displayed(scaled, image.info.get("icc_profile"), grey=grey)
    if orientation in _UPRIGHT:
        shown = shown.transpose(_UPRIGHT[orientation])
    if how.resize == "trim":
        shown = _trimmed(shown, how)
    if how.resize == "pad" and shown.size != (how.width, how.height):
        canvas = Image.new(shown.mode, (how.width, how.height), "white")
        offset = ((how.width - shown.width) // 2, (how.height - shown.height) // 2)
        canvas.paste(shown, offset)
        shown = canvas
    # Not numpy.array(shown): numpy asks Pillow for the bytes twice.
    pixels_out = np.frombuffer(bytearray(shown.tobytes()), np.uint8)
    return pixels_out.reshape(how.height, how.width, how.channels)


def _factor(image: Image.Image, box: _Sides, size: tuple[int, int]) -> int:
    """By how much a large picture is reduced before its mode is changed, 1 where it need not be."""
    if image.width * image.height <= LARGE_PIXELS or not colour.takes_two(image):
        return 1
    scales = (box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]
    return max(1, int(min(scales) / _REDUCING_GAP))


def _trimmed(image: Image.Image, how: Preprocessing) -> Image.Image:
    """A square around what is drawn, with a margin, scaled to the target; else the whole picture.

    Drawn is what differs from the border's median by half as much as anything does, and by an
    eighth of the range at least. Small marks keep some of their surroundings. Grey drawings on
    dark paper are turned dark on light.
    """
    pixels = np.asarray(image, np.int16).reshape(image.height, image.width, -1)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = np.median(border, axis=0)
    apart = np.abs(pixels - background).max(axis=2)
    drawn = apart > max(32, apart.max() / 2)
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    if not len(rows):
        rows, columns = np.array([0, image.height - 1]), np.array([0, image.width - 1])
    extent = max(int(np.ptp(rows)), int(np.ptp(columns))) + 1
    side = TRIM_MARGIN * max(extent, TRIM_LEAST * max(image.size))
    left = (columns[0] + columns[-1] + 1 - side) / 2
    top = (rows[0] + rows[-1] + 1 - side) / 2
    room = math.ceil(max(0.0, -left, -top, left + side - image.width, top + side - image.height))
    if how.channels == 1 and background[0] < 128:
        image, background = ImageOps.invert(image), 255 - background
    paper = tuple(round(float(value)) for value in background)
    canvas = ImageOps.expand(image, room, paper if len(paper) > 1 else paper[0])
    box = (left + room, top + room, left + room + side, top + room + side)
    return canvas.resize((how.width, how.height), _RESAMPLING[how.interpolation], box)


def _draft(image: Jpeg, frame: _Frame, mode: str | None) -> _Frame:
    """Have a JPEG decoded at the smallest scale that leaves a reserve; the frame at that scale."""
    (left, top, right, bottom), (width, height), _ = frame
    full_width, full_height = image.size
    asked = (
        math.ceil(full_width * width * DRAFT_RESERVE / (right - left)),
        math.ceil(full_height * height * DRAFT_RESERVE / (bottom - top)),
    )
    drafted = image.draft(mode, asked)
    if drafted is None:
        return frame
    scale = drafted[1][2] / full_width
    return _Frame(_times(scale, frame.box), frame.size, _times(scale, frame.region))


def _times(scale: float, sides: _Sides) -> _Sides:
    left, top, right, bottom = sides
    return left * scale, top * scale, right * scale, bottom * scale
