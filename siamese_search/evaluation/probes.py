"""Labelled pictures with their embeddings: what an evaluation asks about.

Knows nothing of galleries.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import ImageError
from siamese_search.pictures.sources import find, nameable, of_another
from siamese_search.records import ImageFile, Rejection
from siamese_search.words import counted, printable


@dataclass(frozen=True)
class Probes:
    """Pictures (n), named as they would be enrolled, with their embeddings (n, dimension), and
    places (n) where the encoder gives any; ``rejected`` are those that could not be read.
    """

    files: tuple[ImageFile, ...]
    embeddings: FloatArray
    rejected: tuple[Rejection, ...] = ()
    places: tuple[FloatArray | None, ...] | None = None

    @property
    def labels(self) -> list[str]:
        return [file.identity for file in self.files]

    @property
    def paths(self) -> list[str]:
        """Where they lie, printable."""
        return [printable(file.path) for file in self.files]

    def of(self, rows: IntArray) -> Probes:
        """Some of them."""
        chosen = rows.tolist()
        places = None if self.places is None else tuple(self.places[row] for row in chosen)
        files = tuple(self.files[row] for row in chosen)
        return Probes(files, self.embeddings[rows], places=places)

    def distinct(self) -> Probes:
        """The same without pictures whose embedding an earlier one has; these are rejected, but for
        files that are named again.
        """
        first: dict[bytes, int] = {}
        kept, doubles = [], []
        for row, file in enumerate(self.files):
            place = first.setdefault(self.embeddings[row].tobytes(), row)
            earlier = self.files[place]
            if place == row:
                kept.append(row)
            elif file.identity != earlier.identity:
                doubles.append(of_another(file, earlier))
            elif file.path != earlier.path:
                same = f"the same picture as {printable(earlier.path)}"
                doubles.append(Rejection(printable(file.path), same))
        chosen = self.of(np.array(kept, np.int64))
        return replace(chosen, rejected=(*self.rejected, *doubles))


def embedded(encoder: Encoder, pictures: Iterable[ImageFile | str | os.PathLike[str]]) -> Probes:
    """Labelled files, and the files of folders, named as ``add`` names them."""
    given = list(pictures)
    places = [os.fspath(one) for one in given if not isinstance(one, ImageFile)]
    labelled = (one for one in given if isinstance(one, ImageFile))
    found = list(nameable(chain(labelled, find(places, kind=encoder.kind))))
    files = [one for one in found if isinstance(one, ImageFile)]
    rejected = [one for one in found if isinstance(one, Rejection)]
    readable, vectors, seen = [], [], []
    described = encoder.describe_each([f.path for f in files])
    for file, (_, result) in zip(files, described, strict=True):
        if isinstance(result, ImageError):
            rejected.append(Rejection(printable(file.path), str(result)))
        else:
            readable.append(file)
            vectors.append(result.embedding)
            seen.append(_small(result.places))
    return Probes(
        tuple(readable),
        _stacked(vectors, encoder.dimension),
        tuple(rejected),
        tuple(seen),
    )


def unusable(rejected: Sequence[Rejection]) -> str:
    """How many pictures cannot be used, with one of them: why others are too few."""
    count = counted(len(rejected), "picture")
    return f"{count} cannot be used, such as {rejected[0].path}: {rejected[0].reason}"


def _small(places: FloatArray | None) -> FloatArray | None:
    """The same in half precision, since there may be many; units are made of them later."""
    return None if places is None else places.astype(np.float16)


def _stacked(vectors: Sequence[FloatArray], dimension: int) -> FloatArray:
    return np.stack(vectors) if vectors else np.empty((0, dimension), np.float32)
