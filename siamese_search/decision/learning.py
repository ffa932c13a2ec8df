"""A gallery learns its metric, in closed form, from what is enrolled.

Descriptors are projected so that directions in which items of one identity differ count less:
within-class covariance normalisation (Hatch et al. 2006). The covariance is a blend, by effective
counts, of three: the scatter within the gallery's identities, the scatter of all its items, and the
encoder's own scatter within identities, known from many domains (``Prior``). Each is scaled to mean
variance one before. The blend is shrunk towards the identity matrix; how much, or whether to use
plain cosine instead, is chosen on identities that are held out.

What 50,000 items say of a covariance, a million say no better: ``sample`` tells which to read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import DoubleArray, FloatArray, IntArray
from siamese_search.decision.calibration import FEWEST_STRANGE
from siamese_search.decision.metric import (
    BLOCK,
    LEAST,
    Kind,
    Metric,
    finite,
    plain,
    unit,
)
from siamese_search.errors import UsageError

SHRINKAGES = (0.3, 0.15, 0.6)  # towards the identity matrix
# Where nothing can be held out: what tells apart things that look as enrolled may mislead where
# probes look otherwise, catalogue against shop, and this hardly does. Why: dev/experiments.md
UNJUDGED, UNJUDGED_WITHOUT_PRIOR = 0.9, 0.95
PRIOR = 200.0  # items that the encoder's own scatter counts for; why: benchmarks/metric.py
TOTAL = 0.1  # of an item: what its scatter around the mean of all counts for
MEAN = 0.5  # of the items' mean, that is taken off where identities have several; why: as above
FEWEST = 10  # items from which scatter is estimated
# Identities from which on, and items of each up to which, a metric is used that nothing has judged:
# by fewer, the rate of strangers that are named is not kept so well; with more, one may rule it.
FEWEST_UNJUDGED, MOST_UNJUDGED = 50, 1.2
SAMPLED = 50_000  # items that a metric is learned from, at most
EACH = 200  # of them of one identity, where there are more than ``SAMPLED``
FOLDS = 4  # of identities, held out in turn
JUDGED = 3  # the same where a metric is chosen: rivals are of the same part, so these are larger
HELD_OUT = 1500  # items that the shrinkage is chosen by, at most
TELLING = 5  # identities of two items or more, without which nothing is chosen
TEMPERATURES = (0.02, 0.03, 0.05, 0.08, 0.12, 0.2)


@dataclass(frozen=True)
class Prior:
    """The encoder's own scatter: ``mean`` (d,) of descriptors, and ``within`` (d, d), their
    covariance within identities, over many domains.
    """

    mean: FloatArray
    within: FloatArray


def fit(
    vectors: npt.ArrayLike,
    identities: npt.ArrayLike,
    prior: Prior | None = None,
    dimension: int | None = None,
) -> Metric:
    """The metric of a gallery's items: descriptors (n, d) of ``identities`` (n,), which are of any
    type that can be sorted.

    Of more than ``SAMPLED`` items it takes a ``sample``. With fewer than ``FEWEST`` that have a
    direction, or none that differ, it is the encoder's own, or plain cosine without a ``prior``.
    Where nothing can be held out it is next to plain cosine: ``gain`` is None then.
    ``dimension`` is p of the projection, d if None; the directions that tell most are kept.
    Raises UsageError for what is not finite, or of another shape.
    """
    given, owners = _items(vectors, identities, prior)
    counts = (len(owners), int(owners.max(initial=-1)) + 1)
    kept = sample(owners)
    given, owners = unit(given[kept]), owners[kept]
    there = given.any(axis=1)
    given, owners = given[there], np.unique(owners[there], return_inverse=True)[1]
    scatter = _Scatter.of(given, owners)
    shrinkage, gain = UNJUDGED_WITHOUT_PRIOR if prior is None else UNJUDGED, None
    if scatter.tells and np.sum(np.bincount(owners) > 1) >= TELLING:
        shrinkage, gain = _chosen(given, owners, scatter, prior)
    made = _made(scatter, prior, shrinkage, dimension)
    return replace(made, items=counts[0], identities=counts[1], gain=gain)


def adapted(prior: Prior | None, vectors: npt.ArrayLike, identities: npt.ArrayLike) -> Prior | None:
    """A prior that knows a kind of things: blended, by the counts that ``fit`` goes by, with the
    scatter of many descriptors (n, d) within their identities (n,), none of which need be enrolled
    later. The same where they tell nothing. Errors as for ``fit``.
    """
    given, owners = _items(vectors, identities, prior)
    scatter = _Scatter.of(unit(given), owners)
    if scatter.freedom < FEWEST or float(np.trace(scatter.within)) <= LEAST * scatter.items:
        return prior
    within, count = _scaled(scatter.within), scatter.freedom
    if prior is None:
        mean = scatter.total / scatter.items
        return Prior(mean.astype(np.float32), within.astype(np.float32))
    blend = (PRIOR * _scaled(prior.within) + count * within) / (PRIOR + count)
    return Prior(prior.mean, blend.astype(np.float32))


def learned(
    vectors: npt.ArrayLike, identities: npt.ArrayLike, prior: Prior | None = None
) -> Metric | None:
    """The metric under which a gallery of these items is calibrated, arguments and errors as for
    ``fit``; None for plain cosines, where held-out items speak for no other, and where nothing can
    be held out, unless next to all identities have one item, and they are many.
    """
    if len(np.unique(np.asarray(identities))) < FEWEST_STRANGE:
        return None
    metric = fit(vectors, identities, prior)
    if metric.gain is None:
        many = metric.identities >= FEWEST_UNJUDGED
        lonely = metric.items <= MOST_UNJUDGED * metric.identities
        return metric if metric.kind == "total" and many and lonely else None
    return None if metric.kind == "plain" else metric


def cross_fitted(
    vectors: npt.ArrayLike,
    identities: npt.ArrayLike,
    prior: Prior | None = None,
    like: Metric | None = None,
    folds: int = FOLDS,
    by_item: bool = False,
) -> Iterator[tuple[Metric, IntArray]]:
    """Metrics that each leave the items of some identities out, with the positions of these items.

    Every item is left out once: its scores under the metric that comes with it are not too good by
    its having been fitted. ``by_item`` leaves out items at random instead, whose identities' other
    items are fitted. Shrinkage and dimension are those of ``like``, the metric of all items,
    which is fitted if None; so are the means where probes have one of their own: an item's share
    in its side's mean changes how far it is from that, and not in which direction. Arguments and
    errors as for ``fit``.
    """
    given, owners = _items(vectors, identities, prior)
    if folds < 2:
        raise UsageError(f"{folds} folds leave nothing out: take two or more")
    like = fit(given, owners, prior) if like is None else like
    part = _parts(np.arange(len(owners)) if by_item else owners, folds)
    kept = sample(owners)
    fitted, names = unit(given[kept]), owners[kept]
    there = fitted.any(axis=1)
    fitted, names, parts = fitted[there], names[there], part[kept][there]
    whole = _Scatter.of(fitted, names)
    for fold in np.unique(part):
        out = parts == fold
        if by_item:
            rest = _Scatter.of(fitted[~out], names[~out])
        else:
            rest = whole.less(_Scatter.of(fitted[out], names[out]))
        made = _made(rest, prior, like.shrinkage, like.dimension)
        if like.probe_mean is not None:
            made = replace(made, mean=like.mean, probe_mean=like.probe_mean)
        yield made, np.flatnonzero(part == fold)


def sample(identities: npt.ArrayLike, most: int = SAMPLED, each: int = EACH) -> IntArray:
    """Positions, ascending, of the items (n,) that a metric is learned from.

    These are all, where there are not more than ``most``; else at most ``each`` of an identity, of
    identities at random, until there are ``most``. The same each time.
    """
    owners = np.unique(np.asarray(identities), return_inverse=True)[1]
    if len(owners) <= most:
        return np.arange(len(owners), dtype=np.int64)
    chance = np.random.default_rng(0)
    return _of_each(owners, chance.permutation(int(owners.max()) + 1), most, each, chance)


def _of_each(
    owners: IntArray, ranks: IntArray, most: int, each: int, chance: np.random.Generator
) -> IntArray:
    """Positions, ascending, of ``each`` items at random of identities by rank, ``most`` in all."""
    shuffled = chance.permutation(len(owners))
    order = shuffled[np.argsort(ranks[owners[shuffled]], kind="stable")]
    starts = np.flatnonzero(np.diff(owners[order], prepend=-1))
    number = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return np.sort(order[number < each][:most]).astype(np.int64)


def _items(
    vectors: npt.ArrayLike, identities: npt.ArrayLike, prior: Prior | None
) -> tuple[FloatArray, IntArray]:
    """What was given, checked, and the identities as numbers from nought."""
    given = finite(vectors, None if prior is None else len(prior.mean))
    names = np.asarray(identities)
    if names.shape != (len(given),):
        raise UsageError(f"identities have the shape {names.shape}, not ({len(given)},)")
    return given, np.unique(names, return_inverse=True)[1].astype(np.int64)


def _parts(owners: IntArray, folds: int) -> IntArray:
    """A fold for each item; those of an identity share it."""
    count = int(owners.max(initial=-1)) + 1
    return (np.random.default_rng(1).permutation(count) % folds)[owners]


# ---------------------------------------------------------------------------------------- scatter


@dataclass(frozen=True)
class _Scatter:
    """Sums over items: of squares (d, d), of squares around their identities' means, of vectors."""

    squares: DoubleArray
    within: DoubleArray
    total: DoubleArray
    items: int
    freedom: int  # items less identities

    @classmethod
    def of(cls, vectors: FloatArray, owners: IntArray) -> _Scatter:
        """Of unit vectors (n, d) whose identities are numbers (n,)."""
        order = np.argsort(owners, kind="stable")
        vectors, owners = vectors[order], owners[order]
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        counts = np.diff(starts, append=len(owners))
        width = vectors.shape[1]
        squares, total = np.zeros((width, width)), np.zeros(width)
        for start in range(0, len(vectors), BLOCK):
            block = vectors[start : start + BLOCK]
            squares += block.T @ block
        within = squares.copy()
        if len(starts):
            sums = np.add.reduceat(vectors, starts, axis=0, dtype=np.float64)
            total = sums.sum(axis=0)
            scaled = sums / np.sqrt(counts)[:, None]
            within -= scaled.T @ scaled
        return cls(squares, within, total, len(vectors), len(vectors) - len(starts))

    def less(self, part: _Scatter) -> _Scatter:
        """Without the items of whole identities."""
        return _Scatter(
            self.squares - part.squares,
            self.within - part.within,
            self.total - part.total,
            self.items - part.items,
            self.freedom - part.freedom,
        )

    @property
    def around(self) -> DoubleArray:
        """Squares around the mean of all (d, d)."""
        return self.squares - np.outer(self.total, self.total) / max(self.items, 1)

    @property
    def tells(self) -> bool:
        """Whether there are items enough, and they differ."""
        return self.items >= FEWEST and float(np.trace(self.around)) > LEAST * self.items


def _made(
    scatter: _Scatter, prior: Prior | None, shrinkage: float, dimension: int | None
) -> Metric:
    """The metric of some scatter; the encoder's own where that does not tell."""
    width = len(scatter.total)
    if shrinkage >= 1 or (prior is None and not scatter.tells):
        return plain(width)
    kind: Kind = "prior"
    blend, weight = np.zeros((width, width)), 0.0
    if prior is not None:
        spread, mean = _scaled(prior.within), prior.mean.astype(np.float64)
        blend, weight = PRIOR * spread, PRIOR
    if scatter.tells:
        kind, spread, mean = "total", _scaled(scatter.around), scatter.total / scatter.items
        within = float(np.trace(scatter.within)) > LEAST * scatter.items
        several = within and scatter.freedom >= FEWEST
        count = scatter.items * TOTAL
        blend, weight = blend + count * spread, weight + count
        if several:
            kind = "within"
            mean = MEAN * mean
            blend = blend + scatter.freedom * _scaled(scatter.within)
            weight += scatter.freedom
    covariance = (1 - shrinkage) * blend / weight + shrinkage * np.eye(width)
    projection = _whitening(covariance, spread, dimension or width)
    return Metric(mean.astype(np.float32), projection, kind, shrinkage)


def _whitening(covariance: DoubleArray, spread: DoubleArray, dimension: int) -> FloatArray:
    """(d, p) under which ``covariance`` is the identity matrix; of fewer dimensions than d, it
    keeps those in which ``spread`` is largest then.
    """
    # Positive definite, since the identity matrix has a share in it.
    whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T
    if dimension < len(covariance):
        directions = np.linalg.eigh(whitening.T @ spread @ whitening)[1]
        whitening = whitening @ directions[:, ::-1][:, :dimension]
    return np.ascontiguousarray(whitening, np.float32)


def _scaled(matrix: npt.NDArray[Any]) -> DoubleArray:
    """The same, symmetric, with a mean variance of one."""
    symmetric = 0.5 * (matrix.astype(np.float64) + matrix.T)
    scaled: DoubleArray = symmetric * (len(matrix) / np.trace(symmetric))
    return scaled


# ----------------------------------------------------------------------------------------- choice


def _chosen(
    vectors: FloatArray, owners: IntArray, whole: _Scatter, prior: Prior | None
) -> tuple[float, float]:
    """The shrinkage, 1 for plain cosine, and the gain, by items of held-out identities, ``TELLING``
    of which have two or more.

    Of those under which no fewer items find their identity than by plain cosine, it is the one
    under which the right identities are most probable.
    """
    counts = np.bincount(owners)
    chance = np.random.default_rng(0)
    ranks = np.argsort(np.argsort(chance.permutation(len(counts)) + len(counts) * (counts < 2)))
    each = max(4, HELD_OUT // len(counts))
    tried = _of_each(owners, ranks, HELD_OUT, each, chance)
    part = _parts(owners, JUDGED)
    some, names, folds = vectors[tried], owners[tried], part[tried]
    held = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    rests = [
        whole.less(_Scatter.of(vectors[part == fold], owners[part == fold]))
        for fold in np.unique(folds)
    ]
    rated = {1.0: _rated([(some[out], names[out]) for out in held])}
    for shrinkage in SHRINKAGES:
        metrics = [_made(rest, prior, shrinkage, None) for rest in rests]
        rated[shrinkage] = _rated(
            [(one.apply(some[out]), names[out]) for one, out in zip(metrics, held, strict=True)]
        )
    least = rated[1.0][0]
    fair = [one for one in rated if rated[one][0] >= least]
    best = max(fair, key=lambda one: rated[one][1])
    return best, rated[best][0] - least


def _rated(groups: list[tuple[FloatArray, IntArray]]) -> tuple[float, float]:
    """The share of items that find their identity without themselves, and the mean log probability
    of the right one, each among the identities of its group: items (n, p) under a metric that was
    fitted without them, and whose they are (n,).

    Rivals that had been fitted would not do. They lie closer together than they will to new items,
    and so lose to what was held out.
    """
    leads = [_leads(vectors, names) for vectors, names in groups]
    found = np.concatenate([(one < 0).all(axis=1) for one in leads])
    logs = []
    for temperature in TEMPERATURES:
        # The right identity itself is the one in the sum.
        with np.errstate(over="ignore"):
            odds = [np.exp(np.clip(one / temperature, -60, 60)).sum(axis=1) for one in leads]
        logs.append(float(-np.log1p(np.concatenate(odds)).mean()))
    return float(found.mean()), max(logs)


def _leads(vectors: FloatArray, names: IntArray) -> FloatArray:
    """By how much each identity leads over the right one (m, c), for the m items whose identities
    have others; the right one itself is -inf. By the balanced rule, items being left out.
    """
    probes = np.flatnonzero(np.bincount(names)[names] > 1)
    order = np.argsort(names, kind="stable")
    starts = np.flatnonzero(np.diff(names[order], prepend=-1))
    column = np.unique(names, return_inverse=True)[1][probes]
    cosines = vectors[probes] @ vectors[order].T
    place = np.argsort(order)[probes]
    rows = np.arange(len(probes))
    sums = np.add.reduceat(vectors[order], starts, axis=0)
    scores = (np.maximum.reduceat(cosines, starts, axis=1) + vectors[probes] @ unit(sums).T) / 2
    cosines[rows, place] = -np.inf
    nearest = np.maximum.reduceat(cosines, starts, axis=1)[rows, column]
    others = unit(sums[column] - vectors[probes])
    right = (nearest + np.einsum("ij,ij->i", others, vectors[probes])) / 2
    scores[rows, column] = -np.inf
    leads: FloatArray = scores - right[:, None]
    return leads
