"""Verifying: whether a file is as it was written, found out while it is in use already.

Knows nothing of what the file holds.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from pathlib import Path

log = logging.getLogger("siasearch")

CHUNK = 1 << 20


class Verification:
    """Reads a file in a thread of its own, about a second for a gigabyte."""

    def __init__(self, path: Path, sha256: str) -> None:
        self.failed = False
        self._path = path
        self._sha256 = sha256
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"verify {path.name}")
        self._thread.start()

    def stop(self) -> None:
        """Leave the file alone, which may be about to be deleted."""
        self._stopped.set()

    def wait(self) -> bool:
        """Whether it is as it was written, once that is known."""
        self._thread.join()
        return not self.failed

    def _run(self) -> None:
        digest = hashlib.sha256()
        try:
            with open(self._path, "rb") as file:
                while chunk := file.read(CHUNK):
                    if self._stopped.is_set():
                        return
                    digest.update(chunk)
        except OSError as error:  # replaced just now: whoever opens the new one verifies that
            log.debug("%s cannot be verified: %s", self._path, error)
            return
        self.failed = digest.hexdigest() != self._sha256
