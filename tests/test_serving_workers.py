"""The server with workers: the same answers, also when they are killed, and none is left over."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")
if not Path("/proc/self/stat").exists():
    pytest.skip("workers are found by /proc", allow_module_level=True)

from loading import drawn, serving, workers_of
from starlette.testclient import TestClient
from test_serving import API, HERE, parts
from typer.testing import CliRunner

from siamese_search import Encoder, Gallery, SiaSearchError, machine
from siamese_search.cli import app as command_line
from siamese_search.errors import UsageError
from siamese_search.serving import workers
from siamese_search.serving.app import application

AT = f"{API}/galleries/shop"
PATIENCE = 30.0  # seconds
# A worker that a picture kills, as one does that makes a decoder crash.
FRAGILE = """
import os, signal
from siamese_search.embedding.encoder import Encoder
from siamese_search.serving import worker

decode = Encoder.decode

def fragile(self, data):
    if data == b"a picture that kills":
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(self, data)

Encoder.decode = fragile
worker.main()
"""


@pytest.fixture
def folder(tmp_path: Path, pictures: Callable[..., Path], toy: Encoder) -> Path:
    with Gallery.open(tmp_path / "shop", toy) as gallery:
        gallery.enroll([pictures({f"p{n}": 2 for n in range(8)})], metadata={"shelf": "3"})
        gallery.calibrate(0.1)
    return tmp_path / "shop"


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(application([folder], HERE, workers=1)) as made:
        yield made


def own_workers() -> list[int]:
    return workers_of(os.getpid())


def measured(client: TestClient, name: str) -> int:
    found = re.search(rf"^siasearch_{name} (\d+)$", client.get("/metrics").text, re.MULTILINE)
    assert found
    return int(found[1])


def becomes(condition: Callable[[], Any]) -> bool:
    until = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return bool(condition())


def is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# Answers


def test_answers_are_the_same_to_the_last_bit(folder: Path, tmp_path: Path, toy: Encoder) -> None:
    with Gallery.open(tmp_path / "other", toy) as other:
        other.enroll([drawn(99)], "only one")
    seeds = [0, 3, 5, 99, 100, 7, 8, 2, 11, 12]
    forms = [
        *[parts(drawn(seed)) for seed in seeds],
        parts(*map(drawn, seeds), b"no picture"),
        [],
    ]
    asked = ["", "?k=3", "?k=1&fpir=0.2", "?turns=4", "?where=shelf=3", "?rule=best", "?k=0"]
    places = [AT + each for each in asked] + [f"{API}/galleries/other/identify?k=1"]
    places = [place.replace("/shop", "/shop/identify") for place in places]
    found = []
    for count in (0, 2):
        with TestClient(application([folder, tmp_path / "other"], HERE, workers=count)) as client:
            found.append([client.post(at, files=form).text for at in places for form in forms])
            assert measured(client, "workers") == len(own_workers()) == count
            assert measured(client, "worker_restarts_total") == 0
    assert found[0] == found[1]
    assert own_workers() == []


def test_what_is_enrolled_is_known_to_workers_at_once(client: TestClient) -> None:
    for n in range(50):
        picture = parts(drawn(1000 + n))
        assert client.post(f"{AT}/enroll", files=picture, data={"label": f"n{n}"}).is_success
        answered = client.post(f"{AT}/identify?k=1&rule=best", files=picture).json()
        assert answered["answers"][0]["matches"][0]["identity"] == f"n{n}"
        etag = client.get(f"{AT}/identities").headers["etag"]
        assert etag == f'W/"{answered["version"]}"'


# Workers that end


def test_a_question_is_asked_again_where_its_worker_is_killed(client: TestClient) -> None:
    whole = client.post(f"{AT}/identify", files=parts(drawn(0))).text
    (process,) = own_workers()
    os.kill(process, signal.SIGSTOP)
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(client.post, f"{AT}/identify", files=parts(drawn(0))) for _ in "12345678"
        ]
        time.sleep(0.3)
        os.kill(process, signal.SIGKILL)
        assert [one.result().text for one in asked] == [whole] * 8
    assert measured(client, "worker_restarts_total") == 1
    assert own_workers() not in ([], [process])


def test_a_picture_that_kills_harms_only_its_own_request(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "command", lambda _: (sys.executable, "-c", FRAGILE))
    with (
        TestClient(application([folder], HERE, workers=1)) as client,
        ThreadPoolExecutor(9) as pool,
    ):

        def ask(data: bytes) -> int:
            return client.post(f"{AT}/identify", files=parts(data)).status_code

        asked = [drawn(n) for n in range(8)]
        asked.insert(2, b"a picture that kills")
        assert list(pool.map(ask, asked)) == [200, 200, 500] + [200] * 6
        assert becomes(lambda: measured(client, "worker_restarts_total") == 2)
        assert becomes(lambda: client.get("/ready").is_success)


def test_without_a_worker_the_server_is_not_ready(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 0.1)
    monkeypatch.setattr(workers, "PAUSE", 0.1)
    with monkeypatch.context() as broken:
        broken.setattr(workers, "command", lambda _: (sys.executable, "-c", ""))
        os.kill(own_workers()[0], signal.SIGKILL)
        assert becomes(lambda: client.get("/ready").status_code == 503)
        refused = client.post(f"{AT}/identify", files=parts(drawn(0)))
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        assert client.get(AT).is_success
        assert becomes(lambda: "a worker has ended before it was ready" in caplog.text)
    assert becomes(lambda: client.get("/ready").is_success)
    assert client.post(f"{AT}/identify", files=parts(drawn(0))).is_success


def test_workers_that_cannot_start_are_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "command", lambda _: ("/no/such/python",))
    with pytest.raises(SiaSearchError, match="No such file"):
        application([folder], HERE, workers=2)


# The end of the server


def test_what_is_underway_is_finished_and_no_worker_is_left(folder: Path) -> None:
    with serving(folder, "--workers", "2") as server, ThreadPoolExecutor(8) as pool:
        processes = workers_of(server.process.pid)
        assert len(processes) == 2
        clients = [server.client() for _ in range(8)]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        asked = [pool.submit(one.send, "/identify?k=1", [drawn(2)]) for one in clients]
        time.sleep(0.3)
        for process in processes:  # as a terminal and a service manager do
            os.kill(process, signal.SIGINT)
            os.kill(process, signal.SIGTERM)
        server.process.terminate()
        time.sleep(0.2)
        for process in processes:
            os.kill(process, signal.SIGCONT)
        assert [one.result()[0] for one in asked] == [200] * 8
        assert server.process.wait(PATIENCE) in (0, -signal.SIGTERM)
        assert all(map(is_gone, processes))
        for one in clients:
            one.__exit__()


def test_workers_end_with_a_server_that_is_killed(folder: Path) -> None:
    with serving(folder, "--workers", "2") as server:
        processes = workers_of(server.process.pid)
        assert len(processes) == 2
        server.kill()
        assert becomes(lambda: all(map(is_gone, processes)))


# Bounds


@pytest.mark.parametrize("count", [-1, 65])
def test_the_number_of_workers_has_a_range(folder: Path, count: int) -> None:
    said = rf"workers is {count}: give a whole number from 0 to 64"
    with pytest.raises(UsageError, match=said):
        application([folder], HERE, workers=count)
    ended = CliRunner().invoke(command_line, ["serve", "-g", str(folder), f"--workers={count}"])
    assert ended.exit_code != 0
    assert re.search(said, str(ended.exception) + ended.output)


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "all_cores", lambda: 8)
    monkeypatch.setattr(machine, "_shares", [1])
    found = []
    for shares in (1, 2, 3, 8, 9):
        machine.take_share(shares)
        found.append(machine.cores())
    assert found == [8, 4, 2, 1, 1]
