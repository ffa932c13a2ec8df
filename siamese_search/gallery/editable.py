"""The part of a gallery's face that lists, removes and renames what is enrolled, and takes it back.

Knows nothing of encoders and of how items are found.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from siamese_search.gallery import editing
from siamese_search.gallery.upkeep import Upkeep
from siamese_search.pictures.sources import normalised
from siamese_search.records import Change, Item
from siamese_search.storage.catalog import Catalog


class Editable:
    """The edits of a ``Gallery``."""

    folder: Path
    _catalog: Catalog
    _upkeep: Upkeep

    def identities(self) -> list[tuple[str, int]]:
        """Every identity with its number of items, by name."""
        return self._catalog.identities()

    def distractors(self) -> set[str]:
        """The identities that are never named."""
        return self._catalog.distractors(None)

    def items(self, identity: str) -> list[Item]:
        """The items of an identity. Raises UsageError where there is no such identity."""
        return self._catalog.items(editing.numbers_of(self._catalog, identity, None))

    def items_by_number(self, numbers: Iterable[int]) -> list[Item]:
        """Items by their numbers; those that are not there are left out."""
        return self._catalog.items(numbers)

    def count(self, identity: str) -> int:
        """How many items an identity has; 0 where there is no such identity."""
        return len(self._catalog.numbers(normalised(identity)))

    def remove(self, identity: str | None = None, item: int | Iterable[int] | None = None) -> int:
        """Remove an identity, or one item or several; returns how many items went.

        Raises UsageError where there is no such thing; then nothing goes. ``undo`` puts them back.
        """
        numbers = editing.numbers_of(self._catalog, identity, item)
        removed = editing.remove(self._catalog, self.folder, numbers)
        self._upkeep.after(removed)
        return removed

    def relabel(self, old: str | None, new: str, item: int | Iterable[int] | None = None) -> int:
        """Give an identity, or one item or several, the name ``new``, merging where it exists.

        Returns how many items it concerned. Raises UsageError where there is no such thing.
        ``undo`` gives them their names again.
        """
        numbers = editing.numbers_of(self._catalog, old, item)
        return editing.relabel(self._catalog, self.folder, numbers, normalised(new))

    def last_change(self) -> Change | None:
        """The last change by enrolling, removing or relabelling, which ``undo`` takes back.

        None where there was none, and where it is forgotten: by ``compact``, and by ``rebuild``.
        """
        return self._catalog.last_change()

    def undo(self, number: int | None = None) -> Change:
        """Take back the last change; returns what it was. Doing it again does the change again.

        What was enrolled is removed; what was removed is enrolled again, with its embeddings, its
        metadata and the gallery's copies of its images, under new item numbers; what was relabelled
        has its name again. With the ``number`` of a ``Change`` only that one is taken back. Raises
        UsageError where there is nothing to take back, where another change has been made, or where
        it was of more than 10,000 items, which are not kept.
        """
        change = editing.undo(self._catalog, self.folder, number)
        self._upkeep.after(change.items)
        return change
