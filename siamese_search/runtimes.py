"""What runs an encoder's graph: OpenVINO on CPUs, torch on GPUs.

Both give the same embedding (cosine of about 0.999 or more). torch is imported only where a GPU was
asked for or its driver is found, since importing it takes seconds.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import sys
from contextlib import nullcontext, suppress
from io import BytesIO
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from siamese_search import compiled
from siamese_search.errors import EncoderError, RuntimeUnavailable
from siamese_search.machine import cores

if TYPE_CHECKING:
    from siamese_search.encoder import EncoderRecord

DEVICES = ("auto", "cpu", "cuda", "mps")
STREAMS = 4


class Runtime(Protocol):
    """Runs batches; safe to call from several threads."""

    device: str
    batch: int  # how many images at a time suit it
    parallel: int  # how many batches at a time keep it busy

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (n, height, width, channels) to float32 (n, dimension), unit length."""
        ...


def open_runtime(folder: Path, record: EncoderRecord, device: str | None = None) -> Runtime:
    """Open the runtime for a device: ``auto`` takes a GPU where torch is installed and sees one.

    Raises RuntimeUnavailable for a device that is not there, EncoderError for damaged files.
    """
    device = device or os.environ.get("SIASEARCH_DEVICE") or "auto"
    if device not in DEVICES:
        raise RuntimeUnavailable(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    if device == "auto":
        device = seen_accelerator() or "cpu"
    if device == "cpu":
        return OpenVINORuntime(folder, record)
    return TorchRuntime(folder, record, device)


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


def verified_bytes(folder: Path, record: EncoderRecord, file: str) -> bytes:
    """A file of the encoder, its SHA-256 checked; EncoderError where it is missing or damaged."""
    try:
        content = (folder / file).read_bytes()
    except OSError as error:
        raise EncoderError(f"cannot read {folder / file}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != record.digests.get(file):
        raise EncoderError(f"{folder / file} is damaged (wrong checksum): get the encoder again")
    return content


def import_openvino() -> Any:
    """OpenVINO without its model converter, unless somebody has imported it already.

    Importing the converter, which nothing here uses, reports to Google Analytics from a forked
    child, and the end of the process waits for that, for seconds where there is no network. It
    takes half of the import's time, too. ``openvino.tools.ovc`` can still be imported afterwards.
    """
    converter = "openvino.tools.ovc"
    hidden = "openvino" not in sys.modules
    if hidden:
        # What the import system takes for a missing module, and OpenVINO does without.
        sys.modules[converter] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if hidden:
            sys.modules.pop(converter, None)
    return openvino


class OpenVINORuntime:
    """The ONNX graph on the CPU, in bfloat16 where the processor computes in it."""

    device = "cpu"
    batch = 16

    def __init__(self, folder: Path, record: EncoderRecord, exact: bool = False) -> None:
        """``exact`` computes in float32 whatever the processor has."""
        openvino = import_openvino()
        # The first conversion of an array sets up a table that threads dead-lock over if several
        # of them are the first (one waits for the table, the other for the interpreter).
        openvino.Tensor(np.zeros(1, np.uint8)).data  # noqa: B018
        content = verified_bytes(folder, record, "encoder.onnx")
        core = openvino.Core()
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        fast = not exact and "BF16" in capabilities
        # Streams do not wait for each other: a batch over all cores ends with the slowest, which
        # is the one that decoding has taken meanwhile. Each holds activations, so only a few.
        self.parallel = min(cores(), STREAMS)
        settings = {
            "NUM_STREAMS": self.parallel,
            "INFERENCE_NUM_THREADS": cores(),
            "INFERENCE_PRECISION_HINT": "bf16" if fast else "f32",
        }
        # All that a compiled graph depends on, so that a kept one is never that of another.
        determinants = {
            "encoder": record.fingerprint,
            "graph": record.digests["encoder.onnx"],
            "openvino": openvino.get_version(),
            "processor": [core.get_property("CPU", "FULL_DEVICE_NAME"), *sorted(capabilities)],
            "settings": settings,
        }
        try:
            self._compiled = _compiled_graph(core, content, settings, determinants)
        except RuntimeError as error:
            raise EncoderError(
                f"{folder / 'encoder.onnx'}: OpenVINO refuses it: {error}"
            ) from error
        # An infer request serves one thread at a time.
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self._compiled.create_infer_request()
        request.infer([pixels], share_inputs=True)
        embeddings = np.array(request.get_output_tensor(0).data, dtype=np.float32)
        self._idle.put(request)
        return embeddings


def _compiled_graph(
    core: Any, graph: bytes, settings: dict[str, Any], determinants: dict[str, Any]
) -> Any:
    """The graph as an earlier process has compiled it, else compiled and kept for the next."""
    kept = compiled.load(determinants)
    if kept is not None:
        with suppress(RuntimeError):
            return core.import_model(kept, "CPU", settings)
    made = core.compile_model(core.read_model(graph), "CPU", settings)

    def export() -> memoryview:
        stream = BytesIO()
        made.export_model(stream)
        return stream.getbuffer()

    with suppress(RuntimeError):  # a processor that OpenVINO cannot export for
        compiled.keep(determinants, export)
    return made


class TorchRuntime:
    """The weights in the embedding network, in half precision on a GPU."""

    batch = 64

    def __init__(self, folder: Path, record: EncoderRecord, device: str) -> None:
        try:
            import safetensors.torch
            import torch

            from siamese_search.network import EmbeddingNetwork
        except ImportError as error:
            raise RuntimeUnavailable(
                f"device {device!r} needs torch: pip install 'siasearch[train]' ({error})"
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
        network = EmbeddingNetwork(record.architecture)
        weights = safetensors.torch.load(verified_bytes(folder, record, "weights.safetensors"))
        network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        self._network = network.eval().to(device).to(memory_format=torch.channels_last)

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        torch = self._torch
        batch = torch.from_numpy(pixels)
        if self.device == "cuda":
            batch = batch.pin_memory()
        with self._turn, torch.inference_mode(), torch.autocast(
            self.device, dtype=torch.float16, enabled=self.device != "cpu"
        ):  # fmt: skip
            embeddings = self._network(batch.to(self.device, non_blocking=True))
            result: npt.NDArray[np.float32] = embeddings.float().cpu().numpy()
        return result
