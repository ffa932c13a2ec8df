"""The server under load: killed, stopped, and on a gallery that is changed meanwhile."""

from __future__ import annotations

import hashlib
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from loading import drawn, killed, lost, serving, switched

from siamese_search import Encoder, Gallery
from siamese_search.storage.catalog import Catalog

pytest.importorskip("starlette")


def test_nothing_that_was_acknowledged_is_lost_by_kills(tmp_path: Path, toy_folder: Path) -> None:
    folder = tmp_path / "shop"
    Gallery.open(folder, toy_folder).close()
    known = [one for seed in range(1, 6) for one in killed(folder, seed)]
    assert len(known) >= 5
    with Gallery.open(folder) as gallery:
        assert lost(gallery, known) == []
        assert gallery.check() == []


@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=["alone", "workers"])
def test_answers_are_of_one_generation_while_it_is_switched(
    tmp_path: Path,
    pictures: Callable[..., Path],
    toy_folder: Path,
    coarse_folder: Path,
    options: list[str],
) -> None:
    folder = tmp_path / "shop"
    with Gallery.open(folder, toy_folder) as gallery:
        gallery.enroll([pictures({f"p{n}": 2 for n in range(24)})])
    probes = [drawn(seed) for seed in range(0, 60, 4)]
    encoders = [str(toy_folder), str(coarse_folder)]
    found = switched(folder, encoders, probes, tmp_path, times=3, options=options)
    assert (found.errors, found.mixed) == ([], [])
    assert found.answers > 30
    assert len(found.versions) > 3


def test_a_server_that_is_stopped_finishes_what_is_underway(tmp_path: Path, toy: Encoder) -> None:
    folder = tmp_path / "shop"
    Gallery.open(folder, toy).close()
    pictures = [[drawn(100 * n + one) for one in range(16)] for n in range(4)]
    with serving(folder) as server, ThreadPoolExecutor(4) as pool, ExitStack() as stack:
        *clients, probe = (stack.enter_context(server.client()) for _ in range(5))
        sent = [
            pool.submit(client.send, "/enroll", images, label=f"thing {number}")
            for number, (client, images) in enumerate(zip(clients, pictures, strict=True))
        ]
        while not any(one.done() for one in sent):
            probe.ask("GET", "")
            time.sleep(0.001)
        code = server.stop()
        answers = [one.result() for one in sent]
    assert code in (0, -signal.SIGTERM)
    assert [status for status, _ in answers] == [201] * 4
    with Gallery.open(folder) as gallery:
        contents = {item.content for n in range(4) for item in gallery.items(f"thing {n}")}
        assert contents == {hashlib.sha256(data).hexdigest() for each in pictures for data in each}
        assert gallery.check() == []


def test_an_enrolment_that_waits_while_the_server_is_stopped_is_done(
    tmp_path: Path, toy: Encoder
) -> None:
    folder = tmp_path / "shop"
    Gallery.open(folder, toy).close()
    with serving(folder) as server, ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        client, reader = (stack.enter_context(server.client()) for _ in range(2))
        with closing(Catalog(folder / "gallery.db")) as other, other.writing():
            sent = pool.submit(client.send, "/enroll", [drawn(1)], label="thing")
            time.sleep(0.7)  # until it waits, which nothing tells
            assert reader.ask("GET", "")[0] == 200
            assert not sent.done()
            server.process.terminate()
            time.sleep(0.4)  # so that the server knows before the enrolment can go on
        assert sent.result()[0] == 201


def test_what_takes_too_long_for_a_server_that_is_stopped_is_open_and_ends_with_it(
    tmp_path: Path, toy: Encoder
) -> None:
    folder = tmp_path / "shop"
    Gallery.open(folder, toy).close()
    settings = "from siamese_search.serving.connections import SETTINGS as s; "
    brief = settings + "s['timeout_graceful_shutdown'] = 1; from siamese_search.cli.app import main"
    command = (sys.executable, "-c", f"{brief}; main()")
    with (
        serving(folder, command=command) as server,
        ThreadPoolExecutor(5) as pool,
        ExitStack() as stack,
        closing(Catalog(folder / "gallery.db")) as other,
        other.writing(),
    ):
        clients = [stack.enter_context(server.client()) for _ in range(5)]
        sent = [
            pool.submit(one.send, "/enroll", [drawn(n)], label="thing")
            for n, one in enumerate(clients)
        ]
        time.sleep(0.7)  # until they wait, which nothing tells
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < 10
        for status, said in (one.result() for one in sent):
            assert (status, said["status"]) == (503, 503)
            assert "look whether it did before you ask again" in said["detail"]
    assert "Traceback" not in server.log.read_text()
    with Gallery.open(folder) as gallery:
        assert len(gallery) == 0


def test_nobody_who_asks_waits_for_those_who_wait_to_write(tmp_path: Path, toy: Encoder) -> None:
    folder = tmp_path / "shop"
    with Gallery.open(folder, toy) as gallery:
        gallery.enroll([drawn(1)], "thing")
    with serving(folder) as server, ThreadPoolExecutor(41) as pool, ExitStack() as stack:
        *clients, reader = (stack.enter_context(server.client()) for _ in range(41))
        with closing(Catalog(folder / "gallery.db")) as other, other.writing():
            sent = [
                pool.submit(one.send, "/enroll", [drawn(10 + n)], label=f"thing {n}")
                for n, one in enumerate(clients)
            ]
            time.sleep(1.0)  # until they wait, which nothing tells
            asked = pool.submit(reader.send, "/identify", [drawn(1)])
            assert asked.result(10)[0] == 200
            assert reader.ask("GET", "")[0] == 200
            assert not any(one.done() for one in sent)
        assert [one.result()[0] for one in sent] == [201] * 40
