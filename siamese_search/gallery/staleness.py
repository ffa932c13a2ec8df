"""Staleness: whether a gallery still is what it was calibrated as, and what calibrates it so again.

Knows nothing of scores.
"""

from __future__ import annotations

from siamese_search.decision.rules import DEFAULT_RULE
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


def again(found: Calibration) -> str:
    """What ``siasearch`` is given to calibrate so again."""
    words = f"calibrate --fpir {found.fpir:g}"
    if found.rule != DEFAULT_RULE:
        words += f" --rule {found.rule}"
    if found.source == "strangers":
        words += " --strangers FOLDER"
    if found.turns > 1:
        words += f" --turns {found.turns}"
    return words
