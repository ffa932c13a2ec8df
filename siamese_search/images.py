"""Find image files, read them, hash them, and decode them into the pixels that an encoder takes.

Formats are an allow-list told apart by their first bytes, never by the file's name. A file that
is damaged or cut short is refused as a whole: where Pillow would hand out a half-read picture,
the container is checked here first. The same checks keep Pillow from issuing warnings, which
would reach the terminal and cannot be silenced for one thread alone.

Knows nothing of encoders, galleries or indexes.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import math
import os
import re
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from io import BytesIO
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from siamese_search import colour
from siamese_search.errors import ImageError, UsageError
from siamese_search.records import ImageFile, Preprocessing, Rejection, printable

if TYPE_CHECKING:  # numpy.typing takes time to load
    import numpy.typing as npt

MAX_FILE_BYTES: Final = 256 * 2**20
"""A larger file is refused unread."""

LARGE_PIXELS: Final = 16_000_000
"""Pictures that decode to more pixels than this are decoded one at a time, to bound memory."""

DRAFT_RESERVE: Final = 1.4
"""How many times the target's sides a JPEG that is decoded at reduced scale keeps at least."""

_REDUCING_GAP: Final = 3.0
_LARGE = threading.Lock()
_CLUTTER: Final = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_RESAMPLING: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
# EXIF orientation to what makes the picture upright; 5 to 8 swap width and height.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# ---------------------------------------------------------------------------------------- find


def find_images(root: str) -> Iterator[ImageFile | Rejection]:
    """Every file under a folder, in name order, with the identity that its folder implies.

    An identity is the folder's path relative to ``root`` with ``/`` between its parts. A file
    directly in ``root``, or ``root`` itself if it is a file, is its own identity, named by its
    stem. Hidden names and operating-system clutter are passed over. What can be no image (a
    pipe, a dangling link, a folder that cannot be listed, a link to a folder that contains it, a
    name that is not UTF-8) is a :class:`Rejection`; whether a regular file is an image shows when
    it is decoded. Paths are absolute; links in them are kept. Nothing is opened but folders.
    """
    root = os.path.abspath(root)
    found = _classify(root, is_link=os.path.islink(root))
    if isinstance(found, Rejection):
        yield found
    elif stat.S_ISDIR(found.st_mode):
        yield from _walk(root, found)
    else:
        yield ImageFile(root, _stem(os.path.basename(root)))


def _walk(root: str, status: os.stat_result) -> Iterator[ImageFile | Rejection]:
    # Kept as a stack, not by recursion: folders nest deeper than Python's calls may.
    above = _folders_above(root)
    stack = [(_list(root), "", (status.st_dev, status.st_ino))]
    while stack:
        names, identity, _ = stack[-1]
        entry = next(names, None)
        if entry is None:
            stack.pop()
        elif isinstance(entry, Rejection):
            yield entry
        elif entry.is_file(follow_symlinks=False) and _is_text(entry.name):
            yield ImageFile(entry.path, identity or _stem(entry.name))
        else:
            found = _classify(entry.path, is_link=entry.is_symlink())
            if isinstance(found, Rejection):
                yield found
            elif not stat.S_ISDIR(found.st_mode):
                yield ImageFile(entry.path, identity or _stem(entry.name))
            else:
                place = (found.st_dev, found.st_ino)
                if place in above or any(place == passed for _, _, passed in stack):
                    reason = "the link leads back to a folder that contains it"
                    yield Rejection(entry.path, reason)
                else:
                    inner = f"{identity}/{entry.name}" if identity else entry.name
                    stack.append((_list(entry.path), inner, place))


def _list(folder: str) -> Iterator[os.DirEntry[str] | Rejection]:
    """A folder's entries that are not passed over, sorted by name."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        yield Rejection(folder, f"the folder cannot be read: {_os_reason(error)}")
        return
    for entry in entries:
        if not entry.name.startswith(".") and entry.name.lower() not in _CLUTTER:
            yield entry


def _classify(path: str, *, is_link: bool) -> os.stat_result | Rejection:
    """The status of a regular file or a folder, links followed; anything else is rejected."""
    if not _is_text(path):
        return Rejection(printable(path), "the name is not valid UTF-8: rename it")
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = _os_reason(error)
        if is_link and isinstance(error, FileNotFoundError):
            reason = "the link leads nowhere"
        elif isinstance(error, OSError) and error.errno == errno.ELOOP:
            reason = "the link leads back to itself"
        return Rejection(path, reason)
    if stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
        return status
    return Rejection(path, f"{_kind(status.st_mode)}, not a regular file")


def _folders_above(root: str) -> set[tuple[int, int]]:
    """Device and inode of every folder that contains ``root``, by its name and behind links."""
    above: set[tuple[int, int]] = set()
    for path in (root, os.path.realpath(root)):
        while (parent := os.path.dirname(path)) != path:
            path = parent
            try:
                status = os.stat(path)
            except OSError:
                continue
            above.add((status.st_dev, status.st_ino))
    return above


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _kind(mode: int) -> str:
    kinds: tuple[tuple[Callable[[int], bool], str], ...] = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for test, name in kinds if test(mode)), "a device")


def _os_reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file (any more)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return str(error) or type(error).__name__


# -------------------------------------------------------------------------------- read and hash


def read_file(path: str) -> bytes:
    """The contents of a regular file of at most :data:`MAX_FILE_BYTES`.

    Raises ImageError, with a plain reason, for anything else: a pipe (which is not waited on), an
    empty file, one that vanished or may not be read.
    """
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"):  # not all exist everywhere
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(path, flags)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{_kind(status.st_mode)}, not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise ImageError(_too_many_bytes(status.st_size))
            with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
                data = file.readall()
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENXIO:
            raise ImageError("a socket or device, not a regular file") from error
        raise ImageError(_os_reason(error)) from error
    except MemoryError as error:
        raise ImageError("there is not enough memory to read it") from error
    if not data:
        raise ImageError("empty file")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(_too_many_bytes(len(data)))
    return data


def content_hash(data: bytes) -> str:
    """SHA-256 of a file's contents, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _too_many_bytes(size: int) -> str:
    return f"the file has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read"


# --------------------------------------------------------------------------------------- decode


def decode(data: bytes, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """The pixels an encoder takes from an image file's contents.

    Returns uint8 (height, width, channels), C-contiguous and writable, of exactly the size that
    ``preprocessing`` names: upright, in sRGB, on white, as a viewer would show the picture
    (animations and multi-page files: the first). Safe to call from several threads.

    Raises ImageError if the contents are no image of a supported format, are damaged or cut
    short, or claim more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``, which is read at each call.
    """
    kind = _recognise(data)
    try:
        image, orientation = _open(kind, data)
        _check_pixels(*image.size)
        return _render(image, preprocessing, orientation)
    except ImageError:
        raise
    except Exception as error:
        raise _image_error(error, f"damaged {kind} file") from error


def prepare(
    image: Image.Image | npt.NDArray[np.uint8], preprocessing: Preprocessing
) -> npt.NDArray[np.uint8]:
    """The pixels an encoder takes from a picture in memory; as :func:`decode` from there on.

    ``image`` is a Pillow image of any mode, turned upright if it carries an EXIF orientation, or
    uint8 (height, width, 3) sRGB or (height, width) grey. Raises UsageError for other arrays,
    ImageError for a picture that is empty, too large, or fails to load.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2:] == (3,)):
            raise UsageError(
                "an image array is uint8 of shape (height, width, 3) or (height, width), "
                f"not {image.dtype} of shape {image.shape}"
            )
        if image.size == 0:
            raise ImageError("the picture has no pixels")
        image = Image.fromarray(image)
    try:
        _check_pixels(*image.size)
        return _render(image, preprocessing, None)
    except ImageError:
        raise
    except Exception as error:
        raise _image_error(error, "the picture cannot be used") from error


def _image_error(error: Exception, what: str) -> ImageError:
    # Pillow answers damage with whatever its parsers stumble over: OSError, SyntaxError,
    # ValueError, struct.error, EOFError, IndexError, KeyError, TypeError, zlib.error and more.
    if isinstance(error, MemoryError):
        return ImageError("there is not enough memory to decode it")
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(f"too many pixels: {error}")
    detail = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, struct.error | EOFError) or "truncated" in detail.lower():
        return _cut_short()
    return ImageError(f"{what}: {detail[:200]}")


def _check_pixels(width: int, height: int) -> None:
    cap = Image.MAX_IMAGE_PIXELS
    if width < 1 or height < 1:
        raise ImageError("the picture has no pixels")
    if cap is not None and width * height > cap:
        raise ImageError(f"too many pixels: {width:,} x {height:,} is more than {cap:,}")


class _Frame(NamedTuple):
    """Which part of the stored picture is scaled to which size, both as stored (not upright)."""

    box: tuple[float, float, float, float]
    size: tuple[int, int]


def _frame(stored: tuple[int, int], how: Preprocessing, orientation: int) -> _Frame:
    width, height = stored
    target_width, target_height = how.width, how.height
    if orientation >= 5:
        target_width, target_height = target_height, target_width
    if how.resize == "crop":
        scale = min(width / target_width, height / target_height) * how.crop_fraction
        left = max(0.0, (width - target_width * scale) / 2)
        top = max(0.0, (height - target_height * scale) / 2)
        return _Frame((left, top, width - left, height - top), (target_width, target_height))
    whole = (0.0, 0.0, float(width), float(height))
    if how.resize == "squash":
        return _Frame(whole, (target_width, target_height))
    scale = min(target_width / width, target_height / height)
    return _Frame(whole, (max(1, round(width * scale)), max(1, round(height * scale))))


def _render(
    image: Image.Image, how: Preprocessing, orientation: int | None
) -> npt.NDArray[np.uint8]:
    """Crop, scale, turn upright and colour an open image; ``orientation`` None: as it states."""
    grey = how.channels == 1
    pixels = image.width * image.height
    frame = None
    if isinstance(image, _Jpeg):
        orientation = _orientation_of(image)
        full = _frame(image.size, how, orientation)
        luminance = grey and not colour.needs_colours(image.info.get("icc_profile"))
        frame = _draft(image, full, "L" if luminance else None)
        if "progressive" not in image.info:  # those are held in full whatever the scale
            pixels = image.width * image.height
    with _LARGE if pixels > LARGE_PIXELS else nullcontext():
        image.load()
        if orientation is None:  # a PNG may state it behind the pixels
            orientation = _orientation_of(image)
        box, size = frame or _frame(image.size, how, orientation)
        scaled = colour.resizable(image).resize(
            size, _RESAMPLING[how.interpolation], box, _REDUCING_GAP
        )
    shown = colour.displayed(scaled, image.info.get("icc_profile"), grey=grey)
    if orientation in _UPRIGHT:
        shown = shown.transpose(_UPRIGHT[orientation])
    if how.resize == "pad" and shown.size != (how.width, how.height):
        canvas = Image.new(shown.mode, (how.width, how.height), "white")
        offset = ((how.width - shown.width) // 2, (how.height - shown.height) // 2)
        canvas.paste(shown, offset)
        shown = canvas
    # Not numpy.array(shown): numpy asks Pillow for the bytes twice.
    pixels_out = np.frombuffer(bytearray(shown.tobytes()), np.uint8)
    return pixels_out.reshape(how.height, how.width, how.channels)


def _draft(image: _Jpeg, frame: _Frame, mode: str | None) -> _Frame:
    """Have a JPEG decoded at the smallest scale that leaves a reserve; the frame at that scale."""
    (left, top, right, bottom), (width, height) = frame
    full_width, full_height = image.size
    asked = (
        math.ceil(full_width * width * DRAFT_RESERVE / (right - left)),
        math.ceil(full_height * height * DRAFT_RESERVE / (bottom - top)),
    )
    drafted = image.draft(mode, asked)
    if drafted is None:
        return frame
    scale = drafted[1][2] / full_width
    box = (left * scale, top * scale, right * scale, bottom * scale)
    return _Frame(box, frame.size)


# -------------------------------------------------------------------------------------- formats


class _Jpeg(JpegImageFile):
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


def _open(kind: str, data: bytes) -> tuple[Image.Image, int | None]:
    """An image of a known format, its container checked but nothing decoded.

    With its orientation, where the image itself no longer states it.
    """
    if kind == "JPEG":
        jpeg = _Jpeg(BytesIO(data))
        scan = jpeg.fp.tell() if jpeg.fp else 0
        if data.rfind(b"\xff\xd9", scan) < 0:
            raise _cut_short()
        return jpeg, None
    module, name = _PLUGINS[kind]
    try:
        plugin = getattr(importlib.import_module(module), name)
    except ImportError as error:
        if kind == "HEIC":
            raise ImageError("HEIC needs the extra: pip install 'siasearch[heic]'") from error
        raise ImageError(f"this installation of Pillow has no {kind}: {error}") from error
    checked = _CHECKS[kind](data) if kind in _CHECKS else data
    image: Image.Image = plugin(BytesIO(checked))
    return image, exif_orientation(data) if kind == "TIFF" else None


def _recognise(data: bytes) -> str:
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


def _cut_short() -> ImageError:
    return ImageError("the file is cut short")


def _check_png(data: bytes) -> bytes:
    """All chunks are there, to IEND. Animation chunks are dropped: the still picture is used."""
    at, animated = 8, False
    kept = [data[:8]]
    while True:
        (size,) = struct.unpack(">I", data[at : at + 4].rjust(4, b"\xff"))
        end = at + 12 + size
        if end > len(data):
            raise _cut_short()
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
            raise _cut_short()
        if mark == b";":
            raise ImageError("damaged GIF file: there is no image in it")
        at = _after_blocks(data, at + 2) if mark == b"!" else at + 1
    left, top, wide, high, flags = struct.unpack_from("<HHHHB", data, at + 1)
    _check_pixels(max(width, left + wide), max(height, top + high))
    at += 10 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    # One more byte must follow, of the next block or the trailer.
    if _after_blocks(data, at + 1) >= len(data):
        raise _cut_short()
    return data


def _after_blocks(data: bytes, at: int) -> int:
    """Where a GIF's chain of length-prefixed blocks ends, or ImageError if it does not."""
    while at < len(data):
        size = data[at]
        at += size + 1
        if not size:
            return at
    raise _cut_short()


def _check_webp(data: bytes) -> bytes:
    if int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise _cut_short()
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
            raise _cut_short()
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


def _orientation_of(image: Image.Image) -> int:
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
        raise _cut_short() from error
    tags = {entry.tag: entry for entry in reversed(entries)}
    if _COMPRESSION in tags and _integers(data, order, tags[_COMPRESSION]) != [1]:
        for offset_tag, size_tag in _STRIPS_AND_TILES:
            if offset_tag in tags and size_tag in tags:
                offsets = _integers(data, order, tags[offset_tag])
                sizes = _integers(data, order, tags[size_tag])
                if max(map(sum, zip(offsets, sizes, strict=False)), default=0) > len(data):
                    raise _cut_short()
    quiet = bytearray(data)
    total = 0
    for entry in entries:
        fits = entry.value_at + entry.size <= len(data) and total + entry.size <= len(data)
        total += entry.size if fits else 0
        if not fits and entry.tag <= _LAST_PIXEL_TAG:
            raise _cut_short()
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
