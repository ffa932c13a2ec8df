"""Does memory stay flat while many images are enrolled?

    python benchmarks/memory.py [--encoder general] [--images 10000] [--repeats 1]

A fresh process enrols 10,000 real photos (Grocery and CUB, seeded order) into a fresh gallery; its
resident memory is sampled each time the gallery reports progress. The bars: a fifth at most
between 1,000 images and the end, and a peak, including the interpreter, the runtime and the
writing of the index file at the end, below 1 GB.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import psutil  # type: ignore[import-untyped]
from common import (
    Bars,
    cub_classes,
    curves,
    grocery_iconic,
    grocery_split,
    parser,
    table,
    write_results,
)

from siamese_search import Gallery
from siamese_search.records import ImageFile, Progress

MEGABYTE = 1e6


def enroll(encoder: str, files: list[ImageFile]) -> dict[str, Any]:
    """Enrol in this process; bytes resident by images done, and the highest ever."""
    process = psutil.Process()
    samples: list[tuple[int, int]] = [(0, process.memory_info().rss)]
    begun = time.perf_counter()

    def watch(progress: Progress) -> None:
        samples.append((progress.done, process.memory_info().rss))

    with tempfile.TemporaryDirectory() as folder, Gallery.open(folder, encoder) as gallery:
        report = gallery.enroll(files, watch=watch)
    assert report.added == len(files), report
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": time.perf_counter() - begun,
        "samples": samples,
        "peak": peak if sys.platform == "darwin" else 1024 * peak,
    }


def resident_at(samples: list[tuple[int, int]], done: int) -> int:
    """Bytes at the first sample with at least so many images done."""
    return next(size for count, size in samples if count >= done)


def draw(runs: Sequence[Mapping[str, Any]]) -> None:
    """Plot what was resident as images were enrolled."""
    series = {
        f"run {number}": {done: size / MEGABYTE for done, size in once["samples"] if done}
        for number, once in enumerate(runs, start=1)
    }
    curves("memory", {"Resident while enrolling": series}, across="images", up="MB")


def main() -> None:
    arguments = parser(__doc__, repeats=1)
    arguments.add_argument("--images", type=int, default=10_000, help="default 10000")
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    photos = [
        *grocery_iconic(),
        *(photo for split in ("train", "val", "test") for photo in grocery_split(split)),
        *(photo for birds in cub_classes() for photo in birds),
    ]
    files = [ImageFile(photo.path, photo.fine) for photo in photos]
    random.Random(options.seed).shuffle(files)
    if len(files) < options.images:
        sys.exit(f"the data sets have {len(files)} photos, not {options.images}")
    files = files[: options.images]
    runs = []
    for _ in range(options.repeats):  # each in a new process
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            runs.append(pool.submit(enroll, options.encoder, files).result())
    bars = Bars()
    stages = [*range(1000, options.images, 1000), options.images]
    for number, once in enumerate(runs, start=1):
        sizes = {done: resident_at(once["samples"], done) for done in stages}
        rate = options.images / once["seconds"]
        table(
            f"Run {number}: {options.images} images, {rate:.0f} a second",
            ("enrolled", "resident, MB"),
            [
                ("0", f"{once['samples'][0][1] / MEGABYTE:.0f}"),
                *((done, f"{size / MEGABYTE:.0f}") for done, size in sizes.items()),
                ("highest ever", f"{once['peak'] / MEGABYTE:.0f}"),
            ],
        )
        growth = sizes[options.images] / sizes[stages[0]]
        bars.at_most(f"run {number}: resident at the end / after {stages[0]}", growth, 1.2, "×")
        bars.at_most(f"run {number}: peak", once["peak"] / MEGABYTE, 1000, " MB")
    bars.show()
    draw(runs)
    settings = {"images": options.images, "seed": options.seed, "unit": "bytes"}
    write_results("memory", options.encoder, {**settings, "raw": runs, "bars": bars.rows})


if __name__ == "__main__":
    main()
