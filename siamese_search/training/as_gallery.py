"""Two encoders on what is held out, as a gallery would work with them.

A part of each class's pictures is enrolled, the gallery learns its metric from these as it does
when it is calibrated, and the others are identified by its scoring rule. What gains by plain
cosines may gain nothing there. Knows nothing of files and networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from siamese_search.arrays import DoubleArray, FloatArray, IntArray
from siamese_search.decision.learning import Prior, learned
from siamese_search.decision.rules import DEFAULT_RULE, RULES, Members, scored
from siamese_search.evaluation.standard_errors import beyond_chance

DRAWS = 10
SHOTS = 5  # pictures that are enrolled of a class, at most; as many are left to ask about
ASKED, ASKED_EACH = 2000, 20  # pictures that are asked about in a draw, and of a class, at most

BETTER, WORSE, CHANCE = "better", "worse", "no difference that can be told from chance"


@dataclass(frozen=True)
class Difference:
    """The shares of pictures named rightly, as means over classes: by the ``other`` encoder, by the
    ``trained`` one, and what this gains, with its standard error over the classes. ``told`` is
    whether that is beyond what chance explains, at 95 %.
    """

    other: float
    trained: float
    gained: float
    error: float
    told: bool

    @property
    def verdict(self) -> str:
        """What can be said of the trained encoder."""
        if not self.told:
            return CHANCE
        return BETTER if self.gained > 0 else WORSE


@dataclass(frozen=True)
class AsGallery:
    """A trained encoder against another one, on the same pictures in the same draws.

    ``shots`` are how many pictures were enrolled of a class at most; ``several`` is None where no
    class has enough for more than one. ``unseen`` is whether the classes were not trained on, and
    ``chosen_of`` of how many epochs the same pictures chose the trained one: that flatters it.
    """

    against: str
    classes: int
    pictures: int
    draws: int
    shots: int
    unseen: bool
    one_shot: Difference
    several: Difference | None
    chosen_of: int = 1

    @property
    def main(self) -> Difference:
        """What decides: several shots, as most galleries have; one where these are even."""
        if self.several is None or self.several.gained == 0:
            return self.one_shot
        return self.several

    @property
    def is_better(self) -> bool:
        """Whether the trained encoder names more of them rightly, be it by chance."""
        return self.main.gained > 0

    @property
    def verdict(self) -> str:
        """What can be said of the trained encoder, by what decides."""
        return self.main.verdict


@dataclass(frozen=True)
class Described:
    """What an encoder makes of the held-out pictures (n, dimension), and what it knows already."""

    name: str
    vectors: FloatArray
    prior: Prior | None


def compare(
    trained: Described,
    other: Described,
    labels: IntArray,
    unseen: bool,
    draws: int = DRAWS,
    chosen_of: int = 1,
) -> AsGallery | None:
    """Compare two encoders on pictures of classes (n,), which chose the trained one of so many
    epochs; None where fewer than two classes have two pictures.
    """
    counts = np.bincount(labels)
    several = counts[counts > 1]
    if len(several) < 2:
        return None
    shots = min(SHOTS, int(several.max()) // 2)
    return AsGallery(
        other.name,
        len(several),
        int(several.sum()),
        draws,
        shots,
        unseen,
        _difference(trained, other, labels, 1, draws, chosen_of),
        _difference(trained, other, labels, shots, draws, chosen_of) if shots > 1 else None,
        chosen_of,
    )


def _difference(
    trained: Described,
    other: Described,
    labels: IntArray,
    shots: int,
    draws: int,
    chosen_of: int,
) -> Difference:
    before, after = (
        named_rightly(one.vectors, labels, one.prior, shots, draws) for one in (other, trained)
    )
    apart = after - before
    mean, error = float(apart.mean()), float(apart.std(ddof=1)) / math.sqrt(len(apart))
    # Each epoch was another chance to look better. They resemble each other: in simulations of runs
    # that gain nothing, the root of their number kept "better" to 2 %, and 1 told it in up to 8 %.
    tests = math.sqrt(chosen_of) if mean > 0 else 1
    told = beyond_chance(mean, error, len(apart) - 1, tests)
    return Difference(float(before.mean()), float(after.mean()), mean, error, told)


def named_rightly(
    vectors: FloatArray, labels: IntArray, prior: Prior | None, shots: int, draws: int = DRAWS
) -> DoubleArray:
    """The share of each class's pictures (classes,) that a gallery names rightly, over all draws.

    At most ``shots`` pictures of a class are enrolled, and no more than half. Classes of one
    picture are enrolled, to be mistaken for, and not asked about.
    """
    right, asked = np.zeros((2, int(labels.max()) + 1))
    for enrolled, probes in _draws(labels, shots, draws):
        found = _identified(vectors, labels, enrolled, probes, prior) == labels[probes]
        right += np.bincount(labels[probes], found, len(right))
        asked += np.bincount(labels[probes], minlength=len(asked))
    there = asked > 0
    shares: DoubleArray = right[there] / asked[there]
    return shares


def _draws(labels: IntArray, shots: int, draws: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Positions of what is enrolled, and of what is asked about."""
    members = [np.flatnonzero(labels == name) for name in np.unique(labels)]
    each = max(1, min(ASKED_EACH, ASKED // len(members)))
    for seed in range(draws):
        chance = np.random.default_rng(seed)
        enrolled, probes = [], []
        for own in members:
            order = chance.permutation(own)
            count = max(1, min(shots, len(own) // 2))
            enrolled.append(order[:count])
            probes.append(order[count : count + each])
        yield np.concatenate(enrolled), np.concatenate(probes)


def _identified(
    vectors: FloatArray,
    labels: IntArray,
    enrolled: IntArray,
    probes: IntArray,
    prior: Prior | None,
) -> IntArray:
    """The class that a gallery of what is enrolled takes each probe for."""
    metric = learned(vectors[enrolled], labels[enrolled], prior)
    items = vectors if metric is None else metric.apply(vectors)
    asked = items[probes] if metric is None else metric.apply_to_probes(vectors[probes])
    names = np.unique(labels[enrolled])
    members = [
        Members(np.sort(enrolled[labels[enrolled] == name]), items.__getitem__) for name in names
    ]
    found: IntArray = names[scored(asked, members, RULES[DEFAULT_RULE]).argmax(axis=1)]
    return found
