"""Which regions make two pictures similar: by covering them, with any encoder (Zeiler 2014).

A window of the picture's mean colour moves over one picture, and the cosine to the other is taken
anew. Where it falls, the region speaks for the resemblance; where it rises, against it.
Needs ``pip install 'siamese-search[plot]'``. Knows nothing of galleries.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image

from siamese_search.arrays import FloatArray, PixelArray
from siamese_search.decision import closer
from siamese_search.decision.closer import PlacePair
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.pipeline import batches
from siamese_search.errors import ImageError
from siamese_search.evaluation import plots
from siamese_search.evaluation.maps import shortened
from siamese_search.files import write_whole
from siamese_search.pictures.render import load
from siamese_search.words import printable

STEPS = 12  # places of the window along each side
WINDOW = 0.25  # its side, in sides of the picture
PLACES = 8  # pairs of them that are shown

WIDTH, HEIGHT = 10.0, 7.1  # inches of the drawing
COLOURS = "bwr"  # blue, white, red
STRONGEST = 0.7  # how much of the strongest colour covers a picture
LEAST = 1e-6  # what counts as no difference at all
NAME = 60  # letters of a file's name
TITLE = "Which regions make the two pictures alike"
AGAINST, FOR = "against the resemblance", "for the resemblance"
MEANING = "what a region adds to the score"
NUMBERS = (
    "Equal numbers mark places that look alike to the encoder: 1 is the pair most alike.\n"
    "Pictures of different things may have such places, too."
)


@dataclass(frozen=True)
class Explanation:
    """Two pictures as the encoder sees them, uint8 (height, width, channels), their cosine, and how
    much every pixel of each adds to it, float32 (height, width): what covering it takes away.

    ``names`` are the files'; from ``threshold`` on, None where that is not known, the ``encoder``
    takes two for the same.
    ``places`` are those of either picture, on a grid of so many cells a side (``grid``, 0 where the
    encoder gives none), that each find each other the most alike: what a closer look rests on.
    """

    names: tuple[str, str]
    encoder: str
    threshold: float | None
    pictures: tuple[PixelArray, PixelArray]
    score: float
    regions: tuple[FloatArray, FloatArray]
    places: tuple[PlacePair, ...] = ()
    grid: int = 0

    @property
    def said(self) -> str:
        """The score in words."""
        if self.threshold is None:
            return f"score {self.score:.3f}; the encoder {self.encoder} has no threshold"
        verdict = "the same" if self.score >= self.threshold else "different"
        threshold = f"the threshold {self.threshold:.3f} of the encoder {self.encoder}"
        return f"score {self.score:.3f}: {verdict} by {threshold}"


def explain(encoder: Encoder, a: Any, b: Any, names: tuple[str, str] | None = None) -> Explanation:
    """Explain the similarity of two images, each as ``Encoder.embed`` takes them.

    ``names`` are needed where they are no paths. Raises ImageError with the name.
    """
    encoder.require_pictures("explanations")
    pictures = []
    for image, name in zip((a, b), names or (os.fspath(a), os.fspath(b)), strict=True):
        try:
            pictures.append(load(image, encoder.record.preprocessing))
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error
    (first, second), places = encoder.runtime.describe(np.stack(pictures))
    score = float(first @ second)
    regions = (
        _regions(encoder, pictures[0], second, score),
        _regions(encoder, pictures[1], first, score),
    )
    names = names or (printable(a), printable(b))
    both = pictures[0], pictures[1]
    threshold = encoder.threshold if encoder.calibrated else None
    made = Explanation(names, encoder.name, threshold, both, score, regions)
    if places is None:
        return made
    pairs = [pair for pair in closer.matched(*closer.units(places)) if pair.mutual]
    return replace(made, places=tuple(pairs[:PLACES]), grid=math.isqrt(places.shape[1]))


def _regions(encoder: Encoder, picture: PixelArray, other: FloatArray, score: float) -> FloatArray:
    """What covering takes from the cosine to ``other``, the mean over all windows on a pixel."""
    height, width = picture.shape[:2]
    tall, wide = max(1, round(WINDOW * height)), max(1, round(WINDOW * width))
    cover = picture.mean(axis=(0, 1)).astype(np.uint8)
    corners = [
        (top, left)
        for top in np.unique(np.linspace(0, height - tall, STEPS).round().astype(int)).tolist()
        for left in np.unique(np.linspace(0, width - wide, STEPS).round().astype(int)).tolist()
    ]
    total = np.zeros((height, width), np.float32)
    times = np.zeros((height, width), np.float32)
    for some in batches(corners, encoder.runtime.batch):
        pixels = np.repeat(picture[None], len(some), axis=0)
        for covered, (top, left) in zip(pixels, some, strict=True):
            covered[top : top + tall, left : left + wide] = cover
        scores = encoder.runtime.embed(pixels) @ other
        for lost, (top, left) in zip(score - scores, some, strict=True):
            total[top : top + tall, left : left + wide] += lost
            times[top : top + tall, left : left + wide] += 1
    regions: FloatArray = (total / np.maximum(times, 1)).astype(np.float32)
    return regions


def draw(explanation: Explanation, path: Path) -> None:
    """Write the drawing to a file. Raises StorageError."""
    write_whole(path, png_of(explanation))


def png_of(explanation: Explanation) -> bytes:
    """Both pictures beside each other, in grey: what speaks for the resemblance in red, what speaks
    against it in blue, with a key to the colours, and the same numbers where places of both are
    alike.
    """
    with plots.style(explanation.names):
        return plots.png(figure(explanation))


def figure(explanation: Explanation) -> Figure:
    """The drawing, to be made within ``plots.style``."""
    drawn = plots.figure(WIDTH, HEIGHT)
    drawn.suptitle(f"{TITLE}\n{explanation.said}", fontsize="large")
    row = drawn.subplots(1, 2)
    most = max(LEAST, *(float(np.abs(region).max()) for region in explanation.regions))
    parts = zip(row, explanation.names, explanation.pictures, explanation.regions, strict=True)
    for side, (axes, name, picture, region) in enumerate(parts):
        grey = picture.astype(np.float32).mean(axis=2)
        axes.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
        smooth = _smoothed(region)
        strength = STRONGEST * np.minimum(1, np.abs(smooth) / most)
        colours = axes.imshow(smooth, cmap=COLOURS, vmin=-most, vmax=most, alpha=strength)
        axes.set(xticks=[], yticks=[], xlabel=shortened(name, NAME))
        axes.spines[:].set_visible(False)
        _number(axes, explanation, side)
    shown = ScalarMappable(colours.norm, colours.cmap)
    key = drawn.colorbar(shown, ax=row, location="bottom", aspect=50, shrink=0.6)
    labels = [f"{-most:+.3f}\n{AGAINST}", f"0\n{MEANING}", f"{most:+.3f}\n{FOR}"]
    key.set_ticks([-most, 0, most], labels=labels)
    if explanation.places:
        drawn.supxlabel(NUMBERS, fontsize="medium")
    return drawn


def _number(axes: Axes, explanation: Explanation, side: int) -> None:
    """Put numbers on the places that find each other: the same number in both pictures."""
    height, width = explanation.pictures[side].shape[:2]
    for number, pair in enumerate(explanation.places, start=1):
        row, column = divmod(pair[side], explanation.grid)
        axes.text(
            (column + 0.5) * width / explanation.grid,
            (row + 0.5) * height / explanation.grid,
            str(number),
            ha="center",
            va="center",
            fontsize="small",
            bbox={"boxstyle": "circle,pad=0.25", "fc": "white", "ec": "black", "alpha": 0.8},
        )


def _smoothed(region: FloatArray) -> FloatArray:
    """A region without the edges of the windows that moved over it."""
    height, width = region.shape
    coarse = Image.fromarray(region).resize((2 * STEPS, 2 * STEPS), Image.Resampling.BOX)
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
