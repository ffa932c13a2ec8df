"""``train``: an encoder of one's own from folders of pictures."""

from __future__ import annotations

import dataclasses
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from siamese_search.cli.common import (
    JsonOption,
    name_rejections,
    note,
    print_json,
    progress_bar,
    say,
)
from siamese_search.cli.program import program
from siamese_search.errors import RuntimeUnavailable, UsageError
from siamese_search.pictures.sources import read_manifest

if TYPE_CHECKING:
    from siamese_search.records import ImageFile, Progress
    from siamese_search.training.loop import Epoch
    from siamese_search.training.plan import Plan
    from siamese_search.training.settings import Settings


def train(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH]...", help="Folders with a folder of pictures per class."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="The encoder's folder.")
    ] = Path("encoder"),
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", metavar="CSV", help="Pictures by the columns path and label."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="E",
            help="An encoder's name or folder, a timm backbone, or scratch (small grey pictures);"
            " default: chosen, general-2 for photos.",
        ),
    ] = None,
    augmentation: Annotated[
        str | None,
        typer.Option("--augment", help="photo, upright, glyph, document or none; default: chosen."),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            "--loss",
            help="multi-similarity, triplet, batch-hard, contrastive, n-pair, angular, supcon,"
            " proxy-anchor, arcface, subcenter-arcface, prototypical, or self-supervised, which"
            " needs no classes; default: chosen.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            min=0,
            help="Train for this many batches at most; 0 leaves the weights as they are, and only"
            " learns how the pictures vary; default: chosen, by how many there are.",
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option("--classes", min=2, help="Classes in a batch; default: chosen."),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option("--images", min=1, help="Pictures of each class in a batch; default: chosen."),
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="The highest learning rate.")] = None,
    dimension: Annotated[
        int | None,
        typer.Option(
            "--dimension", min=2, help="Embed into this many dimensions, by a new projection."
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size", min=16, help="Height and width of what the network sees, in pixels."
        ),
    ] = None,
    crop: Annotated[
        float | None,
        typer.Option("--crop", help="The share of a photo's short side that is seen, 0 to 1."),
    ] = None,
    frozen: Annotated[
        float | None,
        typer.Option(
            "--frozen",
            help="The share of the backbone's layers, from the input on, that are never trained:"
            " faster, and over-fits less; default 0.5, or 0 from scratch.",
        ),
    ] = None,
    coarse: Annotated[
        float | None,
        typer.Option(
            "--coarse",
            help="The share of the steps, the first ones, that see pictures at two thirds of their"
            " size: faster; default: none.",
        ),
    ] = None,
    hard_every: Annotated[
        int | None,
        typer.Option(
            "--hard-every",
            min=0,
            help="Every N epochs, put classes that look alike into the same batches; default:"
            " never.",
        ),
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            "--holdout",
            help="The share of classes that is held out, to choose the best epoch and to say what"
            " was gained; default: chosen.",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience",
            metavar="N",
            min=1,
            help="Stop after N epochs in a row that are worse than the best; default: 8.",
        ),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting, as `siamese_search.training.settings` names it, such as"
            " dropout=0.2 or freeze=50; may be given again.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="The seed of every random choice; default: 0.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what would be done, and how long it would take; write nothing."
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from DIR's checkpoint, with the settings it had."),
    ] = False,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="cpu|cuda|mps", help="Default: a GPU if there is one."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train an encoder; then `siasearch rebuild --encoder DIR` puts a gallery under it.

    What you leave open is chosen by a look at the pictures, and said with its reason. A part of
    the classes is held out, since new classes are the point: of the epochs that tell these apart
    best, the last is kept. In the end a gallery is tried with what was trained and with what one
    would use otherwise; where nothing is gained, the start is kept. Pictures are found as by `add`.
    """
    # Threads that spin while they wait slow a shared machine down many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    try:
        from siamese_search.training.checkpoint import NAME
        from siamese_search.training.data import found_files
        from siamese_search.training.place import require_free
        from siamese_search.training.plan import in_lines, planned
        from siamese_search.training.resuming import resumed
        from siamese_search.training.run import train as run
        from siamese_search.training.settings import parsed
        from siamese_search.training.survey import survey
        from siamese_search.training.words import gained
    except ImportError as error:
        raise RuntimeUnavailable(
            f"training needs torch: pip install 'siamese-search[train]' ({error})"
        ) from error
    if not paths and manifest is None:
        raise UsageError("name folders of pictures, or a --manifest")
    if dry_run and resume:
        raise UsageError("--dry-run says what a new run would do: leave out --resume")
    asked: list[Any] = [*(paths or ())]
    if manifest:
        asked += read_manifest(str(manifest))
    options = {
        "start": start,
        "loss": loss,
        "augmentation": augmentation,
        "steps": steps,
        "classes": classes,
        "images": images,
        "rate": rate,
        "dimension": dimension,
        "size": size,
        "crop": crop,
        "frozen": frozen,
        "coarse": coarse,
        "hard_every": hard_every,
        "holdout": holdout,
        "patience": patience,
        "seed": seed,
    }
    given = {name: value for name, value in options.items() if value is not None}
    given |= parsed(more or ())
    if not resume:
        require_free(out)
    files, refused = found_files(asked, out)
    # Of several processes on one run, the first one speaks.
    speaks = os.environ.get("RANK", "0") == "0"
    plan: Plan | Settings
    if resume:
        plan = resumed(out, given)
        if speaks:
            note(f"going on with the run in {out}")
    else:
        with progress_bar("looking") if speaks else nullcontext(_unwatched) as watch:
            seen = survey(files, watch)
        plan = planned(seen, given, int(os.environ.get("WORLD_SIZE", "1")))
        if dry_run:
            _rehearse(plan, files, device, as_json)
            name_rejections(refused)
            return
        for line in in_lines(plan) if speaks else ():
            note(line)
    try:
        with progress_bar("training") if speaks else nullcontext(_unwatched) as watch:
            report = run(
                [*files, *refused],
                out,
                plan,
                resume=resume,
                device=device,
                watch=watch,
                tell=_tell if speaks else lambda epoch: None,
                warn=lambda message: note(f"note: {message}") if speaks else None,
            )
    except KeyboardInterrupt:
        if (out / NAME).exists():
            note(f"interrupted: the same command with --resume goes on from {out}'s last epoch")
        else:
            note("interrupted in the first epoch: nothing is saved")
        raise typer.Exit(1) from None
    if not speaks:
        return
    name_rejections(report.rejected)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        say(
            f"{report.encoder}: {report.dimension} dimensions, trained {report.steps} steps on"
            f" {report.pictures} pictures of {report.classes} classes"
        )
        for line in gained(report):
            say(line)
        known = (
            f"threshold {report.threshold:.3f}, by " if report.threshold < 1 else "no threshold: "
        )
        say(known + report.basis)
        say(f"{program()} rebuild --encoder {report.encoder}   puts a gallery under it")
    if report.rejected and "RANK" not in os.environ:  # torchrun would call it a failure
        raise typer.Exit(1)


def _unwatched(progress: Progress) -> None:
    """Nobody watches."""


def _rehearse(plan: Plan, files: list[ImageFile], device: str | None, as_json: bool) -> None:
    """Say what would be done, and how long it would take."""
    from siamese_search.training.plan import in_lines
    from siamese_search.training.rehearsal import rehearse

    with progress_bar("timing") as watch:
        cautions: list[str] = []
        estimate = rehearse(files, plan.settings, device, watch, cautions.append)
    if as_json:
        facts = dataclasses.asdict(estimate) | {"seconds": estimate.seconds}
        print_json({"plan": plan.facts(), "estimate": facts})
    else:
        for line in (*in_lines(plan), str(estimate)):
            say(line)
    for caution in cautions:
        note(f"note: {caution}")


def _tell(epoch: Epoch) -> None:
    recall = "" if epoch.recall is None else f", recall@1 {epoch.recall:.1%}"
    note(
        f"epoch {epoch.epoch}, step {epoch.step}: loss {epoch.loss:.3f}{recall},"
        f" {epoch.images_per_second:.0f} images/s"
    )


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(train)
