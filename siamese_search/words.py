"""Numbers, times and names in words for people."""

from __future__ import annotations

import os


def printable(path: str | os.PathLike[str]) -> str:
    r"""A path as text that can be printed and put into JSON; bytes outside UTF-8 become \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def counted(number: int, one: str, several: str | None = None) -> str:
    """A number of things for people: ``3 items``, ``1 item``."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def duration(seconds: float) -> str:
    """Seconds in a unit that people count such a time in."""
    if seconds < 90:
        return counted(max(1, round(seconds)), "second")
    if seconds < 5400:
        return counted(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours"


def same_picture(identity: str) -> str:
    """Why a picture is rejected that is enrolled as another identity."""
    return f"the same image is enrolled as {identity!r}: relabel or remove that one first"
