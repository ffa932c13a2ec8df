"""OpenVINO and torch give the same embeddings, and torch is imported only where it may see a GPU.

torch is optional: the tests that need it skip without it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
from conftest import picture

from siamese_search import Encoder
from siamese_search.embedding.runtimes import open_runtime
from siamese_search.embedding.torch_runtime import TorchRuntime, seen_accelerator
from siamese_search.errors import RuntimeUnavailable


@pytest.fixture(scope="module")
def general() -> Encoder:
    return Encoder.open("general", "cpu")


@pytest.fixture(scope="module")
def on_torch(general: Encoder) -> TorchRuntime:
    pytest.importorskip("torch")
    pytest.importorskip("timm")
    return TorchRuntime(general.folder, general.record, "cpu")


def test_torch_and_openvino_agree(general: Encoder, on_torch: TorchRuntime) -> None:
    how = general.record.preprocessing
    smooth = [picture(seed).resize((how.width, how.height)) for seed in range(12)]
    pixels = np.stack([np.asarray(image) for image in smooth])
    here, there = general.runtime.embed(pixels), on_torch.embed(pixels)
    assert here.shape == there.shape == (12, general.dimension)
    assert (here * there).sum(axis=1).min() >= 0.999
    assert np.linalg.norm(there, axis=1) == pytest.approx(np.ones(12), abs=1e-4)


@pytest.mark.parametrize("value", [0, 127, 255])
def test_a_blank_picture_has_an_embedding(
    general: Encoder, on_torch: TorchRuntime, value: int
) -> None:
    how = general.record.preprocessing
    blank = np.full((1, how.height, how.width, 3), value, np.uint8)
    for embedding in (general.runtime.embed(blank), on_torch.embed(blank)):
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


def test_an_answer_on_the_cpu_imports_no_torch() -> None:
    code = (
        "import sys; from PIL import Image; from siamese_search import Encoder;"
        "Encoder.open('general', 'cpu').embed([Image.new('RGB', (99, 50))]);"
        "print('torch' in sys.modules)"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.strip() == "False"


def test_an_answer_reports_to_nobody(tmp_path: Path) -> None:
    """OpenVINO's import would leave an identifier in the home folder, and send it."""
    code = (
        "import sys; from PIL import Image; from siamese_search import Encoder;"
        "Encoder.open('general', 'cpu').embed([Image.new('RGB', (99, 50))]);"
        "print('openvino_telemetry' in sys.modules)"
    )
    home = {"HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    env = {name: value for name, value in os.environ.items() if name != "CI"} | home
    output = subprocess.check_output([sys.executable, "-c", code], text=True, env=env)
    assert output.strip() == "False"
    assert list(tmp_path.iterdir()) == []


def test_openvino_is_left_whole() -> None:
    code = (
        "from siamese_search.embedding.openvino_runtime import import_openvino;"
        "openvino = import_openvino(); assert not hasattr(openvino, 'convert_model');"
        "from openvino.tools.ovc import convert_model"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"CI": "true"})
