"""What pip makes of the project: a wheel that is whole, hints that name what can be installed."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import siamese_search

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGE = ROOT / "siamese_search"


def texts() -> list[Path]:
    """Every file that may tell a user what to install."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "pyproject.toml"]
    return [*pages, *PACKAGE.rglob("*.py")]


def test_hints_name_this_distribution_and_extras_that_it_has() -> None:
    found = set()
    for path in texts():
        text = path.read_text(encoding="utf-8")
        for name, extras in re.findall(r"(siasearch|siamese[-_]search|\.)\[([a-z,]+)\]", text):
            assert name in (PROJECT["name"], "."), path
            assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys(), path
            found.add(name)
    assert found == {PROJECT["name"], "."}


def test_the_core_weighs_less_than_350_mb() -> None:
    """By the files of all that `pip install .` brings, as they are installed here."""
    found: set[str] = set()
    waiting = list(PROJECT["dependencies"])
    while waiting:
        requirement = Requirement(waiting.pop())
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name not in found:
            found.add(requirement.name)
            waiting += importlib.metadata.requires(requirement.name) or []
    found.discard("pip")  # a library's dependency, and in every environment anyway
    assert not found & {"openvino", "torch", "matplotlib", "scikit-image"}
    paths = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    for name in found:
        paths += [Path(str(file.locate())) for file in importlib.metadata.files(name) or []]
    weight = sum(path.stat().st_size for path in paths if path.is_file())
    assert weight < 350e6


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline in a folder of its own: a build leaves files beside the sources."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "siamese_search"):
        (sources / name).symlink_to(ROOT / name)
    pip(
        "wheel", "--no-deps", "--no-index", "--no-build-isolation",
        "--wheel-dir", str(folder), str(sources),
    )  # fmt: skip
    (made,) = folder.glob("*.whl")
    return made


def pip(*arguments: str) -> None:
    """Run pip. Raises where it fails."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_wheel_is_whole_and_runs_by_itself(wheel: Path, tmp_path: Path) -> None:
    assert wheel.name == f"siamese_search-{siamese_search.__version__}-py3-none-any.whl"
    place = tmp_path / "installed"
    pip("install", "--no-deps", "--no-index", "--target", str(place), str(wheel))

    installed = place / "siamese_search"
    ours = {
        path.relative_to(PACKAGE)
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so")
    }
    there = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    assert Path("py.typed") in ours
    assert {path.parent.name for path in ours if path.suffix == ".onnx"} == {
        "general",
        "general-2",
        "glyph",
    }
    assert ours <= there
    assert (place / "bin" / "siasearch").exists()

    run = subprocess.run(
        [sys.executable, "-P", "-m", "siamese_search", "--version"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
    )
    assert run.stdout == f"siasearch {siamese_search.__version__}\n", run.stderr
