"""Checking: what is wrong with a gallery, and what it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from siamese_search.errors import GalleryError
from siamese_search.gallery.snapshots import Snapshots
from siamese_search.storage.catalog import Catalog


def bytes_below(folder: Path) -> int:
    total = 0
    for path, _, files in os.walk(folder):
        for file in files:
            with suppress(FileNotFoundError):  # swept by another process just now
                total += os.lstat(os.path.join(path, file)).st_size
    return total


def index_differences(folder: Path, catalog: Catalog, snapshots: Snapshots) -> Iterator[str]:
    """Where the snapshot's content disagrees with the database, one line each."""
    state = catalog.state()
    snapshot = state.snapshot
    if snapshot is None:
        return
    fault = snapshots.fault(snapshot, thorough=True)
    if fault:
        yield fault
        return
    path = folder / snapshot.file
    try:
        index = snapshots.engine.read(path, state.generation.dimension)
    except GalleryError as error:
        yield str(error)
        return
    index.remove(catalog.removed_after(snapshot.last_removal))
    for items, vectors in catalog.embeddings(state.generation, upto=snapshot.last_item):
        held = index.holds(items)
        for item in items[~held]:
            yield f"{path}: item {item} is missing"
        differing = (index.vectors(items[held]) != vectors[held]).any(axis=1)
        for item in items[held][differing]:
            yield f"{path}: item {item} has another embedding than the database"
        index.remove(items)
    for item in index.items:  # that are left
        yield f"{path}: item {item} is not in the database"
    index.close()
