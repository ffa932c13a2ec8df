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


def environment(needed: Path | None = None) -> dict[str, str]:
    """This process's, by which the other finds the same package: with it, and of ``PYTHONPATH``
    what does not depend on the current folder.

    Once the file that is ``needed`` is gone, the other ends: whoever works for minutes on a folder
    that is gone works for nobody.
    """
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    made = {"PYTHONPATH": os.pathsep.join([str(PLACE), *filter(os.path.isabs, places)])}
    if needed is not None:
        made[NEEDED] = str(needed)
    return os.environ | made


def end_without_what_is_needed() -> None:
    """In a process so started: from now on, end it, with exit code 0, once the file is gone."""
    needed = os.environ.pop(NEEDED, None)

    def watch(path: str) -> None:
        while os.path.lexists(path):
            time.sleep(LOOK)
        os._exit(0)

    if needed is not None:
        threading.Thread(target=watch, args=(needed,), daemon=True).start()
