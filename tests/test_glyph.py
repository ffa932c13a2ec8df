"""The shipped encoder ``glyph`` for characters and symbols."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from siamese_search import Encoder
from siamese_search.embedding.record import SHIPPED, shipped


@pytest.fixture(scope="module")
def glyph() -> Encoder:
    return Encoder.open("glyph", "cpu")


def drawn(strokes: list[tuple[int, int]], shift: int = 0, width: int = 3) -> Image.Image:
    """A character of one line in black on white, 105 pixels wide, as in Omniglot."""
    image = Image.new("L", (105, 105), 255)
    moved = [(x + shift, y + shift) for x, y in strokes]
    ImageDraw.Draw(image).line(moved, fill=0, width=width)
    return image


CHARACTERS = {
    "L": [(30, 15), (30, 85), (75, 85)],
    "Z": [(25, 20), (80, 20), (25, 85), (80, 85)],
    "A": [(20, 90), (52, 15), (85, 90), (65, 55), (38, 55)],
    "N": [(25, 90), (25, 15), (80, 90), (80, 15)],
}


def test_it_is_small_and_of_its_own_kind(glyph: Encoder) -> None:
    assert {"general", "glyph"} <= set(shipped())
    assert glyph.dimension == 256
    assert glyph.record.preprocessing.channels == 1
    assert sum(path.stat().st_size for path in (SHIPPED / "glyph").iterdir()) < 12_000_000


def test_one_drawing_of_each_character_identifies_others(glyph: Encoder) -> None:
    enrolled = glyph.embed([drawn(strokes) for strokes in CHARACTERS.values()])
    for shift, width in ((4, 3), (-5, 2), (3, 5)):
        probes = glyph.embed([drawn(strokes, shift, width) for strokes in CHARACTERS.values()])
        assert (probes @ enrolled.T).argmax(axis=1).tolist() == list(range(len(CHARACTERS)))


def test_a_mirrored_character_is_another_one(glyph: Encoder) -> None:
    image = drawn(CHARACTERS["L"])
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    same, other = glyph.embed([drawn(CHARACTERS["L"], 4), mirrored]) @ glyph.embed([image])[0]
    assert same > other


@pytest.mark.slow
def test_torch_agrees(glyph: Encoder) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("timm")
    from siamese_search.embedding.torch_runtime import TorchRuntime

    on_torch = TorchRuntime(glyph.folder, glyph.record, "cpu")
    size = glyph.record.preprocessing.width, glyph.record.preprocessing.height
    pixels = np.stack(
        [np.asarray(drawn(strokes).resize(size))[..., None] for strokes in CHARACTERS.values()]
    )
    agreement = (glyph.runtime.embed(pixels) * on_torch.embed(pixels)).sum(axis=1)
    assert agreement.min() >= 0.999
