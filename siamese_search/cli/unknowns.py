"""``unknowns``: the inbox of what `query --keep-unknown` kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.common import (
    DEFAULT_GALLERY,
    DeviceOption,
    EncoderOption,
    GalleryOption,
    JsonLinesOption,
    YesOption,
    confirmed,
    near,
    note,
    open_gallery,
    print_json,
    progress_bar,
    say,
)
from siamese_search.cli.enroll import print_report
from siamese_search.cli.naming import warn_of_unknown
from siamese_search.cli.program import command
from siamese_search.errors import UsageError
from siamese_search.records import UNDOABLE
from siamese_search.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from siamese_search.records import UnknownGroup

SHOWN = 3  # images of a group, unless all are asked for
LIMIT = 20  # groups that are listed for people


def unknowns(
    gallery: GalleryOption = DEFAULT_GALLERY,
    show: Annotated[
        int | None, typer.Option(metavar="N", help="List the images of this group.")
    ] = None,
    enroll: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", help="Enrol this group, with --label; repeatable, where they are one."
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", "-l", help="The identity to enrol groups as.")
    ] = None,
    drop: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Forget this group; repeatable.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|FILE",
            help="With --enroll or --drop, leave out this image, by its number (as --show has it)"
            " or its path: it stays kept; repeatable.",
        ),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Forget all of them.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="List so many groups; 0: all, as with --json. Default: 20.",
        ),
    ] = None,
    skip: Annotated[
        int, typer.Option(min=0, metavar="N", help="Leave out the first N groups.")
    ] = 0,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="HTML", help="Write a page that shows the groups; of many, 100 a page."
        ),
    ] = None,
    encoder: EncoderOption = None,
    yes: YesOption = False,
    device: DeviceOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Show the images that `query --keep-unknown` kept, in groups; enrol a group under a name.

    A group is named by the number of its first image, and the largest come first. `undo` takes
    back what was enrolled or forgotten.
    """
    asked = [option for option in (show is not None, enroll, drop, clear) if option]
    if len(asked) > 1 or bool(enroll) != (label is not None):
        raise UsageError("use one of --show N, --enroll N --label NAME, --drop N, --clear")
    if without and not (enroll or drop):
        raise UsageError("--without leaves images out of --enroll or --drop: use one of these")
    out = [int(one) if one.isascii() and one.isdigit() else one for one in without or ()]
    with open_gallery(gallery, encoder, device) as target:
        if enroll and label is not None:
            warn_of_unknown([label])
            print_report(target.enroll_unknowns(enroll, label, without=out), gallery, as_json)
            return
        kept = target.count_unknowns()
        if drop or clear:
            what = f"Forget {counted(kept, 'image')}?"
            unasked = "nothing was forgotten: say --yes to do what cannot be taken back"
            may_undo = kept <= UNDOABLE
            if clear and kept > 1 and not confirmed(what, yes, None if may_undo else unasked):
                note("nothing was forgotten")
                raise typer.Exit(1)
            dropped = target.drop_unknowns(drop or None, without=out)
            if as_json:
                print_json({"dropped": dropped})
            else:
                stay = "its file stays" if dropped == 1 else "the files stay"
                say(f"{counted(dropped, 'image')} forgotten; {stay}")
            return
        groups = target.unknowns()
    if show is not None:
        groups = [group for group in groups if group.number == show]
        if not groups:
            raise UsageError(f"no group {show} of unknowns in {gallery}")
    elif (grouped := sum(len(group.paths) for group in groups)) < kept:
        note(
            f"{grouped} of {kept} kept images are shown, the latest whose files can be compared:"
            " enrol or drop some to see others"
        )
    if page is not None:
        _write_pages(page, f"Unknown to {gallery}", groups)
    several = len(groups)
    most = limit if limit is not None else 0 if as_json else LIMIT
    groups = groups[skip : skip + most if most else None]
    for group in groups:
        if as_json:
            print_json(dataclasses.asdict(group))
        else:
            _print(group, whole=show is not None)
    if not as_json and len(groups) < several:
        following = skip + len(groups)
        more = f"--skip {following} shows more, " if following < several else ""
        say(f"{len(groups)} of {several} groups: {more}--limit 0 all")
    if groups and show is None and not as_json:
        todo = command("unknowns", gallery, DEFAULT_GALLERY)
        note(f"to name a group: `{todo} --enroll {groups[0].number} --label NAME`")
    if not several and not as_json:
        say("nothing is kept: `query --keep-unknown` keeps images that get no name")


def _print(group: UnknownGroup, whole: bool) -> None:
    """Print a group; the whole of it with the numbers of its images."""
    like = ""
    if group.nearest is not None:
        like = f", most like {group.nearest.identity} ({group.nearest.score:.3f})"
    say(f"group {group.number}: {counted(len(group.paths), 'image')}{like}")
    if whole:
        for number, path in zip(group.members, group.paths, strict=True):
            say(f"{number:>8}  {near(path)}")
        return
    for path in group.paths[:SHOWN]:
        say(f"  {near(path)}")
    if len(group.paths) > SHOWN:
        say(f"  and {len(group.paths) - SHOWN} more: --show {group.number}")


def _write_pages(page: Path, title: str, groups: Sequence[UnknownGroup]) -> None:
    from siamese_search.evaluation.inbox import write_groups

    with progress_bar("drawing") as watch:
        written = write_groups(page, title, groups, watch)
    others = f" to {written[-1]}, {len(written)} pages" if len(written) > 1 else ""
    note(f"the groups are shown in {written[0]}{others}")


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(unknowns)
