"""A video that is open: its frames, in order, with their times.

Nothing that a file says of itself is believed: lengths, sizes, times. Knows nothing of pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final

import av
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from siamese_search.errors import ImageError
from siamese_search.machine import cores
from siamese_search.pictures.limits import check_pixels, most_pixels

# What files are opened as. Others are playlists, which name more files and addresses, devices, or
# pictures.
FORMATS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,mxf,dv,nut,ivf,"
    "h264,hevc,obu,av1,m4v,mjpeg,rm,wtv,swf,y4m,yuv4mpegpipe,vc1,h263,gxf,nsv"
)
NOWHERE: Final = "none"  # a protocol that there is not: no file opens another

FAULTS: Final = (  # PyAV stumbles over damage, too: over streams that begin in the middle, say
    av.FFmpegError, ArithmeticError, LookupError, ValueError, RuntimeError, OSError,
)  # fmt: skip

_BACK: Final = 1.0  # seconds by which times may go back; more is another recording's beginning
_SHORT: Final = 1.0  # seconds from which on an end that comes early is spoken of
_STILL: Final = 10_000  # frames without a later time, after which nothing more is expected
_FAR: Final = 5.0  # seconds from which on it pays to jump
_EARLIER: Final = 1.0  # seconds by which a jump goes to an earlier key frame than it needs
_RATE: Final = 25  # frames a second where nothing is said


class Reader:
    """A file, camera or stream that is open."""

    def __init__(
        self, source: Any, form: str | None = None, options: dict[str, str] | None = None
    ) -> None:
        """``source`` is an open file, or the address of a camera or stream, of a ``form``.

        Raises ImageError where it cannot be opened, or has no video.
        """
        self.damaged = 0  # parts that could not be decoded
        live = options is not None
        bounds = {"format_whitelist": FORMATS, "protocol_whitelist": NOWHERE}
        how = dict(bounds if options is None else options)
        wait = 20.0 if live else None
        try:
            self._container = av.open(
                source, "r", form, how, metadata_errors="ignore", timeout=wait
            )
        except MemoryError:
            raise
        except FAULTS as error:
            raise ImageError(_refusal(error, live)) from error
        self._stream = _chosen(self._container.streams.video)
        context = self._stream.codec_context
        check_pixels(context.width, context.height)
        cap = most_pixels()
        context.options = {} if cap is None else {"max_pixels": str(min(cap, (1 << 31) - 1))}
        context.thread_type = "SLICE" if live else "AUTO"
        context.thread_count = cores()
        self.aspect: Fraction | None = self._stream.sample_aspect_ratio
        rate = self._stream.average_rate
        self._step = float(1 / rate) if rate else 1 / _RATE
        begin = self._container.start_time
        self._begin = None if begin is None else begin / av.time_base
        self._last = -1.0  # time of the last frame
        self._shift = 0.0  # added to times, where another recording follows
        self._jumped = False  # and no later frame was there yet
        self._packets = self._container.demux(self._stream)

    def frames(self) -> Iterator[tuple[float, VideoFrame]]:
        """Frames with their times, in seconds from the beginning; times never go back.

        What is damaged is left out and counted. Raises ImageError where times stand still.
        """
        still = 0
        for frame in self._decoded():
            if frame.is_corrupt:
                self.damaged += 1
                continue
            if frame.pts is None or frame.time_base is None:
                time = self._last + self._step
            else:
                stamp = float(frame.pts * frame.time_base)
                if self._begin is None:
                    self._begin = stamp
                time = stamp - self._begin + self._shift
                if self._jumped and time <= self._last:
                    continue  # the key frame lay earlier
                if time < self._last - _BACK:
                    self._shift += self._last + self._step - time
                    time = self._last + self._step
            self._jumped = False
            if time <= self._last:
                still += 1
                if still > _STILL:
                    raise ImageError("the times of its frames stand still")
            else:
                still = 0
            self._last = max(self._last, time, 0.0)
            yield self._last, frame

    def jump(self, to: float) -> None:
        """Go on shortly before a time, where that is far ahead and a key frame is known there."""
        if to - self._last < _FAR or self._begin is None or self._shift:
            return
        base, entries = self._stream.time_base, self._stream.index_entries
        if base is None or not len(entries):
            return
        stamp = round(Fraction(to - _EARLIER + self._begin) / base)
        place = entries.search_timestamp(stamp)
        if place < 0:
            return
        if float(entries[place].timestamp * base) - self._begin <= self._last + _EARLIER:
            return
        try:
            self._container.seek(stamp, stream=self._stream)
        except FAULTS:
            return  # it is read on as it was
        self._packets = self._container.demux(self._stream)
        self._jumped = True

    @property
    def is_recorded(self) -> bool:
        """Whether it says that it has an end."""
        return self._container.duration is not None

    def fault(self) -> str | None:
        """At the end, in words, what of it could not be read; None where all could."""
        if self.damaged:
            parts = "a part" if self.damaged == 1 else f"{self.damaged} parts"
            return f"{parts} of it could not be decoded"
        stated = self._stated()
        if stated is not None and stated - self._last - self._step >= _SHORT:
            return f"it ends after {self._last:.1f} of {stated:.1f} seconds: it is cut short"
        return None

    def _stated(self) -> float | None:
        """How many seconds it says that it lasts, where that is of its frames alone."""
        lasts, base = self._stream.duration, self._stream.time_base
        if lasts is not None and base is not None:
            return float(lasts * base)
        if self._container.duration is None or len(self._container.streams) > 1:
            return None  # sound may last longer
        return float(self._container.duration / av.time_base)

    def _decoded(self) -> Iterator[VideoFrame]:
        while (packet := self._packet()) is not None:
            try:
                found = packet.decode()
            except MemoryError:
                raise
            except FAULTS:
                self.damaged += 1
                continue
            yield from (one for one in found if isinstance(one, VideoFrame))

    def _packet(self) -> Packet[VideoStream] | None:
        """The next part of the stream; None at its end, which damage may be, too."""
        try:
            return next(self._packets, None)
        except MemoryError:
            raise
        except FAULTS:
            self.damaged += 1
            return None


def _chosen(streams: tuple[VideoStream, ...]) -> VideoStream:
    """The first stream of moving pictures. Raises ImageError where there is none."""
    moving = [one for one in streams if not one.disposition & Disposition.attached_pic]
    if not moving:
        raise ImageError("there is no video in it" + (", but a cover" if streams else ""))
    known = [one for one in moving if one.codec_context is not None]
    if not known:
        raise ImageError("its video is of a kind that is not supported")
    return known[0]


def _refusal(error: Exception, live: bool) -> str:
    # Not str(error), which has the address, and so the password that may be in it.
    said = (getattr(error, "strerror", None) or type(error).__name__).strip()
    if live and isinstance(error, OSError):
        return said[:1].lower() + said[1:]
    return f"it cannot be opened: {said}" if live else f"damaged, or no video: {said}"
