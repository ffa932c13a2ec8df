"""The faster runtime for CPUs, where it is installed: an encoder's ONNX graph run by OpenVINO."""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from siamese_search.embedding import compiled
from siamese_search.embedding.record import (
    GRAPH,
    require_embeddings,
    require_fitting,
    verified_graph,
)
from siamese_search.errors import EncoderError, RuntimeUnavailable
from siamese_search.machine import cores

if TYPE_CHECKING:
    from siamese_search.embedding.record import EncoderRecord

STREAMS = 4
BATCH = 16
PIXELS = BATCH * 288 * 288  # of a batch: activations grow with them, and so does the time for it
VALUES = 1 << 28  # that a step may give for one picture, or a constant may have


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

    def __init__(self, folder: Path, record: EncoderRecord, exact: bool = False) -> None:
        """``exact`` computes in float32 whatever the processor has."""
        shown = record.preprocessing
        self.batch = max(1, min(BATCH, PIXELS // (shown.height * shown.width)))
        try:
            openvino = import_openvino()
        except ImportError as error:
            raise RuntimeUnavailable(
                f"OpenVINO cannot be used: pip install 'siamese-search[fast]' ({error}), or set"
                " SIASEARCH_RUNTIME=onnxruntime"
            ) from error
        # The first conversion of an array sets up a table that threads dead-lock over if several
        # of them are the first (one waits for the table, the other for the interpreter).
        openvino.Tensor(np.zeros(1, np.uint8)).data  # noqa: B018
        content = verified_graph(folder, record)
        core = openvino.Core()
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        exact = exact or record.architecture.get("precision") == "float32"
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
            "graph": record.digests[GRAPH],
            "openvino": openvino.get_version(),
            "processor": [core.get_property("CPU", "FULL_DEVICE_NAME"), *sorted(capabilities)],
            "settings": settings,
        }
        self._path, self._record = folder / GRAPH, record
        try:
            self._compiled = _compiled_graph(core, content, settings, determinants)
            takes, gives = self._compiled.inputs, self._compiled.outputs
        except (RuntimeError, ValueError) as error:
            what = str(error).strip().rpartition("\n")[2]
            raise EncoderError(f"{self._path}: OpenVINO refuses it: {what}") from error
        require_fitting(
            self._path,
            record,
            [_sizes(one) for one in takes if one.get_element_type() == openvino.Type.u8],
            _sizes(gives[0]),
        )
        # A graph that was made for one picture at a time takes no batches.
        self._one_by_one = _sizes(takes[0])[0] == 1
        self._gives_places = len(self._compiled.outputs) > 1
        # An infer request serves one thread at a time.
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return self.describe(pixels)[0]

    def describe(
        self, pixels: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        if self._one_by_one and len(pixels) > 1:
            each = [self._describe(image[None])[0] for image in pixels]
            return np.concatenate(each), None
        return self._describe(pixels)

    def _describe(
        self, pixels: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self._compiled.create_infer_request()
        try:
            request.infer([pixels], share_inputs=True)
        except RuntimeError as error:
            what = str(error).strip().rpartition("\n")[2]
            raise EncoderError(f"{self._path}: OpenVINO fails: {what}") from error
        embeddings = np.array(request.get_output_tensor(0).data, dtype=np.float32)
        require_embeddings(self._path, self._record, embeddings, len(pixels))
        places = None
        if self._gives_places:
            places = np.array(request.get_output_tensor(1).data, dtype=np.float32)
        self._idle.put(request)
        return embeddings, places


def _require_bounded(model: Any) -> None:
    """Raise ValueError for a graph that would fill the memory: what each step of an encoder gives
    is small.
    """
    for step in model.get_ops():
        for given in step.outputs():
            shape = given.get_partial_shape()
            lengths = list(shape) if shape.rank.is_static else []
            known = [length.get_length() for length in lengths if length.is_static]
            if math.prod(known) > VALUES:
                raise ValueError(f"a step gives {math.prod(known)} values")


def _sizes(port: Any) -> list[int | None]:
    """The sizes of an array that a graph takes or gives, None where any will do."""
    return [one.get_length() if one.is_static else None for one in port.get_partial_shape()]


def _compiled_graph(
    core: Any, graph: bytes, settings: dict[str, Any], determinants: dict[str, Any]
) -> Any:
    """The graph as an earlier process has compiled it, else compiled and kept for the next."""
    kept = compiled.load(determinants)
    if kept is not None:
        with suppress(RuntimeError):
            return core.import_model(kept, "CPU", settings)
    model = core.read_model(graph)
    _require_bounded(model)
    made = core.compile_model(model, "CPU", settings)

    def export() -> memoryview:
        stream = BytesIO()
        made.export_model(stream)
        return stream.getbuffer()

    with suppress(RuntimeError):  # a processor that OpenVINO cannot export for
        compiled.keep(determinants, export)
    return made
