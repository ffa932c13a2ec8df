from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture, toy_graph, write_toy_encoder
from PIL import Image

from siamese_search import Encoder
from siamese_search.embedding.record import read_record, resolve, shipped, write_encoder
from siamese_search.errors import EncoderError, ImageError, RuntimeUnavailable
from siamese_search.pictures.preprocessing import Preprocessing


def slow_embedding(image: Image.Image) -> list[float]:
    """What the toy graph computes, by the obvious loops."""
    pixels = np.asarray(image.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR), float)
    features = [
        float((pixels[y : y + 4, x : x + 4, channel] - 127).mean())
        for channel in range(3)
        for y in range(0, 16, 4)
        for x in range(0, 16, 4)
    ]
    features.append(1.0)
    length = sum(value * value for value in features) ** 0.5
    return [value / length for value in features]


def test_embeddings_are_what_the_graph_says(toy: Encoder) -> None:
    images = [picture(seed) for seed in range(40)]
    embeddings = toy.embed(images)
    assert embeddings.shape == (40, toy.dimension) == (40, 49)
    assert embeddings.dtype == np.float32
    for embedding, image in zip(embeddings, images, strict=True):
        assert embedding.tolist() == pytest.approx(slow_embedding(image), abs=2e-3)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(np.ones(40), abs=1e-5)


def test_paths_pictures_and_arrays_embed_the_same(toy: Encoder, tmp_path: Path) -> None:
    image = picture(3)
    image.save(tmp_path / "a.png")
    a, b, c, d = toy.embed([tmp_path / "a.png", str(tmp_path / "a.png"), image, np.asarray(image)])
    assert a.tolist() == b.tolist() == c.tolist() == d.tolist()


def test_an_image_embeds_the_same_alone_and_in_a_batch(toy: Encoder) -> None:
    images = [picture(seed) for seed in range(33)]
    together = toy.embed(images)
    assert np.abs(together - np.concatenate([toy.embed([image]) for image in images])).max() < 1e-6


def test_nothing_embeds_to_nothing(toy: Encoder) -> None:
    assert toy.embed([]).shape == (0, 49)


def test_an_unreadable_image_is_named(toy: Encoder, tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageError, match=r"b\.png"):
        toy.embed([picture(1), tmp_path / "b.png"])


def test_the_fingerprint_covers_what_determines_an_embedding(tmp_path: Path) -> None:
    base = Encoder.open(write_toy_encoder(tmp_path / "base")).fingerprint

    def fingerprint(**changes: Any) -> str:
        return Encoder.open(write_toy_encoder(tmp_path / "changed", **changes)).fingerprint

    assert len(base) == 64
    assert fingerprint() == base
    assert fingerprint(name="x", threshold=0.1, training={"seed": 1}) == base
    assert fingerprint(weights={"nothing": np.ones(1, np.float32)}) != base
    assert fingerprint(weights={"nothing": np.zeros(1, np.float16)}) != base
    assert fingerprint(architecture={"toy": 5}) != base
    assert fingerprint(preprocessing=Preprocessing(16, 16, crop_fraction=0.9)) != base


def test_damaged_encoders_are_refused(tmp_path: Path, toy_folder: Path) -> None:
    def copy(name: str) -> Path:
        shutil.copytree(toy_folder, tmp_path / name)
        return tmp_path / name

    folder = copy("graph")
    content = bytearray((folder / "encoder.onnx").read_bytes())
    content[100] ^= 1
    (folder / "encoder.onnx").write_bytes(content)
    with pytest.raises(EncoderError, match="wrong checksum"):
        Encoder.open(folder, "cpu").embed([picture(1)])
    (folder / "encoder.onnx").unlink()
    with pytest.raises(EncoderError, match="cannot read"):
        Encoder.open(folder, "cpu").embed([picture(1)])

    def edited(name: str, **changes: Any) -> Path:
        folder = copy(name)
        fields = json.loads((folder / "encoder.json").read_text()) | changes
        (folder / "encoder.json").write_text(json.dumps(fields))
        return folder

    with pytest.raises(EncoderError, match="newer siasearch"):
        Encoder.open(edited("newer", format=9))
    with pytest.raises(EncoderError, match="fingerprint"):
        Encoder.open(edited("other", dimension=50))
    with pytest.raises(EncoderError, match="damaged"):
        Encoder.open(edited("uncalibrated", calibration={}))
    (copy("text") / "encoder.json").write_text("{")
    with pytest.raises(EncoderError, match="damaged"):
        Encoder.open(tmp_path / "text")
    (copy("list") / "encoder.json").write_text("[]")
    with pytest.raises(EncoderError, match="damaged"):
        Encoder.open(tmp_path / "list")


def test_a_graph_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = write_toy_encoder(tmp_path / "e", onnx=b"not a graph")
    with pytest.raises(EncoderError, match="OpenVINO"):
        Encoder.open(folder, "cpu").embed([picture(1)])


def test_unknown_encoders_and_devices_are_named(tmp_path: Path, toy_folder: Path) -> None:
    with pytest.raises(EncoderError, match=r"'nonsense'.*shipped encoders"):
        resolve("nonsense")
    with pytest.raises(EncoderError, match=r"has no encoder\.json"):
        resolve(tmp_path)
    with pytest.raises(RuntimeUnavailable, match="unknown device 'tpu'"):
        Encoder.open(toy_folder, "tpu").embed([picture(1)])


def test_the_device_comes_from_the_environment(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIASEARCH_DEVICE", "tpu")
    with pytest.raises(RuntimeUnavailable, match="tpu"):
        Encoder.open(toy_folder).embed([picture(1)])


def test_an_encoder_is_complete_once_its_description_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[str] = []
    original = Path.replace

    def replace(self: Path, target: Path) -> Path:
        replaced.append(target.name)
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    fingerprint = write_encoder(
        tmp_path / "e",
        name="e",
        architecture={},
        preprocessing=Preprocessing(16, 16),
        dimension=49,
        onnx=toy_graph(16, 4),
        weights={"w": np.arange(3, dtype=np.float16)},
        threshold=0.5,
        calibration={"slope": 1.0, "offset": 0.0},
        training={},
    )
    assert replaced[-1] == "encoder.json"
    assert read_record(tmp_path / "e").fingerprint == fingerprint
    assert {path.name for path in (tmp_path / "e").iterdir()} == {
        "encoder.json",
        "encoder.onnx",
        "weights.safetensors",
    }


def test_confidence_is_the_calibrated_logistic(toy: Encoder) -> None:
    assert toy.confidence(0.8) == pytest.approx(0.5)
    assert toy.confidence(1.0) == pytest.approx(1 / (1 + np.exp(-4)))


@pytest.mark.parametrize("name", shipped())
def test_shipped_encoders_open_and_are_small(name: str) -> None:
    encoder = Encoder.open(name)
    assert encoder.name == name
    assert encoder.location == name
    assert sum(path.stat().st_size for path in encoder.folder.iterdir()) < 20e6
