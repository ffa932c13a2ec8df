"""Image containers: which format a file has, whether it is whole, and opening it undecoded.

Formats are an allow-list told apart by their first bytes, never by the file's name. A file that
is cut short is refused as a whole: where Pillow would hand out a half-read picture, the container
is walked here first. The same checks keep Pillow from issuing warnings, which would reach the
terminal and cannot be silenced for one thread alone.
"""

from __future__ import annotations

import importlib
import re
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Final, NamedTuple

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from siamese_search.errors import ImageError


class Jpeg(JpegImageFile):
    """A JPEG whose EXIF data is not parsed on opening: that is slow, and warns when damaged."""

    def _read_dpi_from_exif(self) -> None:
        pass


# The classes, not Image.open: that warns of large pictures instead of refusing them.
_PLUGINS: Final = {
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WebP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "PPM": ("PIL.PpmImagePlugin", "PpmImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "HEIC": ("pillow_heif", "HeifImageFile"),
}


def open_image(kind: str, data: bytes) -> tuple[Image.Image, int | None]:
    """An image of a known format, its container checked but nothing decoded.

    With its orientation, where the image itself no longer states it.
    """
    if kind == "JPEG":
        jpeg = Jpeg(BytesIO(data))
        scan = jpeg.fp.tell() if jpeg.fp else 0
        if data.rfind(b"\xff\xd9", scan) < 0:
            raise cut_short()
        return jpeg, None
    module, name = _PLUGINS[kind]
    try:
        plugin = getattr(importlib.import_module(module), name)
    except ImportError as error:
        if kind == "HEIC":
            raise ImageError("HEIC needs the extra: pip install 'siamese-search[heic]'") from error
        raise ImageError(f"this installation of Pillow has no {kind}: {error}") from error
    checked = _CHECKS[kind](data) if kind in _CHECKS else data
    image: Image.Image = plugin(BytesIO(checked))
    # Pillow unpacks a BMP's runs in Python: minutes, for a few bytes that claim many pixels.
    runs = kind == "BMP" and image.info.get("compression") in (1, 2)
    if runs and image.width * image.height > 128 * len(data):
        raise cut_short()
    return image, exif_orientation(data) if kind == "TIFF" else None


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


def check_pixels(width: int, height: int) -> None:
    """Raise ImageError for no pixels, or more than ``PIL.Image.MAX_IMAGE_PIXELS`` as it is now."""
    cap = Image.MAX_IMAGE_PIXELS
    if width < 1 or height < 1:
        raise ImageError("the picture has no pixels")
    if cap is not None and width * height > cap:
        raise ImageError(
            f"too many pixels: {width:,} x {height:,} is more than {cap:,}; scale it down"
        )


def cut_short() -> ImageError:
    return ImageError("the file is cut short")


def _check_png(data: bytes) -> bytes:
    """All chunks are there, to IEND. Animation chunks are dropped: the still picture is used."""
    at, animated = 8, False
    kept = [data[:8]]
    while True:
        (size,) = struct.unpack(">I", data[at : at + 4].rjust(4, b"\xff"))
        end = at + 12 + size
        if end > len(data):
            raise cut_short()
        name = data[at + 4 : at + 8]
        if name in (b"acTL", b"fcTL", b"fdAT"):
            animated = True
        else:
            kept.append(memoryview(data)[at:end])  # type: ignore[arg-type]
        if name == b"IEND":
            return b"".join(kept) if animated else data
        at = end


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


def _check_webp(data: bytes) -> bytes:
    if int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise cut_short()
    return data


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
        at += size
        if at > len(data):
            raise cut_short()
    return data


def _check_avif(data: bytes) -> bytes:
    # The format's own rotation counts, not that of the EXIF item, which Pillow would parse.
    return re.sub(rb"(infe.{8}(?:..)?)Exif", rb"\1free", _check_boxes(data), flags=re.DOTALL)


# TIFF directories, which EXIF data is too (TIFF 6.0; BigTIFF; CIPA DC-008).

_TIFF_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_TIFF_SIZES_BIG: Final = {**_TIFF_SIZES, 13: 4, 16: 8}
_ORIENTATION: Final = 274
_COMPRESSION: Final = 259
_LAST_PIXEL_TAG: Final = 532
_USELESS_TAGS: Final = frozenset({_ORIENTATION, 330, 34665, 34853, 40965})
_STRIPS_AND_TILES: Final = ((273, 279), (324, 325))


class _Entry(NamedTuple):
    tag: int
    type: int
    length: int
    at: int
    value_at: int
    size: int


def _directory(data: bytes) -> tuple[str, list[_Entry]]:
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
        size = number * _TIFF_SIZES_BIG.get(kind, 0)
        value_at = at + width - inline
        if size > inline:
            (value_at,) = struct.unpack_from(order + ("Q" if big else "I"), data, value_at)
        entries.append(_Entry(tag, kind, number, at, value_at, size))
    return order, entries


def _integers(data: bytes, order: str, entry: _Entry) -> list[int]:
    code = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}.get(entry.type)
    if code is None:
        return []
    return list(struct.unpack_from(f"{order}{entry.length}{code}", data, entry.value_at))


def exif_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, that EXIF data (or a TIFF file) states; 1 if it states none."""
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        order, entries = _directory(exif)
        for entry in entries:
            if entry.tag == _ORIENTATION and entry.length == 1:
                value = _integers(exif, order, entry)
                return value[0] if value and 1 <= value[0] <= 8 else 1
    except (struct.error, OverflowError, ImageError):
        pass
    return 1


def orientation_of(image: Image.Image) -> int:
    exif = image.info.get("exif")
    if exif is None and isinstance(profile := image.info.get("Raw profile type exif"), str):
        try:
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))  # as ImageMagick writes PNG
        except ValueError:
            return 1
    return exif_orientation(exif) if isinstance(exif, bytes) else 1


def _check_tiff(data: bytes) -> bytes:
    """The first directory and its compressed pixels are all there.

    Tags that Pillow would warn of, and those of no use here (metadata, and the orientation, which
    is applied after the resize), are given a type that every reader skips.
    """
    from PIL import TiffTags  # loaded with the TIFF plugin

    try:
        order, entries = _directory(data)
    except struct.error as error:
        raise cut_short() from error
    tags = {entry.tag: entry for entry in reversed(entries)}
    if _COMPRESSION in tags and _integers(data, order, tags[_COMPRESSION]) != [1]:
        for offset_tag, size_tag in _STRIPS_AND_TILES:
            if offset_tag in tags and size_tag in tags:
                offsets = _integers(data, order, tags[offset_tag])
                sizes = _integers(data, order, tags[size_tag])
                if max(map(sum, zip(offsets, sizes, strict=False)), default=0) > len(data):
                    raise cut_short()
    quiet = bytearray(data)
    total = 0
    for entry in entries:
        fits = entry.value_at + entry.size <= len(data) and total + entry.size <= len(data)
        total += entry.size if fits else 0
        if not fits and entry.tag <= _LAST_PIXEL_TAG:
            raise cut_short()
        single = TiffTags.lookup(entry.tag).length == 1 and entry.type not in (1, 2, 7)
        if (
            not fits
            or entry is not tags[entry.tag]
            or entry.tag in _USELESS_TAGS
            or (single and entry.length != 1)
        ):
            quiet[entry.at + 2 : entry.at + 4] = b"\0\0"
    return bytes(quiet)


_CHECKS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "PNG": _check_png,
    "GIF": _check_gif,
    "TIFF": _check_tiff,
    "WebP": _check_webp,
    "AVIF": _check_avif,
    "HEIC": _check_boxes,
}
