"""How well embeddings find those of their class, and which classes are hard to tell apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import FloatArray
from siamese_search.evaluation import metrics
from siamese_search.index import SearchIndex

R_AT_MOST = 100  # of mAP@R


@dataclass(frozen=True)
class Gain:
    """A difference of mAP@R and its standard error over the classes, None where one is all."""

    mean: float
    error: float | None


@dataclass(frozen=True)
class Retrieval:
    """How well pictures find the others of their class, leaving each out of its own search.

    ``recall`` is recall@1. ``precisions`` (classes,) are mAP@R of each class's pictures (Musgrave
    et al. 2020), which some classes still tell apart where recall@1 is near its end.
    """

    recall: float
    precisions: FloatArray

    @property
    def precision(self) -> float:
        return float(self.precisions.mean())

    def over(self, other: Retrieval) -> Gain:
        """How much higher mAP@R is, by the differences class by class.

        Pictures of one class resemble each other, so that classes are what is drawn by chance.
        """
        gained = self.precisions - other.precisions
        error = float(gained.std(ddof=1)) / math.sqrt(len(gained)) if len(gained) > 1 else None
        return Gain(float(gained.mean()), error)

    def as_good_as(self, other: Retrieval) -> bool:
        """Whether mAP@R is at most a standard error lower."""
        gain = self.over(other)
        return -gain.mean <= (gain.error or 0.0)


def retrieval(embeddings: FloatArray, labels: npt.NDArray[np.int64]) -> Retrieval:
    """How well embeddings (n, dimension) find those of their class; labels are 0 to classes - 1."""
    alike = np.bincount(labels)[labels] - 1
    wanted = np.minimum(alike, R_AT_MOST)
    relevant = labels[_nearest_others(embeddings, max(1, int(wanted.max())))] == labels[:, None]
    found = metrics.average_precisions(relevant, wanted)
    paired = wanted > 0
    _, classes = np.unique(labels[paired], return_inverse=True)
    of_class = np.bincount(classes, found[paired]) / np.bincount(classes)
    return Retrieval(
        recall=float(relevant[:, 0].mean()),
        precisions=(of_class if len(of_class) else np.zeros(1)).astype(np.float32),
    )


def _nearest_others(embeddings: FloatArray, k: int) -> npt.NDArray[np.int64]:
    """The k nearest of each embedding but itself, int64 (n, k), nearest first."""
    numbers = np.arange(len(embeddings))
    index = SearchIndex(embeddings.shape[1])
    index.add(numbers, embeddings)
    found, _ = index.search(embeddings, k + 1)
    others = found != numbers[:, None]
    others[others.all(axis=1), -1] = False  # pictures that are the same: it was not among them
    rest: npt.NDArray[np.int64] = found[others].reshape(len(embeddings), k)
    return rest


def confusable(
    embeddings: FloatArray, labels: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]:
    """For each class the ``count`` whose pictures lie nearest to its own, nearest first.

    Returns int64 (number of classes, count); classes are 0 to their number - 1.
    """
    number = int(labels.max()) + 1
    count = min(count, number - 1)
    index = SearchIndex(embeddings.shape[1])
    index.add(np.arange(len(labels)), embeddings)
    found, scores = index.search(embeddings, min(len(labels), 4 * count + 64))
    alike = np.full((number, number), -np.inf, np.float32)
    present = found >= 0
    np.maximum.at(
        alike,
        (np.broadcast_to(labels[:, None], found.shape)[present], labels[found[present]]),
        scores[present],
    )
    np.fill_diagonal(alike, -np.inf)
    nearest: npt.NDArray[np.int64] = np.argsort(-alike, axis=1, kind="stable")[:, :count]
    return nearest
