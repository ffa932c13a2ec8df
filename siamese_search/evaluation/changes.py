"""Changes that pictures undergo: compression, blur, noise, and what printing and scanning do.

They work on what an encoder takes, uint8 (n, height, width, channels). Knows nothing of galleries.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from siamese_search.arrays import DoubleArray, FloatArray, PixelArray

Random = np.random.Generator


@dataclass(frozen=True)
class Change:
    """A kind of change: ``make`` changes pictures by a strength of ``strengths``, weakest first;
    ``of`` says what the strength is.
    """

    name: str
    of: str
    strengths: tuple[float, ...]
    make: Callable[[PixelArray, float, Random], PixelArray]


def jpeg(pixels: PixelArray, quality: float, random: Random | None = None) -> PixelArray:
    """What is left after saving as JPEG, colours at half the resolution as cameras save them."""
    del random
    changed = np.empty_like(pixels)
    for row, one in enumerate(pixels):
        content = io.BytesIO()
        _picture(one).save(content, "jpeg", quality=int(quality), subsampling=2)
        changed[row] = _pixels(Image.open(content), one.shape)
    return changed


def blurred(pixels: FloatArray, sigma: float) -> FloatArray:
    """A Gaussian blur, float32; its transpose is itself but for the border, which is repeated."""
    reach = max(1, round(3 * sigma))
    falls = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (falls / falls.sum()).astype(np.float32)
    for axis in (1, 2):
        size = pixels.shape[axis]
        places = np.arange(size)
        total = np.zeros_like(pixels)
        for step, weight in zip(range(-reach, reach + 1), weights, strict=True):
            total += weight * np.take(pixels, np.clip(places + step, 0, size - 1), axis)
        pixels = total
    return pixels


def shifted(pixels: FloatArray, down: int, right: int) -> FloatArray:
    """Moved by so many pixels; the border is repeated."""
    rows = np.clip(np.arange(pixels.shape[1]) - down, 0, pixels.shape[1] - 1)
    columns = np.clip(np.arange(pixels.shape[2]) - right, 0, pixels.shape[2] - 1)
    return pixels[:, rows][:, :, columns]


def rounded(values: npt.NDArray[np.floating[Any]]) -> PixelArray:
    """As uint8, what is beyond 0 and 255 cut off."""
    whole: PixelArray = np.rint(values).clip(0, 255).astype(np.uint8)
    return whole


def _blur(pixels: PixelArray, sigma: float, random: Random) -> PixelArray:
    del random
    return rounded(blurred(pixels.astype(np.float32), sigma))


def _noise(pixels: PixelArray, deviation: float, random: Random) -> PixelArray:
    return rounded(pixels + random.normal(0, deviation, pixels.shape))


def _gamma(pixels: PixelArray, stops: float, random: Random) -> PixelArray:
    """Lighter or darker by a power of two to the ``stops``."""
    powers = 2.0 ** (stops * random.choice([-1, 1], len(pixels)))
    return rounded(255 * (pixels / 255) ** powers[:, None, None, None])


def _perspective(pixels: PixelArray, share: float, random: Random) -> PixelArray:
    """Seen from aside: each corner moves by up to a share of the side, outwards or inwards."""
    height, width = pixels.shape[1:3]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    changed = np.empty_like(pixels)
    for row, one in enumerate(pixels):
        seen = corners + random.uniform(-share, share, (4, 2)) * (width, height)
        edge = np.median(one.reshape(-1, one.shape[-1]), axis=0).astype(int)
        turned = _picture(one).transform(
            (width, height),
            Image.Transform.PERSPECTIVE,
            _coefficients(corners, seen),
            Image.Resampling.BICUBIC,
            fillcolor=tuple(edge.tolist()) if one.shape[-1] == 3 else int(edge[0]),
        )
        changed[row] = _pixels(turned, one.shape)
    return changed


def _coefficients(to: DoubleArray, back: DoubleArray) -> Sequence[float]:
    """Of the projective map that brings four points (4, 2) to four others."""
    rows = []
    for (x, y), (u, v) in zip(to, back, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    found: list[float] = np.linalg.solve(np.array(rows), back.reshape(-1)).tolist()
    return found


def _moire(pixels: PixelArray, pitch: float, random: Random) -> PixelArray:
    """Sampled on a coarser grid without smoothing, as a scanner samples a screen: ``pitch`` pixels
    between samples, from a random place.
    """
    height, width = pixels.shape[1:3]
    changed = np.empty_like(pixels)
    for row, one in enumerate(pixels):
        rows, columns = (
            np.clip(np.arange(random.uniform(0, pitch), size, pitch).astype(int), 0, size - 1)
            for size in (height, width)
        )
        coarse = _picture(one[rows][:, columns])
        whole = coarse.resize((width, height), Image.Resampling.BILINEAR)
        changed[row] = _pixels(whole, one.shape)
    return changed


def _printed(pixels: PixelArray, times: float, random: Random) -> PixelArray:
    """Printed and scanned: slightly askew, resampled, blurred, other tones, noise, and JPEG."""
    seen = _perspective(pixels, 0.02 * times, random)
    seen = _moire(seen, 1 + 0.3 * times, random)
    seen = _blur(seen, 0.5 * times, random)
    seen = _gamma(seen, 0.25 * times, random)
    # Paper is no white and ink no black.
    seen = rounded(seen * (1 - 0.08 * times) + 10 * times)
    return jpeg(_noise(seen, 3 * times, random), 85 - 10 * times)


def _picture(pixels: PixelArray) -> Image.Image:
    """As Pillow has it."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _pixels(picture: Image.Image, shape: tuple[int, ...]) -> PixelArray:
    return np.asarray(picture, np.uint8).reshape(shape)


NATURAL = (
    Change("JPEG", "quality", (80, 50, 30, 15, 5), jpeg),
    Change("blur", "pixels", (0.5, 1, 2, 4), _blur),
    Change("noise", "of 255", (2, 4, 8, 16, 32), _noise),
    Change("gamma", "stops", (0.25, 0.5, 1, 1.5), _gamma),
    Change("perspective", "of the side", (0.02, 0.05, 0.1, 0.2), _perspective),
    Change("moire", "pixels apart", (1.3, 1.7, 2.3, 3.1), _moire),
    Change("print and scan", "times", (1, 2, 3, 4), _printed),
)
