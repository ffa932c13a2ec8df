"""Compiled graphs, kept in the user's cache folder so that the next process need not compile again.

A cache and never the truth: a file's name is a digest of all that it depends on, and it begins
with the SHA-256 of that digest and its content. What is missing, damaged or cannot be written costs
the time to compile, never an answer. Whoever can write a file there could choose the answers, so
only this user's files in a folder that nobody else may write to are believed. Knows nothing of
encoders and OpenVINO.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from siamese_search.files import read_regular, whole_file

log = logging.getLogger("siasearch")

SUFFIX = ".compiled"
NAME = re.compile(r"[0-9a-f]{64}(-[0-9a-f]{8})?\.compiled")  # nothing else is ever deleted
BYTES_AT_MOST = 1 << 30
KEPT = 8  # files, those used last; one of `general-2` takes 18 MB
DIGEST = hashlib.sha256().digest_size


def cache_folder() -> Path | None:
    """``SIASEARCH_CACHE``, None where that is empty; else the user's folder for caches."""
    chosen = os.environ.get("SIASEARCH_CACHE")
    if chosen is not None:
        return Path(chosen) if chosen else None
    if sys.platform == "win32":
        place = os.environ.get("LOCALAPPDATA", "")
    elif sys.platform == "darwin":
        place = os.path.expanduser("~/Library/Caches")
    else:
        place = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(place, "siasearch") if os.path.isabs(place) else None


def load(determinants: Mapping[str, object]) -> bytes | None:
    """What was kept for the same determinants, None where there is nothing sound."""
    path = _path(determinants)
    if path is None:
        return None
    try:
        _require_own(path.parent)
        _require_own(path)
        kept = read_regular(path, BYTES_AT_MOST)
    except OSError as error:
        log.debug("the compiled graph is not used: %s", error)
        return None
    digest, content = kept[:DIGEST], kept[DIGEST:]
    if _seal(path, content) != digest:
        return None
    with suppress(OSError):
        os.utime(path)  # those that were not used for longest go first
    return content


def keep(determinants: Mapping[str, object], export: Callable[[], bytes | memoryview]) -> None:
    """Keep what ``export`` gives, where that can be written; it is called only then."""
    path = _path(determinants)
    if path is None:
        return
    # A name of its own, which ``_prune`` knows where a killed process has left it.
    temporary = path.with_name(f"{path.stem}-{secrets.token_hex(4)}{SUFFIX}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_own(path.parent)
        # Its digest tells whether it is whole, so that nobody has to wait for the disk.
        with whole_file(path, temporary, sync=False) as file:
            if hasattr(os, "fchmod"):  # whatever the user lets others do with new files
                os.fchmod(file.fileno(), 0o600)
            content = export()
            file.write(_seal(path, content))
            file.write(content)
        _prune(path.parent)
    except OSError as error:
        log.debug("the compiled graph is not kept: %s", error)


def _require_own(path: Path) -> None:
    """Raise OSError for what is another user's, or for others to write to."""
    status = path.stat()
    if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        raise OSError(errno.EPERM, "others may write to it", str(path))


def _seal(path: Path, content: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(path.stem.encode())  # so that it passes for nothing else
    digest.update(content)
    return digest.digest()


def _path(determinants: Mapping[str, object]) -> Path | None:
    folder = cache_folder()
    canonical = json.dumps(determinants, sort_keys=True, separators=(",", ":"))
    return folder and folder / (hashlib.sha256(canonical.encode()).hexdigest() + SUFFIX)


def _prune(folder: Path) -> None:
    """Delete all but the files used last, also what a killed process has left half-written."""
    files = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    for path in sorted(files, key=lambda path: path.stat().st_mtime)[:-KEPT]:
        path.unlink(missing_ok=True)
