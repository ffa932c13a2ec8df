"""Decoding: formats, colours, orientation, crops; damage, bombs and what they must not do."""

from __future__ import annotations

import io
import random
import struct
import sys
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms, ImageOps, features

from siamese_search.errors import ImageError
from siamese_search.pictures import colour, directory, render
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.pictures.regions import Box, Region

Pixels = npt.NDArray[Any]
SMALL = Preprocessing(32, 32)
SQUASH = Preprocessing(40, 24, resize="squash")


def photo(width: int = 160, height: int = 120, seed: int = 0) -> Image.Image:
    """Smooth random colours: nothing in it is symmetric, and every format stores it well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def scaled(pixels: Pixels, how: Preprocessing) -> Pixels:
    """The slow, obvious crop and scale: one triangle-weighted mean per output sample."""
    height, width = pixels.shape[:2]
    box = [0.0, 0.0, float(width), float(height)]
    if how.resize == "crop":
        zoom = min(width / how.width, height / how.height) * how.crop_fraction
        box[0], box[2] = (width - how.width * zoom) / 2, (width + how.width * zoom) / 2
        box[1], box[3] = (height - how.height * zoom) / 2, (height + how.height * zoom) / 2

    def weights(inputs: int, outputs: int, low: float, high: float) -> Pixels:
        step = (high - low) / outputs
        reach = max(step, 1.0)
        table = np.zeros((outputs, inputs))
        for out in range(outputs):
            for i in range(inputs):
                away = abs(i + 0.5 - (low + (out + 0.5) * step))
                table[out, i] = max(0.0, 1.0 - away / reach)
            table[out] /= table[out].sum()
        return table

    down = weights(height, how.height, box[1], box[3])
    across = weights(width, how.width, box[0], box[2])
    values = pixels.reshape(height, width, -1).astype(np.float64)
    means: Pixels = np.einsum("oh,hwc,pw->opc", down, values, across, optimize=True)
    return means


def decoded_or_refused(data: bytes) -> Pixels | None:
    """The pixels, of the right shape, or None for an ImageError that says why; nothing else."""
    try:
        pixels = render.decode(data, SMALL)
    except ImageError as error:
        return None if str(error) else pytest.fail("an ImageError without a reason")
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    return pixels


def assert_close(got: Pixels, expected: Pixels, worst: float, mean: float | None = None) -> None:
    assert got.shape == expected.shape
    difference = np.abs(got.astype(np.float64) - expected)
    assert difference.max() <= worst
    assert difference.mean() <= (worst / 2 if mean is None else mean)


# ------------------------------------------------------------------------------ formats, modes

PHOTO = photo()
WHOLE: dict[str, bytes] = {
    "jpeg": saved(PHOTO, "JPEG", quality=95),
    "jpeg-progressive": saved(PHOTO, "JPEG", quality=95, progressive=True),
    "jpeg-restarts": saved(PHOTO, "JPEG", quality=95, restart_marker_rows=1),
    "mpo": saved(PHOTO, "MPO", save_all=True, append_images=[PHOTO.rotate(180)], quality=95),
    "png": saved(PHOTO, "PNG"),
    "apng": saved(PHOTO, "PNG", save_all=True, append_images=[PHOTO.rotate(180)]),
    "webp": saved(PHOTO, "WEBP", quality=95),
    "webp-lossless": saved(PHOTO, "WEBP", lossless=True),
    "webp-animated": saved(PHOTO, "WEBP", save_all=True, append_images=[PHOTO.rotate(180)]),
    "gif": saved(PHOTO, "GIF", interlace=0),
    "gif-interlaced": saved(PHOTO, "GIF", interlace=1),
    "gif-animated": saved(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(180)]),
    "tiff": saved(PHOTO, "TIFF"),
    "tiff-big": saved(PHOTO, "TIFF", big_tiff=True),
    "tiff-lzw": saved(PHOTO, "TIFF", compression="tiff_lzw"),
    "tiff-deflate": saved(PHOTO, "TIFF", compression="tiff_adobe_deflate"),
    "tiff-jpeg": saved(PHOTO, "TIFF", compression="jpeg", quality=95),
    "tiff-pages": saved(PHOTO, "TIFF", save_all=True, append_images=[PHOTO.rotate(180)]),
    "bmp": saved(PHOTO, "BMP"),
    "ppm": saved(PHOTO, "PPM"),
}
if features.check("avif"):
    WHOLE["avif"] = saved(PHOTO, "AVIF", quality=95)


@pytest.mark.parametrize("name", WHOLE)
def test_every_format_gives_the_picture(name: str) -> None:
    data = WHOLE[name]
    pixels = render.decode(data, SMALL)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(stored.astype(int) - np.asarray(PHOTO)).mean() < 12
    # Pillow's own rounding, and the reduced scale that a JPEG is decoded at.
    assert_close(pixels, scaled(stored, SMALL), 6 if "jpeg" in name or name == "mpo" else 1.1, 1.5)


@pytest.mark.parametrize("name", WHOLE)
def test_what_follows_a_complete_picture_does_not_matter(name: str) -> None:
    data = WHOLE[name]
    expected = render.decode(data, SMALL)
    for tail in (b"\0" * 500, b"trailing garbage " * 30):
        np.testing.assert_array_equal(render.decode(data + tail, SMALL), expected)


@pytest.mark.parametrize("name", WHOLE)
def test_a_truncated_file_is_never_half_read(name: str) -> None:
    data = WHOLE[name]
    expected = render.decode(data, SMALL)
    several = name in ("mpo", "gif-animated", "tiff-pages")
    spare = 16 if name.startswith("jpeg") else 0  # the end marker and the last block
    near = [*range(1, 60), *range(len(data) - 60, len(data))]
    for cut in sorted({*near, *np.linspace(60, len(data) - 1, 60).astype(int).tolist()}):
        pixels = decoded_or_refused(data[:cut])
        if pixels is not None:
            accepted = several or len(data) - cut <= spare
            assert accepted, f"{cut} of {len(data)} bytes were accepted"
            np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("subsampled", [False, True])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_large_jpeg_decoded_at_reduced_scale_is_checked_for_its_end(
    progressive: bool, subsampled: bool
) -> None:
    data = saved(
        photo(640, 480), "JPEG", progressive=progressive, subsampling=2 if subsampled else 0
    )
    whole = render.decode(data, SMALL)
    for cut in (len(data) - 1, len(data) - 2):
        np.testing.assert_array_equal(render.decode(data[:cut], SMALL), whole)
    for cut in [*range(len(data) - 40, len(data) - 16), len(data) // 2, len(data) * 3 // 4]:
        with pytest.raises(ImageError, match="cut short"):
            render.decode(data[:cut], SMALL)
    with pytest.raises(ImageError, match="cut short"):
        render.decode(data[: len(data) // 2].ljust(len(data), b"\0"), SMALL)


def test_the_thumbnail_in_a_truncated_jpeg_does_not_count_as_its_end() -> None:
    thumbnail = saved(photo(16, 12), "JPEG")
    data = saved(PHOTO, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail)
    render.decode(data, SMALL)
    with pytest.raises(ImageError, match="cut short"):
        render.decode(data[:-20], SMALL)


GREY = np.asarray(PHOTO.convert("L"))
GREY16 = (np.arange(120 * 160, dtype=np.uint32).reshape(120, 160) * 3).astype(np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "GIF", "WEBP", "JPEG"])
def test_one_bit_and_grey_pictures(kind: str) -> None:
    grey = Image.fromarray(GREY)
    lossy = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    got = render.decode(saved(grey, kind, **lossy), SMALL)
    assert_close(got, scaled(np.stack([GREY] * 3, -1), SMALL), 5 if kind == "JPEG" else 1.1)
    if kind in ("PNG", "TIFF", "BMP", "PPM", "GIF"):
        bits = GREY > 120
        got = render.decode(saved(Image.fromarray(bits), kind), SMALL)
        assert_close(got, scaled(np.stack([bits * 255] * 3, -1), SMALL), 1.6)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_to_eight(kind: str) -> None:
    got = render.decode(saved(Image.fromarray(GREY16), kind), SMALL)
    assert_close(got, scaled(np.stack([GREY16 / 257] * 3, -1), SMALL), 1.6)


def test_sixteen_bits_of_either_byte_order_and_dark_ones_keep_their_range() -> None:
    got = render.decode(saved(Image.fromarray(GREY16.astype(">u2")), "TIFF"), SMALL)
    assert_close(got, scaled(np.stack([GREY16 / 257] * 3, -1), SMALL), 1.6)
    dark = Image.fromarray(np.full((9, 9), 200, np.uint16))
    assert render.decode(saved(dark, "PPM"), SMALL).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (GREY.astype(np.int32), GREY),
        (GREY16.astype(np.int32), GREY16 / 257),
        (GREY.astype(np.int32) * 1000 - 70000, (GREY - GREY.min()) / np.ptp(GREY) * 255.0),
        (GREY.astype(np.float32) / 255, GREY),
        (GREY.astype(np.float32), GREY),
        (GREY.astype(np.float32) * 1e6 - 5, (GREY - GREY.min()) / np.ptp(GREY) * 255.0),
        (np.full((120, 160), 1e9, np.float32), np.zeros((120, 160))),
        (np.where(np.eye(120, 160) > 0, np.nan, 0.5).astype(np.float32),
         np.where(np.eye(120, 160) > 0, 0, 128)),
    ],
)  # fmt: skip
def test_deep_samples_use_a_usual_range_or_their_own(values: Pixels, expected: Pixels) -> None:
    got = render.decode(saved(Image.fromarray(values), "TIFF"), SMALL)
    assert_close(got, scaled(np.stack([expected] * 3, -1), SMALL), 1.6)


def test_cmyk_is_shown_as_pillow_shows_it() -> None:
    cmyk = PHOTO.convert("CMYK")
    expected = scaled(np.asarray(cmyk.convert("RGB")), SMALL)
    assert_close(render.decode(saved(cmyk, "TIFF"), SMALL), expected, 4)
    assert_close(render.decode(saved(cmyk, "JPEG", quality=97), SMALL), expected, 10)


@pytest.mark.parametrize("mode", ["YCbCr", "LAB", "HSV", "RGBX", "CMYK", "PA"])
def test_other_colour_models_of_pictures_in_memory(mode: str) -> None:
    image = PHOTO.convert("P").convert("PA") if mode == "PA" else PHOTO.convert(mode)
    expected = scaled(np.asarray(image.convert("RGB")), SMALL)
    assert_close(render.prepare(image, SMALL), expected, 6)


def test_palettes() -> None:
    palette = PHOTO.quantize(64)
    expected = scaled(np.asarray(palette.convert("RGB")), SMALL)
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        assert_close(render.decode(saved(palette, kind), SMALL), expected, 1.6)


# ------------------------------------------------------------------------------------- on white


def faded() -> Image.Image:
    """A photo with an alpha ramp; where it is fully transparent its hidden colour is black."""
    alpha = np.tile(np.clip(np.arange(160) * 3 - 100, 0, 255).astype(np.uint8), (120, 1))
    rgba = np.dstack([np.asarray(PHOTO), alpha])
    rgba[alpha == 0] = 0
    return Image.fromarray(rgba)


def on_white(rgba: Pixels) -> Pixels:
    share = rgba[..., -1:].astype(np.float64) / 255
    return rgba[..., :-1] * share + 255 * (1 - share)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_shows_white_without_dark_fringes(kind: str) -> None:
    data = saved(faded(), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    assert_close(render.decode(data, SMALL), scaled(on_white(np.asarray(faded())), SMALL), 2.5)


def test_a_hidden_colour_leaves_no_trace() -> None:
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, 20:44] = (255, 255, 255, 255)
    for how in (SMALL, Preprocessing(200, 200, interpolation="bicubic")):
        assert render.prepare(Image.fromarray(rgba), how).min() == 255


def test_grey_with_alpha() -> None:
    la = faded().convert("LA")
    got = render.decode(saved(la, "PNG"), Preprocessing(32, 32, 1))
    assert_close(got, scaled(on_white(np.asarray(la)), SMALL), 2.5)


@pytest.mark.parametrize("transparency", [3, bytes([0, 128, 255, 7])])
def test_palette_entries_may_be_transparent(transparency: int | bytes) -> None:
    palette = PHOTO.quantize(16)
    data = saved(palette, "PNG", transparency=transparency)
    rgba = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    assert rgba[..., 3].min() < 255
    assert_close(render.decode(data, SMALL), scaled(on_white(rgba), SMALL), 2.5)


def test_a_gif_s_transparent_colour() -> None:
    palette = PHOTO.quantize(16)
    data = saved(palette, "GIF", transparency=2)
    rgba = np.dstack([np.asarray(palette.convert("RGB")), 255 * (np.asarray(palette) != 2)])
    assert_close(render.decode(data, SMALL), scaled(on_white(rgba), SMALL), 2.5)


def test_a_colour_key_is_transparent() -> None:
    rgb = np.zeros((32, 32, 3), np.uint8)
    rgb[:, :16] = (10, 20, 30)
    got = render.decode(saved(Image.fromarray(rgb), "PNG", transparency=(10, 20, 30)), SQUASH)
    assert (got[:, :18] == 255).all()
    assert (got[:, 22:] == 0).all()
    grey = Image.fromarray(rgb[..., 0])
    got = render.decode(saved(grey, "PNG", transparency=10), SQUASH)
    assert (got[:, :18] == 255).all()
    assert (got[:, 22:] == 0).all()
    deep = Image.fromarray(rgb[..., 0].astype(np.uint16) * 1000)
    got = render.decode(saved(deep, "PNG", transparency=10000), SQUASH)
    assert (got[:, :18] == 255).all()
    assert (got[:, 22:] == 0).all()


# --------------------------------------------------------------------------------- ICC profiles


def swapped_profile() -> bytes:
    """An RGB profile whose red is sRGB's green and whose green is sRGB's red."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert b"rXYZ" in profile
    profile = profile.replace(b"rXYZ", b"tmp.").replace(b"gXYZ", b"rXYZ").replace(b"tmp.", b"gXYZ")
    return profile.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_colours_go_through_the_profile(kind: str) -> None:
    lossless = {"quality": 97} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = saved(PHOTO, kind, icc_profile=swapped_profile(), **lossless)
    swapped = np.asarray(PHOTO)[..., [1, 0, 2]]
    assert_close(render.decode(data, SMALL), scaled(swapped, SMALL), 10, 2)
    grey = np.asarray(Image.fromarray(np.ascontiguousarray(swapped)).convert("L"))
    got = render.decode(data, Preprocessing(32, 32, 1))
    assert_close(got, scaled(grey, SMALL), 10, 2)


def test_profile_and_transparency_together() -> None:
    data = saved(faded(), "PNG", icc_profile=swapped_profile())
    rgba = np.asarray(faded())[..., [1, 0, 2, 3]]
    assert_close(render.decode(data, SMALL), scaled(on_white(rgba), SMALL), 5, 1.5)


def black_only_profile() -> bytes:
    """A CMYK profile that shows the black ink and ignores the others (ICC.1:2001, lut8Type)."""
    identity = b"".join(struct.pack(">i", 65536 * (i % 4 == 0)) for i in range(9))
    ramp = bytes(range(256))
    inks = b"".join(bytes([0 if black else 255, 128, 128]) for _ in range(8) for black in (0, 1))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + inks + ramp * 3
    white = struct.pack(">iii", 63190, 65536, 54061)
    header = bytes(4) + bytes(4) + bytes([2, 64, 0, 0]) + b"prtrCMYKLab " + bytes(12) + b"acsp"
    header = (header + bytes(28) + white).ljust(128, b"\0")
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(table))
    return struct.pack(">I", 144 + len(table)) + header[4:] + tags + table


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_goes_through_its_profile(kind: str) -> None:
    inks = np.zeros((40, 40, 4), np.uint8)
    inks[..., 0] = 200
    inks[:, 20:, 3] = 255
    image = Image.fromarray(inks, "CMYK")
    data = saved(image, kind, icc_profile=black_only_profile())
    got = render.decode(data, Preprocessing(40, 40, resize="squash")).astype(int)
    assert got[:, :16].min() >= 250
    assert got[:, 24:].max() <= 5
    assert render.decode(saved(image, kind), SQUASH)[:, :10, 0].max() < 80


@pytest.mark.parametrize(
    "profile",
    [b"", b"broken", swapped_profile()[:200], swapped_profile().replace(b"RGB ", b"CMYK")],
)
def test_an_unusable_profile_is_ignored(profile: bytes) -> None:
    data = saved(PHOTO, "PNG", icc_profile=profile)
    np.testing.assert_array_equal(
        render.decode(data, SMALL), render.decode(saved(PHOTO, "PNG"), SMALL)
    )
    for mode in ("L", "CMYK"):
        data = saved(PHOTO.convert(mode), "TIFF", icc_profile=swapped_profile())
        plain = saved(PHOTO.convert(mode), "TIFF")
        np.testing.assert_array_equal(render.decode(data, SMALL), render.decode(plain, SMALL))


def test_the_srgb_profile_costs_nothing_and_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert not colour.needs_colours(profile)
    assert colour.needs_colours(swapped_profile())
    got = render.decode(saved(PHOTO, "PNG", icc_profile=profile), SMALL)
    np.testing.assert_array_equal(got, render.decode(saved(PHOTO, "PNG"), SMALL))


# ---------------------------------------------------------------------------------- orientation


def drawing(
    size: tuple[int, int], place: tuple[int, int], scale: int, ink: int = 0, paper: int = 255
) -> Image.Image:
    """An L of two strokes, ``scale`` pixels wide and twice as high, on a page."""
    page = np.full((size[1], size[0]), paper, np.uint8)
    x, y = place
    page[y : y + 2 * scale, x : x + scale // 4] = ink
    page[y + 2 * scale - scale // 4 : y + 2 * scale, x : x + scale] = ink
    return Image.fromarray(page)


TRIM = Preprocessing(32, 32, channels=1, resize="trim")


def test_trimming_shows_what_is_drawn_wherever_and_however_large_it_is() -> None:
    usual = render.prepare(drawing((100, 100), (40, 20), 24), TRIM).astype(int)
    assert usual.min() == 0
    assert usual[:2].min() > 200  # a margin
    drawn = np.flatnonzero((usual[..., 0] < 128).any(axis=1))
    assert 26 <= np.ptp(drawn) + 1 <= 29  # 32 / 1.15
    for picture in (
        drawing((100, 100), (70, 50), 24),
        drawing((100, 100), (0, 0), 24),
        drawing((300, 200), (50, 60), 48),
    ):
        other = render.prepare(picture, TRIM).astype(int)
        assert np.abs(other - usual).mean() < 12
    dark = render.prepare(drawing((100, 100), (40, 20), 24, ink=255, paper=0), TRIM).astype(int)
    assert np.abs(dark - usual).mean() < 2


def test_trimming_leaves_a_small_mark_small_and_a_blank_page_whole() -> None:
    mark = render.prepare(drawing((100, 100), (50, 50), 4), TRIM)
    assert 0.1 < (mark < 128).any(axis=1).mean() < 0.4
    blank = render.prepare(Image.new("RGB", (40, 60), (250, 250, 240)), TRIM)
    assert blank.shape == (32, 32, 1)
    assert np.ptp(blank.astype(int)) <= 2


def test_trimming_reads_files_and_colours() -> None:
    page = drawing((640, 480), (200, 100), 120).convert("RGB")
    how = Preprocessing(32, 32, channels=3, resize="trim")
    for kind in ("PNG", "JPEG"):
        content = io.BytesIO()
        page.save(content, kind)
        decoded = render.decode(content.getvalue(), how).astype(int)
        assert np.abs(decoded - render.prepare(page, how)).mean() < 6


@pytest.mark.parametrize("resize", ["crop", "squash", "pad", "trim"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_orientation_gives_what_turning_first_gives(kind: str, resize: Any) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    how = Preprocessing(40, 24, resize=resize)
    lossless = {"lossless": True} if kind == "WEBP" else {}
    for orientation in range(1, 9):
        data = saved(PHOTO, kind, exif=exif(orientation), **lossless)
        stored = Image.open(io.BytesIO(data))
        turned = ImageOps.exif_transpose(stored).convert("RGB")
        expected = render.prepare(Image.fromarray(np.asarray(turned)), how)
        # A JPEG is decoded at reduced scale.
        assert_close(render.decode(data, how), expected, 8 if kind == "JPEG" else 2, 1.2)
        again = render.prepare(Image.open(io.BytesIO(data)), how)
        assert_close(again, expected, 2, 1)


BOX = Box(50, 20, 70, 90)  # of a picture of 160 x 120 pixels, and of one of 120 x 160


@pytest.mark.parametrize("resize", ["crop", "squash", "pad", "trim"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_region_is_cut_out_of_the_upright_picture(kind: str, resize: Any, tmp_path: Path) -> None:
    how = Preprocessing(40, 24, resize=resize)
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.{kind}"
        path.write_bytes(saved(PHOTO, kind, exif=exif(orientation)))
        turned = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        left, top, width, height = BOX
        part = turned.crop((left, top, left + width, top + height))
        expected = render.prepare(part, how)
        for image in (path, Image.open(path), render.upright(path)):
            # A JPEG is decoded at reduced scale.
            got = render.load(Region(image, BOX), how)
            assert_close(got, expected, 8 if kind == "JPEG" else 1, 1.2)
        assert_close(np.asarray(render.upright(path)), np.asarray(turned), 1)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    "box", [Box(0, 0, 300, 200), Box(1700, 900, 300, 500), Box(701, 333, 640, 480)]
)
def test_a_region_of_a_large_jpeg_is_sharp_and_in_place(
    box: Box, orientation: int, tmp_path: Path
) -> None:
    stored = photo(2000, 1400)
    upright = stored if orientation == 1 else stored.transpose(Image.Transpose.ROTATE_270)
    if orientation == 6:
        box = Box(box.top, box.left, box.height, box.width)
    lines = np.array(upright)
    # A grid of fine lines: blurred to nothing where too small a picture was decoded.
    part = lines[box.top : box.top + box.height, box.left : box.left + box.width]
    part[:, ::8] //= 2
    turned = lines if orientation == 1 else np.ascontiguousarray(np.rot90(lines))
    path = tmp_path / "large.jpg"
    path.write_bytes(saved(Image.fromarray(turned), "JPEG", quality=95, exif=exif(orientation)))
    assert ImageOps.exif_transpose(Image.open(path)).size == upright.size
    how = Preprocessing(224, 224)
    got = render.load(Region(path, box), how).astype(int)
    expected = render.prepare(Image.fromarray(part), how).astype(int)
    assert_close(got, expected, 40, 3)
    assert np.abs(np.diff(got, axis=1)).mean() > 0.8 * np.abs(np.diff(expected, axis=1)).mean()
    assert_close(
        render.load(Region(path, Box(0, 0, *upright.size)), how), render.load(path, how), 0
    )


def test_a_region_beyond_the_picture_is_an_error_with_its_upright_size(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    path.write_bytes(saved(PHOTO, "JPEG", exif=exif(6)))
    assert render.load(Region(path, Box(0, 0, 120, 160)), SMALL).shape == (32, 32, 3)
    for box in (Box(0, 0, 121, 160), Box(0, 100, 10, 61), Box(500, 500, 1, 1)):
        for image in (path, Image.open(path), render.upright(path)):
            with pytest.raises(ImageError, match="within the picture, which is 120 x 160"):
                render.load(Region(image, box), SMALL)


def test_an_upright_picture_is_as_a_viewer_shows_it() -> None:
    clear = PHOTO.convert("RGBA")
    clear.putalpha(Image.new("L", PHOTO.size, 0))
    assert np.asarray(render.upright(clear)).min() == 255
    grey = np.asarray(PHOTO.convert("L"))
    assert np.array_equal(np.asarray(render.upright(grey))[..., 0], grey)
    with pytest.raises(ImageError, match="PIL image or an array"):
        render.upright(7)
    with pytest.raises(ImageError, match="no such file"):
        render.upright("/nowhere/at all.png")


def test_orientation_as_imagemagick_writes_it_and_behind_the_pixels() -> None:
    blob = b"Exif\0\0" + exif(6).tobytes()[6:]
    plain = saved(PHOTO, "PNG")
    upright = render.prepare(PHOTO.transpose(Image.Transpose.ROTATE_270), SMALL)
    raw = b"Raw profile type exif\0\0" + zlib.compress(
        f"\nexif\n{len(blob):8d}\n{blob.hex()}\n".encode()
    )
    for name, body, at in ((b"zTXt", raw, 33), (b"eXIf", blob[6:], len(plain) - 12)):
        data = plain[:at] + chunk(name, body) + plain[at:]
        assert_close(render.decode(data, SMALL), upright, 2)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"Exif\0\0",
        b"II*\0",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0",
    ],
)
def test_broken_exif_is_as_good_as_none(blob: bytes) -> None:
    assert directory.exif_orientation(blob) == 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for kind in ("JPEG", "PNG", "WEBP"):
            image = PHOTO.copy()
            render.decode(saved(image, kind, **({"exif": blob} if blob else {})), SMALL)
    assert not caught


# ------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("how", [
    Preprocessing(32, 32, crop_fraction=1.0), Preprocessing(48, 20), Preprocessing(20, 48),
    SQUASH, Preprocessing(64, 64, 1), Preprocessing(300, 200, crop_fraction=0.5),
])  # fmt: skip
def test_crop_and_squash_are_the_slow_obvious_ones(how: Preprocessing) -> None:
    pixels = GREY if how.channels == 1 else np.asarray(PHOTO)
    assert_close(render.prepare(pixels, how), scaled(pixels, how), 1.1)


def test_pad_keeps_the_whole_picture_on_white() -> None:
    black = np.zeros((10, 40, 3), np.uint8)
    got = render.prepare(black, Preprocessing(20, 20, resize="pad"))
    assert (got[8:12] < 10).all()
    assert (got[:7] == 255).all()
    assert (got[13:] == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3), (70, 8000)])
@pytest.mark.parametrize("resize", ["crop", "squash", "pad", "trim"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "box"])
def test_tiny_and_extreme_pictures(size: tuple[int, int], resize: Any, interpolation: Any) -> None:
    how = Preprocessing(33, 21, resize=resize, interpolation=interpolation)
    image = Image.new("RGB", size, (200, 100, 50))
    for got in (
        render.decode(saved(image, "PNG"), how),
        render.decode(saved(image, "JPEG", quality=95, exif=exif(6)), how),
        render.prepare(image.convert("RGBA"), how),
    ):
        assert got.shape == (21, 33, 3)
        middle = got[10, 16].astype(int)
        assert np.abs(middle - (200, 100, 50)).max() <= 3 or resize == "pad"


def test_one_channel_is_luminance() -> None:
    how = Preprocessing(32, 32, 1)
    expected = scaled(GREY, how)
    assert_close(render.decode(saved(PHOTO, "PNG"), how), expected, 1.6)
    assert_close(render.decode(saved(PHOTO, "JPEG", quality=97), how), expected, 3)


def test_a_large_jpeg_at_reduced_scale_is_close_to_a_full_decode() -> None:
    noise = np.random.default_rng(1).normal(0, 3, (1100, 1500, 1))
    rough = np.clip(np.asarray(photo(1500, 1100)) + noise, 0, 255).astype(np.uint8)
    data = saved(Image.fromarray(rough), "JPEG", quality=92)
    full = Image.open(io.BytesIO(data))
    full.load()
    for side in (64, 96, 128, 224, 400):
        how = Preprocessing(side, side)
        plain = np.asarray(Image.fromarray(np.asarray(full)))
        assert_close(render.decode(data, how), render.prepare(plain, how), 6, 0.6)


def test_the_reserve_of_a_reduced_decode_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, ...]] = []
    resize = Image.Image.resize

    def spy(self: Image.Image, size: Any, resample: Any, box: Any, gap: Any) -> Image.Image:
        seen.append(((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]))
        return resize(self, size, resample, box, gap)

    monkeypatch.setattr(Image.Image, "resize", spy)
    for height in range(100, 1200, 90):
        picture = saved(Image.new("RGB", (height * 3 // 2, height)), "JPEG")
        render.decode(picture, Preprocessing(40, 40))
        available = height * 0.875 / 40
        assert min(seen[-1]) >= min(render.DRAFT_RESERVE, available) - 1e-9
        assert min(seen[-1]) < max(2 * render.DRAFT_RESERVE, available / 8) + 1e-9


def test_arrays_are_uint8_pictures() -> None:
    wrongs: list[Any] = [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), "u1"), np.zeros(4, "u1")]
    for wrong in wrongs:
        with pytest.raises(ImageError, match="uint8"):
            render.prepare(wrong, SMALL)
    with pytest.raises(ImageError, match="no pixels"):
        render.prepare(np.zeros((0, 4, 3), np.uint8), SMALL)
    strided = np.asarray(PHOTO)[::-1, ::2]
    assert_close(render.prepare(strided, SMALL), scaled(strided, SMALL), 1.1)


def test_a_picture_given_in_memory_is_left_as_it_was() -> None:
    image = faded()
    before = image.tobytes(), image.mode, image.size
    render.prepare(image, SMALL)
    assert (image.tobytes(), image.mode, image.size) == before


# --------------------------------------------------------------------------- bombs and rejects


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body + chunk(b"IEND", b"")


def claims(width: int, height: int) -> dict[str, bytes]:
    """Small files whose headers claim a picture of this size."""
    gif = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0, 0, 0)
    gif += b"," + struct.pack("<HHHHB", 0, 0, min(width, 65535), min(height, 65535), 0)
    bmp = b"BM" + struct.pack("<IIIIiiHHIIIIII", 99, 0, 54, 40, width, height, 1, 24, *[0] * 6)
    jpeg = bytearray(saved(photo(16, 16), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", min(height, 65535), min(width, 65535))
    tiff = bytearray(saved(photo(16, 16), "TIFF"))
    for tag, value in ((256, width), (257, height)):
        entry = max(tiff.find(struct.pack("<HH", tag, kind)) for kind in (3, 4))
        tiff[entry : entry + 12] = struct.pack("<HHII", tag, 4, 1, value)
    canvas = (
        struct.pack("<I", min(width, 16384) - 1)[:3] + struct.pack("<I", min(height, 16384) - 1)[:3]
    )
    webp = bytearray(saved(faded(), "WEBP", exif=exif(1)))
    webp[24:30] = canvas
    return {
        "PNG": png(width, height),
        "GIF": gif + b"\x08\x01\0\0;",
        "BMP": bmp,
        "PPM": b"P6 %d %d 255\n" % (width, height),
        "JPEG": bytes(jpeg),
        "TIFF": bytes(tiff),
        "WebP": bytes(webp),
    }


@pytest.mark.parametrize("size", [(50_000, 50_000), (9_000, 11_000)])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "PPM", "JPEG", "TIFF", "WebP"])
def test_a_bomb_is_refused_before_it_is_decoded_and_without_a_warning(
    kind: str, size: tuple[int, int]
) -> None:
    data = claims(*size)[kind]
    started = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ImageError) as error:
            render.decode(data, SMALL)
    assert not caught
    assert time.process_time() - started < 1
    # A JPEG may have more pixels, since it is decoded at reduced scale, but they must be there.
    missing = kind == "JPEG" and size == (9_000, 11_000)
    assert ("a part is missing" if missing else "too many pixels") in str(error.value)


def test_the_cap_is_pillow_s_read_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    data = WHOLE["png"]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 160 * 120 - 1)
    with pytest.raises(ImageError, match="160 x 120 is more than 19,199"):
        render.decode(data, SMALL)
    with pytest.raises(ImageError, match="160 x 120"):
        render.prepare(PHOTO, SMALL)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 160 * 120)
    render.decode(data, SMALL)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    render.decode(data, SMALL)


def test_texts_and_profiles_of_any_length_do_no_harm() -> None:
    whole = WHOLE["png"]
    plain = render.decode(whole, SMALL)
    packed = zlib.compress(bytes(5_000_000))
    for extra in (
        chunk(b"zTXt", b"k\0\0" + packed),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + packed),
        chunk(b"iCCP", b"k\0\0" + packed),
        chunk(b"tEXt", b"k\0" + bytes(3_000_000)),
        chunk(b"tEXt", b"k\0text")[:-1] + b"?",  # a wrong checksum
    ):
        got = render.decode(whole[:33] + extra + whole[33:], SMALL)
        np.testing.assert_array_equal(got, plain)


def test_directory_bombs_are_refused() -> None:
    with pytest.raises(ImageError):
        render.decode(b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + b"\xff" * 8 + bytes(2000), SMALL)


def test_runs_that_cannot_fill_a_bmp_are_not_tried() -> None:
    fields = (54 + 1024, 40, 9_000, 9_000, 1, 8, 1, *[0] * 5)
    head = b"BM" + bytes(8) + struct.pack("<IIiiHHIIIIII", *fields)
    started = time.process_time()
    with pytest.raises(ImageError, match="cut short"):
        render.decode(head + bytes(range(256)) * 4 + b"\1\1\0\0" * 50, SMALL)
    assert time.process_time() - started < 1


def test_broken_animation_chunks_do_not_matter() -> None:
    still = WHOLE["png"]
    control = chunk(b"acTL", bytes(8)) * 2 + chunk(b"fcTL", bytes(3)) + chunk(b"fdAT", b"")
    got = render.decode(still[:33] + control + still[33:], SMALL)
    np.testing.assert_array_equal(got, render.decode(still, SMALL))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"just some words\n", "looks like text"),
        (b"BMW and Ferrari", "looks like text"),
        (b"P5 is alive", "PPM"),
        (b"%PDF-1.7\n", "looks like PDF"),
        (b"PK\x03\x04rest", "looks like a ZIP archive"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "looks like SVG"),
        (b"\xef\xbb\xbf <SVG>", "looks like SVG"),
        (b"<!DOCTYPE html><p>404", "looks like a web page"),
        (b"\0\0\0\x20ftypisom\0\0\0\0", "looks like video"),
        (b"8BPS\0\x01", "looks like Photoshop"),
        (bytes(64), "looks like zeros only"),
        (b"\x81\x82\x83\x84", "not an image in a supported format"),
        (b"", "not an image in a supported format"),
    ],
)
def test_what_is_no_image_says_what_it_looks_like(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        render.decode(data, SMALL)


def test_heic_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"pip install 'siamese-search\[heic\]'"):
        render.decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", SMALL)


def test_heic_decodes_with_the_extra() -> None:
    heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
    buffer = io.BytesIO()
    heif.from_pillow(PHOTO).save(buffer, quality=95)
    assert_close(render.decode(buffer.getvalue(), SMALL), render.prepare(PHOTO, SMALL), 12, 4)


PROFILED = {"icc_profile": swapped_profile(), "exif": exif(6)}
MORE: dict[str, bytes] = {
    "jpeg-metadata": saved(PHOTO, "JPEG", **PROFILED),
    "jpeg-cmyk": saved(PHOTO.convert("CMYK"), "JPEG", icc_profile=black_only_profile()),
    "png-metadata": saved(faded(), "PNG", **PROFILED),
    "png-palette": saved(PHOTO.quantize(16), "PNG", transparency=bytes([0, 128, 255])),
    "png-deep": saved(Image.fromarray(GREY16), "PNG", transparency=3),
    "webp-metadata": saved(faded(), "WEBP", **PROFILED),
    "tiff-metadata": saved(PHOTO, "TIFF", **PROFILED),
    "tiff-float": saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
    "tiff-fax": saved(PHOTO.convert("1"), "TIFF", compression="group4"),
    "bmp-palette": saved(PHOTO.quantize(16), "BMP"),
    "ppm-deep": saved(Image.fromarray(GREY16), "PPM"),
    "ppm-plain": b"P3 2 2 255 1 2 3 4 5 6 7 8 9 10 11 12\n",
}
if features.check("avif"):
    MORE["avif-metadata"] = saved(faded(), "AVIF", **PROFILED)


@pytest.mark.parametrize("name", [*WHOLE, *MORE])
def test_mutated_files_decode_or_are_refused(name: str) -> None:
    whole = (WHOLE | MORE)[name]
    assert decoded_or_refused(whole) is not None
    chance = random.Random(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(80):
            data = bytearray(whole)
            reach = chance.choice([40, 400, len(data)])
            for _ in range(chance.choice([1, 2, 8])):
                at = chance.randrange(min(reach, len(data)))
                data[at] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
            if chance.random() < 0.2:
                at = chance.randrange(len(data))
                del data[at : at + chance.randrange(50)]
            decoded_or_refused(bytes(data))
    assert not [str(warning.message) for warning in caught]


def test_random_bytes_behind_every_signature_are_refused() -> None:
    chance = random.Random(5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for whole in WHOLE.values():
            for keep in (4, 12, 30, 60):
                decoded_or_refused(whole[:keep] + chance.randbytes(600))
    assert not [str(warning.message) for warning in caught]


# -------------------------------------------------------------------------------------- threads


def test_threads_decode_the_same_pixels() -> None:
    work = [*WHOLE.values()] * 3
    alone = [render.decode(data, SMALL) for data in work]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda data: render.decode(data, SMALL), work))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = 0, 0
    counting = threading.Lock()
    resizable = colour.resizable

    def watched(image: Image.Image) -> Image.Image:
        nonlocal inside, most
        with counting:
            inside += 1
            most = max(most, inside)
        time.sleep(0.01)
        with counting:
            inside -= 1
        return resizable(image)

    monkeypatch.setattr(render, "LARGE_PIXELS", 100)
    monkeypatch.setattr(colour, "resizable", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: render.decode(WHOLE["png"], SMALL), range(8)))
    assert most == 1
