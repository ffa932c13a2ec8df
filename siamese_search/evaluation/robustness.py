"""What was measured of answers to changed pictures, and what was to be measured: records.

Knows nothing of galleries, pages and terminals.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from siamese_search.decision.binomial import clopper_pearson
from siamese_search.errors import UsageError, require_whole
from siamese_search.records import Rejection

KINDS = ("natural", "gradient", "patch", "views", "all")
CONFIDENCE = 0.9
EVADE, IMPERSONATE = "evade", "impersonate"


@dataclass(frozen=True)
class Plan:
    """What to measure: one of ``KINDS``, at most ``limit`` probes of enrolled identities and as
    many of strangers, so many ``steps`` of gradient; ``seed`` draws probes and targets.
    """

    kind: str = "all"
    limit: int = 50
    steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"unknown attack {self.kind!r}: choose one of {', '.join(KINDS)}")
        require_whole("limit", self.limit, 1)
        require_whole("steps", self.steps, 1)
        require_whole("seed", self.seed)

    def has(self, kind: str) -> bool:
        return self.kind in (kind, "all")


@dataclass(frozen=True)
class Share:
    """So many ``of`` so many; the true share is between ``lower`` and ``upper`` nine times of ten
    (Clopper and Pearson), for other probes like these.
    """

    hits: int
    of: int
    lower: float = field(init=False)
    upper: float = field(init=False)

    def __post_init__(self) -> None:
        bounds = clopper_pearson(self.hits, self.of, CONFIDENCE) if self.of else (0.0, 1.0)
        for name, bound in zip(("lower", "upper"), bounds, strict=True):
            object.__setattr__(self, name, bound)


@dataclass(frozen=True)
class Outcome:
    """What a change of one strength did.

    ``evaded`` of the probes that are named rightly unchanged have that name no more, though their
    own identity may still be ``best`` of all; ``misnamed`` of those asked got a name that is not
    theirs; ``impersonated`` of those that were to get a chosen name got it. None where that was not
    tried. ``refused`` tells, by the share of genuine pictures that a check by views refuses, how
    many it refuses of those rightly named, or of an attack's successes.
    """

    change: str
    goal: str
    strength: float | None
    of: str
    evaded: Share | None = None
    best: Share | None = None
    misnamed: Share | None = None
    impersonated: Share | None = None
    refused: dict[float, Share] = field(default_factory=dict)


@dataclass(frozen=True)
class Robustness:
    """What was measured. ``enrolled`` probes, of whom ``right`` were named rightly, and
    ``strangers`` were looked at unattacked, those ``attacked`` of them were changed. A check by
    views refuses what agrees less than ``agreement`` says, by the share of genuine pictures;
    ``seconds`` of an embedding alone and with its views.
    """

    enrolled: int
    right: int
    strangers: int
    attacked: tuple[int, int]
    outcomes: tuple[Outcome, ...]
    agreement: dict[float, float]
    seconds: tuple[float, float]
    rejected: tuple[Rejection, ...]
