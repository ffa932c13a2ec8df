"""Preprocessing: how a picture becomes the pixels that an encoder takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

RENDERING = 1


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the pixels that an encoder takes: uint8 (height, width, channels).

    ``resize`` is ``crop`` (the largest centred box of the target's aspect, shrunk by
    ``crop_fraction``, is scaled to the target), ``squash`` (the whole picture is scaled,
    whatever its aspect), ``pad`` (the whole picture is scaled to fit, the rest is white) or
    ``trim`` (a square around what is drawn, by its difference from the border, is scaled to fit:
    for characters and symbols, wherever and however large they stand on the page; in grey, light on
    dark becomes dark on light).
    ``crop_fraction`` 0.875 is "short side to 256, centre crop 224". ``rendering`` is the version
    of how files become pixels (reduced decoding, colours, transparency), which embeddings
    depend on as well.
    """

    width: int
    height: int
    channels: Literal[1, 3] = 3
    resize: Literal["crop", "squash", "pad", "trim"] = "crop"
    crop_fraction: float = 0.875
    interpolation: Literal["bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    rendering: int = RENDERING

    def uncut(self) -> Preprocessing:
        """The same scale, with what a crop cuts off: for what turns or crops the picture itself."""
        if self.resize != "crop":
            return self
        return replace(
            self,
            width=round(self.width / self.crop_fraction),
            height=round(self.height / self.crop_fraction),
            crop_fraction=1.0,
        )
