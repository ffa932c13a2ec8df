"""All runtimes give the same answers, and each is imported only where it runs something.

OpenVINO and torch are optional: the tests that need one skip without it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import picture, toy_graph, write_toy_encoder
from onnx.external_data_helper import set_external_data

from siamese_search import Encoder, Gallery, Identification
from siamese_search.arrays import PixelArray
from siamese_search.embedding.onnx_runtime import ONNXRuntime
from siamese_search.embedding.openvino_runtime import OpenVINORuntime
from siamese_search.embedding.record import EncoderRecord, read_record, shipped
from siamese_search.embedding.runtimes import Runtime, open_runtime
from siamese_search.embedding.torch_runtime import TorchRuntime, seen_accelerator
from siamese_search.errors import EncoderError, RuntimeUnavailable

ON_CPU: dict[str, Callable[[Path, EncoderRecord], Runtime]] = {
    "ONNX Runtime": ONNXRuntime,
    "OpenVINO": OpenVINORuntime,
    "OpenVINO in float32": partial(OpenVINORuntime, exact=True),
}
CHOICES = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def general() -> Encoder:
    return Encoder.open("general", "cpu")


@pytest.fixture(scope="module")
def on_torch(general: Encoder) -> TorchRuntime:
    pytest.importorskip("torch")
    pytest.importorskip("timm")
    return TorchRuntime(general.folder, general.record, "cpu")


@pytest.fixture(scope="module", params=ON_CPU)
def on_cpu(request: pytest.FixtureRequest, general: Encoder) -> Runtime:
    if request.param != "ONNX Runtime":
        pytest.importorskip("openvino")
    return ON_CPU[request.param](general.folder, general.record)


@pytest.fixture(params=CHOICES)
def chosen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What ``SIASEARCH_RUNTIME`` says, one after the other."""
    name: str = request.param
    if name == "openvino":
        pytest.importorskip(name)
    monkeypatch.setenv("SIASEARCH_RUNTIME", name)
    return name


def smooth(encoder: Encoder, count: int = 12) -> PixelArray:
    """Pictures as the encoder's graph takes them, (count, height, width, channels)."""
    how = encoder.record.preprocessing
    mode = "RGB" if how.channels == 3 else "L"
    images = [picture(n).convert(mode).resize((how.width, how.height)) for n in range(count)]
    return np.stack([np.asarray(image).reshape(how.height, how.width, -1) for image in images])


@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize(("other", "least"), [("OpenVINO", 0.999), ("OpenVINO in float32", 0.9999)])
def test_openvino_agrees_with_onnx_runtime(name: str, other: str, least: float) -> None:
    pytest.importorskip("openvino")
    encoder = Encoder.open(name)
    pixels = smooth(encoder)
    embeddings, places = ONNXRuntime(encoder.folder, encoder.record).describe(pixels)
    others, their_places = ON_CPU[other](encoder.folder, encoder.record).describe(pixels)
    assert embeddings.shape == others.shape == (12, encoder.dimension)
    assert embeddings.dtype == np.float32
    assert (embeddings * others).sum(axis=1).min() >= least
    assert (places is not None) == (their_places is not None) == encoder.gives_places
    if places is not None and their_places is not None:
        assert places.shape == their_places.shape
        # Of a picture: bfloat16 rounds single places further.
        assert (places * their_places).sum(axis=2).mean(axis=1).min() >= least


@pytest.mark.parametrize(("makes", "answers"), [CHOICES, CHOICES[::-1]])
def test_a_gallery_of_one_runtime_answers_under_the_other(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pictures: Callable[..., Path],
    makes: str,
    answers: str,
) -> None:
    pytest.importorskip("openvino")
    folder = pictures({"a": 2, "b": 2, "c": 2, "d": 2})
    probes = [picture(seed, noise=8) for seed in range(8)]

    def asked(runtime: str) -> list[Identification]:
        monkeypatch.setenv("SIASEARCH_RUNTIME", runtime)
        with Gallery.open(tmp_path / "gallery", "general-2", "cpu") as gallery:
            gallery.enroll(folder)
            assert gallery.check() == []
            return list(gallery.identify(probes))

    here, there = asked(makes), asked(answers)
    assert [one.identity for one in there] == [one.identity for one in here]
    for one, other in zip(here, there, strict=True):
        assert other.score == pytest.approx(one.score, abs=0.02)  # bfloat16 rounds far ones so


@pytest.mark.usefixtures("chosen")
def test_a_runtime_is_used_by_many_threads_and_batches_alike(placing: Encoder) -> None:
    runtime = open_runtime(placing.folder, placing.record, "cpu")
    pixels = smooth(placing)
    embeddings, places = runtime.describe(pixels)
    with ThreadPoolExecutor(6) as pool:
        each = list(pool.map(runtime.describe, [pixels[n : n + 1] for n in range(12)] * 5))
    assert places is not None
    for number, (embedding, its_places) in enumerate(each):
        np.testing.assert_allclose(embedding[0], embeddings[number % 12], atol=0.01)
        assert its_places is not None
        np.testing.assert_allclose(its_places[0], places[number % 12], rtol=0.01, atol=0.5)


def test_onnx_runtime_gives_the_same_alone_and_in_a_batch(general: Encoder) -> None:
    runtime = ONNXRuntime(general.folder, general.record)
    pixels = smooth(general)
    alone = np.concatenate([runtime.embed(pixels[n : n + 1]) for n in range(12)])
    assert alone.tobytes() == runtime.embed(pixels).tobytes()


NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def test_a_graph_that_is_none_is_refused(chosen: str, tmp_path: Path) -> None:
    folder = write_toy_encoder(tmp_path / "e", onnx=b"not a graph")
    with pytest.raises(EncoderError, match=rf"encoder\.onnx: {NAMES[chosen]} refuses"):
        Encoder.open(folder, "cpu").embed([picture(1)])


@pytest.mark.usefixtures("chosen")
def test_a_graph_for_other_pictures_is_named(tmp_path: Path) -> None:
    folder = write_toy_encoder(tmp_path / "e", onnx=toy_graph(32, 8))
    with pytest.raises(
        EncoderError, match=r"encoder\.onnx takes .*, unlike what encoder\.json says"
    ):
        Encoder.open(folder, "cpu").embed([picture(1)])


@pytest.mark.parametrize("place", [".", "e"])  # the current folder, and the encoder's own
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.usefixtures("chosen")
def test_weights_in_another_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, padded: bool
) -> None:
    """No checksum covers them, and whoever made the graph could name any file."""
    model = onnx.load_from_string(toy_graph(16, 4))
    (middle,) = (tensor for tensor in model.graph.initializer if tensor.name == "middle")
    set_external_data(middle, "weights.bin", offset=0, length=4)
    middle.ClearField("raw_data")
    graph = model.SerializeToString()
    if padded:  # the key's length in two bytes, which is as valid; that of what is around it is not
        assert b"\x0a\x08location" in graph
        graph = graph.replace(b"\x0a\x08location", b"\x0a\x88\x00location")
    folder = write_toy_encoder(tmp_path / "e", onnx=graph)
    np.full(1, 127, np.float32).tofile(tmp_path / place / "weights.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EncoderError, match=r"encoder\.onnx keeps weights in another file"):
        Encoder.open(folder, "cpu").embed([picture(1)])


def test_openvino_is_taken_where_it_is_installed(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIASEARCH_RUNTIME", raising=False)
    record = read_record(toy_folder)
    if importlib.util.find_spec("openvino"):
        assert isinstance(open_runtime(toy_folder, record, "cpu"), OpenVINORuntime)
    monkeypatch.setitem(sys.modules, "openvino", None)  # as if it were not
    assert isinstance(open_runtime(toy_folder, record, "cpu"), ONNXRuntime)
    monkeypatch.setenv("SIASEARCH_RUNTIME", "openvino")
    with pytest.raises(RuntimeUnavailable, match=r"siamese-search\[fast\]"):
        open_runtime(toy_folder, record, "cpu")
    monkeypatch.setenv("SIASEARCH_RUNTIME", "tensorrt")
    with pytest.raises(RuntimeUnavailable, match="'tensorrt': choose one of auto, openvino"):
        open_runtime(toy_folder, record, "cpu")


def test_torch_agrees_with_the_cpu(
    general: Encoder, on_cpu: Runtime, on_torch: TorchRuntime
) -> None:
    pixels = smooth(general)
    here, there = on_cpu.embed(pixels), on_torch.embed(pixels)
    assert here.shape == there.shape == (12, general.dimension)
    assert (here * there).sum(axis=1).min() >= 0.999
    assert np.linalg.norm(there, axis=1) == pytest.approx(np.ones(12), abs=1e-4)


@pytest.mark.parametrize("value", [0, 127, 255])
def test_a_blank_picture_has_an_embedding(
    general: Encoder, on_cpu: Runtime, on_torch: TorchRuntime, value: int
) -> None:
    how = general.record.preprocessing
    blank = np.full((1, how.height, how.width, 3), value, np.uint8)
    for embedding in (on_cpu.embed(blank), on_torch.embed(blank)):
        assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-3)


def test_half_precision_on_a_gpu_stays_close(general: Encoder, on_torch: TorchRuntime) -> None:
    """bfloat16 on the CPU stands in for a GPU's half precision, which is finer."""
    torch = pytest.importorskip("torch")
    how = general.record.preprocessing
    image = np.array(picture(3).resize((how.width, how.height)))[None]
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = on_torch._network(torch.from_numpy(image)).numpy()
    assert float((half * on_torch.embed(image)).sum()) >= 0.99


def test_a_gpu_that_is_not_there_is_a_clear_error(general: Encoder) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(RuntimeUnavailable, match="sees no device 'cuda'"):
        open_runtime(general.folder, general.record, "cuda")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """``machine("linux", driver="libcuda.so.1")`` fakes one; returns what torch is asked for."""

    def fake(
        system: str, driver: str = "", file: str = "", processor: str = "x86_64", sees: bool = True
    ) -> list[str]:
        asked = []

        def load(library: str) -> None:
            if library != driver:
                raise OSError(f"{library}: cannot open shared object file")

        def torch_sees(device: str) -> bool:
            asked.append(device)
            return sees

        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(platform, "machine", lambda: processor)
        monkeypatch.setattr(ctypes, "CDLL", load)
        monkeypatch.setattr(os.path, "exists", lambda path: path == file)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: ModuleSpec(name, None))
        monkeypatch.setattr("siamese_search.embedding.torch_runtime._torch_sees", torch_sees)
        return asked

    return fake


@pytest.mark.parametrize(
    ("where", "device"),
    [
        ({"system": "linux", "driver": "libcuda.so.1"}, "cuda"),
        ({"system": "linux", "file": "/dev/kfd"}, "cuda"),
        ({"system": "win32", "driver": "nvcuda.dll"}, "cuda"),
        ({"system": "darwin", "processor": "arm64"}, "mps"),
    ],
)
def test_torch_is_asked_where_it_may_see_a_gpu(
    machine: Callable[..., list[str]], where: dict[str, str], device: str
) -> None:
    asked = machine(**where)
    assert seen_accelerator() == device
    assert asked == [device]
    machine(**where, sees=False)
    assert seen_accelerator() is None


@pytest.mark.parametrize(
    "where",
    [
        {"system": "linux"},
        {"system": "linux", "file": "/dev/nvidiactl"},
        {"system": "linux", "driver": "nvcuda.dll"},
        {"system": "win32"},
        {"system": "darwin"},
    ],
)
def test_torch_is_not_imported_without_a_driver(
    machine: Callable[..., list[str]], where: dict[str, str]
) -> None:
    asked = machine(**where)
    assert seen_accelerator() is None
    assert asked == []


def test_a_driver_without_torch_is_no_gpu(
    machine: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = machine("linux", driver="libcuda.so.1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert seen_accelerator() is None
    assert asked == []


def test_an_answer_imports_one_runtime(chosen: str) -> None:
    code = (
        "import sys; from PIL import Image; from siamese_search import Encoder;"
        "Encoder.open('general', 'cpu').embed([Image.new('RGB', (99, 50))]);"
        "print(*{'torch', 'onnxruntime', 'openvino'} & sys.modules.keys())"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.split() == [chosen]


@pytest.mark.usefixtures("chosen")
def test_an_answer_reports_to_nobody_and_is_quiet(tmp_path: Path) -> None:
    """Imported plainly, both leave an identifier in the home folder, and send it."""
    code = (
        "import sys; from PIL import Image; from siamese_search import Encoder;"
        "Encoder.open('general', 'cpu').embed([Image.new('RGB', (99, 50))]);"
        "print('openvino_telemetry' in sys.modules)"
    )
    home = {"HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    without = ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    env = {name: value for name, value in os.environ.items() if name not in without} | home
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (result.stdout.strip(), result.stderr) == ("False", "")
    assert list(tmp_path.iterdir()) == []


def test_openvino_is_left_whole() -> None:
    pytest.importorskip("openvino")
    code = (
        "from siamese_search.embedding.openvino_runtime import import_openvino;"
        "openvino = import_openvino(); assert not hasattr(openvino, 'convert_model');"
        "from openvino.tools.ovc import convert_model"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"CI": "true"})
