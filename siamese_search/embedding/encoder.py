"""Encoders: a folder that turns pictures into unit-length embeddings.

    NAME/encoder.json          preprocessing, architecture, dimension, threshold, digests
    NAME/encoder.onnx          the inference graph: uint8 pixels in, unit-length embeddings out
    NAME/weights.safetensors   the same weights, to resume training and for GPUs
    NAME/metric.npy            scatter within identities, for what galleries learn, if there is any

Encoders know nothing of galleries.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search.arrays import FloatArray, PixelArray
from siamese_search.decision.evidence import probability
from siamese_search.decision.learning import Prior
from siamese_search.embedding import pipeline
from siamese_search.embedding.record import (
    SHIPPED,
    EncoderRecord,
    read_prior,
    read_record,
    resolve,
    verified_bytes,
)
from siamese_search.embedding.runtimes import Runtime, open_runtime
from siamese_search.embedding.torch_runtime import TorchRuntime, seen_accelerator
from siamese_search.embedding.vectors import Description
from siamese_search.errors import ImageError, UsageError, require_between
from siamese_search.forks import Followed, leave
from siamese_search.pictures import render
from siamese_search.pictures.read import is_path, several
from siamese_search.pictures.regions import Region
from siamese_search.records import Verification


class Encoder(Followed):
    """An opened encoder. ``Encoder.open("general-2")`` or ``Encoder.open("path/to/folder")``."""

    def __init__(self, folder: Path, record: EncoderRecord, device: str | None = None) -> None:
        self.folder = folder
        self.record = record
        self._device = device
        self.follow_forks()

    def __repr__(self) -> str:
        return f"<Encoder {self.location}, {self.dimension} dimensions>"

    def in_child(self) -> None:
        """The runtime's threads have not come along: it is opened anew at first use."""
        leave(self.__dict__.pop("runtime", None))

    @classmethod
    def open(cls, name_or_folder: str | os.PathLike[str], device: str | None = None) -> Encoder:
        """Open a shipped encoder by name or any encoder by its folder; loads no weights yet.

        ``device`` is ``auto``, ``cpu``, ``cuda`` or ``mps``; None reads ``SIASEARCH_DEVICE``.
        Raises EncoderError where there is no such encoder or its description is damaged.
        """
        folder = resolve(name_or_folder)
        return cls(folder, read_record(folder), device)

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def dimension(self) -> int:
        return self.record.dimension

    @property
    def threshold(self) -> float:
        return self.record.threshold

    @cached_property
    def fingerprint(self) -> str:
        return self.record.fingerprint

    @property
    def location(self) -> str:
        """What ``open`` takes to find it again: a shipped encoder's name, else its folder."""
        return self.folder.name if self.folder.parent == SHIPPED else str(self.folder)

    @cached_property
    def runtime(self) -> Runtime:
        """The runtime that runs the graph, opened at first use."""
        return open_runtime(self.folder, self.record, self._device)

    def twin(self) -> TorchRuntime:
        """Its weights in torch, which also gives slopes; on a GPU where torch sees one.

        Raises RuntimeUnavailable where torch is not installed.
        """
        device = self._device if self._device in ("cpu", "cuda", "mps") else None
        return TorchRuntime(self.folder, self.record, device or seen_accelerator() or "cpu")

    @cached_property
    def prior(self) -> Prior | None:
        """What galleries blend into the metrics that they learn; None where there is none.

        Raises EncoderError where it is damaged.
        """
        return read_prior(self.folder, self.record)

    def verify_files(self) -> None:
        """Raise EncoderError where a file of the encoder is missing or damaged."""
        for file in self.record.digests:
            verified_bytes(self.folder, self.record, file)

    def confidence(self, score: float) -> float:
        """The probability that a match of this score is right, where half are strangers."""
        fitted = self.record.calibration
        return probability(fitted["slope"] * score + fitted["offset"])

    @property
    def gives_places(self) -> bool:
        """Whether descriptions have places."""
        return self.record.architecture.get("places") is not None

    def require_places(self, places: Sequence[FloatArray | None], count: int) -> None:
        """Raise UsageError unless these are the places of so many pictures, None for those without:
        finite, and of the shape that the encoder gives.
        """
        if len(places) != count:
            raise UsageError(f"places of {len(places)} pictures, but embeddings of {count}")
        known = self.record.architecture.get("places")
        shape = (known["grid"] ** 2, known["dimension"]) if known else None
        for number, one in enumerate(places):
            if one is None:
                continue
            given = np.shape(one)
            right = len(given) == 2 if shape is None else given == shape
            if not right or not np.isfinite(np.asarray(one, np.float64)).all():
                raise UsageError(
                    f"places of picture {number} have the shape {given}: the encoder {self.name}"
                    f" gives {shape or 'none'}, finite numbers"
                )

    def embed(self, images: Any) -> FloatArray:
        """Embed paths, bytes, open files, PIL images, uint8 (H, W, 3) arrays, or a ``Region`` of
        one of these, one or many.

        Returns float32 (n, dimension), each row of unit length, in the order given. Raises
        ImageError, naming the file, at the first image that cannot be read.
        """
        vectors = [description.embedding for description in self.describe(images)]
        return np.stack(vectors) if vectors else np.empty((0, self.dimension), np.float32)

    def embed_each(self, images: Any) -> Iterator[tuple[Any, FloatArray | ImageError]]:
        """Stream (image, float32 (dimension,)) in the order given, or the error of that image.

        Decodes in threads beside the runtime; memory is bounded whatever the number of images.
        """
        for image, result in self.describe_each(images):
            yield image, result if isinstance(result, ImageError) else result.embedding

    def describe(self, images: Any) -> list[Description]:
        """As ``embed``, with places where the encoder gives any."""
        found: list[Description] = []
        for image, result in self.describe_each(images):
            if isinstance(result, ImageError):
                raise named_error(image, result, len(found)) from result
            found.append(result)
        return found

    def describe_each(self, images: Any) -> Iterator[tuple[Any, Description | ImageError]]:
        """As ``embed_each``, with places where the encoder gives any."""
        sources = ((image, image) for image in several(images))
        with pipeline.described(sources, self._load, lambda: self.runtime) as stream:
            for batch in stream:
                yield from batch

    def _load(self, image: Any) -> PixelArray:
        return render.load(image, self.record.preprocessing)

    def verify(self, a: Any, b: Any, threshold: float | None = None) -> Verification:
        """Whether two images, each as ``embed`` takes them, show the same identity."""
        threshold = self.threshold if threshold is None else threshold
        require_between("threshold", threshold, -1, 1, "a cosine from -1 to 1")
        first, second = self.embed([a, b])
        score = min(1.0, float(first @ second))  # rounding may add a little
        return Verification(score >= threshold, score, self.confidence(score), float(threshold))

    def decode(self, data: bytes) -> PixelArray:
        """A file's bytes as the uint8 (height, width, channels) that the graph takes."""
        return render.decode(data, self.record.preprocessing)


def named_error(image: Any, error: ImageError, number: int) -> ImageError:
    """The error of the image of a number, with its name where it is a file or a region of one."""
    place = image.image if isinstance(image, Region) else image
    name = os.fspath(place) or "''" if is_path(place) else f"images[{number}]"
    return ImageError(f"{name}: {error}")
