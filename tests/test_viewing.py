"""Parts of pictures, and turned pictures, as probes: the Python way and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from PIL import Image
from shell import Shell

from siamese_search import Encoder, Gallery, Region
from siamese_search.decision.evidence import evidence_of, most_evident
from siamese_search.embedding.turning import describe_turns_each
from siamese_search.errors import ImageError, UsageError
from siamese_search.gallery.viewing import Answer, in_windows, what_is_where
from siamese_search.records import Identification, Match

Pictures = Callable[..., Path]
SIDE = 32  # of the pictures that are enrolled


def sheet(rows: list[list[int]]) -> Image.Image:
    """Pictures by their seeds, side by side."""
    page = Image.new("RGB", (SIDE * len(rows[0]), SIDE * len(rows)))
    for y, row in enumerate(rows):
        for x, seed in enumerate(row):
            page.paste(picture(seed), (SIDE * x, SIDE * y))
    return page


@pytest.fixture
def gallery(tmp_path: Path, toy: Encoder, pictures: Pictures) -> Gallery:
    opened = Gallery.open(tmp_path / "gallery", toy)
    opened.enroll([pictures({f"id{n}": 1 for n in range(6)})])
    return opened


# ------------------------------------------------------------------------------------- regions


def test_regions_are_identified_and_embedded_as_pictures_of_their_own(
    gallery: Gallery, toy: Encoder, tmp_path: Path
) -> None:
    path = tmp_path / "sheet.png"
    sheet([[2, 50], [4, 3]]).save(path)
    corners = {"id2": (0, 0), "id4": (0, SIDE), "id3": (SIDE, SIDE)}
    for image in (path, str(path), Image.open(path), np.asarray(Image.open(path))):
        regions = [Region(image, (*corner, SIDE, SIDE)) for corner in corners.values()]
        answers = gallery.identify(regions, k=1)
        assert [answer.identity for answer in answers] == list(corners)
        assert np.allclose(toy.embed(regions[:1]), toy.embed([picture(2)]), atol=0.01)
    assert gallery.identify([path])[0].identity is None


def test_regions_of_a_picture_that_is_not_loaded_yet_do_not_disturb_each_other(
    toy: Encoder, tmp_path: Path
) -> None:
    path = tmp_path / "sheet.png"
    sheet([[2, 50], [4, 3]]).resize((2000, 2000), Image.Resampling.NEAREST).save(path)
    boxes = [(x, y, 1000, 1000) for x in (0, 500, 1000) for y in (0, 500, 1000)]
    expected = toy.embed([Region(path, box) for box in boxes])
    with Image.open(path) as image:
        assert np.allclose(toy.embed([Region(image, box) for box in boxes]), expected, atol=1e-3)


def test_a_region_beyond_its_picture_is_an_error_of_its_own(
    gallery: Gallery, tmp_path: Path
) -> None:
    path = tmp_path / "sheet.png"
    sheet([[2, 50]]).save(path)
    beyond, good = Region(path, (SIDE, 1, SIDE, SIDE)), Region(path, (0, 0, SIDE, SIDE))
    (first, error), (second, answer) = gallery.identify_each([beyond, good])
    assert (first, second) == (beyond, good)
    assert isinstance(error, ImageError)
    assert isinstance(answer, Identification)
    assert answer.identity == "id2"
    with pytest.raises(ImageError, match=r"sheet\.png: the box 32,1,32,32 does not lie within"):
        gallery.identify([beyond])
    assert [answer.identity for answer in gallery.identify(good)] == ["id2"]


def test_windows_say_what_is_where(gallery: Gallery) -> None:
    page = sheet([[2, 50], [4, 3]])
    probes = in_windows(page, 3)
    assert probes[0] is page
    (whole, _), *found = what_is_where(gallery.identify_each(probes, k=2))
    assert whole is page
    named = {a.identity: probe.box for probe, a in found if isinstance(a, Identification)}
    assert named == {
        "id2": (0, 0, SIDE, SIDE),
        "id4": (0, SIDE, SIDE, SIDE),
        "id3": (SIDE, SIDE, SIDE, SIDE),
    }
    for along in (1, 9):
        with pytest.raises(UsageError, match="windows"):
            in_windows(page, along)


def test_the_best_window_stands_for_its_identity_and_errors_are_kept() -> None:
    def answer(identity: str | None, score: float) -> Identification:
        return Identification(identity, score, score, 0.5, ())

    error = ImageError("no embedding")
    whole, weak, strong = answer("a", 0.6), answer("a", 0.7), answer("a", 0.9)
    other, unknown = answer("b", 0.8), answer(None, 0.1)
    answers: list[Answer] = [
        ("whole", whole),
        (1, weak),
        (2, error),
        (3, other),
        (4, strong),
        (5, unknown),
    ]
    assert what_is_where(answers) == [("whole", whole), (4, strong), (3, other), (2, error)]


# --------------------------------------------------------------------------------------- turns


def test_turns_of_pictures_are_embedded_upright_first(toy: Encoder, tmp_path: Path) -> None:
    turned = picture(1).transpose(Image.Transpose.ROTATE_270)
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    looks = dict(enumerate(describe_turns_each(toy, [turned, broken, picture(2)], 4)))
    assert looks[0][0] is turned
    assert looks[1][0] is broken
    assert isinstance(looks[1][1], ImageError)
    first, second = looks[0][1], looks[2][1]
    assert isinstance(first, list)
    assert isinstance(second, list)
    assert len(first) == len(second) == 4
    assert np.allclose(first[0].embedding, toy.embed([turned])[0], atol=1e-3)
    assert np.allclose(first[1].embedding, toy.embed([picture(1)])[0], atol=0.01)
    assert np.allclose(second[0].embedding, toy.embed([picture(2)])[0], atol=1e-3)
    (once,) = describe_turns_each(toy, [turned], 1)
    assert isinstance(once[1], list)
    assert np.array_equal(once[1][0].embedding, toy.embed([turned])[0])


def test_a_picture_that_lies_anyhow_is_named_by_its_best_turn(gallery: Gallery) -> None:
    turned = [picture(n).transpose(Image.Transpose.ROTATE_90) for n in range(6)]
    names = [f"id{n}" for n in range(6)]
    assert [answer.identity for answer in gallery.identify(turned)] == [None] * 6
    answers = gallery.identify(turned, k=1, turns=4)
    assert [answer.identity for answer in answers] == names
    assert all(len(answer.matches) == 1 and answer.score > 0.99 for answer in answers)  # type: ignore[operator]
    each = [answer for _, answer in gallery.identify_each(turned, k=1, turns=4)]
    assert each == answers
    pair = sheet([[50, 1]]).transpose(Image.Transpose.ROTATE_180)
    (answer,) = gallery.identify([Region(pair, (0, 0, SIDE, SIDE))], turns=4)
    assert answer.identity == "id1"
    assert gallery.identify([], turns=4) == []
    for turns in (0, 65):
        with pytest.raises(UsageError, match="turns"):
            gallery.identify(turned, turns=turns)


def test_an_unknown_that_was_turned_is_kept_as_it_is(gallery: Gallery, tmp_path: Path) -> None:
    path = tmp_path / "strange.png"
    picture(50).save(path)
    list(gallery.identify_each([path], turns=8, keep_unknown=True))
    (group,) = gallery.unknowns()
    assert group.paths == (str(path),)
    (plain,) = gallery.identify([path], k=1)
    assert group.nearest is not None
    assert group.nearest.score == pytest.approx(plain.score, abs=1e-3)


def test_most_evident_is_what_stands_out_most_named_or_not() -> None:
    def look(*scores: float, distractor: bool = False) -> list[Match]:
        return [Match(f"id{n}", score, n, None, distractor) for n, score in enumerate(scores)]

    assert most_evident([look(0.9, 0.8), look(0.8, 0.2), look(0.7, 0.1)]) == 1
    assert most_evident([look(0.6, 0.2), look(0.9, 0.1, distractor=True)]) == 1
    assert most_evident([[], look(0.1)]) == 1
    assert most_evident([[], []]) == 0


def test_strangers_in_several_turns_raise_the_threshold(
    gallery: Gallery, pictures: Pictures
) -> None:
    strange = pictures({f"other{n}": 1 for n in range(30)}, "strangers", first_seed=100)
    with pytest.raises(UsageError, match="--strangers"):
        gallery.calibrate(0.1, turns=4)
    once = gallery.calibrate(0.1, strangers=[strange])
    often = gallery.calibrate(0.1, strangers=[strange], turns=4)
    assert (once.turns, often.turns) == (1, 4)
    assert often.thresholds[0.1] > once.thresholds[0.1]
    assert gallery.calibration == often
    assert "4 turns" in (gallery.info().calibration or "")
    # What a stranger shows in four turns is what it was calibrated by.
    answers = gallery.identify(sorted(strange.rglob("*.png")), turns=4)
    values = sorted(evidence_of(answer.matches) for answer in answers)
    assert values == pytest.approx(sorted(often.evidence), abs=1e-4)


# -------------------------------------------------------------------------------- command line


@pytest.fixture
def shell(tmp_path: Path, toy_folder: Path, pictures: Pictures) -> Shell:
    """With six identities enrolled, and `sheet.png`, in which three of them are."""
    opened = Shell(tmp_path, toy_folder)
    opened("add", pictures({f"id{n}": 1 for n in range(6)}), "--encoder", opened.encoder)
    sheet([[2, 50], [4, 3]]).save(tmp_path / "sheet.png")
    return opened


def test_each_crop_of_each_picture_is_answered(shell: Shell) -> None:
    sheet([[5, 0]]).save(shell.folder / "pair.png")
    crops = ("--crop", "0,0,32,32", "--crop", "0,32,32,32")
    asked = ("query", "sheet.png", "pair.png", *crops)
    answers = shell.json(*asked, code=1)
    assert [(a["image"], a["crop"], a["identity"]) for a in answers] == [
        ("sheet.png", [0, 0, 32, 32], "id2"),
        ("sheet.png", [0, 32, 32, 32], "id4"),
        ("pair.png", [0, 0, 32, 32], "id5"),
    ]
    printed = shell(*asked, code=1)
    assert "sheet.png [0,32,32,32]: id4 (98% sure; score 1.000" in printed.stdout
    assert "pair.png [0,32,32,32]: the box 0,32,32,32 does not lie within" in printed.stderr
    assert "64 x 32" in printed.stderr
    assert "crop" not in shell.json("query", "sheet.png")[0]


def test_a_grid_says_what_is_where(shell: Shell) -> None:
    (shell.folder / "broken.png").write_text("no picture")
    answers = shell.json("query", "broken.png", "sheet.png", "--grid", "3", "--k", "1", code=1)
    assert answers[0]["crop"] is None
    assert answers[0]["identity"] is None
    assert {a["identity"]: a["crop"] for a in answers[1:]} == {
        "id2": [0, 0, 32, 32],
        "id3": [32, 32, 32, 32],
        "id4": [0, 32, 32, 32],
    }
    printed = shell("query", "broken.png", "sheet.png", "--grid", "3", code=1)
    assert printed.stdout.startswith("sheet.png: unknown")
    assert "sheet.png [32,32,32,32]: id3 (98% sure; score 1.000" in printed.stdout
    assert printed.stderr.count("rejected") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--crop", "1,2,3"), "X,Y,W,H"),
        (("--crop", "0,0,0,5"), "no pixels"),
        (("--crop", "0,0,5,5", "--grid", "3"), "give one of them"),
        (("--crop", "0,0,5,5", "--keep-unknown"), "whole files"),
        (("--grid", "3", "--keep-unknown"), "whole files"),
    ],
)
def test_what_does_not_go_together_is_refused(
    shell: Shell, options: tuple[str, ...], said: str
) -> None:
    assert said in shell("query", "sheet.png", *options, code=2).stderr


def test_what_was_asked_of_a_part_is_not_enrolled_as_a_whole(shell: Shell) -> None:
    lines = shell("query", "sheet.png", "--crop", "0,0,32,32", "--json").stdout
    (shell.folder / "answers.jsonl").write_text(lines)
    said = shell("add", "--label", "x", "--from-query", "answers.jsonl", code=2).stderr
    assert "is about a part of sheet.png" in said
    whole = json.loads(lines) | {"crop": None}
    (shell.folder / "answers.jsonl").write_text(json.dumps(whole))
    (report,) = shell.json("add", "--label", "x", "--from-query", "answers.jsonl")
    assert report["added"] == 1


def test_turns_name_what_lies_anyhow_and_say_where_the_rate_does_not_hold(
    shell: Shell, pictures: Pictures
) -> None:
    turned = shell.folder / "turned.png"
    picture(1).transpose(Image.Transpose.ROTATE_90).save(turned)
    assert shell.json("query", turned)[0]["identity"] is None
    printed = shell("query", turned, "--turns", "4", "--keep-unknown")
    assert "turned.png: id1 (98% sure; score 1.000" in printed.stdout
    assert "calibrat" not in printed.stderr  # there is no rate to hold
    strange = pictures({f"other{n}": 1 for n in range(30)}, "strange", first_seed=100)
    shell("calibrate", "--fpir", "0.1", "--strangers", strange)
    said = shell("query", turned, turned, "--turns", "4").stderr
    assert said.count("calibrate --strangers FOLDER --turns 4") == 1
    assert not shell("query", turned, "--turns", "4", "--threshold", "0.9").stderr
    found = shell("calibrate", "--strangers", strange, "--turns", "4").stdout
    assert "in 4 turns each" in found
    assert not shell("query", turned, "--turns", "4").stderr
    assert "ask with `--turns 4`" in shell("query", turned).stderr
    assert "--strangers" in shell("calibrate", "--turns", "4", code=2).stderr
