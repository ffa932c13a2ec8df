"""The README's commands print what the README says, digits aside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def examples() -> list[tuple[str, str]]:
    """(command, output) of every indented block that starts with a prompt."""
    blocks = re.findall(r"(?:^    .*\n)+", README.read_text(encoding="utf-8"), re.MULTILINE)
    found = []
    for block in blocks:
        lines = [line[4:] for line in block.splitlines()]
        if lines[0].startswith("$ "):
            found.append((lines[0][2:], "\n".join(lines[1:])))
    return found


def without_digits(text: str) -> str:
    """Scores differ in their last digits between processors."""
    return re.sub(r"[\d.]+", "#", text).strip()


def test_the_readme_shows_what_the_commands_print(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    commands = examples()
    assert [command.split()[1] for command, _ in commands][:3] == ["demo", "add", "query"]
    # Where pip has put the command.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command, expected in commands:
        result = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=os.environ | {"SIASEARCH_DEVICE": "cpu", "PATH": path},
        )
        output = "\n".join(line.rstrip() for line in result.stdout.splitlines())
        assert result.returncode in (0, 1), result.stderr
        assert without_digits(output) == without_digits(expected), command


def test_no_figure_is_left_to_fill_in() -> None:
    assert "" not in README.read_text(encoding="utf-8")


def test_the_python_example_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    from conftest import picture

    picture(1).resize((300, 200)).save(tmp_path / "photos" / "cat" / "1.png")
    picture(1).resize((280, 210)).save(tmp_path / "new.jpg", quality=95)
    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output.splitlines()[0] == "1 ()"
    assert output.splitlines()[1].startswith("cat ")
