"""The state that a server shows: its version, and the pictures that it keeps."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from starlette.testclient import TestClient
from test_serving import API, HERE, file, parts, waited

from siamese_search import Encoder, Gallery
from siamese_search.errors import GalleryMismatch, UsageError
from siamese_search.gallery.identification import Question
from siamese_search.pictures.read import content_hash
from siamese_search.serving.app import application
from siamese_search.serving.hosted import Host


@pytest.fixture
def folder(tmp_path: Path, pictures: Callable[..., Path], toy: Encoder) -> Path:
    with Gallery.open(tmp_path / "shop", toy) as gallery:
        gallery.enroll([pictures({f"p{n}": 2 for n in range(8)})])
    return tmp_path / "shop"


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(application([folder], HERE)) as made:
        yield made


def test_every_change_makes_another_version(client: TestClient, folder: Path) -> None:
    at = f"{API}/galleries/shop"
    seen: list[str] = []

    def version() -> str:
        asked = client.post(f"{at}/identify?k=1", files=parts(file(0))).json()
        listed = client.get(f"{at}/identities")
        assert listed.headers["etag"] == f'W/"{asked["version"]}"'
        with Gallery.open(folder) as gallery:
            assert gallery.version == asked["version"]
        return str(asked["version"])

    def changed(answer: Any) -> None:
        assert answer.status_code < 300
        seen.append(version())

    seen.append(version())
    changed(client.post(f"{at}/enroll", files=parts(file(50)), data={"label": "new"}))
    changed(client.post(f"{at}/rename", json={"old": "new", "new": "newer"}))
    changed(client.post(f"{at}/undo"))
    changed(client.post(f"{at}/remove", json={"identity": "new"}))
    job = client.post(f"{at}/jobs", json={"kind": "calibrate"})
    waited(client, job.json())
    changed(job)
    assert len(set(seen)) == len(seen)
    assert version() == version() == seen[-1]


def test_who_knows_a_listing_is_not_sent_it_again(client: TestClient) -> None:
    at = f"{API}/galleries/shop"
    for path in ("", "/identities", "/identity?name=p1", "/unknowns"):
        tag = client.get(f"{at}{path}").headers["etag"]
        for known in (tag, f'"else", {tag}', tag.removeprefix("W/")):
            again = client.get(f"{at}{path}", headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
        client.post(f"{at}/move", json={"items": [1], "to": f"other {path}"})
        assert client.get(f"{at}{path}", headers={"If-None-Match": tag}).status_code == 200


def test_embeddings_are_never_searched_under_another_encoder(
    folder: Path, toy: Encoder, coarse: Encoder
) -> None:
    with Gallery.open(folder) as gallery, gallery.reading() as version:
        vectors = toy.embed([file(4)])
        (answer,) = gallery.identify_embeddings(vectors, encoder=toy)
        assert (answer.matches[0].identity, version) == ("p2", gallery.version)
        with pytest.raises(GalleryMismatch):
            gallery.identify_embeddings(coarse.embed([file(4)]), encoder=coarse)


def test_turns_may_be_asked_by_embeddings(folder: Path, toy: Encoder) -> None:
    with Gallery.open(folder) as gallery:
        vectors = toy.embed([file(4), file(99)])
        (answer,) = gallery.identify_embeddings(vectors, turns=2)
        assert answer.matches[0].identity == "p2"
        with pytest.raises(UsageError, match="2 turns"):
            gallery.identify_embeddings(vectors[:1], turns=2)


# Kept pictures


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("asked", ["threshold=1", "fpir=0.1", "where=shop=north", "turns=4"])
def test_what_is_kept_is_what_was_called_unknown(folder: Path, workers: int, asked: str) -> None:
    """Whatever was asked, and however it would be answered without that."""
    if workers and not hasattr(signal, "pthread_sigmask"):
        pytest.skip("there are no workers")
    probes = [file(4, 3), file(70), file(6, 3), file(80)]
    with Gallery.open(folder) as gallery:
        gallery.calibrate(0.2)
        gallery.enroll([file(200 + n) for n in range(3)], "north", metadata={"shop": "north"})
    at = f"{API}/galleries/shop"
    with TestClient(application([folder], HERE, workers=workers)) as client:
        path = f"{at}/identify?keep_unknown=true&{asked}"
        answers = client.post(path, files=parts(*probes)).json()["answers"]
        groups = client.get(f"{at}/unknowns").json()["groups"]
    strange = {
        content_hash(data)
        for data, answer in zip(probes, answers, strict=True)
        if answer["identity"] is None
    }
    with Gallery.open(folder) as gallery:
        kept = [gallery.unknown(number) for group in groups for number in group["members"]]
    assert {content_hash(data) for data in kept} == strange
    if asked in ("threshold=1", "where=shop=north"):
        assert {content_hash(data) for data in probes[::2]} & strange  # who is enrolled


def test_a_kept_picture_is_known_by_what_it_shows(client: TestClient, folder: Path) -> None:
    at = f"{API}/galleries/shop"
    client.post(f"{at}/identify?keep_unknown=true", files=parts(file(70), file(80)))
    first, second = (f"{at}/unknowns/{number}/thumbnail" for number in (1, 2))
    shown = client.get(first)
    tag = {"If-None-Match": shown.headers["etag"]}
    assert client.get(first, headers=tag).status_code == 304
    other = client.get(second, headers=tag)
    assert (other.status_code, other.content == shown.content) == (200, False)
    # What said nothing of the picture but its number.
    for number, path in ((2, second), (99, f"{at}/unknowns/99/thumbnail")):
        answered = client.get(path, headers={"If-None-Match": f'"unknown-{number}-160"'})
        assert answered.status_code == (200 if number == 2 else 404)
    client.post(f"{at}/unknowns/1/enroll", json={"label": "found", "members": [1]})
    assert client.get(first, headers=tag).status_code == 404
    (folder / "unknowns" / f"{content_hash(file(80))}.png").unlink()
    assert client.get(second).status_code == 404
    (number,) = (one["number"] for one in client.get(f"{at}/identity?name=found").json()["items"])
    assert client.get(f"{at}/items/{number}/thumbnail", headers=tag).status_code == 304


def test_what_was_embedded_by_another_encoder_is_not_kept(
    folder: Path, toy: Encoder, coarse: Encoder
) -> None:
    (vector,) = coarse.embed([file(70)])
    with Gallery.open(folder) as gallery:
        with pytest.raises(GalleryMismatch, match="has another encoder now"):
            gallery.keep_unknown(file(70), vector, coarse.fingerprint)
        with pytest.raises(UsageError, match="unit length"):
            gallery.keep_unknown(file(70), 2 * toy.embed([file(70)])[0], toy.fingerprint)
        assert gallery.count_unknowns() == 0


def test_pictures_of_dropped_unknowns_go_once_nothing_can_bring_them_back(
    client: TestClient, folder: Path
) -> None:
    at = f"{API}/galleries/shop"

    def kept(seed: int) -> Path:
        asked = client.post(f"{at}/identify?keep_unknown=true", files=parts(file(seed)))
        assert asked.status_code == 200
        return folder / "unknowns" / f"{hashlib.sha256(file(seed)).hexdigest()}.png"

    def compacted() -> set[Path]:
        (folder / "unknowns" / "notes.txt").touch()
        with Gallery.open(folder) as gallery:
            gallery.compact()
        return {path for path in places if path.exists()}

    enrolled, dropped, waiting = places = [kept(70), kept(80), kept(90)]

    def numbers() -> list[int]:
        groups = client.get(f"{at}/unknowns").json()["groups"]
        return sorted(group["number"] for group in groups)

    first, second, third = numbers()
    made = client.post(f"{at}/unknowns/{first}/enroll", json={"label": "found"})
    assert made.json()["added"] == 1
    assert client.delete(f"{at}/unknowns/{second}").json()["dropped"] == 1
    client.post(f"{at}/undo")  # before it is forgotten, nothing is lost
    assert compacted() == set(places)
    assert numbers() == [second, third]
    assert client.delete(f"{at}/unknowns/{second}").json()["dropped"] == 1
    assert dropped.exists()
    assert compacted() == {enrolled, waiting}  # an item has no other picture
    client.post(f"{at}/remove", json={"identity": "found"})
    assert client.post(f"{at}/undo").status_code == 200
    assert compacted() == {enrolled, waiting}
    client.post(f"{at}/remove", json={"identity": "found"})
    assert compacted() == {waiting}
    assert (folder / "unknowns" / "notes.txt").exists()


def test_an_answer_and_its_version_are_read_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = []
    identify = Gallery.identify_embeddings

    def watched(self: Gallery, *arguments: Any, **options: Any) -> Any:
        inside.append(self._catalog._db.in_transaction)
        return identify(self, *arguments, **options)

    monkeypatch.setattr(Gallery, "identify_embeddings", watched)
    host = Host([folder], False)
    try:
        (path,) = list((folder.parent / "pictures" / "p0").glob("0.png"))
        host["shop"].identify([path.read_bytes()], Question())
    finally:
        host.close()
    assert inside == [True]
