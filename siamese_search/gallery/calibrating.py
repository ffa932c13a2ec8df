"""Calibrating a gallery: by its own items, or by pictures of strangers.

Knows nothing of how thresholds follow from evidence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np

from siamese_search.arrays import DoubleArray, IntArray
from siamese_search.decision import calibration, rules
from siamese_search.decision.calibration import Evidence
from siamese_search.decision.evidence import evidence_of, most_evident
from siamese_search.decision.reference import Reference
from siamese_search.errors import (
    GalleryDamaged,
    GalleryFormatError,
    SiaSearchError,
    UsageError,
)
from siamese_search.gallery.active import Active, ActiveEncoder, require
from siamese_search.gallery.compaction import Compaction
from siamese_search.gallery.identification import Identifier
from siamese_search.gallery.learning import (
    AUTO,
    LEAST_GAIN,
    SAMPLE,
    Asked,
    Candidate,
    Learning,
    known_choice,
)
from siamese_search.gallery.ranking import Ranking
from siamese_search.gallery.self_test import SelfTest
from siamese_search.gallery.snapshots import Snapshots
from siamese_search.gallery.staleness import again, is_stale
from siamese_search.gallery.strangers import Places, shown_by
from siamese_search.pictures.regions import require_turns
from siamese_search.records import (
    Calibration,
    Generation,
    LeftOut,
    RebuildReport,
    Rejection,
)
from siamese_search.storage.calibrations import ASKED, ITSELF, OFF
from siamese_search.storage.catalog import Catalog

log = logging.getLogger("siasearch")

AGAIN_AT_MOST = 20_000  # items for which a stale metric is learned again along the way
UNASKED = 1000  # items that are looked at where nobody has asked, so that nobody waits long
ENOUGH = 10  # identities to calibrate by unasked; by fewer a rate is hardly more than a guess


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
        closer: str | None = None,
        turns: int = 1,
        itself: bool = False,
    ) -> Calibration:
        """See ``Gallery.calibrate``; ``itself`` tells that nobody has asked for it: then scores
        stay what they are, plain cosines, which takes a fraction of the time.
        """
        require_turns(turns)
        if turns > 1 and strangers is None:
            raise UsageError(
                "how strangers score in several turns is told by their pictures alone: name some by"
                " --strangers, or strangers="
            )
        chosen = self.learning.choices
        look_for = known_choice(closer or chosen["closer"], "closer look")
        looked = not itself and look_for == AUTO
        wanted = known_choice(metric or chosen["metric"])
        wanted = "none" if itself else wanted
        rule = rules.known_rule(rule or rules.DEFAULT_RULE)
        fpir = self._rate_before() if fpir is None else fpir
        calibration.require_rate(fpir)
        active = self._active.now()
        folder = self._catalog.path.parent
        if not self._catalog.totals()[1]:
            raise UsageError(f"nothing is enrolled in {folder}: enrol first, then calibrate")
        asked = None
        if strangers is not None:
            asked = shown_by(self._catalog, active.encoder, strangers, turns, reject)
        state = self._catalog.state()
        require(active.encoder, state.generation, folder)  # others may have switched meanwhile
        last_item = state.last_item
        candidate = self.learning.candidate(wanted, active.encoder.prior, asked)
        source = "gallery" if asked is None else "strangers"
        look = closely = None
        try:
            most = UNASKED if itself else SAMPLE
            seen = self._evidence(candidate, active, rule, asked, most=most)
            if looked:
                self._warn_of_places(active)
                look = candidate.closer_look(self._catalog, rule)
                if look.decides:
                    closely = self._evidence(candidate, active, rule, asked, look.weight)
        finally:
            candidate.close()
        own_scale = candidate.metric is not None
        found = self._fitted(seen, active, fpir, rule, source, own_scale)
        found = replace(found, last_item=last_item, turns=turns)
        if look is not None:
            gain = look.with_votes - look.without if look.told else None
            found = replace(found, closer=look.weight, closer_gain=gain)
        if closely is not None:
            with suppress(UsageError):  # too few for this rate: scores alone decide
                votes = self._fitted(closely, active, fpir, rule, source, True)
                # So do they where most strangers are one: they hardly tell how votes fall.
                if votes.independent is None or votes.independent >= calibration.FEWEST_STRANGE:
                    found = replace(found, looked=votes)
        by = ITSELF if itself else ASKED
        generation = active.generation
        found = self._catalog.set_calibration(generation, found, candidate.metric, metric, by)
        if closer is not None:
            self._catalog.want_places(look_for)
        self._index_anew()
        return found

    def forget(self, itself: bool = False) -> bool:
        """See ``Gallery.uncalibrate``; ``itself``, only what nobody has asked for."""
        gone = self._catalog.drop_calibration(ITSELF if itself else OFF)
        self._index_anew()
        return gone

    def _as_before(self, before: Calibration) -> Calibration:
        """Calibrate again as it was, by the gallery's own items, for whomever that was done."""
        itself = self._catalog.decided_by() == ITSELF
        ask = before.fpir, before.rule, None
        return self.calibrate(*ask, lambda rejection: None, itself=itself)

    def undecided(self) -> str | None:
        """See ``Gallery.undecided``."""
        encoder = self._active.now().encoder
        if encoder.calibrated or self.now() is not None:
            return None
        way = "run `siasearch calibrate`"
        if self._catalog.decided_by() != OFF:
            if self._catalog.totals()[0] < ENOUGH:
                way = f"from {ENOUGH} identities on the gallery calibrates itself"
            elif self._catalog.tried() is not None:
                way = (
                    "the gallery calibrates itself once more is enrolled, `siasearch calibrate"
                    " --fpir 0.1` may do so now"
                )
        return (
            f"the threshold of the encoder {encoder.name} is not known, so nothing is named: {way},"
            " or give a threshold (--threshold)"
        )

    def _index_anew(self) -> None:
        if self._catalog.state().snapshot is None:  # it was of another metric
            self._compaction.compact_if_due(changed=0)

    def _warn_of_places(self, active: Active) -> None:
        """Say where a closer look is not taken because items lack places."""
        items = self._catalog.totals()[1]
        missing = items - self._catalog.count_places(active.generation.number)
        if active.encoder.gives_places and missing > items / 2:
            log.warning(
                "%d of %d items have no places for a closer look: run `siasearch rebuild`, then"
                " `siasearch calibrate` again",
                missing,
                items,
            )

    def _evidence(
        self,
        candidate: Candidate,
        active: Active,
        rule: str,
        asked: Asked | None,
        weight: float = 0.0,
        most: int = SAMPLE,
    ) -> Evidence:
        """What about so many of the gallery's items say, and pictures of strangers in their place
        where there are any; by scores to which votes are added by a weight.
        """
        seen = candidate.evidence(self._catalog, rule, weight, most)
        if asked is None:
            return seen
        identifier = Identifier(self._catalog, candidate.searched, Ranking(self._catalog))
        values = _evidence_of(asked, active, identifier, rule, weight)
        return replace(seen, strangers=values, shown=asked.shown)

    def _fitted(
        self, seen: Evidence, active: Active, fpir: float, rule: str, source: str, own_scale: bool
    ) -> Calibration:
        """The calibration that evidence suggests.

        What the encoder knows of scale is of plain cosines: for other scores, the sample's
        ``own_scale`` replaces it.
        """
        reference = Reference.of(active.encoder.record.calibration)
        shown = seen.strangers[np.isfinite(seen.strangers)]
        if own_scale and len(shown) > 1:
            here = max(2, self._catalog.totals()[0])
            scale = max(float(shown.std()), 1e-6)
            reference = replace(reference, scale=scale, identities=here)
        return calibration.fit(seen, reference, fpir, rule, self._catalog.totals(), source)

    def renewed(
        self, report: RebuildReport, before: Calibration | None, generation: Generation
    ) -> RebuildReport:
        """The report of a rebuild; a gallery that was calibrated before is calibrated again.

        Warns where it was not, if it answered under another ``generation``.
        """
        if before is None and report.switched:  # a rebuild before may have been killed
            before = self._catalog.replaced_calibration()
        if before is None:
            if self.now() is None and self._catalog.state().generation.number != generation.number:
                self._warn_of_encoder()
            return report
        if self.now() is not None:
            return report
        return replace(report, calibration=self._again(before))

    def _again(self, before: Calibration) -> Calibration | None:
        """As before, by the gallery's own items, which is all that is at hand."""
        by_strangers = before.source == "strangers"
        try:
            made = self._as_before(before)
        except UsageError as error:
            log.warning("the gallery is not calibrated any more: %s", error)
            if by_strangers:
                log.warning("it was by strangers: run `siasearch %s` again", again(before))
            self._warn_of_encoder()
            return None
        if by_strangers:
            log.warning(
                "the gallery was calibrated by strangers, and is now by its own items: run"
                " `siasearch %s` again",
                again(before),
            )
        return made

    def _warn_of_encoder(self) -> None:
        """Say that the gallery's error rate is not known under its encoder."""
        undecided = self.undecided()
        if undecided is not None:
            log.warning("%s", undecided)
            return
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
            self._as_before(found)
        except SiaSearchError as error:
            log.warning("the gallery is calibrated as it was: %s", error)
            return False
        return True

    def is_stale(self, found: Calibration) -> bool:
        """See ``staleness.is_stale``."""
        return is_stale(self._catalog, found)

    def rule(self, rule: str | None) -> str:
        """The rule that is asked for, else that of the calibration. Raises UsageError."""
        if rule is None:
            found = self.now()
            return found.rule if found else rules.DEFAULT_RULE
        return rules.known_rule(rule)

    def left_out(
        self, test: SelfTest, items: IntArray, rule: str, strange: bool, closely: bool
    ) -> Iterator[LeftOut]:
        """See ``Gallery.left_out``."""
        calibrated = self.now()
        weight = calibrated.closer if closely and calibrated else 0.0
        found = None
        if self.learning.learned:
            prior = self._active.now().encoder.prior
            found = self.learning.left_out(prior, items, rule, strange, weight)
        return test.looked(items, rule, weight, strange) if found is None else found

    def deciding(self) -> Calibration | None:
        """See ``Gallery.deciding``."""
        found = self.now()
        return found if found is None or self.is_stale(found) else found.deciding

    def in_brief(self) -> str:
        """What a gallery's name is followed by where nothing decides."""
        with suppress(SiaSearchError):  # to be printed, neither gallery nor encoder need be sound
            return ", nothing named yet" if self.undecided() else ""
        return ""

    def in_words(self) -> str | None:
        """The rate, the rule and what evidence must reach, and whether that is stale; None where it
        is not calibrated.
        """
        found = self.now()
        if found is None:
            return None
        stale = "; stale: run `siasearch calibrate`" if self.is_stale(found) else ""
        needed = calibration.threshold_at(found.fpir, (self.deciding() or found).thresholds)
        turns = f", {found.turns} turns" if found.turns > 1 else ""
        itself = ", chosen by itself" if self._catalog.decided_by() == ITSELF else ""
        said = f"FPIR {found.fpir:.3g}, rule {found.rule}{turns}, evidence from {needed:.3f} on"
        return said + itself + stale

    def closer_in_words(self) -> str | None:
        """What the closer look gains, None where none is taken."""
        found = self.now()
        if found is None or not found.closer:
            return None
        if found.closer_gain is None:
            return "little weight, since too few identities have several items to tell"
        gain = "it puts candidates in order"
        if 100 * found.closer_gain >= LEAST_GAIN:
            gain = f"{100 * found.closer_gain:.1f} more in 100 held-out items are named rightly"
        return gain if found.looked is None else f"{gain}; votes are part of scores"

    def _rate_before(self) -> float:
        """The FPIR that the gallery is calibrated for, else the default."""
        with suppress(GalleryDamaged, GalleryFormatError):  # which calibrating mends
            found = self.now()
            if found is not None:
                return found.fpir
        return calibration.FPIR


def _evidence_of(
    asked: Asked, active: Active, identifier: Identifier, rule: str, weight: float
) -> DoubleArray:
    """The evidence of pictures of strangers (m,).

    These gave the probes' mean, where that is used. A picture's own share in it changes how far it
    is from the mean, and not in which direction; that of other pictures of the same thing hardly
    matters (dev/experiments.md).
    """
    values = []
    for looks in asked.looks:
        ranked = [
            identifier.ranked(active.encoder, one.embedding, 2, rule, one.places, weight)
            for one in looks
        ]
        values.append(evidence_of(ranked[most_evident(ranked)]))
    return np.array(values)
