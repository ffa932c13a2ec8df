"""How a gallery's own items score, each searched without itself: distributions and error rates.

Knows nothing of labelled probes: see ``evaluate.py`` for these.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from siamese_search.arrays import BoolArray, DoubleArray
from siamese_search.decision.calibration import threshold_at
from siamese_search.decision.evidence import evidence
from siamese_search.errors import UsageError
from siamese_search.evaluation import metrics, plots, portrait
from siamese_search.evaluation.portrait import Extent, Portrait
from siamese_search.gallery.gallery import Gallery
from siamese_search.records import LeftOut, Watcher


@dataclass(frozen=True)
class ScoreFacts(Extent):
    """How the items looked at score; ``decides`` says what is compared with the threshold: score or
    evidence. None where no identity has two items.
    """

    decides: str
    threshold: float
    genuine: int
    impostor: int
    fpir: float
    fnir: float | None
    eer: float | None


class _BestTwo(NamedTuple):
    first: float
    second: float


@dataclass(frozen=True)
class OwnScores:
    """What decides, for a gallery's own items: scores, or evidence where it is calibrated.

    ``genuine`` (m,) is that of each item's own identity, where it has other items; ``right`` (m,)
    tells whether no other identity was better; ``impostor`` (n,) is that of the best other
    identity. ``standard`` says where the threshold comes from.
    """

    genuine: DoubleArray
    right: BoolArray
    impostor: DoubleArray
    calibrated: bool
    threshold: float
    standard: str

    @property
    def found(self) -> DoubleArray:
        """The genuine ones as identification sees them (m,): what gets another name is lost."""
        return np.where(self.right, self.genuine, -math.inf)

    @property
    def fpir(self) -> float:
        """The share of items that get a name once their own identity is left out."""
        return float((self.impostor >= self.threshold).mean())

    @property
    def fnir(self) -> float | None:
        """The share of items that do not get their own name, None where that cannot be told."""
        return float((self.found < self.threshold).mean()) if len(self.genuine) else None

    @property
    def eer(self) -> float | None:
        """Where FPIR and FNIR are the same, None where that cannot be told."""
        return metrics.equal_error_rate(self.found, self.impostor) if len(self.genuine) else None


def own_scores(gallery: Gallery, left_out: Sequence[LeftOut]) -> OwnScores:
    """What decides, of items that were each searched without themselves."""
    calibration = gallery.calibration
    genuine, right, impostor = [], [], []
    for one in left_out:
        first, second = ([match.score for match in one.others] + [0.0, 0.0])[:2]
        impostor.append(_BestTwo(first, second))
        if one.own is not None:
            genuine.append(_BestTwo(one.own, first))
            right.append(one.own >= first)

    def decides(pairs: list[_BestTwo]) -> DoubleArray:
        best, runner_up = np.array(pairs, float).reshape(-1, 2).T
        return best if calibration is None else evidence(best, runner_up)

    if calibration is None:
        threshold, standard = gallery.encoder.threshold, "the encoder's"
    else:
        threshold = threshold_at(calibration.fpir, calibration.thresholds)
        standard = f"FPIR {calibration.fpir:.3g} asked"
    return OwnScores(
        decides(genuine),
        np.array(right, bool),
        decides(impostor),
        calibration is not None,
        threshold,
        standard,
    )


def draw_scores(gallery: Gallery, watch: Watcher = lambda progress: None) -> Portrait[ScoreFacts]:
    """Histograms of what decides, for own and for other identities, with the threshold.

    Raises UsageError for fewer than two identities.
    """
    left_out = portrait.left_out(gallery, watch)
    scores = own_scores(gallery, left_out)
    with plots.style():
        figure = plots.figure(8, 4.5)
        axes = figure.subplots()
        groups = {
            f"genuine: own identity ({len(scores.genuine)} items)": scores.genuine,
            f"impostor: best other identity ({len(scores.impostor)} items)": scores.impostor,
        }
        label = f"threshold {scores.threshold:.3f} ({scores.standard})"
        plots.histogram(axes, groups, (scores.threshold, label))
        axes.set_title(f"{portrait.searched(gallery, left_out)}, each item searched without itself")
        meaning = "evidence (score less half of the runner-up's)" if scores.calibrated else "score"
        axes.set_xlabel(meaning)
        return _scored(gallery, figure, left_out, scores)


def draw_trade_off(
    gallery: Gallery, watch: Watcher = lambda progress: None
) -> Portrait[ScoreFacts]:
    """The DET curve of the same scores, with the EER and the threshold's working point.

    Raises UsageError for fewer than two identities, and where none has two items.
    """
    left_out = portrait.left_out(gallery, watch)
    scores = own_scores(gallery, left_out)
    if scores.fnir is None:
        raise UsageError(
            f"no identity in {gallery.folder} has two items, to see whether one finds the other:"
            " enrol more pictures of some"
        )
    _, fpir, fnir = metrics.error_rates(scores.found, scores.impostor)
    with plots.style():
        figure = plots.figure(6.5, 6.5)
        axes = figure.subplots()
        working = scores.fpir, scores.fnir, f"threshold {scores.threshold:.3f}"
        plots.trade_off(axes, fpir, fnir, scores.eer, working, ("FPIR", "FNIR"))
        axes.set(xlabel="FPIR: strangers that get a name, %", ylabel="FNIR: not found as itself, %")
        axes.set_title(f"{portrait.searched(gallery, left_out)}, each item searched without itself")
        return _scored(gallery, figure, left_out, scores)


def _scored(
    gallery: Gallery, figure: Figure, left_out: Sequence[LeftOut], scores: OwnScores
) -> Portrait[ScoreFacts]:
    said = f"{portrait.searched(gallery, left_out)}: FPIR {scores.fpir:.1%}"
    if scores.fnir is not None and scores.eer is not None:
        said += f", FNIR {scores.fnir:.1%}, EER {scores.eer:.1%}"
    extent = portrait.extent(gallery, [one.identity for one in left_out])
    facts = ScoreFacts(
        **dataclasses.asdict(extent),
        decides="evidence" if scores.calibrated else "score",
        threshold=scores.threshold,
        genuine=len(scores.genuine),
        impostor=len(scores.impostor),
        fpir=scores.fpir,
        fnir=scores.fnir,
        eer=scores.eer,
    )
    return Portrait(plots.png(figure), said, facts)
