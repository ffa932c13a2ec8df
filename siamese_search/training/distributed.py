"""Several processes on one batch, started by ``torchrun``: each embeds its share of the pictures,
the loss sees them all.

    torchrun --nproc-per-node 2 -m siamese_search train photos/ --out encoder
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_gather

from siamese_search.errors import UsageError

T = TypeVar("T")


def _processes() -> int:
    """How many processes ``torchrun`` tells of."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def require_shareable(classes: int) -> None:
    """Raise UsageError where processes would have to share a class of so many in a batch."""
    processes = _processes()
    if classes % processes:
        fit = classes // processes * processes or processes
        raise UsageError(
            f"{classes} classes in a batch cannot be shared by {processes} processes: try"
            f" --classes {fit}"
        )


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the group that ``torchrun`` tells of, if any; gives this process's device."""
    if _processes() < 2:
        yield device
        return
    local = device
    if device == "cuda":
        local = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(local)  # objects are broadcast through it
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield local
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Which of the processes this is; the first one writes, validates and speaks."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def ranks() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def whole(classes: int) -> int:
    """So many classes, or a few less, of which each process has as many. Raises UsageError where
    there is not one for each.
    """
    if classes < ranks():
        raise UsageError(f"{classes} classes are too few for {ranks()} processes: start fewer")
    return classes - classes % ranks()


def share(count: int) -> slice:
    """This process's part of a batch of ``count`` pictures, of whole classes."""
    size = count // ranks()
    return slice(rank() * size, (rank() + 1) * size)


def parallel(network: nn.Module) -> nn.Module:
    """The network with its gradients averaged over the processes."""
    if ranks() == 1:
        return network
    # Layers may be frozen for a while, and some backbones have layers that are not used.
    return nn.parallel.DistributedDataParallel(network, find_unused_parameters=True)


def gathered(embeddings: Tensor) -> Tensor:
    """All processes' embeddings, in order of rank; gradients flow back to each.

    Every process then has the same loss; each embedding's gradient is summed over the processes,
    and averaging the networks' gradients makes it that of one process with the whole batch.
    """
    if ranks() == 1:
        return embeddings
    return torch.cat(all_gather(embeddings))  # type: ignore[no-untyped-call]


def told(value: T) -> T:
    """What the first process holds."""
    if ranks() == 1:
        return value
    box: list[Any] = [value]
    distributed.broadcast_object_list(box, src=0)
    heard: T = box[0]
    return heard
