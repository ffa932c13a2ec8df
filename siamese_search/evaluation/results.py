"""What an evaluation found, as records. They know nothing of galleries, pages and terminals.

Those that JSON has as lists are named tuples, in the order of the list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from siamese_search.evaluation.curves import Curve
from siamese_search.evaluation.metrics import Confusion
from siamese_search.records import Rejection

Figures = dict[str, float]
"""Figures by name: shares between 0 and 1 (see ``metrics.py``), but for ``probes``, ``strangers``,
``identities``, ``items`` and ``probes per second``. NaN where there is nothing to measure, or where
it would not be known (see ``LeftOutFigure``)."""


class IdentityResult(NamedTuple):
    """An identity's probes: how many found it best, and how many were also given its name."""

    name: str
    probes: int
    best: int
    named: int


class CmcPoint(NamedTuple):
    """Of the CMC curve: the share of probes whose own identity is among the ``k`` best."""

    k: int
    recall: float


class DetPoint(NamedTuple):
    """Of the DET curve."""

    fmr: float
    fnmr: float


@dataclass(frozen=True)
class Mistake:
    """A probe that got a wrong name, or none; ``identity`` is None for a stranger."""

    path: str
    identity: str | None
    named: str | None
    score: float
    confidence: float | None  # None where it was never fitted
    nearest: str | None  # the best item's picture
    best: str  # the best identity, whether it was named or not


@dataclass(frozen=True)
class Decided:
    """What was compared with the ``threshold``, the score or the evidence, as ``by`` says: that of
    the best identity, of enrolled probes for whom it is ``right``, of those for whom it is
    ``wrong``, and of ``strangers``. Those are left out whose best identity is never named.
    """

    by: str
    threshold: float
    right: tuple[float, ...]
    wrong: tuple[float, ...]
    strangers: tuple[float, ...]


@dataclass(frozen=True)
class LeftOutFigure:
    """A figure at a rate that too few samples tell; ``needed`` would (see ``metrics.tells``)."""

    figure: str
    counted: int
    needed: int
    of: str  # strangers, or pairs of different identities


@dataclass(frozen=True)
class UnmatchedLabel:
    """A label of probes that is not enrolled, with names that it may stand for, likeliest first."""

    label: str
    pictures: int
    near: tuple[str, ...]


@dataclass(frozen=True)
class StrangerResult:
    """A thing that is not enrolled, by the label of its ``probes``: how many of them were
    ``named``, and as whom how often, most often first. ``worst`` is the surest of these mistakes.
    """

    name: str
    probes: int
    named: int
    called: tuple[tuple[str, int], ...]
    worst: Mistake | None


@dataclass(frozen=True)
class StrangerRate:
    """How many ``probes`` of strangers were ``named``; they show so many ``things``, of which
    ``named_things`` got a name at least once.

    The rate of strangers like these lies between ``lower`` and ``upper`` with a confidence of 90 %,
    if probes of one thing are alike. ``asked`` is the rate that the gallery was calibrated for.
    """

    probes: int
    named: int
    things: int
    named_things: int
    lower: float
    upper: float
    asked: float | None


@dataclass(frozen=True)
class Evaluation:
    """How well probes were identified."""

    figures: Figures
    per_identity: tuple[IdentityResult, ...]  # the worst first
    confusions: tuple[Confusion, ...]
    mistakes: tuple[Mistake, ...]  # the most confident ones first
    cmc: tuple[CmcPoint, ...]
    det: tuple[DetPoint, ...]
    genuine: tuple[float, ...] = ()
    impostor: tuple[float, ...] = ()  # the best wrong identity's score of each probe
    decided: Decided | None = None
    unmatched: tuple[UnmatchedLabel, ...] = ()  # their probes count as strangers
    left_out: tuple[LeftOutFigure, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    per_stranger: tuple[StrangerResult, ...] = ()  # the most often named first
    stranger_rate: StrangerRate | None = None  # None without strangers
    enrolled_probes: int = 0  # which are enrolled themselves, and found of course
    growth: tuple[Curve, ...] = ()  # over the number of identities and, of a split, of shots
