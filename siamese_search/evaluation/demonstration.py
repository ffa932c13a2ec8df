"""The demonstration: one real picture per identity is enrolled, altered views are identified.

The pictures are those that scikit-image carries in its package: 24 ancient coins on one
photograph, and photographs of things, materials and the sky. Some of them are kept out of the
gallery: the strangers, for whom *unknown* is the right answer. Knows nothing of terminals.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageEnhance, ImageFilter

from siamese_search.errors import UsageError
from siamese_search.gallery.gallery import Gallery
from siamese_search.records import Identification

PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png",
    "coffee.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png",
    "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg", "text.png", "color.png",
)  # fmt: skip
STRANGERS = {"brick", "camera", "coffee", "rocket", "coin-05", "coin-12", "coin-17", "coin-23"}

COIN_PHOTOGRAPH = "coins.png"
# Centres of the coins on it, in pixels, row by row.
COINS = (
    (335, 44), (155, 51), (216, 51), (276, 53), (44, 54), (100, 56),
    (270, 119), (46, 124), (206, 124), (336, 125), (103, 126), (153, 127),
    (347, 187), (213, 193), (274, 194), (102, 196), (44, 198), (154, 198),
    (46, 260), (172, 262), (301, 264), (244, 264), (114, 266), (359, 268),
)  # fmt: skip
COIN_REACH = 28  # half the side of a coin's picture, in pixels


class Box(NamedTuple):
    """What is seen of a photograph: the centre, and half the width and height, in pixels."""

    x: float
    y: float
    half_width: float
    half_height: float


class Subject(NamedTuple):
    """An identity, the photograph that shows it, and where."""

    identity: str
    photograph: Image.Image
    box: Box


class Asked(NamedTuple):
    """A probe's identity, and what was said of it."""

    identity: str
    answer: Identification


View = Callable[[Image.Image, Box], Image.Image]


@dataclass(frozen=True)
class Row:
    """How the probes of one kind of view were identified."""

    view: str
    probes: int
    nearest: int  # the best candidate was the right identity
    named: int  # and its score reached the threshold
    misnamed: int  # a wrong identity reached the threshold


@dataclass(frozen=True)
class Outcome:
    """What the demonstration found: a row per kind of view, the strangers' last."""

    rows: tuple[Row, ...]
    identities: int
    threshold: float


def photograph_folder() -> Path:
    """Where scikit-image's files are. Raises UsageError where it is not installed."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise UsageError(
            "the demo needs scikit-image's pictures: pip install 'siamese-search[demo]'"
        )
    return Path(package.origin).parent / "data"


def photographs() -> Iterator[Subject]:
    """Every identity."""
    folder = photograph_folder()
    with Image.open(folder / COIN_PHOTOGRAPH) as image:
        coins = image.convert("RGB")
    for number, centre in enumerate(COINS, start=1):
        yield Subject(f"coin-{number:02}", coins, Box(*centre, COIN_REACH, COIN_REACH))
    for name in PHOTOGRAPHS:
        with Image.open(folder / name) as image:
            photograph = image.convert("RGB")
        photograph.thumbnail((640, 640))
        x, y = photograph.width / 2, photograph.height / 2
        identity = name.split(".")[0].removesuffix("_left")
        yield Subject(identity, photograph, Box(x, y, x, y))


def seen(image: Image.Image, box: Box, scale: float = 1.0, degrees: float = 0.0) -> Image.Image:
    """What lies in a box, scaled about its centre and turned against what is around it."""
    x, y, width, height = box
    turned = image.rotate(degrees, Image.Resampling.BICUBIC, center=(x, y))
    left, top = round(x - width * scale), round(y - height * scale)
    return turned.crop((left, top, round(x + width * scale), round(y + height * scale)))


def _saved_small(image: Image.Image, box: Box) -> Image.Image:
    picture = seen(image, box)
    picture.thumbnail((72, 72))
    stored = io.BytesIO()
    picture.save(stored, "JPEG", quality=30)
    return Image.open(stored)


VIEWS: dict[str, View] = {
    "closer": lambda image, box: seen(image, box, scale=0.75),
    "turned by 12°": lambda image, box: seen(image, box, scale=0.85, degrees=12),
    "turned by 45°": lambda image, box: seen(image, box, scale=0.7, degrees=45),
    "darker": lambda image, box: ImageEnhance.Brightness(seen(image, box)).enhance(0.45),
    "less contrast": lambda image, box: ImageEnhance.Contrast(seen(image, box)).enhance(0.4),
    "out of focus": lambda image, box: seen(image, box).filter(
        ImageFilter.GaussianBlur(box.half_width / 40)
    ),
    "72 px, poor JPEG": _saved_small,
    "grey": lambda image, box: seen(image, box).convert("L"),
}


def write_pictures(folder: Path) -> tuple[Path, Path]:
    """Write the pictures to enrol, ``enrol/IDENTITY/``, and the probes, ``probes/VIEW/``.

    And all coins together, ``several/coins.png``, to play with.
    """
    enrol, probes = folder / "enrol", folder / "probes"
    with Image.open(photograph_folder() / COIN_PHOTOGRAPH) as coins:
        _save(coins, folder / "several" / COIN_PHOTOGRAPH)
    for identity, image, box in photographs():
        if identity not in STRANGERS:
            _save(seen(image, box), enrol / identity / f"{identity}.png")
        for view, see in VIEWS.items():
            _save(see(image, box), probes / view / f"{identity}.png")
    return enrol, probes


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, compress_level=1)  # PNG: quickly rather than small


def demonstrate(gallery: Gallery, pictures: Path) -> Outcome:
    """Enrol the pictures, identify the probes, count."""
    enrol, probes = write_pictures(pictures)
    gallery.enroll([enrol])
    answers: dict[str, list[Asked]] = {"never enrolled": []}
    for view in VIEWS:
        paths = sorted((probes / view).glob("*.png"))
        for path, answer in zip(paths, gallery.identify(paths, k=1), strict=True):
            row = "never enrolled" if path.stem in STRANGERS else view
            answers.setdefault(row, []).append(Asked(path.stem, answer))
    strangers = answers.pop("never enrolled")
    rows = [_row(view, asked) for view, asked in [*answers.items(), ("never enrolled", strangers)]]
    return Outcome(tuple(rows), len(gallery.identities()), gallery.encoder.threshold)


def _row(view: str, asked: list[Asked]) -> Row:
    return Row(
        view,
        probes=len(asked),
        nearest=sum(one.answer.matches[0].identity == one.identity for one in asked),
        named=sum(one.answer.identity == one.identity for one in asked),
        misnamed=sum(one.answer.identity not in (None, one.identity) for one in asked),
    )
