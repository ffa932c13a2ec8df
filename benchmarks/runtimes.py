"""What runs an encoder on the CPU: how fast, and how alike?

    python benchmarks/runtimes.py [--encoder general-2] [--photos 300] [--repeats 8]

ONNX Runtime, and OpenVINO in float32 and as it runs here (in bfloat16 where the processor has it),
take turns at the same Grocery photos: decoded and embedded as when they are enrolled, embedded
alone, and one of them asked about by ``siasearch query``, a process of its own, which finds the
graph that OpenVINO has compiled before. Cosines are to what ONNX Runtime gives.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np
from common import (
    grocery_split,
    interleaved,
    median_ratio,
    medians,
    parser,
    run,
    seconds,
    siasearch,
    table,
    write_results,
)

from siamese_search import Encoder
from siamese_search.embedding.onnx_runtime import ONNXRuntime
from siamese_search.embedding.openvino_runtime import OpenVINORuntime
from siamese_search.embedding.pipeline import describe_batches
from siamese_search.embedding.runtimes import Runtime
from siamese_search.pictures.read import read_file

BASE = "ONNX Runtime"
# A process whose OpenVINO computes in float32, which no setting asks for.
EXACTLY = """
import sys
from functools import partial
from siamese_search.cli import main
from siamese_search.embedding import runtimes
runtimes.OpenVINORuntime = partial(runtimes.OpenVINORuntime, exact=True)
main()
"""
AS_COMMAND = {
    BASE: ("onnxruntime", ("-m", "siamese_search")),
    "OpenVINO, float32": ("openvino", ("-c", EXACTLY)),
    "OpenVINO": ("openvino", ("-m", "siamese_search")),
}


def exhaust(stream: object) -> None:
    deque(stream, maxlen=0)  # type: ignore[call-overload]


def query_seconds(name: str, arguments: tuple[str, ...]) -> float:
    runtime, command = AS_COMMAND[name]
    os.environ["SIASEARCH_RUNTIME"] = runtime
    return run(*command, *arguments)[0]


def agreement(encoders: dict[str, Encoder], pixels: np.ndarray) -> dict[str, dict[str, float]]:
    """The least and the mean cosine of embeddings, and of places, to those of the base."""
    embeddings, places = encoders[BASE].runtime.describe(pixels)
    found = {}
    for name, encoder in encoders.items():
        others, theirs = encoder.runtime.describe(pixels)
        cosines = {"embeddings": (embeddings * others).sum(axis=1)}
        if places is not None and theirs is not None:
            cosines["places"] = (places * theirs).sum(axis=2)
        found[name] = {
            f"{what}, {how}": float(value)
            for what, values in cosines.items()
            for how, value in (("least", values.min()), ("mean", values.mean()))
        }
    return found


def main() -> None:
    arguments = parser(__doc__, repeats=8)
    arguments.set_defaults(encoder="general-2")
    arguments.add_argument("--photos", type=int, default=300, help="default 300")
    options = arguments.parse_args()
    os.environ["SIASEARCH_DEVICE"] = "cpu"
    chosen = random.Random(1).sample(grocery_split("test"), options.photos)
    photos = [photo.path for photo in chosen]

    made: dict[str, Callable[..., Runtime]] = {
        BASE: ONNXRuntime,
        "OpenVINO, float32": partial(OpenVINORuntime, exact=True),
        "OpenVINO": OpenVINORuntime,
    }
    encoders = {}
    for name, make in made.items():
        encoders[name] = Encoder.open(options.encoder)
        encoders[name].__dict__["runtime"] = make(encoders[name].folder, encoders[name].record)
    how = encoders[BASE]
    pixels = np.stack([how.decode(read_file(path)) for path in photos])

    def enrol(encoder: Encoder) -> float:
        return len(photos) / seconds(lambda: exhaust(encoder.describe_each(photos)))

    def embed(encoder: Encoder) -> float:
        pairs = enumerate(pixels)
        took = seconds(lambda: exhaust(describe_batches(pairs, lambda: encoder.runtime)))
        return 1000 * took / len(pixels)

    repeats = options.repeats
    raw = {
        "decode and embed, images/s": interleaved(
            {name: partial(enrol, encoder) for name, encoder in encoders.items()}, repeats, 1
        ),
        "embed, ms an image": interleaved(
            {name: partial(embed, encoder) for name, encoder in encoders.items()}, repeats, 1
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SIASEARCH_CACHE"] = f"{folder}/cache"
        gallery = ("--gallery", f"{folder}/gallery")
        siasearch("add", *photos[:50], "--yes", "--encoder", options.encoder, *gallery)
        query = ("query", photos[0], *gallery)
        raw["siasearch query, s"] = interleaved(
            {name: partial(query_seconds, name, query) for name in encoders}, repeats, 1
        )
    for what, series in raw.items():
        rows = [
            (name, f"{value:.3g}", f"{median_ratio(series[name], series[BASE]):.2f}")
            for name, value in medians(series).items()
        ]
        table(what, ("runtime", "median", f"to {BASE}"), rows)
    alike = agreement(encoders, pixels)
    table(
        f"Cosine to {BASE}",
        ("runtime", *alike[BASE]),
        [(name, *(f"{value:.5f}" for value in found.values())) for name, found in alike.items()],
    )
    settings = {"photos": options.photos, "repeats": repeats}
    write_results("runtimes", options.encoder, {**settings, "raw": raw, "agreement": alike})


if __name__ == "__main__":
    main()
