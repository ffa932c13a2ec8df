"""``benchmark``: how well it works on labelled pictures.

Three ways that are three functions: a gallery is asked about probes, a folder is split again and
again, or the suite of a published data set runs. What they print is in ``figures.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.attack import Attacked, Planned, attack_gallery, print_attacked
from siamese_search.cli.common import (
    DEFAULT_ENCODER,
    DEFAULT_GALLERY,
    DeviceOption,
    EncoderOption,
    GalleryOption,
    JsonOption,
    RuleOption,
    open_gallery,
    share,
)
from siamese_search.cli.figures import (
    Measured,
    MeasuredSuite,
    print_evaluation,
    print_suite,
)
from siamese_search.errors import UsageError
from siamese_search.files import require_place
from siamese_search.pictures.sources import find, nameable, not_empty
from siamese_search.records import ImageFile, Rejection

if TYPE_CHECKING:
    from siamese_search.embedding.encoder import Encoder
    from siamese_search.pictures.kind import Kind

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
# Options that do something with --attack alone, and those that do nothing with it.
ATTACKS = ("limit", "steps", "seed")
NO_ATTACKS = {
    "PROBES": ("seeds", "rule", "fpir"),
    "--split": ("seeds", "rule"),
    "--suite": ("suite",),
}


@dataclass(frozen=True)
class How:
    """What all ways have in common."""

    encoder: str | None
    device: str | None
    rule: str | None
    seeds: int
    fpir: float | None

    def opened(self) -> Encoder:
        """The encoder, where no gallery has one."""
        from siamese_search.embedding.encoder import Encoder

        return Encoder.open(self.encoder or DEFAULT_ENCODER, self.device)


@dataclass(frozen=True)
class Probes:
    """A gallery is asked about the pictures of these folders."""

    folders: list[str]
    gallery: Path


@dataclass(frozen=True)
class Split:
    """A folder's classes are enrolled by ``shots`` pictures each, but for a share of strangers."""

    folder: Path
    shots: int
    strangers: float


@dataclass(frozen=True)
class Suite:
    """The protocols of a published data set, which lies in the folder ``data``."""

    name: str
    data: Path | None


def benchmark(
    context: typer.Context,
    probes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROBES...",
            help="Folders of labelled pictures: a folder's name is the identity, as for `add`;"
            " those that are not enrolled are strangers, and are listed first.",
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
            parser=share,
            metavar="SHARE",
            help="The FPIR of the curves, and with --split what to calibrate for; default: what"
            " the gallery is calibrated for, else 0.01.",
        ),
    ] = None,
    rule: RuleOption = None,
    report: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Write a report with plots and mistakes.")
    ] = None,
    attack: Annotated[
        str | None,
        typer.Option(
            metavar="natural|gradient|patch|views|all",
            help="Instead of error rates: how answers hold when pictures are changed, by JPEG,"
            " blur, print and scan (natural), or by somebody who knows the gallery and wants a"
            " wrong answer.",
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(min=1, help="With --attack: probes that are changed, and as many strangers."),
    ] = 50,
    steps: Annotated[
        int, typer.Option(min=1, help="With --attack: steps of each attack by gradient.")
    ] = 10,
    seed: Annotated[
        int, typer.Option(min=0, help="With --attack: which probes and targets are drawn.")
    ] = 0,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    as_csv: Annotated[
        bool,
        typer.Option("--csv", help="Print a table of the figures, with a column for each draw."),
    ] = False,
) -> None:
    """Measure how well it works on your own labelled pictures, and where it fails.

    Also how that changes as more identities are enrolled and, with --split, more pictures of each.
    TPIR is the share of enrolled probes whose best identity (rank 1) is right and is named, FPIR
    that of strangers who are named (ISO/IEC 19795-1). A rate that too few strangers tell, below 3
    divided by their number, is left out.

    With --attack: who is named when pictures are changed, and how much it takes. `gradient`,
    `patch` and `views` need torch. It says first how long that will last.
    """
    if as_csv and (as_json or attack is not None):
        raise UsageError("--csv is a table of figures: leave out --json and --attack")
    if [bool(probes), split is not None, suite is not None].count(True) != 1:
        raise UsageError("name labelled PROBES for the gallery, a folder to --split, or a --suite")
    way = "PROBES" if probes else f"--suite {suite}" if suite is not None else "--split"
    _refuse_idle(context, way)
    how = How(encoder, device, rule, seeds, fpir)
    _refuse_with_attack(context, way, attack)
    if suite is not None:
        print_suite(_suite(Suite(suite, data), how), as_json, as_csv)
        return
    if report is not None:
        require_place(report)
    if attack is not None:
        asked = Probes(probes or [], gallery) if split is None else Split(split, shots, strangers)
        attacked = _attacked(asked, how, Planned(attack, limit, steps, seed))
        print_attacked(attacked, report, as_json)
        if attacked.rejected:
            raise typer.Exit(1)
        return
    if split is not None:
        measured = _split(Split(split, shots, strangers), how)
    else:
        measured = _probes(Probes(probes or [], gallery), how)
    print_evaluation(measured, report, as_json, as_csv)
    if measured.rejected:
        raise typer.Exit(1)


def _refuse_idle(context: typer.Context, way: str) -> None:
    """Raise UsageError for an option that was given and would do nothing."""
    for name, ways in MEANT_FOR.items():
        if not way.startswith(ways) and _is_given(context, name):
            meant = " or ".join(ways)
            raise UsageError(f"--{name} does nothing with {way}: leave it out, or use {meant}")


def _refuse_with_attack(context: typer.Context, way: str, attack: str | None) -> None:
    """The same for what hangs on --attack."""
    if attack is None:
        for name in ATTACKS:
            if _is_given(context, name):
                raise UsageError(f"--{name} does nothing without --attack: leave it out")
        return
    for name in NO_ATTACKS[way.split()[0]]:
        if _is_given(context, name):
            raise UsageError(f"--{name} does nothing with --attack: leave it out")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _probes(asked: Probes, how: How) -> Measured:
    from siamese_search.evaluation.evaluate import evaluate

    rejected: list[Rejection] = []
    with open_gallery(asked.gallery, how.encoder, how.device) as source:
        files = _found(asked.folders, source.encoder.kind, rejected)
        made = evaluate(source, files, how.rule, how.fpir, range(how.seeds))
    title = f"{asked.gallery}, asked about {', '.join(asked.folders)}"
    return Measured(title, (made,), (*rejected, *made.rejected))


def _split(split: Split, how: How) -> Measured:
    from siamese_search.decision.calibration import FPIR
    from siamese_search.evaluation import splits

    rejected: list[Rejection] = []
    encoder = how.opened()
    files = _found([str(split.folder)], encoder.kind, rejected)
    fpir = FPIR if how.fpir is None else how.fpir
    wanted = splits.Split(split.shots, split.strangers, how.seeds, fpir, how.rule)
    made = splits.evaluate_splits(encoder, files, wanted)
    title = f"{split.folder}: {split.shots} enrolled of each class, {how.seeds} draws"
    return Measured(title, made.draws, (*rejected, *made.rejected), several=True)


def _attacked(asked: Probes | Split, how: How, planned: Planned) -> Attacked:
    from siamese_search.decision.calibration import FPIR
    from siamese_search.evaluation import splits

    rejected: list[Rejection] = []
    if isinstance(asked, Probes):
        with open_gallery(asked.gallery, how.encoder, how.device) as source:
            files = _found(asked.folders, source.encoder.kind, rejected)
            found = attack_gallery(source, files, planned)
        title = f"{asked.gallery}, attacked by {', '.join(asked.folders)}"
        return Attacked(title, found, (*rejected, *found.rejected))
    encoder = how.opened()
    files = _found([str(asked.folder)], encoder.kind, rejected)
    fpir = FPIR if how.fpir is None else how.fpir
    wanted = splits.Split(asked.shots, asked.strangers, 1, fpir)
    with splits.split_gallery(encoder, files, wanted, planned.seed) as drawn:
        source, left, unusable = drawn
        found = attack_gallery(source, left, planned)
    title = f"{asked.folder}: {asked.shots} enrolled of each class, attacked by the others"
    return Attacked(title, found, (*rejected, *unusable, *found.rejected))


def _found(folders: list[str], kind: Kind, rejected: list[Rejection]) -> list[ImageFile]:
    """The files of a kind in folders; what can be none is added to ``rejected``."""
    files = []
    for one in nameable(not_empty(find(folders, kind=kind), folders, kind)):
        if isinstance(one, ImageFile):
            files.append(one)
        else:
            rejected.append(one)
    return files


def _suite(suite: Suite, how: How) -> MeasuredSuite:
    from siamese_search.evaluation.protocols import SUITES, Pictures

    if suite.name not in SUITES:
        raise UsageError(f"unknown suite {suite.name!r}: choose one of {', '.join(SUITES)}")
    if suite.data is None:
        raise UsageError("--suite measures on a published data set: name its folder by --data")
    encoder = how.opened()
    encoder.require_pictures("suites")
    figures = SUITES[suite.name](Pictures(encoder, how.rule), suite.data, how.seeds)
    return MeasuredSuite(suite.name, encoder.name, figures)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(benchmark)
