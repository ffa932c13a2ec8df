"""``calibrate``: choose the threshold by the error rate."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.calibrated import described, replaced, unused, warning
from siamese_search.cli.common import (
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
    say,
    share,
)
from siamese_search.errors import GalleryDamaged, GalleryFormatError, UsageError

if TYPE_CHECKING:
    from siamese_search.records import Rejection


def calibrate(
    gallery: GalleryOption = DEFAULT_GALLERY,
    fpir: Annotated[
        float | None,
        typer.Option(
            parser=share,
            metavar="SHARE",
            help="The share of strangers that may get a name, from 0.001 to 0.3; default: what was"
            " chosen before, else 0.01, 1 in 100.",
        ),
    ] = None,
    rule: RuleOption = None,
    strangers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Pictures, or folders of them, of things that are not enrolled, such as they are"
            " asked about, each in a folder of its own; better than the gallery's own where probes"
            " look unlike it. Repeatable.",
        ),
    ] = None,
    turns: Annotated[
        int,
        typer.Option(
            min=1,
            max=64,
            metavar="N",
            help="Look at each stranger in this many turns, as `query --turns` will; needs"
            " --strangers.",
        ),
    ] = 1,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="auto|none",
            help="auto: scores are those of a metric that the gallery learns from its items, where"
            " it names more of them rightly, and next to plain cosines where one picture each"
            " cannot tell; where --strangers look unlike them, probes and items are each compared"
            " about their own mean. none: plain cosines. Default: what was chosen before, else"
            " auto.",
        ),
    ] = None,
    closer: Annotated[
        str | None,
        typer.Option(
            metavar="auto|none",
            help="Whether the best candidates are put in order by a closer look at places in the"
            " pictures, as far as that helps (auto), or not, which keeps no places of what is"
            " enrolled later: 3 KB an item less (none); default: what was chosen before, else"
            " auto.",
        ),
    ] = None,
    off: Annotated[
        bool,
        typer.Option(
            "--off",
            help="Forget the calibration: the encoder's threshold decides again, and the gallery"
            " does not calibrate itself.",
        ),
    ] = False,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the threshold by the error rate that you allow.

    That is the share of strangers, pictures of what is not enrolled, that may get a name (FPIR).
    The gallery's own items tell how strangers score: each is searched with its own identity left
    out. It also fits the confidence, and learns by what metric the gallery's items are compared and
    how much a closer look at candidates helps.
    Run it again when the gallery has changed much. `undo` does not take it back.
    """
    if off:
        if turns > 1 or any(one is not None for one in (fpir, rule, strangers, metric, closer)):
            raise UsageError("--off forgets the calibration: leave out what to calibrate by")
        _forget(gallery, as_json)
        return
    rejected: list[Rejection] = []
    before = None
    try:
        with open_gallery(gallery, encoder, device) as target:
            choices = target.choices
            with suppress(GalleryDamaged, GalleryFormatError):  # which calibrating mends
                before = target.calibration
            found = target.calibrate(
                fpir,
                rule=rule,
                strangers=strangers,
                reject=rejected.append,
                metric=metric,
                closer=closer,
                turns=turns,
            )
            now, chosen = target.info(), target.choices
    finally:
        name_rejections(rejected)
    others = {name: one for name, one in choices.items() if chosen[name] != one}
    for said in (
        warning(found),
        replaced(before, found, gallery, now, others),
        unused(gallery, now) if others.get("closer") == "auto" else None,
    ):
        if said is not None:
            note(said)
    if as_json:
        named = {"rejected": [{"path": r.path, "reason": r.reason} for r in rejected]}
        facts = dataclasses.asdict(found)
        for one in (facts, facts["looked"] or {"evidence": ()}):
            del one["evidence"]  # what the p-values rest on: up to a thousand numbers
        print_json(facts | named)
    else:
        kept = fpir is None and before is not None
        for line in described(found, now, kept):
            typer.echo(line)
    if rejected:
        raise typer.Exit(1)


def _forget(gallery: Path, as_json: bool) -> None:
    with open_gallery(gallery) as target:
        forgotten = target.uncalibrate()
        threshold, undecided = target.info().threshold, target.info().undecided
    if as_json:
        print_json({"forgotten": forgotten, "threshold": threshold})
        return
    if undecided is not None:
        say(f"not calibrated{' any more' * forgotten}: {undecided}")
        return
    by = "" if threshold is None else f", {threshold:.3f},"
    typer.echo(f"not calibrated{' any more' * forgotten}: the encoder's threshold{by} decides")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(calibrate)
