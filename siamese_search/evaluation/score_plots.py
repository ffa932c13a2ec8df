"""Plots of how a gallery's own items score: distributions and error rates.

Knows nothing of labelled probes: see ``report_plots.py`` for these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from siamese_search.errors import UsageError
from siamese_search.evaluation import metrics, plots, portrait
from siamese_search.evaluation.own_scores import OwnScores, both_ways, own_scores
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


def draw_scores(gallery: Gallery, watch: Watcher = lambda progress: None) -> Portrait[ScoreFacts]:
    """Histograms of what decides, for own and for other identities, with the threshold.

    Raises UsageError for fewer than two identities.
    """
    left_out, strange = both_ways(gallery, watch)
    scores = own_scores(gallery, left_out, strange)
    shown = scores.impostor[np.isfinite(scores.impostor)]
    with plots.style():
        figure = plots.figure(8, 4.5)
        axes = figure.subplots()
        groups = {
            f"genuine: own identity ({len(scores.genuine)} items)": scores.genuine,
            f"impostor: best other identity ({len(scores.impostor)} items)": shown,
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

    Raises UsageError for fewer than two identities, and where none has two items that may be
    named.
    """
    left_out, strange = both_ways(gallery, watch)
    scores = own_scores(gallery, left_out, strange)
    if scores.fnir is None:
        if {one.identity for one in left_out} <= gallery.distractors():
            raise UsageError(
                f"all identities in {gallery.folder} are distractors, which are never named: enrol"
                " some that are not"
            )
        raise UsageError(
            f"no identity in {gallery.folder} that may be named has two items, to see whether one"
            " finds the other: enrol more pictures of some"
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
    if gallery.undecided is not None:
        said += "; no threshold is known, and nothing is named"
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
