"""Copying: a second gallery of one, or of some of its items, by way of an archive.

So it is one state of the gallery, whoever writes meanwhile, and verified. Knows nothing of what is
in an archive.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from siamese_search.errors import StorageError
from siamese_search.files import require_new_folder, temporary_folder
from siamese_search.gallery.archive import Archived, export_archive, import_archive
from siamese_search.records import Watcher
from siamese_search.storage.catalog import Catalog


def copied(
    catalog: Catalog,
    folder: Path,
    pictures: bool,
    watch: Watcher,
    only: Sequence[int] | None = None,
) -> Archived:
    """Make a gallery in a new folder of another as it is now, or ``only`` of some of its items."""
    folder = folder.absolute()
    require_new_folder(folder)
    try:
        with temporary_folder(folder) as place:
            path = place / "copy.siasearch"
            made = export_archive(catalog, path, pictures, watch, only)
            import_archive(path, folder, watch)
    except OSError as error:
        raise StorageError(f"{error.filename or folder}: {error.strerror}") from error
    return made
