"""An encoder's record: what its folder says of it, and how such a folder is found and written.

Format 1 has a fingerprint that leaves out the graph; galleries and folders of that time keep it.
Loads no network; knows nothing of pictures and runtimes.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints
from zlib import crc32

import numpy as np
import numpy.typing as npt

from siamese_search.decision.learning import Prior
from siamese_search.embedding.offers import names
from siamese_search.errors import EncoderError, StorageError, UsageError
from siamese_search.files import make_folder, read_regular, write_whole
from siamese_search.pictures.preprocessing import RENDERING, Preprocessing
from siamese_search.records import surplus_fields

SHIPPED = Path(__file__).parents[1] / "encoders"
FORMAT = 2
DESCRIPTION, GRAPH, WEIGHTS = "encoder.json", "encoder.onnx", "weights.safetensors"
PRIOR = "metric.npy"  # float32 (1 + d, d): the prior's mean, and its covariance
DESCRIPTION_BYTES = 16 << 20  # at most
FILE_BYTES = 4 << 30
SIDE_AT_MOST = 4096  # pixels
UNFITTED: dict[str, Any] = {  # no other picture reaches it, and the logistic says nothing
    "threshold": 1.0,
    "calibration": {"fitted": False, "slope": 1.0, "offset": -1.0},
}
DIMENSION_AT_MOST = 1 << 16
# A node's type is its field 4: its tag, the length in one byte or, padded, in several, the text.
LOOP = re.compile(rb"\x22(?:\x04|\x84\x80*\x00)(Loop|Scan)")
GRAPHS = {
    "433e79274ca69b92be92a56926c0cf321a0a01abb73328a521291914cff0d221": (
        "9ace401b14e5a7806ed5b1b7b99f8d7b4e37bb5bf0c1048f8f58682bf6a4b488"
    ),
    "baf899bb6fcd276493eec5aef46a0a6edb7e036d656690d038ea577c6282759f": (
        "3478c94e9456fb6ee231fca2fa0ab30ea3b91ab733a58e2ea2da2ae42c3df8ce"
    ),
}
"""The SHA-256 of the graphs of encoders that were shipped in format 1, by their fingerprints."""


@dataclass(frozen=True)
class EncoderRecord:
    """What ``encoder.json`` says, in the ``format`` that it has.

    ``threshold`` is the cosine from which two images count as the same identity.
    ``calibration`` holds ``slope`` and ``offset`` of the logistic that maps a cosine to the
    probability that the identity is right (Platt 1999); ``fitted`` is False in it where neither was
    fitted on pictures, and the threshold 1 then. ``digests`` are SHA-256 of the files beside it,
    ``weights`` that of the tensors, whatever file format holds them.
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
    format: int = FORMAT

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what determines an embedding: weights, graph (not in format 1),
        architecture, preprocessing.
        """
        determinants = {
            "architecture": self.architecture,
            "preprocessing": asdict(self.preprocessing),
            "dimension": self.dimension,
            "weights": self.weights,
        } | ({} if self.format == 1 else {"graph": self.digests[GRAPH]})
        canonical = json.dumps(determinants, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def calibrated(self) -> bool:
        """Whether threshold and confidence were fitted on pictures, and so mean anything."""
        return bool(self.calibration.get("fitted", True))

    @property
    def vouches_for_graph(self) -> bool:
        """Whether the fingerprint tells one graph from another."""
        return self.format > 1 or self.fingerprint in GRAPHS


def shipped() -> list[str]:
    """The names of the encoders that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/encoder.json"))


def resolve(name_or_folder: str | os.PathLike[str]) -> Path:
    """The folder of an encoder. A bare name means a shipped encoder before a local folder."""
    if not isinstance(name_or_folder, (str, os.PathLike)):
        raise EncoderError(f"{name_or_folder!r} is no encoder: give a shipped name or a folder")
    text = os.fspath(name_or_folder)
    if text in shipped():
        return SHIPPED / text
    folder = Path(text).absolute()
    if os.path.isfile(folder / DESCRIPTION):
        return folder
    what = (
        "has no encoder.json" if os.path.isdir(folder) else "is neither a folder nor a shipped name"
    )
    raise EncoderError(
        f"unknown encoder: {text!r} {what}; shipped encoders: {', '.join(shipped()) or 'none'}"
        + (f"; of packages: {', '.join(names())}" if names() else "")
    )


def read_record(folder: Path) -> EncoderRecord:
    """Read ``encoder.json``; EncoderError where it is damaged, newer, or edited by hand."""
    path = folder / DESCRIPTION
    try:
        fields = json.loads(read_regular(path, DESCRIPTION_BYTES))
        whole = _is_whole(fields)
        fingerprint = fields.pop("fingerprint")
        newer = fields["format"] > FORMAT or fields["preprocessing"].get("rendering", 0) > RENDERING
        surplus = surplus_fields(EncoderRecord, fields)
        surplus += surplus_fields(Preprocessing, fields["preprocessing"])
        if newer or surplus:
            what = f" ({', '.join(surplus)})" if surplus else ""
            raise EncoderError(f"{path} was written by a newer siasearch{what}: upgrade to use it")
        fields["preprocessing"] = Preprocessing(**fields["preprocessing"])
        record = EncoderRecord(**fields)
        _require_possible(record)
        own = record.fingerprint
        known_graph = GRAPHS.get(own, record.digests[GRAPH]) == record.digests[GRAPH]
    except OSError as error:
        raise EncoderError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else repr(error)
        raise EncoderError(f"{path} is damaged ({what}): get the encoder again") from error
    if own != fingerprint:
        raise EncoderError(
            f"{path} does not carry its own fingerprint, so it was edited or damaged: "
            "get the encoder again"
        )
    if not known_graph:
        raise EncoderError(
            f"{folder / GRAPH} is not the graph of the encoder whose fingerprint {path} has: get"
            " the encoder again, or write one of your own with `siasearch train`"
        )
    if not whole:
        raise EncoderError(
            f"{path} was edited or damaged (wrong checksum): get the encoder again; thresholds are"
            " chosen by `siasearch calibrate`"
        )
    return record


def _is_whole(fields: dict[str, Any]) -> bool:
    """Whether what was read is what was written. Takes off the checksum; earlier ones have none."""
    checksum = fields.pop("checksum", None)
    return checksum is None or checksum == _checksum(fields)


def _checksum(fields: dict[str, Any]) -> int:
    return crc32(json.dumps(fields).encode())


def _require_possible(record: EncoderRecord) -> None:
    """Raise ValueError or TypeError for what no encoder of ours says."""
    shown = record.preprocessing
    places = record.architecture.get("places")
    for what, value, kind, least, most in (
        ("threshold", record.threshold, float, -1, 1),
        ("slope", record.calibration["slope"], float, -math.inf, math.inf),
        ("offset", record.calibration["offset"], float, -math.inf, math.inf),
        ("dimension", record.dimension, int, 1, DIMENSION_AT_MOST),
        ("width", shown.width, int, 1, SIDE_AT_MOST),
        ("height", shown.height, int, 1, SIDE_AT_MOST),
        ("crop_fraction", shown.crop_fraction, float, 0.01, 1),
        ("grid", 1 if places is None else places["grid"], int, 1, SIDE_AT_MOST),
        ("dimension", 1 if places is None else places["dimension"], int, 1, DIMENSION_AT_MOST),
    ):
        number = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not number or isinstance(value, bool) or not math.isfinite(value):
            raise TypeError(f"{what} is {value!r}")
        if not least <= value <= most:
            raise ValueError(f"{what} is {value!r}")
    if not isinstance(record.calibration.get("fitted", True), bool):
        raise TypeError(f"fitted is {record.calibration['fitted']!r}")
    if not record.calibrated and record.threshold != UNFITTED["threshold"]:
        raise ValueError(f"threshold is {record.threshold!r}, though none was fitted")
    hints = get_type_hints(Preprocessing)
    for what in ("channels", "resize", "interpolation"):
        if getattr(shown, what) not in get_args(hints[what]):
            raise ValueError(f"{what} is {getattr(shown, what)!r}")
    if not isinstance(record.name, str) or not isinstance(record.training, dict):
        raise TypeError("its name or its training is of another kind")
    for file, digest in record.digests.items():
        if file not in (GRAPH, WEIGHTS, PRIOR) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"{file!r} with the digest {digest!r} is none of its files")


def write_encoder(
    folder: str | os.PathLike[str],
    *,
    name: str,
    architecture: dict[str, Any],
    preprocessing: Preprocessing,
    dimension: int,
    onnx: bytes,
    weights: Mapping[str, npt.NDArray[Any]],
    threshold: float | None = None,
    calibration: dict[str, Any] | None = None,
    training: dict[str, Any],
    prior: Prior | None = None,
) -> str:
    """Write an encoder folder and return its fingerprint.

    ``threshold`` and ``calibration`` are fitted together; without them the encoder says that it has
    none (see ``EncoderRecord.calibrated``). ``prior`` is for the metrics that galleries learn.
    ``encoder.json`` is written last and by rename, so a folder that has one is complete. Raises
    UsageError for a threshold without a calibration, or the other way round.
    """
    from safetensors.numpy import save

    if threshold is None and calibration is None:
        threshold, calibration = UNFITTED["threshold"], dict(UNFITTED["calibration"])
    if threshold is None or calibration is None:
        raise UsageError("threshold and calibration are fitted together: give both, or neither")

    files = {GRAPH: onnx, WEIGHTS: save(dict(weights))}
    if prior is not None:
        files[PRIOR] = _prior_bytes(prior)
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
    target = Path(folder)
    make_folder(target)
    (target / DESCRIPTION).unlink(missing_ok=True)
    for file, content in files.items():
        write_whole(target / file, content)
    _write_record(target, record)
    return record.fingerprint


def write_decision(folder: Path, threshold: float, calibration: dict[str, Any]) -> EncoderRecord:
    """Give an encoder that is there another threshold and calibration; returns its record.

    Neither is part of the fingerprint: galleries that were made with it stay as they are. Raises
    EncoderError where the record is damaged or cannot be replaced.
    """
    record = replace(read_record(folder), threshold=threshold, calibration=calibration)
    _require_possible(record)
    try:
        _write_record(folder, record)
    except StorageError as error:
        raise EncoderError(str(error)) from error
    return record


def _write_record(folder: Path, record: EncoderRecord) -> None:
    first = {"format": record.format, "fingerprint": record.fingerprint}
    description = first | asdict(record)
    description["checksum"] = _checksum(json.loads(json.dumps(description)))
    write_whole(folder / DESCRIPTION, (json.dumps(description, indent=2) + "\n").encode())


def _tensors_digest(weights: Mapping[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def verified_weights(folder: Path, record: EncoderRecord) -> dict[str, npt.NDArray[Any]]:
    """The tensors of the encoder; EncoderError where they are not those of its fingerprint."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = verified_bytes(folder, record, WEIGHTS)
    try:
        weights = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise EncoderError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    if _tensors_digest(weights) != record.weights:
        raise EncoderError(
            f"{folder / WEIGHTS} holds other weights than the encoder was made with: get the"
            " encoder again"
        )
    return weights


def verified_bytes(folder: Path, record: EncoderRecord, file: str) -> bytes:
    """A file of the encoder, its SHA-256 checked; EncoderError where it is missing or damaged."""
    try:
        content = read_regular(folder / file, FILE_BYTES)
    except OSError as error:
        raise EncoderError(f"cannot read {folder / file}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != record.digests.get(file):
        raise EncoderError(f"{folder / file} is damaged (wrong checksum): get the encoder again")
    return content


def verified_graph(folder: Path, record: EncoderRecord) -> bytes:
    """The ONNX graph; EncoderError where it is missing or damaged, keeps weights elsewhere, or has
    a loop, which might not end.
    """
    content = verified_bytes(folder, record, GRAPH)
    # A tensor that lies in another file names it under the key `location`. Before a string comes
    # its length, 8, in one byte or, padded, in several of which the last is 0.
    if b"\x08location" in content or b"\x00location" in content:
        raise EncoderError(
            f"{folder / GRAPH} keeps weights in another file, which no checksum covers: save the"
            " graph with its weights inside"
        )
    loop = LOOP.search(content)
    if loop:
        raise EncoderError(
            f"{folder / GRAPH} has a step {loop[1].decode()}, and so might not end: encoders have"
            " no loops"
        )
    return content


Sizes = Sequence[int | None]
"""The sizes of an array that a graph takes or gives, None where any will do."""


def require_fitting(
    path: Path, record: EncoderRecord, takes: Sequence[Sizes], gives: Sizes
) -> None:
    """Raise EncoderError for a graph that takes (each of ``takes`` is an array of bytes) or gives
    anything but what its record says.
    """
    shown = record.preprocessing
    pixels = (None, shown.height, shown.width, shown.channels)
    if (
        len(takes) != 1
        or not _may_be(takes[0], pixels)
        or not _may_be(gives, (None, record.dimension))
    ):
        raise EncoderError(
            f"{path} takes arrays of bytes of the sizes {[[*one] for one in takes]} and gives"
            f" {[*gives]}, unlike what {DESCRIPTION} says: get the encoder again"
        )


def _may_be(sizes: Sizes, wanted: Sizes) -> bool:
    pairs = zip(sizes, wanted, strict=False)
    return len(sizes) == len(wanted) and all(None in pair or pair[0] == pair[1] for pair in pairs)


def require_embeddings(
    path: Path, record: EncoderRecord, embeddings: npt.NDArray[np.float32], images: int
) -> None:
    """Raise EncoderError for a graph's embeddings of so many images that are of another shape."""
    if embeddings.shape != (images, record.dimension):
        raise EncoderError(
            f"{path} gives embeddings of shape {embeddings.shape}, not"
            f" {(images, record.dimension)}: get the encoder again"
        )


def read_prior(folder: Path, record: EncoderRecord) -> Prior | None:
    """The encoder's own metric; None where it has none, as those made before have.

    Raises EncoderError where the file is missing or damaged.
    """
    if PRIOR not in record.digests:
        return None
    content = verified_bytes(folder, record, PRIOR)
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, MemoryError, OverflowError) as error:
        raise EncoderError(f"{folder / PRIOR} is damaged: get the encoder again") from error
    if values.shape != (record.dimension + 1, record.dimension) or not np.isfinite(values).all():
        raise EncoderError(f"{folder / PRIOR} does not fit the encoder: get the encoder again")
    return Prior(values[0].astype(np.float32), values[1:].astype(np.float32))


def _prior_bytes(prior: Prior) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.vstack([prior.mean, prior.within]).astype("<f4"), allow_pickle=False)
    return stream.getvalue()
