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

PAIRS_AT_MOST = 3000  # pictures whose pairs are compared: 4.5 million pairs
MAP_CLASSES = 20
MAP_PICTURES = 600


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
) -> list[Path]:
    """Write curves.png, scores.png and map.png; returns their paths.

    ``epochs`` are the lines of ``metrics.jsonl``; the embeddings are of held-out pictures.
    """
    paths = [folder / f"{name}.png" for name in ("curves", "scores", "map")]
    with plots.style():
        figures = (
            _curves(epochs, before),
            _scores(pair_scores(embeddings, labels), threshold),
            _map(embeddings, labels),
        )
        for path, figure in zip(paths, figures, strict=True):
            path.write_bytes(plots.png(figure))
    return paths


def _curves(epochs: Sequence[dict[str, Any]], before: float | None) -> Figure:
    figure = plots.figure(9, 3.5)
    left, right = figure.subplots(1, 2)
    steps = [epoch["step"] for epoch in epochs]
    left.plot(steps, [epoch["loss"] for epoch in epochs], marker=".")
    left.set(xlabel="step", ylabel="loss", title="training loss")
    if before is not None:
        recalls = [before, *(epoch["recall"] for epoch in epochs)]
        right.plot([0, *steps], [100 * recall for recall in recalls], marker=".", label="recall@1")
        precisions = [100 * epoch["precision"] for epoch in epochs]
        right.plot(steps, precisions, marker=".", label="mAP@R, which chooses")
        right.set(xlabel="step", ylabel="%", title="what is held out")
        right.legend()
    return figure


def _scores(pairs: PairScores, threshold: float) -> Figure:
    figure = plots.figure(9, 3.5)
    left, right = figure.subplots(1, 2)
    groups = {"genuine": pairs.genuine, "impostor": pairs.impostor}
    plots.histogram(left, groups, (threshold, f"threshold {threshold:.2f}"))
    left.set(xlabel="cosine", title="pairs of held-out pictures")
    if len(pairs.genuine) and len(pairs.impostor):
        _, false_match, false_non_match = metrics.error_rates(pairs.genuine, pairs.impostor)
        error = metrics.equal_error_rate(pairs.genuine, pairs.impostor)
        plots.trade_off(right, false_match, false_non_match, error)
    right.set_title("detection error trade-off")
    return figure


def _map(embeddings: FloatArray, labels: IntArray) -> Figure:
    figure = plots.figure(6, 6)
    axes = figure.subplots()
    chosen = np.flatnonzero(np.isin(labels, np.unique(labels)[:MAP_CLASSES]))[:MAP_PICTURES]
    layout = maps.laid_out(embeddings[chosen], labels[chosen].tolist())
    maps.embedding_map(axes, layout, named=False)
    classes = len(np.unique(labels[chosen]))
    axes.set_title(f"{classes} classes that training has not seen (t-SNE)")
    return figure
