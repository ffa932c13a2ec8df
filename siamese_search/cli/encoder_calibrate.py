"""``encoder calibrate``: fit an encoder's threshold on pictures of known identities."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.common import (
    DeviceOption,
    JsonOption,
    name_rejections,
    note,
    print_json,
    progress_bar,
    say,
)
from siamese_search.words import counted

if TYPE_CHECKING:
    from siamese_search.importing.reference import Fit
    from siamese_search.records import Rejection


def calibrate(
    encoder: Annotated[
        str, typer.Argument(metavar="ENCODER", help="The encoder's folder; it is rewritten.")
    ],
    reference: Annotated[
        list[str],
        typer.Option(
            metavar="FOLDER",
            help="Pictures of ten identities or more, several of each, in a folder each: of things"
            " like those that it is for. Repeatable.",
        ),
    ],
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit an encoder's threshold and confidence on pictures of known identities.

    Half of the identities are enrolled, and the pictures of all asked about, again and again: the
    threshold is where the best identity is rather right than wrong. Galleries of the encoder stay
    as they are, and are the better for a calibration of their own. Of many pictures some are drawn:
    400 identities, 20 pictures of each. Encoders that come with siasearch are not changed.
    """
    from siamese_search.importing.reference import fit_reference

    rejected: list[Rejection] = []
    try:
        with progress_bar("embedding") as watch:
            found = fit_reference(
                encoder, reference, device=device, reject=rejected.append, watch=watch
            )
    finally:
        name_rejections(rejected)
    if as_json:
        named = {"rejected": [{"path": one.path, "reason": one.reason} for one in rejected]}
        print_json(dataclasses.asdict(found) | named)
    else:
        print_fit(found)
    if rejected:
        raise typer.Exit(1)


def print_fit(found: Fit) -> None:
    """What was fitted, for people."""
    identities = counted(found.identities, "identity", "identities")
    say(
        f"threshold {found.threshold:.3f}: from there on the best identity is rather right than"
        f" wrong, by {counted(found.pictures, 'picture')} of {identities}"
    )
    if found.before is not None:
        note(f"note: this replaced the threshold {found.before:.3f}")


def register(group: typer.Typer) -> None:
    """Add this module's command."""
    group.command()(calibrate)
