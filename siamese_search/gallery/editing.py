"""Editing: remove items and identities, and give them other names.

Knows nothing of embeddings.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from siamese_search.errors import UsageError
from siamese_search.gallery.copies import delete_copies
from siamese_search.pictures.sources import normalised
from siamese_search.storage.catalog import Catalog

COMPARED = 10_000  # identities; looking for a name like one of more takes too long


def numbers_of(catalog: Catalog, identity: str | None, item: int | None) -> list[int]:
    """The numbers of an identity's items, or that of one item.

    Raises UsageError where there is no such thing, with names that are like it.
    """
    folder = catalog.path.parent
    if (identity is None) == (item is None):
        raise UsageError("name either an identity or an item number")
    if item is not None:
        if not catalog.owners([item]):
            raise UsageError(f"no item {item} in {folder}")
        return [item]
    assert identity is not None
    name = normalised(identity)
    numbers = catalog.numbers(name)
    if not numbers:
        few = catalog.totals()[0] <= COMPARED
        names = [known for known, _ in catalog.identities()] if few else []
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"; close to it: {', '.join(close)}" if close else ""
        raise UsageError(f"no identity {name!r} in {folder}{hint}")
    return numbers


def remove(catalog: Catalog, folder: Path, numbers: Sequence[int]) -> int:
    """Remove items, with the gallery's copies of their images; returns how many went."""
    removed = catalog.remove(numbers)
    delete_copies(catalog, folder, removed)
    return len(removed)
