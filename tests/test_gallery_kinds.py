"""A gallery that is asked pictures of another kind than it holds: each side about its own mean."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from conftest import write_toy_encoder
from PIL import Image

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray
from siamese_search.cli import main
from siamese_search.decision.metric import Metric
from siamese_search.embedding.vectors import Description
from siamese_search.errors import GalleryDamaged
from siamese_search.evaluation.protocols import Photo, grocery_iconic, grocery_split
from siamese_search.records import Calibration, ImageFile

ENROLLED, STRANGERS = 30, 20
# What a shop's light does to a picture.
LIGHT = 70 * np.outer(np.linspace(-1, 1, 4), np.linspace(0.4, -1, 4))[:, :, None]
UNLIKE = "pictures asked look unlike those enrolled (catalogue against shop, say): each side is"

Shots = Callable[..., Path]


@pytest.fixture
def shots(tmp_path: Path) -> Shots:
    """``shots("shop", range(3), lit=True)`` makes a folder with pictures of things 0, 1 and 2."""

    def make(folder: str, things: range, each: int = 1, lit: bool = False, seed: int = 0) -> Path:
        chance = np.random.default_rng([seed, lit])
        for thing in things:
            tiles = np.random.default_rng(thing).uniform(100, 160, (4, 4, 3))
            place = tmp_path / folder / f"thing{thing}"
            place.mkdir(parents=True)
            for number in range(each):
                pixels = tiles + lit * LIGHT + chance.normal(0, 14, tiles.shape)
                picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                picture.resize((32, 32), Image.Resampling.NEAREST).save(place / f"{number}.png")
        return tmp_path / folder

    return make


@pytest.fixture
def strange(shots: Shots) -> Path:
    return shots("strange", range(100, 100 + STRANGERS), each=3, lit=True)


@pytest.fixture
def asked(shots: Shots) -> list[Path]:
    """Pictures of what is enrolled, of the other kind."""
    return sorted(shots("asked", range(ENROLLED), each=4, lit=True).rglob("*.png"))


@pytest.fixture
def gallery(shots: Shots, tmp_path: Path, toy: Encoder) -> Iterator[Gallery]:
    """One catalogue picture of each thing."""
    with Gallery.open(tmp_path / "gallery", toy) as opened:
        opened.enroll([shots("catalogue", range(ENROLLED))])
        yield opened


def stored(gallery: Gallery) -> Metric:
    _, found = gallery._catalog.state_with_metric()
    assert found is not None
    return found


def right(gallery: Gallery, asked: list[Path]) -> float:
    """The share of pictures whose best identity is theirs."""
    answers = gallery.identify(asked, k=1)
    hits = [a.matches[0].identity == p.parent.name for a, p in zip(answers, asked, strict=True)]
    return float(np.mean(hits))


def unit(vectors: FloatArray) -> FloatArray:
    scaled: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def scores(gallery: Gallery, asked: list[Path]) -> list[list[float]]:
    return [[m.score for m in answer.matches] for answer in gallery.identify(asked, k=3)]


def test_more_are_found_where_each_side_is_about_its_own_mean(
    gallery: Gallery, strange: Path, asked: list[Path]
) -> None:
    gallery.calibrate(0.1, strangers=strange, metric="none")
    before = right(gallery, asked)
    assert gallery.info().metric is None
    found = gallery.calibrate(0.1, strangers=strange, metric="auto")
    assert found.metric is not None
    assert right(gallery, asked) > before + 0.1, before
    assert str(gallery.info().metric).startswith(f"plain cosines; {UNLIKE}")
    assert gallery.check() == []


def test_scores_are_the_cosines_of_what_is_left_of_either_side(
    gallery: Gallery, strange: Path, asked: list[Path], toy: Encoder
) -> None:
    gallery.calibrate(0.1, strangers=strange)
    _, items = gallery.sample(100)
    others = toy.embed(sorted(strange.rglob("*.png")))
    held = unit(items - items.mean(axis=0))
    probes = toy.embed(asked[:3])
    expected = -np.sort(-unit(probes - others.mean(axis=0)) @ held.T, axis=1)[:, :4]
    assert gallery.search(probes, 4)[1] == pytest.approx(expected, abs=1e-5)
    assert np.array(scores(gallery, asked[:3])) == pytest.approx(expected[:, :3], abs=1e-5)
    assert gallery.scores(probes)[1].max(axis=1) == pytest.approx(expected[:, 0], abs=1e-5)
    # The gallery's own items are no probes of that kind.
    one = next(iter(gallery.left_out()))
    place = one.item - 1
    cosines = np.delete(held, place, axis=0) @ held[place]
    assert one.others[0].score == pytest.approx(cosines.max(), abs=1e-5)


def test_the_threshold_follows_from_the_strangers_about_their_mean(
    gallery: Gallery, strange: Path, shots: Shots
) -> None:
    found = gallery.calibrate(0.1, strangers=strange)
    answers = gallery.identify(sorted(strange.rglob("*.png")), k=2)
    shown = [a.matches[0].score - max(a.matches[1].score, 0) / 2 for a in answers]
    assert found.location == pytest.approx(np.mean(shown), abs=1e-6)
    others = shots("others", range(200, 300), lit=True)
    named = [a.identity is not None for a in gallery.identify(sorted(others.rglob("*.png")))]
    assert found.lower <= np.mean(named) <= found.upper


def same_but_for_metric(first: Calibration, second: Calibration) -> bool:
    return replace(first, metric=None) == replace(second, metric=None)


@pytest.mark.parametrize("kind", ["alike", "other things", "few things"])
def test_else_everything_is_as_without_strangers(
    kind: str, gallery: Gallery, shots: Shots, asked: list[Path]
) -> None:
    if kind == "alike":
        place = shots("strange", range(100, 120), each=3)
    elif kind == "few things":
        place = shots("strange", range(100, 108), each=9, lit=True)
    else:
        place = shots("strange", range(0))
        chance = np.random.default_rng(0)
        for number in range(30):
            (place / f"thing{100 + number}").mkdir(parents=True)
            grey = np.full((16, 16, 3), 40.0 + 3 * number) + chance.normal(0, 2, (16, 16, 3))
            picture = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
            picture.save(place / f"thing{100 + number}" / "0.png")
    gallery.calibrate(0.1)
    epoch, expected = gallery._catalog.state().epoch, scores(gallery, asked)
    gallery.calibrate(0.1, strangers=place)
    assert gallery._catalog.state().epoch == epoch
    assert scores(gallery, asked) == expected
    assert "own mean" not in str(gallery.info().metric)


def test_commands_say_in_words_that_each_side_has_its_own_mean(
    gallery: Gallery,
    strange: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gallery.close()
    here = ["-g", str(gallery.folder)]

    def said(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["siasearch", *arguments, *here])
        monkeypatch.setattr("atexit.register", lambda call: call)
        with suppress(SystemExit):
            main()
        return str(capsys.readouterr().out)

    calibrate = ("calibrate", "--fpir", "0.1", "--strangers", str(strange))
    assert said(*calibrate).splitlines()[-1].startswith(f"comparing: plain cosines; {UNLIKE}")
    assert UNLIKE in said("info")
    assert UNLIKE in json.loads(said("info", "--json"))["metric"]
    assert "own mean" not in said(*calibrate, "--metric", "none") + said("info")


def test_strangers_are_embedded_once(
    gallery: Gallery, strange: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[str] = []
    describe_each = Encoder.describe_each

    def counting(self: Encoder, images: list[str]) -> object:
        embedded.extend(images)
        return describe_each(self, images)

    monkeypatch.setattr(Encoder, "describe_each", counting)
    gallery.calibrate(0.1, strangers=strange)
    assert len(embedded) == len(set(embedded)) == 3 * STRANGERS


def test_answers_do_not_depend_on_the_index_file(
    gallery: Gallery, strange: Path, asked: list[Path], shots: Shots, toy: Encoder
) -> None:
    gallery.calibrate(0.1, strangers=strange)
    expected = scores(gallery, asked)
    file = gallery.info().index
    assert file is not None
    (gallery.folder / file).unlink()
    with Gallery.open(gallery.folder, toy) as again:
        assert scores(again, asked) == pytest.approx(np.array(expected), abs=1e-6)
        again.enroll([shots("more", range(50, 60))])
        merged = scores(again, asked)
        again.compact()
        assert again.info().indexed == ENROLLED + 10
        assert scores(again, asked) == pytest.approx(np.array(merged), abs=1e-6)
        assert again.check() == []


def test_it_holds_until_the_gallery_is_calibrated_without_strangers(
    gallery: Gallery, strange: Path, shots: Shots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese_search.gallery.compaction.PENDING_AT_LEAST", 5)
    first = gallery.calibrate(0.1, strangers=strange)
    gallery.enroll([shots("more", range(50, 70))])
    assert gallery.is_stale(first)
    assert gallery.calibration == first  # their pictures are not at hand
    gallery.calibrate(0.1)
    assert "own mean" not in str(gallery.info().metric)


def test_a_large_gallery_does_it_by_a_file(
    gallery: Gallery, strange: Path, asked: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = gallery.calibrate(0.1, strangers=strange)
    expected = scores(gallery, asked)
    gallery.calibrate(0.1, metric="none")
    monkeypatch.setattr("siamese_search.gallery.learning.HELD", 10)
    found = gallery.calibrate(0.1, strangers=strange, metric="auto")
    assert same_but_for_metric(found, in_memory)
    assert scores(gallery, asked) == pytest.approx(np.array(expected), abs=1e-6)


def altered(content: bytes) -> bytes:
    """With another mean of the probes, near the end of what comes before the projection."""
    width = 49
    place = len(content) - 4 * width * width - 4
    return content[:place] + b"\x00\x00\x80\x3f" + content[place + 4 :]


@pytest.mark.parametrize("damage", [altered, lambda content: content[:-4], lambda _: b"MTR\x02"])
def test_a_damaged_metric_is_never_used_and_is_made_again(
    damage: Callable[[bytes], bytes],
    gallery: Gallery,
    strange: Path,
    asked: list[Path],
    toy: Encoder,
) -> None:
    gallery.calibrate(0.1, strangers=strange)
    expected = scores(gallery, asked[:5])
    gallery.close()
    with sqlite3.connect(gallery.folder / "gallery.db") as db:
        (content,) = db.execute("SELECT content FROM metrics").fetchone()
        broken = damage(content)
        assert broken != content
        # With the right sum of what is stored, as if it had been written so.
        db.execute("UPDATE metrics SET content = ?, checksum = ?", (broken, crc32(broken)))
    db.close()
    with Gallery.open(gallery.folder, toy) as again:
        with pytest.raises(GalleryDamaged, match="siasearch calibrate"):
            again.identify(asked[:5])
        assert any("siasearch calibrate" in fault for fault in again.check())
        again.calibrate(0.1, strangers=strange)
        assert again.check() == []
        assert scores(again, asked[:5]) == expected


def noisy(things: int, each: int, seed: int, light: float) -> tuple[FloatArray, list[str]]:
    """Items that differ little, with much noise along a quarter of the directions."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(things, 49)).repeat(each, axis=0)
    noise = np.where(np.arange(49) < 12, 4.0, 0.5)
    vectors = centres + noise * random.normal(size=centres.shape)
    vectors += light * np.linspace(1, -1, 49)
    return unit(vectors.astype(np.float32)), [f"{seed}-{n // each}" for n in range(len(vectors))]


def test_a_metric_that_several_pictures_taught_is_kept_about_the_own_means(
    tmp_path: Path, shots: Shots, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, names = noisy(40, 9, 0, 0.0)
    mine = np.arange(len(names)) % 9 < 5
    probes = vectors[~mine] + noisy(1, 1, 0, 3.0)[0] * 0.6
    encoder = Encoder.open(write_toy_encoder(tmp_path / "toy"), "cpu")
    others, _ = noisy(60, 1, 1, 0.0)
    others = unit(others + noisy(1, 1, 0, 3.0)[0] * 0.6)
    strange = shots("strange", range(60))
    # What pictures of strangers are like, in place of their pixels.
    monkeypatch.setattr(
        Encoder,
        "describe_each",
        lambda _, paths: zip(paths, map(Description, others[: len(paths)]), strict=True),
    )
    truth = [name for name, own in zip(names, mine, strict=True) if not own]

    def found(gallery: Gallery) -> float:
        answers = gallery.identify_embeddings(unit(probes), k=1)
        hits = [a.matches[0].identity == n for a, n in zip(answers, truth, strict=True)]
        return float(np.mean(hits))

    with Gallery.open(tmp_path / "gallery", encoder) as gallery:
        own = [name for name, here in zip(names, mine, strict=True) if here]
        gallery.enroll_embeddings(vectors[mine], own)
        gallery.calibrate(0.1)
        assert gallery.info().metric is not None
        learned, projection = found(gallery), stored(gallery).projection
        calibrated = gallery.calibrate(0.1, strangers=strange)
        np.testing.assert_array_equal(stored(gallery).projection, projection)
        assert found(gallery) > learned
        said = str(gallery.info().metric)
        assert said.startswith("learned from 200 items of 40 identities: ")
        assert f" in 100 held-out items are named rightly; {UNLIKE}" in said
        assert calibrated.genuine == 200
        assert gallery.check() == []


DATA = Path(os.environ.get("SIASEARCH_DATA") or Path(__file__).parents[2] / "shared" / "data")


@pytest.mark.slow
@pytest.mark.skipif(
    not (DATA / "grocery").is_dir(), reason="no Grocery Store Dataset: set SIASEARCH_DATA to it"
)
def test_shop_photos_find_more_catalogue_pictures(tmp_path: Path) -> None:
    def some(photos: list[Photo], odd: bool, each: int) -> list[Photo]:
        kept: dict[str, list[Photo]] = {}
        for photo in photos:
            if int(photo.fine) % 2 == odd:
                kept.setdefault(photo.fine, []).append(photo)
        return [photo for own in kept.values() for photo in own[:each]]

    icons = some(grocery_iconic(DATA), odd=False, each=1)
    asked = some(grocery_split(DATA, "val"), odd=False, each=5)
    strangers = some(grocery_split(DATA, "train"), odd=True, each=3)
    for photo in strangers:
        place = tmp_path / "strangers" / photo.fine
        place.mkdir(parents=True, exist_ok=True)
        (place / Path(photo.path).name).symlink_to(photo.path)
    encoder = Encoder.open("general-2")
    embeddings = encoder.embed([photo.path for photo in asked])
    with Gallery.open(tmp_path / "gallery", encoder) as gallery:
        gallery.enroll([ImageFile(photo.path, photo.fine) for photo in icons])
        hits = []
        for metric in ("none", "auto"):
            gallery.calibrate(0.05, strangers=tmp_path / "strangers", metric=metric, closer="none")
            answers = gallery.identify_embeddings(embeddings, k=1)
            pairs = zip(answers, asked, strict=True)
            hits.append(np.mean([a.matches[0].identity == p.fine for a, p in pairs]))
        assert UNLIKE in str(gallery.info().metric)
        assert hits[1] > hits[0] + 0.05
