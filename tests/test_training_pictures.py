"""Pictures of a run that vanish, cannot be read, or come twice."""

from __future__ import annotations

import shutil
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
from siamese_search.training.data import Pictures, found_files, split  # noqa: E402
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


# Pictures that cannot be read


@pytest.mark.slow
@pytest.mark.parametrize("spoiled", [1, 2])
def test_held_out_classes_that_cannot_be_read_judge_nothing(
    folder: Path, tmp_path: Path, spoiled: int
) -> None:
    files, _ = found_files([folder], tmp_path / "out")
    parts = split(files, SHORT.holdout, SHORT.seed)
    assert (parts.how, len(parts.validation)) == ("classes", 8)
    for file in parts.validation[: 4 * spoiled]:
        Path(file.path).write_bytes(b"nothing")
    told: list[str] = []
    report = train([folder], tmp_path / "out", SHORT, warn=told.append)
    assert (report.held_out, report.held_out_pictures, report.recall) == ("none", 0, None)
    assert any(line.startswith("too little is left of what was to be held out") for line in told)
    assert "40 training pictures of 10 classes" in report.basis
    assert Encoder.open(tmp_path / "out").record.training["data"]["held out"] == "none"
    assert len(report.rejected) == 4 * spoiled


# Pictures that come twice


def test_a_file_is_found_once_by_whatever_way(folder: Path, tmp_path: Path) -> None:
    once, _ = found_files([folder], tmp_path / "out")
    (tmp_path / "link").symlink_to(folder)
    for others in ([folder], [tmp_path / "link"]):
        assert found_files([folder, *others], tmp_path / "out") == (once, [])
    files, rejected = found_files([folder, folder / "class-00"], tmp_path / "out")
    assert files == once
    assert len(rejected) == 4
    path = folder / "class-00" / "0.png"
    assert rejected[0].path == str(path)
    assert f"the same picture is taken as 'class-00' already, by {path}" in rejected[0].reason


def test_identities_are_named_as_add_names_them(folder: Path, tmp_path: Path) -> None:
    (folder / "class-00").rename(folder / "Caf\u00e9")
    (folder / "class-01").rename(folder / "Cafe\u0301")
    (folder / "class-02").rename(folder / "a\nb")
    files, rejected = found_files([folder], tmp_path / "out")
    assert len({file.identity for file in files}) == 10
    assert sum(file.identity == "Caf\u00e9" for file in files) == 8
    assert [one.path for one in rejected] == [str(folder / "a\nb" / f"{n}.png") for n in range(4)]
    assert "cannot be an identity's name" in rejected[0].reason


@pytest.mark.slow
def test_a_copy_neither_trains_nor_judges_again(folder: Path, tmp_path: Path) -> None:
    for place in folder.iterdir():  # few classes, so that pictures of each are held out
        if place.name > "class-03":
            shutil.rmtree(place)
        else:
            for path in sorted(place.iterdir()):
                shutil.copy(path, place / f"copy-{path.name}")
    shutil.copy(folder / "class-00" / "0.png", folder / "class-01" / "other.png")
    told: list[str] = []
    settings = replace(SHORT, classes=2)
    report = train([folder], tmp_path / "out", settings, warn=told.append)
    assert report.pictures + report.held_out_pictures == 16
    (other,) = report.rejected
    assert "the same picture is taken as 'class-0" in other.reason
    assert "16 pictures are copies of others: left out" in told
    alone = replace(settings, loss="self-supervised")
    assert not train([folder], tmp_path / "alone", alone, warn=told.append).rejected
    assert "17 pictures are copies of others: left out" in told
