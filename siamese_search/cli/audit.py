"""``audit``: what looks wrong in a gallery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.common import (
    DEFAULT_GALLERY,
    DeviceOption,
    EncoderOption,
    GalleryOption,
    JsonOption,
    cosine,
    near,
    open_gallery,
    print_json,
    print_row,
    progress_bar,
    say,
)
from siamese_search.errors import UsageError
from siamese_search.records import DUPLICATE
from siamese_search.words import counted

if TYPE_CHECKING:
    from siamese_search.records import Item, LeftOut

SHOWN = 20  # of each kind, unless another number is asked for


def audit(
    gallery: GalleryOption = DEFAULT_GALLERY,
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"How many of each kind to show; default: {SHOWN}, or all with --json and --csv.",
        ),
    ] = None,
    duplicate: Annotated[
        float,
        typer.Option(
            callback=cosine, help="The cosine from which pictures are the same, from -1 to 1."
        ),
    ] = DUPLICATE,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print a table: a row for each item or pair.")
    ] = False,
) -> None:
    """List what looks wrong: likely wrong labels, near-duplicates, identities not told apart.

    Every item is searched without itself. Nothing is changed: `relabel --item` and `remove --item`
    correct. With --json, likely wrong labels come first, all items in the order of their doubt.
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv: choose one")
    with open_gallery(gallery, encoder, device) as source:
        with progress_bar("auditing", lambda: len(source)) as watch:
            found = source.audit(duplicate=duplicate, watch=watch)
        most = top if as_json or as_csv else top or SHOWN
        suspects, duplicates = found.suspects[:most], found.duplicates[:most]
        confusable = found.confusable[:most]
        numbers = {item for pair in duplicates for item in pair[:2]}
        items = {item.number: item for item in source.items_by_number(numbers)}
    if as_json:
        print_json(
            {
                "items": found.items,
                "suspects": [
                    {
                        "item": one.item,
                        "identity": one.identity,
                        "path": one.path,
                        "score": one.own,
                        "better": one.others[0].identity if one.others else None,
                        "better_score": one.others[0].score if one.others else None,
                    }
                    for one in suspects
                ],
                "duplicates": [{"items": [a, b], "score": score} for a, b, score in duplicates],
                "confusable": [
                    {"identities": [a, b], "mistaken": count, "items": total}
                    for a, b, count, total in confusable
                ],
            }
        )
        return
    doubtful = [one for one in found.suspects if one.doubt > 0]
    if as_csv:
        _print_table(doubtful[:most], duplicates, confusable, items)
        return
    of = counted(found.items, "item")
    typer.echo(
        f"{len(doubtful)} of {of} look{'s' * (len(doubtful) == 1)} more like another identity"
    )
    for one in doubtful[:most]:
        better = one.others[0]
        say(
            f"  item {one.item}, {one.identity} ({one.own:.3f}), looks like {better.identity}"
            f" ({better.score:.3f}): {near(one.path) if one.path else 'an embedding'}"
        )
    typer.echo(f"{counted(len(found.duplicates), 'pair')} of nearly the same picture")
    for a, b, score in duplicates:
        say(f"  {score:.3f}  {_named(items[a])}  and  {_named(items[b])}")
    pairs = counted(len(found.confusable), "pair of identities is", "pairs of identities are")
    typer.echo(f"{pairs} taken for each other")
    for first, second, count, total in confusable:
        say(f"  {count} of {total} items: {first} and {second}")


def _print_table(
    doubtful: Sequence[LeftOut],
    duplicates: Sequence[tuple[int, int, float]],
    confusable: Sequence[tuple[str, str, int, int]],
    items: dict[int, Item],
) -> None:
    """A row for each doubtful label, each pair of pictures and each pair of identities."""
    print_row(("kind", "item", "identity", "path", "score", "other", "other item", "other score"))
    for one in doubtful:
        better = one.others[0]
        row = (one.item, one.identity, one.path or "", one.own)
        print_row(("label", *row, better.identity, better.item, better.score))
    for first, second, score in duplicates:
        a, b = items[first], items[second]
        row = (a.number, a.identity, a.source or "", score)
        print_row(("duplicate", *row, b.identity, b.number, ""))
    for one_name, another, count, total in confusable:
        print_row(("confusable", "", one_name, "", count / total, another, "", ""))


def _named(item: Item) -> str:
    place = near(item.source) if item.source else "an embedding"
    return f"item {item.number}, {item.identity}: {place}"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(audit)
