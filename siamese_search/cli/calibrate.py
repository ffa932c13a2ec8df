"""``calibrate``: choose the threshold by the error rate."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.common import (
    DEFAULT_GALLERY,
    DeviceOption,
    EncoderOption,
    GalleryOption,
    JsonOption,
    RuleOption,
    name_rejections,
    open_gallery,
    print_json,
)
from siamese_search.records import counted

if TYPE_CHECKING:
    from siamese_search.records import Calibration, Rejection


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
            " it names more of them rightly; where --strangers look unlike them, probes and items"
            " are each compared about their own mean. none: plain cosines. Default: what was chosen"
            " before, else auto.",
        ),
    ] = None,
    closer: Annotated[
        str | None,
        typer.Option(
            metavar="auto|none",
            help="Whether the best candidates are put in order by a closer look at places in the"
            " pictures, as far as that helps (auto), or not, which keeps no places: 3 KB an item"
            " less (none); default: what was chosen before, else auto.",
        ),
    ] = None,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the threshold by the error rate that you allow.

    The gallery's own items tell how strangers score: each is searched with its own identity left
    out. It also fits the confidence, and learns by what metric the gallery's items are compared and
    how much a closer look at candidates helps.
    Run it again when the gallery has changed much.
    """
    rejected: list[Rejection] = []
    try:
        with open_gallery(gallery, encoder, device) as target:
            found = target.calibrate(
                fpir,
                rule=rule,
                strangers=strangers,
                reject=rejected.append,
                metric=metric,
                closer=closer,
                turns=turns,
            )
            now = target.info()
    finally:
        name_rejections(rejected)
    if as_json:
        named = {"rejected": [{"path": r.path, "reason": r.reason} for r in rejected]}
        facts = dataclasses.asdict(found)
        for one in (facts, facts["looked"] or {"evidence": ()}):
            del one["evidence"]  # what the p-values rest on: up to a thousand numbers
        print_json(facts | named)
    else:
        typer.echo(_described(found.deciding))
        if now.metric is not None:
            typer.echo(f"metric {now.metric}")
        if now.closer is not None:
            typer.echo(f"closer look at candidates: {now.closer}")
    if rejected:
        raise typer.Exit(1)


def _described(found: Calibration) -> str:
    turns = f", {found.turns} turns" if found.turns > 1 else ""
    lines = [
        f"calibrated for an FPIR of {found.fpir:.3g} with {found.identities} identities"
        f" (rule {found.rule}{turns}): the true rate likely lies between {_rate(found.lower)} and"
        f" {_rate(found.upper)}"
    ]
    what = "pictures of strangers" if found.source == "strangers" else "of the gallery's own items"
    count = f"{found.strangers} {what}"
    if found.independent is not None and round(found.independent) < found.strangers:
        count += f", as good as {found.independent:.0f} strangers that have nothing in common,"
    needed = math.ceil(1 / found.fpir - 1e-9)
    if found.extrapolated and (found.independent or found.strangers) < needed:
        lines.append(
            f"an FPIR of {found.fpir:.3g} cannot be shown with fewer than {needed:,} strangers:"
            f" {count} are too few, and the rest is extrapolated by what is known of the encoder"
        )
    elif found.extrapolated:
        lines.append(
            f"{count} are few for this rate: the rest is extrapolated by what is known of the"
            " encoder"
        )
    if found.named is not None and found.genuine:
        lines.append(
            f"{found.named:.0%} of {counted(found.genuine, 'item')} of your own would get their"
            " name, each searched without itself; of pictures less like them, fewer"
        )
    if not found.fitted:
        lines.append(
            "confidence rests on what is known of the encoder, too: too few identities have"
            " several items that find each other"
        )
    return "\n".join(lines)


def _rate(share: float) -> str:
    """A rate for people; below one in 10,000 nobody can tell."""
    return f"{share:.2g}" if share >= 1e-4 else "0"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(calibrate)
