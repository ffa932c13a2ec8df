"""Compare encoders on somebody's own pictures: what each finds, how fast it is, what it takes.

All encoders see the same pictures and the same draws, so that differences are told apart from
chance much better than the figures themselves are. Knows nothing of plots, pages and terminals.

A draw enrols another half of the identities. Figures of halves vary as much as those of other
identities of that number would: so the standard error of a figure is the standard deviation over
draws (the delete-d jackknife, Shao and Wu 1989, with d about half). The same holds for differences.
"""

from __future__ import annotations

import math
import os
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from siamese_search.arrays import DoubleArray
from siamese_search.decision.calibration import FPIR
from siamese_search.embedding.about import folder_size
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import UsageError, require_whole
from siamese_search.evaluation.curves import shot_steps
from siamese_search.evaluation.probes import Probes
from siamese_search.evaluation.protocols import nearest_are_own
from siamese_search.evaluation.results import Evaluation, LeftOutFigure
from siamese_search.evaluation.side_by_side import Embedded, embedded_side_by_side
from siamese_search.evaluation.splits import Split, each_draw, enrolled_classes
from siamese_search.pictures.sources import normalised
from siamese_search.records import ImageFile, Progress, Rejection, Watcher, printable, unwatched

DRAWS = 10
FEWEST_DRAWS = 5
FEWEST = 10  # identities of two pictures or more
SHOTS = 5  # at most, unless asked for
RATES = (FPIR, 0.1)  # the first that the strangers tell is given
STRANGERS = 0.5
SURE = 1.96  # standard errors, if these were known exactly

RECALL, ONE_SHOT = "recall@1", "one shot"


@dataclass(frozen=True)
class Figure:
    """A figure's mean and its standard error; shares between 0 and 1, or images a second."""

    mean: float
    error: float
    draws: tuple[float, ...]


@dataclass(frozen=True)
class Contestant:
    """What was measured of an encoder. ``encoder`` is what it was called; ``size`` is that of its
    folder and ``memory`` the most that a process held which embeds by it, in bytes.
    """

    encoder: str
    dimension: int
    figures: dict[str, Figure]
    rate: Figure
    size: int
    memory: int | None
    device: str


@dataclass(frozen=True)
class Difference:
    """By how much an encoder is better than another, in a figure; ``told`` where that is beyond
    what chance explains, at 95 %. For ``images/s`` it is by which factor.
    """

    figure: str
    better: str
    other: str
    mean: float
    error: float
    told: bool


@dataclass(frozen=True)
class Comparison:
    """Encoders on the same ``pictures`` of so many ``identities``, the best first among the
    ``differences``; ``shots`` are what was enrolled of each beside one shot, None for nothing more.
    """

    pictures: int
    identities: int
    draws: int
    shots: int | None
    main: str  # the figure that says which is the best
    contestants: tuple[Contestant, ...]
    differences: tuple[Difference, ...]
    left_out: tuple[LeftOutFigure, ...]
    rejected: tuple[Rejection, ...]


def compare(
    encoders: Sequence[str | os.PathLike[str]],
    files: Sequence[ImageFile],
    shots: int | None = None,
    draws: int = DRAWS,
    device: str | None = None,
    watch: Watcher = unwatched,
) -> Comparison:
    """Compare encoders, names or folders, by labelled files.

    ``shots`` pictures are enrolled of each identity, beside one: by default as many as half of the
    identities have, five at most. Raises UsageError for fewer than two encoders, for one that is
    named twice, and where too few identities have enough pictures.
    """
    names = [printable(one) for one in encoders]
    opened = [Encoder.open(one, device) for one in encoders]
    _require_different(names, opened)
    require_whole("draws", draws, FEWEST_DRAWS)
    files = [replace(file, identity=normalised(file.identity)) for file in files]
    shots = _shots(Counter(file.identity for file in files), shots)
    sides = embedded_side_by_side([str(one.folder) for one in opened], files, device, watch)
    probes, rejected = _in_common([side.probes for side in sides])
    # What cannot be read may have left too few.
    _shots(Counter(probes[0].labels), shots)
    protocols = [Split(1, STRANGERS, draws, calibrated=False)]
    if shots > 1:
        protocols += [Split(shots, STRANGERS, draws, calibrated=known) for known in (False, True)]
    measured: list[dict[str, _Drawn]] = []
    left_out: list[LeftOutFigure] = []
    total = len(opened) * len(protocols) * draws
    for encoder, seen in zip(opened, probes, strict=True):
        found = {RECALL: _recall(encoder, seen, draws)}
        for split in protocols:
            made = []
            for one in each_draw(encoder, seen, split):
                made.append(one)
                before = len(measured) * len(protocols) + protocols.index(split)
                watch(Progress("measuring", before * draws + len(made), total))
            found |= _figures(split, made, _factor(seen.labels, split.shots))
            left_out += [
                each for one in made for each in one.left_out if each.figure == _tpir(RATES[0])
            ]
        measured.append(found)
    contestants = tuple(
        Contestant(
            name,
            encoder.dimension,
            {figure: drawn.figure for figure, drawn in found.items()},
            _rate(side),
            folder_size(encoder.folder, encoder.record),
            side.memory,
            side.device,
        )
        for name, encoder, side, found in zip(names, opened, sides, measured, strict=True)
    )
    main = calibrated(shots) if shots > 1 else ONE_SHOT
    return Comparison(
        len(probes[0].files),
        len(set(probes[0].labels)),
        draws,
        shots if shots > 1 else None,
        main,
        contestants,
        tuple(_differences(names, measured, sides, main)),
        tuple(left_out),
        rejected,
    )


def several(shots: int) -> str:
    """What the figure of several shots is called."""
    return f"{shots} shots"


def calibrated(shots: int) -> str:
    """The same of a gallery that is calibrated: its own metric, and the closer look."""
    return f"{shots} shots, calibrated"


@dataclass(frozen=True)
class _Drawn:
    """A figure of every draw, float64 (draws,), its mean over all, and by what the deviation
    between draws is multiplied to be the standard error.
    """

    values: DoubleArray
    mean: float
    factor: float

    @property
    def figure(self) -> Figure:
        error = self.factor * float(self.values.std(ddof=1))
        return Figure(self.mean, error, tuple(self.values.tolist()))


def _require_different(names: Sequence[str], encoders: Sequence[Encoder]) -> None:
    if len(encoders) < 2:
        raise UsageError(
            "one encoder cannot be compared: name two or more (`siasearch encoder list` has them)"
        )
    first: dict[str, str] = {}
    for name, encoder in zip(names, encoders, strict=True):
        same = first.setdefault(encoder.fingerprint, name)
        if same != name or names.count(name) > 1:
            raise UsageError(f"{same} and {name} are the same encoder: name different ones")


def _shots(counts: Counter[str], shots: int | None) -> int:
    """How many pictures to enrol of each identity, by how many each has. Raises UsageError where
    too few identities have enough.
    """
    least = 1 if shots is None else shots
    require_whole("shots", least, 1)
    several = [count for count in counts.values() if count > least]
    if not any(count > 1 for count in counts.values()):
        raise UsageError(
            "no two pictures show the same thing: put those of each thing into a folder with its"
            " name, as for `siasearch add`"
        )
    if len(several) < FEWEST:
        need = "two pictures or more" if least == 1 else f"more than {least} pictures"
        raise UsageError(
            f"{len(several)} of {len(counts)} things have {need}, too few to compare encoders by:"
            f" {FEWEST} or more are needed"
        )
    if shots is not None:
        return shots
    steps = [step for step in shot_steps(several, 1) if step <= SHOTS]
    enough = [step for step in steps if sum(count > step for count in several) >= FEWEST]
    return max(enough)


def _in_common(probes: Sequence[Probes]) -> tuple[list[Probes], tuple[Rejection, ...]]:
    """The pictures that every encoder can use and tells apart, in one order; and the others."""
    distinct = [one.distinct() for one in probes]
    rejected = {refused.path: refused for one in distinct for refused in one.rejected}
    usable = set.intersection(*({file.path for file in one.files} for one in distinct))
    kept = [
        one.of(np.flatnonzero([file.path in usable for file in one.files]).astype(np.int64))
        for one in distinct
    ]
    return kept, tuple(rejected.values())


def _factor(labels: Sequence[str], shots: int) -> float:
    """What makes the deviation between draws a standard error: d identities of n are left out."""
    counts = Counter(labels).values()
    classes = sum(count > shots for count in counts)
    kept = enrolled_classes(classes, STRANGERS)
    return math.sqrt(kept / (classes - kept))


def _recall(encoder: Encoder, seen: Probes, draws: int) -> _Drawn:
    """Whether the nearest other picture shows the same thing: of all pictures whose identity has
    another, and in draws of half of these identities.
    """
    right = np.array(nearest_are_own(encoder, seen.embeddings, seen.labels))
    labels = np.array(seen.labels, str)
    names = sorted(name for name, count in Counter(seen.labels).items() if count > 1)
    values = []
    for seed in range(draws):
        order = np.random.default_rng(seed).permutation(names)
        half = order[: enrolled_classes(len(names), STRANGERS)]
        values.append(right[np.isin(labels, half)].mean())
    mean = float(right[np.isin(labels, names)].mean())
    return _Drawn(np.array(values), mean, _factor(seen.labels, 1))


def _tpir(rate: float) -> str:
    return f"TPIR at FPIR {rate:g}"


def _figures(split: Split, made: Sequence[Evaluation], factor: float) -> dict[str, _Drawn]:
    """Of all draws of a split: how often the right one is the best, and the TPIR at the least rate
    that the strangers tell.
    """
    name = ONE_SHOT if split.shots == 1 else several(split.shots)
    name = calibrated(split.shots) if split.calibrated else name

    def drawn(figure: str) -> _Drawn:
        values = np.array([one.figures[figure] for one in made])
        return _Drawn(values, float(values.mean()), factor)

    found = {name: drawn("recall@1")}
    rates = [drawn(_tpir(rate)) for rate in RATES]
    for rate, one in zip(RATES, rates, strict=True):
        if not np.isnan(one.mean):
            return found | {f"{name}: {_tpir(rate)}": one}
    return found


def _rate(side: Embedded) -> Figure:
    rates = side.counts / side.seconds
    error = statistics.stdev(rates.tolist()) / math.sqrt(len(rates))
    return Figure(side.rate, error, tuple(rates.tolist()))


def _differences(
    names: Sequence[str],
    measured: Sequence[dict[str, _Drawn]],
    sides: Sequence[Embedded],
    main: str,
) -> list[Difference]:
    """What the best by the main figure has over each other one."""
    order = sorted(range(len(names)), key=lambda number: -measured[number][main].mean)
    best, *others = order
    found = []
    for other in others:
        for figure, one in measured[best].items():
            against = measured[other][figure]
            apart = one.values - against.values
            error = one.factor * float(apart.std(ddof=1))
            mean = one.mean - against.mean
            told = abs(mean) > _student(len(apart) - 1) * error
            found.append(Difference(figure, names[best], names[other], mean, error, told))
        # In the same round a busy machine is as busy for the one as for the other.
        logs = np.log(sides[other].seconds / sides[best].seconds)
        error = float(logs.std(ddof=1)) / math.sqrt(len(logs))
        told = abs(float(logs.mean())) > _student(len(logs) - 1) * error
        times = math.exp(float(logs.mean()))
        found.append(Difference("images/s", names[best], names[other], times, times * error, told))
    return found


def _student(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t (Abramowitz and Stegun 1964, 26.7.5)."""
    z = SURE
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2
