"""The folder that a run writes to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("pytorch_metric_learning")
pytest.importorskip("onnxscript")

from test_training import (
    SMALL,
    Stop,
    folder,  # noqa: F401
    stop,
    undrawn,  # noqa: F401
)

from siamese_search.errors import StorageError
from siamese_search.records import Progress
from siamese_search.training import loop
from siamese_search.training.run import train

pytestmark = pytest.mark.usefixtures("quickly_exported", "undrawn")


def stop_at_once(progress: Progress) -> None:
    """Ends a run in its first epoch."""
    if progress.stage.startswith("loss"):
        raise Stop


@pytest.mark.slow
def test_two_runs_do_not_write_to_one_folder(
    folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    def meanwhile(_: loop.Epoch) -> None:
        for resume in (False, True):
            with pytest.raises(StorageError, match="another run is writing to"):
                train([folder], tmp_path / "out", SMALL, resume=resume)
        raise Stop

    with pytest.raises(Stop):
        train([folder], tmp_path / "out", SMALL, tell=meanwhile)
    assert train([folder], tmp_path / "out", SMALL, resume=True).steps == SMALL.steps


@pytest.mark.slow
def test_a_run_takes_nothing_of_one_that_was_stopped_in_its_first_epoch(
    folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    with pytest.raises(Stop):
        train([folder], tmp_path / "out", SMALL, watch=stop_at_once)
    assert (tmp_path / "out" / "before.json").exists()
    unjudged = replace(SMALL, holdout=0.0)
    with pytest.raises(Stop):
        train([folder], tmp_path / "out", unjudged, tell=stop)
    report = train([folder], tmp_path / "out", unjudged, resume=True)
    assert report.recall_before is None
