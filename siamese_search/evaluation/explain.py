"""Which regions make two pictures similar: by covering them, with any encoder (Zeiler 2014).

A window of the picture's mean colour moves over one picture, and the cosine to the other is taken
anew. Where it falls, the region speaks for the resemblance; where it rises, against it.
Knows nothing of galleries.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siamese_search.arrays import FloatArray, PixelArray
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import ImageError
from siamese_search.files import write_whole
from siamese_search.pictures.read import read_file
from siamese_search.pictures.render import encode

STEPS = 12  # places of the window along each side
WINDOW = 0.25  # its side, in sides of the picture
BATCH = 32


@dataclass(frozen=True)
class Explanation:
    """Two pictures as the encoder sees them, uint8 (height, width, channels), their cosine, and how
    much every pixel of each adds to it, float32 (height, width): what covering it takes away.
    """

    pictures: tuple[PixelArray, PixelArray]
    score: float
    regions: tuple[FloatArray, FloatArray]


def explain(encoder: Encoder, a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Explanation:
    """Explain the similarity of two image files. Raises ImageError, naming the file."""
    pictures = []
    for path in (a, b):
        try:
            pictures.append(encoder.decode(read_file(os.fspath(path))))
        except ImageError as error:
            raise ImageError(f"{os.fspath(path)}: {error}") from error
    first, second = encoder.runtime.embed(np.stack(pictures))
    score = float(first @ second)
    regions = (
        _regions(encoder, pictures[0], second, score),
        _regions(encoder, pictures[1], first, score),
    )
    return Explanation((pictures[0], pictures[1]), score, regions)


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
    for start in range(0, len(corners), BATCH):
        batch = np.repeat(picture[None], len(corners[start : start + BATCH]), axis=0)
        for covered, (top, left) in zip(batch, corners[start : start + BATCH], strict=True):
            covered[top : top + tall, left : left + wide] = cover
        scores = encoder.runtime.embed(batch) @ other
        for lost, (top, left) in zip(score - scores, corners[start : start + BATCH], strict=True):
            total[top : top + tall, left : left + wide] += lost
            times[top : top + tall, left : left + wide] += 1
    regions: FloatArray = (total / np.maximum(times, 1)).astype(np.float32)
    return regions


def draw(explanation: Explanation, path: Path, side: int = 320) -> None:
    """Write both pictures beside each other, in grey: what speaks for the resemblance in red, what
    speaks against it in blue. Raises StorageError.
    """
    most = max(1e-6, *(float(np.abs(region).max()) for region in explanation.regions))
    shown = []
    for picture, region in zip(explanation.pictures, explanation.regions, strict=True):
        grey = picture.astype(np.float32).mean(axis=2, keepdims=True).repeat(3, axis=2)
        strength = np.clip(np.abs(region) / most, 0, 1)[..., None] * 0.7
        colour = np.where(region[..., None] > 0, [220.0, 30.0, 30.0], [30.0, 60.0, 220.0])
        mixed = (1 - strength) * grey + strength * colour
        every = max(1, side // mixed.shape[0])
        shown.append(mixed.astype(np.uint8).repeat(every, 0).repeat(every, 1))
    gap = np.full((shown[0].shape[0], 8, 3), 255, np.uint8)
    write_whole(path, encode(np.concatenate([shown[0], gap, shown[1]], axis=1), "PNG"))
