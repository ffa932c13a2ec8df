"""Let 8 processes write to one gallery, 500 times each: nothing may be lost or doubled.

    python benchmarks/faults/processes.py --seed 1

Each process enrols embeddings, in blocks, of its own and of some that all of them try to enrol;
removes and relabels items of its own, and compacts now and then. In between it asks for what is
its own, which must be found at once, under its name of now. In the end the gallery must hold what
the processes were told, each item number be given once, and each embedding that was shared be
enrolled once. Writes ``results/processes.json`` beside this file.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from campaign import finish, parser, scratch
from conftest import write_toy_encoder

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray
from siamese_search.errors import SiaSearchError, UsageError

DIMENSION = 49  # of the toy encoder
SHARED = 200  # embeddings that all processes try to enrol
KINDS = ("add", "add", "add", "add shared", "remove", "relabel", "relabel", "compact")
CHANCES = (0.2, 0.15, 0.1, 0.2, 0.15, 0.1, 0.09, 0.01)


def unit(seed: list[int], rows: int = 1) -> FloatArray:
    """Embeddings that a seed gives, always the same (rows, dimension)."""
    vectors = np.random.default_rng(seed).normal(size=(rows, DIMENSION)).astype(np.float32)
    made: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return made


@dataclass
class Writer:
    """A process that writes, and what it was told: its items with their names and embeddings."""

    gallery: Gallery
    number: int
    seed: int
    mine: dict[int, tuple[str, FloatArray]] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    done: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def write(self, turn: int) -> None:
        """One write, and a question."""
        chance = np.random.default_rng([self.seed, self.number, turn])
        kind = str(chance.choice(KINDS, p=CHANCES))
        if kind in ("remove", "relabel") and not self.mine:
            kind = "add"
        if kind == "add":
            vectors = unit([self.seed, self.number, turn, 1], int(chance.integers(1, 6)))
            names = [f"of {self.number}, {chance.integers(9)}" for _ in vectors]
            numbers = self.gallery.enroll_embeddings(vectors, names)
            self.mine |= dict(zip(numbers, zip(names, vectors, strict=True), strict=True))
        elif kind == "add shared":
            vector = unit([self.seed, int(chance.integers(SHARED))])
            try:
                (number,) = self.gallery.enroll_embeddings(vector, [f"of {self.number}, shared"])
                self.mine[number] = f"of {self.number}, shared", vector[0]
            except UsageError:
                kind = "refused, enrolled already"
        elif kind == "compact":
            self.gallery.compact()
        else:
            item = int(chance.choice(list(self.mine)))
            if kind == "remove":
                self.gallery.remove(item=item)
                del self.mine[item]
                self.gone.add(item)
            else:
                name = f"of {self.number}, {chance.integers(9)}"
                self.gallery.relabel(None, name, item=item)
                self.mine[item] = name, self.mine[item][1]
        self.done[kind] += 1
        self._ask(chance)

    def _ask(self, chance: np.random.Generator) -> None:
        if not self.mine:
            return
        item = int(chance.choice(list(self.mine)))
        name, vector = self.mine[item]
        match = self.gallery.identify_embeddings(vector[None], k=1, rule="best")[0].matches[0]
        if (match.item, match.identity) != (item, name):
            self.faults.append(f"item {item}, {name!r}, is answered by {match}")


def work(folder: Path, number: int, seed: int, writes: int) -> dict[str, Any]:
    """A process's share."""
    with Gallery.open(folder) as gallery:
        writer = Writer(gallery, number, seed)
        for turn in range(writes):
            try:
                writer.write(turn)
            except SiaSearchError as error:
                writer.faults.append(f"process {number}, write {turn}: {error}")
    return {
        "items": {item: name for item, (name, _) in writer.mine.items()},
        "gone": sorted(writer.gone),
        "done": dict(writer.done),
        "faults": writer.faults,
    }


def lost_or_doubled(folder: Path, told: list[dict[str, Any]]) -> list[str]:
    """Where the gallery is not what the processes were told."""
    faults = []
    with Gallery.open(folder) as gallery:
        faults += [f"check: {fault}" for fault in gallery.check()]
        items = [item for name, _ in gallery.identities() for item in gallery.items(name)]
        count = len(gallery)
    found = {item.number: item.identity for item in items}
    contents = Counter(item.content for item in items)
    faults += [f"content {one} is there {c} times" for one, c in contents.items() if c > 1]
    expected = {item: name for one in told for item, name in one["items"].items()}
    faults += [f"item {n} is lost" for n in sorted(expected.keys() - found.keys())]
    faults += [f"nobody enrolled item {n}" for n in sorted(found.keys() - expected.keys())]
    faults += [
        f"item {n} is {found[n]!r}, not {expected[n]!r}"
        for n in sorted(found.keys() & expected.keys())
        if found[n] != expected[n]
    ]
    numbers = Counter(n for one in told for n in (*one["items"], *one["gone"]))
    faults += [f"item number {n} was given {c} times" for n, c in numbers.items() if c > 1]
    if count != len(expected):
        faults.append(f"{count} items are counted, {len(expected)} were enrolled")
    return faults


@contextmanager
def pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as opened:
        yield opened


def trial(options: argparse.Namespace) -> dict[str, Any]:
    """All processes at once, and what is wrong afterwards."""
    with scratch(memory=False) as root, pool(options.processes) as opened:
        folder = Path(root) / "gallery"
        Gallery.open(folder, Encoder.open(write_toy_encoder(Path(root) / "toy"), "cpu")).close()
        running = [
            opened.submit(work, folder, number, options.seed, options.writes)
            for number in range(options.processes)
        ]
        told = [future.result() for future in running]
        faults = [fault for one in told for fault in one["faults"]]
        return {
            "writes": dict(sum((Counter(one["done"]) for one in told), Counter())),
            "items": sum(len(one["items"]) for one in told),
            "faults": faults + lost_or_doubled(folder, told),
        }


def main() -> int:
    """Run, print, and write the result."""
    arguments = parser(__doc__, "processes", 0)
    arguments.set_defaults(processes=8)
    arguments.add_argument("--writes", type=int, default=500, help="of each; default 500")
    options = arguments.parse_args()
    began = time.monotonic()
    result = trial(options)
    summary = (
        f"{options.processes} processes, {options.writes} writes each, on one gallery:"
        f" {sum(result['writes'].values())} writes, {result['items']} items,"
        f" {len(result['faults'])} faults"
    )
    return finish(options, began, summary, result)


if __name__ == "__main__":
    sys.exit(main())
