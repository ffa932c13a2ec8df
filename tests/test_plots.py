"""Plots of a gallery, and the parts that all plots are made of."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray
from siamese_search.cli import main
from siamese_search.errors import ImageError, UsageError
from siamese_search.evaluation import grids, likeness, own_scores, plots, portrait, score_plots
from siamese_search.records import Progress, unwatched

Pictures = Callable[..., Path]


def clustered(identities: int, each: int, spread: float, seed: int = 0) -> FloatArray:
    """Unit vectors (identities * each, 49), those of an identity around a centre of its own."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(identities, 49)).repeat(each, axis=0)
    vectors += spread * random.normal(size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def size_of(png: bytes) -> tuple[int, int]:
    with Image.open(BytesIO(png)) as image:
        assert image.format == "PNG"
        return image.size


@pytest.fixture
def gallery(tmp_path: Path, toy: Encoder) -> Gallery:
    """Eight identities of three embeddings each, some of which are taken for another."""
    gallery = Gallery.open(tmp_path / "gallery", toy)
    gallery.enroll_embeddings(clustered(8, 3, 2.5), [f"id{n // 3}" for n in range(24)])
    return gallery


@pytest.fixture
def pictured(tmp_path: Path, toy: Encoder) -> Gallery:
    """Five identities of two pictures; the fifth has a third one, which shows the fourth."""
    shown = {"a": [0, 0], "b": [1, 1], "c": [2, 2], "d": [3, 3], "e": [4, 4, 3]}
    for name, seeds in shown.items():
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number, seed in enumerate(seeds):
            path = tmp_path / "pictures" / name / f"{number}.png"
            picture(seed, noise=2.0 + 3 * number).save(path)
    gallery = Gallery.open(tmp_path / "gallery", toy)
    gallery.enroll([tmp_path / "pictures"])
    return gallery


def slow_scores(vectors: FloatArray) -> tuple[list[float], list[bool], list[tuple[float, float]]]:
    """Of three items an identity, each left out: own scores, whether they are the best, and the
    two best others' scores. An identity scores by the mean of its best item's and its prototype's.
    """
    own, right, others = [], [], []
    for item, vector in enumerate(vectors):
        scores = {}
        for identity in range(len(vectors) // 3):
            members = [n for n in range(3 * identity, 3 * identity + 3) if n != item]
            prototype = vectors[members].mean(axis=0)
            prototype /= np.linalg.norm(prototype)
            best = max(float(vectors[n] @ vector) for n in members)
            scores[identity] = (best + float(prototype @ vector)) / 2
        mine = scores.pop(item // 3)
        first, second = sorted(scores.values(), reverse=True)[:2]
        own.append(mine)
        right.append(mine >= first)
        others.append((first, second))
    return own, right, others


def test_own_scores_are_those_of_every_item_searched_without_itself(gallery: Gallery) -> None:
    own, right, others = slow_scores(clustered(8, 3, 2.5))
    found = own_scores.own_scores(gallery, *own_scores.both_ways(gallery, unwatched))
    assert not found.calibrated
    assert found.threshold == gallery.encoder.threshold
    assert found.thresholds.keys() == {0.2, 0.3}  # 24 strangers tell no lower rate
    assert found.fpir_at(found.thresholds[0.2]) == 4 / 24
    assert found.genuine == pytest.approx(np.array(own), abs=1e-5)
    assert found.right.tolist() == right
    assert 0 < sum(right) < 24
    assert found.impostor == pytest.approx(np.array([first for first, _ in others]), abs=1e-5)

    calibration = gallery.calibrate(0.1, metric="none")
    found = own_scores.own_scores(gallery, *own_scores.both_ways(gallery, unwatched))
    assert found.calibrated
    limit = calibration.thresholds[0.1]
    assert found.threshold == pytest.approx(limit)
    shown = [first - max(second, 0) / 2 for first, second in others]
    assert found.impostor == pytest.approx(np.array(shown), abs=1e-5)
    assert found.fpir == sum(value >= limit for value in shown) / 24
    hits = [
        hit and mine - max(first, 0) / 2 >= limit
        for mine, hit, (first, _) in zip(own, right, others, strict=True)
    ]
    assert found.fnir == pytest.approx(1 - sum(hits) / 24)

    per_identity = found.per_identity()
    assert [one.best for one in per_identity] == sorted(one.best for one in per_identity)
    for name, probes, best, named in per_identity:
        own_ones = slice(3 * int(name[2:]), 3 * int(name[2:]) + 3)
        assert (probes, best, named) == (3, sum(right[own_ones]), sum(hits[own_ones]))
    confusions = found.confusions()
    assert sum(one.times for one in confusions) == right.count(False)
    owner = {item.number: item.identity for item in gallery.items_by_number(range(1, 25))}
    for one in confusions:
        assert {(owner[a], owner[b]) for a, b in one.pairs} == {(one.own, one.other)}
    for threshold, fpir, fnir in found.det(100):
        assert fpir == pytest.approx((found.impostor >= threshold).mean())
        assert fnir == pytest.approx((found.found < threshold).mean())


def test_a_sample_is_of_what_is_enrolled_and_always_the_same(gallery: Gallery) -> None:
    items, vectors = gallery.sample(100)
    assert [item.number for item in items] == list(range(1, 25))
    assert vectors == pytest.approx(clustered(8, 3, 2.5))
    few, some = gallery.sample(10)
    assert len(few) == 10
    assert some == pytest.approx(vectors[[item.number - 1 for item in few]])
    assert [item.number for item in gallery.sample(10)[0]] == [item.number for item in few]
    assert {item.number for item in gallery.sample(10, seed=1)[0]} != {item.number for item in few}


def test_a_map_shows_a_sample_of_a_large_gallery_and_says_so(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = portrait.draw_map(gallery)
    assert drawn.said == "24 items, 8 identities"
    assert size_of(drawn.content) == (10 * plots.DPI, 10 * plots.DPI)
    monkeypatch.setattr(portrait, "MAPPED", 5)
    drawn = portrait.draw_map(gallery)
    assert drawn.said.startswith("5 of 24 items, ")
    assert (drawn.facts.items, drawn.facts.of) == (5, 24)


def test_scores_and_error_rates_are_drawn(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, right, others = slow_scores(clustered(8, 3, 2.5))
    watched: list[Progress] = []
    drawn = score_plots.draw_scores(gallery, watched.append)
    assert size_of(drawn.content) == (8 * plots.DPI, 4.5 * plots.DPI)
    assert (watched[-1].done, watched[-1].total) == (24, 24)
    limit = gallery.encoder.threshold
    assert drawn.facts.fpir == sum(first >= limit for first, _ in others) / 24
    hits = [hit and mine >= limit for mine, hit in zip(own, right, strict=True)]
    assert drawn.facts.fnir == pytest.approx(1 - sum(hits) / 24)
    again = score_plots.draw_trade_off(gallery)
    assert again.facts == drawn.facts
    assert f"EER {drawn.facts.eer:.1%}" in again.said
    assert size_of(again.content) == (6.5 * plots.DPI, 6.5 * plots.DPI)
    monkeypatch.setattr(own_scores, "SEARCHED", 8)
    assert score_plots.draw_scores(gallery).said.startswith("8 of 24 items, 8 identities: ")


def test_confused_identities_come_first_then_those_alike(pictured: Gallery) -> None:
    drawn = likeness.draw_confusions(pictured, 3)
    first, *others = drawn.facts.pairs
    assert first.identities == ("d", "e")
    assert first.mistaken >= 1
    assert first.score > 0.9
    assert [pair.mistaken for pair in others] == [0, 0]
    assert others[0].score >= others[1].score
    assert "most alike are d and e" in drawn.said


def test_neighbours_are_the_nearest_items_with_the_decision(
    pictured: Gallery, tmp_path: Path
) -> None:
    picture(1, noise=5).save(tmp_path / "probe.png")
    drawn = likeness.draw_neighbours(pictured, tmp_path / "probe.png", 4)
    assert drawn.facts.identity == "b"
    assert [near.identity for near in drawn.facts.neighbours][:2] == ["b", "b"]
    _, vectors = pictured.sample(10)
    cosines = np.sort(vectors @ pictured.encoder.embed([tmp_path / "probe.png"])[0])[::-1]
    scores = [near.score for near in drawn.facts.neighbours]
    assert scores == pytest.approx(cosines[:4].tolist(), abs=1e-5)
    assert drawn.said.startswith("b (98% sure; score ")
    whole = likeness.draw_neighbours(pictured, tmp_path / "probe.png", 99)
    assert len(whole.facts.neighbours) == 11
    picture(50).save(tmp_path / "probe.png")
    assert likeness.draw_neighbours(pictured, tmp_path / "probe.png").said.startswith("unknown (")
    (tmp_path / "probe.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"probe\.png: not an image"):
        likeness.draw_neighbours(pictured, tmp_path / "probe.png")


def test_how_a_score_comes_about_is_said_and_adds_up(pictured: Gallery, tmp_path: Path) -> None:
    for name, seed in (("f", 6), ("g", 7), ("h", 8), ("i", 9)):
        for number in range(2):
            path = tmp_path / "more" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(seed, noise=4.0 + number).save(path)
    pictured.enroll([tmp_path / "more"])
    picture(1, noise=5).save(tmp_path / "probe.png")
    items, vectors = pictured.sample(99)
    cosines = vectors @ pictured.encoder.embed([tmp_path / "probe.png"])[0]
    own = [n for n, item in enumerate(items) if item.identity == "b"]
    prototype = vectors[own].mean(axis=0)
    probe = pictured.encoder.embed([tmp_path / "probe.png"])[0]
    expected = float(prototype @ probe / np.linalg.norm(prototype))

    found = likeness.draw_neighbours(pictured, tmp_path / "probe.png").facts.derivation
    assert (found.identity, found.rule, found.items, found.decides) == ("b", "balanced", 2, "score")
    nearest = max(own, key=lambda n: float(cosines[n]))
    assert found.item == items[nearest].number
    assert found.cosine == pytest.approx(float(cosines[nearest]), abs=1e-5)
    assert found.prototype == pytest.approx(expected, abs=1e-5)
    assert found.needed == pictured.encoder.threshold
    assert found.runner_up is not None
    assert found.lines() == [
        f"b scores {found.score:.3f}, the mean of {found.cosine:.3f} (its nearest item, number"
        f" {found.item}) and {found.prototype:.3f} (its prototype, the mean of its 2 items);"
        " rule balanced.",
        f"Runner-up: {found.runner_up.identity}, {found.runner_up.score:.3f}. The score reaches"
        f" {found.needed:.3f}, the encoder's threshold.",
    ]

    calibration = pictured.calibrate(0.1, rule="best", metric="none")
    drawn = likeness.draw_neighbours(pictured, tmp_path / "probe.png")
    found = drawn.facts.derivation
    assert found.score == pytest.approx(found.cosine)
    assert found.runner_up is not None
    assert found.evidence is not None
    assert found.evidence == pytest.approx(found.score - max(0, found.runner_up.score) / 2)
    assert found.needed is not None
    assert found.needed == pytest.approx(calibration.thresholds[0.1])
    assert (found.evidence >= found.needed) == (drawn.facts.identity is not None)
    assert f"= {found.evidence:.3f}; it " in found.lines()[1]
    assert f" reach{'es' * (found.evidence >= found.needed)} {found.needed:.3f}" in found.lines()[1]


def test_notes_stand_between_the_title_and_the_pictures() -> None:
    notes = ["one note that is long enough for several lines of a narrow grid " * 3, "another"]
    with plots.style():
        figure = grids.grid("title", [grids.Cell((grids.Tile("none", "n"),), "c")], 1, notes)
        size_of(plots.png(figure))
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert " ".join(texts[1:-4]).replace("  ", " ").strip().startswith("one note that")
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width


def test_what_looks_like_a_distractor_is_said_to(pictured: Gallery, tmp_path: Path) -> None:
    picture(70).save(tmp_path / "poster.png")
    pictured.enroll([tmp_path / "poster.png"], distractor=True)
    drawn = likeness.draw_neighbours(pictured, tmp_path / "poster.png")
    assert drawn.said.startswith("unknown, like a distractor (")
    assert "it is never named" in drawn.facts.derivation.lines()[1]
    assert drawn.facts.identity is None


def test_a_picture_that_is_gone_or_changed_leaves_a_tile_that_says_so(
    pictured: Gallery, tmp_path: Path
) -> None:
    (tmp_path / "pictures" / "b" / "0.png").unlink()
    picture(99).save(tmp_path / "pictures" / "c" / "0.png")
    pictured.enroll_embeddings(clustered(1, 1, 0), ["vector"])
    by_file = {
        (item.identity, Path(item.source or "").name): item for item in pictured.sample(99)[0]
    }
    words = [
        likeness._tile(pictured, by_file[key]).picture
        for key in (("b", "0.png"), ("c", "0.png"), ("vector", ""))
    ]
    for said, expected in zip(
        words, ("no such file", "other content", "without an image"), strict=True
    ):
        assert isinstance(said, str)
        assert expected in said.replace("\n", " ")
    assert "0.png" in words[0]
    whole = likeness._tile(pictured, by_file["a", "0.png"])
    assert not isinstance(whole.picture, str)
    assert whole.picture.shape == (grids.SIDE, grids.SIDE, 3)
    likeness.draw_confusions(pictured)
    likeness.draw_neighbours(pictured, tmp_path / "pictures" / "a" / "0.png", 11)


def test_copies_are_shown_when_the_sources_are_gone(tmp_path: Path, toy: Encoder) -> None:
    picture(0).save(tmp_path / "a.png")
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([tmp_path / "a.png"], copy=True)
        (tmp_path / "a.png").unlink()
        ((item,), _) = gallery.sample(1)
        assert not isinstance(likeness._tile(gallery, item).picture, str)


def test_too_little_to_draw_is_an_error_that_says_what_to_do(tmp_path: Path, toy: Encoder) -> None:
    picture(0).save(tmp_path / "a.png")
    vectors = clustered(4, 1, 0)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        with pytest.raises(UsageError, match=r"0 items in .*3 or more"):
            portrait.draw_map(gallery)
        with pytest.raises(UsageError, match="nothing is enrolled"):
            likeness.draw_neighbours(gallery, tmp_path / "a.png")
        gallery.enroll_embeddings(vectors[:1], ["one"])
        for draw in (score_plots.draw_scores, score_plots.draw_trade_off, likeness.draw_confusions):
            with pytest.raises(UsageError, match="fewer than two identities"):
                draw(gallery)
        gallery.enroll_embeddings(vectors[1:], ["two", "three", "four"])
        with pytest.raises(UsageError, match=r"no identity in .* has two items"):
            score_plots.draw_trade_off(gallery)
        drawn = score_plots.draw_scores(gallery)
        assert (drawn.facts.genuine, drawn.facts.impostor) == (0, 4)
        assert drawn.facts.eer is drawn.facts.fnir is None
        portrait.draw_map(gallery)
    with Gallery.open(tmp_path / "never", toy) as gallery:
        gallery.enroll([picture(seed) for seed in range(4)], labels=[*"aabb"], distractor=True)
        with pytest.raises(UsageError, match=r"all identities in .* are distractors"):
            score_plots.draw_trade_off(gallery)


def test_names_are_drawn_whatever_characters_they_have(tmp_path: Path, toy: Encoder) -> None:
    names = ["$5 and $10_x", r"\frac", "_", "漢字", "Ωμέγα", "a long name " * 30, "x" * 3000]
    with Gallery.open(tmp_path / "gallery", toy) as gallery, warnings.catch_warnings():
        warnings.simplefilter("error")
        gallery.enroll_embeddings(clustered(7, 2, 0.3), [names[n // 2] for n in range(14)])
        for draw in (
            portrait.draw_map, score_plots.draw_scores, score_plots.draw_trade_off,
            likeness.draw_confusions,
        ):  # fmt: skip
            size_of(draw(gallery).content)


def test_the_error_curve_shows_nought_at_the_ends_of_its_scales() -> None:
    matched, refused = np.array([1.0, 0.5, 0.25, 0.0]), np.array([0.0, 0.0, 0.1, 1.0])
    with plots.style():
        axes = plots.figure(4, 4).subplots()
        plots.trade_off(axes, matched, refused, 0.2, (0.0, 0.1, "threshold"))
    across, up = (np.asarray(values) for values in axes.lines[0].get_data())
    assert across == pytest.approx([100, 50, 25, 12.5])
    assert up == pytest.approx([5, 5, 10, 100])
    assert axes.get_xlim() == pytest.approx((12.5, 100))
    legend = axes.get_legend()
    assert legend is not None
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["EER 20.0 %", "threshold: FMR 0.0 %, FNMR 10.0 %"]


def test_a_curve_of_many_points_keeps_its_shape() -> None:
    refused = np.linspace(0, 1, 200_001)
    with plots.style():
        axes = plots.figure(4, 4).subplots()
        plots.trade_off(axes, 1 - refused, refused)
    across, up = (np.asarray(values) for values in axes.lines[0].get_data())
    assert len(across) <= plots.CURVE
    assert (across[0], up[-1]) == (100, 100)
    for values in (across, up):  # nowhere a jump that the eye would see
        assert np.abs(np.diff(np.log10(values))).max() < 0.35


def test_growing_numbers_have_their_means_and_labels_that_keep_apart() -> None:
    shares = np.array([[0.9, 0.7, 0.6, 0.5], [0.7, 0.5, 0.4, 0.3]])
    with plots.style():
        axes = plots.figure(5, 4).subplots()
        plots.growth(axes, (5, 10, 50, 52), {"recall": shares, "TPIR": np.full((2, 4), np.nan)})
    (line,) = axes.lines  # what is not known is left out
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([80, 60, 50, 40])
    assert list(axes.xaxis.get_major_locator()()) == [5, 10, 52]
    (band,) = axes.collections
    corners = np.asarray(band.get_paths()[0].vertices)
    assert corners[:, 1].max() == pytest.approx(80 + 100 * np.sqrt(0.02))


def test_long_names_break_near_their_middle() -> None:
    assert grids._halves("Vegetables/Pepper/Red-Bell-Pepper") == (
        "Vegetables/Pepper/",
        "Red-Bell-Pepper",
    )
    assert grids._halves("abcdef") == ("abc", "def")


def test_without_matplotlib_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("siamese_search.cli.plot.find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["siasearch", "plot", "map"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "pip install 'siamese-search[plot]'" in capsys.readouterr().err
