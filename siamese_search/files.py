"""Files that are whole or not there. Knows nothing of what they hold."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from siamese_search.errors import StorageError

log = logging.getLogger("siasearch")

STALE_SECONDS = 3600.0


def require_place(path: Path) -> None:
    """Raise StorageError where no file can be written: to be told before long work."""
    if path.is_dir():
        raise StorageError(f"{path} is a folder: name a file to write")
    if path.exists() and not path.is_file():  # a device would be replaced, too
        raise StorageError(f"{path} is no regular file: name another to write")
    if not path.parent.is_dir():
        raise StorageError(f"{path} could not be written: there is no folder {path.parent}")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file by way of a temporary name, synced, replacing one that is there.

    Raises StorageError, and leaves what was there, where that cannot be done.
    """
    require_place(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(f"{path} could not be written: {error.strerror}") from error


def delete(path: Path) -> None:
    """Delete a file, where the system lets it be deleted now."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # still open on Windows: the next compaction's turn
        log.debug("cannot delete %s yet: %s", path, error)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the system lets folders be opened."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
