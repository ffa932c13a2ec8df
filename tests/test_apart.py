"""Decoding apart: the same pixels, whatever becomes of the processes that decode."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from bad_pictures import HARM, harmed, photos
from conftest import picture
from loading import Server, drawn
from PIL import Image

from siamese_search import Encoder, Gallery
from siamese_search.errors import ImageError, RuntimeUnavailable, UsageError
from siamese_search.pictures import apart, render
from siamese_search.pictures.apart import DECODING, Decoders, Limits
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.pictures.regions import Box

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are asked by a socket")
HOW = Preprocessing(48, 32)
FILES = photos()
PHOTO = FILES["JPEG"]["plain"]

Opened = Callable[..., Decoders]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Opens decoders; all are closed in the end."""
    made: list[Decoders] = []

    def open_decoders(limits: Limits | None = None, most: int = 2, code: str = "") -> Decoders:
        """``code`` is run by each worker before it begins."""
        begin = "from siamese_search.pictures import render, worker\nimport os, signal, time\n"
        command = [sys.executable, "-P", "-c", f"{begin}{code}\nworker.main()"]
        made.append(Decoders(limits, most, command))
        return made[-1]

    yield open_decoders
    for one in made:
        one.close()


@pytest.fixture
def decoded_apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(DECODING, "apart")
    yield
    apart.DECODERS.close()


def is_right(decoders: Decoders) -> bool:
    return np.array_equal(decoders.decode(PHOTO, HOW), render.decode(PHOTO, HOW))


def reason(decode: Callable[[], object]) -> str:
    with pytest.raises(ImageError) as refused:
        decode()
    return str(refused.value)


def white(side: int) -> bytes:
    """A few bytes that take four times ``side * side`` to decode."""
    content = io.BytesIO()
    Image.new("RGB", (side, side), "white").save(content, "PNG", compress_level=1)
    return content.getvalue()


def is_gone(pid: int, seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


# Pixels


@pytest.mark.parametrize("kind", FILES)
def test_pixels_are_those_decoded_here(kind: str, opened: Opened) -> None:
    decoders = opened(most=1)
    for data in FILES[kind].values():
        for how in (HOW, Preprocessing(32, 32, 1, "trim"), Preprocessing(40, 24, resize="pad")):
            for box in (None, Box(5, 6, 80, 60)):
                pixels = decoders.decode(data, how, box)
                assert np.array_equal(pixels, render.decode(data, how, box))
                assert pixels.flags.writeable
                assert pixels.flags.c_contiguous
        whole, here = decoders.upright(data), render.upright(data)
        assert (whole.mode, whole.info) == (here.mode, here.info)
        assert whole.tobytes() == here.tobytes()


def test_bad_files_are_refused_in_the_same_words_and_good_ones_go_on(opened: Opened) -> None:
    decoders, other = opened(), FILES["PNG"]["plain"]
    whole = [data for files in FILES.values() for data in files.values()]

    def outcome(decode: Callable[[bytes, Preprocessing], Any], data: bytes) -> bytes | str:
        try:
            return bytes(decode(data, HOW).tobytes())
        except ImageError as error:
            return str(error)

    def same(seed: int) -> bool:
        bad = harmed(whole[seed % len(whole)], HARM[seed % len(HARM)], seed, other)
        return outcome(decoders.decode, bad) == outcome(render.decode, bad)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(same, range(200)))
    assert is_right(decoders)


def test_the_cap_on_pixels_is_that_of_the_moment(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoders = opened()
    assert is_right(decoders)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setenv("SIASEARCH_MAX_PIXELS", "4000")
    assert "more than 16,000" in reason(lambda: decoders.decode(PHOTO, HOW))
    monkeypatch.setenv("SIASEARCH_MAX_PIXELS", "100000")
    assert is_right(decoders)


# Workers that die


def test_a_picture_whose_decoder_crashes_is_refused_and_no_other(opened: Opened) -> None:
    # Where they see green, they crash.
    code = """
whole = render.decode
def decode(data, *how):
    pixels = whole(data, *how)
    if tuple(pixels[0, 0]) == (0, 255, 0):
        os.kill(os.getpid(), signal.SIGSEGV)
    return pixels
render.decode = decode
"""
    content = io.BytesIO()
    Image.new("RGB", (50, 50), (0, 255, 0)).save(content, "PNG")
    bad, decoders = content.getvalue(), opened(code=code)

    def outcome(number: int) -> str:
        if number % 5:
            return str(is_right(decoders))
        return reason(lambda: decoders.decode(bad, HOW))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(outcome, range(15)))
    assert found == ["True" if n % 5 else "its decoder crashed (SIGSEGV)" for n in range(15)]


def test_a_worker_that_somebody_kills_costs_no_picture(opened: Opened, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    code = f"""
whole = render.decode
def decode(*what):
    if not os.path.exists({str(begun)!r}):
        open({str(begun)!r}, "w").close()
        time.sleep(60)
    return whole(*what)
render.decode = decode
"""
    decoders = opened(code=code, most=1)
    with ThreadPoolExecutor(1) as pool:
        right = pool.submit(is_right, decoders)
        while not begun.exists():
            time.sleep(0.01)
        (pid,) = decoders.pids()
        os.kill(pid, signal.SIGKILL)  # in the middle of a picture
        assert right.result()
    (pid,) = decoders.pids()
    os.kill(pid, signal.SIGKILL)  # idle
    assert is_right(decoders)
    assert decoders.pids() != [pid]


def test_a_picture_that_takes_too_long_is_refused(opened: Opened) -> None:
    code = """
def decode(data, *how):
    while True:
        pass
render.decode = decode
"""
    decoders = opened(Limits(seconds=0.2), code=code)
    assert reason(lambda: decoders.decode(PHOTO, HOW)) == "its decoder took longer than 0.2 s"
    assert not decoders.pids()


def test_a_decoder_that_hangs_without_computing_is_given_up(opened: Opened) -> None:
    decoders = opened(Limits(in_all=1.0), most=1)
    assert is_right(decoders)
    (pid,) = decoders.pids()
    os.kill(pid, signal.SIGSTOP)
    large = PHOTO + bytes(1 << 23)  # nor does it take what is sent
    assert reason(lambda: decoders.decode(large, HOW)) == "its decoder took longer than 10 s"
    assert is_gone(pid)
    assert is_right(decoders)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process's memory so")
def test_a_picture_that_needs_too_much_memory_is_refused(opened: Opened) -> None:
    decoders = opened(Limits(memory=100 << 20), most=1)
    said = reason(lambda: decoders.decode(white(5000), HOW))
    assert said == "its decoder needs more than 0.1 GB of memory"
    assert is_right(decoders)


def test_large_pictures_are_decoded_one_at_a_time(opened: Opened, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    code = f"""
whole = render._render
def noted(*what, **how):
    with open({str(notes)!r}, "a") as file:
        file.write("<")
        file.flush()
        time.sleep(0.1)
        file.write(">")
    return whole(*what, **how)
render._render = noted
render.pixels_at_once = lambda kind, data: 1 << 25
"""
    decoders = opened(code=code, most=3)
    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(lambda _: is_right(decoders), range(4)))
    assert notes.read_text() == "<>" * 4


@pytest.mark.parametrize(
    "answer", ['{"shape": [1, 1, 3]}, b"123"', '{"shape": [99]}, b""', "{}, bytes(1 << 20)"]
)
def test_an_answer_that_is_none_is_not_believed(answer: str, opened: Opened) -> None:
    decoders = opened(code=f"worker._answer = lambda *what: ({answer})")
    assert reason(lambda: decoders.decode(PHOTO, HOW)).startswith("its decoder gives ")


def test_workers_that_cannot_be_started_are_no_fault_of_the_picture(opened: Opened) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"no such thing; with SIASEARCH_DECODING=here"):
        opened(code="raise SystemExit('no such thing')").start()
    with pytest.raises(RuntimeUnavailable, match="No such file"):
        Decoders(command=["/there/is/no/python"]).decode(PHOTO, HOW)


# Processes


def test_many_threads_share_a_few_workers(opened: Opened) -> None:
    decoders = opened(most=2)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: is_right(decoders), range(64)))
    assert len(decoders.pids()) <= 2


def test_a_forked_process_has_workers_of_its_own(opened: Opened) -> None:
    decoders = opened(most=1)
    assert is_right(decoders)
    mine = decoders.pids()
    child = os.fork()
    if not child:
        signal.alarm(60)
        os._exit(0 if is_right(decoders) and decoders.pids() != mine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert is_right(decoders)
    assert decoders.pids() == mine


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_process_without_a_word(how: signal.Signals) -> None:
    code = (
        "import sys, time\nfrom siamese_search.pictures.apart import DECODERS\n"
        "DECODERS.start()\nprint(*DECODERS.pids(), flush=True)\ntime.sleep(60)"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert started.stdout is not None
    pid = int(started.stdout.readline())
    os.killpg(started.pid, how)  # as a terminal does
    _, said = started.communicate(timeout=30)
    assert said.count("Traceback") == (how == signal.SIGINT)  # its own
    assert is_gone(pid)


def test_an_interrupted_thread_leaves_no_half_answer_behind(opened: Opened) -> None:
    code = "whole = render.decode\nrender.decode = lambda *what: time.sleep(1) or whole(*what)"
    decoders = opened(code=code, most=1)
    decoders.start()
    threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        decoders.decode(PHOTO, HOW)
    assert not decoders.pids()
    assert is_right(decoders)


# Galleries and commands


@pytest.mark.usefixtures("decoded_apart")
def test_every_picture_of_an_enrolment_is_accounted_for_once(toy: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(20):
        picture(number).save(folder / f"good-{number}.png")
    whole = [data for files in FILES.values() for data in files.values()]
    for number in range(200):
        data = harmed(whole[number % len(whole)], HARM[number % len(HARM)], number)
        (folder / f"bad-{number}.jpg").write_bytes(data + b"%d" % number)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        report = gallery.enroll([folder], label="all")
        names = [Path(one.path).name for one in report.rejected]
        names += [Path(item.source or "").name for item in gallery.items("all")]
        assert sorted(names) == sorted(path.name for path in folder.iterdir())
        assert report.added >= 20
        assert apart.DECODERS.pids()
        embedded = gallery.encoder.embed([folder / "good-3.png"])
    os.environ[DECODING] = "here"
    assert np.array_equal(embedded, toy.embed([folder / "good-3.png"]))


def test_a_server_decodes_apart_and_its_workers_end_with_it(toy: Encoder, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    with Gallery.open(tmp_path / "shop", toy) as gallery:
        gallery.enroll([picture(1)], label="one")
    server = Server(tmp_path / "shop")
    try:
        workers = psutil.Process(server.process.pid).children()
        assert "siamese_search.pictures.worker" in workers[0].cmdline()
        os.kill(workers[0].pid, signal.SIGKILL)
        with server.client() as client:
            _, found = client.send("/identify", [drawn(1), b"no picture"])
        assert [answer.get("identity") for answer in found["answers"]] == ["one", None]
        workers = psutil.Process(server.process.pid).children()
    finally:
        server.kill()
    assert all(is_gone(worker.pid) for worker in workers)


def test_a_place_to_decode_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DECODING, "elsewhere")
    with pytest.raises(UsageError, match="SIASEARCH_DECODING is 'elsewhere': choose"):
        render.decode(PHOTO, HOW)


def test_commands_decode_apart_where_they_are_told(toy_folder: Path, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "one.png")
    (tmp_path / "bad.jpg").write_bytes(PHOTO[:500])

    def said(*words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "siamese_search", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    named = ("-g", "gallery", "--decoding", "apart")
    code, out, err = said(
        "add", "one.png", "bad.jpg", "-l", "a", "-e", str(toy_folder), *named, "--json"
    )
    assert (code, json.loads(out)["added"]) == (1, 1)
    assert "bad.jpg: the file is cut short" in err
    code, out, _ = said("query", "one.png", *named, "--json")
    assert (code, json.loads(out)["identity"]) == (0, "a")
    code, _, err = said("query", "one.png", "-g", "gallery", "--decoding", "nowhere")
    assert (code, "--decoding is 'nowhere': choose here or apart" in err) == (2, True)
