"""Decoding apart: pictures become pixels in processes of their own, which may die.

A file that somebody made for it can crash a decoder, or keep it busy for ever. Here that ends a
worker and refuses a picture; the process that asked goes on. Knows nothing of formats.
"""

from __future__ import annotations

import atexit
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from siamese_search.errors import ImageError, RuntimeUnavailable, UsageError
from siamese_search.forks import Followed
from siamese_search.machine import cores, memory
from siamese_search.pictures.limits import PIXELS, most_pixels
from siamese_search.pictures.messages import Connection
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.pictures.read import MAX_FILE_BYTES
from siamese_search.pictures.regions import Box
from siamese_search.processes import PLACE, command, environment

if TYPE_CHECKING:  # numpy.typing takes time to load
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]

DECODING: Final = "SIASEARCH_DECODING"
"""The environment variable that says where pictures are decoded."""

WAYS: Final = ("here", "apart")

BYTES_A_PIXEL: Final = 12
"""What decoders may hold for each pixel of the cap; the file, twice, comes on top."""

WHOLE_BYTES_A_PIXEL: Final = 28
"""The same where all of a picture is wanted: it is held in several modes."""

_STARTING: Final = 60.0  # seconds for a worker to get ready
_COMMAND: Final = command("siamese_search.pictures.worker")


def is_apart() -> bool:
    """Whether pictures are decoded apart, as the environment says at this moment.

    Raises UsageError where it says anything but ``here`` or ``apart``.
    """
    asked = os.environ.get(DECODING)
    if not asked:
        return False
    if asked not in WAYS:
        raise UsageError(f"{DECODING} is {asked!r}: choose one of {', '.join(WAYS)}")
    return asked == "apart"


def memory_for(cap: int | None, each: int = BYTES_A_PIXEL) -> int | None:
    """The bytes that decoding may take under a cap on pixels; None where there is no cap."""
    return None if cap is None else each * cap + 2 * MAX_FILE_BYTES


@dataclass(frozen=True)
class Limits:
    """What a picture may take.

    ``seconds`` are of the processor, so that a busy machine refuses nothing; ``in_all`` of the
    clock, for what hangs without computing. ``memory`` in bytes; None goes by the cap on pixels.
    """

    seconds: float = 10.0
    in_all: float = 30.0
    memory: int | None = None


class Died(Exception):
    """A worker is of no more use. The message is the reason to refuse its picture."""


class _DiedSuddenly(Died):
    """It may be another's fault: an earlier picture's, or of whoever killed it."""


class Worker:
    """A process that decodes one picture at a time, until it is left alone."""

    def __init__(self, command: Sequence[str], limits: Limits) -> None:
        """Starts it, and does not wait. Raises RuntimeUnavailable where there can be none."""
        settings = {DECODING: "here", PIXELS: ""}
        threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # there are many workers
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise _unavailable(error.strerror or str(error)) from error
        try:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,  # until it is ready
                cwd=PLACE,
                env=environment() | settings | threads,
                process_group=0,  # Ctrl-C is not meant for it
            )
        except OSError as error:
            ours.close()
            raise _unavailable(error.strerror or str(error)) from error
        finally:
            theirs.close()
        self._limits = limits
        self._connection = Connection(ours, limits.in_all)
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Raises RuntimeUnavailable where it does not get there."""
        if self._ready:
            return
        assert self._process.stderr is not None
        with self._process.stderr as said:
            try:
                self._connection.receive(0, time.monotonic() + _STARTING)
            except (OSError, ValueError) as error:
                self._process.kill()
                last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise _unavailable(last or str(error)) from error
        self._ready = True

    def ask(
        self, request: Mapping[str, Any], data: bytes, most: int, large: threading.Lock
    ) -> Pixels | str:
        """The pixels of a file, ``most`` bytes of them at most; or why it is refused.

        ``large`` is held while a large picture is decoded. Raises Died.
        """
        answer, content = self.exchange(request, data, most, large)
        if "refused" in answer:
            return str(answer["refused"])
        try:
            return np.frombuffer(content, np.uint8).reshape(answer["shape"])
        except (ValueError, TypeError, KeyError) as error:
            raise _no_answer() from error

    def exchange(
        self, request: Mapping[str, Any], data: bytes, most: int, large: threading.Lock
    ) -> tuple[dict[str, Any], memoryview]:
        """Its answer to a request, and the bytes that come with it, as ``ask``. Raises Died."""
        held = False
        try:
            until = time.monotonic() + self._limits.in_all
            self._connection.send(request, data, until)
            answer, content = self._connection.receive(most, until)
            if "large" in answer:
                held = large.acquire()
                until = time.monotonic() + self._limits.in_all
                self._connection.send({}, until=until)
                answer, content = self._connection.receive(most, until)
            if "memory" in answer:
                size = request["memory"] or memory()
                raise Died(f"its decoder needs more than {size / 1e9:.1f} GB of memory")
            return answer, content
        except TimeoutError as error:
            raise _too_slow(self._limits) from error
        except OSError as error:
            raise self._death() from error
        except (ValueError, TypeError) as error:
            raise _no_answer() from error
        finally:
            if held:
                large.release()

    def _death(self) -> Died:
        """What it has died of."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        code = self._process.poll()
        if code == -signal.SIGPROF:
            return _too_slow(self._limits)
        how = f" ({signal.Signals(-code).name})" if code and code < 0 else ""
        return _DiedSuddenly(f"its decoder crashed{how}")

    def end(self) -> None:
        """Have it gone."""
        self._close()
        self._process.kill()
        self._process.wait()

    def leave(self) -> None:
        """Forget it, in a forked process: it is the other's."""
        self._close()
        self._process.returncode = 0  # never to be waited for

    def _close(self) -> None:
        self._connection.close()
        if self._process.stderr is not None:
            self._process.stderr.close()


class Decoders(Followed):
    """Workers that decode for the threads of this process, started as they are needed."""

    def __init__(
        self,
        limits: Limits | None = None,
        most: int | None = None,
        command: Sequence[str] = _COMMAND,
    ) -> None:
        """At most ``most`` workers, by default as many as there are cores."""
        self._limits = limits or Limits()
        self._most = most
        self._command = command
        self._closes = False  # at the end of this process
        self._renew()
        self.follow_forks()

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._large = threading.Lock()
        self._slots: SimpleQueue[None] | None = None
        self._idle: list[Worker] = []
        self._workers: set[Worker] = set()

    def in_child(self) -> None:
        """A forked process starts its own workers, and keeps none of ours alive."""
        for worker in self._workers:
            worker.leave()
        self._renew()

    def decode(self, data: bytes, preprocessing: Preprocessing, box: Box | None = None) -> Pixels:
        """As ``render.decode``; ImageError also where the decoder died, or took too much."""
        shape = (preprocessing.height, preprocessing.width, preprocessing.channels)
        how = {"preprocessing": vars(preprocessing), "box": box}
        pixels = self._pixels(how, data, math.prod(shape))
        if pixels.shape != shape:
            raise ImageError("its decoder gives other pixels than it should")
        return pixels

    def upright(self, data: bytes) -> Image.Image:
        """As ``render.upright``, of a file's contents; errors as ``decode``."""
        cap = most_pixels()
        return Image.fromarray(self._pixels({}, data, sys.maxsize if cap is None else 3 * cap))

    def start(self) -> None:
        """Start one worker, to see that this can be done. Raises RuntimeUnavailable if not."""
        worker = self._taken()
        worker.wait_until_ready()
        self._idle.append(worker)

    def close(self) -> None:
        """End all workers; who asks later has new ones."""
        while self._workers:
            self._end(next(iter(self._workers)))

    def pids(self) -> list[int]:
        """The processes there are now."""
        return [worker.pid for worker in self._workers]

    def _pixels(self, how: Mapping[str, Any], data: bytes, most: int) -> Pixels:
        """The pixels that a worker makes of a file, ``most`` bytes of them at most."""
        cap = most_pixels()
        each = BYTES_A_PIXEL if how else WHOLE_BYTES_A_PIXEL
        size = self._limits.memory or memory_for(cap, each)
        request = {**how, "cap": cap, "memory": size, "seconds": self._limits.seconds}
        with self._slot():
            try:
                try:
                    return self._asked(self._taken(), request, data, most)
                except _DiedSuddenly:  # another's fault must not cost this picture
                    return self._asked(self._started(), request, data, most)
            except Died as death:
                raise ImageError(str(death)) from death

    def _asked(self, worker: Worker, request: Mapping[str, Any], data: bytes, most: int) -> Pixels:
        try:
            worker.wait_until_ready()
            answer = worker.ask(request, data, most, self._large)
        except BaseException:  # also Ctrl-C: half of an answer may be underway
            self._end(worker)
            raise
        self._idle.append(worker)
        if isinstance(answer, str):
            raise ImageError(answer)
        return answer

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """While one of the workers may be asked."""
        with self._lock:
            if self._slots is None:
                self._slots = SimpleQueue()
                for _ in range(self._most or cores()):
                    self._slots.put(None)
            slots = self._slots
        slots.get()
        try:
            yield
        finally:
            slots.put(None)

    def _taken(self) -> Worker:
        """A worker that is idle, the one that was busy last; or a new one."""
        while True:
            try:
                worker = self._idle.pop()
            except IndexError:
                return self._started()
            if worker.is_alive():
                return worker
            self._end(worker)

    def _started(self) -> Worker:
        worker = Worker(self._command, self._limits)
        if not self._closes:
            self._closes = True
            atexit.register(self.close)
        self._workers.add(worker)
        return worker

    def _end(self, worker: Worker) -> None:
        worker.end()
        self._workers.discard(worker)


def _unavailable(why: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        f"no process can be started to decode pictures: {why}; with {DECODING}=here this one does"
    )


def _no_answer() -> Died:
    return _DiedSuddenly("its decoder gives an answer that is none")


def _too_slow(limits: Limits) -> Died:
    return Died(f"its decoder took longer than {limits.seconds:g} s")


DECODERS: Final = Decoders()
"""Those of this process: no worker is started before a picture is decoded apart."""
