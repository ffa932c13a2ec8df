"""``benchmark``: how well it works on labelled pictures."""

from __future__ import annotations

import dataclasses
import math
import statistics
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.common import (
    DEFAULT_ENCODER,
    DEFAULT_GALLERY,
    DeviceOption,
    EncoderOption,
    GalleryOption,
    JsonOption,
    RuleOption,
    name_rejections,
    note,
    open_gallery,
    print_json,
)
from siamese_search.errors import UsageError
from siamese_search.files import require_place
from siamese_search.pictures.sources import find, not_empty

if TYPE_CHECKING:
    from siamese_search.evaluation.curves import Curve

# The ways of benchmarking in which an option does something, where it does not in all of them.
MEANT_FOR = {
    "gallery": ("PROBES",),
    "data": ("--suite",),
    "shots": ("--split",),
    "strangers": ("--split",),
    "fpir": ("PROBES", "--split"),
    "report": ("PROBES", "--split"),
    "seeds": ("PROBES", "--split", "--suite grocery", "--suite cub"),
    "rule": ("PROBES", "--split", "--suite grocery", "--suite cub"),
}


def benchmark(
    context: typer.Context,
    probes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROBES...",
            help="Folders of labelled pictures: a folder's name is the identity, as for `add`;"
            " those that are not enrolled are strangers.",
        ),
    ] = None,
    gallery: GalleryOption = DEFAULT_GALLERY,
    split: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Instead of a gallery: enrol some pictures of some of its classes, ask about all"
            " others, and do it again with another draw.",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="grocery|cub|omniglot", help="Instead: the protocols of a published data set."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --suite: the folder that has the data sets."),
    ] = None,
    shots: Annotated[int, typer.Option(min=1, help="With --split: pictures to enrol each.")] = 1,
    strangers: Annotated[
        float, typer.Option(help="With --split: the share of classes that is not enrolled.")
    ] = 0.5,
    seeds: Annotated[
        int, typer.Option(min=1, help="How many draws: of pictures, or of identities for curves.")
    ] = 5,
    fpir: Annotated[
        float | None,
        typer.Option(
            help="The FPIR of the curves, and with --split what to calibrate for; default: what"
            " the gallery is calibrated for, else 0.01."
        ),
    ] = None,
    rule: RuleOption = None,
    report: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Write a report with plots and mistakes.")
    ] = None,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how well it works on your own labelled pictures, and where it fails.

    Also how that changes as more identities are enrolled and, with --split, more pictures of each.
    """
    from siamese_search.decision.calibration import FPIR
    from siamese_search.embedding.encoder import Encoder
    from siamese_search.evaluation.curves import pooled
    from siamese_search.evaluation.evaluate import evaluate, evaluate_splits
    from siamese_search.evaluation.report import write_report
    from siamese_search.records import ImageFile, Rejection

    if [bool(probes), split is not None, suite is not None].count(True) != 1:
        raise UsageError("name labelled PROBES for the gallery, a folder to --split, or a --suite")
    _refuse_idle(
        context, "PROBES" if probes else f"--suite {suite}" if suite is not None else "--split"
    )
    if suite is not None:
        _run_suite(suite, data, encoder, device, rule, seeds, as_json)
        return
    if report is not None:
        require_place(report)
    places = probes or [str(split)]
    found = list(not_empty(find(places), places))
    files = [file for file in found if isinstance(file, ImageFile)]
    rejected = [file for file in found if isinstance(file, Rejection)]
    if split is not None:
        opened = Encoder.open(encoder or DEFAULT_ENCODER, device)
        rate = FPIR if fpir is None else fpir
        made, unread = evaluate_splits(opened, files, shots, strangers, seeds, rate, rule)
        title = f"{split}: {shots} enrolled of each class, {seeds} draws"
    else:
        with open_gallery(gallery, encoder, device) as source:
            made = [evaluate(source, files, rule, fpir, range(seeds))]
        unread = list(made[0].rejected)
        title = f"{gallery}, asked about {', '.join(places)}"
    rejected += unread
    curves = [pooled(same) for same in zip(*(one.growth for one in made), strict=True)]
    if as_json:
        print_json(
            {
                "draws": [_numbers(one.figures) for one in made],
                "per_identity": [list(row) for row in made[0].per_identity],
                "confusions": [list(row) for row in made[0].confusions],
                "mistakes": [dataclasses.asdict(one) for one in made[0].mistakes],
                "curves": made[0].curves | {curve.what: _points(curve) for curve in curves},
            }
        )
    else:
        _print_figures(title, [one.figures for one in made])
        for curve in curves:
            _print_curve(curve)
        if len(made) > 1 and made[0].confusions:
            typer.echo("in the first draw:")
        for own, named, count in made[0].confusions[:10]:
            typer.echo(f"  {count} of {own} taken for {named}")
    name_rejections(rejected)
    if report is not None:
        first = "" if split is None else " (what follows is the first draw)"
        write_report(report, title + first, made[0], curves)
        plots = "" if find_spec("matplotlib") else "; for plots: pip install 'siasearch[plot]'"
        note(f"the report is in {report}{plots}")
    if rejected:
        raise typer.Exit(1)


def _refuse_idle(context: typer.Context, way: str) -> None:
    """Raise UsageError for an option that was given and would do nothing."""
    for name, ways in MEANT_FOR.items():
        source = context.get_parameter_source(name)
        idle = not way.startswith(ways)
        if idle and source is not None and source.name == "COMMANDLINE":
            meant = " or ".join(ways)
            raise UsageError(f"--{name} does nothing with {way}: leave it out, or use {meant}")


def _run_suite(
    suite: str,
    data: Path | None,
    encoder: str | None,
    device: str | None,
    rule: str | None,
    draws: int,
    as_json: bool,
) -> None:
    from siamese_search.embedding.encoder import Encoder
    from siamese_search.evaluation.protocols import SUITES, Pictures

    if suite not in SUITES:
        raise UsageError(f"unknown suite {suite!r}: choose one of {', '.join(SUITES)}")
    if data is None:
        raise UsageError("--suite measures on a published data set: name its folder by --data")
    opened = Encoder.open(encoder or DEFAULT_ENCODER, device)
    figures = SUITES[suite](Pictures(opened, rule), data, draws)
    if as_json:
        print_json(figures)
        return
    typer.echo(f"{suite}, encoder {opened.name}, per cent")
    for name, values in figures.items():
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        typer.echo(f"  {name:<62}{statistics.fmean(values):6.1f}{spread}")


def _numbers(figures: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def _points(curve: Curve) -> list[dict[str, object]]:
    """A curve for JSON: at each point the figures of all draws."""
    return [
        {
            curve.what: at,
            "recall@1": _known(curve.recall[:, column].tolist()),
            curve.rate: _known(curve.tpir[:, column].tolist()),
        }
        for column, at in enumerate(curve.at)
    ]


def _known(values: list[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def _print_curve(curve: Curve) -> None:
    from siamese_search.evaluation.report import curve_rows

    for name, *cells in curve_rows(curve):
        typer.echo(f"  {name:<20}" + "".join(f"{cell:>22}" for cell in cells))


def _print_figures(title: str, draws: list[dict[str, float]]) -> None:
    from siamese_search.evaluation.report import shown

    typer.echo(title)
    for name in draws[0]:
        values = [draw[name] for draw in draws]
        line = f"  {name:<20}{shown(name, statistics.fmean(values)):>9}"
        if len(values) > 1 and not any(math.isnan(value) for value in values):
            line += f"  ± {shown(name, statistics.stdev(values))}"
        typer.echo(line)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(benchmark)
