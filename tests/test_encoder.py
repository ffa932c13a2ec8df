from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from conftest import picture, toy_graph, write_toy_encoder
from onnx import numpy_helper
from PIL import Image

from siamese_search import Encoder, Gallery
from siamese_search.embedding.record import (
    SHIPPED,
    read_record,
    resolve,
    shipped,
    verified_weights,
    write_encoder,
)
from siamese_search.errors import EncoderError, GalleryMismatch, ImageError, RuntimeUnavailable
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
    original = os.replace

    def replace(source: Path, target: Path) -> None:
        replaced.append(target.name)
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
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


def other_graph() -> bytes:
    """The toy graph with the first pixels alone: another function of the same shape."""
    model = onnx.load_from_string(toy_graph(16, 4))
    for constant in model.graph.initializer:
        if constant.name == "middle":
            constant.CopyFrom(numpy_helper.from_array(np.array(9.0, np.float32), "middle"))
    content: bytes = model.SerializeToString()
    return content


def in_format_1(folder: Path, graph: bytes | None = None) -> Path:
    """A toy encoder as it was written before the graph counted; ``graph`` by hand, with a digest
    to match.
    """
    with zipfile.ZipFile(Path(__file__).parent / "golden" / "encoder-1.zip") as archive:
        archive.extractall(folder)
    if graph is not None:
        replace_graph(folder / "toy", graph)
    return folder / "toy"


def replace_graph(folder: Path, graph: bytes) -> None:
    fields = json.loads((folder / "encoder.json").read_text())
    fields["digests"]["encoder.onnx"] = hashlib.sha256(graph).hexdigest()
    (folder / "encoder.json").write_text(json.dumps(fields))
    (folder / "encoder.onnx").write_bytes(graph)


def test_the_fingerprint_tells_one_graph_from_another(tmp_path: Path) -> None:
    one = Encoder.open(write_toy_encoder(tmp_path / "one"), "cpu")
    two = Encoder.open(write_toy_encoder(tmp_path / "two", onnx=other_graph()), "cpu")
    assert one.record.weights == two.record.weights
    assert np.abs(one.embed([picture(1)]) - two.embed([picture(1)])).max() > 0.01
    assert one.fingerprint != two.fingerprint
    with Gallery.open(tmp_path / "gallery", one), pytest.raises(GalleryMismatch):
        Gallery.open(tmp_path / "gallery", two)
    replace_graph(tmp_path / "one", other_graph())
    with pytest.raises(EncoderError, match="does not carry its own fingerprint"):
        Encoder.open(tmp_path / "one")


def test_a_format_2_encoder_does_not_pass_for_one_of_format_1(tmp_path: Path) -> None:
    folder = write_toy_encoder(tmp_path / "e")
    fields = json.loads((folder / "encoder.json").read_text()) | {"format": 1}
    (folder / "encoder.json").write_text(json.dumps(fields))
    with pytest.raises(EncoderError, match="fingerprint"):
        Encoder.open(folder)


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_encoder_with_another_graph_is_refused(name: str, tmp_path: Path) -> None:
    shutil.copytree(SHIPPED / name, tmp_path / name)
    assert Encoder.open(tmp_path / name).fingerprint == Encoder.open(name).fingerprint
    replace_graph(tmp_path / name, b"another graph")
    in_fingerprint = Encoder.open(name).record.format > 1
    says = "its own fingerprint" if in_fingerprint else "is not the graph of the encoder"
    with pytest.raises(EncoderError, match=says):
        Encoder.open(tmp_path / name)


def test_another_graph_of_an_encoder_of_format_1_enrols_nothing(tmp_path: Path) -> None:
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
    folder = tmp_path / "gallery"
    with Gallery.open(folder, in_format_1(tmp_path / "e"), "cpu") as gallery:
        gallery.enroll([tmp_path / "0.png"])
        gallery.enroll([tmp_path / "1.png"])
    in_format_1(tmp_path / "e", other_graph())
    with Gallery.open(folder, tmp_path / "e" / "toy", "cpu") as gallery:
        with pytest.raises(EncoderError, match="otherwise than when it was enrolled"):
            gallery.enroll([tmp_path / "2.png"])
        assert len(gallery) == 2
        assert any("its graph was changed" in fault for fault in gallery.check())


def test_weights_that_are_not_those_of_the_fingerprint_are_refused(tmp_path: Path) -> None:
    folder = write_toy_encoder(tmp_path / "e")
    record = read_record(folder)
    assert verified_weights(folder, record)["nothing"].tolist() == [0]
    content = safetensors.numpy.save({"nothing": np.ones(1, np.float32)})
    fields = json.loads((folder / "encoder.json").read_text())
    del fields["checksum"]
    fields["digests"]["weights.safetensors"] = hashlib.sha256(content).hexdigest()
    (folder / "encoder.json").write_text(json.dumps(fields))
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(EncoderError, match="other weights"):
        verified_weights(folder, read_record(folder))


@pytest.mark.parametrize("place", [[], ["preprocessing"]])
def test_a_field_of_a_newer_release_is_named(place: list[str], tmp_path: Path) -> None:
    folder = write_toy_encoder(tmp_path / "e")
    fields = json.loads((folder / "encoder.json").read_text())
    (fields[place[0]] if place else fields)["weather"] = "fine"
    (folder / "encoder.json").write_text(json.dumps(fields))
    with pytest.raises(EncoderError, match=r"newer siasearch \(weather\): upgrade"):
        Encoder.open(folder)
