"""Batching: pictures that are asked about at the same time share a run of the encoder.

Nobody waits for company: a batch is run at once when nothing else is being decoded, and filled with
what has been decoded meanwhile. Knows nothing of galleries and HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np

from siamese_search.arrays import PixelArray
from siamese_search.embedding.pipeline import described_by
from siamese_search.embedding.runtimes import Runtime
from siamese_search.embedding.vectors import Description
from siamese_search.errors import ImageError

ALIKE = 8  # pictures in a batch: in larger ones OpenVINO rounds otherwise than for one picture
WAIT = 0.005  # seconds for a batch to fill, while others are being decoded


class _Asked(NamedTuple):
    pixels: PixelArray
    answer: asyncio.Future[Description | ImageError]


class Batcher:
    """Describes pictures for one encoder, from within one event loop."""

    def __init__(self, runtime: Callable[[], Runtime], pool: ThreadPoolExecutor) -> None:
        """``runtime`` opens it, in the pool, at the first picture."""
        self._runtime = runtime
        self._pool = pool
        self._queue: asyncio.Queue[_Asked] = asyncio.Queue()
        self._decoding = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots: asyncio.Semaphore | None = None
        self._collector: asyncio.Task[None] | None = None

    @contextmanager
    def expected(self) -> Iterator[None]:
        """While a picture is being decoded, a batch may wait for it."""
        self._decoding += 1
        try:
            yield
        finally:
            self._decoding -= 1

    async def describe(self, pixels: PixelArray) -> Description | ImageError:
        """What the encoder gives for pixels, or the error of that picture."""
        loop = asyncio.get_running_loop()
        if self._collector is None:
            self._collector = loop.create_task(self._collect())
        answer: asyncio.Future[Description | ImageError] = loop.create_future()
        await self._queue.put(_Asked(pixels, answer))
        return await answer

    async def _collect(self) -> None:
        loop = asyncio.get_running_loop()
        runtime = await loop.run_in_executor(self._pool, self._runtime)
        self._slots = asyncio.Semaphore(runtime.parallel)
        while True:
            batch = [await self._queue.get()]
            await self._slots.acquire()
            deadline = loop.time() + WAIT
            while len(batch) < min(ALIKE, runtime.batch):
                with suppress(asyncio.QueueEmpty):
                    batch.append(self._queue.get_nowait())
                    continue
                left = deadline - loop.time()
                if not self._decoding or left <= 0:
                    break
                with suppress(TimeoutError):
                    batch.append(await asyncio.wait_for(self._queue.get(), left))
            task = loop.create_task(self._run(runtime, batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, runtime: Runtime, batch: list[_Asked]) -> None:
        assert self._slots is not None

        def described() -> list[Description | ImageError]:
            return list(described_by(runtime, np.stack([one.pixels for one in batch])))

        try:
            found = await asyncio.get_running_loop().run_in_executor(self._pool, described)
            for one, description in zip(batch, found, strict=True):
                if not one.answer.done():
                    one.answer.set_result(description)
        except Exception as error:
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
        finally:
            self._slots.release()
