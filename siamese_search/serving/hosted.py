"""Hosted galleries: opened once, by their names, and what is done with them off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.vectors import Description
from siamese_search.errors import GalleryMismatch, ImageError, UsageError
from siamese_search.gallery.gallery import Gallery
from siamese_search.gallery.identification import Question
from siamese_search.machine import cores
from siamese_search.records import Identification
from siamese_search.serving.batching import Batcher
from siamese_search.serving.problems import Problem

T = TypeVar("T")
TRIES = 3  # to answer while others switch encoders


class Hosted:
    """One gallery on the server."""

    def __init__(self, name: str, gallery: Gallery, read_only: bool, host: Host) -> None:
        self.name = name
        self.gallery = gallery
        self.read_only = read_only
        self._host = host
        self._batchers: dict[str, Batcher] = {}
        self._encoder: Encoder | None = None  # as it was when somebody asked last

    async def call(self, function: Callable[[], T]) -> T:
        """What a function gives that reads or writes, in a thread."""
        return await self._host.call(function)

    async def change(self, function: Callable[[], T]) -> T:
        """The same for one that changes the gallery. Raises Problem where nothing may change."""
        if self.read_only:
            raise Problem(403, f"the gallery {self.name} is read-only here")
        return await self._host.call(function)

    async def identify(
        self, images: Sequence[bytes], question: Question
    ) -> list[Identification | ImageError]:
        """Answers to pictures, as ``Gallery.identify_each`` gives them."""
        if question.turns > 1:
            asked = partial(self.gallery.identify_each, images, **vars(question))
            return await self.call(lambda: [answer for _, answer in asked()])
        for _ in range(TRIES):
            encoder = self._encoder
            if encoder is None:
                encoder = self._encoder = await self.call(lambda: self.gallery.encoder)
            found = await asyncio.gather(*(self._described(encoder, data) for data in images))
            try:
                return await self.call(partial(self._answers, found, question))
            except (GalleryMismatch, UsageError):
                now = await self.call(lambda: self.gallery.encoder)
                if now.fingerprint == encoder.fingerprint:
                    raise
                self._encoder = now
        raise Problem(503, f"the gallery {self.name} is being rebuilt: try again")

    async def _described(self, encoder: Encoder, data: bytes) -> Description | ImageError:
        batcher = self._batcher(encoder)
        try:
            with batcher.expected():
                pixels = await self.call(partial(encoder.decode, data))
        except ImageError as error:
            return error
        return await batcher.describe(pixels)

    def _answers(
        self, found: Sequence[Description | ImageError], question: Question
    ) -> list[Identification | ImageError]:
        described = [one for one in found if not isinstance(one, ImageError)]
        asked = {key: value for key, value in vars(question).items() if key != "turns"}
        answers: Iterator[Identification] = iter(())
        if described:
            vectors = np.stack([one.embedding for one in described])
            places = [one.places for one in described]
            answers = iter(self.gallery.identify_embeddings(vectors, places=places, **asked))
        return [one if isinstance(one, ImageError) else next(answers) for one in found]

    def _batcher(self, encoder: Encoder) -> Batcher:
        if encoder.fingerprint not in self._batchers:
            self._batchers.clear()  # of an encoder that was replaced
            self._batchers[encoder.fingerprint] = Batcher(lambda: encoder.runtime, self._host.pool)
        return self._batchers[encoder.fingerprint]


class Host:
    """The galleries of a server, and the threads that work for them."""

    def __init__(self, folders: Iterable[Path], read_only: bool, device: str | None = None) -> None:
        """Raises UsageError where two folders have one name, and what opening a gallery raises."""
        self.pool = ThreadPoolExecutor(2 * cores() + 2, thread_name_prefix="serving")
        self.galleries: dict[str, Hosted] = {}
        try:
            for folder in folders:
                name = folder.resolve().name
                if name in self.galleries:
                    raise UsageError(f"two galleries are named {name!r}: rename one of the folders")
                gallery = Gallery.open(folder, device=device, background=True)
                self.galleries[name] = Hosted(name, gallery, read_only, self)
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> Hosted:
        if name not in self.galleries:
            raise Problem(404, f"there is no gallery {name!r} on this server")
        return self.galleries[name]

    def without_paths(self, text: str) -> str:
        """A message with the galleries' names in place of their folders."""
        for name, hosted in self.galleries.items():
            text = text.replace(str(hosted.gallery.folder), name)
        return text

    async def call(self, function: Callable[[], T]) -> T:
        """What a function gives, in a thread; what it has begun is finished in any case."""
        work = asyncio.get_running_loop().run_in_executor(self.pool, function)
        return await asyncio.shield(work)

    def close(self) -> None:
        """Finish what is underway, and close the galleries."""
        self.pool.shutdown()
        for hosted in self.galleries.values():
            hosted.gallery.close()
