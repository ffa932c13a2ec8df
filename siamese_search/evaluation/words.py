"""An evaluation in words and numbers for people, on pages and terminals alike.

Knows nothing of HTML and of the command line.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from siamese_search.evaluation.curves import Curve
from siamese_search.evaluation.metrics import samples_needed
from siamese_search.evaluation.results import (
    Figures,
    LeftOutFigure,
    StrangerRate,
    StrangerResult,
    UnmatchedLabel,
)
from siamese_search.words import counted

RANK_1 = "TPIR is at rank 1: the best identity is right and is named (ISO/IEC 19795-1)."
LABELS = 12  # unmatched labels that are named
CALLED = 4  # names of one stranger
FEW = 0.1  # the rate that strangers should tell where none was asked for


def titled(figure: str) -> str:
    """A figure's name for people: at which rank a TPIR is."""
    return figure.replace("TPIR", "TPIR (rank 1)")


def shown(name: str, value: float) -> str:
    """A figure for people."""
    if math.isnan(value):
        return "-"
    if name in ("probes", "strangers", "identities", "items"):
        return f"{value:.0f}"
    if name == "probes per second":
        return f"{value:.1f}"
    return f"{value:.3f}" if name in ("AUC", "MRR", "calibration error") else f"{value:.1%}"


class FigureRow(NamedTuple):
    """A figure's name and mean, and, of several draws, its standard deviation, as ``± 1.5%``."""

    name: str
    mean: str
    spread: str


class StrangerRow(NamedTuple):
    """A stranger that was named: its label, in how many of its pictures, and as whom how often."""

    name: str
    named: str
    called: str


class CurveRow(NamedTuple):
    """A point of a curve, or the header; shares with their standard deviation."""

    at: str
    recall: str
    tpir: str


def figure_rows(draws: Sequence[Figures]) -> list[FigureRow]:
    """Figures of one draw or several."""
    rows = []
    for name in draws[0]:
        values = [draw[name] for draw in draws]
        spread = ""
        if len(values) > 1 and not any(math.isnan(one) for one in values):
            spread = f"± {shown(name, statistics.stdev(values))}"
        rows.append(FigureRow(titled(name), shown(name, statistics.fmean(values)), spread))
    return rows


def suite_rows(figures: Mapping[str, Sequence[float]]) -> list[FigureRow]:
    """The figures of a published data set, in per cent."""
    return [
        FigureRow(
            titled(name),
            f"{statistics.fmean(values):.1f}",
            f"± {statistics.stdev(values):.1f}" if len(values) > 1 else "",
        )
        for name, values in figures.items()
    ]


def curve_rows(curve: Curve) -> list[CurveRow]:
    """A curve: a header, then a row for each point."""
    rows = [CurveRow(f"over {curve.what}", "recall@1", titled(curve.rate))]
    for column, at in enumerate(curve.at):
        recall, tpir = (_spread(rates[:, column].tolist()) for rates in (curve.recall, curve.tpir))
        rows.append(CurveRow(str(at), recall, tpir))
    return rows


def _spread(values: Sequence[float]) -> str:
    """The mean of some shares, with their standard deviation."""
    mean = statistics.fmean(values)
    if math.isnan(mean) or len(values) < 2:
        return shown("", mean)
    return f"{mean:.1%} ± {statistics.stdev(values):.1%}"


def unmatched_lines(unmatched: Sequence[UnmatchedLabel]) -> list[str]:
    """What counts as strangers because its label is not enrolled; a heading, then the labels."""
    if not unmatched:
        return []
    pictures = sum(one.pictures for one in unmatched)
    labels = "1 label is" if len(unmatched) == 1 else f"{len(unmatched):,} labels are"
    count = "picture counts as a stranger" if pictures == 1 else "pictures count as strangers"
    whose = "its" if len(unmatched) == 1 else "their"
    lines = [f"{labels} not enrolled, so {whose} {pictures:,} {count}:"]
    for one in unmatched[:LABELS]:
        near = f" (near: {', '.join(one.near)})" if one.near else ""
        lines.append(f"{one.label}, {counted(one.pictures, 'picture')}{near}")
    if len(unmatched) > LABELS:
        hidden = unmatched[LABELS:]
        others = sum(bool(one.near) for one in hidden)
        named = f", {others} near to a name that is" if others else ""
        lines.append(f"and {counted(len(hidden), 'more label')}{named}; --json lists all")
    return lines


def percent(share: float) -> str:
    """A rate to two figures, as ``1.2%``; what is below one in 10,000 nobody can tell."""
    return f"{float(f'{100 * share:.2g}'):g}%" if share >= 1e-4 else "0%"


def stranger_lines(rate: StrangerRate | None) -> list[str]:
    """How many strangers got a name, of how many different things, and what that says of others."""
    if rate is None:
        return []
    if rate.things == rate.probes:
        told = f"{rate.named} of {counted(rate.probes, 'stranger')} got a name"
        since = "; pictures of one thing belong in one folder, to count as one" * (rate.probes > 1)
    else:
        pictures = f"{counted(rate.probes, 'picture')} of strangers"
        whose = f"of {rate.named_things} out of {counted(rate.things, 'thing')}"
        if rate.named_things == 1:
            whose = f"all of 1 thing out of {rate.things}"
        if not rate.named:
            whose = f"they show {counted(rate.things, 'thing')}"
        told = f"{rate.named} of {pictures} got a name: {whose}"
        since = ", since pictures of one thing tell little of others"
    lines = [
        f"{told}. Of strangers like these likely {percent(rate.lower)} to {percent(rate.upper)}"
        f" would get one{since}"
    ]
    needed = samples_needed(rate.asked or FEW)
    if rate.things < needed:
        of = "to tell a rate" if rate.asked is None else f"to see a rate of {percent(rate.asked)}"
        lines.append(
            f"{counted(rate.things, 'different stranger is', 'different strangers are')} few {of}:"
            f" show {needed:,} or so, a folder each"
        )
    return lines


def stranger_rows(results: Iterable[StrangerResult], most: int) -> list[StrangerRow]:
    """The strangers that were named, the most often first: at most so many."""
    return [
        StrangerRow(
            one.name,
            f"{one.named} of {one.probes}",
            ", ".join(f"{name} {times}" for name, times in one.called[:CALLED])
            + ", …" * (len(one.called) > CALLED),
        )
        for one in [one for one in results if one.named][:most]
    ]


def enrolled_lines(enrolled: int, probes: float) -> list[str]:
    """That probes are enrolled themselves."""
    if not enrolled:
        return []
    are = "probe is enrolled itself" if enrolled == 1 else "probes are enrolled themselves"
    return [
        f"{enrolled} of {probes:.0f} {are}, and found of course: others will do less well than"
        " these figures say"
    ]


def left_out_lines(left_out: Iterable[LeftOutFigure]) -> list[str]:
    """Which figures are not given, and why; of several draws the fewest samples count."""
    fewest: dict[str, LeftOutFigure] = {}
    for one in left_out:
        known = fewest.get(one.figure, one)
        fewest[one.figure] = min(one, known, key=lambda found: found.counted)
    return [
        f"{titled(one.figure)} is left out: {one.counted:,}"
        f" {'pictures of ' * (one.of == 'strangers')}{one.of} cannot show such a rate,"
        f" {one.needed:,} could (rule of three)"
        for one in fewest.values()
    ]
