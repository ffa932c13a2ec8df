"""How a network takes pictures: what the files beside its weights say, and what a user says.

Three kinds of files say it: timm's ``config.json``, ``preprocessor_config.json`` of transformers,
and ``open_clip_config.json``. Whatever they claim is checked. Loads no network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from siamese_search.errors import EncoderError, UsageError
from siamese_search.pictures.preprocessing import Preprocessing

# By the numbers that Pillow, and so transformers, gives them.
RESAMPLING = {1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "box")
RESIZES = ("crop", "squash", "pad")
TIMM_RESIZES = {"center": "crop", "squash": "squash", "border": "pad"}
OPEN_CLIP_RESIZES = {"shortest": "crop", "squash": "squash", "longest": "pad"}
SIDE_AT_MOST = 4096  # pixels
CROPPED_BELOW = 384  # pixels, where ConvNeXt's files of transformers begin to say "squash"


@dataclass(frozen=True)
class Stated:
    """How a network takes pictures, as far as it is said; None is what is not.

    ``mean`` and ``std`` have a number per channel, on the 0 to 255 scale. ``resize`` and
    ``interpolation`` are those of ``Preprocessing``, ``crop`` is its ``crop_fraction``.
    """

    height: int | None = None
    width: int | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: str | None = None
    crop: float | None = None
    interpolation: str | None = None

    def over(self, other: Stated) -> Stated:
        """What is said here, and where nothing is, what ``other`` says."""
        mine, others = (dataclasses.asdict(one) for one in (self, other))
        return Stated(**{name: others[name] if mine[name] is None else mine[name] for name in mine})

    def preprocessing(self) -> Preprocessing:
        """How pictures are rendered; what nobody says is as for most networks.

        Raises UsageError for what makes no sense.
        """
        usual = Stated(
            height=224 if self.width is None else self.width,
            width=224 if self.height is None else self.height,
            channels=3,
            resize="crop",
            crop=0.875 if self.resize in (None, "crop") else 1.0,
            interpolation="bicubic",
        )
        found: dict[str, Any] = dataclasses.asdict(self.over(usual))
        fields = {name: found[name] for name in ("width", "height", "channels", "resize")}
        fields |= {"crop_fraction": float(found["crop"]), "interpolation": found["interpolation"]}
        if fields["resize"] != "crop":
            fields["crop_fraction"] = 1.0  # it shows the whole picture
        made = Preprocessing(**fields)
        hints = get_type_hints(Preprocessing)
        for what in ("channels", "resize", "interpolation"):
            known, value = get_args(hints[what]), getattr(made, what)
            if value not in known:
                choices = ", ".join(map(str, known))
                raise UsageError(f"{what} {value!r} cannot be had: choose one of {choices}")
        if not 0.01 <= made.crop_fraction <= 1:
            raise UsageError(f"crop is {made.crop_fraction}: give a share from 0.01 to 1")
        for side in (made.width, made.height):
            if not 1 <= side <= SIDE_AT_MOST:
                raise UsageError(f"size is {side}: give pixels from 1 to {SIDE_AT_MOST}")
        return made

    def scale(self, channels: int) -> tuple[list[float], list[float]]:
        """Mean and standard deviation for each of the channels, ImageNet's where nobody says them.

        Raises UsageError for another count of numbers, and for a deviation that is not above 0.
        """
        grey = channels == 1
        mean = self.mean or ((127.5,) if grey else (123.675, 116.28, 103.53))
        std = self.std or ((127.5,) if grey else (58.395, 57.12, 57.375))
        found = []
        for what, values in (("mean", mean), ("std", std)):
            each = [float(value) for value in values]
            each = each * channels if len(each) == 1 else each
            if len(each) != channels or not all(map(math.isfinite, each)):
                raise UsageError(f"{what} has {len(values)} numbers: give {channels}, or one")
            found.append(each)
        if min(found[1]) <= 0:
            raise UsageError(f"std is {found[1]}: give numbers above 0")
        return found[0], found[1]


def from_timm(fields: Mapping[str, Any], place: str) -> Stated:
    """As timm's ``pretrained_cfg`` says. Raises EncoderError, naming ``place``, for nonsense."""
    read = _Reader(fields, place)
    size = read.numbers("input_size", 3)
    mode = read.text("crop_mode")
    resize = read.one_of("crop_mode", mode, TIMM_RESIZES)
    return Stated(
        height=None if size is None else read.side(size[1]),
        width=None if size is None else read.side(size[2]),
        channels=None if size is None else read.side(size[0]),
        mean=read.scaled("mean"),
        std=read.scaled("std"),
        resize=resize,
        crop=read.number("crop_pct"),
        interpolation=_interpolation(read.text("interpolation")),
    )


def from_preprocessor(fields: Mapping[str, Any], place: str) -> Stated:
    """As ``preprocessor_config.json`` of transformers says. Raises EncoderError for nonsense."""
    read = _Reader(fields, place)
    resized = fields.get("do_resize", True)
    sides = read.sides("size") if resized else None
    shortest = read.within("size", "shortest_edge") if resized else None
    cropped = read.sides("crop_size") if fields.get("do_center_crop") else None
    resize, crop, target = "squash", None, sides
    if cropped is not None:
        resize, target = "crop", cropped
        short = shortest or (sides and min(sides)) or min(cropped)
        crop = min(1.0, min(cropped) / short)
    elif shortest is not None:
        # ConvNeXt's: smaller pictures are cropped, others squashed.
        target = (shortest, shortest)
        share = read.number("crop_pct")
        if shortest < CROPPED_BELOW and share is not None:
            resize, crop = "crop", share
    full = 255.0 if fields.get("do_rescale", True) else 1.0
    if full == 255.0:
        factor = read.number("rescale_factor")
        full = 255.0 if factor is None else 1 / factor if factor > 0 else 255.0
    normal = fields.get("do_normalize", True)
    mean, std = (read.numbers(f"image_{what}") if normal else None for what in ("mean", "std"))
    resample = fields.get("resample")
    return Stated(
        height=None if target is None else target[0],
        width=None if target is None else target[1],
        mean=(0.0,) if not normal else None if mean is None else tuple(full * v for v in mean),
        std=(full,) if not normal else None if std is None else tuple(full * v for v in std),
        resize=None if target is None else resize,
        crop=crop,
        interpolation=None if resample is None else read.one_of("resample", resample, RESAMPLING),
    )


def from_open_clip(fields: Mapping[str, Any], place: str) -> Stated:
    """As ``open_clip_config.json`` says. Raises EncoderError for nonsense."""
    shown = fields.get("preprocess_cfg") or {}
    vision = (fields.get("model_cfg") or {}).get("vision_cfg") or {}
    read = _Reader({"size": vision.get("image_size"), **shown}, place)
    sides = read.sides("size")
    mode = read.text("resize_mode")
    resize = read.one_of("resize_mode", mode, OPEN_CLIP_RESIZES)
    return Stated(
        height=None if sides is None else sides[0],
        width=None if sides is None else sides[1],
        mean=read.scaled("mean"),
        std=read.scaled("std"),
        resize=resize or "crop",
        crop=1.0,
        interpolation=_interpolation(read.text("interpolation")),
    )


def _interpolation(said: str | None) -> str | None:
    return None if said == "random" else said  # timm's word for "bilinear or bicubic"


class _Reader:
    """Reads fields of a file, each of the kind that it must be."""

    def __init__(self, fields: Mapping[str, Any], place: str) -> None:
        self._fields = fields
        self._place = place

    def refused(self, name: str, value: object) -> EncoderError:
        return EncoderError(f"{self._place} says {name} {value!r}, which makes no sense here")

    def text(self, name: str) -> str | None:
        value = self._fields.get(name)
        if value is not None and not isinstance(value, str):
            raise self.refused(name, value)
        return value

    def number(self, name: str) -> float | None:
        value = self._fields.get(name)
        if value is None:
            return None
        if not _is_number(value):
            raise self.refused(name, value)
        return float(value)

    def numbers(self, name: str, count: int | None = None) -> tuple[float, ...] | None:
        value = self._fields.get(name)
        if value is None:
            return None
        one = (value,) if _is_number(value) else value
        right = isinstance(one, Sequence) and not isinstance(one, str) and all(map(_is_number, one))
        if not right or len(one) != (count or len(one)) or not len(one):
            raise self.refused(name, value)
        return tuple(float(each) for each in one)

    def scaled(self, name: str) -> tuple[float, ...] | None:
        """Numbers for pixels from 0 to 1, for those from 0 to 255."""
        found = self.numbers(name)
        return None if found is None else tuple(255.0 * value for value in found)

    def side(self, value: float) -> int:
        if value != int(value) or not 1 <= value <= SIDE_AT_MOST:
            raise self.refused("a size of", value)
        return int(value)

    def sides(self, name: str) -> tuple[int, int] | None:
        """Height and width: a number, two, or by name."""
        value = self._fields.get(name)
        if isinstance(value, Mapping):
            both = value.get("height"), value.get("width")
            if not all(map(_is_number, both)):
                return None
            value = both
        found = _Reader({name: value}, self._place).numbers(name)
        if found is None:
            return None
        if len(found) > 2:
            raise self.refused(name, value)
        return self.side(found[0]), self.side(found[-1])

    def within(self, name: str, inner: str) -> int | None:
        value = self._fields.get(name)
        found = value.get(inner) if isinstance(value, Mapping) else None
        if found is None:
            return None
        if not _is_number(found):
            raise self.refused(name, value)
        return self.side(found)

    def one_of(self, name: str, value: Any, known: Mapping[Any, str]) -> str | None:
        if value is None:
            return None
        if isinstance(value, (str, int)) and value in known:
            return known[value]
        raise EncoderError(
            f"{self._place} says {name} {value!r}, which siasearch does not do: say --resize,"
            " --crop and --interpolation yourself"
            if isinstance(value, (str, int))
            else f"{self._place} says {name} {value!r}, which makes no sense here"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
