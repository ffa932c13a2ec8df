"""Staleness: whether a gallery still is what it was calibrated as. Knows nothing of scores."""

from __future__ import annotations

from siamese_search.records import Calibration
from siamese_search.storage.catalog import Catalog

CHANGED = 0.2  # of identities or items, from which on a calibration is stale
STALE = "the gallery has changed much since it was calibrated: run `siasearch calibrate`"


def is_stale(catalog: Catalog, found: Calibration) -> bool:
    """Whether the gallery has changed so much since that it should be calibrated again."""
    identities, items = catalog.totals()
    new = max(0, items - found.items)
    if found.last_item is not None:
        new = catalog.count_after(found.last_item)
    gone = found.items + new - items
    return (
        abs(identities - found.identities) > CHANGED * found.identities
        or max(new, gone) > CHANGED * found.items
    )
