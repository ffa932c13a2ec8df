"""Evidence: what decides whether the best identity is named, and the probability that it is right.

The evidence is the best identity's score less half of the runner-up's. Somebody who is not enrolled
resembles several identities alike; who is enrolled stands out. What is never named, a distractor,
shows none: minus infinity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import DoubleArray, FloatArray
from siamese_search.records import Match

RUNNER_UP = 0.5  # the share of the runner-up's score that is taken off; why: benchmarks/openset.py
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3)


def evidence(
    best: npt.ArrayLike, runner_up: npt.ArrayLike, nameable: npt.ArrayLike = True
) -> DoubleArray:
    """The best score less half of the runner-up's, which is nought where there is none.

    ``nameable`` tells whether the best may be named.
    """
    second = np.maximum(np.asarray(runner_up, np.float64), 0.0)
    shown = np.asarray(best, np.float64) - RUNNER_UP * second
    found: DoubleArray = np.where(np.asarray(nameable, bool), shown, -np.inf)
    return found


def evidence_of(matches: Sequence[Match], rivals: Sequence[Match] | None = None) -> float:
    """The evidence for the best of a probe's identities, best first; -inf where there are none.

    ``rivals`` are the best identities whatever the filter, where there is one.
    """
    if not matches or matches[0].distractor:
        return -math.inf
    others = matches if rivals is None else rivals
    return matches[0].score - taken_off([m for m in others if m.identity != matches[0].identity])


def taken_off(others: Sequence[Match]) -> float:
    """What is taken off the best score, by the other identities in any order."""
    return RUNNER_UP * max([0.0, *(match.score for match in others)])


def most_evident(looks: Sequence[Sequence[Match]]) -> int:
    """Which of several looks at one probe, each with its identities best first, shows the most
    evidence, whether its best identity may be named or not; the first where none has any.
    """
    shown = [
        matches[0].score - taken_off(matches[1:]) if matches else -math.inf for matches in looks
    ]
    return max(range(len(shown)), key=shown.__getitem__)


def best_two(scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The best score of each row of scores (n, m) and the second, which is nought where m is 1."""
    if scores.shape[1] < 2:
        return scores[:, 0], np.zeros(len(scores), np.float32)
    top = np.partition(scores, -2, axis=1)
    return top[:, -1], top[:, -2]


def probability(log_odds: float) -> float:
    """The logistic, never overflowing."""
    return 0.5 + 0.5 * math.tanh(log_odds / 2)


def logistic(
    scores: npt.ArrayLike, right: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> tuple[float, float]:
    """Slope and offset of the logistic of the score that fits best (Platt 1999).

    His smoothed targets keep it finite where scores separate right from wrong.
    """
    values = np.asarray(scores, np.float64)
    hits = np.asarray(right, bool)
    counts = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    positive, negative = counts[hits].sum(), counts[~hits].sum()
    targets = np.where(hits, (positive + 1) / (positive + 2), 1 / (negative + 2))
    inputs = np.stack([values, np.ones_like(values)], axis=1)
    parameters = np.array([1.0, 0.0])
    ridge = 1e-6 * np.eye(2) * len(values)
    for _ in range(100):  # Newton's method; the ridge keeps steps short on flat ground
        chances = 1 / (1 + np.exp(-np.clip(inputs @ parameters, -30, 30)))
        gradient = inputs.T @ (counts * (targets - chances))
        slopes = counts * chances * (1 - chances)
        curvature = (inputs * slopes[:, None]).T @ inputs + ridge
        step = np.linalg.solve(curvature, gradient)
        parameters += step * min(1.0, 10 / np.abs(step).max())
        if np.abs(step).max() < 1e-9:
            break
    return float(parameters[0]), float(parameters[1])
