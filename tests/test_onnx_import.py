"""An ONNX file becomes an encoder that gives what the file gives, or is refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import picture
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from siamese_search import Encoder, Gallery
from siamese_search.cli.app import app
from siamese_search.cli.encoder_onnx import sides
from siamese_search.errors import EncoderError, RuntimeUnavailable, SiaSearchError, UsageError
from siamese_search.importing import onnx_file, onnx_worker
from siamese_search.importing.onnx_file import OnnxOptions, import_onnx
from siamese_search.importing.writing import write_imported

SIDE, WIDTH, DIMENSION = 16, 8, 12
FACE = OnnxOptions(mean=(127.5,), std=(127.5,), scale=255, resize="squash")
Change = Callable[[Any], object]


def face_network(
    *,
    batch: int | str = "n",
    side: int | str = SIDE,
    kind: int = TensorProto.FLOAT,
    reshape: bool = False,
    change: Change = lambda model: None,
) -> bytes:
    """A residual block as face networks have, pooled to a grid and projected; ``map``, ``tokens``
    and ``embedding`` are values of it, the last one is given.
    """
    random = np.random.default_rng(3)
    real = np.float16 if kind == TensorProto.FLOAT16 else np.float32

    def weights(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(random.normal(0, 0.3, shape).astype(real), name)

    nodes = [
        helper.make_node(
            "Cast", ["input"], ["real"], to=helper.np_dtype_to_tensor_dtype(np.dtype(real))
        ),
        helper.make_node("Conv", ["real", "stem"], ["first"], pads=[1] * 4),
        helper.make_node("PRelu", ["first", "slope"], ["bent"]),
        helper.make_node("Conv", ["bent", "deep"], ["second"], pads=[1] * 4),
        helper.make_node("Add", ["first", "second"], ["map"]),
        helper.make_node("AveragePool", ["map"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Reshape", ["pooled", "grid"], ["cells"]),
        helper.make_node("Transpose", ["cells"], ["tokens"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["pooled", "rows"], ["flat"])
        if reshape
        else helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "last"], ["embedding"]),
    ]
    cells = (SIDE // 4) ** 2
    constants = [
        weights("stem", WIDTH, 3, 3, 3),
        weights("slope", WIDTH, 1, 1),
        weights("deep", WIDTH, WIDTH, 3, 3),
        weights("last", WIDTH * cells, DIMENSION),
        numpy_helper.from_array(np.array([0, WIDTH, -1], np.int64), "grid"),
        numpy_helper.from_array(np.array([1, WIDTH * cells], np.int64), "rows"),
    ]
    graph = helper.make_graph(
        nodes,
        "face",
        [helper.make_tensor_value_info("input", kind, [batch, 3, side, side])],
        [
            helper.make_tensor_value_info(
                "embedding", helper.np_dtype_to_tensor_dtype(np.dtype(real)), [batch, DIMENSION]
            )
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    change(model)
    content: bytes = model.SerializeToString()
    return content


def giving(*names: str) -> Change:
    """Has a model give these values."""

    def change(model: Any) -> None:
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)

    return change


@pytest.fixture
def apart() -> None:
    """Files are taken apart in a process of its own, as people have it."""


@pytest.fixture(autouse=True)
def _in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are taken apart in this process, which is faster, where nothing ends it."""
    if "apart" not in request.fixturenames:
        monkeypatch.setattr(onnx_worker, "_limit", lambda *_: None)
        monkeypatch.setattr(onnx_file, "_run", lambda path, place, *_: onnx_worker.main(place))


def saved(folder: Path, content: bytes, name: str = "face.onnx") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def ran(content: bytes, given: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found: np.ndarray[Any, Any] = session.run(None, {session.get_inputs()[0].name: given})[0]
    return found


def unit(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = values.astype(np.float64) / np.linalg.norm(
        values.astype(np.float64), axis=1, keepdims=True
    )
    return found


PIXELS = np.stack([np.asarray(picture(seed).resize((SIDE, SIDE))) for seed in range(3)])
FACES = ((PIXELS.astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2)


@pytest.mark.usefixtures("apart")
def test_the_encoder_gives_what_the_file_gives_for_any_batch(tmp_path: Path) -> None:
    content = face_network()
    made = import_onnx(saved(tmp_path, content), FACE)
    assert (made.name, made.dimension, made.weights) == ("face", DIMENSION, {})
    assert made.preprocessing.resize == "squash"
    assert (made.preprocessing.height, made.preprocessing.width) == (SIDE, SIDE)
    found = ran(made.onnx, PIXELS)
    assert found == pytest.approx(unit(ran(content, FACES)), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "faces"),
    [
        (FACE, FACES),
        (OnnxOptions(mean=(0.5,), std=(0.5,), scale=1, resize="squash"), FACES),
        (
            OnnxOptions(mean=(1, 2, 3), std=(4, 5, 6), scale=255, resize="squash", bgr=True),
            ((PIXELS[..., ::-1] - np.array([1.0, 2, 3])) / [4, 5, 6]).transpose(0, 3, 1, 2),
        ),
    ],
)
def test_mean_std_scale_and_channel_order_are_as_said(
    options: OnnxOptions, faces: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    content = face_network()
    made = import_onnx(saved(tmp_path, content), options)
    wanted = unit(ran(content, faces.astype(np.float32)))
    assert ran(made.onnx, PIXELS) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.FLOAT16])
def test_bytes_and_half_precision_are_taken(kind: int, tmp_path: Path) -> None:
    content = face_network(kind=kind)
    whole = kind == TensorProto.UINT8
    made = import_onnx(saved(tmp_path, content), OnnxOptions(resize="crop") if whole else FACE)
    faces = PIXELS.transpose(0, 3, 1, 2) if whole else FACES.astype(np.float16)
    cosines = (ran(made.onnx, PIXELS) * unit(ran(content, faces))).sum(1)
    assert cosines.min() >= 0.999


def test_a_file_of_channels_last_is_told_by_its_sizes(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        turned = helper.make_node("Transpose", ["last"], ["input"], perm=[0, 3, 1, 2])
        model.graph.node.insert(0, turned)
        model.graph.input[0].CopyFrom(
            helper.make_tensor_value_info("last", TensorProto.FLOAT, ["n", SIDE, SIDE, 3])
        )

    made = import_onnx(saved(tmp_path, face_network(change=lambda m: None)), FACE)

    def renamed(model: Any) -> None:
        change(model)
        for node in model.graph.node[1:]:
            if list(node.input[1:]) == ["last"]:
                node.input[1] = "matrix"
        model.graph.initializer[3].name = "matrix"

    other = import_onnx(saved(tmp_path, face_network(change=renamed), "last.onnx"), FACE)
    assert other.origin["input"]["layout"] == "nhwc"
    assert ran(other.onnx, PIXELS) == pytest.approx(ran(made.onnx, PIXELS), abs=1e-6)


def test_a_batch_of_one_is_made_any_where_the_graph_allows(tmp_path: Path) -> None:
    made = import_onnx(saved(tmp_path, face_network(batch=1)), FACE)
    assert made.origin["one at a time"] is False
    assert len(ran(made.onnx, PIXELS)) == 3


def test_a_graph_for_one_picture_stays_so_and_enrols(tmp_path: Path) -> None:
    path = saved(tmp_path, face_network(batch=1, reshape=True))
    made = import_onnx(path, FACE)
    assert made.origin["one at a time"] is True
    one = np.concatenate([ran(made.onnx, image[None]) for image in PIXELS])
    whole = np.concatenate([ran(path.read_bytes(), image[None]) for image in FACES])
    assert one == pytest.approx(unit(whole), abs=1e-5)


def test_a_graph_whose_pictures_change_each_other_runs_them_one_by_one(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        model.graph.node[-1].output[0] = "apart"
        model.graph.node.append(helper.make_node("ReduceMean", ["apart"], ["mean"], axes=[0]))
        model.graph.node.append(helper.make_node("Sub", ["apart", "mean"], ["less"]))
        model.graph.node.append(helper.make_node("Add", ["less", "mean"], ["back"]))
        model.graph.node.append(helper.make_node("Mul", ["back", "mean"], ["embedding"]))

    made = import_onnx(saved(tmp_path, face_network(change=change)), FACE)
    assert made.origin["one at a time"] is True


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_maps_are_pooled(pool: str, tmp_path: Path) -> None:
    content = face_network(change=giving("map"))
    path = saved(tmp_path, content)
    with pytest.raises(UsageError, match="--pool mean, max"):
        import_onnx(path, FACE)
    options = OnnxOptions(**{**vars(FACE), "pool": pool})
    wanted = getattr(ran(content, FACES), pool)((2, 3))
    assert ran(import_onnx(path, options).onnx, PIXELS) == pytest.approx(unit(wanted), abs=1e-5)


@pytest.mark.parametrize("pool", ["mean", "max", "first", "rest"])
def test_tokens_are_pooled(pool: str, tmp_path: Path) -> None:
    content = face_network(change=giving("tokens"))
    tokens = ran(content, FACES)
    wanted = {
        "mean": tokens.mean(1), "max": tokens.max(1), "first": tokens[:, 0],
        "rest": tokens[:, 1:].mean(1),
    }  # fmt: skip
    options = OnnxOptions(**{**vars(FACE), "pool": pool})
    made = import_onnx(saved(tmp_path, content), options)
    assert ran(made.onnx, PIXELS) == pytest.approx(unit(wanted[pool]), abs=1e-5)


def test_which_of_several_outputs_is_to_be_said(tmp_path: Path) -> None:
    path = saved(tmp_path, face_network(change=giving("embedding", "flat", "map")))
    with pytest.raises(UsageError, match=r"'embedding' float32 \(1, 12\); 'flat' .*'map'"):
        import_onnx(path, FACE)
    named = OnnxOptions(**{**vars(FACE), "output": "flat"})
    assert import_onnx(path, named).dimension == WIDTH * 16
    with pytest.raises(UsageError, match="no value 'logits'"):
        import_onnx(path, OnnxOptions(**{**vars(FACE), "output": "logits"}))


def test_the_only_flat_output_is_taken_and_a_value_inside_can_be(tmp_path: Path) -> None:
    path = saved(tmp_path, face_network(change=giving("map", "embedding")))
    assert import_onnx(path, FACE).origin["output"]["name"] == "embedding"
    path = saved(tmp_path, face_network())
    inside = OnnxOptions(**{**vars(FACE), "output": "flat"})
    assert import_onnx(path, inside).dimension == WIDTH * 16


def test_what_only_another_output_needs_is_left_out(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 4])
        model.graph.input.append(ids)
        model.graph.node.append(helper.make_node("Cast", ["ids"], ["words"], to=TensorProto.FLOAT))
        model.graph.output.append(onnx.ValueInfoProto(name="words"))

    made = import_onnx(saved(tmp_path, face_network(change=change)), FACE)
    assert made.dimension == DIMENSION


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (OnnxOptions(), "--mean and --std.*--resize"),
        (OnnxOptions(resize="squash"), "--mean and --std"),
        (OnnxOptions(mean=(0.5,), std=(0.5,), resize="crop"), "go together"),
        (OnnxOptions(**{**vars(FACE), "resize": None}), "--resize"),
        (OnnxOptions(**{**vars(FACE), "size": (32, 32)}), "takes 16x16 pixels, but --size says"),
        (OnnxOptions(**{**vars(FACE), "layout": "nhwc"}), "no pictures of 1 or 3 channels"),
        (OnnxOptions(**{**vars(FACE), "std": (0.0,)}), "above 0"),
        (OnnxOptions(**{**vars(FACE), "pool": "mean"}), "leave out --pool"),
        (OnnxOptions(**{**vars(FACE), "pool": "nonsense"}), "choose mean"),
        (OnnxOptions(**{**vars(FACE), "crop": 0.8}), "--resize crop"),
    ],
)
def test_what_nobody_says_or_makes_no_sense_is_asked_for(
    options: OnnxOptions, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says) as error:
        import_onnx(saved(tmp_path, face_network()), options)
    assert "\n" not in str(error.value)


def test_the_size_that_is_told_is_the_one_to_give(tmp_path: Path) -> None:
    def widened(model: Any) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 24

    path = saved(tmp_path, face_network(change=widened))
    told = "takes 24x16 pixels, but --size says 9x8: give --size 24x16"  # width x height
    with pytest.raises(UsageError, match=told):
        import_onnx(path, OnnxOptions(**{**vars(FACE), "size": sides("9x8")}))


def test_a_size_that_the_file_leaves_open_is_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, face_network(side="side", change=giving("map")))
    options = {**vars(FACE), "pool": "mean"}
    with pytest.raises(UsageError, match="--size"):
        import_onnx(path, OnnxOptions(**options))
    made = import_onnx(path, OnnxOptions(**{**options, "size": (20, 24)}))
    assert (made.preprocessing.height, made.preprocessing.width) == (20, 24)


BESIDE: list[tuple[str, dict[str, Any]]] = [
    (
        "preprocessor_config.json",
        {
            "do_resize": True, "size": {"shortest_edge": 20}, "do_center_crop": True,
            "crop_size": {"height": 16, "width": 16}, "resample": 3,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        },
    ),
    (
        "config.json",
        {
            "pretrained_cfg": {
                "input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.8,
                "crop_mode": "center", "interpolation": "bicubic",
            }
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "says"), BESIDE)
def test_files_beside_say_how_pictures_are_taken(
    name: str, says: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(json.dumps(says))
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A network\n")
    content = face_network()
    made = import_onnx(saved(tmp_path, content))
    how = made.preprocessing
    assert (how.resize, how.crop_fraction, how.interpolation) == ("crop", 0.8, "bicubic")
    assert made.origin["input"]["said by"] == name
    assert made.origin["licence"] == "mit"
    assert ran(made.onnx, PIXELS) == pytest.approx(unit(ran(content, FACES)), abs=1e-5)


def with_weights_in(location: str, size: int = 4) -> Change:
    """Puts the last weights into a file."""

    def change(model: Any) -> None:
        tensor = model.graph.initializer[3]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        tensor.external_data.add(key="offset", value=str(size))

    return change


def test_weights_beside_the_file_are_put_inside(tmp_path: Path) -> None:
    plain = onnx.load_from_string(face_network())
    (tmp_path / "face.data").write_bytes(b"1234" + plain.graph.initializer[3].raw_data)
    made = import_onnx(saved(tmp_path, face_network(change=with_weights_in("face.data"))), FACE)
    assert ran(made.onnx, PIXELS) == pytest.approx(unit(ran(face_network(), FACES)), abs=1e-5)
    assert set(made.origin["files"]) == {"face.data"}


@pytest.mark.parametrize(
    "location",
    [
        "../outside",
        "/dev/zero",
        "link",
        "folder/../../outside",
        "pipe",
        "nowhere",
        "short",
        "",
        "a\0b",
    ],
)
def test_weights_from_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(bytes(10_000))
    folder = tmp_path / "network"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "short").write_bytes(bytes(100))
    os.mkfifo(folder / "pipe")
    path = saved(folder, face_network(change=with_weights_in(location)))
    with pytest.raises(EncoderError) as error:
        import_onnx(path, FACE)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def calls(*functions: tuple[str, list[str]]) -> Change:
    """Gives a model functions, each of which calls others, and calls the first."""

    def change(model: Any) -> None:
        opsets = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]
        for name, others in functions:
            values = [f"x{number}" for number in range(len(others) + 1)]
            nodes = [
                helper.make_node(other, [values[number]], [values[number + 1]], domain="own")
                for number, other in enumerate(others)
            ] or [helper.make_node("Identity", ["x0"], ["y"])]
            end = values[-1] if others else "y"
            model.functions.append(helper.make_function("own", name, ["x0"], [end], nodes, opsets))
        model.opset_import.append(helper.make_opsetid("own", 1))
        model.graph.node[-1].output[0] = "before"
        model.graph.node.append(
            helper.make_node(functions[0][0], ["before"], ["embedding"], domain="own")
        )

    return change


def test_functions_of_the_file_are_put_in(tmp_path: Path) -> None:
    content = face_network(change=calls(("a", ["b", "b"]), ("b", [])))
    made = import_onnx(saved(tmp_path, content), FACE)
    assert ran(made.onnx, PIXELS) == pytest.approx(unit(ran(face_network(), FACES)), abs=1e-5)


def branching(model: Any) -> None:
    def branch(name: str) -> Any:
        given = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph(
            [helper.make_node("Identity", ["flat"], [name])], name, [], [given]
        )

    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(
        helper.make_node(
            "If", ["yes"], ["either"], then_branch=branch("a"), else_branch=branch("b")
        )
    )
    giving("either")(model)


def huge(model: Any) -> None:
    shape = numpy_helper.from_array(np.array([10**6, 10**6], np.int64), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["zeros"]))
    model.graph.node.append(helper.make_node("ReduceMax", ["zeros"], ["nought"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["embedding", "nought"], ["more"]))
    giving("more")(model)


def slow(model: Any) -> None:
    shape = numpy_helper.from_array(np.array([10**9, 2**30], np.int64), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("ReduceMean", ["embedding"], ["mean"], keepdims=1))
    model.graph.node.append(helper.make_node("Expand", ["mean", "shape"], ["much"]))
    model.graph.node.append(helper.make_node("ReduceMax", ["much"], ["nought"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["embedding", "nought"], ["more"]))
    giving("more")(model)


def claims(*sizes: int) -> Change:
    def change(model: Any) -> None:
        del model.graph.initializer[3].dims[:]
        model.graph.initializer[3].dims.extend(sizes)

    return change


def not_numbers(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(np.nan, np.float32), "nan"))
    model.graph.node.append(helper.make_node("Mul", ["embedding", "nan"], ["more"]))
    giving("more")(model)


def noughts(model: Any) -> None:
    model.graph.node.append(helper.make_node("Sub", ["embedding", "embedding"], ["more"]))
    giving("more")(model)


def of_integers(model: Any) -> None:
    model.graph.node.append(helper.make_node("Shape", ["embedding"], ["more"]))
    giving("more")(model)


def custom(model: Any) -> None:
    model.graph.node[-1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def of_words(model: Any) -> None:
    words = helper.make_tensor_value_info("input", TensorProto.INT64, ["n", 8])
    model.graph.input[0].CopyFrom(words)


def random(model: Any) -> None:
    model.graph.node.append(helper.make_node("RandomNormalLike", ["embedding"], ["more"]))
    giving("more")(model)


def sparse(model: Any) -> None:
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("p", TensorProto.INT64, [1], [1])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [10**9, 10**9]))


def with_twice_the_rows(model: Any) -> None:
    model.graph.node.append(helper.make_node("Concat", ["embedding"] * 2, ["more"], axis=0))
    giving("more")(model)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (branching, "'If', and so might not end"),
        (huge, "ONNX Runtime|memory"),
        (slow, "ONNX Runtime|memory"),
        (claims(10**6, 10**6), "claims 1000000000000 values"),
        (claims(-1, 5), "negative size"),
        (not_numbers, "no finite numbers"),
        (noughts, "the same for every picture"),
        (of_integers, r"int64 \(2,\)"),
        (with_twice_the_rows, r"\(2, 12\)"),
        (custom, "'com.example'"),
        (of_words, "of its inputs"),
        (random, "agree to a cosine"),
        (sparse, "sparse"),
        (lambda model: model.opset_import[0].ClearField("version"), "operator set 0"),
        (calls(("a", ["a"])), "calls itself"),
        (calls(*((f"f{n}", [f"f{n + 1}"] * 10) for n in range(8)), ("f8", [])), "unfold to more"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("apart")
def test_a_hostile_file_is_refused_in_a_line(change: Change, says: str, tmp_path: Path) -> None:
    path = saved(tmp_path, face_network(change=change))
    with pytest.raises(EncoderError, match=says) as error:
        import_onnx(path, FACE, seconds=60)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("content", [b"", b"no graph at all\n" * 50, face_network()[:-500]])
@pytest.mark.usefixtures("apart")
def test_what_is_no_onnx_file_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="no ONNX file"):
        import_onnx(saved(tmp_path, content), FACE)


@pytest.mark.usefixtures("apart")
def test_more_steps_than_a_network_has_are_refused(tmp_path: Path) -> None:
    graph = b"\x0a\x00" * 150_000  # as many empty steps
    length = bytes([len(graph) & 127 | 128, len(graph) >> 7 & 127 | 128, len(graph) >> 14])
    content = b"\x08\x08" + b"\x3a" + length + graph + b"\x42\x02\x10\x0d"
    with pytest.raises(EncoderError, match="more than 100000 steps"):
        import_onnx(saved(tmp_path, content), FACE)


@pytest.mark.usefixtures("apart")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "folder.onnx").mkdir()
    for name in ("pipe.onnx", "folder.onnx", "nothing.onnx"):
        with pytest.raises(EncoderError, match="cannot be read"):
            import_onnx(tmp_path / name, FACE)


@pytest.mark.usefixtures("apart")
def test_what_takes_too_long_is_ended(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        shape = numpy_helper.from_array(np.array([5000, 5000], np.int64), "shape")
        model.graph.initializer.append(shape)
        model.graph.node.append(helper.make_node("ReduceMean", ["embedding"], ["p0"], keepdims=1))
        model.graph.node.append(helper.make_node("Expand", ["p0", "shape"], ["m0"]))
        for number in range(500):
            values = [f"m{number}", f"m{number}"], [f"m{number + 1}"]
            model.graph.node.append(helper.make_node("MatMul", *values))
        giving("m500")(model)

    with pytest.raises(EncoderError, match="longer than 4 s"):
        import_onnx(saved(tmp_path, face_network(change=change)), FACE, seconds=4)


def test_a_picture_to_check_on_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(SiaSearchError, match=r"bad\.jpg"):
        import_onnx(saved(tmp_path, face_network()), FACE, [tmp_path / "bad.jpg"])


@pytest.mark.usefixtures("apart")
def test_the_command_writes_an_encoder_that_enrols_and_answers(
    pictures: Callable[..., Path], tmp_path: Path
) -> None:
    path = saved(tmp_path, face_network(batch=1, reshape=True))
    out, gallery = tmp_path / "face", tmp_path / "gallery"
    line = ["encoder", "import", str(path), "--out", str(out)]
    shell = CliRunner()
    refused = shell.invoke(app, line)
    assert isinstance(refused.exception, UsageError)
    assert not out.exists()
    line += ["--mean", "127.5", "--std", "127.5", "--scale", "255", "--resize", "squash"]
    said = shell.invoke(app, line)
    assert said.exit_code == 0, said.output
    assert "one picture at a time" in said.output
    assert "mean 127.5" in said.output
    assert isinstance(shell.invoke(app, line).exception, UsageError)  # it holds an encoder
    with Gallery.open(gallery, out, "cpu") as target:
        folder = pictures({"cat": 3, "dog": 3})
        assert target.enroll([folder]).added == 6
        (answer,) = target.identify([folder / "dog" / "1.png"])
        assert answer.matches[0].identity == "dog"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_both_runtimes_run_what_takes_one_picture_at_a_time(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    monkeypatch.setenv("SIASEARCH_RUNTIME", runtime)
    content = face_network(batch=1, reshape=True)
    made = import_onnx(saved(tmp_path, content), FACE)
    encoder = write_imported(made, tmp_path / "face")
    found = encoder.embed(list(PIXELS))
    wanted = unit(np.concatenate([ran(content, image[None]) for image in FACES]))
    assert (found * wanted).sum(1).min() >= 0.999


def test_an_encoder_without_a_torch_network_says_so(tmp_path: Path) -> None:
    write_imported(import_onnx(saved(tmp_path, face_network()), FACE), tmp_path / "face")
    with pytest.raises(RuntimeUnavailable, match="was an ONNX file, and has no network for it"):
        Encoder.open(tmp_path / "face").twin()
    with pytest.raises(RuntimeUnavailable, match="runs on the CPU"):
        Encoder.open(tmp_path / "face", "cuda").embed([picture(1)])
    assert Encoder.open(tmp_path / "face", "auto").embed([picture(1)]).shape == (1, DIMENSION)
    starting = pytest.importorskip("siamese_search.training.starting")
    settings = pytest.importorskip("siamese_search.training.settings")
    with pytest.raises(EncoderError, match="cannot be trained further"):
        starting.starting_point(settings.Settings(start=str(tmp_path / "face")))


def test_what_a_file_is_taken_apart_in_has_no_more_memory_than_said() -> None:
    script = (
        "from siamese_search.importing.onnx_worker import _limit\n"
        "_limit(1 << 30, 60)\n"
        "try:\n"
        "    bytearray(2 << 30)\n"
        "except MemoryError:\n"
        "    print('refused')\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.stdout == "refused\n", ran.stderr
