"""How long until a gallery of 1,000 to 1,000,000 items gives its first answer in a fresh process?

    python benchmarks/opening.py [--encoder general] [--repeats 15] [--work DIR]
                                 [--sizes 1000,10000,100000,1000000]

The galleries are those of ``search.py``, made where they are not there yet. Per repetition and
size, in turn, each in a fresh process and for another photo: ``siasearch query``, from starting the
process to its first line of output, encoder included, and to its end; and from opening the gallery
to the answer of ``Gallery.identify``, with imports done, with the memory held after it. Files are
in the page cache.

Memory is pages of the process's own and pages mapped from files, which the system may take back;
what the gallery itself takes is the difference to the smallest. Then two processes have the same
gallery open, and the second one's pages of the index file are counted by whether they are shared
with the first. The bars are on the largest size.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]
from common import (
    Bars,
    curves,
    grocery_split,
    interleaved,
    medians,
    parser,
    run,
    table,
    write_results,
)
from contenders import OURS, Ours
from embeddings import NOISE, Sized, Work, work_argument

from siamese_search import Encoder, Gallery

# Memory is -1 where nobody counts it. With a third argument it stays until its input ends.
FIRST_ANSWER = """
import json, pathlib, sys, time
import faiss, numpy, openvino
from siamese_search.gallery.gallery import Gallery

def status(field):
    path = pathlib.Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.is_file() else []
    found = [line.split()[1] for line in lines if line.startswith(field + ":")]
    return 1024 * int(found[0]) if found else -1

folder, image, *stay = sys.argv[1:]
begun = time.perf_counter()
gallery = Gallery.open(folder)
opened = time.perf_counter()
gallery.identify([image])
answered = time.perf_counter()
print(json.dumps([opened - begun, answered - begun, status("RssAnon"), status("RssFile")]))
if stay:
    sys.stdout.flush()
    sys.stdin.read()
"""


class Shared(NamedTuple):
    """A second process's pages of an index file, in bytes."""

    size: int
    resident: int
    shared: int
    proportional: int  # each page divided among those who have it


class Opened:
    """A gallery of one size and what it takes to get an answer of it."""

    def __init__(self, gallery: str, photos: Iterator[str]) -> None:
        self._gallery = gallery
        self._photos = photos
        self.whole: list[float] = []
        self.opening: list[float] = []
        self.own: list[float] = []
        self.mapped: list[float] = []

    def query(self) -> float:
        """Seconds to the first line of ``siasearch query``."""
        command = ("-m", "siamese_search", "query", next(self._photos), "--gallery", self._gallery)
        begun = time.perf_counter()
        with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            printed = time.perf_counter() - begun
            process.stdout.read()
        if not line or process.returncode:
            sys.exit(f"python {' '.join(command)} failed")
        self.whole.append(time.perf_counter() - begun)
        return printed

    def identify(self) -> float:
        """Seconds from opening the gallery to the first answer."""
        opening, answer, own, mapped = json.loads(
            run("-c", FIRST_ANSWER, self._gallery, next(self._photos))[1]
        )
        self.opening.append(opening)
        self.own.append(own)
        self.mapped.append(mapped)
        return float(answer)

    def shared(self) -> Shared | None:
        """What a second process shares with a first; None where nobody counts it."""
        if not hasattr(psutil.Process(), "memory_maps"):
            return None
        with Gallery.open(self._gallery) as gallery:
            index = gallery.folder / str(gallery.info().index)
        command = (sys.executable, "-c", FIRST_ANSWER, self._gallery, next(self._photos), "stay")
        processes = []
        try:
            for _ in range(2):
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
                processes.append(process)
                assert process.stdout is not None
                if not process.stdout.readline():  # it has answered, and stays
                    sys.exit(f"no first answer of {self._gallery}")
            maps = psutil.Process(processes[-1].pid).memory_maps()
        finally:
            for process in processes:
                process.communicate()
        ours = [part for part in maps if part.path == str(index.resolve())]
        return Shared(
            index.stat().st_size,
            sum(part.rss for part in ours),
            sum(part.shared_clean + part.shared_dirty for part in ours),
            sum(part.pss for part in ours),
        )


def gallery_of(sized: Sized) -> str:
    """The gallery that ``search.py`` measures, made unless it is there."""
    ours = Ours(sized, OURS)
    if not (ours.folder / "items.npy").exists():  # written last
        print(f"enrolling {sized.size} embeddings", file=sys.stderr)
        shutil.rmtree(ours.folder, ignore_errors=True)
        ours.folder.mkdir()
        ours.build()
    return str(ours.gallery)


def main() -> None:
    arguments = parser(__doc__, repeats=15)
    arguments.add_argument("--sizes", default="1000,10000,100000,1000000")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--noise", type=float, default=NOISE, help=f"default {NOISE}")
    work_argument(arguments)
    options = arguments.parse_args()
    sizes = sorted(int(size) for size in options.sizes.split(","))
    work = Work(options.work, Encoder.open(options.encoder), options.seed, options.noise)
    photos = [photo.path for photo in grocery_split("test")]
    random.Random(options.seed).shuffle(photos)
    endless = itertools.cycle(photos)
    galleries = {size: Opened(gallery_of(work.sized(size)[0]), endless) for size in sizes}
    tasks: dict[str, Callable[[], float]] = {}
    for action in ("query", "identify"):
        for size, gallery in galleries.items():
            tasks[f"{action} {size}"] = getattr(gallery, action)
    raw = interleaved(tasks, options.repeats, warmups=1)
    shared = {size: gallery.shared() for size, gallery in galleries.items()}
    for size, gallery in galleries.items():
        for name in ("whole", "opening", "own", "mapped"):
            raw[f"{name} {size}"] = getattr(gallery, name)[1:]  # the first warmed up
    report(sizes, raw, shared, options.repeats)
    bars = judge(sizes, raw, shared)
    bars.show()
    middle = medians(raw)
    names = {"query": "siasearch query", "identify": "open and identify", "opening": "open"}
    panel = {text: {size: middle[f"{key} {size}"] for size in sizes} for key, text in names.items()}
    curves("opening", {"The first answer": panel}, across="items", up="seconds")
    settings = {"sizes": sizes, "seed": options.seed, "noise": options.noise}
    facts = {
        "unit": "seconds, bytes",
        "raw": raw,
        "index file of a second process": {
            str(size): found and found._asdict() for size, found in shared.items()
        },
        "bars": bars.rows,
    }
    write_results("opening", options.encoder, {**settings, **facts})


def report(
    sizes: list[int], raw: dict[str, list[float]], shared: dict[int, Shared | None], repeats: int
) -> None:
    middle = medians(raw)
    table(
        f"The first answer, medians of {repeats}",
        ("items", "query, s", "to its end", "open and identify, s", "open", "own MB", "mapped MB"),
        [
            (
                size,
                *(f"{middle[f'{key} {size}']:.3f}" for key in ("query", "whole", "identify")),
                f"{middle[f'opening {size}']:.4f}",
                *(f"{middle[f'{key} {size}'] / 1e6:.0f}" for key in ("own", "mapped")),
            )
            for size in sizes
        ],
    )
    table(
        "The index file in a second process, MB",
        ("items", "file", "resident", "shared", "its part of it"),
        [
            (size, *(f"{value / 1e6:.1f}" for value in found))
            for size, found in shared.items()
            if found
        ],
    )


def judge(sizes: list[int], raw: dict[str, list[float]], shared: dict[int, Shared | None]) -> Bars:
    """The bars, of the largest size."""
    bars = Bars()
    least, most = sizes[0], sizes[-1]
    bars.at_most(f"{most}: siasearch query", statistics.median(raw[f"query {most}"]), 1, " s")
    if most > least:
        pairs: Any = zip(raw[f"own {most}"], raw[f"own {least}"], strict=True)
        more = statistics.median((a - b) / (most - least) for a, b in pairs)
        bars.at_most(f"{most}: memory of its own beyond {least}", more, 600, " B/item")
    found = shared[most]
    if found:
        share = 100 * found.shared / found.resident if found.resident else 0
        bars.at_least(f"{most}: mapped index shared with another process", share, 90, " %")
    return bars


if __name__ == "__main__":
    main()
