"""A look at the pictures before a run: how many of each class, how large, drawings or photos, and
how many are nearly the same.

Rests on a bounded sample. Knows nothing of networks, nor of what follows: that is ``plan.py``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from siamese_search.arrays import BoolArray, PixelArray
from siamese_search.embedding import pipeline
from siamese_search.errors import ImageError, TrainingError
from siamese_search.pictures import render
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.pictures.read import read_file
from siamese_search.records import ImageFile, Progress
from siamese_search.training.data import SPARING
from siamese_search.words import counted, printable

CLASSES, EACH = 60, 6  # that are looked at, and pictures of each, neighbours by name
SIDE = 64  # pixels to which they are scaled for that
HOW = Preprocessing(SIDE, SIDE, resize="squash", crop_fraction=1.0)

COLOURED = 8.0  # of 255: mean distance between a pixel's channels, from which it has colour
RING = 3  # pixels: the border
PLAIN = 24  # of 255: how far a plain border's pixels lie from their median, at most
INK = 48  # of 255: how far what is drawn lies from the border
FEW_INK = (0.003, 0.35)  # of the pixels
THICK = 0.35  # of what is drawn is left in a drawing when five pixels' width is taken off
TWINS = 0.99  # correlation of pixels from which on two pictures are nearly the same
TWIN_SIDE = 32


@dataclass(frozen=True)
class Survey:
    """What was seen. ``classes``, ``pictures``, ``each`` (the median class's pictures),
    ``singles`` (classes of one picture) and ``fours`` (of four or more, None in plans of earlier
    releases) count all files; all else is of the ``looked`` pictures.

    ``width`` and ``height`` are medians in pixels; ``grey``, ``drawings`` and ``twins`` shares:
    without colour; strokes on plain ground; nearly the same as another of their class, which is
    None where no two of a class were looked at.
    """

    classes: int
    pictures: int
    each: int
    singles: int
    looked: int
    width: int
    height: int
    grey: float
    drawings: float
    twins: float | None
    fours: int | None = None


@dataclass(frozen=True)
class _Seen:
    """Of one picture: its class, its size, and its pixels (SIDE, SIDE, 3)."""

    identity: str
    size: tuple[int, int]
    pixels: PixelArray


def survey(
    files: Sequence[ImageFile], watch: Callable[[Progress], None] = lambda progress: None
) -> Survey:
    """Look at some of the pictures; those that cannot be read are passed over.

    Raises TrainingError where there is no picture, and where none can be read.
    """
    classes: dict[str, list[ImageFile]] = defaultdict(list)
    for file in sorted(files, key=lambda file: file.path):
        classes[file.identity].append(file)
    if not classes:
        raise TrainingError("no pictures to train on: give folders that have some")
    counts = [len(members) for members in classes.values()]
    seen, reason = _seen(_sample(classes), watch)
    if not seen:
        raise TrainingError(f"none of the pictures looked at can be read, such as {reason}")
    sizes = np.array([one.size for one in seen])
    paired, twins = _twins(seen)
    return Survey(
        classes=len(classes),
        pictures=len(files),
        each=int(np.median(counts)),
        singles=sum(count == 1 for count in counts),
        looked=len(seen),
        width=int(np.median(sizes[:, 0])),
        height=int(np.median(sizes[:, 1])),
        grey=_share(not is_coloured(one.pixels) for one in seen),
        drawings=_share(is_drawing(one.pixels) for one in seen),
        twins=twins / paired if paired else None,
        fours=sum(count >= SPARING for count in counts),
    )


def _sample(classes: dict[str, list[ImageFile]]) -> list[ImageFile]:
    """Some of some classes. Neighbours by name: frames and copies mostly are."""
    chance = np.random.default_rng(0)
    names = sorted(classes)
    chosen = chance.permutation(len(names))[:CLASSES]
    sample = []
    for name in (names[number] for number in sorted(chosen.tolist())):
        first = int(chance.integers(max(1, len(classes[name]) - EACH + 1)))
        sample += classes[name][first : first + EACH]
    return sample


def _seen(
    sample: Sequence[ImageFile], watch: Callable[[Progress], None]
) -> tuple[list[_Seen], str]:
    """The pictures that can be read, and why another cannot."""

    def load(file: ImageFile) -> tuple[tuple[int, int], PixelArray] | ImageError:
        try:
            data = read_file(file.path)
            return render.size_of(data), render.decode(data, HOW)
        except ImageError as error:
            return error

    seen, reason = [], ""
    with pipeline.thread_pool() as pool:
        loaded = pipeline.parallel_map(pool, load, sample, ahead=pipeline.AHEAD)
        for done, (file, one) in enumerate(zip(sample, loaded, strict=True), start=1):
            if isinstance(one, ImageError):
                reason = reason or f"{printable(file.path)}: {one}"
            else:
                seen.append(_Seen(file.identity, *one))
            watch(Progress("looking", done, len(sample)))
    return seen, reason


def is_coloured(pixels: PixelArray) -> bool:
    """Whether pixels (n, n, 3) are more than shades of grey."""
    channels = pixels.astype(np.int16)
    return float((channels.max(axis=2) - channels.min(axis=2)).mean()) >= COLOURED


def is_drawing(pixels: PixelArray) -> bool:
    """Whether pixels (n, n, 3) show thin grey strokes on plain ground: a character, a symbol."""
    if is_coloured(pixels):
        return False
    grey = pixels.mean(axis=2)
    inside = grey[RING:-RING, RING:-RING]
    ring = np.ones(grey.shape, bool)
    ring[RING:-RING, RING:-RING] = False
    ground = float(np.median(grey[ring]))
    # A stroke may touch the border.
    if float((np.abs(grey[ring] - ground) <= PLAIN).mean()) < 0.9:
        return False
    ink = np.abs(inside - ground) > INK
    if not FEW_INK[0] <= float(ink.mean()) <= FEW_INK[1]:
        return False
    return float(_thinned(ink).sum()) <= THICK * float(ink.sum())


def _thinned(mask: BoolArray) -> BoolArray:
    """What is left of a mask (n, n) where all pixels within two must be set as well."""
    windows = np.lib.stride_tricks.sliding_window_view(mask, (5, 5))
    return np.asarray(windows.all(axis=(2, 3)), bool)


def _twins(seen: Sequence[_Seen]) -> tuple[int, int]:
    """How many pictures have another one of their class, and how many have one that is nearly the
    same, by the correlation of their pixels.
    """
    paired = twins = 0
    for _, group in groupby(seen, key=lambda one: one.identity):
        step = SIDE // TWIN_SIDE
        small = np.stack([one.pixels for one in group]).astype(np.float32)
        if len(small) < 2:
            continue
        blocks = small.reshape(len(small), TWIN_SIDE, step, TWIN_SIDE, step, 3).mean(axis=(2, 4))
        flat = blocks.reshape(len(small), -1)
        apart = flat - flat.mean(axis=1, keepdims=True)
        lengths = np.linalg.norm(apart, axis=1, keepdims=True)
        apart = np.divide(apart, lengths, out=np.zeros_like(apart), where=lengths > 0)
        alike = apart @ apart.T
        np.fill_diagonal(alike, -1)
        paired += len(small)
        twins += int((alike.max(axis=1) >= TWINS).sum())
    return paired, twins


def _share(truths: Iterable[bool]) -> float:
    """The share of what is true, of at least one."""
    every = list(truths)
    return sum(every) / len(every)


def in_words(seen: Survey) -> str:
    """What was seen, in a line."""
    each = f"{seen.each} of each, by the median"
    look = "drawings" if seen.drawings >= 0.5 else "photos"
    colour = "grey" if seen.grey >= 0.5 else "in colour"
    return (
        f"{counted(seen.pictures, 'picture')} of {counted(seen.classes, 'class', 'classes')},"
        f" {each}; {seen.looked} looked at: {look}, {colour}, {seen.width} x {seen.height} pixels"
    )
