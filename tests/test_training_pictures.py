"""Pictures of a run that vanish, cannot be read, or come twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_metric_learning")
pytest.importorskip("onnxscript")

from test_training import SMALL, drawn, undrawn  # noqa: E402, F401

from siamese_search import Encoder  # noqa: E402
from siamese_search.training.data import Pictures  # noqa: E402
from siamese_search.training.run import train  # noqa: E402

pytestmark = pytest.mark.usefixtures("quickly_exported", "undrawn")

SHORT = replace(SMALL, augmentation="glyph", steps=2, epoch_steps=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return drawn(tmp_path / "pictures")


# Pictures that vanish during a run


@pytest.mark.slow
@pytest.mark.parametrize(("gone", "holdout"), [("[01]", 0.2), ("*", 0.2), ("*", 0.0)])
def test_an_encoder_is_written_though_pictures_vanish(
    folder: Path, tmp_path: Path, gone: str, holdout: float
) -> None:
    def remove(epoch: Any) -> None:  # noqa: ARG001
        for path in folder.glob(f"*/{gone}.png"):
            path.unlink()

    told: list[str] = []
    settings = replace(SHORT, holdout=holdout)
    report = train([folder], tmp_path / "out", settings, tell=remove, warn=told.append)
    assert Encoder.open(tmp_path / "out").fingerprint == report.fingerprint
    if gone == "[01]":
        assert report.as_gallery is not None
        assert report.as_gallery.pictures == report.held_out_pictures // 2
        left = f"{report.held_out_pictures // 2} held-out pictures cannot be read any more"
        assert f"{left}: glyph is compared by the others" in told
    else:
        assert (report.as_gallery, report.verdict) == (None, "not known")


def test_whole_classes_of_all_stand_for_many() -> None:
    labels = np.repeat(np.arange(100), 50)
    chosen = Pictures(np.zeros((5000, 1, 1, 1), np.uint8), labels).whole()
    assert np.unique(chosen.labels, return_counts=True)[1].tolist() == [50] * 34
    few = Pictures(np.zeros((6000, 1, 1, 1), np.uint8), np.repeat([0, 1], 3000)).whole()
    assert len(few) == 6000
