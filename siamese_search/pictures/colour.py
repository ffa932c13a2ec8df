"""Any pixels that Pillow decodes, as a viewer would show them: 8-bit sRGB or grey, over white.

Two halves around the resize: :func:`resizable` (full size; only what resampling needs) and
:func:`displayed` (a few thousand pixels; everything that may wait). Knows nothing of files,
formats or crops.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

_LINEAR = frozenset({"L", "La", "RGB", "RGBa", "CMYK", "YCbCr"})
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


def _eight_bits(image: Image.Image) -> Image.Image:
    """``L`` or ``La`` from deep grey.

    16 bits are scaled by their range. 32-bit integers and floats carry no range of their own:
    what fits a usual one (0 to 255, 0 to 65,535 for integers, 0 to 1 for floats) is taken to
    use it, anything else is stretched from its darkest to its brightest sample.
    """
    samples = np.asarray(image)
    key = image.info.get("transparency")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        low, high = 0.0, 65535.0
    else:
        if samples.dtype.kind == "f":
            samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(samples.min()), float(samples.max())
        usual = (255.0, 65535.0) if samples.dtype.kind == "i" else (1.0, 255.0)
        fitting = [top for top in usual if low >= 0.0 and high <= top]
        low, high = (0.0, fitting[0]) if fitting else (low, high)
    scale = 255.0 / ((high - low) or 1.0)
    grey = np.empty(samples.shape, np.uint8)
    # By rows: the float copy of a whole large picture would take four times its memory.
    rows = max(1, (1 << 20) // max(1, samples.shape[1]))
    for top in range(0, len(samples), rows):
        part = samples[top : top + rows].astype(np.float64)
        grey[top : top + rows] = (part - low) * scale + 0.5
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
