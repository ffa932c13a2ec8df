"""The closer look: the best candidates of a probe are compared with it place by place.

An encoder gives a picture's *places*: unit vectors of the cells of a coarse grid, the same
projection for all. Each place of a probe looks for the most similar place, wherever that lies, in
each candidate identity; it votes for the identity that it finds best, as strongly as that one is
ahead of the next. What the candidates share, background above all, decides nothing. It is local
naive Bayes nearest neighbour (McCann and Lowe 2012) whose background is the second best identity.

Votes are never negative, and they are added to the identities' scores with a weight that is learned
on the gallery: nought where the places of its own items mislead.

It knows nothing of files, encoders or indexes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from siamese_search.errors import GalleryDamaged, UsageError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

CANDIDATES = 50  # items that are looked at closely
GRID = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0)  # weights that are tried, in units: see ``unit_weight``
CAUTIOUS = 0.1  # the weight, in units, where a gallery cannot tell, if votes agree with scores
AGREEING = 0.27  # their mean correlation, at least; why: dev/experiments.md
DECIDING = 0.75  # units from which on votes help so much that they tell strangers, too
LEVEL = 0.5  # standard errors within which weights do as well as each other
FEWEST = 5  # identities that must find themselves for a gallery to tell
FOLDS = 5  # of identities, named by the weight that the others choose
LEAST = 1e-6

_HEADER = struct.Struct("<3sBHHI")  # magic, version, places, dimension, CRC-32 of the rest
_MAGIC = b"PLC"
_VERSION = 1


# ------------------------------------------------------------------------------------------ places


def fit_projection(
    cells: npt.NDArray[np.floating[Any]], dimension: int, shrinkage: float = 0.02
) -> tuple[FloatArray, FloatArray]:
    """The mean (channels,) and the whitening (channels, dimension) of feature cells (n, channels).

    ``(cells - mean) @ whitening``, scaled to unit length, are places. Directions in which cells
    hardly vary are kept from growing by ``shrinkage`` of the mean variance. Raises UsageError.
    """
    values = np.asarray(cells, np.float64)
    if values.ndim != 2 or not 0 < dimension <= min(values.shape):
        raise UsageError(f"cells of shape {values.shape} give no projection to {dimension} values")
    if not np.isfinite(values).all():
        raise UsageError("the cells are not all finite numbers")
    mean = values.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(values, rowvar=False).reshape(2 * [len(mean)]))
    variances, directions = variances[::-1][:dimension], directions[:, ::-1][:, :dimension]
    floor = max(shrinkage * float(((values - mean) ** 2).mean()), LEAST)
    whitening = directions / np.sqrt(np.maximum(variances, 0) + floor)
    return mean.astype(np.float32), whitening.astype(np.float32)


def units(vectors: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Float32 (..., dimension) of unit length; nought where one is nought or no number.

    A place that is nought resembles nothing and votes for nobody.
    """
    values = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    sound = np.isfinite(lengths) & (lengths > LEAST)
    return np.asarray(np.where(sound, values, 0) / np.where(sound, lengths, 1), np.float32)


def pack(places: npt.NDArray[np.floating[Any]]) -> bytes:
    """Places (count, dimension) in a byte a value and twelve more: 3,148 for 49 of 64 values."""
    values = units(places)
    if values.ndim != 2 or values.size == 0 or max(values.shape) >= 1 << 16:
        raise UsageError(f"places are (count, dimension), not {values.shape}")
    largest = float(np.abs(values).max())
    rounded: bytes = np.rint(values * (127 / max(largest, LEAST))).astype(np.int8).tobytes()
    return _HEADER.pack(_MAGIC, _VERSION, *values.shape, zlib.crc32(rounded)) + rounded


def unpack(packed: Sequence[bytes]) -> FloatArray:
    """What ``pack`` made of each of n items: float32 (n, count, dimension), of unit length.

    Raises GalleryDamaged where one is cut short or altered, or they are not of one kind.
    """
    if not packed:
        return np.empty((0, 0, 0), np.float32)
    for one in packed:
        how = fault(one)
        if how is not None:
            raise _damaged(how)
    shapes = {_HEADER.unpack_from(one)[2:4] for one in packed}
    if len(shapes) > 1:
        raise _damaged(f"are of several shapes, {sorted(shapes)}")
    bodies = b"".join([memoryview(one)[_HEADER.size :] for one in packed])
    values = np.frombuffer(bodies, np.int8).reshape(len(packed), *shapes.pop())
    return units(values.astype(np.float32))


def fault(packed: object) -> str | None:
    """What is wrong with packed places, None where they are as ``pack`` made them."""
    if not isinstance(packed, bytes) or len(packed) < _HEADER.size:
        return "are cut short"
    magic, version, count, dimension, digest = _HEADER.unpack_from(packed)
    body = memoryview(packed)[_HEADER.size :]
    if magic != _MAGIC or version != _VERSION:
        return "are of no known format"
    if len(body) != count * dimension or zlib.crc32(body) != digest:
        return "are cut short or altered (wrong checksum)"
    return None


def shape_of(packed: Sequence[bytes]) -> tuple[int, int] | None:
    """(count, dimension) of packed places of items, None where there are none.

    Raises GalleryDamaged as ``unpack``.
    """
    found = unpack(packed).shape[1:]
    return (found[0], found[1]) if packed else None


def _damaged(how: str) -> GalleryDamaged:
    return GalleryDamaged(f"places of items {how}: `siasearch rebuild` makes them again")


# ------------------------------------------------------------------------------------------- votes


def votes(probe: FloatArray, items: FloatArray, owners: npt.NDArray[np.integer[Any]]) -> FloatArray:
    """How far the probe's places vote for each of k identities, float32 (k,), 0 to 2.

    ``probe`` is (count, dimension), ``items`` (m, places, dimension), both of unit length;
    ``owners`` (m,) number the items' identities from 0 to k - 1, each of which has an item. All
    votes are 0 where there is one identity or none, or where all resemble the probe alike.
    """
    owners = np.asarray(owners, np.int64)
    if items.ndim != 3 or len(owners) != len(items) or probe.ndim != 2:
        raise UsageError(
            f"places of {items.shape} do not belong to {len(owners)} owners and a probe of"
            f" {probe.shape}"
        )
    if not len(items):
        return np.empty(0, np.float32)
    if probe.shape[1] != items.shape[2]:
        raise UsageError(
            f"places have {items.shape[2]} values and the probe's {probe.shape[1]}: they are not of"
            " one encoder"
        )
    order = np.argsort(owners, kind="stable")
    starts = np.flatnonzero(np.diff(owners[order], prepend=-1))
    if owners.min() < 0 or len(starts) != owners.max() + 1:
        raise UsageError("owners are numbered from 0 with none left out")
    if len(starts) == 1:
        return np.zeros(1, np.float32)
    found = np.maximum.reduceat(_found(probe, items)[order], starts, axis=0)  # (k, count)
    runner_up = np.partition(found, len(found) - 2, axis=0)[-2]
    return np.asarray(np.maximum(found - runner_up, 0).mean(axis=1), np.float32)


def _found(probe: FloatArray, items: FloatArray) -> FloatArray:
    """The best cosine of each of the probe's places in each item, float32 (m, count)."""
    flat = items.reshape(-1, items.shape[2])
    cosines = (flat @ np.ascontiguousarray(probe.T)).reshape(*items.shape[:2], len(probe))
    best: FloatArray = cosines.max(axis=1)
    return best


def fused(scores: FloatArray, votes: FloatArray, weight: float) -> FloatArray:
    """Scores (k,) of a probe's candidate identities with their votes (k,) added.

    An identity whose places are not known, ``nan``, gets what the others get on average. Those that
    are no candidates keep their scores.
    """
    given = np.asarray(votes, np.float32)
    known = np.isfinite(given)
    middle = float(given[known].mean()) if known.any() else 0.0
    added = np.float32(weight) * np.where(known, given, np.float32(middle))
    return np.asarray(scores + added, np.float32)


class PlacePair(NamedTuple):
    """A place of the probe, the one in the other picture that resembles it most, their cosine, and
    whether each is the other's best. Places are numbered row by row.
    """

    place: int
    other: int
    cosine: float
    mutual: bool


def matched(probe: FloatArray, item: FloatArray) -> list[PlacePair]:
    """Which places of an item (places, dimension) the probe's (count, dimension) resemble most.

    One pair a place of the probe, the most alike first.
    """
    cosines = probe @ item.T
    there, back = cosines.argmax(axis=1), cosines.argmax(axis=0)
    pairs = [
        PlacePair(place, int(other), float(cosines[place, other]), bool(back[other] == place))
        for place, other in enumerate(there)
    ]
    return sorted(pairs, key=lambda pair: -pair.cosine)


# ------------------------------------------------------------------------------------------ weight


@dataclass(frozen=True)
class Look:
    """One of the gallery's items looked at closely without itself.

    ``scores`` and ``votes`` (k,) are of its candidate identities, ``own`` is the place of its own
    among them, None where that has no other item or is not among them. Scores must come from a
    metric that was fitted without the item, or they look better than they are.
    """

    identity: str
    scores: FloatArray
    votes: FloatArray
    own: int | None


@dataclass(frozen=True)
class Learned:
    """The weight of votes, and why: how many identities told, and the share of their items that is
    named rightly without votes and with them, by weights that other identities chose, so that it
    does not flatter; ``told`` is False for the cautious weight. It
    ``decides`` where it is so large that votes shall be part of what strangers are told by.
    """

    weight: float
    told: bool
    identities: int = 0
    without: float = 0.0
    with_votes: float = 0.0
    decides: bool = False


def learn_weight(looks: Sequence[Look]) -> Learned:
    """The weight of votes that the gallery's own items speak for.

    Each item's own identity should stand out: the mean logarithm of the probability that a softmax
    of the fused scores gives it. Of the weights that do as well as the best, within half a standard
    error over identities, the least is taken (after Breiman et al. 1984), which is nought where
    votes mislead or do not help for certain; and none that names fewer items rightly. A gallery
    where fewer than ``FEWEST`` identities have several items cannot tell. It gets a cautious one if
    votes agree with scores on who is alike, else nought.
    """
    unit = unit_weight(looks)
    telling = [look for look in looks if look.own is not None and len(look.scores) > 1]
    names, groups = np.unique([look.identity for look in telling], return_inverse=True)
    if len(names) < FEWEST or unit == 0:
        cautious = CAUTIOUS if agreement(looks) >= AGREEING else 0.0
        return Learned(cautious * unit, False, len(names))
    counts = np.bincount(groups)
    weights = [multiple * unit for multiple in GRID]
    gains, hits = np.empty((2, len(weights), len(names)))
    for number, weight in enumerate(weights):
        told = [fused(look.scores, look.votes, weight) for look in telling]
        leads = [_lead(scores, look.own or 0) for scores, look in zip(told, telling, strict=True)]
        hit = np.array([(lead > 0).all() for lead in leads], float)
        gains[number] = np.bincount(groups, _log_chances(leads)) / counts
        hits[number] = np.bincount(groups, hit) / counts
    chosen = _chosen(gains, hits)
    part = np.random.default_rng(0).permutation(len(names)) % FOLDS
    unseen = [hits[_chosen(gains[:, part != fold], hits[:, part != fold])] for fold in range(FOLDS)]
    without = float(hits[0].mean())
    with_votes = float(np.choose(part, unseen).mean()) if chosen else without
    decides = GRID[chosen] >= DECIDING
    return Learned(weights[chosen], True, len(names), without, with_votes, decides)


def _chosen(gains: npt.NDArray[np.float64], hits: npt.NDArray[np.float64]) -> int:
    """Which weight is taken, by the log-probabilities of identities (weights, k), and the shares of
    their items that are named rightly; see ``learn_weight``.
    """
    best = int(gains.mean(axis=1).argmax())
    level = (number for number in range(best) if _is_level(gains[best] - gains[number]))
    chosen, named = next(level, best), hits.mean(axis=1)
    while chosen and named[chosen] < named[0]:
        chosen -= 1
    return chosen


def unit_weight(looks: Sequence[Look]) -> float:
    """The weight with which votes spread as much among candidates as scores do; 0 for none."""
    pairs = [
        (float(look.scores.std()), float(np.nanstd(look.votes)))
        for look in looks
        if len(look.scores) > 1 and np.isfinite(look.votes).any()
    ]
    if not pairs:
        return 0.0
    scores, given = np.mean(pairs, axis=0).tolist()
    return scores / given if given > LEAST else 0.0


def agreement(looks: Sequence[Look]) -> float:
    """The mean correlation of votes with scores among candidates; 0 where there is none."""
    found = []
    for look in looks:
        known = np.isfinite(look.votes)
        scores, given = look.scores[known], look.votes[known]
        if len(given) > 1 and min(scores.std(), given.std()) > LEAST:
            found.append(float(np.corrcoef(scores, given)[0, 1]))
    return float(np.mean(found)) if found else 0.0


def _is_level(differences: npt.NDArray[np.float64]) -> bool:
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return bool(differences.mean() <= LEVEL * error)


def _lead(scores: FloatArray, own: int) -> npt.NDArray[np.float64]:
    """How far the own identity is ahead of each other one."""
    lead: npt.NDArray[np.float64] = np.delete(scores[own] - scores, own).astype(np.float64)
    return lead


def _log_chances(leads: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Log-probabilities (n,) of being named by a softmax of the sharpness that suits them best."""
    spread = float(np.mean([lead.std() + abs(lead.mean()) for lead in leads])) or 1.0
    tried = [_softmax(leads, sharpness / spread) for sharpness in 2.0 ** np.arange(-2, 8)]
    return max(tried, key=lambda chances: float(chances.mean()))


def _softmax(leads: Sequence[npt.NDArray[np.float64]], sharpness: float) -> npt.NDArray[np.float64]:
    return np.array([-np.logaddexp.reduce(np.append(-sharpness * lead, 0.0)) for lead in leads])
