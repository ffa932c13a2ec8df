"""Checking: what is wrong with a gallery, and what it is. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from siamese_search.embedding.vectors import LENGTH_TOLERANCE
from siamese_search.errors import EncoderError, SiaSearchError
from siamese_search.gallery.active import ActiveEncoder
from siamese_search.gallery.snapshots import Snapshots
from siamese_search.pictures.read import file_fault
from siamese_search.records import GalleryInfo
from siamese_search.storage.catalog import Catalog

TRIES = 3  # to look while nobody changes anything


def faults(catalog: Catalog, snapshots: Snapshots, active: ActiveEncoder) -> list[str]:
    """Compare files, database and index; every fault in a line, none where all is well."""
    for _ in range(TRIES):
        version = catalog.version()
        found = list(catalog.faults())
        if not found:
            found = [*snapshots.differences(), *_stored_faults(catalog, active)]
        # What others change while it looks can seem a fault.
        if not found or catalog.version() == version:
            break
    return found


def _stored_faults(catalog: Catalog, active: ActiveEncoder) -> Iterator[str]:
    try:
        active.now().encoder.verify_files()
    except EncoderError as error:
        yield str(error)
    generation = catalog.state().generation
    for number in catalog.unembedded(generation, limit=2**62):
        yield f"item {number} has no embedding under the encoder {generation.encoder!r}"
    for items, vectors in catalog.embeddings(generation):
        lengths = np.linalg.norm(vectors, axis=1)
        for item in items[~(np.abs(lengths - 1) < LENGTH_TOLERANCE)]:
            yield f"the embedding of item {item} is not of unit length"
    for item_number, copy, content in catalog.copies():
        fault = file_fault(catalog.path.parent / copy, content)
        if fault:
            yield f"the copy of item {item_number}: {fault}"


def info(catalog: Catalog, active: ActiveEncoder, calibration: str | None) -> GalleryInfo:
    """What a gallery is; ``calibration`` says in words how it decides."""
    state = catalog.state()
    identities, items = catalog.totals()
    snapshot = state.snapshot
    threshold = None
    with suppress(SiaSearchError):  # the encoder is gone
        threshold = active.now().encoder.threshold
    return GalleryInfo(
        gallery=str(catalog.path.parent),
        identities=identities,
        items=items,
        encoder=state.generation.encoder,
        fingerprint=state.generation.fingerprint,
        dimension=state.generation.dimension,
        threshold=threshold,
        calibration=calibration,
        distractors=catalog.count_distractors(),
        index=snapshot.file if snapshot else None,
        indexed=snapshot.items if snapshot else 0,
        recipe=snapshot.recipe if snapshot else None,
        recall=snapshot.recall if snapshot else None,
        bytes=bytes_below(catalog.path.parent),
    )


def bytes_below(folder: Path) -> int:
    """What the files below a folder take."""
    total = 0
    for path, _, files in os.walk(folder):
        for file in files:
            with suppress(FileNotFoundError):  # swept by another process just now
                total += os.lstat(os.path.join(path, file)).st_size
    return total
