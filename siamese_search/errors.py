"""Every error that siasearch raises on purpose.

    SiaSearchError
    ├── UsageError            what was asked for makes no sense
    ├── ImageError            one image cannot be used; says why
    ├── EncoderError          an encoder folder is missing, damaged or unknown
    │   ├── KeyMissing            a protected gallery's key is not at hand, or another
    │   └── RuntimeUnavailable    the device or library asked for is not there
    ├── TrainingError         a training run cannot begin or go on
    └── GalleryError          a gallery cannot be used as it is
        ├── GalleryMissing        there is none, or it was replaced while it was open
        ├── GalleryMismatch       it was made by another encoder
        ├── GalleryFormatError    it was written by a newer siasearch
        ├── GalleryDamaged        the database is corrupt or incomplete
        ├── EngineUnavailable     the engine that holds its index (Milvus) does not answer
        └── StorageError          no permission, locked by another process
            └── DiskFull              no space is left

Messages name the file and the way out. Foreign exceptions (SQLite, FAISS, Milvus, Pillow,
OpenVINO) are mapped to these where they arise.
"""

from __future__ import annotations

from numbers import Integral

ROUNDING = 1e-9  # by which a bound may be missed


class SiaSearchError(Exception):
    """Base of every error that siasearch raises on purpose."""


class UsageError(SiaSearchError):
    """What was asked for makes no sense: an empty folder, a bad manifest, k below 1."""


def require_between(name: str, value: float, low: float, high: float, what: str) -> None:
    """Raise UsageError for an argument that is no number from ``low`` to ``high``, saying ``what``
    to give.
    """
    try:
        inside = low - ROUNDING <= value <= high + ROUNDING
    except (TypeError, ValueError):  # text; an array
        inside = False
    if not inside:
        raise UsageError(f"{name} is {value}: give {what}")


def require_type(name: str, value: object, kind: type, words: str) -> None:
    """Raise UsageError for an argument that is not of a kind, in words what it should be."""
    if not isinstance(value, kind):
        raise UsageError(f"{name} is {value!r}: it needs {words}")


def require_whole(name: str, value: object, low: int = 0) -> None:
    """Raise UsageError for an argument that is no whole number from ``low`` on, of 64 bits."""
    if not isinstance(value, Integral) or not low <= int(value) < 1 << 63:
        raise UsageError(f"{name} is {value!r}: give a whole number from {low} on, of 64 bits")


class ImageError(SiaSearchError):
    """One image cannot be used. The message is the reason alone, without the path."""


class EncoderError(SiaSearchError):
    """An encoder folder is missing, damaged or unknown."""


class KeyMissing(EncoderError):
    """The key of a protected gallery is not at hand, or it is another."""


class RuntimeUnavailable(EncoderError):
    """The device or library asked for is not there."""


class GalleryError(SiaSearchError):
    """A gallery cannot be used as it is."""


class GalleryMissing(GalleryError):
    """There is no gallery in this folder, or not the one any more that was opened."""


class GalleryMismatch(GalleryError):
    """The gallery was made by another encoder."""


class GalleryFormatError(GalleryError):
    """The gallery was written by a newer siasearch."""


class GalleryDamaged(GalleryError):
    """The database is corrupt or incomplete."""


class EngineUnavailable(GalleryError):
    """The engine that holds a gallery's index elsewhere does not answer, or not as it should."""


class StorageError(GalleryError):
    """A permission is missing, another process holds the gallery, or the disk is full."""


class DiskFull(StorageError):
    """No space is left for what was to be written."""


class TrainingError(SiaSearchError):
    """A training run cannot begin or go on."""
