"""The size at which a step sees pictures: smaller at first, which is faster.

What is learned from small pictures serves larger ones, where a network's pooling takes any size
(progressive resizing; Tan and Le 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from siamese_search.embedding.network import EmbeddingNetwork
from siamese_search.errors import UsageError
from siamese_search.training.settings import Settings

GRAIN = 16  # pixels, of which small sizes are multiples: networks halve maps several times

Size = tuple[int, int]  # height and width, pixels


def small(size: Size) -> Size:
    """Two thirds of a size, in whole grains and not above it."""
    height, width = (min(side, GRAIN * -(-2 * side // (3 * GRAIN))) for side in size)
    return height, width


def size_at(step: int, settings: Settings, size: Size) -> Size:
    """What a step sees of pictures that are as large as ``size`` in the end."""
    return small(size) if step < (settings.coarse or 0.0) * settings.steps else size


def work(first: int, settings: Settings, size: Size) -> float:
    """How much the steps from ``first`` on have to do, counted in steps as that one is."""

    def pixels(step: int) -> int:
        height, width = size_at(step, settings, size)
        return height * width

    return sum(pixels(step) for step in range(first, settings.steps)) / pixels(first)


def require_small(network: EmbeddingNetwork, images: Tensor) -> None:
    """Raise UsageError for a network that takes images (n, channels, height, width) only as they
    are.
    """
    height, width = small((images.shape[2], images.shape[3]))
    with torch.inference_mode():
        try:
            network.eval().embed(functional.interpolate(images, (height, width)))
        except (AssertionError, IndexError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"the network takes no pictures of {width} x {height} pixels, which --coarse would"
                f" give it: {str(error).splitlines()[0]}"
            ) from error
