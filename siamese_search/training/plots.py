"""Pictures of a run for a person to look at. Needs ``pip install 'siamese-search[plot]'``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.evaluation import maps, metrics, plots
from siamese_search.files import write_whole

PAIRS_AT_MOST = 3000  # pictures whose pairs are compared: 4.5 million pairs
MAP_CLASSES = 20  # each in a colour or mark of its own
MAP_PICTURES = 600
RECALL, PRECISION = "recall@1", "mAP@R, which chooses"


@dataclass(frozen=True)
class Kept:
    """The weights that are written: those of a step, 0 for the start, and which ``share`` of them,
    the rest being the start's.
    """

    step: int
    share: float = 1.0

    def __str__(self) -> str:
        if self.step == 0:
            return "kept: the start, over which nothing was gained"
        if self.share < 1:
            return f"kept: {self.share:.0%} of step {self.step}, {1 - self.share:.0%} of the start"
        return f"kept: step {self.step}"


@dataclass(frozen=True)
class PairScores:
    """Cosines of pairs of the same identity and of different ones."""

    genuine: FloatArray
    impostor: FloatArray


def pair_scores(embeddings: FloatArray, labels: IntArray) -> PairScores:
    """The cosines of all pairs, of at most 3,000 pictures drawn evenly."""
    every = max(1, -(-len(labels) // PAIRS_AT_MOST))
    embeddings, labels = embeddings[::every], labels[::every]
    upper = np.triu_indices(len(labels), 1)
    scores = (embeddings @ embeddings.T)[upper]
    same = labels[upper[0]] == labels[upper[1]]
    return PairScores(scores[same], scores[~same])


def draw(
    folder: Path,
    epochs: Sequence[dict[str, Any]],
    before: float | None,
    embeddings: FloatArray,
    labels: IntArray,
    threshold: float,
    kept: Kept,
    what: str = "held-out pictures",
    unseen: bool = True,
) -> list[Path]:
    """Write curves.png, scores.png and map.png; returns their paths. Raises StorageError.

    ``epochs`` are the lines of ``metrics.jsonl``; the embeddings (n, dimension) are of pictures
    that ``what`` names in words, and ``unseen`` says whether their classes (n,) were not trained.
    """
    paths = [folder / f"{name}.png" for name in ("curves", "scores", "map")]
    with plots.style():
        figures = (
            curves(epochs, before, kept),
            scores(pair_scores(embeddings, labels), threshold, what),
            class_map(embeddings, labels, what, unseen),
        )
        for path, figure in zip(paths, figures, strict=True):
            write_whole(path, plots.png(figure))
    return paths


def curves(epochs: Sequence[dict[str, Any]], before: float | None, kept: Kept) -> Figure:
    """The loss and, where something was held out, how well that was found, with the step kept."""
    figure = plots.figure(9 if before is not None else 5, 3.8)
    panels = figure.subplots(1, 2 if before is not None else 1, squeeze=False)[0]
    steps = [epoch["step"] for epoch in epochs]
    panels[0].plot(steps, [epoch["loss"] for epoch in epochs], marker=".")
    panels[0].set(xlabel="step", ylabel="loss", title="training loss")
    if before is not None:
        recalls = [before, *(epoch["recall"] for epoch in epochs)]
        precisions = [100 * epoch["precision"] for epoch in epochs]
        panels[1].plot([0, *steps], [100 * recall for recall in recalls], marker=".", label=RECALL)
        panels[1].plot(steps, precisions, marker=".", label=PRECISION)
        panels[1].set(xlabel="step", ylabel="%", title="what is held out")
    for axes in panels:
        axes.axvline(kept.step, color="black", linestyle=":", label=str(kept))
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def scores(pairs: PairScores, threshold: float, what: str) -> Figure:
    """The cosines of pairs, with the threshold, and which errors which threshold makes."""
    figure = plots.figure(9, 3.5)
    left, right = figure.subplots(1, 2)
    groups = {"genuine": pairs.genuine, "impostor": pairs.impostor}
    plots.histogram(left, groups, (threshold, f"threshold {threshold:.2f}"))
    left.set(xlabel="cosine", title=f"pairs of {what}")
    if len(pairs.genuine) and len(pairs.impostor):
        _, false_match, false_non_match = metrics.error_rates(pairs.genuine, pairs.impostor)
        error = metrics.equal_error_rate(pairs.genuine, pairs.impostor)
        plots.trade_off(right, false_match, false_non_match, error)
    right.set_title("detection error trade-off")
    return figure


def class_map(embeddings: FloatArray, labels: IntArray, what: str, unseen: bool) -> Figure:
    """Some pictures of some classes, those that are alike beside each other."""
    figure = plots.figure(6, 6)
    axes = figure.subplots()
    chosen = np.flatnonzero(np.isin(labels, np.unique(labels)[:MAP_CLASSES]))[:MAP_PICTURES]
    layout = maps.laid_out(embeddings[chosen], labels[chosen].tolist())
    maps.embedding_map(axes, layout, named=False)
    classes = f"{len(np.unique(labels[chosen]))} classes"
    title = f"{classes} that training has not seen" if unseen else f"{what} of {classes}"
    axes.set_title(f"{title} (t-SNE)")
    return figure
