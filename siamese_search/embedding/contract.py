"""What a gallery asks of an encoder of anything: sounds, sentences, signatures.

``siamese_search.testing`` has the tests that any such encoder passes. Knows nothing of pictures.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import FloatArray
from siamese_search.errors import EncoderError

SNIPPET = 300  # bytes of a file that are shown as text
DIMENSION_AT_MOST = 1 << 16


class EncoderProtocol(Protocol):
    """An encoder of one's own: which files it takes, and how they become unit vectors.

    Whoever inherits from it has ``threshold``, ``batch`` and ``show``, and may replace them.
    ``decode`` and ``embed`` may be called by several threads at a time.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What people call it."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """How long its vectors are."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A version, or a digest of its weights: another one wherever vectors differ."""

    @property
    @abstractmethod
    def suffixes(self) -> Collection[str]:
        """Of the files in folders that it takes, like ``(".wav", ".flac")``; in any case."""

    @property
    def threshold(self) -> float | None:
        """The cosine from which two files count as the same; None where none was fitted: then
        nothing gets a name until the gallery is calibrated.
        """
        return None

    @property
    def batch(self) -> int:
        """How many files at a time suit it."""
        return 32

    @abstractmethod
    def decode(self, data: bytes) -> Any:
        """What ``embed`` takes of a file, by its contents: an array of any shape, say.

        Whatever it raises refuses that one file, and is said; ValueError says why in plain words.
        """

    @abstractmethod
    def embed(self, arrays: list[Any]) -> npt.NDArray[np.float32]:
        """What ``decode`` gave for n files, one or more, to float32 (n, dimension), each row finite
        and of unit length. A row depends on its own file alone.
        """

    def show(self, data: bytes) -> str | npt.NDArray[np.uint8]:
        """How a file is shown to people, by its contents: a short text, or uint8 (height, width, 3)
        or (height, width) of any size.
        """
        head = data[:SNIPPET].decode("utf-8", "ignore")
        return f"{len(data):,} bytes" if "\0" in head else head


MEMBERS = ("name", "dimension", "fingerprint", "suffixes", "threshold", "batch", "decode", "embed",
           "show")  # fmt: skip


def required(own: Any) -> EncoderProtocol:
    """The same, if it fulfils ``EncoderProtocol``. Raises EncoderError, saying what it lacks."""
    what = type(own).__name__
    if isinstance(own, type):
        raise EncoderError(f"{own.__name__} is a class: give an object, {own.__name__}()")
    lacking = [member for member in MEMBERS if not hasattr(own, member)]
    if lacking:
        raise EncoderError(
            f"{own!r:.80} is no encoder: give a name, a folder, or an object that fulfils"
            f" siamese_search.EncoderProtocol; it lacks {', '.join(lacking)}"
        )
    fits: EncoderProtocol = own
    for member, value, right, wanted in (
        ("name", fits.name, _is_text(fits.name), "a short text"),
        ("fingerprint", fits.fingerprint, _is_text(fits.fingerprint), "a version, as text"),
        ("dimension", fits.dimension, _is_whole(fits.dimension), f"1 to {DIMENSION_AT_MOST}"),
        ("batch", fits.batch, _is_whole(fits.batch), "a whole number from 1 on"),
        ("suffixes", fits.suffixes, _are_suffixes(fits.suffixes), "a tuple like ('.wav', '.flac')"),
        ("threshold", fits.threshold, _is_cosine(fits.threshold), "a cosine, or None"),
    ):
        if not right:
            raise EncoderError(
                f"the {member} of the encoder {what} is {value!r}: it needs {wanted}"
            )
    return fits


class OwnRuntime:
    """Runs batches of objects in boxes, see ``OwnEncoder.decode``."""

    device = "cpu"
    parallel = 1

    def __init__(self, own: EncoderProtocol) -> None:
        self._own = own
        self.batch = own.batch

    def embed(self, pixels: npt.NDArray[Any]) -> FloatArray:
        """Raises EncoderError where the encoder fails, or gives anything but (n, dimension)."""
        name, wanted = self._own.name, (len(pixels), self._own.dimension)
        try:
            vectors = np.asarray(self._own.embed(list(pixels)), np.float32)
        except Exception as error:
            raise EncoderError(
                f"the encoder {name} fails: {type(error).__name__}: {error}"
            ) from error
        if vectors.shape != wanted:
            raise EncoderError(f"the encoder {name} gives the shape {vectors.shape}, not {wanted}")
        return vectors

    def describe(self, pixels: npt.NDArray[Any]) -> tuple[FloatArray, None]:
        return self.embed(pixels), None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and bool(value.strip())


def _is_whole(value: object) -> bool:
    return type(value) is int and 1 <= value <= DIMENSION_AT_MOST


def _is_cosine(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and -1 <= value <= 1)


def _are_suffixes(value: object) -> bool:
    if isinstance(value, str | bytes) or not isinstance(value, Collection):
        return False
    return bool(value) and all(isinstance(one, str) and one.startswith(".") for one in value)
