"""Drawings: the plots that siasearch itself writes, told by a mark, so that none is enrolled.

Knows nothing of what is drawn.
"""

from __future__ import annotations

from typing import Final

SUFFIX: Final = ".png"
METADATA: Final = {"Software": "siasearch"}  # of a PNG file, as a text chunk
_MARK: Final = b"tEXtSoftware\0siasearch"
_HEAD: Final = 1024  # bytes before the pixels, which have it


def is_drawing(path: str) -> bool:
    """Whether a file is a drawing of siasearch; False where it cannot be read."""
    if not path.lower().endswith(SUFFIX):
        return False
    try:
        with open(path, "rb") as file:
            return _MARK in file.read(_HEAD)
    except (OSError, ValueError):
        return False
