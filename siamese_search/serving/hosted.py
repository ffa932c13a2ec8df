"""Hosted galleries: opened once, by their names, and what is done with them off the event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from siamese_search.arrays import FloatArray, PixelArray
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.pipeline import described_by
from siamese_search.embedding.protection import VARIABLE, protected
from siamese_search.embedding.turning import describe_turns_each
from siamese_search.embedding.vectors import Description
from siamese_search.errors import (
    EncoderError,
    GalleryMismatch,
    GalleryMissing,
    ImageError,
    SiaSearchError,
    UsageError,
)
from siamese_search.gallery.gallery import Gallery
from siamese_search.gallery.identification import Question
from siamese_search.machine import cores
from siamese_search.records import Identification, UnknownGroup
from siamese_search.serving.batching import Batcher
from siamese_search.serving.problems import ENDING, Problem

log = logging.getLogger("siasearch")

T = TypeVar("T")
TRIES = 3  # to answer while others switch encoders
MOST_CORES = 4  # that are kept busy by requests about pictures
CHANGES = 4  # of a gallery that are made, or wait to be, at a time
ALIKE = 8  # pictures in a batch: in larger ones OpenVINO rounds otherwise than for one picture

Looks = list[Description]  # at one picture, in several turns


class Answered(NamedTuple):
    """Answers to pictures, the metadata of their matches by item, and the gallery's version: all
    from one state of it. ``strange`` has an embedding (dimension,) of each picture that nobody
    fits, else None, by the encoder of the ``fingerprint``.
    """

    answers: list[Identification | ImageError]
    metadata: Mapping[int, Mapping[str, str]]
    version: str
    strange: list[FloatArray | None]
    fingerprint: str


# Pixels, and what is asked of them: None where they are only described.
Shown = tuple[PixelArray, Question | None]
Asking = Batcher[Shown, Looks | Answered]


class Elsewhere(Protocol):
    """Processes that identify in place of this one."""

    count: int

    def identify(self, name: str, images: Sequence[bytes], question: Question) -> Answered:
        """As ``Hosted.identify`` of the gallery of a name."""
        ...


class Hosted:
    """One gallery on the server."""

    def __init__(
        self, name: str, opened: Callable[[], Gallery], read_only: bool, host: Host
    ) -> None:
        """Raises what ``opened`` raises, which opens it, also where its folder was replaced."""
        self.name = name
        self.gallery = opened()
        self._opened = opened
        self.read_only = read_only
        self._host = host
        self._lock = threading.Lock()
        # Of its own: a change may wait long for another process, and nobody who asks shall.
        self._changes = ThreadPoolExecutor(CHANGES, thread_name_prefix="changing")
        self._groups: tuple[str, list[UnknownGroup]] | None = None
        self._asked: tuple[Encoder, Asking] | None = None  # by which it was asked last

    async def call(self, function: Callable[[], T]) -> T:
        """What a function gives that reads or writes, in a thread."""
        return await self._host.call(partial(self.done, function))

    async def change(self, function: Callable[[], T]) -> T:
        """The same for one that changes the gallery. Raises Problem where nothing may change."""
        if self.read_only:
            raise Problem(403, f"the gallery {self.name} is read-only here")
        return await finished(self._changes, partial(self.done, function))

    def close(self) -> None:
        """Close the gallery, once what is being written is."""
        self._changes.shutdown(wait=False, cancel_futures=True)
        self.gallery.close()

    def done(self, function: Callable[[], T]) -> T:
        """What a function gives; given once more where the gallery's folder was replaced. To be
        called in a thread. Raises Problem where there is no gallery now.
        """
        gallery = self.gallery
        try:
            return function()
        except GalleryMissing as error:
            with self._lock:
                if self.gallery is gallery:
                    log.warning("%s", error)
                    self._open_again()
        return function()

    def _open_again(self) -> None:
        try:
            self.gallery = self._opened()  # the other is let go of once no thread reads it
        except GalleryMissing:
            raise Problem(503, f"the gallery {self.name} is not there now: try again") from None
        self._asked = self._groups = None

    def load_encoder(self) -> None:
        """Load the encoder where this process asks it. Raises EncoderError where it is missing, or
        its key.
        """
        if self._host.elsewhere is None:
            self._asking()
        else:
            self.gallery.encoder  # noqa: B018

    def count_items(self) -> int:
        """How many items are enrolled. To be called in a thread."""
        return self.done(lambda: len(self.gallery))

    def require_usable(self) -> None:
        """Raise what is wrong with the gallery, if anything is."""
        self.gallery.info()
        self.gallery.encoder  # noqa: B018

    def folders(self) -> Iterator[tuple[str, str]]:
        """The folders that messages about it may have, each with what clients are told instead."""
        yield str(self.gallery.folder), self.name
        with suppress(SiaSearchError):  # the database is damaged, say
            try:
                encoder = self.gallery.encoder.folder
            except EncoderError:
                location = self.gallery.info().encoder
                named = protected(location)
                encoder = Path(location if named is None else named.location)
            if encoder.is_absolute():
                yield str(encoder), encoder.name

    def unknowns(self) -> list[UnknownGroup]:
        """The groups of what was kept because nobody fitted, found anew where anything changed."""
        version = self.gallery.version
        if self._groups is None or self._groups[0] != version:
            self._groups = version, self.gallery.unknowns()
        return self._groups[1]

    def identify(self, images: Sequence[bytes], question: Question) -> Answered:
        """Answers to pictures, as ``Gallery.identify_each`` gives them. To be called in a thread.

        What was embedded by an encoder is never searched under another: where others have switched
        meanwhile, it is embedded again.
        """
        if self._host.elsewhere is not None:
            return self._host.elsewhere.identify(self.name, images, question)
        for _ in range(TRIES):
            encoder, batcher = self._asking()
            try:
                if len(images) == 1 and question.turns == 1:  # in one run with those of others
                    return self._told(encoder, batcher, images[0], question)
                looks = self._looks(encoder, batcher, images, question.turns)
                return self._answered(encoder, looks, question)
            except GalleryMismatch:
                self._asked = None
        raise Problem(503, f"the gallery {self.name} is being rebuilt: try again")

    def keep(self, strange: Sequence[tuple[bytes, FloatArray]], fingerprint: str) -> None:
        """Keep pictures that nobody fits, with their embeddings by the encoder of a fingerprint.
        Raises Problem where others have switched encoders since.
        """
        try:
            for image, embedding in strange:
                self.gallery.keep_unknown(image, embedding, fingerprint)
        except GalleryMismatch:
            raise Problem(503, f"the gallery {self.name} is being rebuilt: try again") from None

    def _asking(self) -> tuple[Encoder, Asking]:
        with self._lock:
            if self._asked is None:
                encoder = self.gallery.encoder
                most, parallel = min(ALIKE, encoder.runtime.batch), encoder.runtime.parallel
                self._asked = encoder, Batcher(partial(self._together, encoder), most, parallel)
            return self._asked

    def _told(
        self,
        encoder: Encoder,
        batcher: Asking,
        image: bytes,
        question: Question,
    ) -> Answered:
        try:
            with batcher.expected():
                pixels = encoder.decode(image)
            found = batcher.ask((pixels, question))
        except ImageError as error:
            return self._answered(encoder, [error], question)
        assert isinstance(found, Answered)
        return found

    def _looks(
        self,
        encoder: Encoder,
        batcher: Asking,
        images: Sequence[bytes],
        turns: int,
    ) -> list[Looks | ImageError]:
        if turns > 1:
            shown = map(self._host.passed, images)
            return [looks for _, looks in describe_turns_each(encoder, shown, turns)]

        def described(data: bytes) -> Looks | ImageError:
            try:
                with batcher.expected():
                    pixels = encoder.decode(data)
                found = batcher.ask((pixels, None))
            except ImageError as error:
                return error
            assert isinstance(found, list)
            return found

        return list(self._host.describing.map(described, images))

    def _together(
        self, encoder: Encoder, batch: Sequence[Shown]
    ) -> list[Looks | Answered | BaseException]:
        """What is told of each: what the encoder gives, or the answer, or what is wrong."""
        described = described_by(encoder.runtime, np.stack([pixels for pixels, _ in batch]))
        looks = [one if isinstance(one, ImageError) else [one] for one in described]
        told: list[Looks | Answered | BaseException] = list(looks)
        left = {
            place: question
            for place, (_, question) in enumerate(batch)
            if question is not None and not isinstance(looks[place], ImageError)
        }
        while left:
            question = next(iter(left.values()))
            places = [place for place, other in left.items() if other == question]
            for place in places:
                del left[place]
            answers = self._each([looks[place] for place in places], encoder, question)
            for place, answer in zip(places, answers, strict=True):
                told[place] = answer
        return told

    def _each(
        self, looks: list[Looks | ImageError], encoder: Encoder, question: Question
    ) -> list[Answered | BaseException]:
        """An answer for each, from one state of the gallery."""
        try:
            found = self._answered(encoder, looks, question)
        except Exception as error:
            if len(looks) == 1:
                return [error]
            # It may be wrong with one of them only.
            return [answer for one in looks for answer in self._each([one], encoder, question)]
        pairs = zip(found.answers, found.strange, strict=True)
        return [found._replace(answers=[one], strange=[kept]) for one, kept in pairs]

    def _answered(
        self, encoder: Encoder, looks: Sequence[Looks | ImageError], question: Question
    ) -> Answered:
        seen = [look for one in looks if not isinstance(one, ImageError) for look in one]
        answers: Iterator[Identification] = iter(())
        metadata: dict[int, Mapping[str, str]] = {}
        with self.gallery.reading() as version:
            if seen:
                found = self.gallery.identify_embeddings(
                    np.stack([look.embedding for look in seen]),
                    places=[look.places for look in seen],
                    encoder=encoder,
                    **vars(question),
                )
                numbers = {match.item for answer in found for match in answer.matches}
                items = self.gallery.items_by_number(numbers)
                metadata = {item.number: item.metadata for item in items}
                answers = iter(found)
        each = [one if isinstance(one, ImageError) else next(answers) for one in looks]
        strange: list[FloatArray | None] = [None] * len(each)
        for place, (look, answer) in enumerate(zip(looks, each, strict=True)):
            if isinstance(look, list) and isinstance(answer, Identification) and answer.strange:
                strange[place] = look[0].embedding
        return Answered(each, metadata, version, strange, encoder.fingerprint)


async def finished(pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    """What a function gives, in a thread; what it has begun is finished, whoever stops waiting."""
    work = asyncio.get_running_loop().run_in_executor(pool, function)
    return await asyncio.shield(work)


class Host:
    """The galleries of a server, and the threads that work for them."""

    def __init__(
        self,
        folders: Iterable[Path],
        read_only: bool,
        device: str | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """Raises UsageError where two folders have one name, and what opening a gallery raises."""
        self.elsewhere = elsewhere
        self._closed = False
        processes = 1 if elsewhere is None else elsewhere.count
        # So many that batches fill while others are decoded and searched.
        threads = (ALIKE + 1) * min(cores(), MOST_CORES * processes)
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="serving")
        self.describing = ThreadPoolExecutor(threads, thread_name_prefix="describing")
        self.galleries: dict[str, Hosted] = {}
        try:
            for folder in folders:
                name = Path(os.path.abspath(folder)).name  # a link is called as it is
                if name in self.galleries:
                    raise UsageError(f"two galleries are named {name!r}: rename one of the folders")
                opened = partial(Gallery.open, folder.absolute(), device=device, background=True)
                self.galleries[name] = Hosted(name, opened, read_only, self)
                self.galleries[name].load_encoder()
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> Hosted:
        if name not in self.galleries:
            raise Problem(404, f"there is no gallery {name!r} on this server")
        return self.galleries[name]

    def without_paths(self, text: str) -> str:
        """A message with names in place of folders of the server. To be called in a thread."""
        key = os.environ.get(VARIABLE, "")
        shown = {key: Path(key).name} if key else {}
        for hosted in self.galleries.values():
            shown |= hosted.folders()
        for folder in sorted(shown, key=len, reverse=True):
            text = text.replace(folder, shown[folder])
        return text

    async def call(self, function: Callable[[], T]) -> T:
        """What a function gives, in a thread."""
        return await finished(self.pool, function)

    def close(self) -> None:
        """Close the galleries, once what is being written is: of all else, nothing is kept."""
        self._closed = True
        for pool in (self.pool, self.describing):
            pool.shutdown(wait=False, cancel_futures=True)
        for hosted in self.galleries.values():
            hosted.close()

    def passed(self, image: bytes) -> bytes:
        """A picture that is to be looked at. Raises Problem where the server ends."""
        if self._closed:
            raise Problem(503, ENDING)
        return image
