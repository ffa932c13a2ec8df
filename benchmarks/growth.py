"""Does adding one image cost the same, however large the gallery?

    python benchmarks/growth.py [--encoder general] [--repeats 15] [--work DIR]
                                [--sizes 1000,10000,100000,1000000]

Galleries of real embeddings extended to scale (``embeddings.py`` says how), enrolled in chunks and
compacted once; they lie in the work folder while the script runs, a million in several gigabytes.
Per repetition and size, in turn: one photo is enrolled in a fresh process, timed and its written
bytes counted from opening the gallery to the commit, with imports done and the encoder warm; one by
a whole ``siasearch add`` process; and one query by a whole process, which must open the index.
Every photo is a new one, so the galleries grow by a few dozen. The bar: adding to the largest takes
at most 1.2 times the time of adding to the smallest.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from common import (
    Bars,
    curves,
    grocery_split,
    interleaved,
    median_ratio,
    medians,
    parser,
    run,
    siasearch,
    table,
    write_results,
)
from embeddings import Work, enrol, work_argument

from siamese_search import Encoder

# Bytes are those handed to the file system (Linux: /proc/self/io), -1 where nobody counts them.
ADD_ONE = """
import json, sys, time
import faiss, numpy, psutil
from siamese_search import Encoder, Gallery

def written():
    counters = getattr(psutil.Process(), "io_counters", None)
    return counters().write_bytes if counters else -1

folder, encoder, image = sys.argv[1:]
encoder = Encoder.open(encoder)
encoder.embed([numpy.zeros((64, 64, 3), numpy.uint8)])
before, begun = written(), time.perf_counter()
with Gallery.open(folder, encoder) as gallery:
    assert gallery.enroll([image]).added == 1
took = time.perf_counter() - begun
print(json.dumps([took, written() - before]))
"""


class Grown:
    """A gallery of one size and what is done to it."""

    def __init__(self, folder: Path, encoder: Encoder, photos: Iterator[str]) -> None:
        self._folder = str(folder)
        self._encoder = str(encoder.folder)
        self._photos = photos
        self.written: list[float] = []

    def enroll(self) -> float:
        output = run("-c", ADD_ONE, self._folder, self._encoder, next(self._photos))[1]
        took, written = json.loads(output)
        self.written.append(written)
        return float(took)

    def add(self) -> float:
        options = ("--gallery", self._folder, "--encoder", self._encoder)
        return siasearch("add", next(self._photos), *options)[0]

    def query(self) -> float:
        options = ("--gallery", self._folder, "--encoder", self._encoder)
        return siasearch("query", next(self._photos), *options)[0]


def main() -> None:
    arguments = parser(__doc__, repeats=15)
    arguments.add_argument("--sizes", default="1000,10000,100000,1000000")
    arguments.add_argument("--seed", type=int, default=1)
    work_argument(arguments)
    options = arguments.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    encoder = Encoder.open(options.encoder)
    photos = [photo.path for photo in grocery_split("train")]
    random.Random(options.seed).shuffle(photos)
    endless = itertools.cycle(photos)
    work = Work(options.work, encoder, options.seed)
    with tempfile.TemporaryDirectory(dir=options.work) as scratch:
        galleries: dict[int, Grown] = {}
        for size in sizes:
            folder = Path(scratch) / str(size)
            print(f"enrolling {size} embeddings", file=sys.stderr)
            enrol(folder, str(encoder.folder), work.extended.blocks(size))
            galleries[size] = Grown(folder, encoder, endless)
        tasks: dict[str, Callable[[], float]] = {}
        for action in ("enroll", "add", "query"):
            for size, gallery in galleries.items():
                tasks[f"{action} {size}"] = getattr(gallery, action)
        raw = interleaved(tasks, options.repeats, warmups=1)
    written = {str(size): gallery.written[1:] for size, gallery in galleries.items()}
    middle = medians(raw)
    kibibytes = medians(written)
    table(
        f"One image, milliseconds, dimension {encoder.dimension}, medians of {options.repeats}",
        ("stored", "enroll", "KiB written", "siasearch add", "siasearch query"),
        [
            (
                size,
                f"{1000 * middle[f'enroll {size}']:.1f}",
                f"{kibibytes[str(size)] / 1024:.0f}",
                f"{1000 * middle[f'add {size}']:.0f}",
                f"{1000 * middle[f'query {size}']:.0f}",
            )
            for size in sizes
        ],
    )
    bars = Bars()
    for action, name in (("enroll", "Gallery.enroll"), ("add", "siasearch add")):
        ratio = median_ratio(raw[f"{action} {sizes[-1]}"], raw[f"{action} {sizes[0]}"])
        bars.at_most(f"{name} to {sizes[-1]} / to {sizes[0]}", ratio, 1.2, "×")
    bars.show()
    actions = {"Gallery.enroll": "enroll", "siasearch add": "add", "siasearch query": "query"}
    panel = {
        text: {size: middle[f"{name} {size}"] for size in sizes} for text, name in actions.items()
    }
    curves("growth", {"One more image": panel}, across="items", up="seconds")
    settings = {"sizes": sizes, "seed": options.seed, "unit": "seconds, bytes"}
    facts = {"raw": raw, "bytes_written": written, "bars": bars.rows}
    write_results("growth", options.encoder, {**settings, **facts})


if __name__ == "__main__":
    main()
