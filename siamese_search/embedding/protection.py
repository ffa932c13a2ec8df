"""Protection: embeddings rotated as a key says, so that those under two keys cannot be compared.

A rotation keeps every cosine among embeddings of one key, and so every answer. It is drawn from all
rotations alike (Mezzadri 2007, How to generate random matrices from the classical compact groups)
by the key's own stream of SHAKE-256. It is no encryption: whoever has as many embeddings with their
rotated ones as these have values knows it. Knows nothing of encoders and galleries.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import DoubleArray, FloatArray
from siamese_search.errors import KeyMissing, StorageError, UsageError
from siamese_search.files import read_regular, sync_folder

if TYPE_CHECKING:
    from siamese_search.embedding.runtimes import Runtime

VARIABLE = "SIASEARCH_KEY"  # the environment's, where the key file lies
DIMENSIONS = 4096  # at most: a rotation takes their square
_HEAD = "siasearch-key-1"
_FILE = re.compile(rf"{_HEAD} ([0-9a-f]{{64}})\s*")
_FILE_BYTES = 1024  # at most
_LOCATION = re.compile(r"protected:([0-9a-f]{16}):(.+)", re.DOTALL)


class Protected(NamedTuple):
    """The ``check`` of the key that protects, and the ``location`` of the encoder below."""

    check: str
    location: str

    def __str__(self) -> str:
        return f"protected:{self.check}:{self.location}"


def protected(location: str) -> Protected | None:
    """What a location of a protected encoder names; None for any other."""
    found = _LOCATION.fullmatch(location)
    return None if found is None else Protected(*found.groups())


@dataclass(frozen=True)
class Key:
    """A secret of 32 random bytes."""

    secret: bytes = field(repr=False)

    @classmethod
    def made(cls, path: Path) -> Key:
        """A new key, written to a new file that its owner alone can read. Raises StorageError."""
        key = cls(secrets.token_bytes(32))
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(f"{_HEAD} {key.secret.hex()}\n")
                file.flush()
                os.fsync(file.fileno())
            sync_folder(path.absolute().parent)
        except OSError as error:
            raise StorageError(f"{path} could not be written: {error.strerror}") from error
        return key

    @classmethod
    def read(cls, path: Path) -> Key:
        """The key in a file. Raises UsageError where there is none."""
        try:
            found = _FILE.fullmatch(read_regular(path, _FILE_BYTES).decode())
        except OSError as error:
            raise UsageError(f"the key {path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError:
            found = None
        if found is None:
            raise UsageError(f"{path} is no key as `siasearch export --protect` makes one")
        return cls(bytes.fromhex(found[1]))

    @classmethod
    def at_hand(cls, check: str) -> Key:
        """The key of that check, in the file that the environment names. Raises KeyMissing."""
        path = os.environ.get(VARIABLE)
        if not path:
            raise KeyMissing(
                f"the gallery is protected: give its key, by --key FILE or {VARIABLE}=FILE"
            )
        try:
            key = cls.read(Path(path))
        except UsageError as error:
            raise KeyMissing(str(error)) from error
        if not hmac.compare_digest(key.check, check):
            raise KeyMissing(f"{path} is not the key that this gallery is protected by")
        return key

    @property
    def check(self) -> str:
        """What tells keys from each other, and tells nothing of this one (an HMAC-SHA-256)."""
        return self._derived("check")[:8].hex()

    def location(self, below: str) -> str:
        """That of a protected encoder, of the one below."""
        return str(Protected(self.check, below))

    def fingerprint(self, below: str) -> str:
        """That of a protected encoder, of the one below."""
        return hashlib.sha256(f"protected {self.check} {below}".encode()).hexdigest()

    def rotation(self, dimension: int) -> DoubleArray:
        """The rotation, float64 (d, d), that embeddings (n, d) are multiplied by: orthogonal, of
        either determinant. Raises UsageError for too large a d.
        """
        if dimension > DIMENSIONS:
            raise UsageError(f"embeddings of more than {DIMENSIONS} values cannot be protected")
        stream = hashlib.shake_256(self._derived(f"rotation {dimension}"))
        count = dimension * dimension
        bits = np.frombuffer(stream.digest(16 * count), "<u8") >> np.uint64(11)
        uniform = (bits.astype(np.float64) + 0.5) * 2.0**-53
        normal = np.sqrt(-2 * np.log(uniform[:count])) * np.cos(2 * np.pi * uniform[count:])
        found, triangle = np.linalg.qr(normal.reshape(dimension, dimension))
        rotation: DoubleArray = found * np.sign(np.diagonal(triangle))
        return rotation

    def _derived(self, use: str) -> bytes:
        return hmac.digest(self.secret, f"siasearch {use}".encode(), "sha256")


def rotated(vectors: npt.ArrayLike, rotation: DoubleArray) -> FloatArray:
    """Embeddings (n, d) rotated, float32, each as long as it was."""
    turned: FloatArray = (np.asarray(vectors, np.float64) @ rotation).astype(np.float32)
    return turned


class ProtectedRuntime:
    """A runtime whose embeddings are rotated."""

    def __init__(self, below: Runtime, rotation: DoubleArray) -> None:
        self._below = below
        self._rotation = rotation
        self.device, self.batch, self.parallel = below.device, below.batch, below.parallel

    def embed(self, pixels: npt.NDArray[Any]) -> FloatArray:
        return rotated(self._below.embed(pixels), self._rotation)

    def describe(self, pixels: npt.NDArray[Any]) -> tuple[FloatArray, None]:
        return self.embed(pixels), None
