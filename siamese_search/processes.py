"""Processes: how this package is started again, as a process of its own, and when that ends.

Knows nothing of what it is started for.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

PLACE = Path(__file__).parents[1]
NEEDED = "SIASEARCH_NEEDED_FILE"
LOOK = 2.0  # seconds between two looks at whether there is still something to work on


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


def ending_without(path: Path) -> dict[str, str]:
    """What, beside ``environment``, ends a process of this package once there is no such file:
    whoever works for minutes on a folder that is gone works for nobody.
    """
    return {NEEDED: str(path)}


def end_without_what_is_needed() -> None:
    """In a process so started: from now on, end it, with exit code 0, once the file is gone."""
    needed = os.environ.pop(NEEDED, None)

    def watch(path: str) -> None:
        while os.path.lexists(path):
            time.sleep(LOOK)
        os._exit(0)

    if needed is not None:
        threading.Thread(target=watch, args=(needed,), daemon=True).start()
