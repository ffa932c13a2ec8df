"""Batching: what is asked at the same time is answered in one run.

A question is run at once where there is room for a run; where there is not, with those that have
come meanwhile, and with those that are just being prepared. Knows nothing of what is asked.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Generic, TypeVar

WAIT = 0.005  # seconds at most for a batch to fill, while others are being prepared

Q = TypeVar("Q")
A = TypeVar("A")


class _Answer(Generic[A]):
    def __init__(self, given: A | BaseException) -> None:
        self.given = given


class _Asked(Generic[Q, A]):
    """A question of a thread, and what it is told: the answer, or the batch that it is to run, its
    own question first.
    """

    def __init__(self, question: Q) -> None:
        self.question = question
        self.told: SimpleQueue[_Answer[A] | list[_Asked[Q, A]]] = SimpleQueue()


class Batcher(Generic[Q, A]):
    """Answers the questions of many threads, several in one run.

    It has no threads of its own: of those whose questions make a batch, the first one runs it.
    """

    def __init__(
        self, run: Callable[[list[Q]], Sequence[A | BaseException]], most: int, parallel: int
    ) -> None:
        """``run`` answers ``most`` questions at a time, or says what is wrong with each; so many
        runs may be ``parallel``.
        """
        self._run_together = run
        self._most = most
        self._changed = threading.Condition()
        self._waiting: deque[_Asked[Q, A]] = deque()
        self._coming = 0
        self._idle = parallel  # batches that may be run beside those that are

    @contextmanager
    def expected(self) -> Iterator[None]:
        """While a question is being prepared, a batch may wait for it."""
        with self._changed:
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1
                self._changed.notify_all()

    def ask(self, question: Q) -> A:
        """The answer; raises what was wrong with this question."""
        own = _Asked[Q, A](question)
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
        assert isinstance(told, _Answer)
        if isinstance(told.given, BaseException):
            raise told.given
        return told.given

    def _filled(self, batch: list[_Asked[Q, A]]) -> list[_Asked[Q, A]]:
        """A batch with those who come in a moment."""

        def is_full() -> bool:
            return len(batch) + len(self._waiting) >= self._most or not self._coming

        with self._changed:
            self._changed.wait_for(is_full, WAIT)
            return batch + self._taken(self._most - len(batch))

    def _taken(self, most: int) -> list[_Asked[Q, A]]:
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def _run(self, batch: list[_Asked[Q, A]]) -> None:
        """Run a batch, and let the first of those who have come meanwhile run the next."""
        found: Sequence[A | BaseException]
        try:
            found = self._run_together([one.question for one in batch])
        except BaseException as error:
            found = [error] * len(batch)
        with self._changed:
            following = self._taken(self._most)
            self._idle += not following
        if following:
            following[0].told.put(following)
        for one, what in zip(batch, found, strict=True):
            one.told.put(_Answer(what))
