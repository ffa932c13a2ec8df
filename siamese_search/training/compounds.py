"""Compounds: new classes of characters, each made of two others side by side.

How well new characters are told apart is limited by how many classes training has seen. Two
characters of the training set, drawn smaller next to or above each other, look like a character of
another script; every batch makes some that no other batch has.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def layouts(count: int, random: torch.Generator) -> Tensor:
    """How two characters share a picture, for ``count`` classes: float32 (count, 2, 2, 3).

    Each is an affine map from the picture's coordinates, -1 to 1, to the character's. One
    character is larger; they stand side by side or one above the other, in either order.
    """

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=random)

    large, small, apart, aside = (
        between(*range_) for range_ in ((0.5, 0.7), (0.4, 0.6), (0.33, 0.45), (-0.1, 0.1))
    )
    apart = apart * (2 * torch.randint(2, (count,), generator=random) - 1)
    upright = torch.randint(2, (count,), generator=random).bool()
    # The larger one is narrower in the direction in which it leaves room.
    along, across = 0.85 * large, large
    maps = torch.zeros(count, 2, 2, 3)
    for which, (size_along, size_across, shift) in enumerate(
        ((along, across, -apart), (small, small, apart))
    ):
        sideways = aside if which == 0 else -aside
        wide = torch.where(upright, size_across, size_along)
        high = torch.where(upright, size_along, size_across)
        maps[:, which, 0, 0], maps[:, which, 1, 1] = 1 / wide, 1 / high
        maps[:, which, 0, 2] = -torch.where(upright, sideways, shift) / wide
        maps[:, which, 1, 2] = -torch.where(upright, shift, sideways) / high
    return maps


def joined(first: Tensor, second: Tensor, maps: Tensor, background: int) -> Tensor:
    """Pictures of two characters each: uint8 (n, rows, columns, channels), as both given.

    ``maps`` (n, 2, 2, 3) are their layouts; what differs more from the background is seen.
    """
    placed = []
    for which, pixels in enumerate((first, second)):
        marks = pixels.permute(0, 3, 1, 2).float() - background
        grid = functional.affine_grid(maps[:, which], list(marks.shape), align_corners=False)
        placed.append(functional.grid_sample(marks, grid, align_corners=False))
    one, other = placed
    both = torch.where(one.abs() >= other.abs(), one, other) + background
    return both.round().clamp(0, 255).byte().permute(0, 2, 3, 1)
