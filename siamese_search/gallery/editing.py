"""Editing: remove items and identities, give them other names, and take that back.

Knows nothing of embeddings.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from siamese_search.errors import UsageError
from siamese_search.gallery.copies import publish_again, settle_copies
from siamese_search.pictures.sources import normalised
from siamese_search.records import Change, Item
from siamese_search.storage.catalog import Catalog

Items = int | Item | Iterable[int | Item]  # one or several, or their numbers
COMPARED = 10_000  # identities; looking for a name like one of more takes too long


def numbers_of(catalog: Catalog, identity: str | None, item: Items | None) -> list[int]:
    """The numbers of an identity's items, or those of single items, ascending.

    Raises UsageError where there is no such thing, with names that are like it.
    """
    folder = catalog.path.parent
    if (identity is None) == (item is None):
        raise UsageError("name either an identity or an item number")
    if item is not None:
        wanted = sorted(set(item_numbers(item, "item")))
        there = catalog.owners(wanted)
        for number in wanted:
            if number not in there:
                raise UsageError(f"no item {number} in {folder}: nothing was changed")
        return wanted
    assert identity is not None
    name = normalised(identity)
    numbers = catalog.numbers(name)
    if not numbers:
        few = catalog.totals()[0] <= COMPARED
        names = [known for known, _ in catalog.identities()] if few else []
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"; close to it: {', '.join(close)}" if close else ": `siasearch list` shows all"
        raise UsageError(f"no identity {name!r} in {folder}{hint}")
    return numbers


def item_numbers(value: Any, what: str) -> list[int]:
    """As ``numbers_in``; an item stands for its number."""
    if isinstance(value, Item):
        return [value.number]
    if isinstance(value, Iterable) and not isinstance(value, str):
        value = [one.number if isinstance(one, Item) else one for one in value]
    return numbers_in(value, what)


def numbers_in(value: Any, what: str) -> list[int]:
    """One number or several, as a list. Raises UsageError, saying of ``what``, for others."""
    several = isinstance(value, Iterable) and not isinstance(value, str)
    each = list(value) if several else [value]
    if not all(isinstance(one, Integral) for one in each):
        raise UsageError(f"{what} is {value!r}: it needs a number, or several")
    return [int(one) for one in each]


def remove(catalog: Catalog, folder: Path, numbers: Sequence[int]) -> int:
    """Remove items, with the gallery's copies of their images; returns how many went."""
    removed = catalog.remove(numbers)
    settle_copies(catalog, folder)
    return len(removed)


def relabel(
    catalog: Catalog, folder: Path, numbers: Sequence[int], new: str, merge: bool = True
) -> int:
    """Give items another identity; returns how many."""
    relabelled = catalog.relabel(numbers, new, merge)
    settle_copies(catalog, folder)
    return relabelled


def undo(catalog: Catalog, folder: Path, number: int | None, *, again: bool = False) -> Change:
    """Take the last change back, with the copies of images; or do ``again`` what was."""
    turn = catalog.redo if again else catalog.undo
    change = turn(number, before_commit=lambda copies: publish_again(folder, copies))
    settle_copies(catalog, folder)
    return change


def forget(catalog: Catalog, folder: Path) -> None:
    """Forget the last changes; what they removed is gone for good."""
    if catalog.writable:
        catalog.forget_changes()
        settle_copies(catalog, folder)
