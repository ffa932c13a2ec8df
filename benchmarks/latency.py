"""How long does a user wait for an answer?

    python benchmarks/latency.py [--encoder general] [--repeats 15] [--probes 200]

Against a gallery of the 2,640 Grocery training photos. Whole processes, taking turns: a bare
interpreter, ``import siamese_search.cli``, ``import torch``, ``siasearch query`` of one photo; the
bars are the query against half of torch's import, and 0.15 s for the command line's import beyond
a bare interpreter. Then where the query's time goes: the seconds of its steps in order, each in
a fresh process, and what importing each heavy package's own modules took
(``-X importtime``). The first query, which leaves the compiled encoder for the others, is not
counted.

In a warm process, paired and interleaved over different probes: ``identify`` of one file against
``Encoder.embed`` of the same file. The bar is on the median of the difference; what identifying
adds to an embedding is also timed by itself, since the spread of the difference is the encoder's.
"""

from __future__ import annotations

import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from common import (
    Bars,
    data_folder,
    grocery_split,
    interleaved,
    lengths,
    median_ratio,
    medians,
    parser,
    percentiles,
    run,
    seconds,
    siasearch,
    table,
    write_results,
)

# What a query does, step by step; GALLERY and IMAGE are replaced.
STEPS = (
    ("import the command line", "import siamese_search.cli"),
    ("import numpy", "import numpy"),
    ("import Pillow", "from PIL import Image, JpegImagePlugin"),
    ("import faiss", "import faiss"),
    ("import the gallery", "from siamese_search.gallery.gallery import Gallery"),
    (
        "import openvino",
        "from siamese_search.embedding.openvino_runtime import import_openvino; import_openvino()",
    ),
    ("open the gallery", "gallery = Gallery.open(GALLERY)"),
    ("open the encoder", "encoder = gallery.encoder"),
    ("read, verify and compile the graph", "runtime = encoder.runtime"),
    ("decode and embed, first", "vectors = encoder.embed([IMAGE])"),
    ("decode and embed, second", "vectors = encoder.embed([IMAGE])"),
    ("read the index and identify", "gallery.identify_embeddings(vectors)"),
    ("identify once more", "gallery.identify_embeddings(vectors)"),
)
HEAVY = ("numpy", "faiss", "openvino", "PIL", "typer", "rich", "sqlite3", "filelock")


def process_seconds(*arguments: str) -> Callable[[], float]:
    return lambda: run(*arguments)[0]


def steps(gallery: str, image: str) -> dict[str, float]:
    """The seconds of each step, in a fresh process."""
    lines = ["import time", "marks = [time.perf_counter()]"]
    for _, code in STEPS:
        lines.append(code.replace("GALLERY", repr(gallery)).replace("IMAGE", repr(image)))
        lines.append("marks.append(time.perf_counter())")
    lines.append("import json; print(json.dumps(marks))")
    marks = json.loads(run("-c", "\n".join(lines))[1])
    took = [after - before for before, after in pairwise(marks)]
    return dict(zip((name for name, _ in STEPS), took, strict=True))


def imports(arguments: Sequence[str]) -> dict[str, float]:
    """Seconds that importing the modules of each heavy package took in a query."""
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "siamese_search", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    total = dict.fromkeys((*HEAVY, "siamese_search itself", "all"), 0.0)
    for own, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \| +([\w.]+)", process.stderr):
        package = name.partition(".")[0]
        total["all"] += int(own) / 1e6
        if package == "siamese_search":
            total["siamese_search itself"] += int(own) / 1e6
        elif package in total:
            total[package] += int(own) / 1e6
    return total


def warm(gallery_folder: str, paths: Sequence[str]) -> dict[str, list[float]]:
    """Seconds for one image at a time, the three taking turns in changing order."""
    from siamese_search import Gallery

    raw: dict[str, list[float]] = {"embed": [], "identify": [], "identify an embedding": []}
    with Gallery.open(gallery_folder) as gallery:
        encoder = gallery.encoder
        for number, path in enumerate([*paths[:10], *paths]):
            vectors = encoder.embed([path])
            tasks: list[tuple[str, Callable[[], object]]] = [
                ("embed", lambda path=path: encoder.embed([path])),  # type: ignore[misc]
                ("identify", lambda path=path: gallery.identify([path])),  # type: ignore[misc]
            ]
            if number % 2:
                tasks.reverse()
            tasks.append(
                ("identify an embedding", lambda v=vectors: gallery.identify_embeddings(v))  # type: ignore[misc]
            )
            for name, task in tasks:
                took = seconds(task)
                if number >= 10:  # the first are for warming up
                    raw[name].append(took)
    return raw


def draw(raw: Mapping[str, Any]) -> None:
    """Plot the medians, cold and warm."""
    warm = {name: 1000 * value for name, value in medians(raw["warm"]).items()}
    panels = {"Whole processes": {n: 1000 * v for n, v in medians(raw["processes"]).items()}}
    lengths("latency", panels | {"One image, warm": warm}, across="milliseconds")


def main() -> None:
    arguments = parser(__doc__, repeats=15)
    arguments.add_argument("--probes", type=int, default=200, help="default 200")
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    probes = [photo.path for photo in grocery_split("test")]
    random.Random(options.seed).shuffle(probes)
    with tempfile.TemporaryDirectory() as gallery:
        train = str(data_folder() / "grocery" / "train")
        siasearch("add", train, "--gallery", gallery, "--encoder", options.encoder)
        query = ("query", probes[0], "--gallery", gallery)
        tasks = {
            "python -c pass": process_seconds("-c", "pass"),
            "import siamese_search.cli": process_seconds("-c", "import siamese_search.cli"),
            "import torch": process_seconds("-c", "import torch"),
            "siasearch query": process_seconds("-m", "siamese_search", *query),
        }
        raw: dict[str, Any] = {"processes": interleaved(tasks, options.repeats, warmups=1)}
        raw["steps"] = [steps(gallery, probes[0]) for _ in range(max(3, options.repeats // 3))]
        raw["imports"] = [imports(query) for _ in range(3)]
        raw["warm"] = warm(gallery, probes[: options.probes])
    processes = raw["processes"]
    table(
        "Whole processes, seconds",
        ("process", "median", "min", "max"),
        [
            (name, f"{value:.3f}", f"{min(processes[name]):.3f}", f"{max(processes[name]):.3f}")
            for name, value in medians(processes).items()
        ],
    )
    for title, key in (
        ("Steps of a query", "steps"),
        ("Imports of a query, own time", "imports"),
    ):
        series = {name: [once[name] for once in raw[key]] for name in raw[key][0]}
        rows = [(name, f"{1000 * value:.1f}") for name, value in medians(series).items()]
        table(f"{title}, milliseconds", (key, "median"), rows)
    pairs = list(zip(raw["warm"]["identify"], raw["warm"]["embed"], strict=True))
    difference = [identify - embed for identify, embed in pairs]
    series = {**raw["warm"], "identify - embed": difference}
    table(
        f"One image in a warm process, milliseconds, {len(difference)} probes",
        ("call", "p50", "p95"),
        [(name, *(f"{cut:.2f}" for cut in percentiles(values))) for name, values in series.items()],
    )
    bars = Bars()
    of_torch = median_ratio(processes["siasearch query"], processes["import torch"])
    bars.at_most("siasearch query / import torch", of_torch, 0.5, "×")
    imported = zip(processes["import siamese_search.cli"], processes["python -c pass"], strict=True)
    beyond = statistics.median(cli - bare for cli, bare in imported)
    bars.at_most("import siamese_search.cli beyond a bare interpreter", beyond, 0.15, " s")
    bars.at_most("identify - embed, warm, median", percentiles(difference)[0], 2, " ms")
    own = percentiles(raw["warm"]["identify an embedding"])[1]
    bars.at_most("identify an embedding, warm, p95", own, 2, " ms")
    bars.show()
    draw(raw)
    settings = {"repeats": options.repeats, "probes": options.probes, "seed": options.seed}
    write_results(
        "latency",
        options.encoder,
        {**settings, "unit": "seconds", "raw": raw, "bars": bars.rows},
    )


if __name__ == "__main__":
    main()
