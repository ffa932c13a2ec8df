"""Calibrating unasked: when a gallery whose encoder's threshold is not known calibrates itself.

So it names somebody without being told to, once it has enough to tell strangers by, and goes on as
it grows; not where its user has calibrated it or switched that off. Knows nothing of how a
calibration is made.
"""

from __future__ import annotations

import logging
import threading

from siamese_search.errors import SiaSearchError, UsageError
from siamese_search.forks import Followed
from siamese_search.gallery.active import ActiveEncoder
from siamese_search.gallery.calibrating import AGAIN_AT_MOST, ENOUGH, Calibrating
from siamese_search.gallery.learning import HELD
from siamese_search.gallery.staleness import CHANGED
from siamese_search.records import Calibration
from siamese_search.storage.calibrations import ITSELF
from siamese_search.storage.catalog import Catalog

log = logging.getLogger("siasearch")


class Unasked(Followed):
    """Calibrates one gallery where nothing else decides."""

    def __init__(self, catalog: Catalog, active: ActiveEncoder, calibrating: Calibrating) -> None:
        self._catalog = catalog
        self._active = active
        self._calibrating = calibrating
        self._underway = threading.Lock()
        self.follow_forks()

    def in_child(self) -> None:
        self._underway = threading.Lock()

    def calibrate_if_due(self) -> Calibration | None:
        """Calibrate by itself where that is due; returns what was made. Never raises what is no
        fault of who has changed the gallery.

        What takes long is left to `calibrate`: the first time beyond ``HELD`` items, later beyond
        ``AGAIN_AT_MOST``.
        """
        if not self._underway.acquire(blocking=False):  # another thread is at it
            return None
        try:
            return self._calibrated() if self._is_open() else None
        except SiaSearchError as error:
            log.warning("the gallery decides as it did: %s", error)
            return None
        finally:
            self._underway.release()

    def _is_open(self) -> bool:
        """Whether the gallery is left to itself."""
        try:
            known = self._active.now().encoder.calibrated
        except SiaSearchError:  # it cannot be found, and embeddings alone were enrolled
            return False
        by = self._catalog.decided_by()
        if known or by is not None:
            return not known and by == ITSELF
        # An earlier release has noted no more than how it decided.
        return self._calibrating.now() is None and self._catalog.replaced_calibration() is None

    def _calibrated(self) -> Calibration | None:
        found = self._calibrating.now()
        totals = self._catalog.totals()
        if found is None:
            tried = self._catalog.tried()
            same = tried is not None and not any(map(_moved, totals, tried))
            if totals[0] < ENOUGH or totals[1] > HELD or same:
                return None
        elif totals[0] < ENOUGH:
            self._let_go()
            return None
        elif totals[1] > AGAIN_AT_MOST or not self._calibrating.is_stale(found):
            return None
        try:
            return self._calibrating.calibrate(None, None, None, lambda one: None, itself=True)
        except UsageError as error:  # too few for the rate
            log.debug("the gallery cannot be calibrated yet: %s", error)
            self._catalog.note_tried(*totals)
            if found is not None:
                self._let_go()
            return None

    def _let_go(self) -> None:
        """Forget a calibration of what is not enrolled any more."""
        if self._calibrating.forget(itself=True):
            log.warning("%s", self._calibrating.undecided())


def _moved(now: int, before: int) -> bool:
    return abs(now - before) > CHANGED * before
