"""The cut of the package: imports point down, heavy libraries load only when needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import siamese_search

PACKAGE = Path(siamese_search.__file__).parent
FLOORS = {
    "cli": 5,
    "__main__": 5,
    "training": 4,
    "evaluation": 4,
    "demonstration": 4,
    "gallery": 3,
    "rebuilding": 3,
    "enrolment": 3,
    "snapshots": 3,
    "identification": 3,
    "unknowns": 3,
    "encoder": 2,
    "runtimes": 2,
    "network": 2,
    "backbones": 2,
    "pipeline": 2,
    "scoring": 2,
    "calibration": 2,
    "reference": 2,
    "decision": 2,
    "auditing": 2,
    "images": 1,
    "pictures": 1,
    "colour": 1,
    "containers": 1,
    "catalog": 1,
    "database": 1,
    "schema": 1,
    "index": 1,
    "compiled": 1,
    "files": 1,
    "errors": 0,
    "machine": 0,
    "records": 0,
}
# The only modules that may import a library, whatever its use.
OWNERS = {
    "sqlite3": {"catalog", "database", "schema"},
    "sqlite_utils": {"schema"},
    "faiss": {"index"},
    "openvino": {"runtimes"},
    "torch": {"runtimes", "network", "backbones", "training"},
    "timm": {"network", "backbones", "training"},
    "PIL": {"images", "pictures", "colour", "containers", "demonstration", "evaluation"},
    "typer": {"cli"},
}


def modules() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if name != "__init__":
            found.setdefault(name, []).append(path)
    return found


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "siamese_search":
                names |= {f"siamese_search.{alias.name}" for alias in node.names}
            else:
                names.add(node.module)
    return names


def test_every_module_has_a_floor() -> None:
    assert set(modules()) <= set(FLOORS)


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module: str) -> None:
    for path in modules()[module]:
        for name in imports(path):
            if name.startswith("siamese_search."):
                target = name.split(".")[1]
                if target not in FLOORS:  # a public name of the package
                    continue
                assert FLOORS[target] <= FLOORS[module], f"{path} imports {name}"


@pytest.mark.parametrize("library", OWNERS)
def test_each_library_has_its_modules(library: str) -> None:
    users = {
        module
        for module, paths in modules().items()
        if any(name.split(".")[0] == library for path in paths for name in imports(path))
    }
    assert users <= OWNERS[library]


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (
            "import siamese_search.cli",
            ["torch", "faiss", "openvino", "numpy", "PIL", "sqlite_utils"],
        ),
        ("import siamese_search; siamese_search.Gallery", ["torch", "openvino", "sqlite_utils"]),
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
        "Encoder", "Gallery", "Identification", "Match", "SiaSearchError", "Verification",
        "__version__", "evaluate", "train",
    }  # fmt: skip
    for name in siamese_search.__all__:
        assert getattr(siamese_search, name)
    with pytest.raises(AttributeError):
        _ = siamese_search.nonsense
