"""Imported networks as encoder folders: whole, or not there.

Loads no torch.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.record import DESCRIPTION, write_encoder
from siamese_search.errors import StorageError, UsageError
from siamese_search.files import sync_folder
from siamese_search.importing.imported import Imported


def require_new(folder: Path) -> None:
    """Raise UsageError for a folder that has something in it: to be told before long work."""
    if (folder / DESCRIPTION).exists():
        raise UsageError(f"{folder} holds an encoder: name another folder, or remove that first")
    try:
        if any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty: name a new folder")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error


def write_imported(imported: Imported, folder: str | os.PathLike[str]) -> Encoder:
    """Write the folder of an encoder that has no threshold yet, and open it on the CPU.

    It is made under another name beside it, and gets its own in the end. Raises UsageError for a
    folder that is not new or empty, StorageError where it cannot be written.
    """
    place = Path(folder).absolute()
    require_new(Path(folder))
    made = place.with_name(f".{place.name}-{secrets.token_hex(4)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_encoder(
            made,
            name=imported.name,
            architecture=imported.architecture,
            preprocessing=imported.preprocessing,
            dimension=imported.dimension,
            onnx=imported.onnx,
            weights=imported.weights,
            training={"imported": imported.origin},
        )
        if place.is_dir():
            place.rmdir()
        os.rename(made, place)
        sync_folder(place.parent)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return Encoder.open(place, "cpu")
