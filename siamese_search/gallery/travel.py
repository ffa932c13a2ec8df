"""Travel: the part of a gallery's face by which it goes out as a file, and comes in again.

A method here says what it does, and the file named by its task does it. Knows nothing of pixels and
SQL.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace

from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import UsageError
from siamese_search.files import as_path
from siamese_search.gallery import archive, editing, exchange
from siamese_search.gallery.compaction import Compaction, index_new
from siamese_search.gallery.copying import copied
from siamese_search.gallery.sharing import Sharing, shared
from siamese_search.gallery.upkeep import Upkeep
from siamese_search.records import Watcher, unwatched
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.exchange import TakenIn


class Travel:
    """What a ``Gallery`` hands on, and takes in."""

    _catalog: Catalog
    _compaction: Compaction
    _upkeep: Upkeep

    @property
    @abstractmethod
    def encoder(self) -> Encoder:
        """The encoder of the active generation."""

    def export(
        self,
        out: str | os.PathLike[str],
        *,
        pictures: bool = True,
        watch: Watcher | None = None,
    ) -> archive.Archived:
        """Write the whole gallery as one archive, as it is now, while others may change it.

        In it are the copies of images that the gallery has, unless ``pictures`` is False. Index
        files, which can be made again, and what ``undo`` would take back stay out. Raises
        StorageError where the file cannot be written, GalleryDamaged for a gallery with a fault.
        """
        return archive.export_archive(self._catalog, as_path(out), pictures, watch or unwatched)

    def share(
        self,
        out: str | os.PathLike[str],
        *,
        pseudonyms: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        metadata: Iterable[str] = (),
        watch: Watcher | None = None,
    ) -> archive.Archived | exchange.Exported:
        """Write the gallery as an archive or a table, by the name's ending, without what leads back
        to its pictures: no paths, hashes, dates, places and pictures, in a random order.

        ``pseudonyms`` is a CSV file that is kept here, with a random name for each identity, which
        goes out in its place; names that are in it already stay. ``key`` is a key file, made where
        it is not there: embeddings go out rotated by it, and whoever asks needs it, see
        ``Encoder.protected``. Of metadata the keys named go along. Items without an embedding are
        left out where there are any. Raises UsageError for a table or key that is none, and what
        ``export`` and ``export_items`` raise.
        """
        path, watch = as_path(out), watch or unwatched
        table, key = (None if one is None else as_path(one) for one in (pseudonyms, key))
        names = [metadata] if isinstance(metadata, str) else metadata
        wanted = Sharing(table, key, frozenset(names))
        with shared(self._catalog, wanted, path, lambda: self.encoder, watch) as (state, left_out):
            if exchange.is_table(path):
                return replace(exchange.export_table(state, path, True, watch), left_out=left_out)
            return replace(archive.export_archive(state, path, False, watch), left_out=left_out)

    def copy(
        self,
        folder: str | os.PathLike[str],
        *,
        pictures: bool = True,
        watch: Watcher | None = None,
    ) -> archive.Archived:
        """Make a second gallery of this one as it is now, in a new folder: whole, or not at all.

        As ``export`` and then ``restore``; raises what these raise.
        """
        place = as_path(folder)
        made = copied(self._catalog, place, pictures, watch or unwatched)
        index_new(place, background=False)
        return made

    def split(
        self,
        folder: str | os.PathLike[str],
        items: editing.Items,
        *,
        keep: bool = False,
        watch: Watcher | None = None,
    ) -> archive.Archived:
        """Move items, themselves or their numbers, to a new gallery in a new folder: whole, or not
        at all.

        They leave this one once the other is there, which ``undo`` takes back; with ``keep`` they
        stay. Both decide as before. Raises UsageError where an item is not there or none is named,
        and what ``export`` and ``restore`` raise.
        """
        numbers = editing.numbers_of(self._catalog, None, items)
        if not numbers:
            raise UsageError("no items were chosen: nothing was done")
        if not keep:
            self._catalog.require_writable()
        place = as_path(folder)
        made = copied(self._catalog, place, True, watch or unwatched, numbers)
        index_new(place, background=False)
        if not keep:
            with self._compaction.making_room():
                removed = editing.remove(self._catalog, self._catalog.path.parent, numbers)
            self._upkeep.after(removed)
        return made

    @staticmethod
    def restore(
        path: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        *,
        background: bool = False,
        watch: Watcher | None = None,
    ) -> archive.Archived:
        """Make a gallery, in a new folder, of what ``export`` or ``export_items`` wrote: whole, or
        not at all.

        The file may come from anybody. Raises UsageError where there is no such file, StorageError
        where something is in the folder, GalleryDamaged for anything that is not as it was written,
        and GalleryFormatError for an archive by a newer siasearch. Its index file is written, too;
        with ``background``, of many items by a process of its own, see ``Gallery.open``.
        """
        source, place = as_path(path), as_path(folder)
        make = exchange.new_gallery if exchange.is_table(source) else archive.import_archive
        made = make(source, place, watch or unwatched)
        index_new(place, background)
        return made

    def export_items(
        self,
        out: str | os.PathLike[str],
        *,
        embeddings: bool | None = None,
        watch: Watcher | None = None,
    ) -> exchange.Exported:
        """Write the items as a table, as they are now, while others may change them: .parquet
        (needs pyarrow), .npz or .csv. What the gallery has learned, and pictures, are not in it.

        CSV has ``embeddings`` only where these are asked for. Items without an embedding are left
        out where there are any. Raises StorageError where the file cannot be written.
        """
        path = as_path(out)
        if not exchange.is_table(path):
            raise UsageError(f"{path}: name a file that ends in {', '.join(exchange.READERS)}")
        return exchange.export_table(self._catalog, path, embeddings, watch or unwatched)

    def import_items(
        self,
        path: str | os.PathLike[str],
        *,
        on_conflict: str = "skip",
        watch: Watcher | None = None,
    ) -> TakenIn:
        """Enrol the items of a table that ``export_items`` wrote, all or none.

        What is enrolled already, by the content of its file, is skipped; with ``on_conflict``
        "replace" the table's item takes its place, with "error" nothing is imported. ``undo`` takes
        it back. Raises UsageError or GalleryDamaged for a table that makes no sense, and
        GalleryMismatch for one of another encoder.
        """
        source = as_path(path)
        table = exchange.opened_table(source)
        with self._compaction.making_room():
            taken = exchange.import_table(
                self._catalog, source, table, on_conflict, watch or unwatched
            )
        if taken.added:
            self._upkeep.after(1)  # nobody waits for the index of many
        return taken

    def merge(
        self, other: Travel, *, on_conflict: str = "skip", watch: Watcher | None = None
    ) -> TakenIn:
        """Enrol another gallery's items here, all or none, with the copies of images and what else
        it has of each; it stays as it is. Items without an embedding are left out.

        ``on_conflict`` as for ``import_items``; ``undo`` takes it back. Raises GalleryMismatch
        where it is of another encoder.
        """
        with self._compaction.making_room():
            taken = exchange.merge(self._catalog, other._catalog, on_conflict, watch or unwatched)
        if taken.added:
            self._upkeep.after(1)  # nobody waits for the index of many
        return taken
