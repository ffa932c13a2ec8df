"""The runtime for GPUs: an encoder's weights run by torch.

torch is imported only where a GPU was asked for or its driver is found, since importing it takes
seconds.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from siamese_search.embedding.record import verified_weights
from siamese_search.errors import EncoderError, RuntimeUnavailable

if TYPE_CHECKING:
    from siamese_search.embedding.record import EncoderRecord


def seen_accelerator() -> str | None:
    """``cuda`` or ``mps`` where torch is installed and sees one."""
    device = _possible_accelerator()
    if device is None or any(
        importlib.util.find_spec(module) is None for module in ("torch", "timm", "safetensors")
    ):
        return None
    return device if _torch_sees(device) else None


def _possible_accelerator() -> str | None:
    """The device that torch may see here, without importing it: None where it cannot see any."""
    if sys.platform == "darwin":  # MPS is part of the system: only torch can tell
        return "mps" if platform.machine() == "arm64" else None
    # torch brings the libraries above the driver, never the driver. Its device files are no sign:
    # WSL has a card without them, a container may be given them without the library. AMD's cards,
    # which torch calls cuda as well, are reached through the kernel.
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(driver)
    except OSError:
        return "cuda" if os.path.exists("/dev/kfd") else None
    return "cuda"


def _torch_sees(device: str) -> bool:
    import torch

    backend = torch.cuda if device == "cuda" else torch.backends.mps
    return bool(backend.is_available())


class TorchRuntime:
    """The weights in the embedding network, in half precision on a GPU."""

    batch = 64

    def __init__(self, folder: Path, record: EncoderRecord, device: str) -> None:
        try:
            import safetensors.numpy  # noqa: F401  which reading the weights needs
            import torch

            from siamese_search.embedding.network import EmbeddingNetwork
        except ImportError as error:
            raise RuntimeUnavailable(
                f"device {device!r} needs torch: pip install 'siamese-search[train]' ({error})"
            ) from error
        if device != "cpu" and not _torch_sees(device):
            raise RuntimeUnavailable(
                f"torch {torch.__version__} sees no device {device!r} here: use --device cpu"
            )
        self.device = device
        # While one batch is computed, another can be stacked and pinned; Metal takes one at a time.
        self.parallel = 2 if device == "cuda" else 1
        self._turn = Lock() if device == "mps" else nullcontext()
        self._torch: Any = torch
        self._half = device != "cpu" and record.architecture.get("precision") != "float32"
        weights = verified_weights(folder, record)
        try:
            network = EmbeddingNetwork(record.architecture)
            tensors = {
                name: torch.tensor(one, dtype=torch.float32) for name, one in weights.items()
            }
            network.load_state_dict(tensors)
            network = network.eval().requires_grad_(False).to(device)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise EncoderError(f"{folder}: its network cannot be built: {error}") from error
        self._network = network.to(memory_format=torch.channels_last)

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return self.describe(pixels)[0]

    def describe(
        self, pixels: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        torch = self._torch
        batch = torch.from_numpy(pixels)
        if self.device == "cuda":
            batch = batch.pin_memory()
        with self._turn, torch.inference_mode(), torch.autocast(
            self.device, dtype=torch.float16, enabled=self._half
        ):  # fmt: skip
            moved = batch.to(self.device, non_blocking=True)
            if self._network.place_shape is None:
                return self._network(moved).float().cpu().numpy(), None
            embeddings, places = self._network.describe(moved)
            return embeddings.float().cpu().numpy(), places.float().cpu().numpy()

    def slopes(
        self,
        pixels: npt.NDArray[np.float32],
        by_embedding: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
    ) -> npt.NDArray[np.float32]:
        """How values change with every pixel, float32 (n, height, width, channels).

        ``pixels`` are float32 of this shape, 0 to 255; ``by_embedding`` gives, for their embeddings
        (n, dimension), how each one's value changes with these.
        """
        torch = self._torch
        with self._turn:
            moved = torch.from_numpy(pixels).to(self.device).requires_grad_(True)
            embeddings = self._network.embed(moved.permute(0, 3, 1, 2))
            given = by_embedding(embeddings.detach().cpu().numpy())
            value = (embeddings * torch.from_numpy(given).to(self.device)).sum()
            (slopes,) = torch.autograd.grad(value, moved)
            found: npt.NDArray[np.float32] = slopes.cpu().numpy()
            return found
