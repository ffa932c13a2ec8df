"""The encoder under which a gallery answers, and its generation, always read together.

Knows nothing of items and pictures.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import EncoderError, GalleryMismatch, KeyMissing
from siamese_search.forks import Followed
from siamese_search.records import Generation
from siamese_search.storage.catalog import Catalog


@dataclass(frozen=True)
class Active:
    """An encoder and the generation that holds its embeddings."""

    encoder: Encoder
    generation: Generation


class ActiveEncoder(Followed):
    """Follows which encoder is a gallery's, as others may switch it."""

    def __init__(
        self, folder: Path, catalog: Catalog, encoder: Encoder | None, device: str | None
    ) -> None:
        self.device = device
        self._folder = folder
        self._catalog = catalog
        self._encoder = encoder
        self._named: str | None = None  # where the encoder at hand lies, as the gallery says
        self._active: Active | None = None
        self._version: tuple[int, int] | None = None
        self._lock = threading.RLock()
        self.follow_forks()

    def in_child(self) -> None:
        self._lock = threading.RLock()
        self._active = None

    def now(self) -> Active:
        """What is active now. Raises EncoderError where the encoder cannot be found."""
        # The database is never asked under the lock: whoever reads it may ask for the encoder.
        version = self._catalog.version()
        with self._lock:
            if self._active is not None and version == self._version:
                return self._active
        generation = self._catalog.state().generation
        with self._lock:
            self._encoder = self._matching(generation)
            self._active, self._version = Active(self._encoder, generation), version
            return self._active

    def adopt(self, encoder: Encoder | None) -> None:
        """Make sure that an encoder, if any, is the gallery's, and remember where it lies now.

        Raises GalleryMismatch where it is another, KeyMissing where the key is that protects it.
        """
        if encoder is None:
            return
        generation = self._catalog.state().generation
        encoder = self._encoder = encoder.protected_as(generation.encoder)
        require(encoder, generation, self._folder)
        self._named = generation.encoder
        moved = encoder.location != generation.encoder and encoder.is_found_again
        if not moved:
            return
        own = self._found(generation)
        if own is not None and own.prior_digest != encoder.prior_digest:
            self._encoder = own  # they embed alike; what is known for metrics a rebuild changes
        elif self._catalog.writable:
            self._catalog.generation(encoder.fingerprint, encoder.location, encoder.dimension)
            self._named = encoder.location

    def use(self, encoder: Encoder) -> None:
        """Keep an opened encoder at hand, to which the gallery has been switched."""
        with self._lock:
            self._encoder, self._active = encoder, None

    def _found(self, generation: Generation) -> Encoder | None:
        """The encoder that a generation names, None where it is not there any more."""
        try:
            found = Encoder.open(generation.encoder, self.device)
        except EncoderError:
            return None
        return found if found.fingerprint == generation.fingerprint else None

    def _matching(self, generation: Generation) -> Encoder:
        """The encoder at hand where it is that of the generation, else the one that it names."""
        if self._encoder is not None and self._encoder.fingerprint == generation.fingerprint:
            if generation.encoder in (self._named, self._encoder.location):
                return self._encoder
            self._named = generation.encoder  # another that embeds alike may know more
            return self._found(generation) or self._encoder
        try:
            encoder = Encoder.open(generation.encoder, self.device)
        except KeyMissing:
            raise
        except EncoderError as error:
            raise EncoderError(
                f"{error}; this gallery needs it: move it back, or give it once by --encoder,"
                " which `siasearch query` has, or encoder="
            ) from error
        require(encoder, generation, self._folder)
        return encoder


def require(encoder: Encoder, generation: Generation, gallery: Path) -> None:
    """Raise GalleryMismatch where an encoder is not that of a gallery's generation."""
    if encoder.fingerprint != generation.fingerprint:
        raise GalleryMismatch(
            f"{gallery} was made by the encoder {generation.encoder!r}"
            f" ({generation.fingerprint[:12]}), not by {encoder.name!r}"
            f" ({encoder.fingerprint[:12]}): use that one, or run"
            f" `siasearch rebuild --encoder {encoder.location}`"
        )
