"""Videos and cameras: the right frames at the right times in the right colours."""

from __future__ import annotations

import csv
import http.server
import json
import math
import os
import re
import shutil
import signal
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from fractions import Fraction
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import typer
from PIL import Image
from shell import Shell

from siamese_search import Gallery, Region
from siamese_search.cli.filming import duration
from siamese_search.errors import ImageError, RuntimeUnavailable, UsageError
from siamese_search.pictures import video
from siamese_search.pictures.apart import Limits
from siamese_search.pictures.read import open_file
from siamese_search.pictures.sources import read_answers
from siamese_search.pictures.video import Frame, frames, live, public

av: Any = pytest.importorskip("av", reason="PyAV is not installed: pip install '.[video]'")

Pixels = npt.NDArray[np.uint8]
Pictures = Callable[..., Path]
RED, GREEN, BLUE, YELLOW = (200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 60)
LIMITED, FULL = 1, 2
BT709, BT601, BT2020 = 1, 6, 9
LUMA = {BT709: (0.2126, 0.0722), BT601: (0.299, 0.114), BT2020: (0.2627, 0.0593)}
PQ, HLG, SRGB = 16, 18, 13
P3 = 12


def quarters(width: int = 64, height: int = 48) -> Pixels:
    """Four colours."""
    pixels = np.empty((height, width, 3), np.uint8)
    top, left = slice(height // 2), slice(width // 2)
    bottom, right = slice(height // 2, None), slice(width // 2, None)
    pixels[top, left], pixels[top, right] = RED, GREEN
    pixels[bottom, left], pixels[bottom, right] = BLUE, YELLOW
    return pixels


def corners(pixels: Pixels) -> list[list[int]]:
    """The colours in the middles of its quarters, row by row."""
    height, width = len(pixels), len(pixels[0])
    rows, columns = (height // 4, 3 * height // 4), (width // 4, 3 * width // 4)
    return [pixels[row, column].tolist() for row in rows for column in columns]


def film(
    path: Path,
    pictures: Sequence[Pixels],
    codec: str = "libx264",
    form: str = "yuv420p",
    rate: int = 10,
    at: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    **options: Any,
) -> Path:
    """A video of pictures; each ``at`` a time in frames, where they are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = form
        stream.codec_context.time_base = Fraction(1, rate)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(
                picture, "rgba" if picture.shape[2] == 4 else "rgb24"
            )
            frame.pts = number if at is None else at[number]
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def grey(number: int) -> Pixels:
    """A picture that says its number."""
    return np.full((48, 64, 3), 2 * number, np.uint8)


def numbers_of(found: Sequence[Frame]) -> list[int]:
    return [round(float(one.pixels().mean()) / 2) for one in found]


class Here:
    """In place of another process, which takes half a second to start: this one, unbounded."""

    def __init__(self, *_: object) -> None:
        from siamese_search.pictures import video_worker

        self._files: list[FileIO] = []
        self._projector = video_worker.Projector()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(video_worker, "open_file", self._open)

    def _open(self, path: str) -> FileIO:
        self._files.append(open_file(path))
        return self._files[-1]

    def wait_until_ready(self) -> None:
        """It is."""

    def exchange(self, request: dict[str, Any], data: bytes, *_: object) -> tuple[Any, bytes]:
        try:
            return self._projector.answer(request | {"seconds": 0}, data)
        except ImageError as error:
            return {"refused": str(error)}, b""

    def end(self) -> None:
        self._patch.undo()
        for file in self._files:
            file.close()


@pytest.fixture(autouse=True)
def _here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "apart" not in request.fixturenames:
        monkeypatch.setattr(video, "Worker", Here)


@pytest.fixture
def apart() -> None:
    """Videos are read in another process, as they are for people."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds, a frame each tenth, with a key frame each second."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return film(path, [grey(number) for number in range(100)], g="10", crf="4")


# Which frames


def test_frames_come_at_each_step(clip: Path) -> None:
    found = list(frames(clip, 2.5))
    assert [one.time for one in found] == [0.0, 2.5, 5.0, 7.5]
    assert numbers_of(found) == [0, 25, 50, 75]
    assert {one.name for one in found} == {str(clip)}


def test_a_step_below_a_frame_gives_each_once(clip: Path) -> None:
    assert [one.time for one in frames(clip, 0.01)] == [number / 10 for number in range(100)]


def test_frames_of_uneven_length_are_given_once_each(tmp_path: Path) -> None:
    path = film(tmp_path / "slides.mkv", [grey(n) for n in range(5)], at=[0, 3, 4, 50, 51])
    assert [one.time for one in frames(path, 1.0)] == [0.0, 5.0]
    assert [one.time for one in frames(path, 0.3)] == [0.0, 0.3, 5.0, 5.1]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": "10"}),
        ("b.mov", "libx264", {"g": "25", "bf": "4", "flags": "-cgop"}),  # groups are open
        ("c.avi", "mpeg4", {"g": "10", "qscale": "2"}),
        ("d.mkv", "libx264", {"g": "10"}),
        ("e.ts", "libx264", {"g": "10"}),
    ],
)
def test_what_is_jumped_over_changes_nothing(
    tmp_path: Path, name: str, codec: str, options: dict[str, Any]
) -> None:
    from siamese_search.pictures.video_reader import Reader

    path = film(tmp_path / name, [grey(number % 120) for number in range(300)], codec, **options)

    def walk(jump: bool) -> tuple[list[tuple[float, int]], int]:
        found: list[tuple[float, int]] = []
        decoded, target = 0, 0.0
        with open_file(str(path)) as file:
            reader = Reader(file)
            stream = reader.frames()
            while True:
                if jump and len(found) == target / 7:
                    reader.jump(target)
                when, frame = next(stream, (math.inf, None))
                if frame is None:
                    assert reader.fault() is None
                    return found, decoded
                decoded += 1
                if when + 0.0005 >= target:
                    pixels = frame.to_ndarray(format="rgb24")
                    found.append((round(when, 3), int(pixels.astype(int).sum())))
                    target += 7

    straight, jumping = walk(jump=False), walk(jump=True)
    assert jumping[0] == straight[0]
    assert [when for when, _ in straight[0]] == [0.0, 7.0, 14.0, 21.0, 28.0]
    if name in ("a.mp4", "c.avi"):  # they say where their key frames are
        assert jumping[1] < straight[1] / 2


# Right pixels


def drawn(colour: Sequence[int], matrix: int, full: bool, bits: int) -> Any:
    """A frame of one colour, by the formulas of BT.601, BT.709 and BT.2020."""
    red, green, blue = (value / 255 for value in colour)
    of_red, of_blue = LUMA[matrix]
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    parts = [luma, (blue - luma) / (2 - 2 * of_blue), (red - luma) / (2 - 2 * of_red)]
    frame = av.VideoFrame(64, 48, "yuv420p" if bits == 8 else "yuv420p10le")
    for number, (plane, part) in enumerate(zip(frame.planes, parts, strict=True)):
        middle = 0 if number == 0 else 128
        low, span = (16, 219 if number == 0 else 224) if not full else (0, 255)
        value = round((max(low if number == 0 else 0, middle) + span * part) * 2 ** (bits - 8))
        np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16)[:] = value
    frame.colorspace, frame.color_range = matrix, FULL if full else LIMITED
    return frame


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", LUMA)
def test_colours_are_right_by_matrix_range_and_depth(matrix: int, full: bool, bits: int) -> None:
    from siamese_search.pictures.video_frame import shown

    for colour in (RED, GREEN, BLUE, YELLOW, (255, 255, 255), (0, 0, 0), (128, 128, 128)):
        pixels = shown(drawn(colour, matrix, full, bits))
        assert np.abs(pixels.astype(int) - colour).max() <= 3, (colour, pixels[24, 32])


def test_a_video_that_says_nothing_of_its_colours_is_taken_as_players_take_it() -> None:
    from siamese_search.pictures.video_frame import shown

    for height, matrix in ((48, BT601), (720, BT709)):
        frame = drawn(RED, matrix, full=False, bits=8)
        frame = frame.reformat(64, height)
        frame.colorspace, frame.color_range = 2, 0
        assert np.abs(shown(frame).astype(int) - RED).max() <= 3


def srgb(linear: float) -> float:
    return 255 * (1.055 * linear ** (1 / 2.4) - 0.055 if linear > 0.0031308 else 12.92 * linear)


@pytest.mark.parametrize(
    ("transfer", "signal_", "nits"),
    [  # ITU-R BT.2408: reference white is 203 cd/m2, at 58 % of PQ and 75 % of HLG
        (PQ, 0.5807, 203), (PQ, 0.5081, 100), (PQ, 0.3570, 20), (PQ, 0.7518, 1000),
        (HLG, 0.75, 203),
    ],
)  # fmt: skip
def test_high_dynamic_range_is_shown_by_its_reference_white(
    transfer: int, signal_: float, nits: float
) -> None:
    from siamese_search.pictures.video_frame import shown

    value = round(255 * signal_)
    frame = drawn((value,) * 3, BT2020, full=False, bits=10)
    frame.color_trc, frame.color_primaries = transfer, BT2020
    pixels = shown(frame)
    assert np.abs(pixels - srgb(min(1.0, nits / 203))).max() <= 4
    assert np.ptp(pixels) <= 1


def test_wide_colours_become_those_of_srgb() -> None:
    from siamese_search.pictures.video_frame import shown

    frame = drawn((180, 120, 100), BT709, full=False, bits=8)
    frame.color_primaries = P3
    red, green, blue = shown(frame)[24, 32].tolist()
    assert red > 183
    assert green < 120
    assert blue < 100  # of sRGB it takes more to be the same


@pytest.mark.parametrize(
    ("matrix", "wanted"),
    [
        ((0, 1, -1, 0), [BLUE, RED, YELLOW, GREEN]),  # a phone held upright
        ((-1, 0, 0, -1), [YELLOW, BLUE, GREEN, RED]),
        ((0, -1, 1, 0), [GREEN, YELLOW, RED, BLUE]),
        ((-1, 0, 0, 1), [GREEN, RED, YELLOW, BLUE]),
        ((0, 1, 1, 0), [RED, BLUE, GREEN, YELLOW]),
    ],
)
def test_a_video_is_upright(
    tmp_path: Path, matrix: tuple[int, ...], wanted: list[Sequence[int]]
) -> None:
    plain = film(tmp_path / "plain.mp4", [quarters()], crf="1").read_bytes()
    a, b, c, d = (65536 * one for one in matrix)
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    place = plain.index(identity, plain.index(b"tkhd"))
    turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path = tmp_path / "turned.mp4"
    path.write_bytes(plain[:place] + turned + plain[place + len(turned) :])
    (found,) = frames(path)
    assert found.pixels().shape == ((64, 48, 3) if matrix[0] == 0 else (48, 64, 3))
    assert np.abs(np.subtract(corners(found.pixels()), wanted)).max() <= 4


def test_pixels_that_are_not_square_are_shown_so(tmp_path: Path) -> None:
    path = film(tmp_path / "wide.mp4", [quarters()], aspect=Fraction(2, 1), crf="1")
    (found,) = frames(path)
    assert found.pixels().shape == (48, 128, 3)


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    clear = np.dstack([quarters(), np.full((48, 64), 255, np.uint8)])
    clear[:24, :32, 3] = 0
    path = film(tmp_path / "clear.mov", [clear], "qtrle", "argb")
    (found,) = frames(path)
    assert corners(found.pixels()) == [[255, 255, 255], *map(list, (GREEN, BLUE, YELLOW))]


def test_of_interlaced_frames_one_field_is_shown(tmp_path: Path) -> None:
    combed = quarters()
    combed[1::2] = 255 - combed[1::2]  # taken a fiftieth of a second later
    parameters: dict[str, Any] = {"x264-params": "interlaced=1:tff=1", "crf": "1"}
    path = film(tmp_path / "field.mp4", [combed] * 3, form="yuv444p", **parameters)
    found = next(frames(path)).pixels()
    assert found.shape == combed.shape
    assert np.abs(np.subtract(corners(found), [RED, GREEN, BLUE, YELLOW])).max() <= 4


# What is none, or not whole


def refusal(path: Path, every: float = 1.0) -> tuple[int, str]:
    """How many frames there were before a video is refused, and why."""
    found = 0
    try:
        for _ in frames(path, every):
            found += 1
    except ImageError as error:
        return found, str(error)
    return found, "not at all"


def test_what_is_no_video_is_refused_in_words(tmp_path: Path) -> None:
    silent = tmp_path / "sound.mp4"
    with av.open(str(silent), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((2, 4096), np.float32), "fltp", "stereo")
        sound.rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    assert refusal(silent) == (0, "there is no video in it")
    for name, data, words in (
        ("empty.mp4", b"", "damaged, or no video"),
        ("zeros.mkv", bytes(100_000), "damaged, or no video"),
        ("text.avi", b"hello " * 1000, "damaged, or no video"),
        ("huge.avi", b"YUV4MPEG2 W12000 H12000 F25:1\nFRAME\n", "too many pixels: 12,000 x 12,000"),
        ("huge.mp4", b"YUV4MPEG2 W1000000 H1000000 F25:1\nFRAME\n", "damaged, or no video"),
    ):
        (tmp_path / name).write_bytes(data)
        assert refusal(tmp_path / name)[1].startswith(words), name
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    assert refusal(tmp_path / "pipe.mp4") == (0, "a named pipe, not a regular file")
    assert refusal(tmp_path / "zero.mp4") == (0, "a device, not a regular file")
    assert "no such file" in refusal(tmp_path / "none.mp4")[1]


def test_no_file_makes_another_be_opened(tmp_path: Path, clip: Path) -> None:
    lists = {
        "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{clip}\n#EXT-X-ENDLIST\n",
        "list.mkv": f"ffconcat version 1.0\nfile '{clip}'\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        assert refusal(tmp_path / name)[0] == 0


def test_of_what_is_cut_short_the_rest_is_used(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (60, 48, 64, 3), np.uint8)
    for name in ("cut.mkv", "cut.ts"):
        whole = film(tmp_path / name, list(noise)).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) * 6 // 10])
        found, why = refusal(tmp_path / name)
        assert 2 <= found <= 4
        assert "its other frames were used" in why


def test_damage_anywhere_crashes_nothing(tmp_path: Path) -> None:
    """In this process, where a crash is seen: all ends in frames, or is refused."""
    from siamese_search.pictures.video_frame import shown
    from siamese_search.pictures.video_reader import Reader

    chance = np.random.default_rng(1)
    noise = chance.integers(0, 255, (20, 48, 64, 3), np.uint8)
    av.logging.set_libav_level(av.logging.PANIC)
    for name, codec in (
        ("a.mp4", "libx264"), ("b.mkv", "mpeg4"), ("c.avi", "mjpeg"), ("d.ts", "mpeg2video"),
        ("e.webm", "libvpx-vp9"), ("f.flv", "flv1"), ("g.mov", "libx264"),
    ):  # fmt: skip
        form = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        rate = 25 if codec == "mpeg2video" else 10
        data = bytearray(film(tmp_path / name, list(noise), codec, form, rate).read_bytes())
        for _ in range(4):
            hurt = data.copy()
            for place in chance.integers(0, len(hurt), chance.integers(1, 30)):
                hurt[place] = chance.integers(0, 256)
            (tmp_path / name).write_bytes(hurt)
            with open_file(str(tmp_path / name)) as file, suppress(ImageError, MemoryError):
                reader = Reader(file)
                for _, frame in reader.frames():
                    assert shown(frame, reader.aspect).shape[2] == 3


@pytest.mark.usefixtures("apart")
def test_a_process_that_dies_refuses_its_video_alone(clip: Path) -> None:
    stream = frames(clip, 1.0)
    next(stream)
    (child,) = children()
    os.kill(child, signal.SIGKILL)
    with pytest.raises(ImageError, match=r"its decoder crashed \(SIGKILL\)"):
        list(stream)
    assert len(list(frames(clip, 5.0))) == 2
    assert children() == []


def children() -> list[int]:
    """The processes that read videos for this one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "stat").read_text().rpartition(")")[2].split()
            is_ours = int(words[1]) == os.getpid()
            if is_ours and b"video_worker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.usefixtures("apart")
def test_memory_and_time_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (720, 1280, 3), np.uint8)
    monkeypatch.setattr(video, "LIMITS", Limits(seconds=0.005))
    path = film(tmp_path / "large.mp4", [noise], preset="ultrafast")
    assert "took longer than 0.005 s" in refusal(path)[1]
    monkeypatch.setattr(video, "LIMITS", Limits(memory=16 << 20))
    assert re.search("memory|crashed", refusal(path)[1])  # libav minds that, mostly


def test_without_the_extra_it_is_said_how_to_get_it(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'siamese-search\[video\]'"):
        next(frames(clip))


# The command line


@pytest.fixture
def shell(tmp_path: Path, toy_folder: Path) -> Shell:
    shell = Shell(tmp_path, toy_folder)
    for name, colours in {"Milk": (RED, BLUE), "Tea": (BLUE, RED)}.items():
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.fromarray(halves(*colours)).save(tmp_path / "pictures" / name / "0.png")
    shell("add", "pictures", "--encoder", shell.encoder)
    film(tmp_path / "clip.mp4", [halves(RED, BLUE)] * 20 + [halves(BLUE, RED)] * 20, crf="4")
    return shell


def halves(left: Sequence[int], right: Sequence[int]) -> Pixels:
    pixels = np.empty((48, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = left, right
    return pixels


def test_frames_are_named_with_their_times(shell: Shell) -> None:
    answers = shell.json("query", "clip.mp4", "--every", "1s", "pictures/Milk/0.png")
    nearest = [(one["image"], one.get("time"), one["matches"][0]["identity"]) for one in answers]
    assert nearest == [
        ("clip.mp4", 0.0, "Milk"), ("clip.mp4", 1.0, "Milk"),
        ("clip.mp4", 2.0, "Tea"), ("clip.mp4", 3.0, "Tea"),
        ("pictures/Milk/0.png", None, "Milk"),
    ]  # fmt: skip
    printed = shell("query", "clip.mp4", "--every", "2s")
    assert [line.partition(": ")[0] for line in printed.stdout.splitlines() if " at " in line] == [
        "clip.mp4 at 0:00.0", "clip.mp4 at 0:02.0"
    ]  # fmt: skip
    assert printed.stderr == ""
    assert "every second: --every" in shell("query", "clip.mp4").stderr
    table = list(csv.DictReader(shell("query", "clip.mp4", "--csv").stdout.splitlines()))
    assert [(row["time"], row["nearest"]) for row in table][1:3] == [
        ("1.0", "Milk"),
        ("2.0", "Tea"),
    ]


def test_changes_alone_are_told_where_that_is_asked_for(shell: Shell) -> None:
    def told(*arguments: str) -> list[tuple[str, float | None, str | None]]:
        answers = shell.json("query", *arguments, "--every", "500ms", "-t", "0.99", "--changes")
        return [(one["image"], one.get("time"), one["identity"]) for one in answers]

    assert told("clip.mp4") == [("clip.mp4", 0.0, "Milk"), ("clip.mp4", 2.0, "Tea")]
    assert len(told("clip.mp4", "--crop", "0,0,32,48")) == 1  # no half of it is named
    assert len(told("pictures/Milk/0.png", "pictures/Milk/0.png", "clip.mp4")) == 4
    assert "--grid" in shell("query", "clip.mp4", "--changes", "--grid", "2", code=2).stderr


def test_parts_turns_and_lists_go_with_videos(shell: Shell) -> None:
    answers = shell.json(
        "query", "clip.mp4", "--every", "3s", "--crop", "0,0,16,48", "--turns", "2"
    )
    assert [(one["time"], one["crop"]) for one in answers] == [
        (0.0, [0, 0, 16, 48]), (3.0, [0, 0, 16, 48])
    ]  # fmt: skip
    assert len(shell.json("query", "clip.mp4", "--every", "3s", "--grid", "2")) >= 2
    (shell.folder / "list").write_text("clip.mp4\n")
    assert len(shell.json("query", "--paths-from", "list", "--every", "3s")) == 2


def test_videos_in_folders_are_looked_at_where_a_step_asks_for_them(shell: Shell) -> None:
    (shell.folder / "clip.mp4").rename(shell.folder / "pictures" / "clip.MP4")
    assert len(shell.json("query", "pictures")) == 2
    answers = shell.json("query", "pictures", "--every", "2s", "--exclude", "Tea")
    assert [(one["image"], one.get("time")) for one in answers] == [
        ("pictures/Milk/0.png", None), ("pictures/clip.MP4", 0.0), ("pictures/clip.MP4", 2.0)
    ]  # fmt: skip


def test_a_damaged_video_costs_no_other_answer(shell: Shell) -> None:
    (shell.folder / "bad.mp4").write_bytes(b"no video")
    run = shell.separate("query", "bad.mp4", "clip.mp4", "--every", "2s", "--json", code=1)
    assert [json.loads(line)["image"] for line in run.stdout.splitlines()] == ["clip.mp4"] * 2
    (said,) = run.stderr.splitlines()  # and nothing of libav's own
    assert said.startswith("rejected: bad.mp4: damaged, or no video")


def test_frames_that_get_no_name_are_kept_as_pictures(shell: Shell) -> None:
    shell("query", "clip.mp4", "--every", "2s", "--threshold", "1", "--keep-unknown")
    kept = list((shell.folder / "indexes/default/unknowns").iterdir())
    assert len(kept) == 2
    assert {path.read_bytes()[:3] for path in kept} == {b"\xff\xd8\xff"}  # JPEG
    answers = shell("query", "clip.mp4", "--every", "2s", "--json").stdout.encode()
    with pytest.raises(UsageError, match=r"is about a frame of clip\.mp4"):
        read_answers(BytesIO(answers), "answers", "Milk")


def test_frames_are_enrolled_as_pictures_that_the_gallery_keeps(shell: Shell) -> None:
    assert "--every 1s, and --copy" in shell("add", "clip.mp4", code=2).stderr
    assert "--copy" in shell("add", "clip.mp4", "--every", "1s", code=2).stderr
    shades = [grey(number) for number in (10, 60, 110)]
    film(shell.folder / "films" / "Fog" / "one.mkv", [one for one in shades for _ in range(10)])
    (plan,) = shell.json("add", "films", "--every", "1s", "--dry-run")
    assert plan == {"images": 0, "videos": 1, "identities": {"Fog": 1}, "rejected": []}
    said = shell("add", "films", "--every", "1s", "--dry-run").stdout
    assert "0 images and 1 video, whose frames are not counted, of 1 identity; nothing" in said
    (report,) = shell.json("add", "films", "--every", "1s", "--copy")
    assert (report["added"], report["rejected"]) == (3, [])
    (again,) = shell.json("add", "films", "--every", "1s", "--copy")
    assert (again["added"], again["skipped"]) == (0, 3)
    (answer,) = shell.json("query", "films/Fog/one.mkv", "--every", "5s")
    best = answer["matches"][0]
    assert (best["identity"], best["metadata"]["time"]) == ("Fog", "0.0")
    assert best["metadata"]["video"] == str(shell.folder / "films/Fog/one.mkv")
    shutil.rmtree(shell.folder / "films")
    shell("rebuild", "--encoder", shell.encoder)
    shell("check")


def test_of_frames_that_look_alike_the_first_counts_in_every_run(shell: Shell) -> None:
    dark, light = grey(10), grey(110)
    film(shell.folder / "films" / "Fog" / "one.mkv", [dark] * 20 + [light] * 10 + [dark] * 10)
    again = ("add", "films", "--every", "1s", "--copy")

    def times() -> list[str]:
        return [item["metadata"]["time"] for item in shell.json("list", "Fog")]

    assert shell.json(*again)[0]["added"] == 2
    assert times() == ["0.0", "2.0"]
    changes = shell("undo", "--list").stdout
    shell(*again)
    shell("add", "films", "--every", "2s", "--copy")
    assert (times(), shell("undo", "--list").stdout) == (["0.0", "2.0"], changes)
    (shell.folder / "films").rename(shell.folder / "moved")
    shell("add", "moved", "--every", "1s", "--copy")
    video = str(shell.folder / "moved" / "Fog" / "one.mkv")
    known = [item["metadata"] for item in shell.json("list", "Fog")]
    assert known == [{"video": video, "time": time} for time in ("0.0", "2.0")]


def test_in_python_frames_are_pictures(tmp_path: Path, toy_folder: Path, clip: Path) -> None:
    with Gallery.open(tmp_path / "gallery", str(toy_folder)) as gallery:
        report = gallery.enroll(frames(clip, 5.0), label="grey", copy=True)
        assert report.added == 2
        named = [gallery.identify(frame)[0].matches[0].identity for frame in frames(clip, 5.0)]
        assert named == ["grey", "grey"]
        (box,) = gallery.identify(Region(next(frames(clip)), (0, 0, 8, 8)))
        assert box.matches[0].identity == "grey"


def test_times_are_read_and_written_as_people_do() -> None:
    assert [duration(text) for text in ("500ms", "1s", "2.5", "10m", "1h")] == [
        0.5, 1.0, 2.5, 600.0, 3600.0
    ]  # fmt: skip
    for text in ("", "0", "0s", "-1s", "1 day", "inf", "nan", "1e3"):
        with pytest.raises(typer.BadParameter):
            duration(text)
    said = [Frame("a", seconds, b"").moment for seconds in (0.04, 12.0, 59.96, 3725.51)]
    assert said == ["0:00.0", "0:12.0", "1:00.0", "1:02:05.5"]


# Cameras and streams


class Camera(http.server.BaseHTTPRequestHandler):
    """A stream as network cameras have it: a JPEG after the other, 20 a second, each brighter."""

    files: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path in self.files:
            self.end_headers()
            self.wfile.write(self.files[self.path])
            return
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(1, 120):
            if self.path == "/short" and number > 30:
                return
            picture = BytesIO()
            Image.fromarray(grey(number)).save(picture, "JPEG")
            data = picture.getvalue()
            try:
                self.wfile.write(
                    b"--frame\r\nContent-Type: image/jpeg\r\n"
                    b"Content-Length: %d\r\n\r\n%b\r\n" % (len(data), data)
                )
            except OSError:  # nobody looks any more
                return
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def camera() -> Iterator[str]:
    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Camera) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://me:secret@127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.usefixtures("apart")
def test_who_falls_behind_gets_the_newest_frame(camera: str) -> None:
    stream: Any = live(camera + "/all", every=0.1)
    with closing(stream):
        first = next(stream)
        time.sleep(1.5)
        second = next(stream)
    assert numbers_of([second])[0] - numbers_of([first])[0] > 8  # not the next one
    assert second.time == pytest.approx((second.taken - first.taken).total_seconds(), abs=0.01)
    assert "secret" not in first.name


@pytest.mark.usefixtures("apart")
def test_a_stream_that_ends_is_told(camera: str, shell: Shell) -> None:
    run = shell("query", camera + "/short", "--every", "200ms", "--json", code=1)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(answers) >= 2
    assert all(one["taken"] and one["time"] >= 0 for one in answers)
    assert "it has ended" in run.stderr
    assert "secret" not in run.stdout + run.stderr


def test_ctrl_c_ends_a_camera_as_it_should_end(camera: str, shell: Shell) -> None:
    command = [sys.executable, "-m", "siamese_search", "query", camera + "/all", "--json"]
    process = subprocess.Popen(
        [*command, "--every", "100ms"], cwd=shell.folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["image"].startswith("http://127")  # as it comes
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "stopped: " in said
    assert "Traceback" not in said


def test_of_a_web_server_live_streams_alone_are_taken(camera: str, clip: Path) -> None:
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{clip}\n"
    playlist += "#EXT-X-ENDLIST\n"
    Camera.files = {"/clip.mp4": clip.read_bytes(), "/list.m3u8": playlist.encode()}
    with pytest.raises(ImageError, match="a recording, not a live stream"):
        next(live(camera + "/clip.mp4"))
    with pytest.raises(ImageError):  # no address leads to files of this machine
        next(live(camera + "/list.m3u8"))


def test_a_bound_ends_it(camera: str, shell: Shell) -> None:
    answers = shell.json("query", camera + "/all", "--every", "200ms", "--for", "500ms")
    assert 1 <= len(answers) <= 3


def test_what_makes_no_sense_of_cameras(shell: Shell) -> None:
    assert "alone" in shell("query", "camera:0", "clip.mp4", code=2).stderr
    assert "--for is about" in shell("query", "clip.mp4", "--for", "1s", code=2).stderr
    assert "does not exist" in shell("query", "camera:99", code=1).stderr
    assert "rejected: camera:clip.mp4" in shell("query", "camera:clip.mp4", code=1).stderr
    refused = shell("query", "rtsp://me:secret@127.0.0.1:9/x", code=1).stderr
    assert "connection refused" in refused
    assert "secret" not in refused
    assert public("rtsp://host/a@b") == "rtsp://host/a@b"
    assert public("rtsp://me:p@ss@host/a@b") == "rtsp://host/a@b"
    with pytest.raises(UsageError, match="seconds above 0"):
        next(frames(shell.folder / "clip.mp4", 0))
