"""Agreement of views: a picture that was made to fool an encoder often fools it in one view only.

A view is the same picture, rendered slightly otherwise. Knows nothing of galleries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from siamese_search.arrays import FloatArray
from siamese_search.evaluation.changes import jpeg, rounded, shifted

SHIFT = 1 / 32  # of the side
QUALITY = 60


@dataclass(frozen=True)
class View:
    """How a view is made of pictures, float32 (n, height, width, channels), 0 to 255, and how the
    slopes of something by the view become those by the picture, about.
    """

    name: str
    make: Callable[[FloatArray], FloatArray]
    back: Callable[[FloatArray], FloatArray]


def _same(values: FloatArray) -> FloatArray:
    return values


def _mirrored(values: FloatArray) -> FloatArray:
    return np.ascontiguousarray(values[:, :, ::-1])


def _moved(share: float) -> Callable[[FloatArray], FloatArray]:
    def move(values: FloatArray) -> FloatArray:
        return shifted(values, round(share * values.shape[1]), round(share * values.shape[2]))

    return move


def _saved(values: FloatArray) -> FloatArray:
    return jpeg(rounded(values), QUALITY).astype(np.float32)


PLAIN = View("as it is", _same, _same)
VIEWS = (
    View("mirrored", _mirrored, _mirrored),
    View("moved", _moved(SHIFT), _moved(-SHIFT)),
    View("saved as JPEG", _saved, _same),  # rounding has no slope: taken for none at all
)
