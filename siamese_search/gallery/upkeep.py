"""Upkeep: what is done for a gallery after it was changed. Knows nothing of how it is done."""

from __future__ import annotations

from dataclasses import replace

from siamese_search.gallery.calibrating import Calibrating
from siamese_search.gallery.compaction import Compaction
from siamese_search.gallery.unasked import Unasked
from siamese_search.records import Calibration, Generation, RebuildReport


class Upkeep:
    """Keeps one gallery's calibration, metric and index file in step with its items."""

    def __init__(self, compaction: Compaction, calibrating: Calibrating, unasked: Unasked) -> None:
        self._compaction = compaction
        self._calibrating = calibrating
        self._unasked = unasked

    def renewed(
        self, report: RebuildReport, before: Calibration | None, generation: Generation
    ) -> RebuildReport:
        """See ``Calibrating.renewed``; a gallery may calibrate itself under its new encoder."""
        made = self._unasked.calibrate_if_due() if report.switched and before is None else None
        if made is not None:
            return replace(report, calibration=made)
        return self._calibrating.renewed(report, before, generation)

    def after(self, changed: int, *, in_blocks: bool = False) -> Calibration | None:
        """See ``Compaction.compact_if_due``. A metric that is stale by then is learned again
        before, where that is soon done, since an index file holds what it makes of the items.

        Returns the calibration that the gallery has made by itself, see ``unasked.py``.
        """
        made = self._unasked.calibrate_if_due()
        if self._compaction.is_due():
            self._calibrating.learn_again()
        self._compaction.compact_if_due(changed=changed, in_blocks=in_blocks)
        return made
