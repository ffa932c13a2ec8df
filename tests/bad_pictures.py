"""Bad pictures: pictures in every format, and the ways in which files come to harm, by seeds."""

from __future__ import annotations

import io
import random
import struct
import zlib
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, features


def photo(width: int = 160, height: int = 120, seed: int = 0) -> Image.Image:
    """Smooth random colours under some noise."""
    chance = np.random.default_rng(seed)
    coarse = Image.fromarray(chance.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    rough = smooth + chance.normal(0, 6, smooth.shape)
    return Image.fromarray(rough.clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(samples: npt.NDArray[Any], **options: Any) -> bytes:
    """A TIFF by tifffile."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


def pictures(image: Image.Image) -> dict[str, dict[str, bytes]]:
    """A colour picture as files: format, kind, contents."""
    rgb, grey = np.asarray(image), image.convert("L")
    clear = image.convert("RGBA")
    clear.putalpha(grey)
    palette, deep = image.quantize(64), np.asarray(grey).astype(np.uint16) * 257
    metadata = {"exif": _turned(), "icc_profile": b"\0" * 200}
    found = {
        "JPEG": {
            "plain": saved(image, "JPEG"),
            "fine": saved(image, "JPEG", quality=95, subsampling=0),
            "optimised": saved(image, "JPEG", optimize=True),
            "progressive": saved(image, "JPEG", progressive=True),
            "restarts": saved(image, "JPEG", restart_marker_rows=1),
            "both": saved(image, "JPEG", progressive=True, restart_marker_blocks=7),
            "grey": saved(grey, "JPEG"),
            "inks": saved(image.convert("CMYK"), "JPEG"),
            "metadata": saved(image, "JPEG", **metadata),
            "several": saved(image, "MPO", save_all=True, append_images=[image.rotate(180)]),
        },
        "PNG": {
            "plain": saved(image, "PNG"),
            "grey": saved(grey, "PNG"),
            "clear": saved(clear, "PNG"),
            "palette": saved(palette, "PNG", transparency=bytes([0, 128, 255])),
            "deep": saved(Image.fromarray(deep), "PNG"),
            "raw": saved(image, "PNG", compress_level=0),
            "metadata": saved(image, "PNG", **metadata),
            "animated": saved(image, "PNG", save_all=True, append_images=[image.rotate(180)]),
        },
        "WebP": {
            "plain": saved(image, "WEBP"),
            "lossless": saved(image, "WEBP", lossless=True),
            "clear": saved(clear, "WEBP"),
            "metadata": saved(image, "WEBP", **metadata),
            "animated": saved(image, "WEBP", save_all=True, append_images=[image.rotate(180)]),
        },
        "GIF": {
            "plain": saved(image, "GIF", interlace=0),
            "interlaced": saved(image, "GIF", interlace=1),
            "animated": saved(image, "GIF", save_all=True, append_images=[image.rotate(180)]),
        },
        "TIFF": {
            "plain": saved(image, "TIFF"),
            "lzw": saved(image, "TIFF", compression="tiff_lzw"),
            "packbits": saved(image, "TIFF", compression="packbits"),
            "jpeg": saved(image, "TIFF", compression="jpeg"),
            "fax": saved(image.convert("1"), "TIFF", compression="group4"),
            "deflate": tiff(rgb, photometric="rgb", compression="zlib", rowsperstrip=16),
            "big": tiff(rgb, photometric="rgb", bigtiff=True, byteorder=">"),
            "tiles": tiff(rgb, photometric="rgb", tile=(32, 48), compression="zlib"),
            "planes": tiff(
                np.moveaxis(rgb, 2, 0).astype(np.uint16) * 257,
                photometric="rgb",
                planarconfig="separate",
            ),
            "float": tiff((rgb / 255).astype(np.float32), photometric="rgb", compression="zlib"),
            "pages": saved(image, "TIFF", save_all=True, append_images=[image.rotate(180)]),
        },
        "BMP": {
            "plain": saved(image, "BMP"),
            "palette": saved(palette, "BMP"),
            "bits": saved(image.convert("1"), "BMP"),
        },
        "PPM": {
            "plain": saved(image, "PPM"),
            "grey": saved(grey, "PPM"),
            "bits": saved(image.convert("1"), "PPM"),
        },
    }
    if features.check("avif"):
        found["AVIF"] = {
            "plain": saved(image, "AVIF", speed=10),
            "clear": saved(clear, "AVIF", speed=10, **metadata),
        }
    if find_spec("pillow_heif"):
        import pillow_heif

        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(buffer)
        found["HEIC"] = {"plain": buffer.getvalue()}
    return found


@cache
def photos() -> dict[str, dict[str, bytes]]:
    """The ``pictures`` of ``photo``, made once."""
    return pictures(photo())


def _turned() -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = 6
    return tags


HARM = (
    "cut", "cut and ended", "zeros to the end", "zeros", "noise", "ones", "a bit", "bytes",
    "header", "inserted", "removed", "repeated", "spliced", "claims",
)  # fmt: skip


def harmed(data: bytes, kind: str, seed: int, other: bytes = b"") -> bytes:
    """A file that came to one kind of harm; ``other`` is what it is spliced with."""
    chance = random.Random(seed)
    size = len(data)
    at, length = chance.randrange(size), chance.choice([16, 64, 512, 4096])
    end = min(size, at + length)
    changed = bytearray(data)
    if kind == "cut":
        del changed[at:]
    elif kind == "cut and ended":
        changed[at:] = data[-max(2, min(12, size // 100)) :]
    elif kind == "zeros to the end":
        changed[at : size - 2] = bytes(max(0, size - 2 - at))
    elif kind == "zeros":
        changed[at:end] = bytes(end - at)
    elif kind == "noise":
        changed[at:end] = chance.randbytes(end - at)
    elif kind == "ones":
        changed[at:end] = b"\xff" * (end - at)
    elif kind == "a bit":
        changed[at] ^= 1 << chance.randrange(8)
    elif kind == "bytes":
        for _ in range(8):
            changed[chance.randrange(size)] = chance.randrange(256)
    elif kind == "header":
        for _ in range(chance.choice([1, 3])):
            changed[chance.randrange(min(size, 200))] = chance.choice([0, 1, 127, 255])
    elif kind == "inserted":
        changed[at:at] = chance.randbytes(length)
    elif kind == "removed":
        del changed[at:end]
    elif kind == "repeated":
        changed[at:at] = data[max(0, at - length) : at]
    elif kind == "spliced":
        changed[at:] = other[chance.randrange(len(other) or 1) :]
    else:
        return _claims(data, chance)
    return bytes(changed)


def _claims(data: bytes, chance: random.Random) -> bytes:
    """The file with another size in its header; where that is not known, with numbers changed."""
    changed = bytearray(data)
    width, height = chance.choice([(60_000, 60_000), (16_000, 16_000), (9_000, 9_900), (1, 65_535)])
    frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    if data[:4] == b"\x89PNG":
        changed[16:24] = struct.pack(">II", width, height)
        changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
    elif data[:3] == b"GIF":
        place = data.find(b",", 13) if chance.random() < 0.5 else 5
        struct.pack_into("<HH", changed, place + (5 if place > 5 else 1), width, height)
    elif data[:2] == b"BM":
        struct.pack_into("<ii", changed, 18, width, height)
    elif data[12:16] == b"VP8X":
        changed[24:30] = struct.pack("<II", width - 1, height - 1).replace(b"\0\0", b"\0")[:6]
    elif data[:2] == b"\xff\xd8" and frame > 0:
        struct.pack_into(">HH", changed, frame + 5, height, width)
    elif data[:2] in (b"P4", b"P5", b"P6"):
        return data[:3] + b"%d %d " % (width, height) + data[data.index(b"\n", 4) + 1 :]
    else:
        for _ in range(4):
            place = chance.randrange(min(len(data), 400) - 4)
            struct.pack_into("<I", changed, place, chance.choice([width, 1 << 31, (1 << 32) - 1]))
    return bytes(changed)
