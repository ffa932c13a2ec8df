"""The runtime for CPUs that comes with the core: an encoder's ONNX graph run by ONNX Runtime."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from siamese_search.embedding.record import (
    GRAPH,
    require_embeddings,
    require_fitting,
    verified_graph,
)
from siamese_search.errors import EncoderError
from siamese_search.machine import cores, memory

if TYPE_CHECKING:
    from siamese_search.embedding.record import EncoderRecord

FATAL = 4  # the least severe that is printed; errors are raised instead


def import_onnxruntime() -> Any:
    """ONNX Runtime, which reports to nobody unless somebody has imported it already.

    Its builds leave an identifier and a database in the home folder, and send what they note there
    to Microsoft. The variable counts only where it is set before the import.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # what the variable does not reach: Windows' own events
    return onnxruntime


@cache
def _bound_memory(onnxruntime: Any) -> None:
    """Let graphs take half of the machine's memory at most, so that none can fill it."""
    memory_info = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    # It grows by what is asked for, not by doubling.
    bound = onnxruntime.OrtArenaCfg({"max_mem": memory() // 2, "arena_extend_strategy": 1})
    with suppress(RuntimeError):  # somebody in this process has set one already
        onnxruntime.create_and_register_allocator(memory_info, bound)


def open_session(place: Path, content: bytes) -> Any:
    """A session that runs a graph on the thread that asks, in half of the memory at most.

    Raises EncoderError, naming ``place``, for a graph that ONNX Runtime refuses.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Memory that is planned for a whole run takes as long, and twice as much of it.
    options.enable_mem_pattern = False
    options.log_severity_level = FATAL
    options.add_session_config_entry("session.load_model_format", "ONNX")
    _bound_memory(onnxruntime)
    options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no base of their own
        what = str(error).strip().rpartition("\n")[2]
        raise EncoderError(f"{place}: ONNX Runtime refuses it: {what}") from error


def run_session(
    place: Path, session: Any, given: npt.NDArray[Any]
) -> list[npt.NDArray[np.float32]]:
    """All that a graph of one input gives for an array. Raises EncoderError where that fails."""
    try:
        found: list[npt.NDArray[np.float32]] = session.run(
            None, {session.get_inputs()[0].name: given}
        )
    except Exception as error:
        what = str(error).strip().rpartition("\n")[2]
        raise EncoderError(f"{place}: ONNX Runtime fails: {what}") from error
    return found


class ONNXRuntime:
    """The ONNX graph on the CPU, in float32.

    Every image is a run of its own, on the thread that asks. What a core computes of one image
    stays in its cache, so this takes a quarter less time than batches, and no embedding depends
    on what it was computed beside.
    """

    device = "cpu"
    batch = 4

    def __init__(self, folder: Path, record: EncoderRecord) -> None:
        content = verified_graph(folder, record)
        self.parallel = cores()
        self._path, self._record = folder / GRAPH, record
        self._session = open_session(self._path, content)
        takes, gives = self._session.get_inputs(), self._session.get_outputs()
        require_fitting(
            self._path,
            record,
            [_sizes(one) for one in takes if one.type == "tensor(uint8)"],
            _sizes(gives[0]),
        )

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return self.describe(pixels)[0]

    def describe(
        self, pixels: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        found = [run_session(self._path, self._session, image[None]) for image in pixels]
        embeddings, *others = (np.concatenate(each) for each in zip(*found, strict=True))
        require_embeddings(self._path, self._record, embeddings, len(pixels))
        return embeddings, others[0] if others else None


def _sizes(one: Any) -> list[int | None]:
    """The sizes of an array that a graph takes or gives, None where any will do."""
    return [size if isinstance(size, int) else None for size in one.shape]
