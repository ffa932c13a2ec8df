"""Videos: the frames of files, cameras and streams, each a picture of its own.

They are decoded in a process of their own, within limits of memory and time, whatever is said of
pictures: a video is made of more, and by more libraries. Knows nothing of codecs.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from siamese_search.errors import ImageError, RuntimeUnavailable, UsageError
from siamese_search.pictures.apart import WHOLE_BYTES_A_PIXEL, Died, Limits, Worker, memory_for
from siamese_search.pictures.kind import CAMERA, TIME, VIDEO
from siamese_search.pictures.limits import most_pixels
from siamese_search.processes import command
from siamese_search.records import ImageFile, Rejection
from siamese_search.words import printable

if TYPE_CHECKING:  # numpy.typing takes time to load
    import numpy.typing as npt

STEP: Final = 1.0  # seconds from frame to frame where nobody says so
SLACK: Final = 0.0005  # seconds: many files round times to thousandths
LIMITS: Final = Limits()  # of the process that decodes; its time for each frame
_PATIENCE: Final = 30.0  # seconds to wait for a picture of a camera or stream
_COMMAND: Final = command("siamese_search.pictures.video_worker")
_EXTRA: Final = "pip install 'siamese-search[video]'"
_NO_FILE: Final = "http,https,tcp,tls,udp,rtp,rtsp,rtsps,srtp,crypto,httpproxy"
_QUALITY: Final = 95  # of the JPEG that a frame is kept as


@dataclass(frozen=True)
class Frame:
    """A picture of a video, as an open file that is always read from its beginning.

    ``name`` is the video's, ``time`` in seconds from its beginning, or from when the camera or
    stream was opened; then ``taken`` is when it was received. ``content`` is a PPM file.
    """

    name: str
    time: float
    content: bytes = field(repr=False)
    taken: datetime | None = None

    @property
    def moment(self) -> str:
        """When it is, for people: ``0:12.0``; of a camera or stream by the clock: ``14:03:09``."""
        if self.taken is not None:
            return f"{self.taken.astimezone():%H:%M:%S}"
        minutes, seconds = divmod(round(self.time, 1), 60)
        hours, minutes = divmod(int(minutes), 60)
        return f"{hours}:{minutes:02}:{seconds:04.1f}" if hours else f"{minutes}:{seconds:04.1f}"

    def seekable(self) -> bool:
        """Whoever reads it need not go back."""
        return False

    def read(self, most: int = -1) -> bytes:
        """At most so many bytes of it; all by default."""
        return self.content if most < 0 else self.content[:most]

    def pixels(self) -> npt.NDArray[np.uint8]:
        """Upright, in sRGB, uint8 (height, width, 3)."""
        return np.asarray(Image.open(BytesIO(self.content)))

    def kept(self) -> bytes:
        """It as a JPEG file of high quality: a tenth of its pixels or less."""
        written = BytesIO()
        picture = Image.open(BytesIO(self.content))
        picture.save(written, "JPEG", quality=_QUALITY, subsampling=0)
        return written.getvalue()


def public(name: str) -> str:
    """The name of a stream without the user and password that its address may begin with."""
    return re.sub(r"(?<=://)[^/]*@", "", name)


def frames(path: str | os.PathLike[str], every: float = STEP) -> Iterator[Frame]:
    """The frames of a video file: the first from each multiple of ``every`` seconds on.

    One that is shown for longer is given once; a step below a frame's duration gives all of them.
    Raises ImageError where it cannot be read, or not to its end, RuntimeUnavailable without PyAV,
    UsageError for a step that is none.
    """
    _require_step(every)
    name, target = os.fspath(path), 0.0
    with _opened(os.path.abspath(name), name, None, None) as film:
        while True:
            answer, content = film.ask({"from": target, "jump": True})
            while "busy" in answer:
                answer, content = film.ask({"from": target, "jump": False})
            if "end" in answer:
                break
            at = float(answer["time"])
            yield Frame(name, round(at, 3), _pixmap(answer["shape"], content))
            target = every * (math.floor((at + SLACK) / every) + 1)
    if not target:
        raise ImageError("there is no frame in it that can be shown")
    if answer["end"]:
        raise ImageError(f"{answer['end']}; its other frames were used")


def filmed(file: ImageFile, every: float | None) -> Iterator[ImageFile | Rejection]:
    """The frames of a video, each as a picture of the file's identity, with the video and the time
    among its metadata; last, why the rest of them is not there, where any is missing.
    """
    video = os.path.abspath(file.path)
    try:
        for frame in frames(file.path, STEP if every is None else every):
            known = file.metadata | {VIDEO: video, TIME: str(frame.time)}
            yield ImageFile(f"{file.path} at {frame.moment}", file.identity, known, frame)
    except ImageError as error:
        yield Rejection(printable(file.path), str(error))


def live(name: str, every: float = STEP, most: float = math.inf) -> Iterator[Frame]:
    """The frames of a camera or stream, one ``every`` so many seconds, for ``most`` of them.

    Always the newest: what came while its answer was waited for is left out. ``camera:0`` is the
    system's first camera; cameras may have other names. Raises as ``frames``, and where no picture
    comes for half a minute.
    """
    _require_step(every)
    address, form, options = _place(name)
    with _opened(address, name, form, options) as film:
        begun: datetime | None = None
        due = heard = time.monotonic()
        end = due + most
        while due < end:
            time.sleep(max(0.0, due - time.monotonic()))
            answer, content = film.ask({})
            now = time.monotonic()
            if "busy" in answer:
                if now - heard > _PATIENCE:
                    raise ImageError(f"no picture came for {_PATIENCE:g} seconds")
                due = now
                continue
            taken = datetime.fromisoformat(answer["taken"])
            begun = begun or taken
            since = round((taken - begun).total_seconds(), 3)
            yield Frame(public(name), since, _pixmap(answer["shape"], content), taken)
            heard = time.monotonic()
            due = max(due + every, heard)


def _require_step(every: float) -> None:
    if not every > 0 or math.isinf(every):
        raise UsageError(f"every is {every}: give seconds above 0")


def _place(name: str) -> tuple[str, str | None, dict[str, str]]:
    """The address, form and options by which libav finds a camera or stream."""
    if not name.lower().startswith(CAMERA):
        options = {"protocol_whitelist": _NO_FILE}
        return name, None, options | ({"rtsp_transport": "tcp"} if "rtsp" in name[:4] else {})
    camera = name[len(CAMERA) :]
    if sys.platform == "darwin":
        return camera, "avfoundation", {"framerate": "30"}
    if sys.platform == "win32":
        return f"video={camera}", "dshow", {}
    device = f"/dev/video{camera}" if camera.isdecimal() else camera
    if not os.path.exists(device):
        raise ImageError(f"there is no camera: {device} does not exist")
    return device, "v4l2", {}


def _pixmap(shape: tuple[int, int, int], content: memoryview) -> bytes:
    height, width, _ = shape
    return b"P6\n%d %d\n255\n" % (width, height) + content


class _Film:
    """A worker that has a video open. Every method may raise ImageError, and ends it then."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._cap = most_pixels()

    def ask(self, request: dict[str, Any], data: bytes = b"") -> tuple[dict[str, Any], memoryview]:
        """An answer, and a frame's pixels."""
        limits = {
            "cap": self._cap,
            "memory": LIMITS.memory or memory_for(self._cap, WHOLE_BYTES_A_PIXEL),
            "seconds": LIMITS.seconds,
        }
        most = sys.maxsize if self._cap is None else 3 * self._cap
        try:
            answer, content = self._worker.exchange(request | limits, data, most, threading.Lock())
        except Died as death:
            raise ImageError(str(death)) from death
        if "refused" in answer:
            raise ImageError(str(answer["refused"]))
        return answer, content


@contextmanager
def _opened(
    place: str, name: str, form: str | None, options: dict[str, str] | None
) -> Iterator[_Film]:
    """A video, in a process of its own, which ends with this."""
    if importlib.util.find_spec("av") is None:
        raise RuntimeUnavailable(f"{public(name)} is a video, which needs PyAV: {_EXTRA}")
    worker = Worker(_COMMAND, LIMITS)
    try:
        worker.wait_until_ready()
        film = _Film(worker)
        film.ask({"open": True, "form": form, "options": options}, os.fsencode(place))
        yield film
    finally:
        worker.end()
