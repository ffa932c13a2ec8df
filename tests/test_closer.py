"""The closer look against slow and obvious computations."""

from __future__ import annotations

import math
import struct
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from siamese_search.decision import closer
from siamese_search.errors import GalleryDamaged, UsageError

FloatArray = npt.NDArray[np.float32]


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def some_places(random: np.random.Generator, *shape: int) -> FloatArray:
    return closer.units(random.normal(size=shape))


def slow_votes(probe: FloatArray, items: FloatArray, owners: list[int]) -> list[float]:
    total = [0.0] * (max(owners) + 1)
    for place in probe:
        found = [-2.0] * len(total)
        for item, owner in zip(items, owners, strict=True):
            for other in item:
                found[owner] = max(found[owner], sum((place * other).tolist()))
        first, second = sorted(found, reverse=True)[:2]
        total[found.index(first)] += (first - second) / len(probe)
    return total


def test_each_place_votes_for_the_best_identity_by_its_lead(random: np.random.Generator) -> None:
    probe, items = some_places(random, 6, 5), some_places(random, 7, 4, 5)
    owners = [2, 0, 1, 0, 3, 2, 2]
    given = closer.votes(probe, items, np.array(owners))
    assert given.dtype == np.float32
    assert given.tolist() == pytest.approx(slow_votes(probe, items, owners), abs=1e-6)


def test_what_candidates_share_decides_nothing(random: np.random.Generator) -> None:
    shared, own = some_places(random, 8, 16), some_places(random, 1, 16)
    right = np.concatenate([shared, own])
    wrong = np.concatenate([shared, some_places(random, 1, 16)])
    given = closer.votes(np.concatenate([shared[:4], own]), np.stack([wrong, right]), np.arange(2))
    lead = 1 - float((own @ wrong.T).max())
    assert given.tolist() == pytest.approx([0, lead / 5], abs=1e-6)


def test_more_items_of_an_identity_are_no_rivals_to_it(random: np.random.Generator) -> None:
    probe, other = some_places(random, 5, 8), some_places(random, 5, 8)
    once = closer.votes(probe, np.stack([probe, other]), np.array([0, 1]))
    often = closer.votes(probe, np.stack([probe, other, probe, probe]), np.array([0, 1, 0, 0]))
    assert often == pytest.approx(once)
    assert once[0] > 0.1


def test_nothing_is_voted_for_where_nothing_can_be_told(random: np.random.Generator) -> None:
    probe = some_places(random, 4, 8)
    items = some_places(random, 3, 4, 8)
    assert closer.votes(probe, items, np.zeros(3, np.int64)).tolist() == [0]
    assert closer.votes(probe, items[:0], np.zeros(0, np.int64)).tolist() == []
    alike = np.stack([items[0]] * 3)
    assert closer.votes(probe, alike, np.arange(3)).tolist() == [0, 0, 0]
    blank = closer.units(np.zeros((4, 8)))
    assert closer.votes(blank, items, np.arange(3)).tolist() == [0, 0, 0]
    spoilt = closer.units(np.full((4, 8), np.nan))
    assert closer.votes(spoilt, items, np.arange(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("shape", "owners"),
    [((3, 4, 8), [0, 1]), ((3, 4, 7), [0, 1, 2]), ((3, 4, 8), [0, 0, 2]), ((3, 4, 8), [-1, 0, 1])],
)
def test_places_that_do_not_fit_are_refused(shape: tuple[int, ...], owners: list[int]) -> None:
    with pytest.raises(UsageError):
        closer.votes(np.zeros((4, 8), np.float32), np.zeros(shape, np.float32), np.array(owners))


def test_projected_cells_have_no_mean_and_vary_alike(random: np.random.Generator) -> None:
    mixing = random.normal(size=(6, 6)) * [10, 5, 2, 1, 0.5, 0.1]
    cells = random.normal(size=(5000, 6)) @ mixing.T + 3
    mean, whitening = closer.fit_projection(cells, 3, shrinkage=0.0)
    projected = (cells - mean) @ whitening
    assert projected.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-3)
    assert np.cov(projected, rowvar=False) == pytest.approx(np.eye(3), abs=1e-3)
    # Those three directions explain more than any three channels do.
    kept = np.linalg.pinv(whitening)
    lost = ((cells - mean - projected @ kept) ** 2).sum()
    channels = np.sort(((cells - mean) ** 2).sum(axis=0))[:3].sum()
    assert lost < channels


@pytest.mark.parametrize("cells", [np.zeros((0, 4)), np.zeros((9, 2)), np.full((9, 4), np.nan)])
def test_cells_without_a_projection_are_refused(cells: npt.NDArray[np.float64]) -> None:
    with pytest.raises(UsageError):
        closer.fit_projection(cells, 3)


def test_constant_cells_give_places_that_are_nought() -> None:
    cells = np.full((9, 4), 7.0)
    mean, whitening = closer.fit_projection(cells, 2)
    assert np.isfinite(whitening).all()
    assert closer.units((cells - mean) @ whitening).tolist() == [[0, 0]] * 9


def test_packed_places_take_little_and_are_nearly_the_same(random: np.random.Generator) -> None:
    places = some_places(random, 5, 49, 64)
    packed = [closer.pack(one) for one in places]
    assert {len(one) for one in packed} == {49 * 64 + 12}
    again = closer.unpack(packed)
    assert np.linalg.norm(again, axis=2) == pytest.approx(np.ones((5, 49)), abs=1e-6)
    assert float((again * places).sum(axis=2).min()) > 0.999
    assert [closer.pack(one) for one in again] == packed
    assert closer.unpack([]).shape == (0, 0, 0)


def test_places_that_are_nought_or_no_numbers_are_packed_as_nought() -> None:
    places = np.array([[0, 0], [np.nan, 1], [3, 4]], np.float32)
    assert closer.unpack([closer.pack(places)])[0] == pytest.approx(
        np.array([[0, 0], [0, 0], [0.6, 0.8]]), abs=0.01
    )


def test_damaged_places_are_never_used(random: np.random.Generator) -> None:
    sound = closer.pack(some_places(random, 4, 8))
    for number in range(len(sound)):
        altered = bytearray(sound)
        altered[number] ^= 0x10
        with pytest.raises(GalleryDamaged, match="rebuild"):
            closer.unpack([sound, bytes(altered)])
    for length in range(len(sound)):
        with pytest.raises(GalleryDamaged, match="cut short"):
            closer.unpack([sound[:length]])
    with pytest.raises(GalleryDamaged, match="several shapes"):
        closer.unpack([sound, closer.pack(some_places(random, 4, 9))])
    assert struct.unpack_from("<3sB", sound) == (b"PLC", 1)


@pytest.mark.parametrize("shape", [(0, 8), (4, 0), (2, 3, 4), (70000, 1)])
def test_what_are_no_places_is_not_packed(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError):
        closer.pack(np.ones(shape, np.float32))


def test_matched_places_come_with_their_cosines_most_alike_first(
    random: np.random.Generator,
) -> None:
    probe, item = some_places(random, 5, 8), some_places(random, 6, 8)
    pairs = closer.matched(probe, item)
    assert sorted(pair.place for pair in pairs) == list(range(5))
    assert [pair.cosine for pair in pairs] == sorted((p.cosine for p in pairs), reverse=True)
    for pair in pairs:
        cosines = [float(probe[pair.place] @ other) for other in item]
        assert pair.other == cosines.index(max(cosines))
        assert pair.cosine == pytest.approx(max(cosines), abs=1e-6)
        back = [float(place @ item[pair.other]) for place in probe]
        assert pair.mutual == (back.index(max(back)) == pair.place)


def test_an_identity_without_places_gets_what_others_get() -> None:
    scores = np.array([0.5, 0.4, 0.3], np.float32)
    given = np.array([0.1, np.nan, 0.3], np.float32)
    assert closer.fused(scores, given, 2.0) == pytest.approx([0.7, 0.8, 0.9])
    assert closer.fused(scores, given, 0.0).tolist() == scores.tolist()
    unknown = np.full(3, np.nan, np.float32)
    assert closer.fused(scores, unknown, 2.0).tolist() == scores.tolist()


def looks(
    random: np.random.Generator, helpful: float, identities: int = 30, items: int = 4
) -> list[closer.Look]:
    """Scores that tell somewhat, votes that tell ``helpful`` much."""
    made = []
    for identity in range(identities):
        for _ in range(items):
            own = int(random.integers(10))
            scores = random.normal(size=10) * 0.1
            given = random.random(10) * 0.02
            scores[own] += 0.15
            given[own] = max(0.0, given[own] + helpful)
            made.append(
                closer.Look(str(identity), scores.astype(np.float32), given.astype(np.float32), own)
            )
    return made


def named(made: list[closer.Look], weight: float) -> float:
    """The share of items that are named rightly, identities counting alike."""
    shares: dict[str, list[bool]] = {}
    for look in made:
        total = [s + weight * v for s, v in zip(look.scores, look.votes, strict=True)]
        shares.setdefault(look.identity, []).append(total.index(max(total)) == look.own)
    return sum(sum(share) / len(share) for share in shares.values()) / len(shares)


def test_votes_that_help_get_a_weight_and_those_that_mislead_none(
    random: np.random.Generator,
) -> None:
    made = looks(random, 0.03)
    learned = closer.learn_weight(made)
    assert learned.told
    assert learned.weight >= 0.5 * closer.unit_weight(made)
    assert learned.identities == 30
    assert learned.without == pytest.approx(named(made, 0.0))
    assert learned.with_votes == pytest.approx(named(made, learned.weight), abs=0.05)
    assert learned.with_votes > learned.without + 0.1
    assert closer.learn_weight(looks(random, -0.02)).weight == 0
    # Votes at random help nobody for certain.
    assert [closer.learn_weight(looks(random, 0.0)).weight for _ in range(10)].count(0) >= 9


def test_a_learned_weight_never_names_fewer_items(random: np.random.Generator) -> None:
    for _ in range(30):
        made = looks(random, float(random.uniform(-0.01, 0.02)), identities=8)
        learned = closer.learn_weight(made)
        assert named(made, learned.weight) >= learned.without
        assert learned.without == pytest.approx(named(made, 0.0))


def test_the_gain_of_votes_is_not_told_by_those_that_chose_the_weight(
    random: np.random.Generator,
) -> None:
    told, chosen, truth = [], [], []
    for _ in range(120):
        made, new = (looks(random, 0.004, identities=5, items=items) for items in (3, 20))
        learned = closer.learn_weight(made)
        told.append(learned.with_votes - learned.without)
        chosen.append(named(made, learned.weight) - learned.without)
        truth.append(named(new, learned.weight) - named(new, 0.0))
    assert np.mean(chosen) > np.mean(truth) + 0.03
    assert np.mean(told) == pytest.approx(np.mean(truth), abs=0.015)


def test_a_gallery_that_cannot_tell_gets_a_cautious_weight(random: np.random.Generator) -> None:
    single = [
        closer.Look(look.identity, look.scores, look.votes, None) for look in looks(random, 0.05)
    ]
    by_chance = [replace(look, own=None) for look in looks(random, 0.0)]
    assert closer.learn_weight(by_chance) == closer.Learned(0.0, False)
    learned = closer.learn_weight(single)
    assert not learned.told
    spread = [look.scores.std() for look in single], [look.votes.std() for look in single]
    unit = float(np.mean(spread[0]) / np.mean(spread[1]))
    assert learned.weight == pytest.approx(closer.CAUTIOUS * unit, rel=1e-5)
    few = looks(random, 0.05, identities=closer.FEWEST - 1)
    assert not closer.learn_weight(few).told


def test_without_votes_there_is_no_weight(random: np.random.Generator) -> None:
    assert closer.learn_weight([]) == closer.Learned(0.0, False)
    silent = [
        closer.Look(look.identity, look.scores, 0 * look.votes, look.own)
        for look in looks(random, 0.05)
    ]
    assert closer.learn_weight(silent).weight == 0
    alone = [closer.Look("a", np.ones(1, np.float32), np.zeros(1, np.float32), 0)] * 9
    assert closer.learn_weight(alone).weight == 0
    unknown = [
        closer.Look(look.identity, look.scores, np.full(10, math.nan, np.float32), look.own)
        for look in looks(random, 0.05)
    ]
    assert closer.learn_weight(unknown).weight == 0
