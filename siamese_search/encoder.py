"""Encoders: a folder that turns pictures into unit-length embeddings.

    NAME/encoder.json          preprocessing, architecture, dimension, threshold, digests
    NAME/encoder.onnx          the inference graph: uint8 pixels in, unit-length embeddings out
    NAME/weights.safetensors   the same weights, to resume training and for GPUs

Encoders know nothing of galleries.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siamese_search import images, pipeline
from siamese_search.errors import EncoderError, ImageError, UsageError
from siamese_search.records import RENDERING, Preprocessing, Verification
from siamese_search.reference import probability
from siamese_search.runtimes import Runtime, open_runtime, verified_bytes

SHIPPED = Path(__file__).parent / "encoders"
FORMAT = 1

FloatArray = npt.NDArray[np.float32]
PixelArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class EncoderRecord:
    """What ``encoder.json`` says.

    ``threshold`` is the cosine from which two images count as the same identity.
    ``calibration`` holds ``slope`` and ``offset`` of the logistic that maps a cosine to the
    probability that the identity is right (Platt 1999). ``digests`` are SHA-256 of the files
    beside it, ``weights`` that of the tensors, whatever file format holds them.
    """

    name: str
    architecture: dict[str, Any]
    preprocessing: Preprocessing
    dimension: int
    threshold: float
    calibration: dict[str, Any]
    training: dict[str, Any]
    weights: str
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what determines an embedding: weights, architecture, preprocessing."""
        determinants = {
            "architecture": self.architecture,
            "preprocessing": asdict(self.preprocessing),
            "dimension": self.dimension,
            "weights": self.weights,
        }
        canonical = json.dumps(determinants, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


class Encoder:
    """An opened encoder. ``Encoder.open("general")`` or ``Encoder.open("path/to/folder")``."""

    def __init__(self, folder: Path, record: EncoderRecord, device: str | None = None) -> None:
        self.folder = folder
        self.record = record
        self._device = device

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

    def verify_files(self) -> None:
        """Raise EncoderError where a file of the encoder is missing or damaged."""
        for file in self.record.digests:
            verified_bytes(self.folder, self.record, file)

    def confidence(self, score: float) -> float:
        """The probability that a match of this score is right, where half are strangers."""
        fitted = self.record.calibration
        return probability(fitted["slope"] * score + fitted["offset"])

    def embed(self, images: Iterable[Any]) -> FloatArray:
        """Embed paths, PIL images or uint8 (H, W, 3) arrays.

        Returns float32 (n, dimension), each row of unit length, in the order given. Raises
        ImageError, naming the file, at the first image that cannot be read.
        """
        vectors = []
        for image, result in self.embed_each(images):
            if isinstance(result, ImageError):
                name = f"{os.fspath(image)}: " if isinstance(image, (str, os.PathLike)) else ""
                raise ImageError(f"{name}{result}") from result
            vectors.append(result)
        return np.stack(vectors) if vectors else np.empty((0, self.dimension), np.float32)

    def embed_each(self, images: Iterable[Any]) -> Iterator[tuple[Any, FloatArray | ImageError]]:
        """Stream (image, float32 (dimension,)) in the order given, or the error of that image.

        Decodes in threads beside the runtime; memory is bounded whatever the number of images.
        Raises UsageError for one image in place of several.
        """
        with pipeline.thread_pool() as pool:
            pixels = pipeline.parallel_map(pool, self._load, several(images), ahead=pipeline.AHEAD)
            for batch in pipeline.embed_batches(pixels, lambda: self.runtime):
                yield from batch

    def _load(self, image: Any) -> tuple[Any, PixelArray | ImageError]:
        try:
            if isinstance(image, (str, os.PathLike)):
                return image, self.decode(images.read_file(os.fspath(image)))
            return image, images.prepare(image, self.record.preprocessing)
        except ImageError as error:
            return image, error

    def verify(self, a: Any, b: Any, threshold: float | None = None) -> Verification:
        """Whether two images, each as ``embed`` takes them, show the same identity."""
        first, second = self.embed([a, b])
        score = float(first @ second)
        threshold = self.threshold if threshold is None else threshold
        return Verification(score >= threshold, score, self.confidence(score), threshold)

    def decode(self, data: bytes) -> PixelArray:
        """A file's bytes as the uint8 (height, width, channels) that the graph takes."""
        return images.decode(data, self.record.preprocessing)


def several(images: Iterable[Any]) -> Iterable[Any]:
    """The same; UsageError for one image, whose characters or rows would pass for images."""
    one = isinstance(images, (str, bytes, os.PathLike)) or getattr(images, "ndim", 4) < 4
    if one or not isinstance(images, Iterable):
        raise UsageError("give a list of images, also where it is only one")
    return images


def shipped() -> list[str]:
    """The names of the encoders that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/encoder.json"))


def resolve(name_or_folder: str | os.PathLike[str]) -> Path:
    """The folder of an encoder. A bare name means a shipped encoder before a local folder."""
    text = os.fspath(name_or_folder)
    if text in shipped():
        return SHIPPED / text
    folder = Path(text).absolute()
    if os.path.isfile(folder / "encoder.json"):
        return folder
    what = (
        "has no encoder.json" if os.path.isdir(folder) else "is neither a folder nor a shipped name"
    )
    raise EncoderError(
        f"unknown encoder: {text!r} {what}; shipped encoders: {', '.join(shipped()) or 'none'}"
    )


def read_record(folder: Path) -> EncoderRecord:
    """Read ``encoder.json``; EncoderError where it is damaged, newer, or edited by hand."""
    path = folder / "encoder.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("format") > FORMAT:
            raise EncoderError(f"{path} was written by a newer siasearch: upgrade to use it")
        fingerprint = fields.pop("fingerprint")
        fields["preprocessing"] = Preprocessing(**fields["preprocessing"])
        record = EncoderRecord(**fields)
        if record.preprocessing.rendering > RENDERING:
            raise EncoderError(f"{path} needs a newer siasearch: upgrade to use it")
        float(record.calibration["slope"]), float(record.calibration["offset"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EncoderError(f"{path} is damaged ({error!r}): get the encoder again") from error
    if record.fingerprint != fingerprint:
        raise EncoderError(
            f"{path} does not carry its own fingerprint, so it was edited or damaged: "
            "get the encoder again"
        )
    return record


def write_encoder(
    folder: str | os.PathLike[str],
    *,
    name: str,
    architecture: dict[str, Any],
    preprocessing: Preprocessing,
    dimension: int,
    onnx: bytes,
    weights: Mapping[str, npt.NDArray[Any]],
    threshold: float,
    calibration: dict[str, Any],
    training: dict[str, Any],
) -> str:
    """Write an encoder folder and return its fingerprint.

    ``encoder.json`` is written last and by rename, so a folder that has one is complete.
    """
    from safetensors.numpy import save

    files = {"encoder.onnx": onnx, "weights.safetensors": save(dict(weights))}
    record = EncoderRecord(
        name=name,
        architecture=architecture,
        preprocessing=preprocessing,
        dimension=dimension,
        threshold=threshold,
        calibration=calibration,
        training=training,
        weights=_tensors_digest(weights),
        digests={file: hashlib.sha256(content).hexdigest() for file, content in files.items()},
    )
    description = {"format": FORMAT, "fingerprint": record.fingerprint, **asdict(record)}
    files["encoder.json"] = (json.dumps(description, indent=2) + "\n").encode()
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    (target / "encoder.json").unlink(missing_ok=True)
    for file, content in files.items():
        temporary = target / f"{file}.tmp"
        temporary.write_bytes(content)
        temporary.replace(target / file)
    return record.fingerprint


def _tensors_digest(weights: Mapping[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()
