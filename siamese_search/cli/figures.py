"""What ``benchmark`` prints: figures, curves and mistakes, for people or as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from siamese_search.cli.common import name_rejections, note, print_json, print_row, say
from siamese_search.records import Rejection

if TYPE_CHECKING:
    from siamese_search.evaluation.curves import Curve
    from siamese_search.evaluation.results import Evaluation
    from siamese_search.evaluation.words import FigureRow

CONFUSIONS = 10  # that are printed
STRANGERS = 10  # those named most often


@dataclass(frozen=True)
class Measured:
    """An evaluation, or those of ``several`` draws, with a title and what could not be read."""

    title: str
    draws: tuple[Evaluation, ...]
    rejected: tuple[Rejection, ...]
    several: bool = False

    @property
    def curves(self) -> list[Curve]:
        """The curves of all draws."""
        from siamese_search.evaluation.curves import pooled

        return [pooled(same) for same in zip(*(one.growth for one in self.draws), strict=True)]


@dataclass(frozen=True)
class MeasuredSuite:
    """Figures of a published data set by name, several of each where there were draws."""

    suite: str
    encoder: str
    figures: dict[str, list[float]]


def print_evaluation(
    measured: Measured, report: Path | None, as_json: bool, as_csv: bool = False
) -> None:
    """Print what was measured, name what could not be read, and write the report if one is asked
    for. Labels that are not enrolled come first: they may change what everything else means.
    """
    curves = measured.curves
    if as_json:
        print_json(_as_json(measured, curves))
    elif as_csv:
        names = list(measured.draws[0].figures)
        _print_table({name: [one.figures[name] for one in measured.draws] for name in names})
    else:
        _print(measured, curves)
    name_rejections(measured.rejected)
    if report is not None:
        from siamese_search.evaluation.report import write_report

        title = measured.title + " (what follows is the first draw)" * measured.several
        write_report(report, title, measured.draws[0], curves)
        plots = "" if find_spec("matplotlib") else "; for plots: pip install 'siamese-search[plot]'"
        note(f"the report is in {report}{plots}")
    elif not (as_json or as_csv):
        note("note: with --report FILE.html a report says what each figure means")


def _as_json(measured: Measured, curves: Sequence[Curve]) -> dict[str, object]:
    first = measured.draws[0]
    points = {"cmc": first.cmc, "det": first.det}
    return {
        "unmatched": [dataclasses.asdict(one) for one in first.unmatched],
        "draws": [
            {name: _known(value) for name, value in one.figures.items()} for one in measured.draws
        ],
        "left_out": [[dataclasses.asdict(each) for each in one.left_out] for one in measured.draws],
        "per_identity": first.per_identity,
        "per_stranger": [dataclasses.asdict(one) for one in first.per_stranger],
        "stranger_rate": first.stranger_rate and dataclasses.asdict(first.stranger_rate),
        "enrolled_probes": first.enrolled_probes,
        "confusions": first.confusions,
        "mistakes": [dataclasses.asdict(one) for one in first.mistakes],
        "curves": points | {curve.what: _points(curve) for curve in curves},
    }


def _points(curve: Curve) -> list[dict[str, object]]:
    """A curve for JSON: at each point the figures of all draws."""
    return [
        {
            curve.what: at,
            "recall@1": [_known(value) for value in curve.recall[:, column].tolist()],
            curve.rate: [_known(value) for value in curve.tpir[:, column].tolist()],
        }
        for column, at in enumerate(curve.at)
    ]


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def _print(measured: Measured, curves: Sequence[Curve]) -> None:
    from siamese_search.evaluation import words

    first = measured.draws[0]
    heading, *labels = words.unmatched_lines(first.unmatched) or [""]
    if heading:
        say(heading)
        _indented(labels)
    say(measured.title)
    _print_figures(words.figure_rows([one.figures for one in measured.draws]))
    for curve in curves:
        _indented(f"{row.at:<20}{row.recall:>17}{row.tpir:>30}" for row in words.curve_rows(curve))
    say(words.RANK_1)
    draws = len(measured.draws)
    if draws == 1:
        _print_strangers(first)
    for line in words.left_out_lines(each for one in measured.draws for each in one.left_out):
        say(line)
    if draws > 1:
        say("in the first draw:")
        _print_strangers(first)
    _indented(
        f"{one.times} of {one.own} taken for {one.named}" for one in first.confusions[:CONFUSIONS]
    )


def _print_strangers(found: Evaluation) -> None:
    """Which strangers got a name, and what that says of others."""
    from siamese_search.evaluation import words

    for line in words.stranger_lines(found.stranger_rate):
        say(line)
    _indented(
        f"{row.named} pictures of {row.name} named: {row.called}"
        for row in words.stranger_rows(found.per_stranger, STRANGERS)
    )


def _print_table(figures: Mapping[str, Sequence[float]]) -> None:
    """A row for each figure, a column for each draw; what is not known is empty."""
    draws = max(map(len, figures.values()), default=0)
    print_row(("figure", *(f"draw {number}" for number in range(1, draws + 1))))
    for name, values in figures.items():
        known = ["" if math.isnan(value) else value for value in values]
        print_row((name, *known, *[""] * (draws - len(known))))


def print_suite(measured: MeasuredSuite, as_json: bool, as_csv: bool = False) -> None:
    """Print the figures of a published data set, in per cent."""
    if as_json:
        print_json(measured.figures)
        return
    if as_csv:
        _print_table(measured.figures)
        return
    from siamese_search.evaluation import words

    say(f"{measured.suite}, encoder {measured.encoder}, per cent")
    _print_figures(words.suite_rows(measured.figures))
    if any("TPIR" in name for name in measured.figures):
        say(words.RANK_1)


def _print_figures(rows: Sequence[FigureRow]) -> None:
    width = max(len(row.name) for row in rows)
    _indented(f"{row.name:<{width}}{row.mean:>9}  {row.spread}".rstrip() for row in rows)


def _indented(lines: Iterable[str]) -> None:
    for line in lines:
        say(f"  {line}")
