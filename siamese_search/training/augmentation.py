"""Augmentation of whole batches: one affine warp per picture, then its colours.

Every picture of a batch is altered independently, also the two of a pair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
BENDS = 4  # random displacements along each side of an elastic warp


@dataclass(frozen=True)
class Augmentation:
    """Ranges that alterations are drawn from, evenly; nought leaves a property as it is.

    ``rotation`` and ``shear`` in degrees either way; ``area`` is the share of the picture that is
    seen, ``stretch`` the greatest ratio between the scales of width and height; ``shift`` in
    widths of the picture (where ``area`` is below one and there is no ``background``, the view
    also moves within what that leaves); ``mirror`` and ``grey`` are probabilities; ``brightness``,
    ``contrast`` and ``saturation`` are the greatest relative change; ``erase`` is the probability
    that a box of up to a quarter of the picture is blanked; ``elastic`` is the standard deviation
    of smooth displacements, in half widths of the picture. ``background`` fills what comes in from
    outside: a value of 0 to 255, or null for the border's own pixels. ``turns`` makes the quarter
    turns of every class classes of their own; ``compounds`` is the share of a batch's classes
    that are joined with others to new ones.
    """

    about: str
    rotation: float = 0.0
    shear: float = 0.0
    area: tuple[float, float] = (1.0, 1.0)
    stretch: float = 1.0
    shift: float = 0.0
    mirror: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    grey: float = 0.0
    erase: float = 0.0
    elastic: float = 0.0
    background: int | None = None
    turns: bool = False
    compounds: float = 0.0


PHOTO = Augmentation(
    "cut, mirrored, turned a little, other light: for things seen from any side",
    rotation=12,
    area=(0.3, 1.0),
    stretch=1.33,
    mirror=0.5,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    grey=0.05,
    erase=0.2,
)
PRESETS = {
    "photo": PHOTO,
    "upright": replace(
        PHOTO,
        about="as photo, never mirrored: for things with writing, or whose sides differ",
        mirror=0.0,
    ),
    "glyph": Augmentation(
        "slanted, turned, scaled and bent, never mirrored; quarter turns are classes of their own,"
        " and so are two characters joined",
        rotation=15,
        shear=15,
        area=(0.64, 1.56),
        stretch=1.2,
        shift=0.06,
        elastic=0.06,
        background=255,
        turns=True,
        compounds=0.5,
    ),
    "document": Augmentation(
        "scanned a little askew, lighter or darker, never mirrored: for signatures and documents",
        rotation=6,
        shear=4,
        area=(0.85, 1.2),
        stretch=1.1,
        shift=0.04,
        brightness=0.2,
        contrast=0.3,
        background=255,
    ),
    "none": Augmentation("pictures as they are"),
}


def augment(images: Tensor, how: Augmentation, size: tuple[int, int], seed: int) -> Tensor:
    """Alter a batch: uint8 (n, rows, columns, channels) to float32 (n, channels, *size), 0 to 255.

    The same seed gives the same alterations.
    """
    random = torch.Generator().manual_seed(seed)
    count, channels = len(images), images.shape[3]
    planes = images.permute(0, 3, 1, 2).float()
    background = 0.0 if how.background is None else float(how.background)
    grid = functional.affine_grid(
        _warps(count, how, random), [count, channels, *size], align_corners=False
    )
    padding = "border" if how.background is None else "zeros"
    if how.elastic:
        grid = grid + _bends(count, how.elastic, size, random)
    views = functional.grid_sample(
        planes - background, grid, mode="bilinear", padding_mode=padding, align_corners=False
    )
    if background:
        views += background
    if how.brightness or how.contrast or how.saturation or how.grey:
        views = _recoloured(views, how, random)
    return _erased(views.clamp_(0, 255), how, random)


def _uniform(count: int, low: float, high: float, random: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=random)


def _warps(count: int, how: Augmentation, random: torch.Generator) -> Tensor:
    """Affine maps (n, 2, 3) from a view's coordinates, -1 to 1, to the picture's."""
    angle = _uniform(count, -how.rotation, how.rotation, random) * math.pi / 180
    slant = torch.tan(_uniform(count, -how.shear, how.shear, random) * math.pi / 180)
    reach = _uniform(count, *how.area, random).sqrt()  # half width of what is seen
    stretch = _uniform(count, -math.log(how.stretch), math.log(how.stretch), random).div(2).exp()
    mirrored = 1 - 2 * (torch.rand(count, generator=random) < how.mirror).float()
    wide, high = reach * stretch, reach / stretch
    cos, sin = angle.cos(), angle.sin()
    first = torch.stack([cos * wide * mirrored, (cos * slant - sin) * high], dim=1)
    second = torch.stack([sin * wide * mirrored, (sin * slant + cos) * high], dim=1)
    room = [(1 - extent).clamp(min=0) if how.background is None else 0.0 for extent in (wide, high)]
    moves = [_uniform(count, -1, 1, random) * (free + 2 * how.shift) for free in room]
    return torch.cat([torch.stack([first, second], dim=1), torch.stack(moves, dim=1)[..., None]], 2)


def _bends(count: int, strength: float, size: tuple[int, int], random: torch.Generator) -> Tensor:
    """Smooth random displacements (n, *size, 2), in half widths (Simard et al. 2003)."""
    coarse = strength * torch.randn(count, 2, BENDS, BENDS, generator=random)
    fine = functional.interpolate(coarse, size=size, mode="bicubic", align_corners=True)
    return fine.permute(0, 2, 3, 1)


def _recoloured(views: Tensor, how: Augmentation, random: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation, which together are one affine map of each colour."""
    count, channels = views.shape[:2]

    def factors(range_: float) -> Tensor:
        return _uniform(count, 1 - range_, 1 + range_, random).reshape(-1, 1, 1)

    brightness, contrast = factors(how.brightness), factors(how.contrast)
    matrix = torch.eye(channels).expand(count, -1, -1)
    if channels == 3:
        grey = (torch.rand(count, generator=random) < how.grey).float().reshape(-1, 1, 1)
        saturation = factors(how.saturation) * (1 - grey)
        matrix = saturation * matrix + (1 - saturation) * torch.tensor(LUMA).expand(3, 3)
    middle = views.mean(dim=(1, 2, 3)).reshape(-1, 1, 1)
    colours = torch.baddbmm(
        (1 - contrast) * brightness * middle,
        contrast * brightness * matrix,
        views.flatten(2),
    )
    return colours.view_as(views)


def _erased(views: Tensor, how: Augmentation, random: torch.Generator) -> Tensor:
    """Random erasing (Zhong et al. 2020)."""
    if not how.erase:
        return views
    count, _, rows, columns = views.shape
    chosen = torch.rand(count, generator=random) < how.erase
    extents = 0.15 + 0.35 * torch.rand(count, 2, generator=random)
    starts = torch.rand(count, 2, generator=random) * (1 - extents)
    for n in chosen.nonzero().flatten().tolist():
        (top, left), (high, wide) = starts[n].tolist(), extents[n].tolist()
        box = views[
            n,
            :,
            int(top * rows) : int((top + high) * rows),
            int(left * columns) : int((left + wide) * columns),
        ]
        box.fill_(127.0 if how.background is None else float(how.background))
    return views
