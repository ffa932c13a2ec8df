"""From scored items to identities: scoring rules and the decision. Scores are cosines.

A rule makes one score of the items of an identity. With one item each, all rules agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.errors import UsageError
from siamese_search.records import Match

READ = 4096  # vectors held at a time for a prototype
OTHERS = 1000  # that an item is compared with, when it is searched without itself
NEAREST = 3  # items whose mean ``mean-of-best`` takes
OUTLYING = 3.0  # median absolute deviations below the median, where ``trimmed`` cuts


class Members:
    """The items of one identity, as the rules see them.

    ``numbers``, ascending, are of items that can be found; ``read`` gives their unit vectors (n,
    dimension). Nothing is kept of these but prototypes, since an identity may have many items.
    """

    def __init__(self, numbers: IntArray, read: Callable[[IntArray], FloatArray]) -> None:
        self.numbers = numbers
        self.read = read
        self.prototype: FloatArray | None = None  # once ``prototypes`` has been asked for it

    @property
    def vectors(self) -> FloatArray:
        return self.read(self.numbers)

    def without(self, item: int) -> Members | None:
        """The others, a thousand of them where there are more; None where there are none."""
        others = self.numbers[self.numbers != item]
        if len(others) > OTHERS:
            others = others[np.linspace(0, len(others) - 1, OTHERS).astype(np.int64)]
        return Members(others, self.read) if len(others) else None

    @cached_property
    def trimmed(self) -> FloatArray:
        """The prototype without items that lie far from the others, (dimension,)."""
        vectors = self.vectors
        return unit(_total(vectors[~outlying(vectors)]))


def unit(total: npt.NDArray[np.float64]) -> FloatArray:
    """A vector (dimension,) scaled to length 1, float32; nought where it is as good as nought."""
    length = float(np.linalg.norm(total))
    scaled: FloatArray = (total / length if length > 1e-6 else 0 * total).astype(np.float32)
    return scaled


def _total(vectors: FloatArray) -> npt.NDArray[np.float64]:
    total: npt.NDArray[np.float64] = vectors.sum(axis=0, dtype=np.float64)
    return total


def prototypes(members: Sequence[Members]) -> FloatArray:
    """The normalised mean of each one's items (Snell et al. 2017), float32 (m, dimension).

    What is not known yet is read, as much at a time as there is room for: together it takes a
    fraction of the time.
    """
    group: list[Members] = []
    size = 0
    for own in members:
        if own.prototype is None:
            if group and size + len(own.numbers) > READ:
                _make_prototypes(group)
                group, size = [], 0
            group.append(own)
            size += len(own.numbers)
    if group:
        _make_prototypes(group)
    return np.stack([own.prototype for own in members if own.prototype is not None])


def _make_prototypes(group: list[Members]) -> None:
    """Read the items of these, and keep their prototypes."""
    numbers = np.concatenate([own.numbers for own in group])
    if len(group) == 1:  # it may have more than there is room for
        blocks = (numbers[start : start + READ] for start in range(0, len(numbers), READ))
        group[0].prototype = unit(np.sum([_total(group[0].read(one)) for one in blocks], axis=0))
        return
    order = np.argsort(numbers)
    vectors = group[0].read(numbers[order])[np.argsort(order)]
    ends = np.cumsum([len(own.numbers) for own in group])
    for own, end in zip(group, ends.tolist(), strict=True):
        own.prototype = unit(_total(vectors[end - len(own.numbers) : end]))


def outlying(vectors: FloatArray) -> npt.NDArray[np.bool_]:
    """Which of four items or more are much farther from the mean than most are (n,)."""
    if len(vectors) < 4:
        return np.zeros(len(vectors), bool)
    closeness = vectors @ unit(_total(vectors))
    middle = np.median(closeness)
    spread = np.median(np.abs(closeness - middle))
    far: npt.NDArray[np.bool_] = closeness < middle - OUTLYING * spread - 1e-6
    return far


# Rules: scores (c,) of c identities for a query (dimension,), given each one's best item's score.

Rule = Callable[[FloatArray, FloatArray, Sequence[Members]], FloatArray]


def _best(query: FloatArray, best: FloatArray, members: Sequence[Members]) -> FloatArray:
    del query, members
    return best


def _mean_of_best(query: FloatArray, best: FloatArray, members: Sequence[Members]) -> FloatArray:
    del best
    nearest = [np.sort(own.vectors @ query)[-NEAREST:].mean() for own in members]
    return np.array(nearest, np.float32)


def _prototype(query: FloatArray, best: FloatArray, members: Sequence[Members]) -> FloatArray:
    del best
    scores: FloatArray = prototypes(members) @ query
    return scores


def _trimmed(query: FloatArray, best: FloatArray, members: Sequence[Members]) -> FloatArray:
    del best
    scores: FloatArray = np.stack([own.trimmed for own in members]) @ query
    return scores


def _balanced(query: FloatArray, best: FloatArray, members: Sequence[Members]) -> FloatArray:
    scores: FloatArray = (best + _prototype(query, best, members)) * np.float32(0.5)
    return scores


RULES: dict[str, Rule] = {
    "balanced": _balanced,  # the mean of the best item's score and the prototype's
    "best": _best,
    "mean-of-best": _mean_of_best,
    "prototype": _prototype,
    "trimmed": _trimmed,
}
# What the score of an identity cannot exceed, given what its items' cosines are at most, and its
# prototype's cosine (m,). Other rules have no such bound.
BOUNDS: dict[str, Callable[[np.float32, FloatArray], FloatArray]] = {
    "balanced": lambda best, prototype: (best + prototype) * np.float32(0.5),
    "prototype": lambda best, prototype: prototype,
}
DEFAULT_RULE = "balanced"  # why: benchmarks/rules.py


def scored(queries: FloatArray, members: Sequence[Members], rule: Rule) -> FloatArray:
    """The score of each of m identities for queries (n, dimension): float32 (n, m)."""
    if not members or not len(queries):
        return np.empty((len(queries), len(members)), np.float32)
    best = np.stack([(own.vectors @ queries.T).max(axis=0) for own in members], axis=1)
    return np.stack([rule(q, b, members) for q, b in zip(queries, best, strict=True)])


def known_rule(name: str) -> str:
    """The same name. Raises UsageError where there is no such rule."""
    if not isinstance(name, str) or name not in RULES:
        raise UsageError(f"unknown rule {name!r}: choose one of {', '.join(RULES)}")
    return name


class Best(NamedTuple):
    """An identity with its best item for a query and its score, as a ``Match`` will say it. Of the
    many that are compared few are shown, and this takes a fraction of the time to make.
    """

    identity: str
    score: float
    item: int
    path: str | None

    @property
    def match(self) -> Match:
        return Match(*self)


def best_items(
    scored: Iterable[tuple[int, float]], owners: Mapping[int, tuple[str, str | None]]
) -> dict[str, Best]:
    """Each identity's best item, best first.

    ``scored`` are (item, cosine), best first; ``owners`` give (identity, path) of the items.
    """
    found: dict[str, Best] = {}
    for item, score in scored:
        owner = owners.get(item)
        if owner is not None and owner[0] not in found:
            found[owner[0]] = Best(owner[0], score, item, owner[1])
    return found
