"""Calibrating a gallery: by its own items, or by pictures of strangers.

Knows nothing of how thresholds follow from evidence.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

import numpy as np

from siamese_search.arrays import DoubleArray
from siamese_search.decision import calibration, rules
from siamese_search.decision.evidence import evidence_of, most_evident
from siamese_search.decision.reference import Reference
from siamese_search.embedding.turning import embed_turns_each
from siamese_search.errors import (
    GalleryDamaged,
    GalleryFormatError,
    ImageError,
    SiaSearchError,
    UsageError,
)
from siamese_search.gallery.active import Active, ActiveEncoder
from siamese_search.gallery.compaction import Compaction
from siamese_search.gallery.identification import Identifier
from siamese_search.gallery.learning import AUTO, Learning, known_choice
from siamese_search.gallery.ranking import Ranking
from siamese_search.gallery.snapshots import Snapshots
from siamese_search.pictures.read import content_hash, read_file
from siamese_search.pictures.regions import require_turns
from siamese_search.pictures.sources import find, not_empty
from siamese_search.records import (
    Calibration,
    Generation,
    ImageFile,
    RebuildReport,
    Rejection,
    printable,
)
from siamese_search.storage.catalog import Catalog

log = logging.getLogger("siasearch")

AGAIN_AT_MOST = 20_000  # items for which a stale metric is learned again along the way
CHANGED = 0.2  # of identities or items, from which on a calibration is stale

Places = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def warn_of(rejection: Rejection) -> None:
    """Say that a picture is left out."""
    log.warning("%s: %s", rejection.path, rejection.reason)


class Calibrating:
    """Chooses how one gallery decides, and says whether that still holds."""

    def __init__(
        self, catalog: Catalog, active: ActiveEncoder, snapshots: Snapshots, compaction: Compaction
    ) -> None:
        self._catalog = catalog
        self._active = active
        self._compaction = compaction
        self.learning = Learning(catalog, snapshots)

    def now(self) -> Calibration | None:
        """How the gallery decides, None where it has not been calibrated."""
        return self._catalog.calibration(self._catalog.state().generation)

    def calibrate(
        self,
        fpir: float | None,
        rule: str | None,
        strangers: Places | None,
        reject: Callable[[Rejection], None],
        metric: str | None = None,
        turns: int = 1,
    ) -> Calibration:
        """See ``Gallery.calibrate``."""
        require_turns(turns)
        if turns > 1 and strangers is None:
            raise UsageError(
                "how strangers score in several turns is told by their pictures alone: name some by"
                " --strangers"
            )
        wanted = known_choice(metric or self._catalog.wanted_metric() or AUTO)
        rule = rules.known_rule(rule or rules.DEFAULT_RULE)
        fpir = self._rate_before() if fpir is None else fpir
        calibration.require_rate(fpir)
        active = self._active.now()
        last_item = self._catalog.state().last_item
        if not self._catalog.totals()[1]:
            folder = self._catalog.path.parent
            raise UsageError(f"nothing is enrolled in {folder}: enrol first, then calibrate")
        candidate = self.learning.candidate(wanted, active.encoder.prior)
        try:
            seen = candidate.evidence(self._catalog, rule)
            if strangers is not None:
                identifier = Identifier(self._catalog, candidate.searched, Ranking(self._catalog))
                pictures = self._strangers(strangers, reject)
                values, shown = self._evidence_of(active, identifier, pictures, turns, rule, reject)
                seen = replace(seen, strangers=values, shown=shown)
        finally:
            candidate.close()
        reference = Reference.of(active.encoder.record.calibration)
        shown_evidence = seen.strangers[np.isfinite(seen.strangers)]
        if candidate.metric is not None and len(shown_evidence) > 1:
            # What the encoder knows of scale is of plain cosines: the sample's own replaces it.
            here = max(2, self._catalog.totals()[0])
            scale = max(float(shown_evidence.std()), 1e-6)
            reference = replace(reference, scale=scale, identities=here)
        found = calibration.fit(
            seen,
            reference,
            fpir,
            rule,
            self._catalog.totals(),
            "gallery" if strangers is None else "strangers",
        )
        found = replace(found, last_item=last_item, turns=turns)
        found = self._catalog.set_calibration(active.generation, found, candidate.metric, metric)
        if self._catalog.state().snapshot is None:  # it was of another metric
            self._compaction.compact_if_due(changed=0)
        return found

    def renewed(
        self, report: RebuildReport, before: Calibration | None, generation: Generation
    ) -> RebuildReport:
        """The report of a rebuild; a gallery that was calibrated before is calibrated again.

        Warns where it was not, if it answered under another ``generation``.
        """
        if before is None:
            if self.now() is None and self._catalog.state().generation.number != generation.number:
                self._warn_of_encoder()
            return report
        if self.now() is not None:
            return report
        return replace(report, calibration=self._again(before))

    def _again(self, before: Calibration) -> Calibration | None:
        """As before, by the gallery's own items, which is all that is at hand."""
        if before.source == "strangers":
            log.warning(
                "the gallery was calibrated by strangers, and is now by its own items: run"
                " `siasearch calibrate --strangers` again"
            )
        try:
            return self.calibrate(before.fpir, before.rule, None, lambda rejection: None)
        except UsageError as error:
            log.warning("the gallery is not calibrated any more: %s", error)
            self._warn_of_encoder()
            return None

    def _warn_of_encoder(self) -> None:
        """Say that the gallery's error rate is not known under its encoder."""
        log.warning(
            "the gallery is not calibrated under this encoder, whose own threshold decides, %.3f:"
            " run `siasearch calibrate`, to choose the share of strangers that get a name",
            self._active.now().encoder.threshold,
        )

    def learn_again(self) -> bool:
        """Calibrate a stale gallery of few items again that has a metric; returns whether it did.

        One that was calibrated by strangers cannot be: their pictures are not at hand.
        """
        state = self._catalog.state()
        if state.metric is None or self._catalog.totals()[1] > AGAIN_AT_MOST:
            return False
        try:
            found = self.now()
            if found is None or found.source != "gallery" or not self.is_stale(found):
                return False
            self.calibrate(found.fpir, found.rule, None, lambda rejection: None)
        except SiaSearchError as error:
            log.warning("the gallery is calibrated as it was: %s", error)
            return False
        return True

    def is_stale(self, found: Calibration) -> bool:
        """Whether the gallery has changed so much since that it should be calibrated again."""
        identities, items = self._catalog.totals()
        new = max(0, items - found.items)
        if found.last_item is not None:
            new = self._catalog.count_after(found.last_item)
        gone = found.items + new - items
        return (
            abs(identities - found.identities) > CHANGED * found.identities
            or max(new, gone) > CHANGED * found.items
        )

    def rule(self, rule: str | None) -> str:
        """The rule that is asked for, else that of the calibration. Raises UsageError."""
        if rule is None:
            found = self.now()
            return found.rule if found else rules.DEFAULT_RULE
        return rules.known_rule(rule)

    def in_words(self) -> str | None:
        """The rate, the rule and what evidence must reach, and whether that is stale; None where it
        is not calibrated.
        """
        found = self.now()
        if found is None:
            return None
        stale = "; stale: run `siasearch calibrate`" if self.is_stale(found) else ""
        needed = calibration.threshold_at(found.fpir, found.thresholds)
        turns = f", {found.turns} turns" if found.turns > 1 else ""
        return (
            f"FPIR {found.fpir:.3g}, rule {found.rule}{turns}, evidence from {needed:.3f} on{stale}"
        )

    def _rate_before(self) -> float:
        """The FPIR that the gallery is calibrated for, else the default."""
        with suppress(GalleryDamaged, GalleryFormatError):  # which calibrating mends
            found = self.now()
            if found is not None:
                return found.fpir
        return calibration.FPIR

    def _evidence_of(
        self,
        active: Active,
        identifier: Identifier,
        pictures: list[ImageFile],
        turns: int,
        rule: str,
        reject: Callable[[Rejection], None],
    ) -> tuple[DoubleArray, list[str]]:
        """Evidence of pictures of things that are not enrolled, with what they show."""
        values, groups = [], []
        paths = [file.path for file in pictures]
        embedded = embed_turns_each(active.encoder, paths, turns)
        for file, (_, result) in zip(pictures, embedded, strict=True):
            if isinstance(result, ImageError):
                reject(Rejection(printable(file.path), str(result)))
                continue
            ranked = identifier.ranked(active.encoder, np.stack(result), 2, rule)
            values.append(evidence_of(ranked[most_evident(ranked)]))
            groups.append(file.identity)
        return np.array(values), groups

    def _strangers(self, places: Places, reject: Callable[[Rejection], None]) -> list[ImageFile]:
        """The pictures in these places, without those of what is enrolled."""
        places = [places] if isinstance(places, (str, os.PathLike)) else places
        named = [os.fspath(place) for place in places]
        pictures = []
        for file in not_empty(find(named), named):
            if isinstance(file, Rejection):
                reject(file)
            elif self._is_enrolled(file.path):
                log.warning("%s is enrolled, and so no stranger: left out", file.path)
            else:
                pictures.append(file)
        enrolled = {name for name, _ in self._catalog.identities()}
        enrolled -= self._catalog.distractors(None)
        named_so = sorted({file.identity for file in pictures if file.identity in enrolled})
        if not named_so:
            return pictures
        left = [file for file in pictures if file.identity not in enrolled]
        log.warning(
            "%d of %d pictures are no strangers, but named as what is enrolled (%s): left out",
            len(pictures) - len(left),
            len(pictures),
            ", ".join(named_so[:5]) + (" and others" if len(named_so) > 5 else ""),
        )
        return left

    def _is_enrolled(self, path: str) -> bool:
        try:
            content = content_hash(read_file(path))
        except ImageError:
            return False
        return bool(self._catalog.known([content]))
