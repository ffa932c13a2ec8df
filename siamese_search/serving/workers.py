"""Workers: processes that identify for a server, and what is done when one of them ends.

``worker.py`` is what they do. Pictures are decoded there, so one that crashes a decoder ends a
worker and not the server. Knows nothing of HTTP.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from siamese_search.errors import SiaSearchError, UsageError, require_between
from siamese_search.gallery.identification import Question
from siamese_search.processes import command, environment
from siamese_search.serving.hosted import Answered
from siamese_search.serving.problems import Problem

log = logging.getLogger("siasearch")

MODULE = "siamese_search.serving.worker"
MOST = 64
PATIENCE = 30.0  # seconds at most for a question to wait until a worker is there
PAUSE = 1.0  # seconds before a worker is started that could not open the galleries

Asked = tuple[str, list[bytes], Question]  # a gallery's name, pictures, and what is asked of them
Opening = tuple[list[Path], str | None, int]  # folders, device, shares of the cores


class Ended(Exception):
    """A worker's process has ended before it answered."""


class Workers:
    """So many workers, each with a share of the cores. Threads may share it."""

    def __init__(self, folders: list[Path], device: str | None, count: int) -> None:
        """Raises UsageError for fewer than none, or too many."""
        require_between("workers", count, 0, MOST, f"a whole number from 0 to {MOST}")
        if count and not hasattr(signal, "pthread_sigmask"):
            raise UsageError("workers need Linux, macOS or another Unix: serve without any")
        self.count = count
        self._changed = threading.Condition()
        self._workers = [_Worker(self._changed, (folders, device, count)) for _ in range(count)]

    @property
    def ready(self) -> int:
        """How many can be asked now."""
        return sum(one.is_ready for one in self._workers)

    @property
    def restarts(self) -> int:
        """How many times one has ended and was started again."""
        return sum(one.restarts for one in self._workers)

    def start(self) -> None:
        """Start them, and wait until they have opened the galleries. Raises what that raises."""
        atexit.register(self.close)  # of a server that ends without its lifespan's end
        for one in self._workers:
            one.thread.start()
        try:
            for one in self._workers:
                one.opened.result()
        except BaseException:
            self.close()
            raise

    def identify(self, name: str, images: Sequence[bytes], question: Question) -> Answered:
        """As ``Hosted.identify``, by the worker that has least to do.

        Where it ends meanwhile, everything that it was asked is asked once more, one by one, so
        that only those pictures fail that end it again. Raises Problem for these.
        """
        asked = name, list(images), question
        with self._changed:
            worker = self._changed.wait_for(self._least_busy, PATIENCE)
            if worker is None:
                raise Problem(503, "no worker is ready: try again")
            process, number = worker.expect()
        with suppress(Ended):
            return process.ask(number, asked)
        return worker.ask_again(asked)

    def _least_busy(self) -> _Worker | None:
        free = [one for one in self._workers if one.is_free]
        return min(free, key=lambda one: one.load, default=None)

    def close(self) -> None:
        """End them at once: what is underway is lost, but they have nothing to write."""
        atexit.unregister(self.close)
        for one in self._workers:
            one.close()
        for one in self._workers:
            if one.thread.ident is not None:
                one.thread.join()


class _Worker:
    """A worker: a process that is started again whenever it ends, by a thread that waits for it.

    Its fields are read and written under ``changed``, which it shares with the others.
    """

    def __init__(self, changed: threading.Condition, opening: Opening) -> None:
        self.opened: Future[None] = Future()  # for the first time
        self.is_ready = False
        self.restarts = 0
        self.thread = threading.Thread(target=self._keep, name="worker", daemon=True)
        self._changed = changed
        self._opening = opening
        self._process: _Process | None = None
        self._closed = False
        self._suspects = 0  # questions over which it has ended, and that are asked once more
        self._alone = threading.Lock()  # held by the suspect that is being asked

    @property
    def is_free(self) -> bool:
        """Whether it may be asked something new."""
        return self.is_ready and not self._suspects

    @property
    def load(self) -> int:
        """How many questions it has not answered yet."""
        return 0 if self._process is None else self._process.load

    def expect(self) -> tuple[_Process, int]:
        """Its process, and the number by which that is to be asked. For one that is ready."""
        assert self._process is not None
        return self._process, self._process.expect()

    def ask_again(self, asked: Asked) -> Answered:
        """Ask over what it has ended, and nothing beside. Raises Problem where it ends again."""
        try:
            with self._alone:
                with self._changed:
                    if not self._changed.wait_for(lambda: self.is_ready, PATIENCE):
                        raise Problem(503, "no worker is ready: try again")
                    process, number = self.expect()
                return process.ask(number, asked)
        except Ended:
            raise Problem(500, "a worker has ended twice while it looked at this") from None
        finally:
            with self._changed:
                self._suspects -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """End it for good."""
        with self._changed:
            self._closed = True
            if self._process is not None:
                self._process.kill()
            self._changed.notify_all()

    def _keep(self) -> None:
        # A worker inherits this: Ctrl-C, and what a service manager sends to all processes of a
        # service, are for the server, which has answers to wait for.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        while not self._closed:
            failed = self._live()
            if not self.opened.done():
                assert failed is not None
                self.opened.set_exception(failed)
                return
            with self._changed:
                if self._closed:
                    return
                self.restarts += 1
                if failed is not None:
                    log.error("a worker cannot be started again: %s", failed)
                    self._changed.wait_for(lambda: self._closed, PAUSE)

    def _live(self) -> SiaSearchError | None:
        """From the start of a process to its end; returns why it did not get ready."""
        try:
            process = _Process()
        except OSError as error:
            return SiaSearchError(f"{sys.executable}: {error.strerror}")
        with self._changed:
            self._process = process
            if self._closed:
                process.kill()
        failed: SiaSearchError | None = SiaSearchError("a worker has ended before it was ready")
        try:
            failed = process.open(self._opening)
            if failed is None:
                with self._changed:
                    self.is_ready = True
                    self._changed.notify_all()
                if not self.opened.done():
                    self.opened.set_result(None)
                process.listen()
        except (EOFError, OSError):  # it has ended
            pass
        except Exception:  # too little memory for an answer, say
            log.exception("a worker cannot be understood")
        with self._changed:
            self.is_ready, self._process = False, None
            # Among suspects, nothing else was underway.
            self._suspects = self._suspects or process.load
        code = process.end()
        if failed is None and not self._closed:
            log.warning("a worker has ended (%d) and is started again", code)
        return failed


class _Process:
    """A worker's process, from its start to its end."""

    def __init__(self) -> None:
        """Raises OSError where it cannot be started."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._process = subprocess.Popen(
                command(MODULE), stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=environment()
            )
            self._connection: Connection[Any, Any] = Connection(ours.detach())
        self._sending = threading.Lock()
        self._numbers = itertools.count()
        self._told: dict[int, Future[Answered]] = {}

    @property
    def load(self) -> int:
        return len(self._told)

    def open(self, opening: Opening) -> SiaSearchError | None:
        """Have it open the galleries; returns what is wrong. Raises OSError or EOFError where it
        ends, as ``listen`` does.
        """
        self._connection.send(opening)
        failed: SiaSearchError | None = self._connection.recv()
        return failed

    def expect(self) -> int:
        """The number of a question that it will be asked."""
        number = next(self._numbers)
        self._told[number] = Future()
        return number

    def ask(self, number: int, asked: Asked) -> Answered:
        """Its answer. Raises Ended, and what was raised there."""
        told = self._told.get(number)
        if told is None:
            raise Ended
        with self._sending, suppress(OSError):  # it has ended: that is told, too
            self._connection.send((number, *asked))
        return told.result()

    def listen(self) -> None:
        """Pass on its answers until it ends."""
        while True:
            number, found = self._connection.recv()
            told = self._told.pop(number)
            if isinstance(found, Exception):
                told.set_exception(found)
            else:
                told.set_result(found)

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> int:
        """Tell all who wait that it has ended; returns its exit code."""
        self._process.kill()
        code = self._process.wait()
        waiting, self._told = self._told, {}
        for told in waiting.values():
            told.set_exception(Ended())
        with self._sending:
            self._connection.close()
        return code
