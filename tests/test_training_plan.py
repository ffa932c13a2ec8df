"""A look at the pictures, and what ``train`` chooses by it."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from conftest import picture  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

from siamese_search.errors import TrainingError, UsageError  # noqa: E402
from siamese_search.records import ImageFile  # noqa: E402
from siamese_search.training import pace, plan  # noqa: E402
from siamese_search.training.data import found_files  # noqa: E402
from siamese_search.training.plan import Plan, in_lines, planned  # noqa: E402
from siamese_search.training.settings import Settings  # noqa: E402
from siamese_search.training.survey import Survey, survey  # noqa: E402
from siamese_search.words import duration  # noqa: E402


def photo(seed: int) -> Image.Image:
    """Smooth random colours, which differ from one seed to another."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)


def character(seed: int, dark: bool = True) -> Image.Image:
    """Some strokes of a pen on plain ground, in grey."""
    random = np.random.default_rng(seed)
    page = Image.new("L", (105, 105), 255 if dark else 0)
    points = [tuple(point) for point in random.integers(15, 90, (5, 2)).tolist()]
    ImageDraw.Draw(page).line(points, fill=0 if dark else 255, width=3)
    return page


def written(folder: Path, made: dict[str, list[Image.Image]]) -> list[ImageFile]:
    """A folder for each class."""
    for name, images in made.items():
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(images):
            image.save(folder / name / f"{number}.png")
    return found_files([folder], folder / "out")[0]


SEEN = Survey(
    classes=100,
    pictures=2000,
    each=20,
    singles=0,
    looked=360,
    width=640,
    height=480,
    grey=0.0,
    drawings=0.0,
    twins=0.0,
)
DRAWN = replace(SEEN, grey=1.0, drawings=1.0)


def chosen(seen: Survey, **given: object) -> Settings:
    return planned(seen, given).settings


# The look


def test_photos_are_seen_as_photos(tmp_path: Path) -> None:
    made = {f"c{n}": [photo(10 * n + k) for k in range(3)] for n in range(4)}
    seen = survey(written(tmp_path, made))
    assert (seen.classes, seen.pictures, seen.each, seen.singles, seen.looked) == (4, 12, 3, 0, 12)
    assert (seen.width, seen.height) == (160, 120)
    assert (seen.grey, seen.drawings, seen.twins, seen.fours) == (0, 0, 0, 0)


@pytest.mark.parametrize("dark", [True, False])
def test_strokes_on_plain_ground_are_drawings(tmp_path: Path, dark: bool) -> None:
    made = {f"c{n}": [character(10 * n + k, dark) for k in range(3)] for n in range(4)}
    seen = survey(written(tmp_path, made))
    assert (seen.grey, seen.drawings, seen.twins) == (1, 1, 0)


def test_what_is_no_drawing(tmp_path: Path) -> None:
    disc = Image.new("L", (105, 105), 255)
    ImageDraw.Draw(disc).ellipse((25, 25, 80, 80), fill=0)  # a thing on plain ground
    red = Image.new("RGB", (105, 105), "white")
    ImageDraw.Draw(red).line((10, 10, 90, 80), fill="red", width=12)
    blank = Image.new("L", (105, 105), 255)
    grey = photo(3).convert("L")
    seen = survey(written(tmp_path, {"a": [disc, red], "b": [blank, grey]}))
    assert seen.drawings == 0
    assert seen.grey == 0.75


def test_copies_of_a_class_are_seen_and_alike_pictures_of_two_classes_are_none(
    tmp_path: Path,
) -> None:
    same = photo(1)
    brighter = same.point([min(255, value + 12) for value in range(256)] * 3)
    made = {"a": [same, brighter, photo(2)], "b": [same, photo(3)], "c": [photo(4)]}
    seen = survey(written(tmp_path, made))
    assert seen.twins == pytest.approx(2 / 5)
    assert seen.singles == 1
    assert survey(written(tmp_path / "more", {"a": [photo(1)], "b": [photo(2)]})).twins is None


def test_a_look_is_bounded(tmp_path: Path) -> None:
    shown = photo(1)
    shown.save(tmp_path / "one.png")
    files = [ImageFile(str(tmp_path / "one.png"), f"c{n % 200}") for n in range(4000)]
    seen = survey(files)
    assert (seen.classes, seen.pictures, seen.each) == (200, 4000, 20)
    assert seen.looked <= 360


def test_damaged_pictures_are_passed_over_but_not_all(tmp_path: Path) -> None:
    files = written(tmp_path, {"a": [photo(1), photo(2)], "b": [photo(3)]})
    Path(files[0].path).write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert survey(files).looked == 2
    for file in files:
        Path(file.path).write_bytes(b"nothing")
    with pytest.raises(TrainingError, match=r"none of the pictures.*0\.png"):
        survey(files)
    with pytest.raises(TrainingError, match="no pictures"):
        survey([])


# The rules


def test_photos_start_from_the_shipped_encoder_for_photos() -> None:
    made = planned(SEEN, {})
    assert made.settings.start == made.otherwise == "general-2"
    assert made.settings.augmentation == "photo"
    assert not made.cautions


def test_drawings_start_from_glyph_and_from_scratch_where_classes_are_many() -> None:
    few, many = planned(DRAWN, {}), planned(replace(DRAWN, classes=900, pictures=18_000), {})
    assert (few.settings.start, many.settings.start) == ("glyph", "scratch")
    assert few.otherwise == many.otherwise == "glyph"
    assert few.settings.augmentation == many.settings.augmentation == "glyph"
    assert many.settings.steps > few.settings.steps
    assert many.settings.give_up is None  # what begins with noise has no start to keep


@pytest.mark.parametrize(("each", "images", "classes"), [(20, 4, 16), (3, 3, 21), (2, 2, 32)])
def test_a_batch_fits_how_many_pictures_classes_have(each: int, images: int, classes: int) -> None:
    made = chosen(replace(SEEN, each=each))
    assert (made.images, made.classes) == (images, classes)


def test_a_batch_has_no_more_classes_than_are_trained_on() -> None:
    assert chosen(replace(SEEN, classes=12, pictures=120)).classes == 8
    assert planned(SEEN, {}, processes=3).settings.classes == 15  # which share it evenly


def test_few_classes_are_all_trained_on_where_pictures_of_each_are_held_out() -> None:
    made = planned(replace(SEEN, classes=8, pictures=32, each=4, fours=8), {})
    assert (made.settings.classes, made.settings.holdout) == (8, 0.2)
    reasons = {one.setting: one.reason for one in made.choices}
    assert reasons["classes"] == "all that are trained on"
    assert "about 120 times" in reasons["steps"]  # 16 pictures, 60 batches of 32
    shared = planned(replace(SEEN, classes=8, pictures=32, each=4, fours=8), {}, processes=3)
    reasons = {one.setting: one.reason for one in shared.choices}
    assert (shared.settings.classes, reasons["classes"][:21]) == (6, "as many as 3 processe")


@pytest.mark.parametrize(
    ("seen", "given"),
    [
        (replace(SEEN, each=1, singles=100, pictures=100), {}),
        (replace(SEEN, classes=8, pictures=24, each=3, fours=0), {}),
        (replace(SEEN, classes=8, pictures=24, each=3, fours=0), {"holdout": 0.2}),
        (SEEN, {"holdout": 0.0}),
    ],
)
def test_a_plan_without_anything_held_out_says_so(seen: Survey, given: dict[str, object]) -> None:
    made = planned(seen, given)
    reasons = {one.setting: one.reason for one in made.choices}
    assert reasons["epoch_steps"].startswith("nothing is held out")
    assert made.settings.give_up is None
    assert "give_up" not in reasons
    assert made.settings.holdout == given.get("holdout", 0.0)


def test_classes_without_pairs_make_pairs_of_views() -> None:
    lonely = replace(SEEN, each=1, singles=100, pictures=100, twins=None)
    made = chosen(lonely)
    assert (made.loss, made.images, made.holdout) == ("self-supervised", 2, 0.0)
    some = chosen(replace(SEEN, each=1, singles=60))
    assert (some.loss, some.images) == ("multi-similarity", 2)


@pytest.mark.parametrize(
    ("classes", "share"), [(8, 0.2), (12, 0.3), (29, 0.3), (30, 0.2), (250, 0.1)]
)
def test_how_much_is_held_out_goes_by_how_many_classes_there_are(
    classes: int, share: float
) -> None:
    assert chosen(replace(SEEN, classes=classes)).holdout == share


def test_steps_go_by_how_many_pictures_there_are_within_bounds() -> None:
    steps = [chosen(replace(SEEN, pictures=count)).steps for count in (100, 2000, 8000, 10**6)]
    assert steps == [60, 120, 500, 600]
    for made in (chosen(replace(SEEN, pictures=count)) for count in (100, 2000, 8000)):
        assert 10 <= made.steps / made.epoch_steps <= 12


def test_what_a_user_sets_wins_and_the_rest_is_chosen_to_suit() -> None:
    given = {"start": "scratch", "images": 2, "steps": 7, "loss": "triplet", "rate": 1e-3}
    made = planned(SEEN, given)
    assert {name: getattr(made.settings, name) for name in given} == given
    assert made.settings.classes == 80  # a batch from scratch is larger: all that are trained on
    assert made.settings.epoch_steps == 1
    own = {one.setting for one in made.choices if one.given}
    assert own == given.keys()
    lines = "\n".join(in_lines(made))
    assert "from" in lines
    for one in made.choices:
        assert one.reason in lines
        assert one.reason == ("as you say" if one.given else one.reason)


def test_settings_that_make_no_sense_are_a_clear_error() -> None:
    for given, says in (
        ({"holdout": 2.0}, "holdout is 2.0"),
        ({"images": 0}, "images is 0: at least 2"),
        ({"loss": "best"}, "unknown loss 'best'"),
        ({"give_up": 3.0}, "give_up is 3.0"),
    ):
        with pytest.raises(UsageError, match=says):
            planned(SEEN, given)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_a_handful_of_pictures_has_a_plan_that_can_be_run(classes: int) -> None:
    made = chosen(replace(SEEN, classes=classes, pictures=4 * classes, each=4))
    assert made.resolved().classes >= 2
    assert made.steps >= 60


def test_what_one_should_know_of_the_pictures_is_said() -> None:
    (caution,) = planned(replace(SEEN, twins=0.5), {}).cautions
    assert "50%" in caution
    assert "flatter" in caution
    (caution,) = planned(replace(SEEN, drawings=0.4), {}).cautions
    assert "an encoder for each kind" in caution


def test_python_s_settings_stay_what_they_were() -> None:
    """Runs by the library can be made again; only the command chooses."""
    made = Settings()
    assert (made.start, made.augmentation, made.loss) == ("general-2", "photo", "multi-similarity")
    assert (made.steps, made.epoch_steps, made.classes, made.images) == (600, 50, 16, 4)
    assert (made.holdout, made.patience, made.crop, made.give_up) == (0.2, 8, None, None)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = planned(replace(SEEN, twins=0.5), {"steps": 9})
    made.write(tmp_path)
    assert Plan.read(tmp_path, made.settings) == made
    assert json.loads((tmp_path / plan.NAME).read_text()).keys() == {
        one.name for one in fields(Plan) if one.name != "settings"
    }
    (tmp_path / plan.NAME).write_text("{}")
    with pytest.raises(TrainingError, match=r"plan\.json is damaged"):
        Plan.read(tmp_path, made.settings)
    assert Plan.read(tmp_path / "none", made.settings) is None


# The time it takes


def test_the_time_is_said_once_by_the_steps_after_the_first() -> None:
    said: list[str] = []
    now = [0.0]
    timer = pace.Pace(600, 64, 30.0, said.append, 600, lambda: now[0])
    for number in range(50):
        # What is slow at first tells nothing, nor does a look at what is held out.
        now[0] += 60.0 if number < 2 or number == 5 else 0.5
        timer.step()
    assert said == ["about 6 minutes: 600 steps of 64 pictures at 2.0 steps a second here"]
    slow = pace.Pace(60, 64, 0.0, said.append, 60, lambda: now[0])
    for _ in range(5):
        now[0] += 10.0
        slow.step()
    assert said[1:] == ["about 10 minutes: 60 steps of 64 pictures at 10.0 seconds a step here"]
    assert "2.0 seconds a step" in pace.in_words(10, 64, 0.5)
    assert pace.in_words(100, 64, 1.0, 10.0, work=170.0) == (
        "about 3 minutes: 100 steps of 64 pictures at 1.0 steps a second here, slower later"
    )
    assert duration(80) == "80 seconds"
    assert duration(7200) == "2.0 hours"


def test_pictures_of_a_mosaic_are_photos(tmp_path: Path) -> None:
    made = {f"c{n}": [picture(n, noise=20)] for n in range(3)}
    assert survey(written(tmp_path, made)).drawings == 0
