"""``list``: the identities of a gallery, or items, as lines, JSON or a table."""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from siamese_search.cli.common import (
    DEFAULT_GALLERY,
    GalleryOption,
    JsonLinesOption,
    conditions,
    near,
    note,
    open_gallery,
    print_json,
    print_row,
    say,
)
from siamese_search.errors import UsageError
from siamese_search.pictures.sources import normalised

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from siamese_search.records import Item

T = TypeVar("T")
WILDCARDS = set("*?[")


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
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print a table; of items with a column for each metadata.")
    ] = False,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="name|items|item|identity|path|added",
            help="Order identities by name, or items, the most first; order items by one of the"
            " others.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="List the first N of them only.")
    ] = None,
) -> None:
    """List the identities, or the items of one, or those with some metadata."""
    if as_json and as_csv:
        raise UsageError("--json and --csv: choose one")
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
            items = _first(_sorted_items(items, sort), limit)
            _print_items(items, gallery, as_json, as_csv, owners=True)
            if not items:
                note(f"no item has {' and '.join(where)}")
        elif several:
            if not fitting:
                note(f"nothing is enrolled in {gallery}")
            never = source.distractors()
            fitting = _first(_sorted_identities(fitting, sort), limit)
            if as_csv:
                print_row(("identity", "items", "distractor"))
            for name, count in fitting:
                if as_csv:
                    print_row((name, count, name in never))
                elif as_json:
                    print_json({"identity": name, "items": count, "distractor": name in never})
                else:
                    mark = "  (distractor)" if name in never else ""
                    say(f"{count:>8}  {name}{mark}")
        elif identity is not None:
            items = _first(_sorted_items(source.items(identity), sort), limit)
            _print_items(items, gallery, as_json, as_csv)


def _sorted_identities(rows: list[tuple[str, int]], by: str | None) -> list[tuple[str, int]]:
    if by not in (None, "name", "items"):
        raise UsageError(f"--sort {by}: identities are sorted by name or items")
    return sorted(rows, key=lambda row: (-row[1], row[0])) if by == "items" else rows


def _sorted_items(items: list[Item], by: str | None) -> list[Item]:
    orders: dict[str | None, Callable[[Item], Any]] = {
        **dict.fromkeys((None, "item"), lambda item: item.number),
        "identity": lambda item: (item.identity, item.number),
        "path": lambda item: (item.source or "", item.number),
        "added": lambda item: (item.added, item.number),
    }
    if by not in orders:
        raise UsageError(f"--sort {by}: items are sorted by item, identity, path or added")
    return sorted(items, key=orders[by])


def _first(rows: list[T], limit: int | None) -> list[T]:
    """The first of them, said where others are left out."""
    if limit is not None and len(rows) > limit:
        note(f"{limit} of {len(rows)} are listed")
        return rows[:limit]
    return rows


def _print_items(
    items: Sequence[Item], gallery: Path, as_json: bool, as_csv: bool, owners: bool = False
) -> None:
    """Print items, with their ``owners`` where these may be several."""
    if as_csv:
        keys = sorted(set().union(*(item.metadata for item in items)))
        print_row(("item", "identity", "path", *keys))
        for item in items:
            described = (item.metadata.get(key, "") for key in keys)
            print_row((item.number, item.identity, item.source or "", *described))
        return
    for item in items:
        if as_json:
            fields = dataclasses.asdict(item)
            fields["item"], fields["path"] = fields.pop("number"), fields.pop("source")
            print_json(fields)
        else:
            metadata = "  ".join(f"{key}={value}" for key, value in item.metadata.items())
            owner = f"{item.identity}  " if owners else ""
            line = f"{item.number:>8}  {owner}{near(_place(item, gallery))}  {metadata}"
            say(line.rstrip())


def _place(item: Item, gallery: Path) -> str:
    """Where an item's image lies, for people."""
    return item.source or (str(gallery / item.copy) if item.copy else "(no file)")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("list")(list_)
