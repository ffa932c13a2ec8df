"""Probes of another kind: told by their mean, beyond chance, where both sides vary alike."""

from __future__ import annotations

import numpy as np
import pytest

from siamese_search.arrays import FloatArray
from siamese_search.decision.kinds import of_another_kind
from siamese_search.errors import UsageError

WIDTH = 24
SHIFT = np.linspace(0, 1.5, WIDTH)


def pictures(
    things: int,
    each: int = 1,
    seed: int = 0,
    first: int = 0,
    shift: float = 0.0,
    ways: int = 12,
) -> tuple[FloatArray, np.ndarray]:
    """Things that vary in some directions, from the ``first`` on, and pictures of each of them; all
    moved by some share of ``SHIFT``.
    """
    chance = np.random.default_rng(seed)
    centres = np.zeros((things, WIDTH))
    centres[:, first : first + ways] = chance.normal(size=(things, ways))
    vectors = centres.repeat(each, axis=0) + shift * SHIFT
    vectors = vectors + chance.normal(0, 0.2, vectors.shape) + 0.3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), np.arange(things).repeat(each)


def test_another_mean_is_another_kind() -> None:
    items, identities = pictures(60)
    alike, _ = pictures(40, seed=1)
    other, _ = pictures(40, seed=1, shift=0.5)
    assert not of_another_kind(items, alike)
    assert of_another_kind(items, other)
    assert of_another_kind(items, other, identities, np.arange(40))


def test_few_things_tell_nothing_however_many_pictures_there_are() -> None:
    items, _ = pictures(60)
    others, shown = pictures(9, 20, seed=1, shift=0.5)
    assert not of_another_kind(items, others, None, shown)
    assert not of_another_kind(others, items, shown)
    assert not of_another_kind(items, others[:9])


def test_what_a_few_things_are_like_by_chance_is_no_kind() -> None:
    """Many pictures of twelve things have a mean that is far off, if each counted as a thing."""
    items, _ = pictures(60)
    told, misled = 0, 0
    for seed in range(20):
        vectors, shown = pictures(12, 20, seed=100 + seed)
        told += of_another_kind(items, vectors, None, shown)
        misled += of_another_kind(items, vectors)
    assert told == 0
    assert misled >= 3


def test_means_that_are_apart_by_chance_are_no_kind() -> None:
    """What varies in three directions has a mean that is soon off by a tenth of the variance."""
    told, apart = 0, 0
    for seed in range(40):
        items, _ = pictures(20, seed=seed, ways=3)
        vectors, _ = pictures(12, seed=100 + seed, ways=3)
        told += of_another_kind(items, vectors)
        means = items.mean(axis=0) - vectors.mean(axis=0)
        apart += float(means @ means) > 0.2 * float(vectors.var(axis=0).sum())
    assert told <= 1
    assert apart >= 5


def test_pictures_of_one_thing_do_not_hide_that_both_sides_vary_alike() -> None:
    items, _ = pictures(60)
    told = 0
    for seed in range(20):  # five of twelve directions are the same
        vectors, shown = pictures(10, 20, seed=seed, first=7, shift=1.0)
        told += of_another_kind(items, vectors, None, shown)
    assert told >= 15


def test_what_shows_other_things_is_no_other_kind() -> None:
    items, _ = pictures(60)
    for shift in (0.0, 0.5):
        others, _ = pictures(60, seed=1, first=12, shift=shift)
        assert not of_another_kind(items, others)


def test_pictures_that_are_all_the_same_or_none_are_no_kind() -> None:
    items, _ = pictures(60)
    same = np.ones((40, WIDTH), np.float32)
    for one, other in ((items, same), (same, items), (same, same), (items, 0 * same)):
        assert not of_another_kind(one, other)
    assert not of_another_kind(items, items[:0])


def test_bad_input_is_refused() -> None:
    items, identities = pictures(20)
    with pytest.raises(UsageError, match="shape"):
        of_another_kind(items, items[:, 1:])
    with pytest.raises(UsageError, match="names have the shape"):
        of_another_kind(items, items, identities[1:])
    items[3, 3] = np.nan
    with pytest.raises(UsageError, match="position 3"):
        of_another_kind(items, items[5:])
