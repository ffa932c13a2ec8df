"""Commands in messages can be typed as they are, however the program was called."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from siamese_search.cli.program import command, program, spoken

CALL = "import sys; from siamese_search.cli import main; sys.argv[0] = sys.argv.pop(1); main()"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The program as pip installs it."""
    path = tmp_path / "bin" / "siasearch"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c \'{CALL}\' "$0" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("way", ["module", "path", "name"])
def test_the_command_that_a_message_shows_runs(way: str, script: Path, tmp_path: Path) -> None:
    other = os.pathsep.join(
        place
        for place in os.environ["PATH"].split(os.pathsep)
        if not (Path(place) / "siasearch").exists()
    )
    called = {
        "module": [sys.executable, "-m", "siamese_search"],
        "path": [str(script)],
        "name": ["siasearch"],
    }[way]
    path = f"{script.parent}{os.pathsep}{other}" if way == "name" else other
    environment = os.environ | {"PATH": path}

    def ran(words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )

    said = ran([*called, "evaluate"]).stderr
    shown = shlex.split(said.split("`")[1])
    assert shown[-1] == "benchmark"
    assert (shown == ["siasearch", "benchmark"]) == (way == "name")
    assert "Usage:" in ran([*shown, "--help"]).stdout
    missing = ran([*called, "list"]).stderr  # said by a floor that knows no command line
    assert f"`{shlex.join(shown[:-1])} add`" in missing


def test_what_is_no_command_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["siasearch", "list"])
    assert spoken("run `siasearch calibrate`") == "run `siasearch calibrate`"
    monkeypatch.setattr(sys, "argv", ["/some where/siasearch", "list"])
    assert program() == "'/some where/siasearch'"
    text = "this siasearch reads format 6; run `siasearch calibrate` in siasearch's folder"
    assert spoken(text) == text.replace("`siasearch ", "`'/some where/siasearch' ")


def test_a_command_names_the_gallery_unless_that_is_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["siasearch"])
    monkeypatch.delenv("SIASEARCH_GALLERY", raising=False)
    default = Path("indexes/default")
    assert command("undo", default, default) == "siasearch undo"
    assert command("undo", Path("my shop"), default) == "siasearch undo -g 'my shop'"
    monkeypatch.setenv("SIASEARCH_GALLERY", "my shop")
    assert command("undo", Path("my shop"), default) == "siasearch undo"
