"""Deep samples: TIFF of more than 8 bits, or in planes, which Pillow does not show rightly.

Pillow unpacks their bytes as if these were grey pixels; what they mean is told here.
"""

from __future__ import annotations

import math
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from siamese_search.pictures import colour
from siamese_search.pictures import directory as tags
from siamese_search.pictures.directory import Directory, longs, rewritten, unsupported
from siamese_search.pictures.limits import check_pixels

if TYPE_CHECKING:  # numpy.typing takes time to load
    import numpy.typing as npt

_KINDS: Final = {tags.UINT: "u", tags.INT: "i", tags.FLOAT: "f"}
_WIDTHS: Final = {"u": (8, 10, 12, 14, 16, 32, 64), "i": (8, 16, 32, 64), "f": (16, 32, 64)}
_WHITE_IS_ZERO, _RGB, _CMYK = 0, 2, 5
_PREMULTIPLIED, _ALPHA = 1, 2


def are_deep(tiff: Directory) -> bool:
    """Whether a TIFF's samples are read here, not by Pillow; ImageError where by neither."""
    bits = tiff.numbers(tags.BITS) or (1,)
    kinds = set(tiff.numbers(tags.FORMAT)) or {tags.UINT}
    photometric = tiff.number(tags.PHOTOMETRIC, 0)
    in_planes = tiff.number(tags.PLANAR, 1) == 2 and tiff.number(tags.SAMPLES, 1) > 1
    if max(bits) <= 8 and kinds <= {tags.UINT, 4} and (not in_planes or photometric == _CMYK):
        return False
    if photometric == _CMYK and set(bits) == {16} and kinds == {tags.UINT} and not in_planes:
        return False
    kind = _KINDS.get(min(kinds), "")
    what = f"{'/'.join(map(str, sorted(set(bits))))} bits a sample"
    if len(kinds) > 1 or len(set(bits)) > 1 or bits[0] not in _WIDTHS.get(kind, ()):
        raise unsupported(what)
    if photometric not in (0, 1, 2) or tiff.number(tags.FILL_ORDER, 1) != 1:
        raise unsupported(f"{what}, colour model {photometric}")
    if tiff.number(tags.COMPRESSION, 1) not in tags.PLAIN:
        raise unsupported(f"{what}, compression {tiff.number(tags.COMPRESSION, 1)}")
    return True


def picture(data: bytes, tiff: Directory) -> Image.Image:
    """The picture of deep samples, in 8 bits: unsigned ones of up to 16 bits are scaled by their
    range, others as ``colour.span`` says. Raises ImageError as ``open_tiff`` does.
    """
    width, height = tiff.number(tags.WIDTH, 0), tiff.number(tags.HEIGHT, 0)
    bits, count = tiff.number(tags.BITS, 1), tiff.number(tags.SAMPLES, 1)
    kind = _KINDS[tiff.number(tags.FORMAT, tags.UINT)]
    photometric = tiff.number(tags.PHOTOMETRIC, 0)
    colours = 3 if photometric == _RGB else 1
    extra = tiff.numbers(tags.EXTRA) or (_ALPHA,)
    if count < colours:
        raise unsupported(f"{count} samples, colour model {photometric}")
    check_pixels(width, height, max(1.0, count * math.ceil(bits / 8) / 3))
    planes = count if tiff.number(tags.PLANAR, 1) == 2 else 1
    parts = [_plane(data, tiff, plane, planes, kind) for plane in range(planes)]
    samples = np.concatenate(parts, axis=2) if planes > 1 else parts[0]
    shown, alpha = samples[..., :colours], samples[..., colours : colours + 1]
    full = 1.0 if kind == "f" else float(2 ** (bits - (kind == "i")) - 1)
    low, high = (0.0, full) if kind == "u" and bits <= 16 else colour.span(shown)
    pixels = colour.levels(shown, low, high)
    if photometric == _WHITE_IS_ZERO:
        pixels = 255 - pixels
    bands = [Image.fromarray(np.ascontiguousarray(pixels[..., n])) for n in range(colours)]
    mode = "RGB" if colours == 3 else "L"
    if alpha.size and extra[0] in (_PREMULTIPLIED, _ALPHA):
        bands.append(Image.fromarray(colour.levels(alpha[..., 0], 0.0, full)))
        mode += "a" if extra[0] == _PREMULTIPLIED else "A"
    image = Image.merge(mode, bands)
    if tags.PROFILE in tiff.fields:
        image.info["icc_profile"] = tiff.fields[tags.PROFILE].content
    return image


def _plane(data: bytes, tiff: Directory, plane: int, planes: int, kind: str) -> npt.NDArray[Any]:
    """One of so many planes, (height, width, samples of a pixel in it), in native byte order."""
    from PIL.TiffImagePlugin import TiffImageFile

    width, height = tiff.number(tags.WIDTH, 0), tiff.number(tags.HEIGHT, 0)
    bits, each = tiff.number(tags.BITS, 1), tiff.number(tags.SAMPLES, 1) // planes
    across = tiff.number(tags.TILE_WIDTH, width) if tiff.numbers(tags.TILES) else width
    line = (width * each * bits + 7) // 8
    as_bytes = {
        tags.WIDTH: (line,),
        tags.HEIGHT: (height,),
        tags.BITS: (8,),
        tags.COMPRESSION: (tiff.number(tags.COMPRESSION, 1),),
        tags.PHOTOMETRIC: (1,),
        tags.ROWS: tiff.numbers(tags.ROWS),
        tags.TILE_WIDTH: (across * each * bits // 8,) if tiff.numbers(tags.TILES) else (),
        tags.TILE_HEIGHT: tiff.numbers(tags.TILE_HEIGHT),
    }
    for tag in (tags.STRIPS, tags.STRIP_SIZES, tags.TILES, tags.TILE_SIZES):
        parts = tiff.numbers(tag)
        share = len(parts) // planes
        as_bytes[tag] = parts[plane * share : (plane + 1) * share]
    fields = {tag: longs(tiff.order, numbers) for tag, numbers in as_bytes.items() if numbers}
    with TiffImageFile(BytesIO(rewritten(data, Directory(tiff.order, fields)))) as image:
        image.im = Image.new("L", image.size).im  # else the cap on pixels would be one on bytes
        raw = np.asarray(image)
    if bits in (10, 12, 14):
        return _unpacked(raw, bits, width * each).reshape(height, width, each)
    dtype = np.dtype(f"{tiff.order}{kind}{bits // 8}")
    predictor = tiff.number(tags.PREDICTOR, 1) if tiff.number(tags.COMPRESSION, 1) != 1 else 1
    blocks = []
    for left in range(0, width, across):
        block = raw[:, left * each * dtype.itemsize : (left + across) * each * dtype.itemsize]
        if predictor == 3:
            block, dtype = _gathered(block, each, dtype.itemsize), dtype.newbyteorder(">")
        values = np.ascontiguousarray(block).view(dtype).reshape(height, -1, each)
        values = values.astype(dtype.newbyteorder("="), copy=predictor == 2)
        if predictor == 2:
            np.cumsum(values, axis=1, dtype=values.dtype, out=values)
        blocks.append(values)
    return np.concatenate(blocks, axis=1) if len(blocks) > 1 else blocks[0]


def _gathered(rows: npt.NDArray[np.uint8], each: int, size: int) -> npt.NDArray[np.uint8]:
    """Floats as they were before their bytes were set apart and subtracted (TIFF Technical Note 3):
    most significant bytes first.
    """
    apart = np.cumsum(rows.reshape(len(rows), -1, each), axis=1, dtype=np.uint8)
    return np.ascontiguousarray(apart.reshape(len(rows), size, -1).swapaxes(1, 2)).reshape(
        len(rows), -1
    )


def _unpacked(rows: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint16]:
    """So many samples of each row, of which every one follows the last without a gap."""
    values = np.empty((len(rows), count), np.uint16)
    weights = 1 << np.arange(bits - 1, -1, -1, dtype=np.uint16)
    for values_row, row in zip(values, rows, strict=True):  # as a whole it would be 8 times larger
        values_row[:] = np.unpackbits(row, count=count * bits).reshape(count, bits) @ weights
    return values
