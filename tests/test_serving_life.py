"""What a server needs to start, what it does where that is gone, and how it ends."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from loading import drawn
from starlette.testclient import TestClient
from test_serving import API, HERE, nearest, parts, waited

from siamese_search import Encoder, Gallery
from siamese_search.embedding.protection import VARIABLE, Key
from siamese_search.errors import EncoderError, GalleryMissing, KeyMissing
from siamese_search.serving import jobs
from siamese_search.serving.app import application

AT = f"{API}/galleries/shop"


@pytest.fixture
def encoder(tmp_path: Path, toy_folder: Path) -> Path:
    """A folder that can be moved away."""
    return Path(shutil.copytree(toy_folder, tmp_path / "encoders" / "mine"))


@pytest.fixture
def folder(tmp_path: Path, pictures: Callable[..., Path], encoder: Path) -> Path:
    with Gallery.open(tmp_path / "shop", encoder) as gallery:
        gallery.enroll([pictures({f"p{n}": 2 for n in range(4)})])
    return tmp_path / "shop"


# Encoder and key


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("lacks", ["encoder.json", "encoder.onnx"])
def test_without_its_encoder_no_server_starts(
    folder: Path, encoder: Path, lacks: str, workers: int
) -> None:
    (encoder / lacks).unlink()
    with pytest.raises(EncoderError, match="mine"):
        application([folder], HERE, workers=workers)


def test_the_way_out_of_a_missing_encoder_is_one(folder: Path, encoder: Path) -> None:
    moved = encoder.rename(encoder.with_name("moved"))
    with pytest.raises(EncoderError, match="move it back, or give it once by --encoder"):
        application([folder], HERE)
    with Gallery.open(folder, moved) as gallery:  # as --encoder does
        gallery.identify([drawn(1)])
    with TestClient(application([folder], HERE)) as client:
        assert client.get("/ready").is_success


def test_without_its_key_no_server_starts(
    tmp_path: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other, protected = (tmp_path / name for name in ("own.key", "other.key", "protected"))
    Key.made(own)
    Key.made(other)
    Gallery.open(protected, toy.protected(own)).close()
    for value, said in (
        ("", "give its key, by --key FILE"),
        (str(other), "is not the key"),
        (str(tmp_path / "none.key"), "cannot be read"),
    ):
        monkeypatch.setenv(VARIABLE, value)
        with pytest.raises(KeyMissing, match=said):
            application([protected], HERE)


def test_a_server_whose_encoder_is_gone_is_not_ready_and_names_no_folder(
    folder: Path, coarse_folder: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(coarse_folder, tmp_path / "encoders" / "other"))
    with TestClient(application([folder], HERE)) as client:
        assert client.get(AT).json()["encoder"] == "mine"
        assert client.get(f"{API}/galleries").json()[0]["encoder"] == "mine"
        with Gallery.open(folder) as gallery:
            gallery.rebuild(other)
        shutil.rmtree(other)
        ready = client.get("/ready")
        refused = client.post(f"{AT}/identify", files=parts(drawn(0)))
        ended = waited(client, client.post(f"{AT}/jobs", json={"kind": "calibrate"}).json())
    assert (ready.status_code, refused.status_code) == (503, 500)
    assert "'other' is neither a folder" in refused.json()["detail"]
    assert "'other' is neither a folder" in ended["error"]
    assert str(tmp_path) not in ready.text + refused.text + ended["error"]


# The folder


@pytest.mark.parametrize("workers", [0, 1])
def test_a_gallery_that_takes_another_s_place_answers(
    folder: Path, tmp_path: Path, toy: Encoder, workers: int
) -> None:
    with Gallery.open(tmp_path / "next" / "shop", toy) as other:
        other.enroll([drawn(0)], "other")
    with TestClient(application([folder], HERE, workers=workers)) as client:
        assert nearest(client.post(f"{AT}/identify", files=parts(drawn(0)))) == "p0"
        folder.rename(tmp_path / "before")
        (tmp_path / "next" / "shop").rename(folder)
        assert nearest(client.post(f"{AT}/identify", files=parts(drawn(0)))) == "other"
        sent = client.post(f"{AT}/enroll", files=parts(drawn(7)), data={"label": "new"})
        assert sent.status_code == 201
        assert nearest(client.post(f"{AT}/identify", files=parts(drawn(7)))) == "new"
        assert 'siasearch_items{gallery="shop"} 2\n' in client.get("/metrics").text
    with Gallery.open(folder) as gallery:
        assert len(gallery) == 2
    with Gallery.open(tmp_path / "before") as gallery:
        assert len(gallery) == 8


def test_a_job_is_done_on_the_gallery_that_is_there(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    with TestClient(application([folder], HERE)) as client:
        shutil.rmtree(folder)
        (tmp_path / "copy").rename(folder)
        job = client.post(f"{AT}/jobs", json={"kind": "compact"}).json()
        assert waited(client, job)["state"] == "done"


def test_a_gallery_that_is_gone_is_said_and_nothing_is_made_in_its_place(
    folder: Path, tmp_path: Path
) -> None:
    with TestClient(application([folder], HERE)) as client:
        gone = folder.rename(tmp_path / "gone")
        for path in (AT, "/ready"):
            assert client.get(path).status_code == 503
        sent = client.post(f"{AT}/enroll", files=parts(drawn(7)), data={"label": "new"})
        assert (sent.status_code, sent.headers["retry-after"]) == (503, "1")
        assert "the gallery shop is not there now" in sent.json()["detail"]
        assert client.get("/metrics").is_success
        assert not folder.exists()
        gone.rename(folder)
        assert client.get("/ready").is_success
        assert client.get(AT).json()["items"] == 8


def test_an_open_gallery_whose_folder_was_replaced_is_an_error(
    folder: Path, tmp_path: Path
) -> None:
    with Gallery.open(folder) as gallery:
        folder.rename(tmp_path / "gone")
        with pytest.raises(GalleryMissing, match=r"removed or replaced .* open the gallery again"):
            len(gallery)
        shutil.copytree(tmp_path / "gone", folder)
        with pytest.raises(GalleryMissing, match="removed or replaced"):
            gallery.enroll([drawn(7)], "new")


# The end


def test_nothing_begins_to_be_written_while_a_job_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, closed = threading.Event(), threading.Event()

    def endless(gallery: Gallery) -> None:
        going.set()
        try:
            while True:
                time.sleep(0.01)
                gallery.relabel("p0", "p0")
        finally:
            closed.set()

    monkeypatch.setattr(jobs, "MOMENT", 60.0)
    monkeypatch.setattr(Gallery, "compact", endless)
    with TestClient(application([folder], HERE)) as client:
        client.post(f"{AT}/jobs", json={"kind": "compact"})
        assert going.wait(10)
        begun = time.monotonic()
    assert closed.is_set()
    assert time.monotonic() - begun < 30
