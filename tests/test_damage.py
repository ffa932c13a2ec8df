"""Bad pictures: whole or refused, as other readers show them, bounded in memory, time and noise."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from bad_pictures import HARM, harmed, photo, photos, saved, tiff
from PIL import Image

from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import ImageError, UsageError
from siamese_search.gallery.gallery import Gallery
from siamese_search.pictures import jpeg, render
from siamese_search.pictures.preprocessing import Preprocessing

HOW = Preprocessing(40, 30, resize="squash")
PHOTO = photo()
FILES = photos()


def decoded(data: bytes) -> npt.NDArray[Any]:
    return render.decode(data, HOW).astype(int)


def words(data: bytes) -> str | None:
    """What is said of a file that is refused, None of one that is read."""
    try:
        assert render.decode(data, HOW).shape == (30, 40, 3)
    except ImageError as error:
        return str(error)
    return None


def refusal(data: bytes) -> str:
    with pytest.raises(ImageError) as error:
        render.decode(data, HOW)
    return str(error.value)


# ------------------------------------------------------------------------------- half-read JPEGs


def coded(data: bytes | bytearray) -> int:
    """Where a JPEG's coded data begin."""
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


@pytest.mark.parametrize("kind", [kind for kind in FILES["JPEG"] if kind != "several"])
def test_a_jpeg_of_which_a_part_is_missing_is_refused(kind: str) -> None:
    data = saved(photo(400, 300), "JPEG") if kind == "plain" else FILES["JPEG"][kind]
    begin = coded(data)
    for share in (0.05, 0.33, 0.5, 0.8, 0.95):
        at = begin + int((len(data) - begin) * share)
        while data[at - 1] == 0xFF:
            at -= 1
        lost = data[:at] + bytes(len(data) - 2 - at) + data[-2:]
        assert "missing" in refusal(lost) or "cut short" in refusal(lost)
        ended = data[:at] + b"\xff\xd9"
        assert "missing" in refusal(ended) or "cut short" in refusal(ended)
        assert refusal(data[:at])
    half = (begin + len(data)) // 2
    assert refusal(data[:half] + bytes(600) + data[half + 600 :])
    assert refusal(data[:half] + data[half - 300 : half] + data[half:])


def test_a_whole_jpeg_is_read_without_its_end_marker_and_with_what_cameras_leave() -> None:
    for kind, data in FILES["JPEG"].items():
        if kind == "several":
            continue
        whole = decoded(data)
        spare = data[:-2] + b"\x5a" * 7 + data[-2:]
        padded = data[:-2] + bytes(5000) + data[-2:]
        for other in (data[:-1], data[:-2], spare, padded, data[:-2] + b"\xff\xff\xff\xd9"):
            np.testing.assert_array_equal(decoded(other), whole, kind)


def test_a_flat_jpeg_whose_data_are_zeros_is_whole() -> None:
    flat = Image.new("L", (4000, 3000), 128)
    data = saved(flat, "JPEG", optimize=True)
    assert data[coded(data) :].count(0) > 1000
    assert np.ptp(decoded(data)) == 0
    assert refusal(data[: coded(data) + 500] + b"\xff\xd9")
    assert refusal(data[:-2] + b"\x12\x34" * 100 + data[-2:])  # more than is needed


def test_a_progressive_jpeg_that_lacks_its_last_scans_is_refused() -> None:
    data = FILES["JPEG"]["progressive"]
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for before, at in pairwise(scans):
        tables = data.rfind(b"\xff\xc4", before, at)
        end = at if tables < 0 else tables
        assert refusal(data[:end] + b"\xff\xd9") == "the file is cut short"


def test_a_jpeg_of_many_scans_is_refused_at_once() -> None:
    data = FILES["JPEG"]["progressive"]
    scan = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)  # which may be repeated
    end = data.index(b"\xff\xc4", scan)
    begun = time.process_time()
    assert "scans" in refusal(data[:end] + data[scan:end] * 1000 + data[end:])
    assert time.process_time() - begun < 1
    # Some more than usual are read, where the picture is small.
    some = data[:end] + data[scan:end] * 20 + data[end:]
    np.testing.assert_array_equal(decoded(some), decoded(data))


def test_a_long_text_of_numbers_is_refused_at_once() -> None:
    begun = time.process_time()
    assert "save it as binary" in refusal(b"P2 4900 4900 255\n" + b"200 " * 4900**2)
    assert time.process_time() - begun < 1


def test_a_jpeg_whose_restarts_are_out_of_order_is_refused() -> None:
    data = bytearray(FILES["JPEG"]["restarts"])
    data[data.index(b"\xff\xd1", coded(data)) + 1] = 0xD2
    assert "missing" in refusal(bytes(data))


@pytest.mark.parametrize("form", ["WebP", "AVIF"])
def test_lossy_data_that_end_in_zeros_are_refused(form: str) -> None:
    if form not in FILES:
        pytest.skip("this Pillow has no AVIF")
    data = saved(photo(400, 300), form, quality=90)
    third = len(data) // 3
    assert "zeros" in refusal(data[:third] + bytes(len(data) - third))


# ----------------------------------------------------------------------------------- TIFF's kinds


def as_shown(data: bytes) -> npt.NDArray[Any]:
    """A TIFF of deep samples by tifffile, in 8 bits: by their range, where they have one."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        samples = page.asarray()
        if page.planarconfig == 2 and samples.ndim == 3:
            samples = np.moveaxis(samples, 0, 2)
        white = int(page.photometric) == 0
    kind, top = samples.dtype.kind, 1.0
    if kind == "u" and samples.itemsize <= 2:
        top = 2.0 ** (8 * samples.itemsize) - 1
    elif kind in "ui":
        top = 65535.0
    values = samples / top * 255
    if values.ndim == 3 and values.shape[2] in (2, 4):
        alpha = values[..., -1:] / 255
        values = values[..., :-1] * alpha + 255 * (1 - alpha)
        values = values[..., 0] if values.shape[2] == 1 else values
    pixels = (255 - values if white else values).round().astype(np.uint8)
    return render.prepare(pixels, HOW).astype(int)


RGB = np.asarray(PHOTO)
GREY = RGB[..., 0]
ALPHA = np.broadcast_to(np.linspace(0, 65535, 160).astype(np.uint16), GREY.shape)
DEEP = RGB.astype(np.uint16) * 257
KINDS: dict[str, tuple[npt.NDArray[Any], dict[str, Any]]] = {
    "rgb16-planes": (np.moveaxis(DEEP, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}),
    "rgba16-planes": (
        np.moveaxis(np.dstack([DEEP, ALPHA]), 2, 0),
        {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["unassalpha"]},
    ),
    "rgb8-planes": (np.moveaxis(RGB, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}),
    "grey16-white-is-zero": (DEEP[..., 0], {"photometric": "miniswhite"}),
    "grey8-white-is-zero": (GREY, {"photometric": "miniswhite"}),
    "grey16": (DEEP[..., 0], {"photometric": "minisblack"}),
    "grey16-alpha": (
        np.dstack([DEEP[..., 0], ALPHA]),
        {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]},
    ),
    "rgb16": (DEEP, {"photometric": "rgb"}),
    "grey-u32": (DEEP[..., 0].astype(np.uint32), {"photometric": "minisblack"}),
    "grey-i32": (DEEP[..., 0].astype(np.int32), {"photometric": "minisblack"}),
    "grey-u64": (DEEP[..., 0].astype(np.uint64), {"photometric": "minisblack"}),
    "rgb-float": ((RGB / 255).astype(np.float32), {"photometric": "rgb"}),
    "grey-half": ((GREY / 255).astype(np.float16), {"photometric": "minisblack"}),
    "grey-double": (GREY / 255, {"photometric": "minisblack"}),
}


@pytest.mark.parametrize("layout", ["plain", "strips", "tiles"])
@pytest.mark.parametrize("name", KINDS)
def test_a_tiff_is_shown_as_an_independent_reader_shows_it(name: str, layout: str) -> None:
    samples, options = KINDS[name]
    layouts: dict[str, dict[str, Any]] = {
        "plain": {},
        "strips": {"rowsperstrip": 7, "compression": "zlib"},
        "tiles": {"tile": (32, 48), "compression": "zlib"},
    }
    differs = samples.dtype.itemsize <= 4 and samples.dtype.kind != "f"
    for order in "<>":
        for big in (False, True):
            for predictor in {False, differs and layout != "plain"}:
                how = layouts[layout] | ({"predictor": True} if predictor else {})
                data = tiff(samples, byteorder=order, bigtiff=big, **options, **how)
                assert np.abs(decoded(data) - as_shown(data)).max() <= 2, (order, big, predictor)


def test_floats_with_a_predictor_are_read() -> None:
    values = (GREY / 255).astype(">f4")
    rows = values.view(np.uint8).reshape(120, 160, 4).swapaxes(1, 2).reshape(120, 640)
    coded = np.diff(rows, axis=1, prepend=np.zeros((120, 1), np.uint8))
    data = bytearray(tiff(coded, photometric="minisblack", compression="zlib", predictor=False))
    expected = decoded(tiff(values.astype("<f4"), photometric="minisblack"))
    header = tiff(values.astype("<f4"), photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        page = file.pages.first
        part = bytes(data)[page.dataoffsets[0] :][: page.databytecounts[0]]
    with_predictor = retagged(header, part, {317: 3})
    assert np.abs(decoded(with_predictor) - expected).max() <= 1


def retagged(data: bytes, part: bytes, numbers: dict[int, int]) -> bytes:
    """A little-endian TIFF of one strip, which gets other contents, and some tags of one number."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = {
        struct.unpack_from("<H", data, at)[0]: data[at : at + 12]
        for at in range(start + 2, start + 2 + 12 * count, 12)
    }
    for tag, number in (numbers | {273: len(data), 279: len(part)}).items():
        entries[tag] = struct.pack("<HHII", tag, 4, 1, number)
    place = len(data) + len(part)
    listed = b"".join(entries[tag] for tag in sorted(entries))
    directory = struct.pack("<H", len(entries)) + listed + bytes(4)
    return data[:4] + struct.pack("<I", place) + data[8:] + part + directory


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_samples_of_odd_bits_are_scaled_by_their_range(bits: int) -> None:
    values = (GREY.astype(np.uint32) * (2**bits - 1) + 127) // 255
    shifts = np.arange(bits - 1, -1, -1)
    each = (values[..., None] >> shifts & 1).astype(np.uint8)
    packed = np.packbits(each.reshape(120, -1), axis=1)
    data = tiff(values.astype(np.uint16), photometric="minisblack")
    got = decoded(retagged(data, packed.tobytes(), {258: bits, 278: 120}))
    assert np.abs(got - render.prepare(GREY, HOW)).max() <= 1


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ({258: 24}, "24 bits a sample"),
        ({258: 16, 262: 32803}, "colour model 32803"),
        ({259: 34712}, "compression 34712"),
        ({258: 16, 266: 2}, "16 bits a sample"),
        ({262: 4}, "unknown pixel mode"),
        ({277: 127}, "127 samples a pixel"),
    ],
)
def test_a_kind_of_tiff_that_is_not_read_is_called_so(numbers: dict[int, int], why: str) -> None:
    data = tiff(GREY, photometric="minisblack")
    said = refusal(retagged(data, bytes(120 * 160 * 4), numbers))
    assert said.startswith("this kind of TIFF is not supported: ")
    assert why in said


def test_a_tiff_that_lacks_strips_or_their_ends_is_refused() -> None:
    for samples in (GREY, DEEP[..., 0], DEEP.astype(np.float32)):
        data = tiff(samples, rowsperstrip=30, photometric="rgb" if samples.ndim == 3 else None)
        for cut in (1, 100, 5000):
            assert refusal(data[:-cut]) == "the file is cut short"
    one = retagged(tiff(GREY, photometric="minisblack"), GREY.tobytes(), {278: 30})
    assert refusal(one) == "the file is cut short"


# ------------------------------------------------------------------------------ how large, how long


def test_the_cap_on_pixels_comes_before_decoding_in_every_format(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(jpeg.Jpeg, "load", None)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    for form, kinds in FILES.items():
        for kind, data in kinds.items():
            assert "too many pixels: 160 x 120" in refusal(data), (form, kind)


def test_the_environment_sets_another_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back in the end
    data = FILES["PNG"]["plain"]
    monkeypatch.setenv("SIASEARCH_MAX_PIXELS", "19199")
    assert "set SIASEARCH_MAX_PIXELS" in refusal(data)
    monkeypatch.setenv("SIASEARCH_MAX_PIXELS", "19200")
    render.decode(data, HOW)
    for wrong in ("many", "0", "-5", "1e6"):
        monkeypatch.setenv("SIASEARCH_MAX_PIXELS", wrong)
        with pytest.raises(UsageError, match="SIASEARCH_MAX_PIXELS is"):
            render.decode(data, HOW)


SCRIPT = """
import sys
from siamese_search.errors import ImageError
from siamese_search.pictures import render
from siamese_search.pictures.preprocessing import Preprocessing
for path in sys.argv[1:]:
    try:
        render.decode(open(path, "rb").read(), Preprocessing(224, 224))
        print("read")
    except ImageError as error:
        print(error)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def in_a_process(*paths: Path) -> tuple[dict[str, str], float]:
    """What decoding files one after the other says of each, and its peak of memory in MB."""
    command = [sys.executable, "-c", SCRIPT, *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    *said, peak = result.stdout.splitlines()
    return dict(zip((path.name for path in paths), said, strict=True)), int(peak) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are told otherwise elsewhere")
def test_large_phones_are_read_at_reduced_scale_and_bombs_not_at_all(tmp_path: Path) -> None:
    def put(name: str, data: bytes) -> None:
        (tmp_path / name).write_bytes(data)

    large = Image.new("L", (12_000, 9_000), 90)
    put("phone.jpg", saved(large, "JPEG"))
    said, peak = in_a_process(tmp_path / "phone.jpg")
    assert said == {"phone.jpg": "read"}
    assert peak < 250
    put("progressive.jpg", saved(large, "JPEG", progressive=True))  # which is held in full
    lossless = bytearray(FILES["WebP"]["lossless"])
    at = lossless.index(b"VP8L") + 9
    (packed,) = struct.unpack_from("<I", lossless, at)
    struct.pack_into("<I", lossless, at, packed & ~0xFFFFFFF | 16382 | 16381 << 14)
    put("bomb.webp", bytes(lossless))
    tiles = tiff(GREY, photometric="minisblack", tile=(128, 160), compression="zlib")
    entry = next(at for at in range(len(tiles)) if tiles[at : at + 2] == b"\x42\x01")
    put("tiles.tif", tiles[:entry] + struct.pack("<HHII", 322, 4, 1, 1 << 20) + tiles[entry + 12 :])
    clear = Image.new("RGBA", (9_400, 9_400), (1, 2, 3, 4))
    put("largest.png", saved(clear, "PNG", compress_level=1))
    said, peak = in_a_process(*sorted(tmp_path.iterdir()))
    assert said.pop("phone.jpg") == said.pop("largest.png") == "read"
    assert sorted(said) == ["bomb.webp", "progressive.jpg", "tiles.tif"]
    assert all("too many pixels" in why for why in said.values())
    assert peak < 700


# -------------------------------------------------------------------------------- noise and names


def test_only_our_own_words_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for form in ("TIFF", "JPEG", "PNG", "WebP"):
            for kind, data in FILES[form].items():
                for number, harm in enumerate(HARM):
                    for seed in range(3):
                        said = words(harmed(data, harm, 31 * number + seed, data))
                        assert "\n" not in (said or ""), (kind, harm)
    assert not caught
    assert capfd.readouterr() == ("", "")


def test_names_cannot_steer_a_terminal_or_forge_lines(tmp_path: Path) -> None:
    folder = tmp_path / "pictures" / "someone"
    folder.mkdir(parents=True)
    names = {
        "esc": "a\x1b[31mred.png",
        "newline": "b\nrejected: forged.png",
        "bidi": "c\u202egnp.exe",
        "control": "d\x9b2J.png",
    }
    for name in names.values():
        (folder / name).write_bytes(b"no picture")
    (folder / "fine\x1b[2J.png").write_bytes(FILES["PNG"]["plain"])
    (folder / "漢字.png").write_bytes(FILES["PNG"]["grey"])

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "siamese_search", *arguments],
            cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=120,
        )  # fmt: skip

    added = run("add", "pictures")
    lines = added.stderr.splitlines()
    assert sum(line.startswith("rejected: ") for line in lines) == len(names)
    shown = added.stderr + run("query", "pictures/someone").stdout + run("list", "someone").stdout
    assert not [c for c in shown if c in "\x1b\x9b\u202e"]
    for escaped in (r"\x1b[31mred.png", r"b\nrejected: forged.png", r"\u202e", r"\x9b2J"):
        assert escaped in added.stderr
    assert r"fine\x1b[2J.png" in shown
    assert "漢字.png" in shown
    # JSON gives names as they are.
    report = json.loads(run("add", "pictures", "--json").stdout)
    rejected = {Path(one["path"]).name for one in report["rejected"]}
    assert rejected == {name.rpartition("/")[2] for name in names.values()}


# -------------------------------------------------------------------------------------- by seeds


@pytest.mark.parametrize("form", FILES)
def test_bad_pictures_are_read_or_refused_in_words(form: str) -> None:
    others = [data for kinds in FILES.values() for data in kinds.values()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for kind, data in FILES[form].items():
            for number, harm in enumerate(HARM):
                for seed in range(4):
                    bad = harmed(data, harm, 100 * number + seed, others[seed % len(others)])
                    begun = time.process_time()
                    assert words(bad) != "", (kind, harm, seed)
                    assert time.process_time() - begun < 5, (kind, harm, seed)
    assert not [str(warning.message) for warning in caught]


def test_every_bad_picture_is_accounted_for_once(tmp_path: Path, toy: Encoder) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    number = 0
    for form, kinds in FILES.items():
        for data in kinds.values():
            for harm in HARM[number % 3 :: 3]:
                number += 1
                (folder / f"{number}.{form}").write_bytes(harmed(data, harm, number, data))
    files = {str(path) for path in folder.iterdir()}
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        report = gallery.enroll([folder], "bad")
        rejected = [one.path for one in report.rejected]
        enrolled = [item.source for item in gallery.items("bad")]
    assert report.added + report.skipped + len(rejected) == len(files)
    assert len(enrolled) == report.added > 10
    assert len(rejected) > 100
    assert len({*rejected, *enrolled}) == len(rejected) + len(enrolled)
    assert {*rejected, *enrolled} <= files
