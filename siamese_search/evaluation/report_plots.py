"""The plots of an evaluation's report, each with a word on how to read it.

Needs ``pip install 'siamese-search[plot]'``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from siamese_search.evaluation import plots
from siamese_search.evaluation.curves import Curve
from siamese_search.evaluation.results import Decided, Evaluation
from siamese_search.evaluation.words import titled
from siamese_search.words import counted

WIDTH, HEIGHT = 6.0, 4.2  # inches


@dataclass(frozen=True)
class Drawn:
    """A plot, to be made into a PNG within ``plots.style``, and how to read it."""

    figure: Figure
    caption: str


def drawn(evaluation: Evaluation) -> Iterator[Drawn]:
    """What decided, the CMC and the DET: those for which there is anything to draw."""
    if evaluation.decided is not None:
        yield _decided(evaluation.decided)
    if evaluation.cmc:
        yield _cmc(evaluation)
    if evaluation.genuine and evaluation.impostor and evaluation.det:
        yield _det(evaluation)


def growth(curves: Sequence[Curve]) -> Iterator[Drawn]:
    """The curves, those that have two points or more that are known."""
    for curve in curves:
        lines = {"recall@1": curve.recall, titled(curve.rate): curve.tpir}
        if len(curve.at) < 2 or all(np.isnan(drawn).all() for drawn in lines.values()):
            continue
        figure = plots.figure(WIDTH, HEIGHT)
        axes = figure.subplots()
        plots.growth(axes, curve.at, lines)
        axes.set(xlabel=f"{curve.what} enrolled", title=f"over {curve.what}")
        draws = len(curve.recall)
        band = f"The band is the standard deviation over {draws} draws." if draws > 1 else ""
        yield Drawn(figure, band)


def _decided(found: Decided) -> Drawn:
    figure = plots.figure(WIDTH, HEIGHT)
    axes = figure.subplots()
    groups = {
        f"{name} ({counted(len(values), 'probe')})": values
        for name, values in (
            ("best identity is right", found.right),
            ("best identity is wrong", found.wrong),
            ("strangers", found.strangers),
        )
        if values
    }
    plots.histogram(axes, groups, (found.threshold, f"threshold {found.threshold:.3f}"))
    axes.set(xlabel=found.by, title=f"{found.by} of the best identity")
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # room for the legend
    return Drawn(
        figure,
        "Probes on the right of the threshold got the name of their best identity, the others are"
        " unknown. The farther apart right ones and strangers are, the better.",
    )


def _cmc(evaluation: Evaluation) -> Drawn:
    figure = plots.figure(WIDTH, HEIGHT)
    axes = figure.subplots()
    shares = [100 * point.recall for point in evaluation.cmc]
    axes.plot([point.k for point in evaluation.cmc], shares, "o-", markersize=3, clip_on=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="k", ylabel="recall@k, %", ylim=(0, 102), title="found among the k best (CMC)")
    axes.grid(alpha=0.3)
    return Drawn(figure, "Of the probes of enrolled identities: their own is among the k best.")


def _det(evaluation: Evaluation) -> Drawn:
    figure = plots.figure(WIDTH, HEIGHT)
    axes = figure.subplots()
    fmr, fnmr = zip(*evaluation.det, strict=True)
    plots.trade_off(axes, fmr, fnmr, evaluation.figures["EER"])
    axes.set(
        xlabel="FMR: wrong identities that pass, %",
        ylabel="FNMR: right ones that do not, %",
        title="errors at every threshold (DET)",
    )
    return Drawn(figure, "Single scores with one threshold; nearer to the lower left is better.")
