"""What does it cost to embed pictures in shards, against one process that enrols them?

    python benchmarks/shards.py [--encoder general-2] [--shards 2] [--photos 2640] [--repeats 3]

The photos of the Grocery Store Dataset's training split are enrolled by one `siasearch add` on all
cores, and embedded by so many `siasearch embed --part K/N` at a time, each on a core of its own,
then imported; in turns. *Rate* is photos a second, *per processor second* counts the time of all
cores that was used, which says more on a machine that others use. The galleries must be the same in
all that is known of items; embeddings may differ in their last bits, since a picture is embedded
among others: their least cosine is given, and how many are the same in every bit.
"""

from __future__ import annotations

import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from common import (
    Bars,
    grocery_split,
    median_ratio,
    medians,
    parser,
    siasearch,
    table,
    write_results,
)

from siamese_search.arrays import FloatArray
from siamese_search.storage.exchange import Exchange

LEAST = 0.9  # of the rate of one process


def used() -> float:
    """Processor seconds of all processes that have ended."""
    times = resource.getrusage(resource.RUSAGE_CHILDREN)
    return times.ru_utime + times.ru_stime


def timed(task: Any) -> tuple[float, float]:
    begun, before = time.perf_counter(), used()
    task()
    return time.perf_counter() - begun, used() - before


def contents(folder: Path) -> dict[bytes, tuple[Any, FloatArray]]:
    """All that a gallery knows of its items but when they were added, with their embeddings
    (dimension,), by their content.
    """
    found = {}
    with closing(Exchange(folder / "gallery.db")) as state:
        for block in state.exported(state.state().generation, places=True):
            assert block.embeddings is not None
            for number, facts, vector in zip(
                block.numbers, block.facts, block.embeddings, strict=True
            ):
                known = facts.identity, facts.source, facts.size, dict(facts.metadata)
                found[facts.content] = (*known, number in block.places), vector
    return found


def compared(one: Path, other: Path) -> tuple[bool, float, int]:
    """Whether two galleries know the same; the least cosine of their embeddings of a picture; how
    many of these are the same in every bit.
    """
    ours, theirs = contents(one), contents(other)
    known = {name: facts for name, (facts, _) in ours.items()}
    if known != {name: facts for name, (facts, _) in theirs.items()}:
        return False, -1.0, 0
    pairs = [(vector, theirs[name][1]) for name, (_, vector) in ours.items()]
    return (
        True,
        min(float(a @ b) for a, b in pairs),
        sum(a.tobytes() == b.tobytes() for a, b in pairs),
    )


def main() -> None:
    arguments = parser(__doc__, repeats=3)
    arguments.set_defaults(encoder="general-2")
    arguments.add_argument("--shards", type=int, default=2)
    arguments.add_argument("--photos", type=int, default=2640)
    options = arguments.parse_args()
    photos = grocery_split("train")[: options.photos]
    cores = sorted(os.sched_getaffinity(0))
    raw: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        manifest = Path(place, "photos.csv")
        with open(manifest, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "label", "kind"))
            writer.writerows((photo.path, photo.fine, photo.coarse) for photo in photos)
        same = []
        for repetition in range(options.repeats):
            here = Path(place, str(repetition))
            here.mkdir()
            asked = ("--manifest", str(manifest), "--encoder", options.encoder)
            tables = [here / f"{number}.parquet" for number in range(1, options.shards + 1)]

            def embed(tables: list[Path] = tables, asked: tuple[str, ...] = asked) -> None:
                running, command = [], [sys.executable, "-m", "siamese_search", "embed", *asked]
                for number, out in enumerate(tables, 1):
                    own = {cores[number % len(cores)]}
                    running.append(
                        subprocess.Popen(
                            [*command, "--part", f"{number}/{options.shards}", "--out", str(out)],
                            stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL,
                            preexec_fn=partial(os.sched_setaffinity, 0, own),
                        )
                    )
                assert not any(process.wait() for process in running)

            def one(here: Path = here, asked: tuple[str, ...] = asked) -> None:
                siasearch("add", "-g", str(here / "one"), *asked)

            def imported(here: Path = here, tables: list[Path] = tables) -> None:
                siasearch("import", *map(str, tables), "-g", str(here / "all"))

            for name, task in {"one": one, "embed": embed, "import": imported}.items():
                took, processor = timed(task)
                raw.setdefault(f"{name}, seconds", []).append(took)
                raw.setdefault(f"{name}, processor seconds", []).append(processor)
                print(f"  {repetition + 1} {name}: {took:.1f} s, {processor:.1f}", file=sys.stderr)
            same.append(compared(here / "one", here / "all"))
    rows = [(name, f"{value:.1f}") for name, value in medians(raw).items()]
    table(f"{len(photos)} photos, {options.shards} shards", ("what", "median"), rows)
    rate = median_ratio(raw["one, seconds"], raw["embed, seconds"])
    per_core = median_ratio(raw["one, processor seconds"], raw["embed, processor seconds"])
    bars = Bars()
    bars.at_least("rate of shards against one process", rate, LEAST)
    bars.at_least("the same per processor second", per_core, LEAST)
    bars.at_least("galleries that know the same", sum(one[0] for one in same), options.repeats)
    bars.at_least("least cosine of an embedding", min(one[1] for one in same), 0.9999)
    bars.show()
    equal = min(one[2] for one in same)
    print(f"\n{equal} of {len(photos)} embeddings are the same in every bit")
    results = {"photos": len(photos), "shards": options.shards, "raw": raw, "same": same}
    write_results("shards", options.encoder, results | {"bars": bars.rows})


if __name__ == "__main__":
    main()
