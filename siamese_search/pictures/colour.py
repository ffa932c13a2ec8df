"""Any pixels that Pillow decodes, as a viewer would show them: 8-bit sRGB or grey, over white.

Two halves around the resize: :func:`resizable` (full size; only what resampling needs) and
:func:`displayed` (a few thousand pixels; everything that may wait). Knows nothing of files,
formats or crops.
"""

from __future__ import annotations

import math
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # numpy.typing takes time to load
    import numpy.typing as npt

_LINEAR = frozenset({"L", "La", "RGB", "RGBa", "CMYK", "YCbCr"})
_BAND_PIXELS = 1 << 22
_PROFILED_MODES = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}
# The profiles that say what is assumed anyway, as ICC version 2 (ASCII) and 4 (UTF-16) name them.
_SRGB_NAMES = tuple(
    name.encode(encoding)
    for name in ("sRGB IEC61966", "sRGB built-in")
    for encoding in ("ascii", "utf-16-be")
)


def resizable(image: Image.Image) -> Image.Image:
    """The image in a mode whose samples may be averaged; the image itself where it is in one.

    Alpha comes out premultiplied (``La``, ``RGBa``), so that colours nobody can see do not bleed
    into the edges. Deeper samples come out as 8-bit grey, palettes as their colours.
    """
    mode = image.mode
    keyed = "transparency" in image.info
    if mode in _LINEAR and not keyed:
        return image
    if mode in ("I", "F") or mode.startswith("I;16"):
        return _eight_bits(image)
    if mode == "P":
        seen_through = keyed or (image.palette is not None and image.palette.mode == "RGBA")
        image = image.convert("RGBA" if seen_through else "RGB")
    elif mode in ("1", "L"):
        image = image.convert("LA" if keyed else "L")
    elif mode in ("RGB", "PA"):
        image = image.convert("RGBA")
    elif mode not in _LINEAR and mode not in ("LA", "RGBA"):
        image = image.convert("RGB")
    return image.convert({"LA": "La", "RGBA": "RGBa"}[image.mode]) if "A" in image.mode else image


def takes_two(image: Image.Image) -> bool:
    """Whether ``resizable`` holds the picture in two modes, which may be done in bands."""
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    return not deep and (image.mode not in _LINEAR or "transparency" in image.info)


def reduced(image: Image.Image, factor: int) -> Image.Image:
    """As ``resizable``, at a ``factor``-th of the size: by bands, since the whole in two modes at a
    time takes much memory.
    """
    width, height = -(-image.width // factor), -(-image.height // factor)
    rows = max(1, _BAND_PIXELS // (image.width * factor))
    small: Image.Image | None = None
    for top in range(0, height, rows):
        bottom = min((top + rows) * factor, image.height)
        band = resizable(image.crop((0, top * factor, image.width, bottom))).reduce(factor)
        small = small or Image.new(band.mode, (width, height))
        small.paste(band, (0, top))
    assert small is not None
    return small


def displayed(image: Image.Image, profile: bytes | None, *, grey: bool) -> Image.Image:
    """The ``L`` (grey) or ``RGB`` image that a viewer shows for one from :func:`resizable`.

    ``profile`` is the picture's ICC profile. One that is broken, or made for another colour
    space than the picture's, is ignored, as viewers do.
    """
    paint = _over_white if image.mode in ("La", "RGBa") else _srgb
    image = paint(image, profile)
    wanted = "L" if grey else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def needs_colours(profile: bytes | None) -> bool:
    """Whether luminance alone cannot tell what a viewer shows, since a profile applies."""
    return bool(profile) and not _is_srgb(profile)


def span(samples: npt.NDArray[Any]) -> tuple[float, float]:
    """The darkest and the brightest value that samples without a range of their own may have.

    What fits a usual one (0 to 255, 0 to 65,535 for integers, 0 to 1, 0 to 255 for floats) is taken
    to use it, anything else is stretched from its darkest to its brightest sample.
    """
    with np.errstate(all="ignore"):  # which leave out what is no number
        low, high = float(np.fmin.reduce(samples, None)), float(np.fmax.reduce(samples, None))
    if not (math.isfinite(low) and math.isfinite(high)):
        finite = samples[np.isfinite(samples)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    usual = (1.0, 255.0) if samples.dtype.kind == "f" else (255.0, 65535.0)
    fitting = [top for top in usual if low >= 0.0 and high <= top]
    return (0.0, fitting[0]) if fitting else (low, high)


def levels(samples: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Samples (height, width, ...) in 8 bits; what is no number is the darkest."""
    scale = 255.0 / (high / 2 - low / 2 or 0.5)  # halves, since the whole may be infinite
    shown = np.empty(samples.shape, np.uint8)
    # By rows: the float copy of a whole large picture would take many times its memory.
    rows = max(1, (1 << 20) // max(1, math.prod(samples.shape[1:])))
    for top in range(0, len(samples), rows):
        with np.errstate(all="ignore"):
            part = samples[top : top + rows].astype(np.float64)
        np.nan_to_num(part, copy=False, nan=low, posinf=low, neginf=low)
        shown[top : top + rows] = (part.clip(low, high) / 2 - low / 2) * scale + 0.5
    return shown


def _eight_bits(image: Image.Image) -> Image.Image:
    """``L`` or ``La`` from deep grey: 16 bits are scaled by their range, others by ``span``."""
    samples = np.asarray(image)
    key = image.info.get("transparency")
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    grey = levels(samples, *((0.0, 65535.0) if sixteen else span(samples)))
    if not isinstance(key, int):
        return Image.fromarray(grey)
    opaque = np.where(samples == key, 0, 255).astype(np.uint8)
    grey[opaque == 0] = 0
    return Image.merge("La", (Image.fromarray(grey), Image.fromarray(opaque)))


def _over_white(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Composite a premultiplied image on white, its colours converted to sRGB where needed."""
    if not needs_colours(profile):
        samples = np.asarray(image).astype(np.int16)
        colours, alpha = samples[..., :-1], samples[..., -1:]
        shown = np.minimum(colours + (255 - alpha), 255).astype(np.uint8)
        return Image.fromarray(shown[..., 0] if shown.shape[-1] == 1 else shown)
    *bands, mask = image.convert("LA" if image.mode == "La" else "RGBA").split()
    plain = bands[0] if len(bands) == 1 else Image.merge("RGB", bands)
    plain = _srgb(plain, profile)
    white = Image.new(plain.mode, plain.size, "white")
    white.paste(plain, mask=mask)
    return white


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """``L`` or ``RGB`` in sRGB, through the ICC profile where there is a usable one."""
    if image.mode == "YCbCr":
        image = image.convert("RGB")
    if profile and needs_colours(profile):
        converted = _through_profile(image, profile)
        if converted is not None:
            return converted
    return image.convert("RGB") if image.mode == "CMYK" else image


def _through_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The image converted to sRGB, or None if the profile is broken or not one for its mode."""
    transform = _transform(profile, image.mode)
    if transform is None:
        return None
    try:
        converted: Image.Image = transform.apply(image)
    except (OSError, ValueError, TypeError):
        return None
    return converted


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> Any:
    """Little CMS's transform to sRGB, or None for an unusable profile.

    Building one takes milliseconds, and a folder's pictures mostly share theirs.
    """
    from PIL import ImageCms  # loads Little CMS, which few pictures need

    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if _PROFILED_MODES.get(source.profile.xcolor_space) != mode:
            return None
        target = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(source, target, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _is_srgb(profile: bytes | None) -> bool:
    return profile is not None and any(name in profile for name in _SRGB_NAMES)
