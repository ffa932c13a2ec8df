"""Opening: whether there is a gallery in a folder, and its database, made where there is none.

Knows nothing of items.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from siamese_search.embedding.contract import EncoderProtocol
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import GalleryMissing, StorageError, UsageError
from siamese_search.storage.catalog import Catalog

DATABASE = "gallery.db"


def exists(folder: Path) -> bool:
    """Whether there is a gallery in a folder. Raises StorageError if that cannot be told."""
    database = folder / DATABASE
    try:
        return stat.S_ISREG(database.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StorageError(f"{database}: {error.strerror}") from error


def opened_encoder(
    encoder: Encoder | EncoderProtocol | str | os.PathLike[str] | None, device: str | None
) -> Encoder | None:
    """An encoder that is given opened, as an object, by a name or its folder, or not at all."""
    if encoder is None or isinstance(encoder, Encoder):
        return encoder
    return Encoder.open(encoder, device)


def opened_catalog(folder: Path, encoder: Encoder | None) -> Catalog:
    """A gallery's database; made where there is none and an encoder is given.

    Raises GalleryMissing where there is neither, UsageError for a file.
    """
    if folder.is_file():
        raise UsageError(f"{folder} is a file: a gallery is a folder")
    if not exists(folder):
        if encoder is None:
            raise GalleryMissing(
                f"no gallery in {folder}: enrol images with `siasearch add`, or name one"
                " with --gallery; in Python, Gallery.open makes one where an encoder is given"
            )
        path = folder / DATABASE
        Catalog.create(path, encoder.fingerprint, encoder.location, encoder.dimension)
    return Catalog(folder.absolute() / DATABASE)
