"""Processes: how this package is started again, as a process of its own.

Knows nothing of what it is started for.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PLACE = Path(__file__).parents[1]


def command(module: str = "siamese_search") -> tuple[str, ...]:
    """A module as a command; ``-P``: what lies in the current folder is not imported."""
    return sys.executable, "-P", "-m", module


def environment() -> dict[str, str]:
    """This process's, by which the other finds the same package: with it, and of ``PYTHONPATH``
    what does not depend on the current folder.
    """
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(PLACE), *filter(os.path.isabs, places)])
    }
