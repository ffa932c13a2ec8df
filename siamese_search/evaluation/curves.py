"""Curves of identification: over the number of enrolled identities, and over that of shots.

The same probes are asked at every point, so that a curve shows what the gallery does and not what
is asked. Knows nothing of galleries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from siamese_search.arrays import BoolArray, DoubleArray, FloatArray, IntArray
from siamese_search.decision import rules
from siamese_search.decision.evidence import evidence
from siamese_search.evaluation import metrics

SMALLEST = 5  # identities
SHOTS = (1, 2, 3, 5, 10, 20, 50, 100)
BLOCK = 1024  # probes scored at a time


@dataclass(frozen=True)
class Curve:
    """recall@1 and TPIR at an FPIR, float64 (draws, points), over a number of ``what``.

    Recall is that of the probes that are enrolled. For the TPIR (rank 1) the threshold is the one
    that lets at most the share ``fpir`` of the strangers pass, at each point; NaN where there are
    too few of them to show that rate. ``strangers`` are how many of the probes are not enrolled.
    """

    what: str  # identities or shots
    fpir: float
    at: tuple[int, ...]
    recall: DoubleArray
    tpir: DoubleArray
    strangers: int

    @property
    def rate(self) -> str:
        """What the TPIR is called."""
        return f"TPIR at FPIR {self.fpir:g}"


class Identified(NamedTuple):
    """Of n probes: whether each one's best identity is its own, and the evidence for the best."""

    right: BoolArray
    shown: DoubleArray


class _Point(NamedTuple):
    recall: float
    tpir: float


def pooled(curves: Sequence[Curve]) -> Curve:
    """The same curve of several evaluations, draws one after the other."""
    recall = np.concatenate([curve.recall for curve in curves])
    tpir = np.concatenate([curve.tpir for curve in curves])
    fewest = min(curve.strangers for curve in curves)
    return replace(curves[0], recall=recall, tpir=tpir, strangers=fewest)


def best_two(scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The best score of each row of scores (n, m) and the second, which is nought where m is 1."""
    if scores.shape[1] < 2:
        return scores[:, 0], np.zeros(len(scores), np.float32)
    top = np.partition(scores, -2, axis=1)
    return top[:, -1], top[:, -2]


def identified(scores: FloatArray, own: IntArray, never: BoolArray) -> Identified:
    """Identify n probes by the scores of m identities.

    ``scores`` is (n, m); ``own`` (n,) the probes' columns, -1 for strangers; ``never`` (m,) tells
    who may not be named, for whom there is no evidence: -inf.
    """
    known = own >= 0
    right = np.zeros(len(own), bool)
    right[known] = metrics.ranks(scores[known], own[known]) == 1
    nameable = right | ~never[scores.argmax(axis=1)]
    return Identified(right, np.where(nameable, evidence(*best_two(scores)), -np.inf))


def sizes(identities: int) -> list[int]:
    """5, 10, 20, 50, 100 and so on up to all identities."""
    powers = [10**power for power in range(len(str(identities)))]
    round_ones = [step * power for power in powers for step in (1, 2, 5)]
    return [n for n in round_ones if SMALLEST <= n < identities] + [identities]


class Growth:
    """The curve over enrolled identities, from the scores of all of them, block by block.

    Identities are drawn in a random order for each seed, and the first n make a gallery; where a
    probe's own identity is not among them it takes the last one's place. So every probe is asked at
    every size, and with all identities the curve ends at what is measured without a draw.
    """

    def __init__(self, never: BoolArray, seeds: Iterable[int]) -> None:
        """``never`` (m,) tells which identities may not be named."""
        self._never = never
        self._orders = [np.random.default_rng(seed).permutation(len(never)) for seed in seeds]
        self._sizes = sizes(len(never))
        self._known: list[BoolArray] = []
        self._found: list[list[list[Identified]]] = []

    def add(self, scores: FloatArray, own: IntArray) -> None:
        """Count in probes: scores (n, m), own (n,) columns, -1 for strangers."""
        self._known.append(own >= 0)
        self._found.append([self._grown(scores, own, order) for order in self._orders])

    def _grown(self, scores: FloatArray, own: IntArray, order: IntArray) -> list[Identified]:
        place = np.where(own >= 0, np.argsort(order)[own], -1)
        shuffled, never = scores[:, order], self._never[order]
        grown = []
        for size in self._sizes:
            gallery, column = shuffled[:, :size].copy(), place.copy()
            absent = np.flatnonzero(place >= size)
            gallery[absent, -1] = scores[absent, own[absent]]
            column[absent] = size - 1
            grown.append(identified(gallery, column, never[:size]))
        return grown

    def curve(self, fpir: float) -> Curve:
        """The curve of all probes counted in, a row for each seed."""
        known = np.concatenate(self._known)
        points = [
            [
                _point(known, [block[draw][size] for block in self._found], fpir)
                for size in range(len(self._sizes))
            ]
            for draw in range(len(self._orders))
        ]
        return _curve("identities", fpir, self._sizes, points, known)


def _curve(
    what: str, fpir: float, at: Sequence[int], points: list[list[_Point]], known: BoolArray
) -> Curve:
    """The curve through the points of every draw."""
    rates = np.array(points, np.float64)
    return Curve(what, fpir, tuple(at), rates[..., 0], rates[..., 1], int((~known).sum()))


def _point(known: BoolArray, found: Sequence[Identified], fpir: float) -> _Point:
    """What probes that come in blocks show."""
    right = np.concatenate([block.right for block in found])
    shown = np.concatenate([block.shown for block in found])
    recall = float(right[known].mean()) if known.any() else np.nan
    if not metrics.tells(fpir, int((~known).sum())):
        return _Point(recall, np.nan)
    return _Point(recall, metrics.tpir_at_fpir(shown, right, known, fpir).tpir)


def shot_steps(counts: Sequence[int], shots: int) -> list[int]:
    """1, 2, 3, 5, 10 and so on, and ``shots``: as long as half of the classes have more pictures.

    ``counts`` are the pictures of each class, all more than ``shots``.
    """
    return [
        step
        for step in sorted({*SHOTS, shots})
        if 2 * sum(count > step for count in counts) >= len(counts)
    ]


def over_shots(
    vectors: FloatArray,
    classes: Sequence[IntArray],
    strangers: IntArray,
    steps: Sequence[int],
    fpir: float,
    rule: str,
) -> Curve:
    """The curve over shots, of one draw.

    ``classes`` are the rows of the enrolled classes' pictures among ``vectors`` (n, dimension),
    each in the order in which they are enrolled; those after the last step are the probes, with
    ``strangers``. Classes that have none after it are left out; NaN where fewer than two have any.
    """
    most = max(steps)
    deep = [own for own in classes if len(own) > most]
    if len(deep) < 2:
        nothing = np.full((1, len(steps)), np.nan)
        return Curve("shots", fpir, tuple(steps), nothing, nothing, len(strangers))
    probes = np.concatenate([*(own[most:] for own in deep), strangers])
    owners = [np.full(len(own) - most, column) for column, own in enumerate(deep)]
    own = np.concatenate([*owners, np.full(len(strangers), -1)])
    never = np.zeros(len(deep), bool)
    points = []
    for step in steps:
        members = [rules.Members(np.sort(one[:step]), vectors.__getitem__) for one in deep]
        found = []
        for start in range(0, len(probes), BLOCK):
            part = slice(start, start + BLOCK)
            scores = rules.scored(vectors[probes[part]], members, rules.RULES[rule])
            found.append(identified(scores, own[part], never))
        points.append(_point(own >= 0, found, fpir))
    return _curve("shots", fpir, steps, [points], own >= 0)
