"""Runs `siasearch` where a person seems to look: standard input and error are a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path


def answered(answer: str, folder: Path, *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output, and what the terminal showed, after typing an answer."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        result = subprocess.run(
            [sys.executable, "-m", "siamese_search", *map(str, arguments)],
            cwd=folder,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            timeout=60,
        )
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Traceback" not in shown, shown
    return result.returncode, result.stdout, shown
