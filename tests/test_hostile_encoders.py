"""An encoder's folder may come from anybody: whatever is in it, one clear line, at once."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import picture, toy_graph, write_toy_encoder
from onnx import TensorProto, helper, numpy_helper

from siamese_search import Encoder, Gallery
from siamese_search.embedding.record import read_record, resolve, shipped, verified_weights
from siamese_search.errors import EncoderError


def changed(folder: Path, change: Callable[[dict[str, Any]], object], *, sealed: bool) -> Path:
    """Edit ``encoder.json`` by hand; without ``sealed`` so that no checksum tells."""
    path = folder / "encoder.json"
    fields = json.loads(path.read_text())
    change(fields)
    if not sealed:
        del fields["checksum"]
    path.write_text(json.dumps(fields))
    return folder


CHANGES: list[Callable[[dict[str, Any]], object]] = [
    *(
        lambda fields, value=value: fields.update(threshold=value)
        for value in (None, "0.8", [0.8], 5, -3, math.nan, True)
    ),
    *(lambda fields, value=value: fields.update(dimension=value) for value in (10**12, 0, 1.5)),
    lambda fields: fields["calibration"].update(slope=math.inf),
    lambda fields: fields["calibration"].update(offset=None),
    lambda fields: fields["preprocessing"].update(width=10**6),
    lambda fields: fields["preprocessing"].update(channels=2),
    lambda fields: fields["preprocessing"].update(resize="stretch"),
    lambda fields: fields["preprocessing"].update(crop_fraction=0),
    lambda fields: fields["architecture"].update(places={"grid": 10**9, "dimension": 3}),
    lambda fields: fields.update(architecture=None),
    lambda fields: fields.update(digests=None),
    lambda fields: fields.update(digests={"encoder.onnx": None}),
    lambda fields: fields["digests"].update({"../secret": "0" * 64}),
    lambda fields: fields["digests"].update({"/dev/zero": "0" * 64}),
    lambda fields: fields.update(name=3),
]


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_a_description_that_says_what_cannot_be_is_refused(number: int, tmp_path: Path) -> None:
    folder = changed(write_toy_encoder(tmp_path / "toy"), CHANGES[number], sealed=False)
    with pytest.raises(EncoderError, match=r"encoder\.json") as error:
        Encoder.open(folder)
    assert "\n" not in str(error.value)


def test_a_threshold_that_was_changed_is_noticed(tmp_path: Path) -> None:
    folder = write_toy_encoder(tmp_path / "toy")
    changed(folder, lambda fields: fields.update(threshold=0.91), sealed=True)
    with pytest.raises(EncoderError, match="wrong checksum"):
        Encoder.open(folder)


@pytest.mark.parametrize("name", shipped())
def test_shipped_encoders_have_a_checksum(name: str) -> None:
    assert "checksum" in json.loads((resolve(name) / "encoder.json").read_text())


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    folder = write_toy_encoder(tmp_path / "toy")
    (folder / "encoder.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(EncoderError, match="nested too deeply"):
        Encoder.open(folder)


@pytest.mark.parametrize("file", ["encoder.json", "encoder.onnx", "weights.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "endless device"])
def test_what_is_no_file_is_not_read(file: str, kind: str, tmp_path: Path) -> None:
    folder = write_toy_encoder(tmp_path / "toy")
    (folder / file).unlink()
    if kind == "pipe":
        os.mkfifo(folder / file)
    else:
        (folder / file).symlink_to("/dev/zero")
    with pytest.raises(EncoderError, match="toy"):
        Encoder.open(folder).verify_files()


def model(nodes: list[Any], width: int, constants: list[Any]) -> bytes:
    """A graph of these nodes from pixels to an embedding of so many values."""
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 16, 16, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", width])],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = made.SerializeToString()
    return content


def endless_loop() -> bytes:
    """Doubles an embedding for ever."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes on"]),
            helper.make_node("Add", ["before", "before"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, ["n", 768]),
        ],
        [
            helper.make_tensor_value_info("goes on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, ["n", 768]),
        ],
    )
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("Loop", ["rounds", "yes", "flat"], ["embedding"], body=body),
    ]
    constants = [
        numpy_helper.from_array(np.array(2**62, np.int64), "rounds"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    return model(nodes, 768, constants)


def huge() -> bytes:
    """A constant of 10^12 zeros on the way."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["nought"], keepdims=0),
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("Add", ["flat", "nought"], ["embedding"]),
    ]
    return model(nodes, 768, [numpy_helper.from_array(np.array([10**6] * 2, np.int64), "shape")])


def of_another_file() -> bytes:
    made = onnx.load_from_string(toy_graph(16, 4))
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/dev/zero")
    content: bytes = made.SerializeToString()
    return content


@pytest.mark.parametrize(
    ("graph", "dimension", "says"),
    [
        (endless_loop, 768, "might not end"),
        (huge, 768, "values|fails"),
        (of_another_file, 49, "another file"),
        (lambda: toy_graph(16, 8), 49, "unlike what encoder.json says"),
        (lambda: toy_graph(32, 8), 49, "unlike what encoder.json says"),
        (lambda: b"no graph", 49, "refuses it"),
    ],
)
def test_a_graph_that_is_none_of_an_encoder_is_refused(
    graph: Callable[[], bytes], dimension: int, says: str, tmp_path: Path
) -> None:
    folder = write_toy_encoder(tmp_path / "toy", onnx=graph(), dimension=dimension)
    with pytest.raises(EncoderError, match=says) as error:
        Encoder.open(folder, "cpu").embed([picture(1)])
    assert "\n" not in str(error.value)


def test_what_gives_no_numbers_enrols_nothing(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("Mul", ["flat", "nan"], ["embedding"]),
    ]
    nan = numpy_helper.from_array(np.array(np.nan, np.float32), "nan")
    graph = model(nodes, 768, [nan])
    folder = write_toy_encoder(tmp_path / "toy", onnx=graph, dimension=768)
    with Gallery.open(tmp_path / "gallery", folder, "cpu") as gallery:
        report = gallery.enroll([picture(1)], label="one")
        assert report.added == 0
        assert "no finite embedding" in report.rejected[0].reason


def test_a_digest_of_the_weights_alone_does_not_open_what_they_are_not(tmp_path: Path) -> None:
    content = b"\xff" * 64
    folder = write_toy_encoder(tmp_path / "toy")
    (folder / "weights.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    changed(folder, lambda f: f["digests"].update({"weights.safetensors": digest}), sealed=False)
    with pytest.raises(EncoderError, match="cannot be read"):
        verified_weights(folder, read_record(folder))
