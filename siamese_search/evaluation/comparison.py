"""Compare encoders on somebody's own pictures: what each finds, how fast it is, what it takes.

A draw enrols another half of the identities, the others are strangers. All encoders see the same
pictures in the same draws, so that differences are told apart from chance much better than the
figures themselves are. Knows nothing of plots, pages and terminals.
"""

from __future__ import annotations

import math
import os
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from siamese_search.decision.calibration import FPIR
from siamese_search.embedding.about import folder_size
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import UsageError, require_whole
from siamese_search.evaluation.curves import shot_steps
from siamese_search.evaluation.probes import Probes, unusable
from siamese_search.evaluation.protocols import nearest_are_own
from siamese_search.evaluation.results import Evaluation, LeftOutFigure
from siamese_search.evaluation.side_by_side import Embedded, embedded_side_by_side
from siamese_search.evaluation.splits import Split, each_draw, enrolled_classes
from siamese_search.evaluation.standard_errors import Halves, Measured, Shares, beyond_chance
from siamese_search.pictures.kind import Kind
from siamese_search.pictures.sources import normalised
from siamese_search.records import ImageFile, Progress, Rejection, Watcher, unwatched
from siamese_search.words import printable

DRAWS = 10
FEWEST_DRAWS = 5
FEWEST = 10  # identities of two pictures or more
SHOTS = 5  # at most, unless asked for
RATES = (FPIR, 0.1)  # the first that the strangers tell is given
STRANGERS = 0.5

RECALL, ONE_SHOT, RATE = "recall@1", "one shot", "images/s"


@dataclass(frozen=True)
class Figure:
    """A figure's mean and its standard error; shares between 0 and 1, or images a second."""

    mean: float
    error: float
    draws: tuple[float, ...]


@dataclass(frozen=True)
class Contestant:
    """What was measured of an encoder. ``encoder`` is what it was called; ``size`` is that of its
    folder, None where it has none, and ``memory`` the most that a process held which embeds by it,
    in bytes.
    """

    encoder: str
    dimension: int
    figures: dict[str, Figure]
    rate: Figure
    size: int | None
    memory: int | None
    device: str


@dataclass(frozen=True)
class Difference:
    """By how much an encoder is better than another, in a figure; ``told`` where that is beyond
    what chance explains, at 95 % for all together. For ``images/s`` it is by which factor.
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

    ``shots`` pictures are enrolled of each identity, beside one: by default five at most, so that
    half of the identities or more have as many others to ask about. Raises UsageError for fewer
    than two encoders, for one that is named twice, and where too few identities have enough
    pictures.
    """
    names = [printable(one) for one in encoders]
    opened = [Encoder.open(one, device) for one in encoders]
    _require_different(names, opened)
    require_whole("draws", draws, FEWEST_DRAWS)
    files = [replace(file, identity=normalised(file.identity)) for file in files]
    _shots(Counter(file.identity for file in files), shots)  # before anything is embedded
    sides = embedded_side_by_side([one.location for one in opened], files, device, watch)
    probes, rejected = _in_common([side.probes for side in sides])
    try:
        shots = _shots(Counter(probes[0].labels), shots)
    except UsageError as error:  # the files were enough
        few = "too few pictures are left to compare encoders by"
        raise UsageError(f"{few}: {unusable(rejected)}") from error
    ways = [(1, False), *([(shots, False), (shots, True)] if shots > 1 else [])]
    total = len(opened) * len(ways) * draws
    measured: list[dict[str, Measured]] = []
    left_out: list[LeftOutFigure] = []
    for encoder, seen in zip(opened, probes, strict=True):
        before = len(measured) * len(ways) * draws

        def tell(done: int, before: int = before) -> None:
            watch(Progress("measuring", before + done, total))

        figures, gone = _measured(encoder, seen, ways, draws, tell)
        measured.append(figures)
        left_out += gone
    main = calibrated(shots) if shots > 1 else ONE_SHOT
    return Comparison(
        len(probes[0].files),
        len(set(probes[0].labels)),
        draws,
        shots if shots > 1 else None,
        main,
        tuple(map(_contestant, names, opened, sides, measured)),
        tuple(_differences(names, measured, sides, main)),
        tuple(left_out),
        rejected,
    )


def common_kind(encoders: Sequence[str | os.PathLike[str]]) -> Kind:
    """The kind of files that all of these encoders take. Raises UsageError where they differ."""
    first, *others = (Encoder.open(one) for one in encoders)
    for other in others:
        if other.kind != first.kind:
            raise UsageError(
                f"{first.name} takes {first.kind}, and {other.name} {other.kind}: name encoders of"
                " the same files"
            )
    return first.kind


def _contestant(
    name: str, encoder: Encoder, side: Embedded, found: dict[str, Measured]
) -> Contestant:
    figures = {what: Figure(one.mean, one.error, one.draws) for what, one in found.items()}
    size = None if encoder.kind.suffixes else folder_size(encoder.folder, encoder.record)
    return Contestant(name, encoder.dimension, figures, _rate(side), size, side.memory, side.device)


def several(shots: int) -> str:
    """What the figure of several shots is called."""
    return f"{shots} shots"


def calibrated(shots: int) -> str:
    """The same of a gallery that is calibrated: its own metric, and the closer look."""
    return f"{shots} shots, calibrated"


def _require_different(names: Sequence[str], encoders: Sequence[Encoder]) -> None:
    if len(encoders) < 2:
        raise UsageError(
            "one encoder cannot be compared: name two or more (`siasearch encoder list` has them)"
        )
    first: dict[tuple[str, str | None], str] = {}
    for name, encoder in zip(names, encoders, strict=True):
        same = first.setdefault((encoder.fingerprint, encoder.prior_digest), name)
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
    # As many pictures are left to ask about as are enrolled, or more.
    steps = [step for step in shot_steps([n // 2 + 1 for n in several], 1) if step <= SHOTS]
    enough = [step for step in steps if sum(n // 2 >= step for n in several) >= FEWEST]
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


def _recall(encoder: Encoder, seen: Probes) -> Shares:
    """Whether the nearest other picture shows the same thing, where there is such a picture."""
    right = np.array(nearest_are_own(encoder, seen.embeddings, seen.labels))
    labels = np.array(seen.labels, str)
    counts = {name: count for name, count in Counter(seen.labels).items() if count > 1}
    hits = [[float(right[labels == name].sum())] for name in counts]
    return Shares(np.array(hits), np.array([[float(count)] for count in counts.values()]))


def _measured(
    encoder: Encoder,
    seen: Probes,
    ways: Sequence[tuple[int, bool]],
    draws: int,
    tell: Callable[[int], None],
) -> tuple[dict[str, Measured], list[LeftOutFigure]]:
    """The figures of an encoder, and those that are left out. ``ways`` are how many pictures are
    enrolled, and whether the gallery is calibrated; ``tell`` is told how many draws are done.
    """
    found: dict[str, Measured] = {RECALL: _recall(encoder, seen)}
    left_out: list[LeftOutFigure] = []
    done = 0
    for shots, known in ways:
        # Calibrated for the rate that is given, since few identities cannot be for a lower one.
        fpir = FPIR if any(name.endswith(_tpir(FPIR)) for name in found) else RATES[-1]
        made = []
        split = Split(shots, STRANGERS, draws, fpir, calibrated=known)
        for one in each_draw(encoder, seen, split):
            made.append(one)
            left_out += [gone for gone in one.left_out if gone.figure == _tpir(FPIR)]
            done += 1
            tell(done)
        found |= _figures(split, made, seen.labels)
    return found, left_out


def _tpir(rate: float) -> str:
    return f"TPIR at FPIR {rate:g}"


def _figures(
    split: Split, made: Sequence[Evaluation], labels: Sequence[str]
) -> dict[str, Measured]:
    """Of all draws of a split: how often the right one is the best, and the TPIR at the least rate
    that the strangers tell.
    """
    name = ONE_SHOT if split.shots == 1 else several(split.shots)
    name = calibrated(split.shots) if split.calibrated else name
    enough = [one for one, count in Counter(labels).items() if count > split.shots]
    row = {one: number for number, one in enumerate(sorted(enough))}
    right, asked = np.zeros((2, len(row), len(made)))
    for draw, one in enumerate(made):
        for identity in one.per_identity:
            right[row[identity.name], draw] = identity.best
            asked[row[identity.name], draw] = identity.probes
    found: dict[str, Measured] = {name: Shares(right, asked)}
    kept = enrolled_classes(len(row), STRANGERS)
    for rate in RATES:
        values = np.array([one.figures[_tpir(rate)] for one in made])
        if not np.isnan(values).any():
            return found | {f"{name}: {_tpir(rate)}": Halves(values, kept, len(row))}
    return found


def _rate(side: Embedded) -> Figure:
    rates = side.counts / side.seconds
    error = statistics.stdev(rates.tolist()) / math.sqrt(len(rates))
    return Figure(side.rate, error, tuple(rates.tolist()))


def _differences(
    names: Sequence[str],
    measured: Sequence[dict[str, Measured]],
    sides: Sequence[Embedded],
    main: str,
) -> list[Difference]:
    """What the best by the main figure has over each other one.

    The best of many equal ones is ahead by chance: any two of them might have been compared.
    """
    pairs = math.comb(len(names), 2)
    order = sorted(range(len(names)), key=lambda number: -measured[number][main].mean)
    best, *others = order
    found = []
    for other in others:
        for figure, one in measured[best].items():
            apart = one.less(measured[other][figure])  # type: ignore[arg-type]
            mean, error = apart.mean, apart.error
            told = beyond_chance(mean, error, apart.freedom, pairs)
            found.append(Difference(figure, names[best], names[other], mean, error, told))
        # In the same round a busy machine is as busy for the one as for the other.
        logs = np.log(sides[other].seconds / sides[best].seconds)
        mean, error = float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(logs))
        told = beyond_chance(mean, error, len(logs) - 1, pairs)
        times = math.exp(mean)
        found.append(Difference(RATE, names[best], names[other], times, times * error, told))
    return found
