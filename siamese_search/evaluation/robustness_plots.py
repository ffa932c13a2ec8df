"""Plots of what changes of growing strength do. Needs ``pip install 'siamese-search[plot]'``."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from siamese_search.evaluation import plots
from siamese_search.evaluation.robustness import Outcome

WIDTH, HEIGHT = 4.5, 3.2  # inches
LINES = {
    "evaded": "no longer named rightly",
    "misnamed": "named wrongly",
    "impersonated": "named as chosen",
}


def strengths(outcomes: Sequence[Outcome]) -> Figure:
    """The shares of one kind of change over its strengths, weakest first, with their bounds."""
    figure = plots.figure(WIDTH, HEIGHT)
    axes = figure.subplots()
    for number, (name, label) in enumerate(LINES.items()):
        drawn = [
            (place, share)
            for place, one in enumerate(outcomes)
            if (share := getattr(one, name)) is not None and share.of
        ]
        if drawn:
            at = [place for place, _ in drawn]
            middle = [100 * share.hits / share.of for _, share in drawn]
            low = [m - 100 * share.lower for m, (_, share) in zip(middle, drawn, strict=True)]
            high = [100 * share.upper - m for m, (_, share) in zip(middle, drawn, strict=True)]
            bars = [[max(0.0, one) for one in side] for side in (low, high)]
            axes.errorbar(
                at, middle, bars, fmt="o-", color=f"C{number}", markersize=4, capsize=3, label=label
            )
    axes.set_xticks(range(len(outcomes)), [f"{one.strength:g}" for one in outcomes])
    axes.set(xlabel=f"strength, {outcomes[0].of}", ylabel="%", ylim=(-2, 102))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")
    return figure
