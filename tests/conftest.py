"""Shared fixtures: a toy encoder that needs no weights, and folders of small pictures."""

from __future__ import annotations

import gc
import os
import signal
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from shell import Shell

from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.record import write_encoder
from siamese_search.machine import all_cores
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.storage.catalog import Catalog

# Threads that spin while they wait slow a busy machine down many times over. It is read when the
# libraries load that have such threads: scikit-learn and torch, by the tests that need them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# What a shell starts in the background ignores Ctrl-C, and so would all that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


FAILED = pytest.StashKey[bool]()
# Nothing that collecting makes is garbage: neither then nor later is it worth looking for some.
# What tests make is looked at less often than by default: that takes a twentieth of their time.
gc.disable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Some tests wait, for a browser or for a process: so there is one more than cores."""
    return all_cores() + 1


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fixtures can see whether their test has failed."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that take long come first, so that no process is left with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def toy_graph(side: int, pool: int, places: bool = False) -> bytes:
    """Average pooling over a small picture, a constant beside it, and unit length.

    Its ``places`` are the colours of the pooled cells, row by row.
    """
    features = 3 * (side // pool) ** 2 + 1
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "middle"], ["centred"]),
        helper.make_node("Transpose", ["centred"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool", ["planes"], ["pooled"], kernel_shape=[pool] * 2, strides=[pool] * 2
        ),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Pad", ["flat", "pads", "one"], ["features"]),
        helper.make_node("LpNormalization", ["features"], ["embedding"], axis=1, p=2),
    ]
    constants = [
        numpy_helper.from_array(np.array(127.0, np.float32), "middle"),
        numpy_helper.from_array(np.array([0, 0, 0, 1], np.int64), "pads"),
        numpy_helper.from_array(np.array(1.0, np.float32), "one"),
    ]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", features])]
    if places:
        nodes += [
            helper.make_node("Reshape", ["pooled", "cells"], ["colours"]),
            helper.make_node("Transpose", ["colours"], ["places"], perm=[0, 2, 1]),
        ]
        constants.append(numpy_helper.from_array(np.array([0, 3, -1], np.int64), "cells"))
        shape: list[str | int | None] = ["n", (side // pool) ** 2, 3]
        outputs.append(helper.make_tensor_value_info("places", TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", side, side, 3])],
        outputs,
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def write_toy_encoder(folder: Path, pool: int = 4, places: bool = False, **changes: Any) -> Path:
    """A complete encoder folder; ``pool`` 4 gives 49 dimensions, 8 gives 13."""
    side = 16
    kept = {"places": {"source": "pixels", "grid": side // pool, "dimension": 3}} if places else {}
    fields: dict[str, Any] = {
        "name": folder.name,
        "architecture": {"toy": pool, **kept},
        "preprocessing": Preprocessing(side, side, crop_fraction=1.0),
        "dimension": 3 * (side // pool) ** 2 + 1,
        "onnx": toy_graph(side, pool, places),
        "weights": {"nothing": np.zeros(1, np.float32)},
        "threshold": 0.9,
        "calibration": {"slope": 20.0, "offset": -16.0},
        "training": {},
    }
    write_encoder(folder, **(fields | changes))
    return folder


@pytest.fixture(scope="session", autouse=True)
def _no_cache() -> Iterator[None]:
    """Tests leave no compiled graphs in the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIASEARCH_CACHE", "")
        yield


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is made once, whichever of the processes that run tests needs it first."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def quickly_exported(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Torch takes seconds to export a network; its older way takes a twentieth of that, and will
    do where the graph itself is not what is tested. Gives the way that is replaced.
    """
    torch = pytest.importorskip("torch")
    export = torch.onnx.export

    def exported(network: Any, shown: Any, **how: Any) -> SimpleNamespace:
        graph = BytesIO()
        axes = {"pixels": {0: "batch"}} | {name: {0: "batch"} for name in how["output_names"]}
        given = {name: how[name] for name in ("opset_version", "input_names", "output_names")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated, and traces
            export(network, shown, graph, dynamo=False, dynamic_axes=axes, **given)
        return SimpleNamespace(model_proto=onnx.load_from_string(graph.getvalue()))

    monkeypatch.setattr(torch.onnx, "export", exported)
    return export


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_encoder(tmp_path_factory.mktemp("encoders") / "toy")


@pytest.fixture
def shell(tmp_path: Path, toy_folder: Path) -> Shell:
    """What commands are typed into, in a folder of its own."""
    return Shell(tmp_path, toy_folder)


@pytest.fixture(scope="session")
def coarse_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another encoder, with another dimension."""
    return write_toy_encoder(tmp_path_factory.mktemp("encoders") / "coarse", pool=8)


@pytest.fixture(scope="session")
def placing(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """The toy with places."""
    folder = tmp_path_factory.mktemp("encoders") / "placing"
    return Encoder.open(write_toy_encoder(folder, places=True), "cpu")


@pytest.fixture(scope="session")
def toy(toy_folder: Path) -> Encoder:
    return Encoder.open(toy_folder, "cpu")


@pytest.fixture(scope="session")
def coarse(coarse_folder: Path) -> Encoder:
    return Encoder.open(coarse_folder, "cpu")


def seal(folder: Path) -> None:
    """Give all items of a gallery, whose rows were changed by hand, the checksums that fit."""
    with closing(Catalog(folder / "gallery.db")) as catalog, catalog.writing():
        catalog._seal(range(1 + catalog.state().last_item))


def picture(seed: int, noise: float = 0.0) -> Image.Image:
    """A random mosaic of its own for every seed; ``noise`` changes it a little."""
    random = np.random.default_rng(seed)
    tiles = random.integers(0, 256, (8, 8, 3)).astype(np.float64)
    pixels = tiles.repeat(4, 0).repeat(4, 1)
    pixels += np.random.default_rng(seed + 1_000_003).normal(0, noise, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """``pictures({"cat": 2, "dog": 1})`` makes a folder with pictures per identity."""

    def make(counts: dict[str, int], folder: str = "pictures", first_seed: int = 0) -> Path:
        seed = first_seed
        for identity, count in counts.items():
            place = tmp_path / folder / identity
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                picture(seed).save(place / f"{number}.png")
                seed += 1
        return tmp_path / folder

    return make


@pytest.fixture(autouse=True)
def _no_ambient_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SIASEARCH_")]:
        if name not in ("SIASEARCH_DATA", "SIASEARCH_CACHE", "SIASEARCH_RUNTIME"):
            monkeypatch.delenv(name)
