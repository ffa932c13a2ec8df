"""Directories of TIFF and of EXIF data: read, checked, and written anew (TIFF 6.0; CIPA DC-008).

Knows nothing of what samples mean.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from PIL import Image

from siamese_search.errors import ImageError
from siamese_search.pictures.limits import cut_short

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIPS, SAMPLES, ROWS, STRIP_SIZES, PLANAR, PREDICTOR = 273, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_SIZES, EXTRA, FORMAT = 322, 323, 324, 325, 338, 339
PROFILE = 34675
UINT, INT, FLOAT = 1, 2, 3
PLAIN: Final = frozenset({1, 5, 8, 32773, 32946, 34925, 50000})
"""Compressions that give back the samples' own bytes: none, LZW, Deflate, PackBits, LZMA, zstd."""

_ORIENTATION: Final = 274
# What pixels depend on, beside what is named above: fax options, inks, palette, JPEG and YCbCr.
_PIXEL_TAGS: Final = frozenset({
    WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIPS, SAMPLES, ROWS, STRIP_SIZES,
    PLANAR, PREDICTOR, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_SIZES, EXTRA, FORMAT, 292, 293, 320,
    332, 347, *range(512, 522), 529, 530, 531, 532,
})  # fmt: skip
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_SIZES_BIG: Final = {**_SIZES, 13: 4, 16: 8}
_CODES: Final = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
_LONG: Final = 4
_YCBCR: Final = 6


@dataclass(frozen=True)
class Field:
    """A tag's values: their type and bytes, in the file's byte order."""

    type: int
    length: int
    content: bytes


@dataclass(frozen=True)
class Directory:
    """What a TIFF says of its first picture. ``order`` is ``<`` or ``>``."""

    order: str
    fields: dict[int, Field]

    def numbers(self, tag: int) -> tuple[int, ...]:
        """A tag's whole numbers; none where it is missing, or of another type."""
        field = self.fields.get(tag)
        if field is None or field.type not in _CODES:
            return ()
        return struct.unpack(f"{self.order}{field.length}{_CODES[field.type]}", field.content)

    def number(self, tag: int, default: int) -> int:
        return next(iter(self.numbers(tag)), default)


def unsupported(why: str) -> ImageError:
    return ImageError(f"this kind of TIFF is not supported: {why}")


def rewritten(data: bytes, tiff: Directory) -> bytes:
    """A classic TIFF of the same bytes, with another directory behind them.

    Raises ImageError for one that would not fit.
    """
    order, count = tiff.order, len(tiff.fields)
    start = len(data) + len(data) % 2
    beyond = start + 2 + 12 * count + 4
    entries, values = [], []
    for tag, field in sorted(tiff.fields.items()):
        content = field.content
        if len(content) > 4:
            values.append(content + bytes(len(content) % 2))
            content = struct.pack(f"{order}I", beyond)
            beyond += len(values[-1])
        head = struct.pack(f"{order}HHI", tag, field.type, field.length)
        entries.append(head + content.ljust(4, b"\0"))
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return b"".join([
        magic, struct.pack(f"{order}I", start), memoryview(data)[8:], bytes(start - len(data)),
        struct.pack(f"{order}H", count), *entries, bytes(4), *values,
    ])  # fmt: skip


def longs(order: str, numbers: tuple[int, ...]) -> Field:
    return Field(_LONG, len(numbers), struct.pack(f"{order}{len(numbers)}I", *numbers))


def directory(data: bytes) -> Directory:
    """The first picture's tags that pixels depend on; ImageError where any is missing."""
    from PIL import TiffTags  # loaded with the TIFF plugin

    try:
        order, entries = _entries(data)
    except struct.error as error:
        raise cut_short() from error
    fields: dict[int, Field] = {}
    for entry in entries:
        needed = entry.tag in _PIXEL_TAGS
        if not needed and entry.tag != PROFILE:
            continue
        if entry.value_at + entry.size > len(data):
            if needed:
                raise cut_short()
            continue
        single = TiffTags.lookup(entry.tag).length == 1 and entry.type not in (1, 2, 7)
        if entry.tag in fields or not entry.size or (single and entry.length != 1):
            continue
        content = data[entry.value_at : entry.value_at + entry.size]
        field = Field(entry.type, entry.length, content)
        if entry.type in (13, 16):
            field = longs(order, _fitting(Directory(order, {entry.tag: field}).numbers(entry.tag)))
        fields[entry.tag] = field
    return Directory(order, fields)


def require_parts(data: bytes, tiff: Directory) -> None:
    """Raise ImageError where not all strips or tiles of a picture are there."""
    width, height = tiff.number(WIDTH, 0), tiff.number(HEIGHT, 0)
    planes = tiff.number(SAMPLES, 1) if tiff.number(PLANAR, 1) == 2 else 1
    bits = sum(tiff.numbers(BITS) or (1,)) if planes == 1 else tiff.number(BITS, 1)
    stated = tiff.number(COMPRESSION, 1) != 1 or tiff.number(PHOTOMETRIC, 0) == _YCBCR
    for places, sizes, across, down in (
        (STRIPS, STRIP_SIZES, width, min(height, tiff.number(ROWS, height))),
        (TILES, TILE_SIZES, tiff.number(TILE_WIDTH, width), tiff.number(TILE_HEIGHT, height)),
    ):
        starts = tiff.numbers(places)
        if not starts:
            continue
        rows = -(-height // max(1, down))
        if len(starts) < planes * rows * -(-width // max(1, across)):
            raise cut_short()
        for number, start in enumerate(starts):
            short = max(0, (number % rows + 1) * down - height) if places == STRIPS else 0
            size = (across * bits + 7) // 8 * (down - short)
            if stated:
                size = next(iter(tiff.numbers(sizes)[number : number + 1]), 0)
            if start + size > len(data):
                raise cut_short()


def _fitting(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if max(numbers, default=0) >= 1 << 32:
        raise cut_short()
    return numbers


@dataclass(frozen=True)
class _Entry:
    tag: int
    type: int
    length: int
    value_at: int
    size: int


def _entries(data: bytes) -> tuple[str, list[_Entry]]:
    """The byte order and the entries of the first directory; struct.error if it is cut short."""
    if data[:2] not in (b"II", b"MM"):
        raise ImageError("damaged TIFF file: no byte order")
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    if count > 0xFFFF:
        raise ImageError("damaged TIFF file: too many tags")
    width, inline, layout = (20, 8, "HHQ") if big else (12, 4, "HHI")
    first = start + (8 if big else 2)
    struct.unpack_from(f"{inline}s", data, first + count * width)  # the next directory's place
    entries = []
    for at in range(first, first + count * width, width):
        tag, kind, number = struct.unpack_from(order + layout, data, at)
        size = number * _SIZES_BIG.get(kind, 0)
        value_at = at + width - inline
        if size > inline:
            (value_at,) = struct.unpack_from(order + ("Q" if big else "I"), data, value_at)
        entries.append(_Entry(tag, kind, number, value_at, size))
    return order, entries


def exif_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, that EXIF data (or a TIFF file) states; 1 if it states none."""
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        order, entries = _entries(exif)
        for entry in entries:
            code = _CODES.get(entry.type)
            if entry.tag == _ORIENTATION and entry.length == 1 and code:
                (value,) = struct.unpack_from(order + code, exif, entry.value_at)
                return value if 1 <= value <= 8 else 1
    except (struct.error, OverflowError, ImageError):
        pass
    return 1


def orientation_of(image: Image.Image) -> int:
    """The orientation that a picture's EXIF data states, 1 where there are none."""
    exif = image.info.get("exif")
    if exif is None and isinstance(profile := image.info.get("Raw profile type exif"), str):
        try:
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))  # as ImageMagick writes PNG
        except ValueError:
            return 1
    return exif_orientation(exif) if isinstance(exif, bytes) else 1
