"""``calibrate``: choose the threshold by the error rate."""

from __future__ import annotations

import dataclasses
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
    from siamese_search.decision.evidence import RATES

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


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(calibrate)
