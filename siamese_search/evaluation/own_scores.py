"""How a gallery's own items score, each searched without itself, and what that says of error rates.

Knows nothing of plots (see ``score_plots.py``) and of labelled probes (see ``evaluate.py``).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from siamese_search.arrays import BoolArray, DoubleArray
from siamese_search.decision.calibration import self_test, threshold_at
from siamese_search.decision.evidence import RATES, evidence
from siamese_search.errors import UsageError
from siamese_search.evaluation import metrics
from siamese_search.evaluation.results import IdentityResult
from siamese_search.gallery.gallery import Gallery
from siamese_search.records import LeftOut, Progress, Watcher

SEARCHED = 4000  # items that are searched without themselves, about


class WorkingPoint(NamedTuple):
    """Of the DET curve of identification, at a threshold."""

    threshold: float
    fpir: float
    fnir: float


class Taken(NamedTuple):
    """An identity whose items look more like another one: how often, and the ``pairs`` of items,
    each with the nearest of the other identity, the most alike first.
    """

    own: str
    other: str
    times: int
    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class OwnScores:
    """What decides, for a gallery's own items: scores, or evidence where it is calibrated, with
    votes of the closer look where these have a say.

    ``genuine`` (m,) is that of each item's own identity, where it has other items: of those that
    were ``asked`` (m,). ``right`` (m,) tells whether no other identity was better; ``impostor``
    (n,) is that of the best other identity, -inf where that is never named. ``standard`` says where
    the threshold comes from; ``thresholds`` are those by FPIR: the calibration's or, without one,
    what these scores show.
    """

    genuine: DoubleArray
    right: BoolArray
    impostor: DoubleArray
    calibrated: bool
    threshold: float
    standard: str
    thresholds: Mapping[float, float]
    asked: tuple[LeftOut, ...]

    @property
    def found(self) -> DoubleArray:
        """The genuine ones as identification sees them (m,): what gets another name is lost."""
        return np.where(self.right, self.genuine, -math.inf)

    @property
    def fpir(self) -> float:
        """The share of items that get a name once their own identity is left out."""
        return self.fpir_at(self.threshold)

    @property
    def fnir(self) -> float | None:
        """The share of items that do not get their own name, None where that cannot be told."""
        return self.fnir_at(self.threshold)

    def fpir_at(self, threshold: float) -> float:
        """As ``fpir``, at another threshold."""
        return float((self.impostor >= threshold).mean())

    def fnir_at(self, threshold: float) -> float | None:
        """As ``fnir``, at another threshold."""
        return float((self.found < threshold).mean()) if len(self.genuine) else None

    @property
    def eer(self) -> float | None:
        """Where FPIR and FNIR are the same, None where that cannot be told."""
        return metrics.equal_error_rate(self.found, self.impostor) if len(self.genuine) else None

    def det(self, most: int) -> list[WorkingPoint]:
        """At most so many points of the DET curve, no two of them close on logarithmic scales.
        There are none where the FNIR cannot be told.
        """
        if not len(self.genuine):
            return []
        rates = metrics.error_rates(self.found, self.impostor)
        kept = metrics.spread(rates.fmr, rates.fnmr, most)
        kept = kept[np.isfinite(rates.thresholds[kept])]
        return [WorkingPoint(*(float(values[n]) for values in rates)) for n in kept]

    def per_identity(self) -> list[IdentityResult]:
        """How many items of each identity find it best, and get its name; the worst first."""
        total, best, named = Counter[str](), Counter[str](), Counter[str]()
        for one, value in zip(self.asked, self.found, strict=True):
            total[one.identity] += 1
            best[one.identity] += bool(value > -math.inf)
            named[one.identity] += bool(value >= self.threshold)
        every = [IdentityResult(name, n, best[name], named[name]) for name, n in total.items()]
        return sorted(every, key=lambda one: (one.best / one.probes, one.named / one.probes, one))

    def confusions(self) -> list[Taken]:
        """Which identities are taken for which others, most often first."""
        wrong: dict[tuple[str, str], list[LeftOut]] = defaultdict(list)
        for one, right in zip(self.asked, self.right, strict=True):
            if not right and one.others:
                wrong[one.identity, one.others[0].identity].append(one)
        found = []
        for (own, other), items in wrong.items():
            items.sort(key=lambda one: -one.others[0].score)
            pairs = tuple((one.item, one.others[0].item) for one in items)
            found.append(Taken(own, other, len(items), pairs))
        return sorted(found, key=lambda one: (-one.times, one.own, one.other))


def left_out_of(
    gallery: Gallery, watch: Watcher, strange: bool = False, closely: bool = False
) -> list[LeftOut]:
    """The items, each searched without itself, see ``Gallery.left_out``; UsageError for fewer than
    two identities.
    """
    if len(gallery.identities()) < 2:
        raise UsageError(
            f"{gallery.folder} has fewer than two identities: enrol more, to compare them"
        )
    found, total = [], min(SEARCHED, len(gallery))
    for one in gallery.left_out(SEARCHED, strange=strange, closely=closely):
        found.append(one)
        watch(Progress("searching", len(found), total))
    if not any(one.others for one in found):  # they have no embeddings
        raise UsageError(
            f"fewer than two identities of {gallery.folder} can be found: run `siasearch rebuild`"
        )
    return found


def both_ways(gallery: Gallery, watch: Watcher) -> tuple[list[LeftOut], list[LeftOut]]:
    """The items, each searched without itself, and as a stranger, closely where votes decide: of a
    gallery that has learned nothing from them, these are the same. Raises UsageError for fewer than
    two identities.
    """
    closely = gallery.deciding != gallery.calibration
    left_out = left_out_of(gallery, watch, closely=closely)
    if not (closely or gallery.has_learned):
        return left_out, left_out
    return left_out, left_out_of(gallery, watch, strange=True, closely=closely)


def own_scores(
    gallery: Gallery, left_out: Sequence[LeftOut], strange: Sequence[LeftOut]
) -> OwnScores:
    """What decides, of items that were searched ``both_ways``."""
    calibration, never = gallery.deciding, gallery.distractors()
    seen = self_test(strange, never)
    own = [one for one in left_out if one.own is not None and one.identity not in never]
    genuine = np.array([one.own for one in own], np.float64)
    best_other = np.array([_best(one) for one in own], np.float64)
    right = genuine >= best_other
    impostor = seen.strangers
    if calibration is None:  # the score decides, but what is never named has none
        best = np.array([_best(one) for one in strange])
        impostor = np.where(np.isfinite(seen.strangers), best, -np.inf)
    else:
        genuine = evidence(genuine, best_other)
    thresholds: Mapping[float, float]
    if calibration is None:
        encoder = gallery.encoder
        threshold = encoder.threshold
        standard = "the encoder's" if encoder.calibrated else "not known: nothing is named"
        thresholds = {
            rate: max(-1.0, metrics.reached_by(impostor, rate))
            for rate in RATES
            if metrics.tells(rate, len(impostor))
        }
    else:
        threshold = threshold_at(calibration.fpir, calibration.thresholds)
        standard = f"FPIR {calibration.fpir:.3g} asked"
        thresholds = calibration.thresholds
    calibrated = calibration is not None
    return OwnScores(
        genuine, right, impostor, calibrated, threshold, standard, thresholds, tuple(own)
    )


def _best(one: LeftOut) -> float:
    """The score of the best other identity, nought where there is none."""
    return one.others[0].score if one.others else 0.0
