"""Checkpoints: the whole state of a run in one safetensors file, written by rename."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from siamese_search.errors import TrainingError
from siamese_search.files import write_whole

NAME = "checkpoint.safetensors"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts; the file is whole or not there. Raises StorageError."""
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        {"siasearch": json.dumps(facts)},
    )
    write_whole(path, content)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a checkpoint. Raises TrainingError for any other file."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})["siasearch"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise TrainingError(
            f"{path} is no checkpoint of siasearch ({error}): start the run without --resume"
        ) from error
