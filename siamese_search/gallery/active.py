"""The active encoder and generation of a gallery, read together."""

from __future__ import annotations

from pathlib import Path

from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import GalleryMismatch
from siamese_search.records import Generation


def require(encoder: Encoder, generation: Generation, gallery: Path) -> None:
    """Raise GalleryMismatch where an encoder is not that of a gallery's generation."""
    if encoder.fingerprint != generation.fingerprint:
        raise GalleryMismatch(
            f"{gallery} was made by the encoder {generation.encoder!r}"
            f" ({generation.fingerprint[:12]}), not by {encoder.name!r}"
            f" ({encoder.fingerprint[:12]}): use that one, or run"
            f" `siasearch rebuild --encoder {encoder.location}`"
        )
