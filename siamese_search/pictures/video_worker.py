"""A process that reads a video for another: ``python -m siamese_search.pictures.video_worker``.

It is asked to open one, then for one frame after the other. Of a camera or stream it keeps the
newest frame alone. See ``worker.py`` for what it may take.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import UTC, datetime
from typing import Any, Final

import av

from siamese_search.errors import ImageError
from siamese_search.pictures.read import open_file
from siamese_search.pictures.video import SLACK
from siamese_search.pictures.video_frame import shown
from siamese_search.pictures.video_reader import Reader
from siamese_search.pictures.worker import Answer, connected, serve

_BUSY: Final = 2.0  # seconds after which it is said that there is no frame yet


class _File:
    """A video file: its frames in order."""

    def __init__(self, path: str) -> None:
        self._reader = Reader(open_file(path))
        self._frames = self._reader.frames()

    def answer(self, request: dict[str, Any]) -> Answer:
        """The first frame from a time on."""
        target = float(request["from"])
        until = time.monotonic() + _BUSY
        if request["jump"]:
            self._reader.jump(target)
        for when, frame in self._frames:
            signal.setitimer(signal.ITIMER_PROF, request["seconds"])  # for each frame
            if when + SLACK >= target:
                pixels = shown(frame, self._reader.aspect)
                return {"shape": pixels.shape, "time": when}, pixels.tobytes()
            if time.monotonic() > until:
                return {"busy": True}, b""
        return {"end": self._reader.fault()}, b""


class _Live:
    """A camera or stream: its newest frame."""

    def __init__(self, address: str, form: str | None, options: dict[str, str]) -> None:
        self._reader = Reader(address, form, options)
        if address.lower().startswith("http") and self._reader.is_recorded:  # it comes all at once
            raise ImageError(
                "a recording, not a live stream: save it as a file, and ask about that"
            )
        self._changed = threading.Condition()
        self._newest: tuple[int, str, Any] | None = None
        self._given = 0
        self._fault: str | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def answer(self, _: dict[str, Any]) -> Answer:
        """The newest frame, once there is one that was not given."""
        with self._changed:
            self._changed.wait_for(self._is_news, _BUSY)
            if self._newest is None or self._newest[0] == self._given:
                if self._fault is not None:
                    raise ImageError(self._fault)
                return {"busy": True}, b""
            self._given, taken, frame = self._newest
        pixels = shown(frame, self._reader.aspect)
        return {"shape": pixels.shape, "taken": taken}, pixels.tobytes()

    def _is_news(self) -> bool:
        return self._fault is not None or (
            self._newest is not None and self._newest[0] != self._given
        )

    def _read(self) -> None:
        fault = "it has ended"
        try:
            for number, (_, frame) in enumerate(self._reader.frames(), start=1):
                with self._changed:
                    self._newest = number, datetime.now(UTC).isoformat(), frame
                    self._changed.notify()
        except ImageError as error:
            fault = str(error)
        except MemoryError:
            fault = "there is not enough memory to decode it"
        with self._changed:
            self._fault = fault
            self._changed.notify()


class Projector:
    """What is open, and how it answers."""

    def __init__(self) -> None:
        av.logging.set_level(None)
        av.logging.set_libav_level(av.logging.PANIC)
        self._opened: _File | _Live | None = None

    def answer(self, request: dict[str, Any], data: bytes) -> Answer:
        """To be asked to open something first, then for frames. Raises ImageError."""
        if "open" in request:
            name, options = os.fsdecode(data), request["options"]
            live = options is not None
            self._opened = _Live(name, request["form"], options) if live else _File(name)
            return {}, b""
        assert self._opened is not None
        return self._opened.answer(request)


if __name__ == "__main__":
    serve(connected(), Projector().answer)
