"""What keeps a gallery's index sound, as its face offers it: compaction, checks and repairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from siamese_search.gallery import checking, editing, mending
from siamese_search.gallery.active import ActiveEncoder
from siamese_search.gallery.compaction import Compaction
from siamese_search.gallery.snapshots import Snapshots
from siamese_search.records import ChangedPicture
from siamese_search.storage.catalog import Catalog


class Maintained:
    """The part of a ``Gallery`` that is about its index and its files."""

    folder: Path
    _catalog: Catalog
    _active: ActiveEncoder
    _snapshots: Snapshots
    _compaction: Compaction

    def compact(
        self,
        recipe: str | None = None,
        recall: float | None = None,
        engine: str | None = None,
        uri: str | None = None,
    ) -> None:
        """Fold what has changed since the last index into a new one.

        ``recipe`` is ``auto`` or a FAISS factory string, which serves from 1,000 items on (fewer
        are searched exactly); ``recall`` is the least recall@10 that it is tuned to. ``engine`` is
        ``faiss``, or ``milvus`` at a ``uri`` with the recipes FLAT and HNSW. All hold for later
        indexes too. Raises UsageError where there is no such index for these items,
        EngineUnavailable. The last change is forgotten, see ``undo``.
        """
        chosen = self._compaction.chosen(engine, uri)
        wanted = self._compaction.wanted(recipe, recall, chosen)
        editing.forget(self._catalog, self.folder)
        self._compaction.compact(wanted=wanted, chosen=chosen)

    def compact_if_due(self) -> bool:
        """Compact where enough has changed and no other process does; returns whether it did."""
        return self._compaction.compact_if_due()

    def check(self, *, deep: bool = False) -> list[str]:
        """Compare files, database and index; every fault in a line, none where all is well.

        ``deep`` embeds a sample of the pictures again, too.
        """
        return checking.faults(self._catalog, self._snapshots, self._active, deep)

    def repair(self) -> list[str]:
        """Make the index what the database says; what was wrong, a line each. See ``check``."""
        return mending.repair(self._catalog, self._snapshots, self._compaction)

    def changed_pictures(self, *, deep: bool = False) -> Iterator[ChangedPicture]:
        """The files that are gone, and have no copy, or were overwritten since they were enrolled:
        answers are still by what they were.

        By size and time; ``deep`` reads them all.
        """
        return checking.changed_pictures(self._catalog, deep)
