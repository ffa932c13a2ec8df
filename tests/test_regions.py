"""Regions and turns of pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamese_search.errors import UsageError
from siamese_search.pictures import regions, render
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.pictures.regions import Box, Region


def test_a_box_is_what_it_says() -> None:
    assert regions.parse_box("40,0,320,240") == Box(40, 0, 320, 240)
    assert regions.parse_box(" 1, 2, 3, 4 ") == Box(1, 2, 3, 4)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1.5,0,2,2"])
def test_what_is_no_box_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="box"):
        regions.parse_box(text)


@pytest.mark.parametrize(
    "box", [(1, 2, 0, 4), (0, 0, 5, 0), (-1, 0, 5, 5), (0, -1, 5, 5), (1, 2, 3), (0, 0, 1.5, 2)]
)
def test_a_region_has_pixels_and_begins_within(box: Any) -> None:
    with pytest.raises(UsageError, match="box"):
        Region("shelf.jpg", box)


@pytest.mark.parametrize(("width", "height"), [(400, 300), (7, 5), (1, 1)])
@pytest.mark.parametrize("along", [1, 2, 3, 4])
def test_windows_cover_the_picture_and_lie_within(width: int, height: int, along: int) -> None:
    boxes = regions.windows(width, height, along)
    covered = np.zeros((height, width), bool)
    for box in boxes:
        assert box.left >= 0
        assert box.top >= 0
        assert box.left + box.width <= width
        assert box.top + box.height <= height
        covered[box.top : box.top + box.height, box.left : box.left + box.width] = True
    assert len(boxes) == along**2
    assert covered.all()


def test_windows_overlap_by_half() -> None:
    assert regions.windows(400, 300, 3)[:3] == [
        Box(0, 0, 200, 150),
        Box(100, 0, 200, 150),
        Box(200, 0, 200, 150),
    ]
    assert regions.windows(400, 300, 1) == [Box(0, 0, 400, 300)]
    with pytest.raises(UsageError):
        regions.windows(400, 300, 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_quarter_turns_move_pixels_and_the_first_is_what_the_encoder_takes(channels: int) -> None:
    how = Preprocessing(28, 28, channels=channels, crop_fraction=0.875)  # type: ignore[arg-type]
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    wide = render.prepare(picture, how.uncut())
    turned = regions.turns(wide, 4, how)
    assert turned.dtype == np.uint8
    assert turned.shape == (4, 28, 28, channels)
    assert np.array_equal(turned[0], render.prepare(picture, how))
    for number in range(4):
        assert np.array_equal(turned[number], np.rot90(turned[0], number))


def test_the_same_picture_turned_beforehand_is_found_among_turns() -> None:
    how = Preprocessing(56, 56, crop_fraction=0.875)
    low, high = np.mgrid[0:64, 0:64]
    smooth = np.stack([4 * low, 4 * high, 2 * low + 2 * high], axis=2).astype(np.uint8)
    beforehand = np.asarray(Image.fromarray(smooth).rotate(-45, Image.Resampling.BILINEAR))
    turned = regions.turns(render.prepare(beforehand, how.uncut()), 8, how)
    middle = np.s_[18:38, 18:38]
    upright = render.prepare(smooth, how)[middle].astype(int)
    errors = [np.abs(one[middle].astype(int) - upright).mean() for one in turned]
    assert int(np.argmin(errors)) == 1
    assert errors[1] < 4 < min(np.delete(errors, 1))


def test_corners_from_outside_have_the_colour_of_the_border() -> None:
    how = Preprocessing(40, 40, resize="pad", crop_fraction=1.0)
    pixels = np.full((40, 40, 3), (200, 100, 50), np.uint8)
    pixels[10:30, 10:30] = 0
    assert how.uncut() == how
    turned = regions.turns(pixels, 8, how)[1]
    assert turned[0, 0].tolist() == [200, 100, 50]
    assert turned[20, 20].tolist() == [0, 0, 0]


@pytest.mark.parametrize("count", [0, -1, 65])
def test_a_count_of_turns_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match="turns"):
        regions.turns(np.zeros((8, 8, 3), np.uint8), count, Preprocessing(8, 8))
