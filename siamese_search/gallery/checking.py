"""Checking: what is wrong with a gallery, and what it is."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def bytes_below(folder: Path) -> int:
    total = 0
    for path, _, files in os.walk(folder):
        for file in files:
            with suppress(FileNotFoundError):  # swept by another process just now
                total += os.lstat(os.path.join(path, file)).st_size
    return total
