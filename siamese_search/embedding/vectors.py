"""Vectors: what an encoder gives for a picture, and whether that is an embedding, finite and of
unit length, of this dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import BoolArray, FloatArray
from siamese_search.errors import UsageError

LENGTH_TOLERANCE = 1e-3


class Description(NamedTuple):
    """What an encoder gives for a picture: the embedding, float32 (dimension,), of unit length, and
    places, float32 (count, dimension of places), see ``closer.py``; None where it gives none.
    """

    embedding: FloatArray
    places: FloatArray | None = None


def as_embeddings(embeddings: npt.ArrayLike, dimension: int) -> FloatArray:
    """Float32 (n, dimension), one vector counting as n = 1.

    Raises UsageError for another dimension, values that are not finite, or rows that are not of
    unit length.
    """
    try:
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            vectors = np.atleast_2d(np.asarray(embeddings, np.float32))
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"embeddings must be numbers of shape (n, {dimension}): {error}"
        ) from error
    if np.ma.is_masked(embeddings):
        raise UsageError("embeddings must be whole: some values are masked")
    if vectors.shape == (1, 0):
        vectors = vectors.reshape(0, dimension)
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise UsageError(f"embeddings of shape {vectors.shape}: the gallery has (n, {dimension})")
    wrong = ~are_unit(vectors)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UsageError(f"embedding {row} is not finite and of unit length: normalise it first")
    return vectors


def are_unit(vectors: FloatArray) -> BoolArray:
    """Which rows of (n, dimension) are finite and of unit length, within rounding: bool (n,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        unit: BoolArray = np.abs(np.linalg.norm(vectors, axis=1) - 1) < LENGTH_TOLERANCE
    return unit  # NaN is not
