"""Compiled graphs are kept between processes, and never change an answer."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import picture, write_toy_encoder

from siamese_search import Encoder
from siamese_search.embedding import compiled
from siamese_search.embedding.openvino_runtime import import_openvino
from siamese_search.errors import EncoderError

if importlib.util.find_spec("openvino") is None:
    pytest.skip("OpenVINO is not installed", allow_module_level=True)
openvino = import_openvino()

Embeddings = npt.NDArray[np.float32]


@pytest.fixture(autouse=True)
def _by_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIASEARCH_RUNTIME", "openvino")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIASEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every graph that OpenVINO compiles."""
    made: list[str] = []
    compile_model = openvino.Core.compile_model

    def counted(core: Any, *arguments: object) -> object:
        made.append("compiled")
        return compile_model(core, *arguments)

    monkeypatch.setattr(openvino.Core, "compile_model", counted)
    return made


def embed(folder: Path) -> Embeddings:
    """As a process of its own would."""
    return Encoder.open(folder, "cpu").embed([picture(seed) for seed in range(3)])


def test_a_graph_is_compiled_once(cache: Path, toy_folder: Path, compilations: list[str]) -> None:
    first = embed(toy_folder)
    assert len(list(cache.iterdir())) == 1
    assert embed(toy_folder).tobytes() == first.tobytes()
    assert len(compilations) == 1


def newer_openvino(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del folder
    monkeypatch.setattr(openvino, "get_version", lambda: "2099.1.0")


def another_processor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del folder
    get_property = openvino.Core.get_property

    def faked(core: Any, device: str, name: str) -> object:
        return "another" if name == "FULL_DEVICE_NAME" else get_property(core, device, name)

    monkeypatch.setattr(openvino.Core, "get_property", faked)


def more_cores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del folder
    monkeypatch.setattr("siamese_search.embedding.openvino_runtime.cores", lambda: 3)


def another_fingerprint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same graph, said to be of other weights."""
    del monkeypatch
    write_toy_encoder(folder, weights={"nothing": np.ones(1, np.float32)})


@pytest.mark.parametrize(
    "change", [newer_openvino, another_processor, more_cores, another_fingerprint]
)
def test_what_was_compiled_for_something_else_is_not_used(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compilations: list[str],
    change: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    folder = write_toy_encoder(tmp_path / "toy")
    first = embed(folder)
    change(folder, monkeypatch)
    assert embed(folder).tobytes() == first.tobytes()
    assert len(compilations) == 2
    assert len(list(cache.iterdir())) == 2


def test_another_graph_under_the_same_name_is_not_answered_by_the_first(
    cache: Path, tmp_path: Path
) -> None:
    folder = write_toy_encoder(tmp_path / "toy")
    assert embed(folder).shape == (3, 49)
    write_toy_encoder(folder, pool=8)
    assert embed(folder).shape == (3, 13)
    assert len(list(cache.iterdir())) == 2


def cut(content: bytes) -> bytes:
    return content[:-1]


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def emptied(content: bytes) -> bytes:
    return content[:0]


@pytest.mark.parametrize("damage", [cut, flipped, emptied])
def test_a_damaged_file_is_compiled_again(
    cache: Path,
    toy_folder: Path,
    compilations: list[str],
    damage: Callable[[bytes], bytes],
) -> None:
    first = embed(toy_folder)
    (kept,) = cache.iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    for _ in range(2):  # the second finds it mended
        assert embed(toy_folder).tobytes() == first.tobytes()
    assert len(compilations) == 2


def test_what_openvino_has_not_exported_is_compiled_again(
    cache: Path, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        exported = openvino.CompiledModel.export_model
        patch.setattr(openvino.CompiledModel, "export_model", lambda _, to: to.write(b"else"))
        first = embed(toy_folder)
    (kept,) = cache.iterdir()
    assert kept.stat().st_size == 32 + 4
    assert exported is openvino.CompiledModel.export_model
    assert embed(toy_folder).tobytes() == first.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda folder, file: folder.chmod(0o777),
        lambda folder, file: file.chmod(0o620),
        lambda folder, file: os.chown(file, 65534, -1),
        lambda folder, file: os.chown(folder, 65534, -1),
    ],
)
def test_what_others_can_write_to_is_not_believed(
    cache: Path,
    toy_folder: Path,
    compilations: list[str],
    change: Callable[[Path, Path], object],
) -> None:
    first = embed(toy_folder)
    (kept,) = cache.iterdir()
    try:
        change(cache, kept)
    except PermissionError:
        pytest.skip("only root can give files away")
    assert embed(toy_folder).tobytes() == first.tobytes()
    assert len(compilations) == 2


def test_what_was_kept_for_one_encoder_passes_for_no_other(
    cache: Path, toy_folder: Path, coarse_folder: Path, compilations: list[str]
) -> None:
    embed(toy_folder)
    (of_toy,) = cache.iterdir()
    expected = embed(coarse_folder)
    (of_coarse,) = set(cache.iterdir()) - {of_toy}
    of_coarse.write_bytes(of_toy.read_bytes())
    assert embed(coarse_folder).tobytes() == expected.tobytes()
    assert len(compilations) == 3


def test_a_pipe_in_the_cache_is_not_waited_for(
    cache: Path, toy_folder: Path, compilations: list[str]
) -> None:
    first = embed(toy_folder)
    (kept,) = cache.iterdir()
    kept.unlink()
    os.mkfifo(kept, 0o600)
    assert embed(toy_folder).tobytes() == first.tobytes()
    assert len(compilations) == 2


def test_it_is_kept_for_this_user_alone(cache: Path, toy_folder: Path) -> None:
    before = os.umask(0o002)
    try:
        embed(toy_folder)
    finally:
        os.umask(before)
    (kept,) = cache.iterdir()
    assert (cache.stat().st_mode & 0o777, kept.stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_damaged_encoder_is_an_error_also_where_it_is_compiled(
    cache: Path, tmp_path: Path
) -> None:
    folder = write_toy_encoder(tmp_path / "toy")
    embed(folder)
    assert list(cache.iterdir())
    (folder / "encoder.onnx").write_bytes(b"damaged")
    with pytest.raises(EncoderError, match="wrong checksum"):
        embed(folder)


def test_a_folder_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_folder: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SIASEARCH_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(openvino.CompiledModel, "export_model", lambda *_: pytest.fail("exported"))
    assert embed(toy_folder).shape == (3, 49)


def test_nothing_is_kept_where_that_is_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIASEARCH_CACHE", "")
    assert embed(toy_folder).shape == (3, 49)
    assert list(tmp_path.iterdir()) == []


def test_processes_at_the_same_time_leave_one_sound_file(cache: Path, toy_folder: Path) -> None:
    code = (
        "import sys; from siamese_search import Encoder; from conftest import picture;"
        "print(Encoder.open(sys.argv[1], 'cpu').embed([picture(0)]).tobytes().hex())"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(toy_folder)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        for _ in range(3)
    ]
    answers = {process.communicate()[0] for process in processes}
    assert len(answers) == 1
    assert [process.returncode for process in processes] == [0, 0, 0]
    (kept,) = cache.iterdir()
    content = kept.read_bytes()
    assert hashlib.sha256(kept.stem.encode() + content[32:]).digest() == content[:32]


def test_the_least_recently_used_go_first_and_no_other_file(cache: Path) -> None:
    cache.mkdir()
    notes = cache / "notes.compiled"
    notes.write_text("somebody's")
    for number in range(compiled.KEPT):
        compiled.keep({"number": number}, lambda: b"graph")
    for age, path in enumerate(sorted(cache.glob("*.compiled"))):
        os.utime(path, (1e9 + age, 1e9 + age))
    assert compiled.load({"number": 0}) == b"graph"  # just used
    compiled.keep({"number": compiled.KEPT}, lambda: b"graph")
    assert compiled.load({"number": 0}) == b"graph"
    assert compiled.load({"number": compiled.KEPT}) == b"graph"
    found = [compiled.load({"number": number}) for number in range(compiled.KEPT + 1)]
    assert found.count(None) == 1
    assert notes.read_text() == "somebody's"


@pytest.mark.parametrize(
    ("system", "settings", "folder"),
    [
        ("linux", {"HOME": "/home/me", "XDG_CACHE_HOME": ""}, "/home/me/.cache/siasearch"),
        ("linux", {"XDG_CACHE_HOME": "/tmp/caches"}, "/tmp/caches/siasearch"),
        ("linux", {"XDG_CACHE_HOME": "here"}, None),  # the standard ignores relative ones
        ("darwin", {"HOME": "/Users/me"}, "/Users/me/Library/Caches/siasearch"),
        ("linux", {"SIASEARCH_CACHE": "/data/cache"}, "/data/cache"),
        ("linux", {"SIASEARCH_CACHE": ""}, None),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="paths of other systems")
def test_the_folder_is_the_systems_place_for_caches(
    monkeypatch: pytest.MonkeyPatch, system: str, settings: dict[str, str], folder: str | None
) -> None:
    monkeypatch.delenv("SIASEARCH_CACHE")
    monkeypatch.setattr(sys, "platform", system)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert compiled.cache_folder() == (folder and Path(folder))
