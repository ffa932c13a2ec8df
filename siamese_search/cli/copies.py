"""``copy`` and ``split``: a second gallery of one, or of a part of it."""

from __future__ import annotations

import random
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.common import (
    DEFAULT_GALLERY,
    GalleryOption,
    JsonOption,
    conditions,
    note,
    open_gallery,
    print_json,
    progress_bar,
    say,
    share,
)
from siamese_search.cli.program import command
from siamese_search.errors import UsageError
from siamese_search.pictures.sources import normalised
from siamese_search.records import UNDOABLE
from siamese_search.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from siamese_search.gallery.archive import Archived

NewArgument = Annotated[
    Path, typer.Argument(metavar="NEW", help="The folder of the new gallery: none, or empty.")
]


def copy(
    new: NewArgument,
    gallery: GalleryOption = DEFAULT_GALLERY,
    without_pictures: Annotated[
        bool,
        typer.Option("--without-pictures", help="Leave out the gallery's copies of pictures."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a second gallery of this one, as it is at one moment, while others may go on adding:
    whole, or not at all. What `undo` would take back stays out.
    """
    with open_gallery(gallery) as source, progress_bar("copying") as watch:
        made = source.copy(new, pictures=not without_pictures, watch=watch)
    _tell(made, new, as_json, None)


def split(
    new: NewArgument,
    identities: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IDENTITY...", help="Identities to move; with wildcards, as 'Milk/*'."
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Move items with this metadata; repeatable."),
    ] = None,
    part: Annotated[
        float | None,
        typer.Option(
            "--share", parser=share, metavar="SHARE", help="Move this share of the identities."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="With --share: which identities are drawn.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave them in this gallery, too.")] = False,
    gallery: GalleryOption = DEFAULT_GALLERY,
    as_json: JsonOption = False,
) -> None:
    """Move a part of the gallery to a new one, of the same encoder and calibration: identities,
    items with some metadata, or a random share of the identities.

    The new gallery is whole before anything leaves this one, which `undo` takes back: then both
    have it.
    """
    if [bool(identities), bool(where), part is not None].count(True) != 1:
        raise UsageError("choose what to move: IDENTITY..., --where or --share")
    if part is not None and not 0 < part < 1:
        raise UsageError("--share is between 0 and 1")
    with open_gallery(gallery) as source:
        if where:
            numbers = [item.number for item in source.items_where(conditions(where))]
        else:
            every = [name for name, _ in source.identities()]
            names = _fitting(every, identities or [], gallery)
            if part is not None:
                names = random.Random(seed).sample(every, round(part * len(every)))
            numbers = [item.number for name in names for item in source.items(name)]
        if not numbers:
            raise UsageError("that is no item of the gallery: nothing was done")
        with progress_bar("splitting") as watch:
            made = source.split(new, numbers, keep=keep, watch=watch)
        left = len(source)
    _tell(made, new, as_json, left)
    if not as_json:
        undo = command("undo", gallery, DEFAULT_GALLERY)
        back = "" if keep or made.items > UNDOABLE else f"; `{undo}` puts them back here, too"
        say(f"{gallery} has {counted(left, 'item')}{back}")


def _fitting(every: Sequence[str], asked: Sequence[str], gallery: Path) -> list[str]:
    """The identities that are named, or fit. Raises UsageError where none does."""
    known, found = set(every), dict[str, None]()
    for text in asked:
        name = normalised(text)
        fits = [name] if name in known else [one for one in every if fnmatchcase(one, name)]
        if not fits:
            raise UsageError(f"no identity fits {text!r} in {gallery}: nothing was done")
        found |= dict.fromkeys(fits)
    return list(found)


def _tell(made: Archived, new: Path, as_json: bool, left: int | None) -> None:
    """Say what the new gallery has; so many items are ``left`` in the other."""
    facts = {"identities": made.identities, "items": made.items, "pictures": made.pictures}
    if as_json:
        rest = {} if left is None else {"left": left}
        print_json({"gallery": str(new), **facts, "missing": list(made.missing), **rest})
    else:
        identities = counted(made.identities, "identity", "identities")
        say(f"{new}: {identities}, {counted(made.items, 'item')}")
    if made.missing:
        items = counted(len(made.missing), "item")
        note(f"the copies of {items} are gone or damaged: `siasearch check` names them")
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(copy)
    app.command()(split)
