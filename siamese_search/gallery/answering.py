"""Answering: from pictures to identifications, under whatever encoder is active meanwhile.

Knows nothing of SQL and the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from siamese_search.embedding.turning import Looks, describe_turns_each
from siamese_search.errors import GalleryMismatch, ImageError
from siamese_search.gallery.active import Active, ActiveEncoder
from siamese_search.gallery.identification import Identifier, Question
from siamese_search.gallery.unknowns import Unknowns
from siamese_search.gallery.viewing import describe_turns, identify_turns
from siamese_search.pictures.read import several
from siamese_search.records import Identification


class Answering:
    """Answers questions about pictures for one gallery."""

    def __init__(self, active: ActiveEncoder, identifier: Identifier, unknowns: Unknowns) -> None:
        self._active = active
        self._identifier = identifier
        self._unknowns = unknowns

    def identify(self, images: Iterable[Any], question: Question) -> list[Identification]:
        """Identify images, see ``Gallery``; ImageError at the first that cannot be read."""
        images = list(several(images))
        self._identifier.prepare()
        while True:
            encoder = self._active.now().encoder
            with suppress(GalleryMismatch):  # another process has switched encoders just now
                looks = describe_turns(encoder, images, question.turns)
                return identify_turns(self._identifier, encoder, looks, question)

    def identify_each(
        self, images: Iterable[Any], question: Question, keep_unknown: bool
    ) -> Iterator[tuple[Any, Identification | ImageError]]:
        """Stream (image, identification) in the order given, or the error of that image."""
        active = self._active.now()
        self._identifier.prepare()
        for image, result in describe_turns_each(active.encoder, images, question.turns):
            if isinstance(result, ImageError):
                yield image, result
                continue
            try:
                yield image, self._answer(active, image, result, question, keep_unknown)
            except ImageError as error:  # gone before it could be kept
                yield image, error

    def _answer(
        self, active: Active, image: Any, looks: Looks, question: Question, keep: bool
    ) -> Identification:
        """One answer; the picture is embedded again where others have switched encoders."""
        while True:
            with suppress(GalleryMismatch):
                (answer,) = identify_turns(self._identifier, active.encoder, looks, question)
                if keep and answer.strange:
                    self._unknowns.keep(image, looks[0].embedding, active.encoder.fingerprint)
                return answer
            active = self._active.now()
            ((_, result),) = describe_turns_each(active.encoder, [image], question.turns)
            if isinstance(result, ImageError):
                raise result
            looks = result
