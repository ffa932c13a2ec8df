"""Pictures without a file: bytes, open files, PIL images and arrays, enrolled and asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from siamese_search import Encoder, Gallery, Identification
from siamese_search.errors import EncoderError, ImageError, UsageError
from siamese_search.gallery import enrolment
from siamese_search.records import Rejection


def png(seed: int) -> bytes:
    content = BytesIO()
    picture(seed).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def kinds(tmp_path: Path) -> list[Any]:
    """Five pictures (seeds 0 to 4), each given in another way."""
    picture(4).save(tmp_path / "4.png")
    return [picture(0), png(1), BytesIO(png(2)), np.asarray(picture(3)), tmp_path / "4.png"]


@pytest.mark.parametrize("copy", [False, True])
def test_all_kinds_are_enrolled_and_found(
    copy: bool, tmp_path: Path, toy: Encoder, coarse: Encoder, kinds: list[Any]
) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        assert gallery.enroll(kinds, label="x", copy=copy).added == 5
        assert gallery.enroll(kinds, label="x").skipped == 5
        found = gallery.search(toy.embed([picture(seed) for seed in range(5)]), 1)
        assert found[1].min() > 0.9999
        assert len(set(found[0][:, 0].tolist())) == 5
        # Asked about as they are enrolled; an open file may be read again.
        assert all(one.score == pytest.approx(1, abs=1e-4)
                   for one in gallery.identify(kinds, rule="best"))  # fmt: skip
        items = gallery.items("x")
        assert [item.source for item in items if item.source] == [str(tmp_path / "4.png")]
        assert gallery.check() == []
        report = gallery.rebuild(coarse)
        assert report.switched is copy
        if copy:
            assert [len(gallery.image(item)) > 0 for item in items] == [True] * 5
            assert gallery.identify(picture(3), rule="best")[0].matches[0].score > 0.999
        else:
            assert [one.path for one in report.missing] == [
                f"item {item.number}" for item in items if item.source is None
            ]
            assert "without a file" in report.missing[0].reason
            assert gallery.identify(picture(0), rule="best")[0].identity == "x"  # as before


def test_bytes_and_a_file_of_the_same_content_are_one_item(tmp_path: Path, toy: Encoder) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll(png(1), label="x")
        assert gallery.items("x")[0].source is None
        (tmp_path / "1.png").write_bytes(png(1))
        assert gallery.enroll(tmp_path / "1.png", label="x").skipped == 1
        assert gallery.items("x")[0].source == str(tmp_path / "1.png")  # so a rebuild finds it
        assert gallery.enroll(png(1), label="x").skipped == 1
        assert gallery.items("x")[0].source == str(tmp_path / "1.png")


def test_copies_of_pixels_are_the_same_pixels(tmp_path: Path, toy: Encoder) -> None:
    turned = picture(1)
    turned.getexif()[0x0112] = 6  # to be turned right by a quarter
    images = [picture(0).convert("L"), picture(2).convert("RGBA"), turned]
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll(images, label="x", copy=True)
        copies = [Image.open(BytesIO(gallery.image(item))) for item in gallery.items("x")]
    expected = [images[0], picture(2), picture(1).transpose(Image.Transpose.ROTATE_270)]
    for made, wanted in zip(copies, expected, strict=True):
        assert np.array_equal(np.asarray(made), np.asarray(wanted))


def test_metadata_are_of_all_that_is_enrolled(tmp_path: Path, toy: Encoder) -> None:
    picture(1).save(tmp_path / "1.png")
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([tmp_path / "1.png", picture(2)], "x", metadata={"shop": "north", "year": 3})
        assert [item.metadata for item in gallery.items("x")] == [
            {"shop": "north", "year": "3"}
        ] * 2
        (answer,) = gallery.identify(picture(2), where={"shop": "north"}, rule="best")
        assert answer.identity == "x"
        with pytest.raises(UsageError, match="metadata is"):
            gallery.enroll(picture(3), "x", metadata={"": "x"})


def test_each_picture_may_have_its_own_label_and_metadata(tmp_path: Path, toy: Encoder) -> None:
    picture(1).save(tmp_path / "1.png")
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        images = [picture(2), tmp_path / "1.png", picture(3)]
        facts = [{"shop": "north"}, {}, {"shop": "south"}]
        assert gallery.enroll(images, labels=["a", "b", "a"], metadata=facts).added == 3
        assert [item.metadata for item in gallery.items("a")] == [facts[0], facts[2]]
        assert gallery.identities() == [("a", 2), ("b", 1)]
        gallery.undo()
        assert len(gallery) == 0
        (number,) = gallery.enroll(
            images[0], "a", metadata={"day": date(2024, 5, 1), "count": np.int64(3)}
        ).numbers
        (item,) = gallery.items_by_number(number)
        assert item.metadata == {"day": "2024-05-01", "count": "3"}
        for wrong, said in (
            ({"labels": ["a"]}, "1 labels, but 3 images"),
            ({"labels": "abc"}, "labels is 'abc'"),
            ({"labels": ["a", "b", ""]}, "'' cannot be an identity"),
            ({"labels": ["a"] * 3, "label": "a"}, "use one"),
            ({"label": "a", "metadata": [{}]}, "1 metadata, but 3 images"),
        ):
            with pytest.raises(UsageError, match=said):
                gallery.enroll(images, **wrong)


def test_a_generator_is_enrolled_as_it_goes(
    tmp_path: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "COMMIT_SECONDS", 0.0)
    made: list[int] = []

    def stopped() -> Iterator[Image.Image]:
        for number in range(400):
            made.append(number)
            yield picture(number)
        raise KeyboardInterrupt

    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        first: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            gallery.enroll(stopped(), label="a", watch=lambda _: first.append(len(made)))
        assert first[0] < 400
        assert len(gallery) > 0
        assert gallery.check() == []


def test_a_path_that_is_not_there_loses_no_other(tmp_path: Path, toy: Encoder) -> None:
    picture(1).save(tmp_path / "1.png")
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        report = gallery.enroll([tmp_path / "1.png", tmp_path / "nowhere.png"])
        assert report.added == 1
        (missing,) = report.rejected
        assert missing == Rejection(str(tmp_path / "nowhere.png"), "no such file or folder")


def test_what_cannot_be_read_is_named_and_loses_no_other(tmp_path: Path, toy: Encoder) -> None:
    (tmp_path / "text.png").write_text("text")
    bad = [b"", b"text", BytesIO(b"text"), np.empty((0, 4, 3), np.uint8), tmp_path / "text.png"]
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        report = gallery.enroll([*bad, picture(1)], label="x")
        assert report.added == 1
        named = {one.path for one in report.rejected}
        assert named == {*(f"images[{n}]" for n in range(4)), str(tmp_path / "text.png")}
        answers = [answer for _, answer in gallery.identify_each([*bad, picture(1)])]
        assert [isinstance(one, ImageError) for one in answers] == [True] * 5 + [False]
        assert isinstance(answers[-1], Identification)
        assert answers[-1].identity == "x"
        with pytest.raises(ImageError, match=r"^images\[1\]: not an image"):
            gallery.identify([picture(1), b"text"])


def test_a_picture_without_a_file_needs_a_label(tmp_path: Path, toy: Encoder) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        with pytest.raises(UsageError, match=r"images\[0\] has no file to be named by"):
            gallery.enroll([picture(1)])
        with pytest.raises(UsageError, match="is of type int"):
            gallery.enroll([7], label="x")
        assert len(gallery) == 0
        report = gallery.enroll([StringIO("text"), np.zeros((4, 4, 3)), picture(1)], label="x")
        assert report.added == 1
        text, array = (one.reason for one in report.rejected)
        assert "with mode 'rb'" in text
        assert "uint8" in array


@pytest.fixture
def gallery(tmp_path: Path, toy: Encoder) -> Gallery:
    return Gallery.open(tmp_path / "gallery", toy)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (None, "images is None: a picture is a path"),
        (3, "images is of type int"),
        ([["a.png"]], r"images\[0\] is of type list: .* one flat list"),
        ([], "no images in an empty list"),
        ([np.zeros((4, 4), np.uint8), None], r"images\[1\] is None"),
        ({"a": "a.png"}, "images is a dict: give its pictures as a list"),
        ([("a", "a.png")], r"images\[0\] is of type tuple"),
        ("", "'': (no such file|there is no such file)"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("way", ["identify", "identify_each", "enroll", "labelled", "embed"])
def test_what_cannot_be_pictures_is_named(
    gallery: Gallery, images: Any, said: str, way: str
) -> None:
    ways: dict[str, Callable[[Any], Any]] = {
        "identify": gallery.identify,
        "identify_each": lambda given: list(gallery.identify_each(given)),
        "enroll": gallery.enroll,
        "labelled": lambda given: gallery.enroll(given, label="x"),
        "embed": gallery.encoder.embed,
    }
    if images in ([], "") and way not in ("enroll", "labelled"):
        return  # no pictures, no answers; of a stream, each has its own error
    before = len(gallery)
    with pytest.raises((UsageError, ImageError), match=said):
        ways[way](images)
    assert len(gallery) == before


def test_folders_and_generators_are_taken_where_they_make_sense(
    gallery: Gallery, tmp_path: Path
) -> None:
    folder = tmp_path / "several"
    folder.mkdir()
    for seed in (50, 51):
        picture(seed).save(folder / f"{seed}.png")
    assert gallery.enroll(path for path in sorted(folder.iterdir())).added == 2
    assert gallery.enroll(str(folder)).skipped == 2
    with pytest.raises(ImageError, match=r"several: a folder, .*: name the files in it"):
        gallery.identify(str(folder))
    answers = gallery.identify(path for path in sorted(folder.iterdir()))
    assert [answer.identity for answer in answers] == ["50", "51"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"k": "5"}, "k is '5': it needs a whole number"),
        ({"k": 2.5}, "k is 2.5"),
        ({"threshold": "high"}, "threshold is 'high': it needs a number"),
        ({"where": "shop=north"}, "where is 'shop=north': it needs names and texts"),
        ({"turns": None}, "turns is None"),
    ],
    ids=repr,
)
def test_arguments_of_other_types_are_named(
    gallery: Gallery, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        gallery.identify(picture(0), **arguments)
    for item in ("x", 1.5, ["a"]):
        with pytest.raises(UsageError, match=r"item is .*: it needs a number"):
            gallery.remove(item=item)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="None is no path"):
        Gallery.open(None)  # type: ignore[arg-type]
    with pytest.raises(EncoderError, match="3 is no encoder"):
        Encoder.open(3)  # type: ignore[arg-type]
