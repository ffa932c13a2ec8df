"""What a run needs of the machine: its device, precision and memory; and torch as it was before.

Knows nothing of what is trained.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from siamese_search.embedding.runtimes import DEVICES
from siamese_search.errors import RuntimeUnavailable, TrainingError
from siamese_search.training.settings import Settings

OUT_OF_MEMORY = ("not enough memory", "can't allocate", "out of memory")


def device(asked: str | None) -> str:
    """What to train on: as asked, by the option or SIASEARCH_DEVICE, else a GPU if torch sees one.

    Raises RuntimeUnavailable for a device that is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    chosen = asked or os.environ.get("SIASEARCH_DEVICE") or "auto"
    if chosen == "auto":
        return next((name for name in there if there[name]), "cpu")
    if chosen not in DEVICES:
        raise RuntimeUnavailable(f"unknown device {chosen!r}: choose one of {', '.join(DEVICES)}")
    if not there.get(chosen, True):
        raise RuntimeUnavailable(f"torch sees no {chosen} here: leave out --device to use the CPU")
    return chosen


def half_precision(device: torch.device) -> bool:
    """Whether the hardware gains from bfloat16: emulating it costs more than it saves."""
    if device.type == "cpu":
        return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return device.type == "cuda"


@contextmanager
def out_of_memory_explained(settings: Settings) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        message = str(error)
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and (
            all(sign not in message for sign in OUT_OF_MEMORY)
        ):
            raise
        smaller = (
            f"--classes {settings.classes // 2}" if settings.classes > 3 else "a smaller --size"
        )
        raise TrainingError(
            f"out of memory with batches of {settings.classes} x {settings.images}: try {smaller},"
            " in another folder"
        ) from error


@contextmanager
def generators_kept(device: str) -> Iterator[None]:
    """Leave torch's generators of random numbers as they were before."""
    cuda = range(torch.cuda.device_count()) if device == "cuda" else ()
    mps = torch.mps.get_rng_state() if device == "mps" else None
    with torch.random.fork_rng(list(cuda)):
        try:
            yield
        finally:
            if mps is not None:
                torch.mps.set_rng_state(mps)
