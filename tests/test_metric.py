"""The gallery metric: against an obvious computation, what it gains, and what bad input gives."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from siamese_search.arrays import FloatArray
from siamese_search.decision.learning import (
    PRIOR,
    TOTAL,
    Prior,
    adapted,
    cross_fitted,
    fit,
    sample,
)
from siamese_search.decision.metric import Metric, plain
from siamese_search.errors import GalleryDamaged, GalleryFormatError, UsageError

WIDTH = 24


def unit(vectors: FloatArray) -> FloatArray:
    scaled: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def gallery(
    identities: int, each: int, seed: int = 0, loud: float = 1.0
) -> tuple[FloatArray, np.ndarray]:
    """Items whose first eight directions vary by ``loud`` within identities, the others by 0.15."""
    chance = np.random.default_rng(seed)
    centres = chance.normal(0, 0.4, (identities, WIDTH)) + 0.5
    noise = np.where(np.arange(WIDTH) < 8, loud, 0.15)
    items = np.repeat(centres, each, axis=0)
    items = items + chance.normal(0, 1, items.shape) * noise
    return unit(items.astype(np.float32)), np.repeat(np.arange(identities), each)


def prior(seed: int = 9) -> Prior:
    chance = np.random.default_rng(seed)
    mixing = chance.normal(0, 1, (WIDTH, WIDTH))
    mean = np.full(WIDTH, 0.1, np.float32)
    return Prior(mean, (mixing @ mixing.T).astype(np.float32))


def covariance_of(metric: Metric) -> np.ndarray:
    """The covariance that the projection makes the identity matrix."""
    inverse = np.linalg.inv(metric.projection.astype(np.float64))
    covariance: np.ndarray = inverse.T @ inverse
    return covariance


def slow_covariance(
    vectors: FloatArray, owners: np.ndarray, shrinkage: float, known: Prior | None
) -> np.ndarray:
    """The blend, item by item."""

    def scaled(matrix: np.ndarray) -> np.ndarray:
        ratio: np.ndarray = matrix * len(matrix) / np.trace(matrix)
        return ratio

    mean = vectors.mean(axis=0, dtype=np.float64)
    total, within, freedom = np.zeros((WIDTH, WIDTH)), np.zeros((WIDTH, WIDTH)), 0
    for owner in set(owners.tolist()):
        own = vectors[owners == owner].astype(np.float64)
        freedom += len(own) - 1
        for item in own:
            total += np.outer(item - mean, item - mean)
            within += np.outer(item - own.mean(axis=0), item - own.mean(axis=0))
    several = freedom >= 10
    count = len(vectors) * TOTAL
    blend, weight = count * scaled(total), count
    if several:
        blend, weight = blend + freedom * scaled(within), weight + freedom
    if known is not None:
        blend, weight = blend + PRIOR * scaled(known.within.astype(np.float64)), weight + PRIOR
    shrunk: np.ndarray = (1 - shrinkage) * blend / weight + shrinkage * np.eye(WIDTH)
    return shrunk


def found(vectors: FloatArray, owners: np.ndarray) -> float:
    """The share of items whose nearest other item is of their identity."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    return float((owners[cosines.argmax(axis=1)] == owners).mean())


@pytest.mark.parametrize("each", [1, 5])
@pytest.mark.parametrize("known", [None, prior()])
def test_the_covariance_is_the_blend_that_a_loop_over_items_gives(
    each: int, known: Prior | None
) -> None:
    vectors, owners = gallery(40, each)
    metric = fit(vectors, owners, known)
    assert metric.kind == ("total" if each == 1 else "within")
    expected = slow_covariance(vectors, owners, metric.shrinkage, known)
    np.testing.assert_allclose(covariance_of(metric), expected, atol=1e-4)
    share = 1.0 if each == 1 else 0.5
    np.testing.assert_allclose(metric.mean, share * vectors.mean(axis=0), atol=1e-5)


def test_projected_rows_are_what_the_formula_says() -> None:
    vectors, owners = gallery(40, 5)
    metric = fit(vectors, owners)
    for vector, projected in zip(vectors[:5], metric.apply(vectors[:5]), strict=True):
        moved = (vector - metric.mean) @ metric.projection
        np.testing.assert_allclose(projected, moved / np.linalg.norm(moved), atol=1e-5)


def test_it_finds_more_items_of_identities_that_it_has_not_seen() -> None:
    metric = fit(*gallery(60, 6, seed=1))
    vectors, owners = gallery(60, 6, seed=2)
    assert metric.gain is not None
    assert metric.gain > 0.05
    assert found(metric.apply(vectors), owners) > found(vectors, owners) + 0.05


def test_noise_alone_teaches_nothing() -> None:
    """Rivals must not have been fitted either: they would stay away from what was held out."""
    owners, gains = np.repeat(np.arange(20), 4), []
    for seed in range(10):
        chance = np.random.default_rng(seed)
        items = chance.normal(size=(20, 256))[owners] + chance.normal(0, 4, (80, 256))
        gains.append(fit(unit(items.astype(np.float32)), owners).gain or 0.0)
    assert np.mean(gains) < 0.02


def test_it_stays_with_plain_cosine_where_a_metric_finds_fewer() -> None:
    # Identities differ where their items do, and nowhere else, in a wide space of few items.
    chance = np.random.default_rng(3)
    centres = np.zeros((12, 400))
    centres[:, :4] = chance.normal(0, 1, (12, 4))
    items = np.repeat(centres, 3, axis=0)
    items[:, :4] += chance.normal(0, 0.35, (36, 4))
    items += chance.normal(0, 0.02, items.shape)
    vectors, owners = unit(items.astype(np.float32)), np.repeat(np.arange(12), 3)
    metric = fit(vectors, owners)
    assert metric.kind == "plain"
    assert metric.gain == 0.0
    np.testing.assert_allclose(metric.apply(vectors), vectors, atol=1e-6)


def test_fewer_dimensions_keep_what_tells_most() -> None:
    metric = fit(*gallery(80, 6, seed=1), dimension=16)
    vectors, owners = gallery(80, 6, seed=2)
    projected = metric.apply(vectors)
    assert projected.shape == (480, 16)
    assert found(projected, owners) > found(vectors, owners)


def test_identities_may_be_names_and_in_any_order() -> None:
    vectors, owners = gallery(30, 4)
    order = np.random.default_rng(5).permutation(len(owners))
    one = fit(vectors, owners)
    other = fit(vectors[order], [f"name {owners[n]:03d}" for n in order])
    np.testing.assert_allclose(covariance_of(one), covariance_of(other), atol=0.02)


def test_folds_leave_every_item_out_once_and_never_fit_it() -> None:
    vectors, owners = gallery(40, 4)
    like = fit(vectors, owners, prior())
    seen = []
    for metric, out in cross_fitted(vectors, owners, prior(), like):
        rest = np.setdiff1d(np.arange(len(owners)), out)
        assert not set(owners[out]) & set(owners[rest])
        expected = slow_covariance(vectors[rest], owners[rest], like.shrinkage, prior())
        np.testing.assert_allclose(covariance_of(metric), expected, atol=1e-4)
        seen.extend(out.tolist())
    assert sorted(seen) == list(range(len(owners)))


@pytest.mark.parametrize("known", [None, prior()])
def test_an_empty_or_small_gallery_has_the_encoders_metric(known: Prior | None) -> None:
    for vectors, owners in (
        (np.empty((0, WIDTH), np.float32), []),
        (gallery(3, 1)[0], ["a", "b", "c"]),
        (gallery(1, 5)[0], ["a"] * 5),
    ):
        metric = fit(vectors, owners, known)
        assert metric.kind == ("plain" if known is None else "prior")
        assert metric.gain is None
        assert (metric.items, metric.identities) == (len(vectors), len(set(owners)))


def test_identical_pictures_say_nothing() -> None:
    vectors = np.repeat(gallery(1, 1)[0], 50, axis=0)
    assert fit(vectors, np.arange(50) // 5).kind == "plain"
    assert fit(vectors, np.arange(50) // 5, prior()).kind == "prior"


def test_one_identity_alone_gives_its_own_scatter() -> None:
    vectors, owners = gallery(1, 200)
    metric = fit(vectors, owners)
    assert (metric.kind, metric.gain) == ("within", None)
    assert np.isfinite(metric.apply(vectors)).all()


def test_an_identity_of_very_many_items_does_not_outweigh_the_others() -> None:
    vectors, owners = gallery(300, 4, loud=0.15)
    chance = np.random.default_rng(6)
    crowd = vectors[:1] + chance.normal(0, 0.3, (60_000, WIDTH)).astype(np.float32)
    everything = np.concatenate([vectors, unit(crowd.astype(np.float32))])
    names = np.concatenate([owners, np.full(len(crowd), 999)])
    metric = fit(everything, names)
    assert (metric.items, metric.identities) == (61_200, 301)
    assert len(sample(names)) == 1200 + 200
    assert found(metric.apply(vectors), owners) >= found(vectors, owners) - 0.02


def test_an_adapted_prior_is_the_blend_of_scatters_by_their_counts() -> None:
    vectors, owners = gallery(20, 4)
    own = prior()
    width = vectors.shape[1]
    within = np.zeros((width, width))
    for owner in np.unique(owners):
        apart = vectors[owners == owner].astype(np.float64)
        apart -= apart.mean(axis=0)
        within += apart.T @ apart
    freedom = len(owners) - len(np.unique(owners))
    parts = [matrix * width / np.trace(matrix) for matrix in (own.within, within)]
    expected = (200 * parts[0] + freedom * parts[1]) / (200 + freedom)
    made = adapted(own, vectors, owners)
    assert made is not None
    np.testing.assert_allclose(made.within, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(made.mean, own.mean)
    alone = adapted(None, vectors, owners)
    assert alone is not None
    np.testing.assert_allclose(alone.within, parts[1], rtol=1e-4, atol=1e-5)


def test_a_prior_is_not_adapted_to_what_tells_nothing() -> None:
    vectors, _ = gallery(20, 2)
    own = prior()
    assert adapted(own, vectors, np.arange(len(vectors))) is own  # one item of each
    assert adapted(own, np.repeat(vectors[:1], 30, axis=0), np.arange(30) // 10) is own
    assert adapted(None, vectors[:0], np.arange(0)) is None


def test_a_sample_is_whole_where_all_fit_and_whole_identities_else() -> None:
    owners = np.arange(90) // 3
    assert sample(owners, most=90).tolist() == list(range(90))
    some = sample(owners, most=30)
    assert len(some) == 30
    assert (np.unique(owners[some], return_counts=True)[1] == 3).all()
    assert some.tolist() == sample(owners, most=30).tolist()


def test_vectors_of_length_nought_are_passed_over_and_stay_nought() -> None:
    vectors, owners = gallery(30, 4)
    with_nought = np.concatenate([vectors, np.zeros((3, WIDTH), np.float32)])
    metric = fit(with_nought, [*owners, 0, 1, 77])
    np.testing.assert_allclose(
        covariance_of(metric), covariance_of(fit(vectors, owners)), atol=0.02
    )
    assert not metric.apply(with_nought)[-3:].any()


def test_constant_descriptors_are_projected_to_finite_numbers() -> None:
    vectors = np.full((40, WIDTH), 0.2, np.float32)
    for known in (None, prior()):
        projected = fit(vectors, np.arange(40), known).apply(vectors)
        assert np.isfinite(projected).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused_by_position(value: float) -> None:
    vectors, owners = gallery(20, 3)
    metric = fit(vectors, owners)
    vectors[7, 3] = value
    with pytest.raises(UsageError, match="position 7"):
        fit(vectors, owners)
    with pytest.raises(UsageError, match="position 7"):
        metric.apply(vectors)


def test_shapes_that_do_not_match_are_refused() -> None:
    vectors, owners = gallery(20, 3)
    with pytest.raises(UsageError, match="shape"):
        fit(vectors, owners[:-1])
    with pytest.raises(UsageError, match="shape"):
        fit(vectors[:, :-1], owners, prior())
    with pytest.raises(UsageError, match="shape"):
        fit(vectors, owners).apply(vectors[0])


def test_bytes_give_the_same_metric_again() -> None:
    metric = fit(*gallery(30, 4), dimension=16)
    again = Metric.from_bytes(metric.to_bytes())
    assert again.to_bytes() == metric.to_bytes()
    np.testing.assert_array_equal(again.projection, metric.projection)
    np.testing.assert_array_equal(again.mean, metric.mean)
    assert (again.kind, again.gain, again.items) == (metric.kind, metric.gain, metric.items)


@pytest.mark.parametrize("metric", [plain(3), plain(3).centred_on(np.eye(3), np.eye(3)[:2])])
def test_bytes_that_were_cut_or_altered_anywhere_are_refused(metric: Metric) -> None:
    data = metric.to_bytes()
    for length in range(len(data)):
        with pytest.raises(GalleryDamaged):
            Metric.from_bytes(data[:length])
    for place in range(len(data)):
        altered = bytearray(data)
        altered[place] ^= 1
        with pytest.raises((GalleryDamaged, GalleryFormatError)):
            Metric.from_bytes(bytes(altered))


def test_bytes_of_a_newer_version_say_so() -> None:
    data = bytearray(plain(3).to_bytes())
    struct.pack_into("<B", data, 3, 9)
    with pytest.raises(GalleryFormatError, match="newer"):
        Metric.from_bytes(bytes(data))


def test_each_side_is_centred_on_its_own_mean() -> None:
    vectors, owners = gallery(40, 5)
    metric = fit(vectors, owners)
    probes, _ = gallery(40, 2, seed=3)
    moved = metric.centred_on(vectors, probes)
    np.testing.assert_array_equal(moved.projection, metric.projection)
    own = metric.projection.astype(np.float64)
    for side, apply in ((vectors, moved.apply), (probes, moved.apply_to_probes)):
        expected = unit((side - side.mean(axis=0)) @ own)
        np.testing.assert_allclose(apply(side), expected, atol=1e-5)
    np.testing.assert_array_equal(metric.apply_to_probes(probes), metric.apply(probes))
    with pytest.raises(UsageError, match="shape"):
        metric.centred_on(vectors, probes[:, 1:])


def test_metrics_that_leave_items_out_keep_the_means_of_both_sides() -> None:
    vectors, owners = gallery(40, 5)
    like = fit(vectors, owners).centred_on(vectors, vectors[::2])
    for metric, _ in cross_fitted(vectors, owners, like=like, folds=2):
        np.testing.assert_array_equal(metric.mean, like.mean)
        assert metric.probe_mean is like.probe_mean
        assert not np.array_equal(metric.projection, like.projection)


def test_bytes_of_the_first_version_are_read_and_written_as_ever() -> None:
    first = bytes.fromhex(
        "4d5452014e0000000200000002000000dcba68b97b226761696e223a20302e32352c20226964656e74697469"
        "6573223a20352c20226974656d73223a20372c20226b696e64223a2022706c61696e222c2022736872696e6b"
        "616765223a20312e307d00000000000000000000803f00000000000000000000803f"
    )
    assert plain(2, 7, 5, 0.25).to_bytes() == first
    again = Metric.from_bytes(first)
    assert again.probe_mean is None
    assert again.to_bytes() == first


def test_bytes_keep_both_means() -> None:
    vectors, owners = gallery(30, 4)
    metric = fit(vectors, owners, dimension=16).centred_on(vectors, vectors[:9])
    again = Metric.from_bytes(metric.to_bytes())
    assert again.to_bytes() == metric.to_bytes()
    np.testing.assert_array_equal(again.apply(vectors), metric.apply(vectors))
    np.testing.assert_array_equal(again.apply_to_probes(vectors), metric.apply_to_probes(vectors))
