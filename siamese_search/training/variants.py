"""Variants: new classes of characters, each made of one other by bending all its pictures alike.

Slanted, stretched, mirrored and bent so far, a character is another one; what its pictures still
share is what training is to find. No batch has the same variants as another.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from siamese_search.training import augmentation

WARP = augmentation.Augmentation(
    "how far a variant is from its character",
    rotation=20,
    shear=30,
    area=(0.9, 1.2),
    stretch=1.7,
    mirror=0.5,
    elastic=0.12,
)


def grids(count: int, size: tuple[int, int], random: torch.Generator) -> Tensor:
    """Where ``count`` variants take their pixels from: float32 (count, *size, 2), -1 to 1."""
    return augmentation.grids(count, WARP, size, random)


def varied(pixels: Tensor, grid: Tensor, background: int) -> Tensor:
    """Pictures uint8 (n, rows, columns, channels), taken along grids (n, rows, columns, 2)."""
    marks = pixels.permute(0, 3, 1, 2).float() - background
    bent = functional.grid_sample(marks, grid, align_corners=False) + background
    return bent.round().clamp(0, 255).byte().permute(0, 2, 3, 1)
