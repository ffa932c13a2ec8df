"""JPEG: decoded only where every part is there and is used up (ITU-T T.81).

Libjpeg paints grey what is missing and only warns, which Pillow hides. So its decoder is given the
coded data up to each marker, but not the marker: whole data bring it there, and all are needed.
"""

from __future__ import annotations

import math
import re
from io import BytesIO
from itertools import islice
from typing import Any, Final, NamedTuple

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from siamese_search.errors import ImageError
from siamese_search.pictures.limits import REDUCED, check_pixels, cut_short, most_pixels

MOST_SCANS: Final = 100
"""A JPEG of more scans is refused: each is a pass over the picture."""

USUAL_SCANS: Final = 16
"""So many scans may a picture have that has as many pixels as are allowed, a smaller one more."""

_SPARE: Final = 32  # bytes that nothing needs before a marker: some cameras leave a few
_INTERVALS: Final = 20_000  # between restarts: so many are checked one by one
# Decoders read up to 8 bytes ahead. Ones, of which no code is made, make no blocks of these.
_AHEAD: Final = b"\xff\0" * 8
_MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither stuffing nor a restart
_RESTART: Final = re.compile(rb"\xff[\xd0-\xd7]")
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_ARITHMETIC: Final = frozenset(range(0xC9, 0xD0))
_BARE: Final = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_SCAN, _END = 0xDA, 0xD9
_MISSING: Final = "damaged JPEG file: a part is missing"


class _Scan(NamedTuple):
    """Coded data from ``start`` to the marker at ``end``; of these components the coefficients
    from ``first`` to ``last``, down to the bit ``low``.
    """

    start: int
    end: int
    components: bytes
    first: int
    last: int
    low: int


class Jpeg(JpegImageFile):
    """A JPEG that is decoded whole or refused.

    Its EXIF data is not parsed on opening: that is slow, and warns when damaged.
    """

    content: bytes
    frame: int
    scans: list[_Scan]
    in_full: bool
    """Whether all of it is held in memory, whatever the scale that it is decoded at."""

    def _read_dpi_from_exif(self) -> None:
        pass

    def load(self) -> Any:
        if self.tile:
            self.load_prepare()
            (tile,) = self.tile
            decoder = Image._getdecoder(self.mode, "jpeg", tile.args, self.decoderconfig)
            try:
                decoder.setimage(self.im, tile.extents)
                self._decode(_Source(decoder, self.content))
            finally:
                decoder.cleanup()
            self.tile, self.content = [], b""
            self.load_end()
        return super().load()

    def _decode(self, source: _Source) -> None:
        if self.frame in _ARITHMETIC:  # this decoder cannot wait, and makes do with any data
            whole = source.ends()
        else:
            whole = all(map(source.needs, self.scans))
            whole = whole and (source.ends() if self.in_full else source.done)
        if not whole:
            ended = self.scans[-1].end + 2 <= len(self.content)
            raise ImageError(_MISSING) if ended else cut_short()


def open_jpeg(data: bytes) -> Jpeg:
    """A JPEG, not decoded. Raises ImageError for one that lacks scans or has too many."""
    frame, components, scans = _structure(data)
    jpeg = Jpeg(BytesIO(data))
    if not scans:
        raise cut_short()
    jpeg.content, jpeg.frame = data, frame
    jpeg.in_full = frame in _PROGRESSIVE or len(scans[0].components) < len(components)
    jpeg.scans = scans if jpeg.in_full else scans[:1]
    check_pixels(jpeg.width, jpeg.height, REDUCED)
    cap = (most_pixels() or math.inf) * USUAL_SCANS
    if len(scans) > MOST_SCANS or jpeg.width * jpeg.height * len(jpeg.scans) > cap:
        raise ImageError(f"{len(jpeg.scans)} scans of a JPEG take too long: save it anew")
    if jpeg.in_full and not _complete(components, scans):
        raise cut_short()
    return jpeg


def _structure(data: bytes) -> tuple[int, bytes, list[_Scan]]:
    """The kind of the frame, its components, and its scans, up to one more than is allowed."""
    frame, components, at = 0, b"", 2
    scans: list[_Scan] = []
    while len(scans) <= MOST_SCANS and (found := _MARKER.search(data, at)):
        marker, at = data[found.end() - 1], found.end()
        if marker == _END:
            break
        if marker in _BARE:
            continue
        end = at + max(2, int.from_bytes(data[at : at + 2], "big"))
        if end > len(data):
            break
        body, at = data[at + 2 : end], end
        if marker in _FRAMES:
            frame, components = marker, body[6::3]
        elif marker == _SCAN and len(body) >= 6:
            following = _MARKER.search(data, at)
            stop = at + len(data[at : following and following.start()].rstrip(b"\xff"))
            named = body[1 : 1 + 2 * body[0] : 2]
            scans.append(_Scan(at, stop, named, body[-3], body[-2], body[-1] & 15))
            at = stop
    return frame, components, scans


def _complete(components: bytes, scans: list[_Scan]) -> bool:
    """Whether scans code every component, the first in full detail."""
    exact = [
        {
            place
            for scan in scans
            if component in scan.components and not scan.low
            for place in range(scan.first, scan.last + 1)
        }
        for component in components
    ]
    return all(0 in places for places in exact) and len(exact[0]) == 64


class _Source:
    """A decoder, and how far it has taken the data of a file."""

    def __init__(self, decoder: Any, data: bytes) -> None:
        self._decoder = decoder
        self._data = data
        self._view = memoryview(data)
        self._at = 0
        self.done = False

    def needs(self, scan: _Scan) -> bool:
        """Whether a scan's data, but for some spare bytes, are what it takes to get to its end."""
        begin, number = scan.start, 0
        for restart in islice(_RESTART.finditer(self._data, begin, scan.end), _INTERVALS):
            if self.done:
                break
            if restart[0][1] != 0xD0 + number % 8 or not self._fills(begin, restart.start()):
                return False
            begin, number = restart.start(), number + 1
        if self.done:
            return scan.end - begin <= _SPARE
        # It should look for the next scan: were it for another restart, it would go on to decode.
        another = bytes((0xFF, 0xD0 + number % 8))
        return self._fills(begin, scan.end) and (self.done or self._passes(another + _AHEAD))

    def ends(self) -> bool:
        """Whether the picture is done once it is said to end."""
        self._take(bytes(self._view[self._at :]) + b"\xff\xd9")
        return self.done

    def _fills(self, begin: int, end: int) -> bool:
        """Whether all data between two markers are what it takes to get from one to the other."""
        last = self._data[begin:end]
        padding = len(last) - len(last.rstrip(b"\0"))
        if padding > _SPARE and self._is_through(end - padding + 8):
            return True
        if len(last) > 2 * _SPARE and self._is_through(end - _SPARE):
            return False
        return self._gets_to(end)

    def _is_through(self, end: int) -> bool:
        """Whether data up to about ``end`` are enough."""
        while end > self._at and 0xFF in self._data[end - 1 : end + 1]:
            end -= 1
        self._at += self._take(self._view[self._at : end])
        if self._at == end:  # only what looks for a marker takes a single byte
            self._at += self._take(self._view[end : end + 1])
        return self.done or self._at > end

    def _gets_to(self, end: int) -> bool:
        """Whether data up to the marker at ``end`` are enough."""
        given = bytes(self._view[self._at : end]) + _AHEAD
        self._at = end
        return self._passes(given)

    def _passes(self, given: bytes) -> bool:
        """Whether the decoder looks for a marker once it has these data."""
        taken = self._take(given)
        return self.done or (taken == len(given) and self._take(b"\0") == 1)

    def _take(self, data: bytes | memoryview) -> int:
        """How many bytes the decoder takes of some more data."""
        taken: int
        fault: int
        taken, fault = self._decoder.decode(data)
        if taken < 0 and fault < 0:
            raise OSError("broken data stream")
        self.done = taken < 0
        return max(0, taken)
