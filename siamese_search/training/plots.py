"""Pictures of a run for a person to look at. Needs ``pip install 'siasearch[plot]'``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siamese_search.evaluation import metrics

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

PAIRS_AT_MOST = 3000  # pictures whose pairs are compared: 4.5 million pairs
MAP_CLASSES = 20  # more colours than these nobody tells apart
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
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("Agg")
    paths = [folder / f"{name}.png" for name in ("curves", "scores", "map")]

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [epoch["step"] for epoch in epochs]
    left.plot(steps, [epoch["loss"] for epoch in epochs])
    left.set(xlabel="step", ylabel="loss", title="training loss")
    if before is not None:
        recalls = [before, *(epoch["recall"] for epoch in epochs)]
        right.plot([0, *steps], [100 * recall for recall in recalls], marker=".", label="recall@1")
        precisions = [100 * epoch["precision"] for epoch in epochs]
        right.plot(steps, precisions, marker=".", label="mAP@R, which chooses")
        right.set(xlabel="step", ylabel="%", title="what is held out")
        right.legend()
    figure.savefig(paths[0], dpi=110)

    pairs = pair_scores(embeddings, labels)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    bins = np.linspace(-1, 1, 81)
    for name, scores in (("genuine", pairs.genuine), ("impostor", pairs.impostor)):
        left.hist(scores, bins, density=True, alpha=0.6, label=name)
    left.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.2f}")
    left.set(xlabel="cosine", ylabel="density", title="pairs of held-out pictures")
    left.set_xticks([-1, -0.5, 0, 0.5, 1])
    left.legend()
    if len(pairs.genuine) and len(pairs.impostor):
        _, false_match, false_non_match = metrics.error_rates(pairs.genuine, pairs.impostor)
        positive = np.flatnonzero((false_match > 0) & (false_non_match > 0))
        if len(positive):
            drawn = positive[np.unique(np.linspace(0, len(positive) - 1, 500).astype(int))]
            right.loglog(100 * false_match[drawn], 100 * false_non_match[drawn])
        error = 100 * metrics.equal_error_rate(pairs.genuine, pairs.impostor)
        right.plot([error], [error], "o", label=f"EER {error:.1f} %")
        right.legend()
    right.set(xlabel="FMR, %", ylabel="FNMR, %", title="detection error trade-off")
    figure.savefig(paths[1], dpi=110)

    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    chosen = np.flatnonzero(np.isin(labels, np.unique(labels)[:MAP_CLASSES]))[:MAP_PICTURES]
    flat = flattened(embeddings[chosen])
    axes.scatter(flat[:, 0], flat[:, 1], c=labels[chosen] % MAP_CLASSES, cmap="tab20", s=12)
    classes = len(np.unique(labels[chosen]))
    axes.set(xticks=[], yticks=[], title=f"{classes} classes that training has not seen (t-SNE)")
    figure.savefig(paths[2], dpi=110)
    return paths


def flattened(embeddings: FloatArray) -> FloatArray:
    """Two dimensions in which neighbours stay neighbours: t-SNE (van der Maaten 2008)."""
    from sklearn.manifold import TSNE

    perplexity = max(1.0, min(30.0, (len(embeddings) - 1) / 3))
    method = TSNE(perplexity=perplexity, metric="cosine", init="random", random_state=0)
    flat: FloatArray = method.fit_transform(embeddings)
    return flat
