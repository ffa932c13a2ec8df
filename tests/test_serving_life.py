"""What a server needs to start, what it does where that is gone, and how it ends."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from loading import drawn
from starlette.testclient import TestClient
from test_serving import API, HERE, parts

from siamese_search import Encoder, Gallery
from siamese_search.embedding.protection import VARIABLE, Key
from siamese_search.errors import EncoderError, KeyMissing
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
        job = client.post(f"{AT}/jobs", json={"kind": "calibrate"}).json()["id"]
        while not (ended := client.get(f"{API}/jobs/{job}").json())["ended"]:
            pass
    assert (ready.status_code, refused.status_code) == (503, 500)
    assert "'other' is neither a folder" in refused.json()["detail"]
    assert "'other' is neither a folder" in ended["error"]
    assert str(tmp_path) not in ready.text + refused.text + ended["error"]
