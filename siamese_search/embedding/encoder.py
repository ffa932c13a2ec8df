"""Encoders: a folder that turns pictures into unit-length embeddings.

    NAME/encoder.json          preprocessing, architecture, dimension, threshold, digests
    NAME/encoder.onnx          the inference graph: uint8 pixels in, unit-length embeddings out
    NAME/weights.safetensors   the same weights, to resume training and for GPUs
    NAME/metric.npy            scatter within identities, for what galleries learn, if there is any

An encoder of other things than pictures is an object that fulfils ``contract.EncoderProtocol``.
Encoders know nothing of galleries.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search.arrays import DoubleArray, FloatArray, PixelArray
from siamese_search.decision.evidence import probability
from siamese_search.decision.learning import Prior
from siamese_search.embedding import offers, pipeline
from siamese_search.embedding.contract import EncoderProtocol, OwnRuntime, required
from siamese_search.embedding.protection import Key, ProtectedRuntime, protected, rotated
from siamese_search.embedding.record import (
    PRIOR,
    SHIPPED,
    EncoderRecord,
    read_prior,
    read_record,
    resolve,
    shipped,
    verified_bytes,
)
from siamese_search.embedding.runtimes import Runtime, open_runtime
from siamese_search.embedding.torch_runtime import TorchRuntime, seen_accelerator
from siamese_search.embedding.vectors import Description
from siamese_search.errors import (
    ImageError,
    RuntimeUnavailable,
    UsageError,
    require_between,
)
from siamese_search.files import as_path
from siamese_search.forks import Followed, leave
from siamese_search.pictures import render
from siamese_search.pictures.kind import PICTURES, Kind
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.pictures.read import file_bytes, is_path, several
from siamese_search.pictures.regions import Region
from siamese_search.pictures.tiles import tile
from siamese_search.records import Verification

SLOPE = 10.0  # of confidence by cosine, about that of the encoders that are shipped
SAID = 200  # letters of what refuses a file


class Encoder(Followed):
    """An opened encoder. ``Encoder.open("general-2")`` or ``Encoder.open("path/to/folder")``."""

    kind: Kind = PICTURES
    """Which files of a folder it takes."""

    is_found_again: bool = True
    """Whether ``open`` finds it by its ``location``."""

    is_protected: bool = False
    """Whether its embeddings are rotated by a key."""

    def __init__(self, folder: Path, record: EncoderRecord, device: str | None = None) -> None:
        self.folder = folder
        self.record = record
        self._device = device
        self.follow_forks()

    def __repr__(self) -> str:
        known = "" if self.calibrated else ", threshold not known"
        return f"<Encoder {self.location}, {self.dimension} dimensions{known}>"

    def in_child(self) -> None:
        """The runtime's threads have not come along: it is opened anew at first use."""
        leave(self.__dict__.pop("runtime", None))

    @classmethod
    def open(
        cls, encoder: str | os.PathLike[str] | EncoderProtocol, device: str | None = None
    ) -> Encoder:
        """Open a shipped encoder, or one that a package offers, by name, any encoder by its folder,
        or an object that fulfils ``EncoderProtocol``; loads no weights yet.

        ``device`` is ``auto``, ``cpu``, ``cuda`` or ``mps``; None reads ``SIASEARCH_DEVICE``.
        Raises EncoderError where there is no such encoder or its description is damaged, KeyMissing
        where it is protected by a key that is not at hand.
        """
        if not isinstance(encoder, str | os.PathLike):
            return OwnEncoder(encoder)
        text = os.fspath(encoder)
        named = protected(text)
        if named is not None:
            key = Key.at_hand(named.check)
            return cls.open(named.location, device).protected(key)
        offer = None if text in shipped() else offers.offered(text)
        if offer is not None:
            return OwnEncoder(offer.made, offer.location)
        folder = resolve(encoder)
        return cls(folder, read_record(folder), device)

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def dimension(self) -> int:
        return self.record.dimension

    @property
    def calibrated(self) -> bool:
        """Whether its threshold was fitted. Where not, it is 1, which no other picture reaches."""
        return self.record.calibrated

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

        Raises RuntimeUnavailable where torch is not installed, or no torch network is known.
        """
        if self.record.architecture.get("graph") == "onnx":
            raise RuntimeUnavailable(
                f"the encoder {self.name} was an ONNX file, and has no network for it"
            )
        device = self._device if self._device in ("cpu", "cuda", "mps") else None
        return TorchRuntime(self.folder, self.record, device or seen_accelerator() or "cpu")

    @cached_property
    def prior(self) -> Prior | None:
        """What galleries blend into the metrics that they learn; None where there is none.

        Raises EncoderError where it is damaged.
        """
        return read_prior(self.folder, self.record)

    @property
    def prior_digest(self) -> str | None:
        """SHA-256 of what the prior is read from, which is no part of the fingerprint."""
        return self.record.digests.get(PRIOR)

    def verify_files(self) -> None:
        """Raise EncoderError where a file of the encoder is missing or damaged."""
        for file in self.record.digests:
            verified_bytes(self.folder, self.record, file)

    @property
    def is_shipped(self) -> bool:
        """Whether it comes with the package, and is not to be changed."""
        return self.folder.parent.resolve() == SHIPPED.resolve()

    def confidence(self, score: float) -> float | None:
        """The probability that a match of this score is right, where half are strangers; None where
        that was never fitted.
        """
        if not self.calibrated:
            return None
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
        """Whether two images, each as ``embed`` takes them, show the same identity.

        Without a ``threshold`` the encoder's decides; where it was never fitted, nothing does, and
        there is a score alone.
        """
        if threshold is None and self.calibrated:
            threshold = self.threshold
        if threshold is not None:
            require_between("threshold", threshold, -1, 1, "a cosine from -1 to 1")
            threshold = float(threshold)
        first, second = self.embed([a, b])
        score = min(1.0, float(first @ second))  # rounding may add a little
        same = None if threshold is None else score >= threshold
        return Verification(same, score, self.confidence(score), threshold)

    def decode(self, data: bytes) -> PixelArray:
        """A file's bytes as the uint8 (height, width, channels) that the graph takes."""
        return render.decode(data, self.record.preprocessing)

    def miniature(self, data: bytes, side: int) -> PixelArray:
        """How a file is shown, by its contents: uint8 (side, side, 3). Raises ImageError."""
        return render.miniature(data, side)

    def require_pictures(self, what: str) -> None:
        """Raise UsageError, saying for ``what``, where it takes anything but pictures."""

    def protected(self, key: Key | str | os.PathLike[str]) -> Encoder:
        """The same, its embeddings rotated as a key, or the key of a file, says; see
        ``protection.py``. Without places, which would tell more of a picture.
        """
        return ProtectedEncoder(self, key if isinstance(key, Key) else Key.read(as_path(key)))

    def protected_as(self, location: str) -> Encoder:
        """The same, protected by the key at hand where an encoder of that location is."""
        named = None if self.is_protected else protected(location)
        return self if named is None else self.protected(Key.at_hand(named.check))


class ProtectedEncoder(Encoder):
    """An encoder whose embeddings are rotated by a key: to a gallery just another encoder."""

    is_protected = True

    def __init__(self, below: Encoder, key: Key) -> None:
        known = below.record.architecture
        kept = {name: fact for name, fact in known.items() if name != "places"}
        super().__init__(below.folder, replace(below.record, architecture=kept))
        self.below, self.key = below, key
        self.kind, self.is_found_again = below.kind, below.is_found_again

    @cached_property
    def rotation(self) -> DoubleArray:
        """What embeddings are multiplied by, float64 (dimension, dimension)."""
        return self.key.rotation(self.dimension)

    @cached_property
    def fingerprint(self) -> str:
        return self.key.fingerprint(self.below.fingerprint)

    @property
    def location(self) -> str:
        return self.key.location(self.below.location)

    @cached_property
    def runtime(self) -> Runtime:
        return ProtectedRuntime(self.below.runtime, self.rotation)

    @cached_property
    def prior(self) -> Prior | None:
        prior, rotation = self.below.prior, self.rotation
        if prior is None:
            return None
        within = (rotation.T @ prior.within @ rotation).astype(np.float32)
        return Prior(rotated(prior.mean, rotation), within)

    def twin(self) -> TorchRuntime:
        raise RuntimeUnavailable(f"the encoder {self.name} is protected by a key")

    def verify_files(self) -> None:
        self.below.verify_files()

    def decode(self, data: bytes) -> PixelArray:
        return self.below.decode(data)

    def miniature(self, data: bytes, side: int) -> PixelArray:
        return self.below.miniature(data, side)

    def require_pictures(self, what: str) -> None:
        self.below.require_pictures(what)

    def protected(self, key: Key | str | os.PathLike[str]) -> Encoder:
        """As the encoder below: it is protected by that key in place of this one."""
        return self.below.protected(key)

    def _load(self, image: Any) -> PixelArray:
        return self.below._load(image)


class OwnEncoder(Encoder):
    """An encoder of somebody's own, of whatever it takes, as a gallery asks for it."""

    def __init__(self, own: object, location: str | None = None) -> None:
        """``location`` is that of the package that offers it, None for an object of a program.

        Raises EncoderError for what does not fulfil ``EncoderProtocol``.
        """
        self.own = required(own)
        kind = type(own)
        self._location = location or f"{kind.__module__}:{kind.__qualname__}"
        self.is_found_again = location is not None
        self.kind = Kind(frozenset(suffix.lower() for suffix in self.own.suffixes))
        fitted, threshold = self.own.threshold is not None, self.own.threshold
        threshold = 1.0 if threshold is None else float(threshold)  # nothing is named by accident
        record = EncoderRecord(
            name=self.own.name,
            architecture={},
            preprocessing=Preprocessing(1, 1),  # never asked for: see require_pictures
            dimension=self.own.dimension,
            threshold=threshold,
            calibration={"fitted": fitted, "slope": SLOPE, "offset": -SLOPE * threshold},
            training={},
            weights=self.own.fingerprint,
            format=1,  # nothing but its word vouches for it
        )
        super().__init__(Path(self._location), record)

    @cached_property
    def fingerprint(self) -> str:
        determinants = [self.name, self.dimension, self.own.fingerprint]
        return hashlib.sha256(json.dumps(determinants).encode()).hexdigest()

    @property
    def location(self) -> str:
        return self._location

    @cached_property
    def runtime(self) -> Runtime:
        return OwnRuntime(self.own)

    def decode(self, data: bytes) -> PixelArray:
        """What ``EncoderProtocol.decode`` gives, in an array of one object: so that what differs in
        shape can be stacked.
        """
        box = np.empty(1, object)
        box[0] = self._told(self.own.decode, data)
        return box.reshape(())

    def miniature(self, data: bytes, side: int) -> PixelArray:
        return tile(self._told(self.own.show, data), side)

    def require_pictures(self, what: str) -> None:
        raise UsageError(f"{what} are of pictures, and the encoder {self.name} takes {self.kind}")

    def _load(self, image: Any) -> PixelArray:
        if isinstance(image, Region):
            self.require_pictures("parts")
        data = file_bytes(image)
        if data is None:
            raise ImageError(
                f"of type {type(image).__name__}: the encoder {self.name} takes a path, bytes or an"
                " open file"
            )
        return self.decode(data)

    def _told(self, asked: Callable[[bytes], Any], data: bytes) -> Any:
        """What it gives for a file; whatever it raises as an ImageError."""
        try:
            return asked(data)
        except ImageError:
            raise
        except Exception as error:
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            said = " ".join(str(error).split())[:SAID]
            raise ImageError(f"the encoder {self.name} refuses it: {kind}{said}") from error


def named_error(image: Any, error: ImageError, number: int) -> ImageError:
    """The error of the image of a number, with its name where it is a file or a region of one."""
    place = image.image if isinstance(image, Region) else image
    name = os.fspath(place) or "''" if is_path(place) else f"images[{number}]"
    return ImageError(f"{name}: {error}")
