"""An evaluation in words and numbers for people, on pages and terminals alike.

Knows nothing of HTML and of the command line.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from siamese_search.evaluation.curves import Curve
from siamese_search.evaluation.results import Figures, LeftOutFigure, UnmatchedLabel
from siamese_search.records import counted

RANK_1 = "TPIR is at rank 1: the best identity is right and is named (ISO/IEC 19795-1)."
LABELS = 12  # unmatched labels that are named


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


def left_out_lines(left_out: Iterable[LeftOutFigure]) -> list[str]:
    """Which figures are not given, and why; of several draws the fewest samples count."""
    fewest: dict[str, LeftOutFigure] = {}
    for one in left_out:
        known = fewest.get(one.figure, one)
        fewest[one.figure] = min(one, known, key=lambda found: found.counted)
    return [
        f"{titled(one.figure)} is left out: {one.counted:,} {one.of} cannot show such a rate,"
        f" {one.needed:,} could (rule of three)"
        for one in fewest.values()
    ]
