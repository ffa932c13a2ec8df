"""Re-embedding: fill a generation beside the active one, then switch to it.

Resumable: what is embedded is committed, and a later run embeds what is still lacking.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from siamese_search.embedding import pipeline
from siamese_search.embedding.contract import EncoderProtocol
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.vectors import Description
from siamese_search.errors import ImageError
from siamese_search.gallery.active import ActiveEncoder
from siamese_search.gallery.compaction import Compaction
from siamese_search.gallery.copies import enrolled_bytes
from siamese_search.records import Generation, Item, Progress, RebuildReport, Rejection, Watcher
from siamese_search.storage.catalog import Catalog
from siamese_search.words import counted

log = logging.getLogger("siasearch")

COMMIT_ITEMS = 256


def rebuild(
    catalog: Catalog,
    compaction: Compaction,
    active: ActiveEncoder,
    encoder: Encoder | EncoderProtocol | str | os.PathLike[str] | None,
    skip_missing: bool,
    watch: Watcher,
) -> RebuildReport:
    """See ``Gallery.rebuild``, but for the calibration."""
    if encoder is None and not catalog.count_unembedded(catalog.state().generation):
        with compaction.maintenance(wait=True):
            replace_places(catalog, active, watch)
            compaction.compact()
        return RebuildReport(True, 0, (), catalog.totals()[1])
    target = active.now().encoder if encoder is None else encoder
    if not isinstance(target, Encoder):
        target = Encoder.open(target, active.device)
    target = target.protected_as(catalog.state().generation.encoder)
    # What the active encoder could not embed cannot be found already: no reason to stop.
    skip_missing = skip_missing or encoder is None
    with compaction.maintenance(wait=False):
        folder = catalog.path.parent
        report = reembed(catalog, folder, target, skip_missing=skip_missing, watch=watch)
        if report.switched:
            active.use(target)
            replace_places(catalog, active, watch)
            compaction.compact()
    return report


def replace_places(catalog: Catalog, active: ActiveEncoder, watch: Watcher) -> int:
    """Make places of items that lack them, where the encoder gives any and the gallery keeps them;
    returns of how many. Items whose picture cannot be read go without.
    """
    now = active.now()
    if not now.encoder.gives_places or not catalog.keeps_places():
        return 0
    generation, folder = now.generation.number, catalog.path.parent

    def lacking(after: int = 0) -> Iterator[Item]:
        while numbers := catalog.unplaced(generation, after):
            yield from catalog.items(numbers)
            after = numbers[-1]

    catalog.drop_damaged_places(generation)
    made, unread = 0, 0
    with _described(lacking(), folder, now.encoder) as stream:
        for batch in stream:
            found = [(i.number, r.places) for i, r in batch if not isinstance(r, ImageError)]
            unread += len(batch) - len(found)
            if found:
                catalog.store_places(generation, *zip(*found, strict=True))
                made += len(found)
                watch(Progress("looking closer", made))
    if unread:
        log.warning(
            "%s without a picture that can be read: without places, which only the closer look at"
            " candidates misses",
            counted(unread, "item"),
        )
    return made


def reembed(
    catalog: Catalog, folder: Path, encoder: Encoder, *, skip_missing: bool, watch: Watcher
) -> RebuildReport:
    """Embed every item of a gallery's folder under ``encoder``, then make it the active one."""
    target = catalog.generation(encoder.fingerprint, encoder.location, encoder.dimension)
    active = catalog.state().generation.number == target.number
    embedded = 0
    missing: dict[int, Rejection] = {}
    # Again as long as others enrol meanwhile: the switch refuses while anything lacks.
    while True:
        total = catalog.totals()[1]
        before = total - catalog.count_unembedded(target) - embedded
        numbers: list[int] = []
        descriptions: list[Description] = []
        for item, result in _embed(catalog, folder, target, encoder, set(missing)):
            if isinstance(result, ImageError):
                missing[item.number] = Rejection(item.source or f"item {item.number}", str(result))
            else:
                numbers.append(item.number)
                descriptions.append(result)
            if len(numbers) == COMMIT_ITEMS:
                embedded += _commit(catalog, target, numbers, descriptions)
                watch(Progress("embedding", before + embedded + len(missing), total))
        embedded += _commit(catalog, target, numbers, descriptions)
        watch(Progress("embedding", before + embedded + len(missing), total))
        still = {item.number for item in catalog.items(missing)}
        missing = {number: missing[number] for number in sorted(still)}
        if active and not embedded:  # there is nothing to switch to
            return RebuildReport(True, 0, tuple(missing.values()), total)
        switched = (not missing or skip_missing) and catalog.switch(target, without=missing)
        if switched:
            catalog.prune()
        if switched or (missing and not skip_missing):
            items = catalog.totals()[1]
            return RebuildReport(switched, embedded, tuple(missing.values()), items)


def _commit(
    catalog: Catalog,
    target: Generation,
    numbers: list[int],
    descriptions: list[Description],
) -> int:
    if numbers:
        vectors = np.stack([one.embedding for one in descriptions])
        catalog.store(target, numbers, vectors, [one.places for one in descriptions])
    count = len(numbers)
    numbers.clear()
    descriptions.clear()
    return count


def _embed(
    catalog: Catalog, folder: Path, target: Generation, encoder: Encoder, without: set[int]
) -> Iterator[tuple[Item, Description | ImageError]]:
    def lacking() -> Iterator[Item]:
        after = 0
        while numbers := catalog.unembedded(target, after):
            yield from catalog.items(number for number in numbers if number not in without)
            after = numbers[-1]

    with _described(lacking(), folder, encoder) as stream:
        for batch in stream:
            yield from batch


def _described(
    items: Iterator[Item], folder: Path, encoder: Encoder
) -> AbstractContextManager[Iterator[list[tuple[Item, Description | ImageError]]]]:
    """Batches of items with what the encoder gives for their pictures."""
    return pipeline.described(
        ((item, item) for item in items),
        lambda item: encoder.decode(enrolled_bytes(item, folder)),
        lambda: encoder.runtime,
        cost=lambda item: item.size,
    )
