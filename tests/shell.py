"""Runs `siasearch`: what tests of commands type into."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from siamese_search.cli import main


@dataclass
class Ran:
    """What a command printed, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


class Shell:
    """Runs `siasearch` in a folder of its own: in this process, which is much faster than another.

    ``separate`` is the same in processes of their own, as people run it.
    """

    def __init__(self, folder: Path, encoder: Path = Path()) -> None:
        self.folder = folder
        self.encoder = str(encoder)

    def __call__(self, *arguments: str | Path, code: int = 0) -> Ran:
        result = self.run([str(argument) for argument in arguments])
        assert "Traceback" not in result.stderr, result.stderr
        assert result.returncode == code, (result.stdout, result.stderr)
        return result

    def run(self, arguments: list[str]) -> Ran:
        stdout, stderr = (TextIOWrapper(BytesIO(), encoding="utf-8") for _ in range(2))
        with pytest.MonkeyPatch.context() as patch, closing(stdout), closing(stderr):
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["siasearch", *arguments])
            patch.setattr(sys, "stdout", stdout)
            patch.setattr(sys, "stderr", stderr)
            patch.setattr(atexit, "register", lambda call: call)  # this process goes on
            try:
                main()
                code: Any = 0
            except SystemExit as stop:
                code = stop.code or 0
            return Ran(code, text_of(stdout), text_of(stderr))

    @property
    def separate(self) -> SeparateShell:
        return SeparateShell(self.folder, Path(self.encoder))

    def json(self, *arguments: str | Path, code: int = 0) -> list[Any]:
        return [
            json.loads(line) for line in self(*arguments, "--json", code=code).stdout.splitlines()
        ]


class SeparateShell(Shell):
    """Runs `siasearch` in processes of their own, in a folder of its own."""

    def run(self, arguments: list[str]) -> Ran:
        result = subprocess.run(
            [sys.executable, "-W", "error", "-m", "siamese_search", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Ran(result.returncode, result.stdout, result.stderr)


def text_of(stream: TextIOWrapper[BytesIO]) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()
