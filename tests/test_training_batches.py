"""Batches of training: sampling, augmentation, and what is held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_metric_learning")

from conftest import picture  # noqa: E402

from siamese_search.errors import UsageError  # noqa: E402
from siamese_search.records import ImageFile  # noqa: E402
from siamese_search.training import augmentation, compounds, distributed, loop, retrieval  # noqa: E402
from siamese_search.training.augmentation import PRESETS, Augmentation, augment  # noqa: E402
from siamese_search.training.batches import Batches  # noqa: E402
from siamese_search.training.data import Pictures, split  # noqa: E402
from siamese_search.training.sampling import ClassSampler  # noqa: E402
from siamese_search.training.settings import Settings  # noqa: E402
from siamese_search.training.starting import starting_point  # noqa: E402


def test_a_batch_has_p_classes_with_k_pictures_and_follows_from_its_number() -> None:
    labels = np.repeat(np.arange(10), 5)
    sampler = ClassSampler(labels, classes=4, images=3, seed=1)
    positions, classes = sampler.batch(17)
    assert [*classes] == [*labels[positions]]
    assert len(set(positions.tolist())) == 12
    assert len(set(classes.tolist())) == 4
    again = ClassSampler(labels, classes=4, images=3, seed=1).batch(17)
    assert (positions == again[0]).all()
    assert (positions != ClassSampler(labels, 4, 3, seed=2).batch(17)[0]).any()
    lap = np.concatenate([sampler.batch(n)[1] for n in range(len(sampler))])
    assert len(set(lap.tolist())) == 4 * len(sampler)  # no class twice in a pass


def test_hard_neighbours_share_batches() -> None:
    labels = np.repeat(np.arange(20), 2)
    sampler = ClassSampler(labels, classes=4, images=2, seed=0)
    sampler.neighbours = (np.arange(20) ^ 1)[:, None]  # 0 and 1 are alike, 2 and 3, ...
    for number in range(10):
        classes = set(sampler.batch(number)[1].tolist())
        assert len(classes) == 4
        assert sum(c ^ 1 in classes for c in classes) >= 2


def test_confusable_classes_are_those_that_lie_closest() -> None:
    angles = np.array([0.0, 0.1, 1.0, 1.05, 2.5])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert retrieval.confusable(vectors, np.arange(5), 1)[:, 0].tolist() == [1, 0, 3, 2, 3]


def test_no_augmentation_leaves_pixels_as_they_are() -> None:
    images = torch.randint(0, 256, (3, 20, 20, 3), dtype=torch.uint8)
    same = augment(images, PRESETS["none"], (20, 20), seed=0)
    assert torch.allclose(same, images.permute(0, 3, 1, 2).float(), atol=1e-2)


@pytest.mark.parametrize("preset", PRESETS)
def test_augmented_pictures_are_in_range_independent_and_repeatable(preset: str) -> None:
    image = torch.from_numpy(np.asarray(picture(1)).copy())[None].expand(4, -1, -1, -1)
    views = augment(image, PRESETS[preset], (24, 24), seed=3)
    assert views.shape == (4, 3, 24, 24)
    assert float(views.min()) >= 0
    assert float(views.max()) <= 255
    assert torch.equal(views, augment(image, PRESETS[preset], (24, 24), seed=3))
    if preset != "none":
        assert not torch.equal(views[0], views[1])


def test_an_elastic_warp_bends_lines_but_moves_little() -> None:
    columns = torch.arange(48).float()
    ramp = columns.expand(48, 48)[None, ..., None].repeat(64, 1, 1, 1)
    bent = augment(ramp.byte(), Augmentation("", elastic=0.05), (48, 48), seed=1)
    moved = (bent[:, 0] - columns)[:, 8:-8, 8:-8]
    assert 0.6 < float(moved.std()) < 1.5  # about 0.05 half widths of 24 pixels
    assert float(moved.std(dim=1).mean()) > 0.3  # along a line, not of the line as a whole


def test_recolouring_is_what_one_after_the_other_would_be() -> None:
    how = Augmentation("", brightness=0.3, contrast=0.3, saturation=0.3, grey=0.5)
    views = 60 + 80 * torch.rand(8, 3, 5, 5, generator=torch.Generator().manual_seed(2))
    made = augmentation._recoloured(views, how, torch.Generator().manual_seed(7))
    random = torch.Generator().manual_seed(7)
    brightness, contrast = (0.7 + 0.6 * torch.rand(8, generator=random) for _ in range(2))
    grey = torch.rand(8, generator=random) < 0.5
    saturation = 0.7 + 0.6 * torch.rand(8, generator=random)
    for n in range(8):
        image = views[n] * brightness[n]
        image = image.mean() + (image - image.mean()) * contrast[n]
        luma = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        image = luma + (image - luma) * (0.0 if grey[n] else saturation[n])
        assert torch.allclose(made[n], image, atol=1e-3)


def test_a_compound_shows_both_of_its_characters_inside_the_picture() -> None:
    page = torch.full((40, 64, 64, 1), 255, dtype=torch.uint8)
    first, second = page.clone(), page.clone()
    first[:, 8:56, 8:56] = 0  # a large dark square
    second[:, 8:56, 8:56] = 100  # a large grey one
    maps = compounds.layouts(40, torch.Generator().manual_seed(0))
    both = compounds.joined(first, second, maps, 255)
    assert both.dtype == torch.uint8
    assert both.shape == page.shape
    for made in both:
        assert (made < 20).any()
        assert ((made > 90) & (made < 110)).any()
        assert (made[[0, -1]] == 255).all()
        assert (made[:, [0, -1]] == 255).all()
    # Every class has a layout of its own.
    assert len({tuple(layout.flatten().tolist()) for layout in maps}) == 40


def trainer(loss: str) -> loop.Trainer:
    """Of twelve classes with two pictures each, of noise; a batch has four classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 48, 48, 1), np.uint8)
    settings = Settings(
        start="scratch", augmentation="glyph", loss=loss, classes=4, images=2, steps=8, dimension=16
    ).resolved()
    start = starting_point(settings)
    classes = np.arange(12).repeat(2)
    return loop.Trainer(start.network, settings, Pictures(pixels, classes), None, start.how, "cpu")


def test_further_classes_are_made_where_a_loss_need_not_know_them_all() -> None:
    batches = trainer("multi-similarity").batches
    views, classes, _ = batches.batch(0)
    assert views.shape == (8, 1, 48, 48)
    assert classes[4:].tolist() == [48, 48, 49, 49]  # after 12 characters in 4 turns
    assert classes[:4].max() < 48
    proxies = trainer("proxy-anchor").batches
    assert proxies.batch(0)[1].max() < 48


def test_glyphs_are_never_mirrored_and_photos_are() -> None:
    assert PRESETS["glyph"].mirror == PRESETS["document"].mirror == 0
    assert replace(PRESETS["photo"], about="", mirror=0) == replace(PRESETS["upright"], about="")
    image = torch.zeros((64, 20, 20, 1), dtype=torch.uint8)
    image[:, :, 10:] = 255
    views = augment(image, Augmentation("", mirror=0.5), (20, 20), seed=0)
    left = (views[:, 0, :, 0].mean(dim=1) > 128).float().mean()
    assert 0.3 < float(left) < 0.7


def files(counts: dict[str, int]) -> list[ImageFile]:
    return [ImageFile(f"{name}/{n}.png", name) for name, c in counts.items() for n in range(c)]


def test_whole_classes_are_held_out_where_there_are_enough() -> None:
    parts = split(files({f"c{n}": 3 for n in range(20)}), 0.2, seed=0)
    held = {file.identity for file in parts.validation}
    assert parts.how == "classes"
    assert len(held) == 4
    assert not held & {file.identity for file in parts.training}


def test_pictures_are_held_out_where_classes_are_few() -> None:
    parts = split(files({"a": 10, "b": 10, "c": 1}), 0.2, seed=0)
    assert parts.how == "pictures"
    assert len(parts.validation) == 4
    assert {file.identity for file in parts.training} == {"a", "b", "c"}
    assert split(files({"a": 2, "b": 2}), 0.2, seed=0).how == "none"


def test_a_split_leaves_two_classes_on_either_side_or_holds_out_nothing() -> None:
    files = [ImageFile(f"{n}/{k}", str(n)) for n in range(12) for k in range(2)]
    assert len({file.identity for file in split(files, 0.95, 0).training}) == 2
    lopsided = [ImageFile(f"a/{n}", "a") for n in range(10)] + [
        ImageFile(f"b/{n}", "b") for n in (1, 2)
    ]
    assert split(lopsided, 0.2, 0).how == "none"


def test_one_class_is_too_few() -> None:
    with pytest.raises(UsageError, match="at least two"):
        split(files({"a": 5}), 0.2, seed=0)


def test_processes_share_whole_classes_or_say_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    distributed.require_shareable(4)
    for asked, fit in ((5, 4), (1, 2)):
        with pytest.raises(UsageError, match=f"--classes {fit}$"):
            distributed.require_shareable(asked)
    monkeypatch.setattr(distributed, "ranks", lambda: 2)
    pictures = Pictures(np.zeros((5, 8, 8, 1), np.uint8), np.array([0, 1, 2, 2, 1]))
    settings = Settings(classes=4, images=2, augmentation="none")
    assert Batches(pictures, settings, (8, 8)).pictures == 2 * 2  # of three classes
    monkeypatch.setattr(distributed, "ranks", lambda: 4)
    with pytest.raises(UsageError, match="start fewer"):
        Batches(pictures, settings, (8, 8))
