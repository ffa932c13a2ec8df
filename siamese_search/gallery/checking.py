"""Checking: what is wrong with a gallery, and what it is. Changes nothing."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import numpy as np

from siamese_search.embedding.vectors import are_unit
from siamese_search.errors import EncoderError, GalleryError, SiaSearchError
from siamese_search.gallery.active import ActiveEncoder
from siamese_search.gallery.agreement import disagreements, require_same_graph
from siamese_search.gallery.calibrating import Calibrating
from siamese_search.gallery.compaction import DATABASE_NAME
from siamese_search.gallery.copies import copies_in, copy_fault
from siamese_search.gallery.remote import MARK, is_remote
from siamese_search.gallery.snapshots import INDEX_NAME, Snapshots
from siamese_search.gallery.stored import dimension_of
from siamese_search.pictures.read import file_fault
from siamese_search.records import ChangedPicture, GalleryInfo
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.facts import Source
from siamese_search.words import printable

CLOCK = 2.0  # seconds that a file's time may be off
ROUNDING = 1e-5  # of what is projected
TRIES = 3  # to look while nobody changes anything


def faults(
    catalog: Catalog, snapshots: Snapshots, active: ActiveEncoder, deep: bool = False
) -> list[str]:
    """Compare files, database and index; every fault in a line, none where all is well. ``deep``
    embeds a sample of the pictures again.
    """
    for _ in range(TRIES):
        version = catalog.version()
        found = list(catalog.faults())
        if not found:
            found = [*index_differences(catalog, snapshots), *_stored_faults(catalog, active)]
            if deep and not found:
                found = list(_embedded_otherwise(catalog, active))
        # What others change while it looks can seem a fault.
        if not found or catalog.version() == version:
            break
    return found


def _stored_faults(catalog: Catalog, active: ActiveEncoder) -> Iterator[str]:
    try:
        encoder = active.now().encoder
        encoder.verify_files()
        require_same_graph(catalog, encoder, catalog.path.parent)
    except EncoderError as error:
        yield str(error)
    generation = catalog.state().generation
    try:
        catalog.calibration(generation)
    except GalleryError as error:
        yield str(error)
    for number in catalog.unembedded(generation, limit=2**62):
        yield f"item {number} has no embedding under the encoder {generation.encoder!r}"
    for items, vectors in catalog.embeddings(generation):
        for item in items[~are_unit(vectors)]:
            yield f"the embedding of item {item} is not of unit length"
    for copy in catalog.copies():
        fault = copy_fault(catalog.path.parent, copy)
        if fault:
            yield f"the copy of item {copy.item}: {fault}"


def _embedded_otherwise(catalog: Catalog, active: ActiveEncoder) -> Iterator[str]:
    encoder = active.now().encoder
    for number, cosine in disagreements(catalog, encoder, catalog.path.parent):
        yield (
            f"the embedding of item {number} is not what {encoder.name} gives for its picture"
            f" (cosine {cosine:.3f}): remove it and enrol it again"
        )


def changed_pictures(catalog: Catalog, deep: bool) -> Iterator[ChangedPicture]:
    """The files that are gone or have other content than when they were enrolled.

    Told by size and time; what was written to since is read, and ``deep`` reads all. A file that is
    gone matters only where the gallery has no copy.
    """
    for source in catalog.sources():
        fault = _source_fault(source, deep)
        if fault:
            said = f"item {source.item}: {fault}"
            yield ChangedPicture(printable(source.path), said, source.item)


def _source_fault(source: Source, deep: bool) -> str | None:
    try:
        status = os.stat(source.place)
    except (OSError, ValueError):
        return None if source.copied else "is gone"
    enrolled = datetime.fromisoformat(source.added).timestamp()
    if status.st_size == source.size and not deep and status.st_mtime <= enrolled + CLOCK:
        return None
    fault = file_fault(source.place, source.content)
    if fault and source.place != source.path:  # that is another picture's file
        return None if source.copied else "is gone"
    return fault


def info(catalog: Catalog, active: ActiveEncoder, calibrating: Calibrating) -> GalleryInfo:
    """What a gallery is."""
    state = catalog.state()
    identities, items = catalog.totals()
    snapshot = state.snapshot
    threshold = undecided = None
    with suppress(SiaSearchError):  # the encoder is gone
        encoder = active.now().encoder
        threshold = encoder.threshold if encoder.calibrated else None
        undecided = calibrating.undecided()
    return GalleryInfo(
        gallery=str(catalog.path.parent),
        identities=identities,
        items=items,
        encoder=state.generation.encoder,
        fingerprint=state.generation.fingerprint,
        dimension=state.generation.dimension,
        threshold=threshold,
        calibration=calibrating.in_words(),
        distractors=catalog.count_distractors(),
        engine="milvus" if snapshot and is_remote(snapshot.file) else "faiss",
        index=snapshot.file.removeprefix(MARK) if snapshot else None,
        indexed=snapshot.items if snapshot else 0,
        recipe=snapshot.recipe if snapshot else None,
        recall=snapshot.recall if snapshot else None,
        bytes=own_bytes(catalog.path.parent),
        metric=calibrating.learning.in_words(),
        closer=calibrating.closer_in_words(),
        places=catalog.count_places(state.generation.number),
        copies=catalog.count_copies(),
        undecided=undecided,
    )


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


def index_differences(catalog: Catalog, snapshots: Snapshots) -> Iterator[str]:
    """Where the snapshot's content disagrees with the database, one line each."""
    state, metric = catalog.state_with_metric()
    snapshot = state.snapshot
    if snapshot is None:
        return
    if snapshot.metric != state.metric:
        yield f"{snapshot.file} was written under another metric: run `siasearch compact`"
        return
    if is_remote(snapshot.file):
        yield from snapshots.remote.differences()
        return
    fault = snapshots.fault(snapshot, thorough=True)
    if fault:
        yield fault
        return
    path = catalog.path.parent / snapshot.file
    try:
        index = snapshots.engine.read(path, dimension_of(state, metric))
    except GalleryError as error:
        yield str(error)
        return
    index.remove(catalog.removed_after(snapshot.last_removal))
    upto = dataclasses.replace(state, last_item=snapshot.last_item)
    for items, vectors in snapshots.projected(upto, metric):
        held = index.holds(items)
        for item in items[~held]:
            yield f"{path}: item {item} is missing"
        apart = np.abs(index.vectors(items[held]) - vectors[held])
        # A projection may be rounded otherwise elsewhere. NaN is not close.
        differing = ~(apart <= (0.0 if metric is None else ROUNDING)).all(axis=1)
        for item in items[held][differing]:
            yield f"{path}: item {item} has another embedding than the database"
        index.remove(items)
    for item in index.items:  # that are left
        yield f"{path}: item {item} is not in the database"
    index.close()
