"""Would the encoder be worth running in 8-bit integers on a CPU?

    python benchmarks/int8.py [--encoder general] [--repeats 5]        (pip install nncf)

The graph is quantised after training by NNCF, OpenVINO's own tool, with every ninth Grocery
training photo to set the ranges by: once all of it, and once its convolutions and linear layers
alone, pooling and normalisation left as they are. Beside them run float32 and bfloat16, which is
what the encoder runs in where the processor has it, in turn, each with a stream a core and 16
photos at a time; medians. Recall@1 is of every third test photo among every third training photo;
cosines are to float32.
"""

from __future__ import annotations

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from common import (
    grocery_split,
    interleaved,
    median_ratio,
    medians,
    parser,
    seconds,
    table,
    write_results,
)

from siamese_search import Encoder
from siamese_search.arrays import FloatArray, PixelArray
from siamese_search.embedding.openvino_runtime import import_openvino
from siamese_search.machine import cores
from siamese_search.pictures import render
from siamese_search.pictures.read import read_file

BATCH = 16
TIMED = 20  # batches
KEPT = ("Add", "Concat", "Divide", "Multiply", "Power", "ReduceMean", "ReduceSum", "Sqrt")


class Compiled:
    """A graph on the CPU in a precision."""

    def __init__(self, core: Any, graph: Any, precision: str) -> None:
        settings = {
            "NUM_STREAMS": cores(),
            "INFERENCE_NUM_THREADS": cores(),
            "INFERENCE_PRECISION_HINT": precision,
        }
        compiled = core.compile_model(graph, "CPU", settings)
        self._requests = [compiled.create_infer_request() for _ in range(cores())]

    def embed(self, pixels: PixelArray) -> FloatArray:
        parts = []
        for start in range(0, len(pixels), BATCH):
            self._requests[0].infer([pixels[start : start + BATCH]])
            parts.append(np.array(self._requests[0].get_output_tensor(0).data, np.float32))
        return np.concatenate(parts)

    def rate(self, pixels: PixelArray) -> float:
        """Photos a second, the cores taking batches of their own."""

        def run(request: Any) -> None:
            for _ in range(TIMED):
                request.infer([pixels[:BATCH]])

        with ThreadPoolExecutor(cores()) as pool:
            took = seconds(lambda: list(pool.map(run, self._requests)))
        return cores() * TIMED * BATCH / took


def quantised(nncf: Any, graph: Any, pixels: PixelArray, kept: tuple[str, ...]) -> Any:
    """The graph in 8-bit integers, but for operations that are kept as they are."""
    return nncf.quantize(
        graph.clone(),
        nncf.Dataset([pixels[n : n + 1] for n in range(len(pixels))]),
        subset_size=len(pixels),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(types=list(kept), validate=False),
    )


def main() -> None:
    options = parser(__doc__, repeats=5).parse_args()
    openvino = import_openvino()
    try:
        nncf = importlib.import_module("nncf")
    except ImportError as error:
        sys.exit(f"{error}: pip install nncf")
    encoder = Encoder.open(options.encoder, "cpu")
    how = encoder.record.preprocessing

    def decoded(photos: list[Any]) -> tuple[PixelArray, npt.NDArray[np.str_]]:
        pixels = [render.decode(read_file(photo.path), how) for photo in photos]
        return np.stack(pixels), np.array([photo.fine for photo in photos])

    train, test = grocery_split("train"), grocery_split("test")
    (gallery, owners), (probes, truth) = decoded(train[::3]), decoded(test[::3])
    core = openvino.Core()
    graph = core.read_model(encoder.folder / "encoder.onnx")
    ranges = decoded(train[::9])[0]
    whole, layers = (quantised(nncf, graph, ranges, kept) for kept in ((), KEPT))
    ways = {
        "float32": Compiled(core, graph, "f32"),
        "bfloat16": Compiled(core, graph, "bf16"),
        "int8": Compiled(core, whole, "bf16"),
        "int8, layers": Compiled(core, layers, "bf16"),
        "int8, layers, else float32": Compiled(core, layers, "f32"),
    }
    embedded = {name: (way.embed(gallery), way.embed(probes)) for name, way in ways.items()}
    tasks = {name: partial(way.rate, probes) for name, way in ways.items()}
    raw = interleaved(tasks, options.repeats, warmups=1)
    middle, figures = medians(raw), {}
    for name, (items, queries) in embedded.items():
        lengths = np.linalg.norm(queries, axis=1)
        cosines = (queries * embedded["float32"][1]).sum(axis=1) / lengths
        figures[name] = {
            "photos a second": middle[name],
            "to bfloat16": median_ratio(raw[name], raw["bfloat16"]),
            "to float32": median_ratio(raw[name], raw["float32"]),
            "mean cosine": float(cosines.mean()),
            "least": float(cosines.min()),
            "recall@1, %": float(
                100 * (owners[(queries @ items.T).argmax(axis=1)] == truth).mean()
            ),
        }
    table(
        f"{encoder.name}, {len(probes)} photos, medians of {options.repeats}",
        ("", *figures["float32"]),
        [(name, *(f"{value:.4g}" for value in row.values())) for name, row in figures.items()],
    )
    write_results("int8", options.encoder, {"figures": figures, "raw": raw})


if __name__ == "__main__":
    main()
