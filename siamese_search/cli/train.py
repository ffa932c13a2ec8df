"""``train``: an encoder of one's own from folders of pictures."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
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
from siamese_search.records import counted

if TYPE_CHECKING:
    from siamese_search.training.loop import Epoch
    from siamese_search.training.run import TrainingReport


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
        str,
        typer.Option(
            "--from",
            metavar="E",
            help="An encoder's name or folder, a timm backbone, or scratch (small grey pictures).",
        ),
    ] = "general-2",
    augmentation: Annotated[
        str, typer.Option("--augment", help="photo, glyph, document or none.")
    ] = "photo",
    loss: Annotated[
        str,
        typer.Option(
            "--loss",
            help="multi-similarity, triplet, batch-hard, contrastive, n-pair, angular, supcon,"
            " proxy-anchor, arcface, subcenter-arcface, prototypical, or self-supervised, which"
            " needs no classes.",
        ),
    ] = "multi-similarity",
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Train for this many batches at most.")
    ] = 600,
    classes: Annotated[int, typer.Option("--classes", min=2, help="Classes in a batch.")] = 16,
    images: Annotated[
        int, typer.Option("--images", min=1, help="Pictures of each class in a batch.")
    ] = 4,
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
    hard_every: Annotated[
        int,
        typer.Option(
            "--hard-every",
            min=0,
            help="Every N epochs, put classes that look alike into the same batches.",
        ),
    ] = 0,
    holdout: Annotated[
        float,
        typer.Option(
            "--holdout", help="The share of classes that is held out, to choose the best epoch."
        ),
    ] = 0.2,
    patience: Annotated[
        int,
        typer.Option(
            "--patience",
            metavar="N",
            min=1,
            help="Stop after N epochs in a row that are worse than the best.",
        ),
    ] = 8,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting, as `siamese_search.training.settings` names it, such as"
            " dropout=0.2 or freeze=50; may be given again.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The seed of every random choice.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from DIR's checkpoint.")] = False,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="cpu|cuda|mps", help="Default: a GPU if there is one."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train an encoder; then `siasearch rebuild --encoder DIR` puts a gallery under it.

    A part of the classes is held out, since new classes are the point: of the epochs that tell
    these apart best, the last is kept. Pictures are found as by `add`.
    """
    # Threads that spin while they wait slow a shared machine down many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    try:
        from siamese_search.training.checkpoint import NAME
        from siamese_search.training.run import train as run
        from siamese_search.training.settings import Settings, parsed
    except ImportError as error:
        raise RuntimeUnavailable(
            f"training needs torch: pip install 'siamese-search[train]' ({error})"
        ) from error
    if not paths and manifest is None:
        raise UsageError("name folders of pictures, or a --manifest")
    found: list[Any] = [*(paths or ())]
    if manifest:
        found += read_manifest(str(manifest))
    settings = Settings(
        start=start,
        loss=loss,
        augmentation=augmentation,
        steps=steps,
        classes=classes,
        images=images,
        rate=rate,
        dimension=dimension,
        size=size,
        crop=crop,
        frozen=frozen,
        hard_every=hard_every,
        holdout=holdout,
        patience=patience,
        seed=seed,
    )
    settings = dataclasses.replace(settings, **parsed(more or ()))
    # Of several processes on one run, the first one speaks.
    speaks = os.environ.get("RANK", "0") == "0"
    try:
        with progress_bar("training") if speaks else nullcontext(lambda progress: None) as watch:
            report = run(
                found,
                out,
                settings,
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
        for line in _gain(report):
            say(line)
        say(f"threshold {report.threshold:.3f}, by {report.basis}")
        say(f"{program()} rebuild --encoder {report.encoder}   puts a gallery under it")
    if report.rejected and "RANK" not in os.environ:  # torchrun would call it a failure
        raise typer.Exit(1)


def _gain(report: TrainingReport) -> Iterator[str]:
    """What was gained over the start, in lines."""
    if report.recall is None:
        return
    pictures = counted(report.held_out_pictures, "held-out picture")
    held = f"{pictures} of {report.held_out_classes} classes"
    if report.recall_before is not None:
        yield f"recall@1 on {held}: {report.recall_before:.1%} before, {report.recall:.1%} now"
    if report.kept == 0:
        yield (
            f"nothing was gained on {held}: the starting weights are kept; more classes or"
            " pictures, or more --steps, may help"
        )
    elif report.gained is not None:
        error = "" if report.gained_error is None else f" ± {100 * report.gained_error:.1f}"
        yield (
            f"gained {100 * report.gained:.1f}{error} points of mAP@R over the start"
            " (± one standard error over the classes)"
        )


def _tell(epoch: Epoch) -> None:
    recall = "" if epoch.recall is None else f", recall@1 {epoch.recall:.1%}"
    note(
        f"epoch {epoch.epoch}, step {epoch.step}: loss {epoch.loss:.3f}{recall},"
        f" {epoch.images_per_second:.0f} images/s"
    )


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(train)
