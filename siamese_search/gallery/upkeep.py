"""Upkeep: what is done for a gallery after it was changed. Knows nothing of how it is done."""

from __future__ import annotations

from siamese_search.gallery.calibrating import Calibrating
from siamese_search.gallery.compaction import Compaction


class Upkeep:
    """Keeps one gallery's metric and index file in step with its items."""

    def __init__(self, compaction: Compaction, calibrating: Calibrating) -> None:
        self._compaction = compaction
        self._calibrating = calibrating

    def after(self, changed: int, *, in_blocks: bool = False) -> None:
        """See ``Compaction.compact_if_due``. A metric that is stale by then is learned again
        before, where that is soon done, since an index file holds what it makes of the items.
        """
        if self._compaction.is_due():
            self._calibrating.learn_again()
        self._compaction.compact_if_due(changed=changed, in_blocks=in_blocks)
