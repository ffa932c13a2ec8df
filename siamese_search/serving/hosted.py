"""Hosted galleries: opened once, by their names, and what is done with them off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from siamese_search.embedding.encoder import Encoder
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

    async def call(self, function: Callable[[], T]) -> T:
        """What a function gives that reads or writes, in a thread."""
        return await self._host.call(function)

    async def change(self, function: Callable[[], T]) -> T:
        """The same for one that changes the gallery. Raises Problem where nothing may change."""
        if self.read_only:
            raise Problem(403, f"the gallery {self.name} is read-only here")
        return await self._host.call(function)

    async def identify(
        self, images: Iterable[tuple[str, bytes]], question: Question
    ) -> list[tuple[str, Identification | ImageError]]:
        """Answers to pictures, named, as ``Gallery.identify_each`` gives them."""
        if question.turns > 1:
            named = list(images)

            def each() -> list[tuple[str, Identification | ImageError]]:
                asked = self.gallery.identify_each([data for _, data in named], **vars(question))
                return [(name, found) for (name, _), (_, found) in zip(named, asked, strict=True)]

            return await self.call(each)
        return list(await asyncio.gather(*(self._answer(n, data, question) for n, data in images)))

    async def _answer(
        self, name: str, data: bytes, question: Question
    ) -> tuple[str, Identification | ImageError]:
        for _ in range(TRIES):
            encoder = await self.call(lambda: self.gallery.encoder)
            try:
                found = await self._batcher(encoder).describe(partial(encoder.decode, data))
            except ImageError as error:
                return name, error
            asked = {key: value for key, value in vars(question).items() if key != "turns"}
            vectors, places = np.asarray(found.embedding)[None], [found.places]
            answered = partial(self.gallery.identify_embeddings, vectors, places=places, **asked)
            try:
                return name, (await self.call(answered))[0]
            except (GalleryMismatch, UsageError):
                now = await self.call(lambda: self.gallery.encoder.fingerprint)
                if now == encoder.fingerprint:
                    raise
        raise Problem(503, f"the gallery {self.name} is being rebuilt: try again")

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

    async def call(self, function: Callable[[], T]) -> T:
        """What a function gives, in a thread; what it has begun is finished in any case."""
        work = asyncio.get_running_loop().run_in_executor(self.pool, function)
        return await asyncio.shield(work)

    def close(self) -> None:
        """Finish what is underway, and close the galleries."""
        self.pool.shutdown()
        for hosted in self.galleries.values():
            hosted.gallery.close()
