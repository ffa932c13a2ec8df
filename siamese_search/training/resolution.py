"""The size at which a step sees pictures: smaller at first, which is faster.

What is learned from small pictures serves larger ones, where a network's pooling takes any size
(progressive resizing; Tan and Le 2021).
"""

from __future__ import annotations

import math

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
    """What a step sees of pictures that are as large as ``size`` in the end.

    The very first sees the whole size: what does not fit into memory is known at once.
    """
    return small(size) if 0 < step < settings.coarse * settings.steps else size


def cost(step: int, settings: Settings, size: Size) -> float:
    """How much a step has to do, by its pixels: 1 at the whole size."""
    height, width = size_at(step, settings, size)
    return height * width / (size[0] * size[1])


def cost_from(first: int, settings: Settings, size: Size) -> float:
    """What all steps cost from the ``first`` on."""
    smaller = max(0, math.ceil(settings.coarse * settings.steps) - max(1, first))
    height, width = small(size)
    return settings.steps - first - smaller * (1 - height * width / (size[0] * size[1]))


def require_small(network: EmbeddingNetwork, images: Tensor) -> None:
    """Raise UsageError for a network that takes images (n, channels, height, width) only as they
    are, and where they are so small that none are smaller.
    """
    whole = images.shape[2], images.shape[3]
    height, width = small(whole)
    if (height, width) == whole:
        raise UsageError(
            f"{width} x {height} pixels are too few to begin with fewer: leave out --coarse"
        )
    with torch.inference_mode():
        try:
            network.eval().embed(functional.interpolate(images, (height, width)))
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, IndexError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"the network takes no pictures of {width} x {height} pixels, which --coarse would"
                f" give it: {str(error).splitlines()[0]}"
            ) from error
