"""Requests that mean harm, to a real server: nothing gets through, and others are served."""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest
from conftest import picture

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import uvicorn
from hostile import API, Attacks, picture_bytes
from starlette.testclient import TestClient
from wire import BOUNDARY, CLOSED, END, Attack, part, send, slowly

from siamese_search import Gallery
from siamese_search.errors import UsageError
from siamese_search.serving import connections, logs
from siamese_search.serving.app import application
from siamese_search.serving.guards import Limits
from siamese_search.serving.origins import Origins

TOKEN = "a-token-that-nobody-guesses"
EACH = 25  # requests of each kind


@pytest.fixture
def folder(tmp_path: Path, toy_folder: Path) -> Path:
    with Gallery.open(tmp_path / "shop", toy_folder) as gallery:
        for number in range(8):
            gallery.enroll([picture(number)], label=f"p{number // 2}", copy=True)
    return tmp_path / "shop"


@contextmanager
def served(folder: Path, limits: Limits | None = None) -> Iterator[int]:
    """The port of a server in a thread."""
    app = application([folder], ["127.0.0.1"], TOKEN, limits=limits)
    settings = connections.SETTINGS | {"log_config": None, "timeout_graceful_shutdown": 5}
    server = uvicorn.Server(uvicorn.Config(app, port=0, **settings))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield int(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


def answered(port: int, path: str = f"{API}/identify?k=1") -> bytes:
    """What a client that means well gets to the first picture."""
    body = part(picture_bytes()) + END if "identify" in path else b""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    headers["Content-Type"] = f"multipart/form-data; boundary={BOUNDARY}"
    connection.request("POST" if body else "GET", path, body, headers)
    answer = connection.getresponse()
    found = answer.read()
    connection.close()
    assert answer.status == 200
    return found


def pour(connection: socket.socket, data: bytes) -> None:
    """Send the same over and over, for some seconds."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        connection.sendall(data)
        time.sleep(0.02)


def named(port: int) -> str:
    (answer,) = json.loads(answered(port))["answers"]
    return str(answer["matches"][0]["identity"])


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("shop.example:9002", "shop.example"),
        ("Shop.Example", "shop.example:9002"),
        ("::1", "[::1]:8321"),
        ("[::1]:8321", "[::1]"),
        ("my_shop", "my_shop"),
    ],
)
def test_a_name_is_allowed_with_any_port(given: str, asked: str) -> None:
    assert Origins([given]).refusal({"host": asked}) is None


@pytest.mark.parametrize(
    "given", ["http://shop.example", "shop.example/page", "", "a b", "*.shop", "ü"]
)
def test_what_is_no_name_is_not_allowed(given: str) -> None:
    with pytest.raises(UsageError, match="is no name of a server"):
        Origins([given])


def test_a_server_may_listen_at_an_address_of_one_interface() -> None:
    assert Origins(["fe80::1%eth0", "localhost"]).refusal({"host": "localhost"}) is None


def test_an_origin_with_its_usual_port_is_what_browsers_send() -> None:
    origins = Origins(["shop"], ["https://app.example:443", "http://app.example:8080"])
    for origin in ("https://app.example", "http://app.example:8080"):
        assert origins.refusal({"host": "shop", "origin": origin}) is None
    assert origins.refusal({"host": "shop", "origin": "http://app.example"}) is not None


def test_nothing_gets_through(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    kinds: list[Callable[[Attacks], Iterator[Attack]]] = [
        Attacks.tokens, Attacks.hosts, Attacks.lengths, Attacks.chunks, Attacks.parts,
        Attacks.paths, Attacks.messages, Attacks.bodies, Attacks.pictures, Attacks.filters,
        lambda one: one.labels(8, "p3"),
    ]  # fmt: skip
    with served(folder) as port:
        whole = {path: answered(port, path) for path in ("/page/app.js", f"{API}/items/1/picture")}
        kinds.append(lambda one: one.ranges(whole))
        for seed, kind in enumerate(kinds):
            for attack in islice(kind(Attacks(port, TOKEN, seed)), EACH):
                answer = send(port, attack)
                assert not attack.failed(answer), (attack.kind, attack.data[:300], answer)
        assert named(port) == "p0"
    with Gallery.open(folder) as gallery:
        assert gallery.check() == []
        assert len(gallery) == 8
    said = caplog.text
    assert TOKEN not in said
    assert "Traceback" not in said


def test_slow_clients_are_let_go_while_others_are_served(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADERS", 1.5)
    with served(folder, Limits(seconds=1.5, waiting=4)) as port:
        asked = Attacks(port, TOKEN, 1)
        body = part(b"x" * 1000)
        form = f"multipart/form-data; boundary={BOUNDARY}"
        data = asked.request("POST", f"{API}/identify", body, Content_Type=form)
        dripping = [(0, data), (len(data) - len(body), data)] * 30
        found = []
        thread = threading.Thread(target=lambda: found.extend(slowly(port, dripping, 0.2, 20)))
        thread.start()
        while thread.is_alive():
            assert named(port) == "p0"
            time.sleep(0.1)
    assert len(found) == 60
    assert {None if one is None else one.status for one in found} <= {CLOSED, 408}


def test_who_waits_longest_makes_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST", 20)
    with served(folder) as port:
        idle = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(40)]
        assert named(port) == "p0"
        assert idle[0].recv(1) == b""
        for one in idle:
            one.close()


def test_what_was_refused_is_not_read_for_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGER", 0.3)
    with served(folder) as port:
        head = Attacks(port, TOKEN, 1).request("POST", API, Content_Length="60000000000")
        with socket.create_connection(("127.0.0.1", port), 10) as endless:
            endless.sendall(head)
            assert endless.recv(100).startswith(b"HTTP/1.1 413")
            with pytest.raises(OSError, match=r"reset|pipe"):
                pour(endless, bytes(100))


def test_who_takes_no_answer_is_let_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER", 0.5)
    with served(folder) as port:
        page = Attacks(port, TOKEN, 1).request("GET", "/page/app.js", Connection="keep-alive")
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.settimeout(20)
            deaf.connect(("127.0.0.1", port))
            with pytest.raises(OSError, match=r"reset|pipe"):
                pour(deaf, page * 20)
        assert named(port) == "p0"


def test_other_sites_may_ask_only_where_they_are_named(folder: Path) -> None:
    named, other = "https://shop.example:8443", "https://shop.example"
    question = {"Access-Control-Request-Method": "POST"}
    with TestClient(application([folder], ["testserver"], TOKEN, cors=[named])) as client:
        known = {"Authorization": f"Bearer {TOKEN}"}
        allowed = client.options(API, headers={"Origin": named} | question)
        assert allowed.status_code == 204
        assert allowed.headers["access-control-allow-origin"] == named
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
        assert client.options(API, headers={"Origin": other} | question).status_code == 403
        found = client.get(API, headers={"Origin": named} | known)
        assert (found.status_code, found.headers["vary"]) == (200, "Origin")
        assert found.headers["access-control-allow-origin"] == named
        assert client.get(API, headers={"Origin": named}).status_code == 401
        assert client.get(API, headers={"Origin": other} | known).status_code == 403
        assert "access-control-allow-origin" not in client.get(API, headers=known).headers
    with TestClient(application([folder], ["testserver"])) as client:
        refused = client.options(API, headers={"Origin": named} | question)
        assert refused.status_code == 403
        assert not [name for name in refused.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "origin", ["*", "null", "shop.example", "https://shop.example/", "file://x", "https://*.shop"]
)
def test_what_is_no_origin_cannot_be_named(folder: Path, origin: str) -> None:
    with pytest.raises(UsageError, match=re.escape(origin)):
        application([folder], ["testserver"], cors=[origin])


def test_a_log_moves_no_cursor_and_forges_no_line() -> None:
    record = logging.LogRecord(
        "x", logging.ERROR, "", 0, "bad %s", ("\x1b[2J\nERROR: a\u202e",), None
    )
    said = logs.Escaped("%(levelname)s: %(message)s").format(record)
    assert said == "ERROR: bad \\x1b[2J\n    ERROR: a\\u202e"


def test_a_form_that_is_cut_short_enrols_nothing(folder: Path) -> None:
    with TestClient(application([folder], ["testserver"])) as client:
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        form = part(b"new", "label", None) + part(picture_bytes()) + part(bytes(500))[:-40]
        refused = client.post(f"{API}/enroll", content=form, headers=kind)
        assert (refused.status_code, "cut short" in refused.json()["detail"]) == (400, True)
        assert client.get(API).json()["items"] == 8


def test_problems_name_no_folder_of_the_server(folder: Path) -> None:
    with TestClient(application([folder], ["testserver"])) as client:
        said = client.post(f"{API}/rename", json={"old": "nobody", "new": "x"}).json()["detail"]
        assert "no identity 'nobody' in shop" in said
        assert str(folder.parent) not in said
