"""``list``, ``info``, ``remove``, ``relabel`` and ``undo``: see and edit the gallery."""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.common import (
    DEFAULT_GALLERY,
    GalleryOption,
    JsonLinesOption,
    JsonOption,
    YesOption,
    conditions,
    confirmed,
    note,
    open_gallery,
    print_json,
)
from siamese_search.errors import UsageError
from siamese_search.pictures.sources import normalised
from siamese_search.records import UNDOABLE, counted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from siamese_search.records import Change, Item

WILDCARDS = set("*?[")
SHOWN = 3  # names of identities

ItemsOption = Annotated[
    list[int] | None,
    typer.Option("--item", metavar="N", help="One item, by its number; repeatable."),
]


def list_(
    identity: Annotated[
        str | None,
        typer.Argument(
            help="Show this identity's items instead of all identities; with wildcards, as"
            " 'Milk/*', the identities that it fits."
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="List the items with this metadata instead; repeatable."
        ),
    ] = None,
    gallery: GalleryOption = DEFAULT_GALLERY,
    as_json: JsonLinesOption = False,
) -> None:
    """List the identities, or the items of one, or those with some metadata."""
    with open_gallery(gallery) as source:
        every = source.identities() if identity is None or WILDCARDS & set(identity) else []
        # A name may have such signs itself.
        several = identity is None or (bool(every) and identity not in dict(every))
        fits = normalised(identity or "*")
        fitting = [row for row in every if fnmatchcase(row[0], fits)]
        if identity is not None and several and not fitting:
            raise UsageError(f"no identity fits {identity!r} in {gallery}")
        if where:
            names = {name for name, _ in fitting} if several else {fits}
            items = [one for one in source.items_where(conditions(where)) if one.identity in names]
            _print_items(items, gallery, as_json, owners=True)
            if not items:
                note(f"no item has {' and '.join(where)}")
        elif several:
            never = source.distractors()
            for name, count in fitting:
                if as_json:
                    print_json({"identity": name, "items": count, "distractor": name in never})
                else:
                    typer.echo(f"{count:>8}  {name}{'  (distractor)' if name in never else ''}")
        elif identity is not None:
            _print_items(source.items(identity), gallery, as_json)


def _print_items(items: Iterable[Item], gallery: Path, as_json: bool, owners: bool = False) -> None:
    """Print items, with their ``owners`` where these may be several."""
    for item in items:
        if as_json:
            fields = dataclasses.asdict(item)
            fields["item"], fields["path"] = fields.pop("number"), fields.pop("source")
            print_json(fields)
        else:
            metadata = "  ".join(f"{key}={value}" for key, value in item.metadata.items())
            owner = f"{item.identity}  " if owners else ""
            typer.echo(f"{item.number:>8}  {owner}{_place(item, gallery)}  {metadata}".rstrip())


def _place(item: Item, gallery: Path) -> str:
    """Where an item's image lies, for people."""
    return item.source or (str(gallery / item.copy) if item.copy else "(no file)")


def info(gallery: GalleryOption = DEFAULT_GALLERY, as_json: JsonOption = False) -> None:
    """Show what the gallery is: totals, encoder, index, size on disk."""
    with open_gallery(gallery) as source:
        facts = dataclasses.asdict(source.info())
    if as_json:
        print_json(facts)
    else:
        for key, value in facts.items():
            typer.echo(f"{key:<12} {'-' if value is None else value}")


def remove(
    identity: Annotated[str | None, typer.Argument(help="The identity to remove.")] = None,
    item: ItemsOption = None,
    gallery: GalleryOption = DEFAULT_GALLERY,
    forever: Annotated[
        bool,
        typer.Option(
            "--forever",
            help="Leave no trace in the gallery, as `compact` does: nothing can be taken back.",
        ),
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove an identity with all its items, or single items; `undo` puts them back.

    The image files stay. On a terminal it asks before it removes more than one item.
    """
    with open_gallery(gallery) as target:
        if identity is not None:
            owners, goes = [identity], target.count(identity)
        else:
            found = target.items_by_number(item or [])
            owners, goes = sorted({one.identity for one in found}), len(found)
        names = ", ".join(owners[:SHOWN]) + ", ..." * (len(owners) > SHOWN)
        said = f"{names}: {counted(goes, 'item')}"
        may_undo = not forever and _warn_of_many(goes)
        if goes > 1 and not confirmed(f"Remove {said}?", yes):
            note("nothing was removed")
            raise typer.Exit(1)
        removed = target.remove(identity, item or None)
        if forever:
            target.compact()
        left = len(target)
    if as_json:
        print_json({"removed": removed, "items": left})
    else:
        back = f"; `siasearch undo` puts {'it' if removed == 1 else 'them'} back" * may_undo
        typer.echo(f"removed {said}, {left} left{back}")


def relabel(
    names: Annotated[
        list[str], typer.Argument(metavar="OLD NEW", help="With --item, only the new name.")
    ],
    item: ItemsOption = None,
    gallery: GalleryOption = DEFAULT_GALLERY,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Rename an identity, or give single items another identity; merges where NEW exists.

    On a terminal it asks before it merges two identities. `undo` takes it back.
    """
    if len(names) != (1 if item else 2):
        raise UsageError("write `relabel OLD NEW`, or `relabel --item N NEW`")
    old, new = (None if item else names[0]), names[-1]
    with open_gallery(gallery) as target:
        there = target.count(new)
        whole = 0 if old is None else target.count(old)
        _warn_of_many(whole)
        never = target.distractors()
        silences = normalised(new) in never and (old is None or normalised(old) not in never)
        merges = there > 0 and old is not None and normalised(old) != normalised(new) and whole
        question = (
            f"{new!r} exists, with {counted(there, 'item')}: merge"
            f" {counted(whole, 'item')} of {old!r} into it?"
        )
        if silences:
            note(f"{new!r} is a distractor: whatever is like its items gets no name")
        if merges and not confirmed(question, yes):
            note("nothing was relabelled")
            raise typer.Exit(1)
        relabelled = target.relabel(old, new, item or None)
        total = target.count(new)
    if as_json:
        print_json({"relabelled": relabelled})
    elif total > relabelled:
        typer.echo(
            f"merged {counted(relabelled, 'item')} into {new!r}, which has"
            f" {counted(total, 'item')} now; `siasearch undo` parts them"
        )
    else:
        verb = "is" if relabelled == 1 else "are"
        typer.echo(f"{counted(relabelled, 'item')} {verb} now {new!r}")


def undo(
    gallery: GalleryOption = DEFAULT_GALLERY,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take back the last `add`, `remove` or `relabel`; again, to do it again.

    What was removed is there again, with new item numbers. One step is kept, of up to 10,000
    items removed or renamed; `compact` and `rebuild` forget it. So does the next change.
    """
    with open_gallery(gallery) as target:
        change = target.last_change()
        if change is not None and change.undoable:
            if not confirmed(f"Take back: {_in_words(change)}, {change.at}?", yes):
                note("nothing was taken back")
                raise typer.Exit(1)
            change = target.undo(change.number)
        else:
            change = target.undo()  # raises, with the reason
        left = len(target)
    if as_json:
        print_json({"undone": change.what, "changed": change.items, "items": left})
    else:
        typer.echo(f"taken back: {_in_words(change)}; {counted(left, 'item')} now")


def _warn_of_many(items: int) -> bool:
    """Whether a change of so many items can be taken back; says so where it cannot."""
    if items > UNDOABLE:
        note(f"{items} items are more than `undo` keeps ({UNDOABLE}): this cannot be taken back")
    return items <= UNDOABLE


def _in_words(change: Change) -> str:
    """A change for people, as ``removed 12 items of Milk``."""
    which = "" if change.identity is None else f" of {change.identity}"
    items = counted(change.items, "item")
    return {
        "add": f"added {items}{which}",
        "remove": f"removed {items}{which}",
        "relabel": f"relabelled {items}{which} as {change.new}",
        "drop": f"dropped {counted(change.items, 'kept image')}",
    }[change.what]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("list")(list_)
    app.command()(info)
    app.command()(remove)
    app.command()(relabel)
    app.command()(undo)
