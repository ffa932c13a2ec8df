"""``add``: enrol images."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from siamese_search.cli.common import (
    DEFAULT_ENCODER,
    DEFAULT_GALLERY,
    DeviceOption,
    EncoderOption,
    GalleryOption,
    JsonOption,
    name_rejections,
    note,
    print_json,
    progress_bar,
)
from siamese_search.errors import UsageError


def add(
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH...", help="Images, or folders of them.")
    ] = None,
    gallery: GalleryOption = DEFAULT_GALLERY,
    label: Annotated[
        str | None, typer.Option("--label", "-l", help="The identity of all these images.")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Columns path,label; further ones become metadata."),
    ] = None,
    encoder: EncoderOption = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Keep a copy of every image in the gallery.")
    ] = False,
    distractor: Annotated[
        bool,
        typer.Option("--distractor", help="What looks like these is never named: it is unknown."),
    ] = False,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Enrol images; makes the gallery if there is none.

    In a folder, an image's identity is its folder's path relative to PATH (Greek/character01);
    an image directly in PATH is its own identity, named by its stem. What is enrolled already is
    skipped without being decoded, so the same command may be run again at any time.
    """
    from siamese_search import enrolment
    from siamese_search.gallery import Gallery

    if not paths and manifest is None:
        raise UsageError("name images or folders to enrol, or a --manifest")
    if label is not None and manifest is not None:
        raise UsageError("--label and --manifest both name identities: use one")

    # Read once: it may be a pipe.
    listed = list(enrolment.read_manifest(str(manifest))) if manifest else []

    def found() -> enrolment.Files:
        return chain(enrolment.find(paths or (), label), listed)

    files = enrolment.not_empty(found(), [*(paths or ()), *([str(manifest)] if manifest else ())])
    # An encoder is named only to make a gallery, or to insist on the one it has.
    if encoder is None and not Gallery.exists(gallery):
        encoder = DEFAULT_ENCODER
    with Gallery.open(gallery, encoder, device) as target:
        before = len(target)
        try:
            with progress_bar("enrolling", lambda: sum(1 for _ in found())) as watch:
                report = target.enroll_found(files, copy=copy, distractor=distractor, watch=watch)
        except KeyboardInterrupt:
            note(
                f"interrupted: the {len(target) - before} images enrolled so far are kept;"
                " run the same command again to go on"
            )
            raise typer.Exit(1) from None
    name_rejections(report.rejected)
    if as_json:
        print_json(
            {
                "added": report.added,
                "skipped": report.skipped,
                "rejected": [{"path": r.path, "reason": r.reason} for r in report.rejected],
                "identities": report.identities,
                "items": report.items,
            }
        )
    else:
        typer.echo(
            f"{report.added} added, {report.skipped} skipped (enrolled already),"
            f" {len(report.rejected)} rejected\n"
            f"{gallery} has {report.identities} identities, {report.items} items"
        )
    if report.rejected:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(add)
