"""The server over HTTP: answers, changes, jobs, and what it refuses."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from starlette.testclient import TestClient

from siamese_search import Encoder, Gallery
from siamese_search.errors import UsageError
from siamese_search.gallery import editing
from siamese_search.serving.app import application
from siamese_search.serving.guards import Limits
from siamese_search.serving.openapi import openapi

Pictures = Callable[..., Path]
API = "/api/v1"
HERE = ["testserver", "localhost"]
TOKEN = "a token of some length"


def file(seed: int, noise: float = 0.0) -> bytes:
    kept = io.BytesIO()
    picture(seed, noise).save(kept, "PNG")
    return kept.getvalue()


def parts(*contents: bytes, name: str = "image") -> list[tuple[str, tuple[str, bytes]]]:
    return [(name, (f"{number}.png", data)) for number, data in enumerate(contents)]


@pytest.fixture
def folder(tmp_path: Path, pictures: Pictures, toy_folder: Path) -> Path:
    shop = pictures({f"p{n}": 2 for n in range(8)})
    with Gallery.open(tmp_path / "shop", toy_folder) as gallery:
        gallery.enroll([shop])
    return tmp_path / "shop"


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(application([folder], HERE)) as made:
        yield made


def waited(client: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while job["state"] in ("queued", "running") and time.monotonic() < deadline:
        time.sleep(0.02)
        job = client.get(f"{API}/jobs/{job['id']}").json()
    return job


def nearest(answered: Any) -> str:
    """The best identity for the first picture, named or not."""
    return str(answered.json()["answers"][0]["matches"][0]["identity"])


# Answers


def test_answers_are_those_of_the_gallery(client: TestClient, folder: Path) -> None:
    probes = [file(0), file(3, noise=20), b"no picture", file(99)]
    given = client.post(f"{API}/galleries/shop/identify?k=3", files=parts(*probes)).json()
    with Gallery.open(folder) as gallery:
        expected = list(gallery.identify_each(probes, k=3))
    for answer, (_, own) in zip(given["answers"], expected, strict=True):
        if "error" in answer:
            assert answer["error"] == str(own)
            continue
        assert not isinstance(own, Exception)
        assert answer["identity"] == own.identity
        assert answer["score"] == pytest.approx(own.score, abs=1e-5)
        assert answer["threshold"] == own.threshold
        assert [m["item"] for m in answer["matches"]] == [m.item for m in own.matches]
        assert answer["matches"][0].keys() >= {"identity", "score", "path", "metadata", "closer"}
    turned = client.post(f"{API}/galleries/shop/identify?turns=4", files=parts(probes[0])).json()
    assert turned["answers"][0]["matches"][0]["identity"] == "p0"


def test_many_at_once_share_batches_and_get_their_own_answers(client: TestClient) -> None:
    def asked(seed: int) -> str:
        return nearest(client.post(f"{API}/galleries/shop/identify?k=1", files=parts(file(seed))))

    with ThreadPoolExecutor(8) as pool:
        named = list(pool.map(asked, [n % 16 for n in range(64)]))
    assert named == [f"p{n % 16 // 2}" for n in range(64)]


def test_two_pictures_are_compared_and_explained(client: TestClient) -> None:
    files = [*parts(file(1), name="a"), *parts(file(1, noise=5), name="b")]
    found = client.post(f"{API}/galleries/shop/verify", files=files).json()
    assert found["same"]
    pytest.importorskip("matplotlib")
    drawn = client.post(f"{API}/galleries/shop/explain?item=1", files=parts(file(0)))
    assert drawn.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(drawn.content)).size[0] > 800
    assert (
        client.post(f"{API}/galleries/shop/explain?item=999", files=parts(file(0))).status_code
        == 404
    )
    pair = client.post(f"{API}/galleries/shop/verify/explain", files=files)
    assert Image.open(io.BytesIO(pair.content)).size[0] > 800
    nothing = parts(file(0), name="a") + parts(b"nothing", name="b")
    refused = client.post(f"{API}/galleries/shop/verify/explain", files=nothing)
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith("the second picture: ")


def test_galleries_say_what_they_are(client: TestClient) -> None:
    (one,) = client.get(f"{API}/galleries").json()
    assert (one["name"], one["items"], one["read_only"]) == ("shop", 16, False)
    whole = client.get(f"{API}/galleries/shop").json()
    assert (whole["gallery"], whole["calibration"], whole["identities"]) == ("shop", None, 8)
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    assert 'siasearch_items{gallery="shop"} 16' in client.get("/metrics").text


# Changes


def test_what_is_enrolled_is_known_at_once_and_kept(client: TestClient, folder: Path) -> None:
    data = {"label": "new <b>thing</b>", "metadata": json.dumps({"shelf": 3})}
    made = client.post(f"{API}/galleries/shop/enroll", files=parts(file(50), file(51)), data=data)
    assert made.status_code == 201
    report = made.json()
    assert (report["added"], len(report["numbers"])) == (2, 2)
    (answer,) = client.post(f"{API}/galleries/shop/identify", files=parts(file(50))).json()[
        "answers"
    ]
    assert answer["matches"][0]["identity"] == "new <b>thing</b>"
    assert answer["matches"][0]["metadata"] == {"shelf": "3"}
    with Gallery.open(folder) as gallery:
        assert gallery.items("new <b>thing</b>")[0].copy is not None
        assert gallery.check() == []
    number = report["numbers"][0]
    shown = client.get(f"{API}/galleries/shop/items/{number}/thumbnail?side=64")
    assert shown.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(shown.content)).size == (64, 64)
    again = client.get(
        f"{API}/galleries/shop/items/{number}/thumbnail?side=64",
        headers={"If-None-Match": shown.headers["etag"]},
    )
    assert (again.status_code, again.content) == (304, b"")


def test_names_are_listed_changed_and_taken_back(client: TestClient) -> None:
    at = f"{API}/galleries/shop"
    page = client.get(f"{at}/identities?limit=3").json()
    assert [one["name"] for one in page["identities"]] == ["p0", "p1", "p2"]
    assert (page["next"], page["total"]) == ("p2", 8)
    rest = client.get(f"{at}/identities?after=p2&limit=100").json()
    assert ([one["name"] for one in rest["identities"]][-1], rest["next"]) == ("p7", None)
    assert client.get(f"{at}/identities?search=P5").json()["total"] == 1
    jumped = client.get(f"{at}/identities?search=P&offset=5&limit=2").json()
    assert [one["name"] for one in jumped["identities"]] == ["p5", "p6"]
    assert jumped == client.get(f"{at}/identities?offset=5&limit=2").json()
    assert jumped["identities"][0]["cover"] == 11
    assert client.get(f"{at}/identities?offset=-1").status_code == 400
    page = client.get(f"{at}/identity?name=p1&limit=1").json()
    assert ([one["number"] for one in page["items"]], page["next"], page["total"]) == ([3], 3, 2)
    page = client.get(f"{at}/identity?name=p1&limit=1&after=3").json()
    assert ([one["number"] for one in page["items"]], page["next"]) == ([4], None)
    items = [one["number"] for one in client.get(f"{at}/identity?name=p1").json()["items"]]
    refused = client.post(f"{at}/rename", json={"old": "p1", "new": "p2"})
    assert (refused.status_code, refused.headers["content-type"]) == (
        409,
        "application/problem+json",
    )
    merged = client.post(f"{at}/rename", json={"old": "p1", "new": "p2", "merge": True}).json()
    assert merged == {"relabelled": 2, "change": client.get(at).json()["change"]}
    assert client.get(f"{at}/identity?name=p1").status_code == 404
    assert merged["change"]["what"] == "relabel"
    assert client.post(f"{at}/undo", json={}).status_code == 200
    moved = client.post(f"{at}/move", json={"items": items[:1], "to": "p7"}).json()
    assert moved["relabelled"] == 1
    removed = client.post(f"{at}/remove", json={"identity": "p7"}).json()
    assert (removed["removed"], removed["items"]) == (3, 13)
    assert removed["change"]["number"] > moved["change"]["number"]
    nothing = client.post(f"{at}/move", json={"items": items[1:], "to": "p1"}).json()
    assert nothing == {"relabelled": 0, "change": None}
    assert client.post(f"{at}/remove", json={"items": [10**9]}).status_code == 400
    undone = client.post(f"{at}/undo", json={"number": removed["change"]["number"]}).json()
    assert undone["undone"] == client.get(at).json()["undone"]
    redone = client.post(f"{at}/redo", json={"number": undone["undone"]["number"]}).json()
    assert (redone["what"], redone["change"]) == ("remove", client.get(at).json()["change"])
    assert client.post(f"{at}/redo").status_code == 400
    assert client.post(f"{at}/undo").status_code == 200
    assert client.get(at).json()["items"] == 16


def test_two_renames_to_one_name_at_once_merge_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = f"{API}/galleries/shop"
    both, numbers_of = threading.Barrier(2), editing.numbers_of

    def together(*arguments: Any) -> list[int]:
        both.wait(10)
        return numbers_of(*arguments)

    def renamed(old: str) -> int:
        return client.post(f"{at}/rename", json={"old": old, "new": "same"}).status_code

    monkeypatch.setattr(editing, "numbers_of", together)
    with ThreadPoolExecutor(2) as clients:
        assert sorted(clients.map(renamed, ["p1", "p2"])) == [200, 409]
    assert client.get(f"{at}/identity?name=same").json()["total"] == 2


def test_doubtful_items_of_an_identity_come_first(client: TestClient, folder: Path) -> None:
    at = f"{API}/galleries/shop"
    client.post(f"{at}/move", json={"items": [3], "to": "p0"})
    found = client.get(f"{at}/doubts", params={"name": "p0"}).json()
    assert found["of"] == 3
    with Gallery.open(folder) as gallery:
        expected = [one for one in gallery.left_out() if one.identity == "p0"]
    expected.sort(key=lambda one: -one.doubt)
    assert expected[0].doubt > 0
    assert found["doubts"] == [
        {
            "item": one.item,
            "doubt": pytest.approx(one.doubt, abs=1e-5),
            "other": one.others[0].identity,
            "other_item": one.others[0].item,
        }
        for one in expected
    ]
    assert client.get(f"{at}/doubts", params={"name": "p1"}).json() == {"doubts": [], "of": 1}
    assert client.get(f"{at}/doubts", params={"name": "nobody"}).status_code == 404


@pytest.mark.parametrize(
    ("path", "data", "said"),
    [
        ("enroll", {"label": "x", "metdata": "{}"}, "there is no field 'metdata' here"),
        ("identify", {"k": "1"}, "there is no field 'k' here: it is a parameter of the address"),
        ("enroll?label=x", {}, "there is no parameter 'label' here: it is a field of the body"),
        ("enroll?lable=x", {}, "there is no parameter 'lable' here"),
        ("identify?k=1&k=3", {}, "'k' is given 2 times: give it once"),
        ("identify?where=a=1&where=a=2", {}, "where has 'a' twice: an item has one value of it"),
        ("enroll", {"label": ["x", "y"]}, "'label' is given 2 times: give it once"),
        (
            "enroll",
            {"label": "x", "metadata": '{"a": 1, "a": 2}'},
            "'a' is given 2 times: give it once",
        ),
    ],
)
def test_fields_and_parameters_that_would_be_lost_are_named(
    client: TestClient, path: str, data: dict[str, Any], said: str
) -> None:
    answered = client.post(f"{API}/galleries/shop/{path}", data=data, files=parts(file(70)))
    assert answered.status_code == 400
    assert answered.json()["detail"] == said
    assert client.get(f"{API}/galleries/shop").json()["items"] == 16


def test_what_nobody_fits_is_kept_named_and_dropped(client: TestClient) -> None:
    at = f"{API}/galleries/shop"
    probes = parts(file(70), file(70, noise=8), file(80))
    assert client.post(f"{at}/identify?keep_unknown=true", files=probes).status_code == 200
    groups = client.get(f"{at}/unknowns").json()["groups"]
    assert sorted(group["count"] for group in groups) == [1, 2]
    large = groups[0]
    member = large["members"][0]
    assert client.get(f"{at}/unknowns/{member}/thumbnail").headers["content-type"] == "image/jpeg"
    made = client.post(
        f"{at}/unknowns/{large['number']}/enroll",
        json={"label": "found", "without": large["members"][1:]},
    )
    assert made.json()["added"] == 1
    for group in client.get(f"{at}/unknowns").json()["groups"]:
        assert client.delete(f"{at}/unknowns/{group['number']}").json()["dropped"] == 1
    assert client.get(f"{at}/unknowns").json() == {"groups": [], "next": None}


def test_pictures_of_a_group_that_nobody_saw_are_left_alone(client: TestClient) -> None:
    at = f"{API}/galleries/shop"

    def kept(*probes: bytes) -> dict[str, Any]:
        asked = client.post(f"{at}/identify?keep_unknown=true", files=parts(*probes))
        assert asked.status_code == 200
        return dict(client.get(f"{at}/unknowns").json()["groups"][0])

    seen = kept(file(70), file(70, noise=8))
    grown = kept(file(70, noise=6), file(70, noise=4))
    assert (grown["number"], grown["count"]) == (seen["number"], 4)
    group, some = f"{at}/unknowns/{seen['number']}", {"members": seen["members"][:1]}
    assert client.request("DELETE", group, json=some).json()["dropped"] == 1
    for nonsense in ({"without": some["members"], "nonsense": 1}, {"members": "all"}):
        assert client.request("DELETE", group, json=nonsense).status_code == 400
    wanted = {"label": "mine", "members": seen["members"]}
    refused = client.post(f"{group}/enroll", json=wanted)
    assert refused.status_code == 400
    assert "is not kept any more in shop: nothing was changed" in refused.json()["detail"]
    made = client.post(f"{group}/enroll", json=wanted | {"members": seen["members"][1:]})
    assert made.json()["added"] == 1
    left = client.get(f"{at}/unknowns").json()["groups"][0]["members"]
    assert sorted(left) == sorted({*grown["members"]} - {*seen["members"]})


def test_parts_of_an_enrolment_are_one_change_and_others_are_not_taken_back(
    client: TestClient,
) -> None:
    at = f"{API}/galleries/shop"

    def enrolled(*seeds: int, **data: Any) -> dict[str, Any]:
        form = {"label": "new"} | data
        made = client.post(f"{at}/enroll", files=parts(*map(file, seeds)), data=form)
        assert made.status_code == 201
        return dict(made.json()["change"])

    first = enrolled(50, 51)
    whole = enrolled(52, change=first["number"])
    assert (whole["number"], whole["items"]) == (first["number"], 3)
    others = enrolled(60, label="another's")
    refused = client.post(f"{at}/undo", json={"number": whole["number"]})
    assert (refused.status_code, refused.json()["detail"]) == (
        400,
        "the gallery has been changed meanwhile: look again",
    )
    later = enrolled(53, change=whole["number"])
    assert (later["number"] > others["number"], later["items"]) == (True, 1)
    for change, left in ((later, 20), (others, 19), (whole, 16)):
        assert client.post(f"{at}/undo", json={"number": change["number"]}).status_code == 200
        assert client.get(at).json()["items"] == left
    again = enrolled(54, change=whole["number"])  # which is there no more
    assert (again["items"], again["what"]) == (1, "add")
    assert client.get(at).json()["items"] == 17


# Jobs


def test_jobs_calibrate_audit_and_score(client: TestClient) -> None:
    at = f"{API}/galleries/shop"
    assert client.get(f"{at}/scores").status_code == 409
    made = client.post(f"{at}/jobs", json={"kind": "calibrate", "arguments": {"fpir": 0.2}})
    assert made.status_code == 202
    assert waited(client, made.json())["state"] == "done"
    assert client.get(at).json()["calibration"]["fpir"] == 0.2

    def done(kind: str, **arguments: Any) -> dict[str, Any]:
        asked = client.post(f"{at}/jobs", json={"kind": kind, "arguments": arguments})
        return waited(client, asked.json())

    audit = done("audit")
    assert audit["result"].keys() == {"suspects", "duplicates", "confusable", "items"}
    assert (
        waited(client, client.post(f"{at}/jobs", json={"kind": "scores"}).json())["state"] == "done"
    )
    scores = client.get(f"{at}/scores").json()
    assert len(scores["impostor"]) == 16
    assert {point["rate"] for point in scores["points"]} >= {0.2}
    for point in scores["points"]:
        shares = [value is not None and value >= point["threshold"] for value in scores["impostor"]]
        assert point["fpir"] == pytest.approx(sum(shares) / 16)
    assert scores["calibrated"]
    assert len(scores["items"]) == len(scores["genuine"]) == len(scores["right"]) == 16
    pairs = zip(scores["genuine"], scores["right"], strict=True)
    hits = [score >= scores["threshold"] and right for score, right in pairs]
    assert scores["fnir"] == pytest.approx(1 - sum(hits) / 16)
    assert {one["name"]: one["named"] for one in scores["per_identity"]} == {
        f"p{n}": sum(hits[2 * n : 2 * n + 2]) for n in range(8)
    }
    assert sum(one["times"] for one in scores["confusions"]) == scores["right"].count(False)
    assert scores["det"][0]["fpir"] >= scores["det"][-1]["fpir"]
    assert not scores["stale"]
    failed = waited(
        client,
        client.post(f"{at}/jobs", json={"kind": "calibrate", "arguments": {"fpir": 7}}).json(),
    )
    assert failed["state"] == "failed"
    assert "fpir is 7: give a share" in failed["error"]
    assert client.get(f"{at}/scores").json() == scores  # what was measured holds
    client.post(f"{at}/rename", json={"old": "p1", "new": "renamed"})
    assert client.get(f"{at}/scores").json() == scores | {"stale": True}
    assert done("calibrate", fpir=0.2)["state"] == "done"
    assert client.get(f"{at}/scores").status_code == 409
    assert client.post(f"{at}/jobs", json={"kind": "dance"}).status_code == 400
    refused = client.post(
        f"{at}/jobs", json={"kind": "calibrate", "arguments": {"strangers": "/etc"}}
    )
    assert refused.status_code == 400
    assert [job["kind"] for job in client.get(f"{API}/jobs").json()][:2] == ["calibrate", "audit"]
    assert client.delete(f"{API}/jobs/{failed['id']}").json()["state"] == "failed"
    assert client.get(f"{API}/jobs/nothing").status_code == 404


def test_a_running_job_is_cancelled(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    going = threading.Event()

    def slow(_: Gallery, *, watch: Any) -> None:
        going.set()
        for done in range(10_000):
            time.sleep(0.002)
            watch(type("P", (), {"stage": "searching", "done": done, "total": 10_000})())

    monkeypatch.setattr(Gallery, "audit", slow)
    job = client.post(f"{API}/galleries/shop/jobs", json={"kind": "audit"}).json()
    assert going.wait(10)
    client.delete(f"{API}/jobs/{job['id']}")
    assert waited(client, job)["state"] == "cancelled"


def test_what_shows_no_progress_is_not_cancelled_once_it_runs(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, end = threading.Event(), threading.Event()

    def slow(_: Gallery) -> None:
        going.set()
        end.wait(10)

    monkeypatch.setattr(Gallery, "compact", slow)
    running, waiting = (
        client.post(f"{API}/galleries/shop/jobs", json={"kind": "compact"}).json() for _ in range(2)
    )
    assert going.wait(10)
    refused = client.delete(f"{API}/jobs/{running['id']}")
    assert (refused.status_code, "cannot be cancelled" in refused.json()["detail"]) == (409, True)
    assert client.delete(f"{API}/jobs/{waiting['id']}").json()["state"] == "cancelled"
    end.set()
    assert waited(client, running)["state"] == "done"


# What is refused


def test_a_server_that_is_read_only_changes_nothing(folder: Path) -> None:
    with TestClient(application([folder], HERE, read_only=True)) as client:
        at = f"{API}/galleries/shop"
        changes = [
            client.post(f"{at}/enroll", files=parts(file(9)), data={"label": "x"}),
            client.post(f"{at}/rename", json={"old": "p1", "new": "q"}),
            client.post(f"{at}/move", json={"items": [1], "to": "q"}),
            client.post(f"{at}/remove", json={"items": [1]}),
            client.post(f"{at}/undo"),
            client.delete(f"{at}/unknowns/1"),
            client.post(f"{at}/jobs", json={"kind": "compact"}),
            client.post(f"{at}/identify?keep_unknown=1", files=parts(file(70))),
        ]
        assert {change.status_code for change in changes} == {403}
        assert client.post(f"{at}/identify", files=parts(file(0))).status_code == 200


def test_without_the_token_nothing_is_told(folder: Path) -> None:
    with TestClient(application([folder], HERE, token=TOKEN)) as client:
        for operation in openapi()["paths"].items():
            path = operation[0].replace("{g}", "shop").replace("{n}", "1").replace("{id}", "1")
            for method in operation[1]:
                for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
                    assert client.request(method, path, headers=headers).status_code == 401
        assert client.get("/metrics").status_code == 401
        assert client.get("/health").status_code == 200
        known = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get(f"{API}/galleries", headers=known).status_code == 200


def test_other_hosts_and_pages_are_refused_everywhere(client: TestClient) -> None:
    for path in ("/", "/health", "/openapi.json", f"{API}/galleries", f"{API}/galleries/shop"):
        assert client.get(path, headers={"Host": "evil.example"}).status_code == 400
        assert client.get(path, headers={"Origin": "http://evil.example"}).status_code == 403
        assert client.get(path, headers={"Origin": "null"}).status_code == 403
        assert client.get(path, headers={"Origin": "http://testserver"}).status_code < 400


def test_too_much_is_refused(folder: Path) -> None:
    with TestClient(application([folder], HERE, limits=Limits(body=20_000))) as client:
        at = f"{API}/galleries/shop/identify"
        assert client.post(at, files=parts(bytes(30_000))).status_code == 413

        def endless() -> Iterator[bytes]:
            for _ in range(100):
                yield bytes(1000)

        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        assert client.post(at, content=endless(), headers=kind).status_code == 413
        assert client.post(at, files=parts(*[b"x"] * 33)).status_code == 400
        assert client.post(at, content=b"x").status_code == 415
        assert client.post(at, files=parts(b"x", name="other")).status_code == 400
        assert client.post(f"{at}?k=0", files=parts(b"x")).status_code == 400
        assert client.post(f"{at}?k=9999999999", files=parts(b"x")).status_code == 400
        assert client.post(f"{at}?threshold=nan", files=parts(b"x")).status_code == 400
        assert client.post(f"{at}?rule=none", files=parts(b"x")).status_code == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("rename", b"{"),
        ("rename", b"[1]"),
        ("rename", b'{"old": 1, "new": "x"}'),
        ("rename", b"[" * 100_000),
        ("rename", b'{"old": "nobody", "new": "x"}'),
        ("rename", b'{"old": "p1", "new": "x", "new": "y"}'),
        ("move", b'{"items": ["1"], "to": "x"}'),
        ("move", b'{"items": [true], "to": "x"}'),
        ("move", b'{"items": [-1], "to": "x"}'),
        ("move", b'{"items": [1e400], "to": "x"}'),
        ("remove", b"{}"),
        ("remove", b'{"items": [1], "identity": "p1"}'),
        ("remove", b'{"path": "/etc/passwd"}'),
        ("jobs", b'{"kind": {}}'),
    ],
)
def test_bodies_that_make_no_sense_are_problems(client: TestClient, path: str, body: bytes) -> None:
    answer = client.post(f"{API}/galleries/shop/{path}", content=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


def test_paths_lead_nowhere_else(client: TestClient) -> None:
    for path in (
        "/page/../../errors.py", "/page/%2e%2e/app.py", "/page/..%2f..%2ferrors.py", "/page/%00",
        f"{API}/galleries/..%2f..%2fetc", f"{API}/galleries/shop/items/..%2f1/picture",
        f"{API}/galleries/shop/items/99999999999999999999/picture", "/etc/passwd",
    ):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code in (400, 404), path
        assert "import" not in answer.text


def test_every_answer_has_the_headers_that_protect_a_page(client: TestClient) -> None:
    for path in ("/", "/health", f"{API}/galleries", "/nothing"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in headers
        assert "access-control-allow-origin" not in headers


def test_the_document_describes_every_operation() -> None:
    paths = openapi()["paths"]
    assert len({one["operationId"] for path in paths.values() for one in path.values()}) == sum(
        map(len, paths.values())
    )
    for path, methods in paths.items():
        for one in methods.values():
            named = {given["name"] for given in one["parameters"] if given["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert one["summary"]
    (limit,) = (
        given["schema"]
        for given in paths[f"{API}/galleries/{{g}}/identity"]["get"]["parameters"]
        if given["name"] == "limit"
    )
    assert "default" not in limit  # all are given


def test_galleries_of_one_name_are_refused(folder: Path, tmp_path: Path, toy: Encoder) -> None:
    Gallery.open(tmp_path / "other" / "shop", toy).close()
    with pytest.raises(UsageError, match="two galleries are named 'shop'"):
        application([folder, tmp_path / "other" / "shop"], HERE)


def test_an_encoder_may_be_switched_while_it_is_asked(
    client: TestClient, folder: Path, coarse: Encoder
) -> None:
    at = f"{API}/galleries/shop/identify?k=1"
    assert nearest(client.post(at, files=parts(file(4)))) == "p2"
    with Gallery.open(folder) as gallery:
        gallery.rebuild(coarse)
    assert nearest(client.post(at, files=parts(file(4)))) == "p2"
    assert np.isfinite(client.get(f"{API}/galleries/shop").json()["dimension"])
