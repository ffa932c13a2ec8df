"""Batching: pictures that are asked about at the same time share a run of the encoder.

A picture is run at once where the encoder is idle; where it is not, with those that have come
meanwhile, and with those that are just being decoded. Knows nothing of galleries and HTTP.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import numpy as np

from siamese_search.arrays import PixelArray
from siamese_search.embedding.pipeline import described_by
from siamese_search.embedding.runtimes import Runtime
from siamese_search.embedding.vectors import Description
from siamese_search.errors import ImageError

ALIKE = 8  # pictures in a batch: in larger ones OpenVINO rounds otherwise than for one picture
WAIT = 0.005  # seconds at most for a batch to fill, while others are being decoded


class _Asked:
    """A picture that a thread asks about, and what it is told: the answer, what went wrong, or the
    batch that it is to run, its own picture first.
    """

    def __init__(self, pixels: PixelArray) -> None:
        self.pixels = pixels
        self.told: SimpleQueue[Description | BaseException | list[_Asked]] = SimpleQueue()


class Batcher:
    """Describes pictures by one runtime, for many threads.

    It has no threads of its own: of those whose pictures make a batch, the first one runs it.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._most = min(ALIKE, runtime.batch)
        self._changed = threading.Condition()
        self._waiting: deque[_Asked] = deque()
        self._decoding = 0
        self._idle = runtime.parallel  # batches that may be run beside those that are

    @contextmanager
    def expected(self) -> Iterator[None]:
        """While a picture is being decoded, a batch may wait for it."""
        with self._changed:
            self._decoding += 1
        try:
            yield
        finally:
            with self._changed:
                self._decoding -= 1
                self._changed.notify_all()

    def describe(self, pixels: PixelArray) -> Description | ImageError:
        """What the encoder gives for pixels (height, width, channels), or that picture's error."""
        own = _Asked(pixels)
        with self._changed:
            runs_at_once = self._idle > 0
            if runs_at_once:
                self._idle -= 1
            else:
                self._waiting.append(own)
                self._changed.notify_all()
        told = [own] if runs_at_once else own.told.get()
        if isinstance(told, list):
            self._run(told if runs_at_once else self._filled(told))
            told = own.told.get()
        if isinstance(told, Description | ImageError):
            return told
        assert isinstance(told, BaseException)
        raise told

    def _filled(self, batch: list[_Asked]) -> list[_Asked]:
        """A batch with those who come in a moment."""

        def is_full() -> bool:
            return len(batch) + len(self._waiting) >= self._most or not self._decoding

        with self._changed:
            self._changed.wait_for(is_full, WAIT)
            return batch + self._taken(self._most - len(batch))

    def _taken(self, most: int) -> list[_Asked]:
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def _run(self, batch: list[_Asked]) -> None:
        """Run a batch, and let the first of those who have come meanwhile run the next."""
        found: list[Description | ImageError] | list[BaseException]
        try:
            found = list(described_by(self._runtime, np.stack([one.pixels for one in batch])))
        except BaseException as error:
            found = [error] * len(batch)
        with self._changed:
            following = self._taken(self._most)
            self._idle += not following
        if following:
            following[0].told.put(following)
        for one, what in zip(batch, found, strict=True):
            one.told.put(what)
