"""The folder that a run writes to: one run at a time, and none over an earlier one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from siamese_search.errors import SiaSearchError, StorageError, TrainingError
from siamese_search.files import locked, make_folder
from siamese_search.training import checkpoint, distributed, plan

METRICS = "metrics.jsonl"
BEFORE = "before.json"  # what the starting point reaches


def require_free(folder: Path) -> None:
    """Raise TrainingError where the folder holds a run already, StorageError where none can be
    made. Writes nothing.
    """
    there = (folder / checkpoint.NAME).exists()
    if there or (folder / "encoder.json").exists():
        way = "--resume it, or name another folder" if there else "name another folder"
        raise TrainingError(f"{folder} holds an earlier run: {way}")
    whole = folder.absolute()
    nearest = next(one for one in (whole, *whole.parents) if one.exists())
    if not nearest.is_dir():
        raise StorageError(f"{folder} cannot be written: {nearest} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StorageError(f"{folder} cannot be written: Permission denied")


@contextmanager
def taken(folder: Path, resume: bool) -> Iterator[None]:
    """While this run alone writes to the folder, which is made for a new run.

    The first of several processes does this; what it raises, all raise. Raises TrainingError where
    there is an earlier run, or none to resume; StorageError where another run writes there, or
    where it cannot be written.
    """
    refused: SiaSearchError | None = None
    with ExitStack() as held:
        if distributed.rank() == 0:
            try:
                held.enter_context(_taken(folder, resume))
            except SiaSearchError as error:
                refused = error
        refused = distributed.told(refused)
        if refused is not None:
            raise refused
        yield


@contextmanager
def _taken(folder: Path, resume: bool) -> Iterator[None]:
    if resume and not (folder / checkpoint.NAME).exists():
        raise TrainingError(f"{folder} has no {checkpoint.NAME} to resume from")
    try:
        make_folder(folder)
        probe = folder / f".{METRICS}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error
    with locked(folder):
        if not resume:
            require_free(folder)
            # Of a run that was stopped in its first epoch, which a resumed one would take for its.
            for name in (BEFORE, METRICS, plan.NAME):
                (folder / name).unlink(missing_ok=True)
        yield
