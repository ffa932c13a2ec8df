"""What runs an encoder's graph: OpenVINO, where installed, or ONNX Runtime on CPUs, torch on GPUs.

All give the same embedding (cosine of about 0.999 or more). torch is imported only where a GPU was
asked for or its driver is found, since importing it takes seconds.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from siamese_search.embedding.onnx_runtime import ONNXRuntime
from siamese_search.embedding.openvino_runtime import OpenVINORuntime
from siamese_search.embedding.torch_runtime import TorchRuntime, seen_accelerator
from siamese_search.errors import RuntimeUnavailable

if TYPE_CHECKING:
    from siamese_search.embedding.record import EncoderRecord

DEVICES = ("auto", "cpu", "cuda", "mps")
RUNTIMES = ("auto", "openvino", "onnxruntime")  # on the CPU


class Runtime(Protocol):
    """Runs batches; safe to call from several threads."""

    device: str
    batch: int  # how many images at a time suit it
    parallel: int  # how many batches at a time keep it busy

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (n, height, width, channels) to float32 (n, dimension), unit length."""
        ...

    def describe(
        self, pixels: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """The embeddings, and places (n, count, dimension of places); None without places."""
        ...


def open_runtime(folder: Path, record: EncoderRecord, device: str | None = None) -> Runtime:
    """Open the runtime for a device: ``auto`` takes a GPU where torch is installed and sees one.

    On the CPU, ``SIASEARCH_RUNTIME`` chooses among ``RUNTIMES``. Raises RuntimeUnavailable for a
    device or runtime that is not there, EncoderError for damaged files.
    """
    device = device or os.environ.get("SIASEARCH_DEVICE") or "auto"
    if device not in DEVICES:
        raise RuntimeUnavailable(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    if record.architecture.get("graph") == "onnx":  # a graph without a torch network
        if device not in ("auto", "cpu"):
            raise RuntimeUnavailable(
                f"the encoder {record.name} was an ONNX file, which runs on the CPU: leave out"
                f" --device {device}"
            )
        device = "cpu"
    if device == "auto":
        device = seen_accelerator() or "cpu"
    if device == "cpu":
        return _open_on_cpu(folder, record)
    return TorchRuntime(folder, record, device)


def _open_on_cpu(folder: Path, record: EncoderRecord) -> Runtime:
    """As ``SIASEARCH_RUNTIME`` says: ``auto`` takes OpenVINO where it is installed."""
    runtime = os.environ.get("SIASEARCH_RUNTIME") or "auto"
    if runtime not in RUNTIMES:
        raise RuntimeUnavailable(
            f"unknown SIASEARCH_RUNTIME {runtime!r}: choose one of {', '.join(RUNTIMES)}"
        )
    if runtime == "auto":
        found = importlib.util.find_spec("openvino")
        # A folder of that name beside what is run has no origin.
        runtime = "openvino" if found is not None and found.origin else "onnxruntime"
    if runtime == "openvino":
        return OpenVINORuntime(folder, record)
    return ONNXRuntime(folder, record)
