"""Image containers: which format a file has, whether it is whole, and opening it undecoded.

Formats are an allow-list told apart by their first bytes, never by the file's name. A file that
is cut short is refused as a whole: where Pillow would hand out a half-read picture, the container
is walked here first. The same checks keep Pillow from issuing warnings, which would reach the
terminal and cannot be silenced for one thread alone.
"""

from __future__ import annotations

import importlib
import math
import re
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import Final

from PIL import Image

from siamese_search.errors import ImageError
from siamese_search.pictures.directory import HEIGHT, WIDTH, directory, exif_orientation
from siamese_search.pictures.jpeg import open_jpeg
from siamese_search.pictures.limits import check_pixels, cut_short
from siamese_search.pictures.tiff import open_tiff

# The classes, not Image.open: that warns of large pictures instead of refusing them.
_PLUGINS: Final = {
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WebP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "PPM": ("PIL.PpmImagePlugin", "PpmImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "HEIC": ("pillow_heif", "HeifImageFile"),
}


# How many pixels one counts of which decoders hold several copies.
_COPIES: Final = {"WebP": 2.0, "AVIF": 1.5, "HEIC": 1.5}


def open_image(kind: str, data: bytes) -> tuple[Image.Image, int | None]:
    """An image of a known format, its container checked but nothing decoded.

    With its orientation, where the image itself no longer states it.
    """
    if kind == "JPEG":
        return open_jpeg(data), None
    if kind == "TIFF":
        return open_tiff(data), exif_orientation(data)
    module, name = _PLUGINS[kind]
    try:
        plugin = getattr(importlib.import_module(module), name)
    except ImportError as error:
        if kind == "HEIC":
            raise ImageError("HEIC needs the extra: pip install 'siamese-search[heic]'") from error
        raise ImageError(f"this installation of Pillow has no {kind}: {error}") from error
    checked = _CHECKS[kind](data) if kind in _CHECKS else data
    image: Image.Image = plugin(BytesIO(checked))
    check_pixels(*image.size, _COPIES.get(kind, 1.0))
    # Pillow unpacks a BMP's runs in Python: minutes, for a few bytes that claim many pixels.
    runs = kind == "BMP" and image.info.get("compression") in (1, 2)
    if runs and image.width * image.height > 128 * len(data):
        raise cut_short()
    return image, None


def pixels_at_once(kind: str, data: bytes) -> int:
    """How many pixels ``open_image`` makes room for already; 0 where that waits until they load."""
    if kind == "WebP":
        return math.prod(_webp_canvas(data))
    if kind == "TIFF":
        with suppress(ImageError, struct.error):
            tiff = directory(data)
            return tiff.number(WIDTH, 0) * tiff.number(HEIGHT, 0)
    return 0


def recognise(data: bytes) -> str:
    """The format by its first bytes, or ImageError that says what it looks like instead."""
    head = data[:32]
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if head[:2] == b"BM" and head[14:18] in _BMP_HEADERS:
        return "BMP"
    if re.match(rb"P[1-6][\s#]", head):
        return "PPM"
    if head[4:8] == b"ftyp":
        end = min(max(int.from_bytes(head[:4], "big"), 16), 256)
        brands = {data[at : at + 4] for at in (8, *range(16, end, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
            return "HEIC"
    raise ImageError(f"not an image in a supported format{_resemblance(data[:4096])}")


_BMP_HEADERS: Final = tuple(struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124))
_OTHERS: Final = (
    (rb"%PDF-", "PDF"),
    (rb"%!PS", "PostScript"),
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"8BPS", "Photoshop"),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (rb"\x00\x00\x01\x00", "an icon"),
    (rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", "video"),
    (rb"ID3|OggS|fLaC|RIFF....WAVE", "sound"),
    (rb"\x7fELF|MZ", "a program"),
    (rb"(?i)\s*<(svg|(\?xml|!doctype svg|!--).*<svg)", "SVG"),
    (rb"(?i)\s*(<!doctype )?<?html", "a web page"),
    (rb"\x00+\Z", "zeros only"),
)


def _resemblance(head: bytes) -> str:
    for pattern, name in _OTHERS:
        if re.match(pattern, head.removeprefix(b"\xef\xbb\xbf"), re.DOTALL):
            return f" (looks like {name})"
    try:
        text = head.decode("utf-8", "strict" if len(head) < 4096 else "ignore")
    except UnicodeDecodeError:
        return ""
    return (
        " (looks like text)" if text and all(c.isprintable() or c.isspace() for c in text) else ""
    )


def _check_png(data: bytes) -> bytes:
    """All chunks are there, to IEND, those of use undamaged; the others are dropped.

    So the still picture of an animation is used, and texts of any length do no harm.
    """
    at, name = 8, b""
    kept = [data[:8]]
    while name != b"IEND":
        (size,) = struct.unpack(">I", data[at : at + 4].rjust(4, b"\xff"))
        end = at + 12 + size
        if end > len(data):
            raise cut_short()
        name, body = data[at + 4 : at + 8], data[at + 8 : end - 4]
        if name[:1].isupper() or _is_of_use(name, body):
            if zlib.crc32(body, zlib.crc32(name)) != int.from_bytes(data[end - 4 : end], "big"):
                raise ImageError("damaged PNG file: a checksum is wrong")
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _is_of_use(name: bytes, body: bytes) -> bool:
    """Whether an ancillary chunk changes the picture: alpha, orientation, a usual profile."""
    if name == b"iCCP" or (name == b"zTXt" and body.startswith(b"Raw profile type exif\0")):
        try:
            unpacked = zlib.decompressobj().decompress(body[body.find(b"\0") + 2 :], _PROFILE_BYTES)
        except zlib.error:
            return False
        return len(unpacked) < _PROFILE_BYTES
    return name in (b"tRNS", b"eXIf") or (name == b"tEXt" and body.startswith(b"Raw profile type"))


_PROFILE_BYTES: Final = 1 << 20  # Pillow refuses more


def _check_gif(data: bytes) -> bytes:
    """The first frame is all there, and the size that its place in the canvas makes is allowed."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while (mark := data[at : at + 1]) != b",":
        if not mark:
            raise cut_short()
        if mark == b";":
            raise ImageError("damaged GIF file: there is no image in it")
        at = _after_blocks(data, at + 2) if mark == b"!" else at + 1
    left, top, wide, high, flags = struct.unpack_from("<HHHHB", data, at + 1)
    check_pixels(max(width, left + wide), max(height, top + high))
    at += 10 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    # One more byte must follow, of the next block or the trailer.
    if _after_blocks(data, at + 1) >= len(data):
        raise cut_short()
    return data


def _after_blocks(data: bytes, at: int) -> int:
    """Where a GIF's chain of length-prefixed blocks ends, or ImageError if it does not."""
    while at < len(data):
        size = data[at]
        at += size + 1
        if not size:
            return at
    raise cut_short()


def _check_ppm(data: bytes) -> bytes:
    if data[:2] in (b"P1", b"P2", b"P3") and len(data) > _PLAIN_BYTES:
        raise ImageError("a PPM written as text takes too long to read: save it as binary")
    return data


_PLAIN_BYTES: Final = 1 << 26  # which Pillow reads in Python: seconds


def _check_webp(data: bytes) -> bytes:
    """The file is whole, and its canvas is allowed: the decoder holds several copies of it."""
    if int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise cut_short()
    check_pixels(*_webp_canvas(data), _COPIES["WebP"])
    at = 12
    while (name := data[at : at + 4]) and name != b"VP8 ":  # lossless data may be zeros
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little") + 1 & ~1
    _require_no_blank(data[at + 8 : at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")])
    return data


def _webp_canvas(data: bytes) -> tuple[int, int]:
    kind, packed = data[12:16], int.from_bytes(data[20:30], "little")
    if kind == b"VP8X":
        return (packed >> 32 & 0xFFFFFF) + 1, (packed >> 56 & 0xFFFFFF) + 1
    if kind == b"VP8L":
        return (packed >> 8 & 0x3FFF) + 1, (packed >> 22 & 0x3FFF) + 1
    return packed >> 48 & 0x3FFF, packed >> 64 & 0x3FFF


def _require_no_blank(coded: bytes) -> None:
    """Raise ImageError where data that are never zero for long are so at their end: lost blocks."""
    if len(coded) - len(coded.rstrip(b"\0")) > max(256, len(coded) // 16):
        raise ImageError("damaged file: its data end in zeros")


def _check_boxes(data: bytes) -> bytes:
    """The boxes of an AVIF or HEIC file are there, up to the picture's (ISO 14496-12)."""
    at, missing = 0, {b"meta", b"mdat"}
    while missing and at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        missing.discard(name)
        if size == 1 and at + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, at + 8)
        elif size == 0:
            break  # to the end of the file
        if size < 8:
            break
        if name == b"mdat":
            _require_no_blank(data[at : at + size])
        at += size
        if at > len(data):
            raise cut_short()
    return data


def _check_avif(data: bytes) -> bytes:
    # The format's own rotation counts, not that of the EXIF item, which Pillow would parse.
    return re.sub(rb"(infe.{8}(?:..)?)Exif", rb"\1free", _check_boxes(data), flags=re.DOTALL)


_CHECKS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "PNG": _check_png,
    "GIF": _check_gif,
    "WebP": _check_webp,
    "PPM": _check_ppm,
    "AVIF": _check_avif,
    "HEIC": _check_boxes,
}
