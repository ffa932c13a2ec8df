"""The metric under which descriptors are compared: a mean, and a linear projection.

Cosines of projected descriptors are scores. Probes may have a mean of their own. How it is learned:
``learning.py``; when probes need theirs: ``kinds.py``. It knows nothing of files, encoders or
indexes.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import DoubleArray, FloatArray
from siamese_search.errors import GalleryDamaged, GalleryFormatError, UsageError

Kind = Literal["plain", "prior", "total", "within"]

BLOCK = 8192  # vectors that are projected at a time
LEAST = 1e-6  # length of what has a direction

_Float = TypeVar("_Float", np.float32, np.float64)

_HEADER = struct.Struct("<3sBIIII")  # magic, version, length of facts, d, p, CRC-32
_MAGIC = b"MTR"
_VERSION = 2  # with a mean for probes; what has none is written as version 1


@dataclass(frozen=True)
class Metric:
    """A metric. ``mean`` is float32 (d,), ``projection`` float32 (d, p); ``probe_mean`` (d,) takes
    the place of ``mean`` for what is asked, None where that is compared as items are.

    ``kind`` says whose scatter it rests on: that of the items around the ``total`` mean or
    ``within`` their identities, the encoder's ``prior`` alone, or nobody's: ``plain`` cosine.
    ``shrinkage`` is the share of the identity matrix in the covariance, ``items`` and
    ``identities`` are how many there were. ``gain`` is how much larger a share of items found their
    identity than by plain cosine, when that was held out; None where none could be.
    """

    mean: FloatArray
    projection: FloatArray
    kind: Kind
    shrinkage: float
    items: int = 0
    identities: int = 0
    gain: float | None = None
    probe_mean: FloatArray | None = None

    @property
    def dimension(self) -> int:
        """p, of what is projected."""
        return int(self.projection.shape[1])

    @cached_property
    def _projection(self) -> DoubleArray:
        """In double precision, made once, since a probe is soon projected."""
        return self.projection.astype(np.float64)

    def apply(self, vectors: npt.ArrayLike) -> FloatArray:
        """Items (n, d) to float32 (n, p), each row of unit length; nought stays nought.

        In double precision, so that it hardly matters to a row which others come with it.
        Raises UsageError for another d, and for what is not a finite number.
        """
        return self._about(self.mean, vectors)

    def apply_to_probes(self, vectors: npt.ArrayLike) -> FloatArray:
        """The same of what is asked, which may have a mean of its own."""
        return self._about(self.mean if self.probe_mean is None else self.probe_mean, vectors)

    def _about(self, mean: FloatArray, vectors: npt.ArrayLike) -> FloatArray:
        given = finite(vectors, len(self.mean))
        projected = np.empty((len(given), self.dimension), np.float32)
        for start in range(0, len(given), BLOCK):
            block = unit(given[start : start + BLOCK].astype(np.float64))
            moved = (block - mean) @ self._projection
            moved[~block.any(axis=1)] = 0
            projected[start : start + BLOCK] = unit(moved)
        return projected

    def centred_on(self, items: npt.ArrayLike, probes: npt.ArrayLike) -> Metric:
        """The same projection, with items about the mean of these (n, d), and probes about that of
        theirs (m, d). Raises UsageError as ``apply``.
        """
        means = [
            unit(finite(side, len(self.mean))).mean(axis=0, dtype=np.float64).astype(np.float32)
            for side in (items, probes)
        ]
        return replace(self, mean=means[0], probe_mean=means[1])

    def to_bytes(self) -> bytes:
        """What ``from_bytes`` reads, with a checksum; the same metric gives the same bytes."""
        facts = {
            "kind": self.kind,
            "shrinkage": self.shrinkage,
            "items": self.items,
            "identities": self.identities,
            "gain": self.gain,
        }
        text = json.dumps(facts, sort_keys=True).encode()
        means = [self.mean] if self.probe_mean is None else [self.mean, self.probe_mean]
        arrays = [np.asarray(a, "<f4").tobytes() for a in (*means, self.projection)]
        body = b"".join([text, *arrays])
        version = len(means)  # as both happen to be
        sizes = (len(text), *self.projection.shape)
        check = zlib.crc32(body, zlib.crc32(struct.pack("<BIII", version, *sizes)))
        return _HEADER.pack(_MAGIC, version, *sizes, check) + body

    @classmethod
    def from_bytes(cls, data: bytes) -> Metric:
        """The metric that ``to_bytes`` gave.

        Raises GalleryDamaged where they were cut or altered, GalleryFormatError where a newer
        version wrote them.
        """
        damaged = "the gallery's metric is damaged: learn it again"
        if len(data) < _HEADER.size or data[:3] != _MAGIC:
            raise GalleryDamaged(damaged)
        _, version, length, width, dimension, check = _HEADER.unpack_from(data)
        if version > _VERSION:
            raise GalleryFormatError(
                "the gallery's metric was written by a newer siasearch: upgrade, or learn it again"
            )
        body = data[_HEADER.size :]
        sizes = struct.pack("<BIII", version, length, width, dimension)
        means = version  # items' alone, or probes' as well
        whole = means > 0 and len(body) == length + 4 * width * (means + dimension)
        if not whole or zlib.crc32(body, zlib.crc32(sizes)) != check:
            raise GalleryDamaged(damaged)
        values = np.frombuffer(body, "<f4", offset=length).astype(np.float32)
        try:
            facts: dict[str, Any] = json.loads(body[:length])
            known = facts["kind"] in get_args(Kind) and np.isfinite(values).all()
            projection = values[means * width :].reshape(width, dimension)
            probe_mean = values[width : 2 * width] if means == 2 else None
            made = cls(values[:width], projection, **facts, probe_mean=probe_mean)
        except (ValueError, TypeError, KeyError) as error:
            raise GalleryDamaged(damaged) from error
        if not known:
            raise GalleryDamaged(damaged)
        return made


def plain(dimension: int, items: int = 0, identities: int = 0, gain: float | None = None) -> Metric:
    """Plain cosine: descriptors stay as they are."""
    zero, same = np.zeros(dimension, np.float32), np.eye(dimension, dtype=np.float32)
    return Metric(zero, same, "plain", 1.0, items, identities, gain)


def unit(vectors: npt.NDArray[_Float]) -> npt.NDArray[_Float]:
    """Rows (n, d) scaled to unit length; nought where they have no direction."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > LEAST, lengths, np.inf)).astype(vectors.dtype, copy=False)


def finite(vectors: npt.ArrayLike, dimension: int | None = None) -> FloatArray:
    """The same as float32 (n, d). Raises UsageError for another shape, and where a value is not a
    finite number.
    """
    given = np.asarray(vectors, np.float32)
    if given.ndim != 2 or (dimension is not None and given.shape[1] != dimension):
        wanted = "d" if dimension is None else dimension
        raise UsageError(f"descriptors have the shape {given.shape}, not (n, {wanted})")
    # A sum over all rows is finite where every value is, save for overflow: then look closely.
    if not np.isfinite(given.sum()):
        bad = np.flatnonzero(~np.isfinite(given).all(axis=1))
        if len(bad):
            raise UsageError(
                f"{len(bad)} of {len(given)} descriptors are not finite numbers, the first at"
                f" position {bad[0]}: enrol these items again"
            )
    return given
