"""The cut of the package: imports point down, heavy libraries load only when needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import siamese_search

PACKAGE = Path(siamese_search.__file__).parent
# A room may import those on lower floors, and itself; not those beside it.
FLOORS = {
    "cli": 8,
    "__main__": 9,
    "training": 7,
    "importing": 7,
    "serving": 7,
    "evaluation": 6,
    "testing": 6,
    "gallery": 5,
    "embedding": 4,
    "storage": 4,
    "pictures": 3,
    "decision": 3,
    "index": 3,
    "files": 2,
    "records": 1,
    "forks": 0,
    "errors": 0,
    "arrays": 0,
    "machine": 0,
    "processes": 0,
    "words": 0,
}
# The only rooms or files that may import a library, whatever its use.
OWNERS = {
    "sqlite3": {"storage"},
    "sqlite_utils": {"storage.schema"},
    "faiss": {"index"},
    "onnxruntime": {"embedding.onnx_runtime"},
    "openvino": {"embedding.openvino_runtime"},
    "onnx": {"embedding.network", "importing"},
    "torch": {
        "embedding.torch_runtime", "embedding.network", "embedding.backbones", "training",
        "importing",
    },
    "timm": {"embedding.network", "embedding.backbones", "training", "importing"},
    "PIL": {"pictures", "evaluation", "importing"},
    "typer": {"cli"},
    "watchfiles": {"pictures.watching"},
    "av": {"pictures.video_frame", "pictures.video_reader", "pictures.video_worker"},
    "pymilvus": {"index.milvus"},
    "milvus_lite": {"index.milvus"},
    "grpc": {"index.milvus"},
    "pyarrow": {"gallery.parquet"},
}  # fmt: skip


def name_of(path: Path) -> str:
    """A file's name below the package, as ``gallery.gallery``; a room's own is ``gallery``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
del FILES["__init__"]


@cache
def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside functions; ``room.file`` for ours."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            below = name.removeprefix("siamese_search.")
            if below == name:
                names.add(name)
            else:  # a file, a name in it, or a public name of the package
                names.add(below if below in FILES else below.rpartition(".")[0])
    return names - {""}


def ours(name: str) -> set[str]:
    """The files of ours that a file imports."""
    return imports(FILES[name]) & FILES.keys()


def test_every_file_is_on_a_floor() -> None:
    assert {name.split(".")[0] for name in FILES} == set(FLOORS)


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name: str) -> None:
    room = name.split(".")[0]
    for target in ours(name):
        other = target.split(".")[0]
        assert other == room or FLOORS[other] < FLOORS[room], f"{name} imports {target}"


def test_no_files_import_each_other_in_a_circle() -> None:
    left = {name: ours(name) for name in FILES}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"there is a circle among {sorted(left)}"


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_what_it_is_and_is_short_enough_to_read(name: str) -> None:
    text = FILES[name].read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert text.count("\n") <= 450


@pytest.mark.parametrize("library", OWNERS)
def test_each_library_has_its_modules(library: str) -> None:
    users = {
        name
        for name, path in FILES.items()
        if any(target.split(".")[0] == library for target in imports(path))
    }
    assert all({user, user.split(".")[0]} & OWNERS[library] for user in users)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (
            "import siamese_search.cli",
            ["torch", "faiss", "onnxruntime", "openvino", "numpy", "PIL", "sqlite_utils"],
        ),
        (
            "import siamese_search; siamese_search.Gallery",
            ["torch", "onnxruntime", "openvino", "sqlite_utils", "pymilvus", "grpc"],
        ),
        ("import siamese_search.serving.app", ["torch", "matplotlib", "sklearn"]),
        (
            "import siamese_search.pictures.worker",
            ["torch", "faiss", "onnxruntime", "openvino", "sqlite3", "typer"],
        ),
    ],
)
def test_heavy_libraries_load_only_when_needed(statement: str, absent: list[str]) -> None:
    code = f"import sys; {statement}; print([m for m in {absent!r} if m in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


def test_the_public_names_are_these_and_work() -> None:
    assert set(siamese_search.__all__) == {
        "Encoder", "EncoderProtocol", "Gallery", "Identification", "Match", "Region",
        "SiaSearchError", "Verification", "__version__", "evaluate", "train",
    }  # fmt: skip
    for name in siamese_search.__all__:
        assert getattr(siamese_search, name)
    with pytest.raises(AttributeError):
        _ = siamese_search.nonsense
