"""``calibrate``, ``benchmark`` and ``audit``: error rates, and what looks wrong."""

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
    counted,
    encoder_for,
    name_rejections,
    near,
    note,
    open_gallery,
    print_json,
    progress_bar,
)
from siamese_search.errors import UsageError
from siamese_search.files import require_place
from siamese_search.records import DUPLICATE

if TYPE_CHECKING:
    from siamese_search.evaluation.curves import Curve
    from siamese_search.records import Calibration, Item, Rejection

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


def calibrate(
    gallery: GalleryOption = DEFAULT_GALLERY,
    fpir: Annotated[
        float | None,
        typer.Option(
            help="The share of strangers' probes that may get an identity; default: what was"
            " chosen before, else 0.01."
        ),
    ] = None,
    rule: RuleOption = None,
    strangers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Pictures, or folders of them, of things that are not enrolled, such as they are"
            " asked about; better than the gallery's own where probes look unlike it. Repeatable.",
        ),
    ] = None,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the threshold by the error rate that you allow.

    The gallery's own items tell how strangers score: each is searched with its own identity left
    out. It also fits the confidence. Run it again when the gallery has changed much.
    """
    rejected: list[Rejection] = []
    try:
        with open_gallery(gallery, encoder, device) as target:
            found = target.calibrate(fpir, rule=rule, strangers=strangers, reject=rejected.append)
    finally:
        name_rejections(rejected)
    if as_json:
        named = {"rejected": [{"path": r.path, "reason": r.reason} for r in rejected]}
        print_json(dataclasses.asdict(found) | named)
    else:
        typer.echo(_described(found))
    if rejected:
        raise typer.Exit(1)


def _described(found: Calibration) -> str:
    from siamese_search.reference import RATES

    # Beyond these nothing is known.
    least = f"{found.lower:.2g}" + " or less" * (found.lower <= RATES[0])
    most = f"{found.upper:.2g}" + " or more" * (found.upper >= RATES[-1])
    lines = [
        f"calibrated for an FPIR of {found.fpir:.3g} with {found.identities} identities"
        f" (rule {found.rule}): the true rate likely lies between {least} and {most}"
    ]
    what = "pictures of strangers" if found.source == "strangers" else "of the gallery's own items"
    if found.extrapolated:
        lines.append(
            f"{found.strangers} {what} are few for this rate: the rest is extrapolated by what is"
            " known of the encoder"
        )
    if not found.fitted:
        lines.append(
            "confidence rests on what is known of the encoder, too: too few identities have"
            " several items that find each other"
        )
    return "\n".join(lines)


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
    from siamese_search import enrolment
    from siamese_search.calibration import FPIR
    from siamese_search.encoder import Encoder
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
    found = list(enrolment.not_empty(enrolment.find(places), places))
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
    from siamese_search.encoder import Encoder
    from siamese_search.evaluation.suites import SUITES, Pictures

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


def audit(
    gallery: GalleryOption = DEFAULT_GALLERY,
    top: Annotated[int, typer.Option(min=1, help="How many of each kind to show.")] = 20,
    duplicate: Annotated[
        float, typer.Option(min=-1.0, max=1.0, help="The cosine from which pictures are the same.")
    ] = DUPLICATE,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what looks wrong: likely wrong labels, near-duplicates, identities not told apart.

    Every item is searched without itself. Nothing is changed: `relabel --item` and `remove --item`
    correct. With --json, likely wrong labels come first, all items in the order of their doubt.
    """
    with open_gallery(gallery, encoder, device) as source:
        with progress_bar("auditing", lambda: len(source)) as watch:
            found = source.audit(duplicate=duplicate, watch=watch)
        numbers = {item for pair in found.duplicates[:top] for item in pair[:2]}
        items = {item.number: item for item in source.items_by_number(numbers)}
    if as_json:
        print_json(
            {
                "items": found.items,
                "suspects": [
                    {
                        "item": one.item,
                        "identity": one.identity,
                        "path": one.path,
                        "score": one.own,
                        "better": one.others[0].identity if one.others else None,
                        "better_score": one.others[0].score if one.others else None,
                    }
                    for one in found.suspects
                ],
                "duplicates": [
                    {"items": [a, b], "score": score} for a, b, score in found.duplicates
                ],
                "confusable": [
                    {"identities": [a, b], "mistaken": count, "items": total}
                    for a, b, count, total in found.confusable
                ],
            }
        )
        return
    doubtful = [one for one in found.suspects if one.doubt > 0]
    typer.echo(f"{len(doubtful)} of {found.items} items look more like another identity")
    for one in doubtful[:top]:
        better = one.others[0]
        typer.echo(
            f"  item {one.item}, {one.identity} ({one.own:.3f}), looks like {better.identity}"
            f" ({better.score:.3f}): {near(one.path) if one.path else 'an embedding'}"
        )
    typer.echo(f"{counted(len(found.duplicates), 'pair')} of nearly the same picture")
    for a, b, score in found.duplicates[:top]:
        typer.echo(f"  {score:.3f}  {_named(items[a])}  and  {_named(items[b])}")
    typer.echo(f"{len(found.confusable)} pairs of identities are taken for each other")
    for first, second, count, total in found.confusable[:top]:
        typer.echo(f"  {count} of {total} items: {first} and {second}")


def _named(item: Item) -> str:
    place = near(item.source) if item.source else "an embedding"
    return f"item {item.number}, {item.identity}: {place}"


def explain(
    a: Annotated[str, typer.Argument(metavar="A", help="One image.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another image.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="PNG", help="Where to draw it.")
    ] = Path("explanation.png"),
    gallery: GalleryOption = DEFAULT_GALLERY,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw which regions make two images similar: red speaks for it, blue against it.

    Uses the encoder named, else that of the gallery where there is one, else `general`.
    """
    from siamese_search.evaluation import explain as explaining

    found = explaining.explain(encoder_for(gallery, encoder, device), a, b)
    explaining.draw(found, out)
    if as_json:
        print_json({"score": found.score, "drawn": str(out)})
    else:
        typer.echo(f"score {found.score:.3f}; drawn in {out}")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(calibrate)
    app.command()(benchmark)
    app.command()(audit)
    app.command()(explain)
