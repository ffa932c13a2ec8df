"""Checking: what is wrong with a gallery, and what it is."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from pathlib import Path

from siamese_search.gallery.copies import copies_in
from siamese_search.gallery.snapshots import DATABASE_NAME, INDEX_NAME


def own_bytes(folder: Path) -> int:
    """The bytes on disk that are a gallery's own; its folder may hold somebody's files, too."""
    total = 0
    here = (path for path in folder.iterdir() if _is_ours(path.name))
    for path in itertools.chain(here, copies_in(folder)):
        with suppress(FileNotFoundError):  # swept by another process just now
            total += os.lstat(path).st_size
    return total


def _is_ours(name: str) -> bool:
    database = name in ("gallery.db", "gallery.db-journal") or DATABASE_NAME.fullmatch(name)
    return bool(database or INDEX_NAME.fullmatch(name))
