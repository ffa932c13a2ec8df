"""The stand-in that the page is tested on promises nothing that the server does not give."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

import page_api
from starlette.testclient import TestClient
from test_serving import file, parts

from siamese_search import Gallery
from siamese_search.serving.app import application

HOSTS = ["testserver"]
FREE = {"metadata", "arguments", "thresholds"}  # what is in them is the user's
ASKED = [
    "galleries",
    "galleries/shop",
    "galleries/shop/identities",
    "galleries/shop/identity?name=p1",
    "galleries/shop/doubts?name=p1",
    "galleries/shop/items/1",
    "galleries/shop/unknowns",
    "galleries/shop/scores",
    "jobs",
    "jobs/1",
    "jobs/2",
]


def lacking(promised: Any, given: Any, where: str = "") -> list[str]:
    """Fields that are promised and not given; lists are looked at by their first rows."""
    if isinstance(promised, dict) and isinstance(given, dict):
        found = [f"{where}.{name}" for name in promised.keys() - given.keys()]
        for name in promised.keys() & given.keys():
            if name not in FREE:
                found += lacking(promised[name], given[name], f"{where}.{name}")
        return found
    if isinstance(promised, list) and isinstance(given, list) and promised and given:
        return lacking(promised[0], given[0], f"{where}[]")
    return []


def done(client: TestClient, kind: str) -> None:
    job = client.post("/api/v1/galleries/shop/jobs", json={"kind": kind, "arguments": {}}).json()
    deadline = time.monotonic() + 60
    while job["state"] in ("queued", "running") and time.monotonic() < deadline:
        time.sleep(0.02)
        job = client.get(f"/api/v1/jobs/{job['id']}").json()
    assert job["state"] == "done", job


@pytest.fixture
def clients(
    tmp_path: Path, pictures: Callable[..., Path], toy_folder: Path
) -> Iterator[tuple[TestClient, TestClient]]:
    """Of the stand-in, and of the server, with as much in their galleries."""
    shop = pictures({f"p{n}": 3 for n in range(6)})
    with Gallery.open(tmp_path / "shop", toy_folder) as gallery:
        gallery.enroll([shop])
        gallery.relabel(None, "p1", [1])  # for the audit to find
        gallery.calibrate(0.2)
    fake = page_api.Fake({"shop": {n + 1: f"p{n // 3}" for n in range(18)}})
    with (
        TestClient(page_api.application(fake)) as stand_in,
        TestClient(application([tmp_path / "shop"], HOSTS)) as server,
    ):
        yield stand_in, server


def test_the_stand_in_promises_no_more_than_the_server(
    clients: tuple[TestClient, TestClient],
) -> None:
    at = "/api/v1/galleries/shop"
    posted = {
        "identify?k=2&keep_unknown=true&threshold=1": parts(file(50)),
        "verify": parts(file(0), name="a") + parts(file(1), name="b"),
        "enroll": parts(file(60)),
    }
    wrong = []
    for path, files in posted.items():
        data = {"label": "new"} if path == "enroll" else {}
        answers = [one.post(f"{at}/{path}", files=files, data=data) for one in clients]
        assert [answer.status_code for answer in answers] in ([200, 200], [201, 201])
        promised, given = (answer.json() for answer in answers)
        wrong += lacking(promised, given, path)
    for client in clients:
        for kind in ("scores", "audit"):
            done(client, kind)
    for path in ASKED:
        answers = [client.get(f"/api/v1/{path}") for client in clients]
        assert [answer.status_code for answer in answers] == [200, 200], path
        promised, given = (answer.json() for answer in answers)
        wrong += lacking(promised, given, path)
    assert wrong == []
    moved = [client.post(f"{at}/move", json={"items": [5], "to": "p0"}) for client in clients]
    undone = [client.post(f"{at}/undo", json={}) for client in clients]
    for promised, given in (moved, undone):
        assert lacking(promised.json(), given.json()) == []
