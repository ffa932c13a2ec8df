"""``list``, ``info``, ``remove`` and ``relabel``: see and edit the gallery."""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase
from typing import Annotated

import typer

from siamese_search.cli.common import (
    DEFAULT_GALLERY,
    GalleryOption,
    JsonLinesOption,
    JsonOption,
    open_gallery,
    print_json,
)
from siamese_search.errors import UsageError
from siamese_search.pictures.sources import normalised
from siamese_search.records import counted

WILDCARDS = set("*?[")

ItemOption = Annotated[
    int | None, typer.Option("--item", metavar="N", help="One item, by its number.")
]
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
    gallery: GalleryOption = DEFAULT_GALLERY,
    as_json: JsonLinesOption = False,
) -> None:
    """List the identities, or the items of one."""
    with open_gallery(gallery) as source:
        every = source.identities() if identity is None or WILDCARDS & set(identity) else []
        # A name may have such signs itself.
        if identity is None or (every and identity not in dict(every)):
            never = source.distractors()
            fitting = [row for row in every if fnmatchcase(row[0], normalised(identity or "*"))]
            if identity is not None and not fitting:
                raise UsageError(f"no identity fits {identity!r} in {gallery}")
            for name, items in fitting:
                if as_json:
                    print_json({"identity": name, "items": items, "distractor": name in never})
                else:
                    typer.echo(f"{items:>8}  {name}{'  (distractor)' if name in never else ''}")
            return
        for item in source.items(identity):
            if as_json:
                fields = dataclasses.asdict(item)
                fields["item"], fields["path"] = fields.pop("number"), fields.pop("source")
                print_json(fields)
            else:
                metadata = "  ".join(f"{key}={value}" for key, value in item.metadata.items())
                typer.echo(f"{item.number:>8}  {item.source or '(embedding)'}  {metadata}".rstrip())


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
    as_json: JsonOption = False,
) -> None:
    """Remove an identity with all its items, or single items. The image files stay."""
    with open_gallery(gallery) as target:
        wanted = sorted(set(item or []))
        there = {found.number for found in target.items_by_number(wanted)}
        for number in wanted:
            if number not in there:
                raise UsageError(f"no item {number} in {gallery}: nothing was removed")
        if identity is not None or not wanted:
            removed = target.remove(identity, wanted[0] if wanted else None)
        else:
            removed = sum(target.remove(item=number) for number in wanted)
        left = len(target)
    if as_json:
        print_json({"removed": removed, "items": left})
    else:
        typer.echo(f"{counted(removed, 'item')} removed, {left} left")


def relabel(
    names: Annotated[
        list[str], typer.Argument(metavar="OLD NEW", help="With --item, only the new name.")
    ],
    item: ItemOption = None,
    gallery: GalleryOption = DEFAULT_GALLERY,
    as_json: JsonOption = False,
) -> None:
    """Rename an identity, or give one item another identity; merges where NEW exists."""
    if len(names) != (2 if item is None else 1):
        raise UsageError("write `relabel OLD NEW`, or `relabel --item N NEW`")
    with open_gallery(gallery) as target:
        relabelled = target.relabel(names[0] if item is None else None, names[-1], item)
    if as_json:
        print_json({"relabelled": relabelled})
    else:
        verb = "is" if relabelled == 1 else "are"
        typer.echo(f"{counted(relabelled, 'item')} {verb} now {names[-1]!r}")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("list")(list_)
    app.command()(info)
    app.command()(remove)
    app.command()(relabel)
