"""Grouping: which of some vectors are likely the same thing.

Complete linkage: two groups become one only where every picture of one is close to every picture of
the other, so that one odd picture joins no two kinds. How close is told by what is enrolled. Knows
nothing of where vectors come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.decision.learning import Prior, cross_fitted
from siamese_search.decision.metric import Metric
from siamese_search.records import DUPLICATE

STRANGE = 0.05  # the share of items that may be so close to one of another identity
FOLDS = 3  # of identities, which are compared within a fold: more leave too few to compare
FEWEST = 20  # identities that are told apart in folds


def separating(vectors: FloatArray, identities: Sequence[str]) -> float | None:
    """The cosine at which only a few items, unit vectors (n, p), have one of another identity.

    At most that of a duplicate; None where there are no two identities.
    """
    names, numbers = np.unique(np.array(identities, object), return_inverse=True)
    return _few(_nearest(vectors, numbers)) if len(names) > 1 else None


def separating_unseen(
    vectors: FloatArray, identities: IntArray, prior: Prior | None, like: Metric
) -> float | None:
    """``separating`` for new things, by items (n, d) that a metric was fitted on.

    Under that metric different ones are closer to each other, or further apart, than new things
    are. So items are compared under metrics ``like`` it that were fitted without them. None for
    fewer than ``FEWEST`` identities: too few are left out together then.
    """
    if len(np.unique(identities)) < FEWEST:
        return None
    nearest = np.empty(len(vectors), np.float32)
    for metric, out in cross_fitted(vectors, identities, prior, like, FOLDS):
        nearest[out] = _nearest(metric.apply(vectors[out]), identities[out])
    return _few(nearest)


def _nearest(vectors: FloatArray, numbers: IntArray) -> FloatArray:
    """The highest cosine (n,) of each unit vector (n, p) with one of another identity's number."""
    cosines = vectors @ vectors.T
    cosines[numbers[:, None] == numbers[None, :]] = -1
    nearest: FloatArray = cosines.max(axis=1)
    return nearest


def _few(nearest: FloatArray) -> float:
    """The cosine that few reach, at most that of a duplicate."""
    return min(float(np.quantile(nearest, 1 - STRANGE)), DUPLICATE)


def linked(vectors: FloatArray, threshold: float) -> list[list[int]]:
    """Positions of unit vectors (n, p) in groups in which all cosines reach a threshold.

    By chains of nearest neighbours (Benzécri 1982), which take the square of n in time and memory.
    """
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    members = {position: [position] for position in range(len(vectors))}
    waiting = list(reversed(members))
    groups: list[list[int]] = []
    chain: list[int] = []
    while chain or waiting:
        if not chain:
            place = waiting.pop()
            if place not in members:
                continue
            chain.append(place)
        last = chain[-1]
        near = int(cosines[last].argmax())
        best = cosines[last, near]
        if best < threshold:  # it is alone then: no later group is closer to it
            groups.append(members.pop(last))
            cosines[:, last] = -np.inf
            chain.pop()
        elif len(chain) > 1 and cosines[last, chain[-2]] >= best:
            chain.pop()
            near = chain.pop()
            cosines[near] = np.minimum(cosines[near], cosines[last])
            cosines[:, near] = cosines[near]
            cosines[near, near] = -np.inf
            cosines[:, last] = -np.inf
            members[near] += members.pop(last)
            waiting.append(near)
        else:
            chain.append(near)
    return groups
