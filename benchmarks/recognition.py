"""How many are named rightly by a gallery as users have it, and at what rate of strangers?

    python benchmarks/recognition.py [--encoders general general-2] [--repeats 20] [--set NAME ...]

In every draw some pictures are enrolled through ``Gallery``, all others are probes (no more than
``PROBES`` of them), asked as ``siamese_search query`` asks: *uncalibrated* as after ``add`` alone;
*plain* after ``calibrate --metric none --closer none``; *metric* after ``calibrate --closer none``;
*closer* after ``calibrate``. ``first``: the best identity is the right one, whatever the threshold.
TPIR: named rightly at exactly 1 % of strangers named, by evidence. *got*: the share of strangers
that got a name where 1 and 5 % were asked for. What was chosen was chosen on ``domains``, birds and
groceries are for reporting.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    RESULTS,
    cub_classes,
    data_folder,
    grocery_iconic,
    grocery_split,
    parser,
    table,
    write_results,
)

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray, IntArray
from siamese_search.errors import UsageError
from siamese_search.evaluation import metrics
from siamese_search.records import Identification

PROBES = 1000
RATES = (0.01, 0.05)
FIGURES = ("first", "TPIR", "got 1 %", "got 5 %")
# The metric that calibration looks for, if it calibrates, and whether candidates are looked at.
WAYS: dict[str, tuple[str | None, bool]] = {
    "uncalibrated": (None, False),
    "plain": ("none", False),
    "metric": ("auto", False),
    "closer": ("auto", True),
}


@dataclass(frozen=True)
class Pictures:
    """Pictures (n) as an encoder describes them, with their classes."""

    vectors: FloatArray
    places: list[Any]  # float16 (49, 64), None where the encoder gives none
    classes: np.ndarray[Any, np.dtype[np.str_]]

    def take(self, rows: IntArray) -> Pictures:
        """Some of them."""
        places = [self.places[row] for row in rows.tolist()]
        return Pictures(self.vectors[rows], places, self.classes[rows])


def described(encoder: Encoder, named: list[tuple[str, str]]) -> Pictures:
    """Files with their classes; equal embeddings are told apart by their last bit."""
    found = encoder.describe([path for path, _ in named])
    vectors = np.stack([one.embedding for one in found])
    seen: set[bytes] = set()
    for row in vectors:
        while row.tobytes() in seen:
            row[0] = np.nextafter(row[0], np.float32(1))
        seen.add(row.tobytes())
    places = [None if one.places is None else one.places.astype(np.float16) for one in found]
    return Pictures(vectors, places, np.array([name for _, name in named], str))


def some_of_each(
    pictures: Pictures, shots: int, chance: np.random.Generator, classes: list[str]
) -> IntArray:
    rows = [
        chance.permutation(np.flatnonzero(pictures.classes == name))[:shots] for name in classes
    ]
    return np.concatenate(rows)


Draw = tuple[Pictures, Pictures]
Draws = Callable[[np.random.Generator], Draw]


def within(pictures: Pictures, shots: int, identities: int | None = None) -> Draws:
    """Some pictures of every class, or of some classes; all others are asked."""

    def draw(chance: np.random.Generator) -> Draw:
        names = np.unique(pictures.classes).tolist()
        if identities is not None:
            names = chance.permutation(names)[:identities].tolist()
        rows = some_of_each(pictures, shots, chance, names)
        others = np.setdiff1d(np.arange(len(pictures.classes)), rows)
        return pictures.take(rows), pictures.take(chance.permutation(others)[:PROBES])

    return draw


def across(enrolled: Pictures, asked: Pictures, shots: int, names: list[str]) -> Draws:
    """Some pictures of these classes; all pictures of another day are asked."""

    def draw(chance: np.random.Generator) -> Draw:
        rows = some_of_each(enrolled, shots, chance, names)
        probes = np.arange(len(asked.classes))
        return enrolled.take(rows), asked.take(chance.permutation(probes)[:PROBES])

    return draw


def settings(encoder: Encoder, wanted: list[str]) -> Iterator[tuple[str, Draws]]:
    """What is measured, by name."""
    data = data_folder()
    for name in ("cars", "faces", "flowers", "objects", "signs"):
        if name in wanted:
            files = sorted((data / "domains" / name).glob("*/*.jpg"))
            pictures = described(encoder, [(str(file), file.parent.name) for file in files])
            half = len(np.unique(pictures.classes)) // 2
            for shots in (1, 4):
                yield f"{name}, {shots}", within(pictures, shots)
            yield f"{name}, 4, half are strangers", within(pictures, 4, half)
    if "birds" in wanted:
        photos = [photo for bird in cub_classes()[100:] for photo in bird]
        pictures = described(encoder, [(photo.path, photo.fine) for photo in photos])
        for shots in (1, 5):
            yield f"birds, {shots}", within(pictures, shots)
        yield "birds, 5, half are strangers", within(pictures, 5, 50)
    if "groceries" in wanted:
        days = [
            described(encoder, [(p.path, p.fine) for p in grocery_split(split)])
            for split in ("train", "test")
        ]
        names = np.unique(days[0].classes).tolist()
        odd, even = ([n for n in names if int(n) % 2 == rest] for rest in (1, 0))
        for shots in (1, 5):
            own = days[1].take(np.flatnonzero(np.isin(days[1].classes, odd)))
            yield f"groceries, {shots}", across(days[0], own, shots, odd)
        yield "groceries, 5, half are strangers", across(days[0], days[1], 5, even)
        icons = described(encoder, [(photo.path, photo.fine) for photo in grocery_iconic()])
        yield "groceries, catalogue", across(icons, days[1], 1, names)


def measure(encoder: Encoder, draw: Draw) -> dict[str, dict[str, float]]:
    """One draw: the figures of each way."""
    enrolled, asked = draw
    known = np.isin(asked.classes, enrolled.classes)
    found = {}
    with tempfile.TemporaryDirectory() as folder, Gallery.open(folder, encoder) as gallery:
        gallery.enroll_embeddings(
            enrolled.vectors, enrolled.classes.tolist(), places=enrolled.places
        )
        for way, (metric, closely) in WAYS.items():
            figures = {}
            places = asked.places if closely else None
            if metric is not None and not closely:
                calibrate(gallery, metric)
            for rate in RATES if gallery.calibration and not known.all() else ():
                try:
                    at_rate = gallery.identify_embeddings(
                        asked.vectors, k=5, fpir=rate, places=places
                    )
                except UsageError:  # too few for this rate
                    continue
                named = np.array([answer.identity is not None for answer in at_rate])
                figures[f"got {100 * rate:.0f} %"] = 100 * float(named[~known].mean())
            answers = gallery.identify_embeddings(asked.vectors, k=5, places=places)
            right = np.array([a.matches[0].identity for a in answers]) == asked.classes
            figures["first"] = 100 * float(right[known].mean())
            if not known.all():
                shown = np.array([evidence_of(answer) for answer in answers])
                figures["TPIR"] = 100 * metrics.tpir_at_fpir(shown, right, known, RATES[0]).tpir
            found[way] = figures
    return found


def calibrate(gallery: Gallery, metric: str) -> None:
    """For the least rate that is measured, or for more where there are too few identities."""
    for rate in (*RATES, 0.1, 0.3):
        try:
            gallery.calibrate(rate, metric=metric)
            return
        except UsageError:
            continue


def evidence_of(answer: Identification) -> float:
    """The best identity's score less half of the best other's."""
    best, *others = answer.matches
    return best.score - 0.5 * max([0.0, *(other.score for other in others)])


def main() -> None:
    arguments = parser(__doc__, repeats=20)
    arguments.add_argument("--encoders", nargs="+", default=["general", "general-2"])
    names = ("cars", "faces", "flowers", "objects", "signs", "birds", "groceries")
    arguments.add_argument("--set", nargs="+", choices=names, default=list(names))
    options = arguments.parse_args()
    stored = Path(RESULTS / "recognition.json")
    results: dict[str, Any] = json.loads(stored.read_text())["draws"] if stored.exists() else {}
    for name in options.encoders:
        encoder = Encoder.open(name)
        for setting, draws in settings(encoder, options.set):
            seeds = range(options.repeats)
            measured = [measure(encoder, draws(np.random.default_rng(seed))) for seed in seeds]
            results.setdefault(name, {})[setting] = measured
            print(*row(name, setting, measured), sep="\t", file=sys.stderr, flush=True)
            write_results("recognition", name, {"draws": results})
    rows = [row(name, key, draws) for name in results for key, draws in results[name].items()]
    heads = [f"{figure}, {way}" for figure in FIGURES for way in WAYS]
    table("Per cent, means over draws", ("encoder", "set, pictures each", "draws", *heads), rows)


def row(name: str, setting: str, draws: list[dict[str, dict[str, float]]]) -> list[object]:
    """Means over draws."""
    cells = []
    for figure in FIGURES:
        for way in WAYS:
            values = [draw[way][figure] for draw in draws if figure in draw[way]]
            cells.append(f"{statistics.fmean(values):.1f}" if values else "")
    return [name, setting, len(draws), *cells]


if __name__ == "__main__":
    main()
