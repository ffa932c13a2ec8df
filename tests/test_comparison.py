"""Comparing encoders on one's own pictures, and how sure the figures are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import picture, write_toy_encoder
from PIL import Image
from shell import Shell

from siamese_search import Encoder
from siamese_search.errors import EncoderError, UsageError
from siamese_search.evaluation import comparison, comparison_words, side_by_side, splits
from siamese_search.evaluation.probes import Probes
from siamese_search.evaluation.side_by_side import Embedded
from siamese_search.evaluation.standard_errors import (
    Halves,
    Measured,
    Shares,
    beyond_chance,
    student,
)
from siamese_search.pictures.sources import find
from siamese_search.records import ImageFile, Progress

THINGS, EACH = 12, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve things, of which the four pictures differ much."""
    folder = tmp_path_factory.mktemp("data") / "things"
    for thing in range(THINGS):
        (folder / f"thing{thing}").mkdir(parents=True)
        for number in range(EACH):
            seen = np.asarray(picture(thing), float)
            other = np.asarray(picture(1000 + EACH * thing + number), float)
            mixed = Image.fromarray((0.35 * seen + 0.65 * other).astype(np.uint8))
            mixed.save(folder / f"thing{thing}" / f"{number}.png")
    return folder


def files_of(folder: Path) -> list[ImageFile]:
    return [one for one in find([str(folder)]) if isinstance(one, ImageFile)]


@pytest.fixture(scope="module")
def compared(
    data: Path, toy_folder: Path, coarse_folder: Path
) -> tuple[comparison.Comparison, list[Progress]]:
    """The toy and the coarse one, in five draws, and what was said of progress."""
    told: list[Progress] = []
    encoders = [coarse_folder, toy_folder]
    found = comparison.compare(encoders, files_of(data), None, 5, "cpu", told.append)
    return found, told


@pytest.mark.slow
def test_encoders_are_compared_by_the_figures_of_evaluation(
    data: Path, toy: Encoder, compared: tuple[comparison.Comparison, list[Progress]]
) -> None:
    found, told = compared
    coarse, fine = found.contestants
    assert (found.pictures, found.identities, found.shots) == (THINGS * EACH, THINGS, 2)
    assert (coarse.dimension, fine.dimension) == (13, 49)
    assert list(fine.figures) == [
        "recall@1", "one shot", "2 shots", "2 shots, calibrated",
    ]  # fmt: skip

    files = files_of(data)
    vectors = toy.embed([file.path for file in files])
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -2)
    right = [
        files[row.argmax()].identity == own.identity for row, own in zip(scores, files, strict=True)
    ]
    assert fine.figures["recall@1"].mean == pytest.approx(np.mean(right))
    assert 0.2 < np.mean(right) < 1

    for figure, split in (
        ("one shot", splits.Split(1, draws=5, calibrated=False)),
        ("2 shots", splits.Split(2, draws=5, calibrated=False)),
        ("2 shots, calibrated", splits.Split(2, draws=5, fpir=0.1)),
    ):
        draws = splits.evaluate_splits(toy, files, split).draws
        assert fine.figures[figure].draws == pytest.approx(
            [one.figures["recall@1"] for one in draws]
        )
    assert [one.stage for one in told][-1] == "measuring"
    assert told[-1].done == told[-1].total


@pytest.mark.slow
def test_differences_are_those_of_the_same_pictures(
    compared: tuple[comparison.Comparison, list[Progress]],
) -> None:
    found, _ = compared
    by_name = {one.encoder: one for one in found.contestants}
    for one in found.differences:
        better, other = by_name[one.better], by_name[one.other]
        if one.figure == "images/s":
            faster = np.array(better.rate.draws) / np.array(other.rate.draws)
            assert one.mean == pytest.approx(np.exp(np.log(faster).mean()))
        else:
            apart = better.figures[one.figure].mean - other.figures[one.figure].mean
            assert one.mean == pytest.approx(apart)
            assert one.mean >= 0 or one.figure != found.main
    for each in found.contestants:
        assert each.rate.mean > 0
        assert each.size is not None
        assert each.size > 1000
        assert each.memory is None or each.memory > 10e6
    (line,) = comparison_words.verdict(found)
    assert ("is better than" in line) == any(
        one.told for one in found.differences if one.figure == found.main
    )


def test_a_rate_that_strangers_tell_is_given_and_another_left_out(
    tmp_path: Path, toy_folder: Path, coarse_folder: Path
) -> None:
    for thing in range(12):
        (tmp_path / f"{thing}").mkdir()
        for number in range(6):
            noisy = picture(thing, noise=60 + number)
            noisy.save(tmp_path / f"{thing}" / f"{number}.png")
    found = comparison.compare([toy_folder, coarse_folder], files_of(tmp_path), 1, 5, "cpu")
    assert list(found.contestants[0].figures)[1:] == ["one shot", "one shot: TPIR at FPIR 0.1"]
    assert {one.figure for one in found.left_out} == {"TPIR at FPIR 0.01"}
    assert (found.shots, found.main) == (None, "one shot")


def test_the_error_of_shares_is_how_much_they_vary_with_other_identities() -> None:
    """Identities differ, draws differ, and each draw asks half of the identities."""
    random = np.random.default_rng(0)
    means, errors, surprises = [], [], 0
    for _ in range(600):
        own, of_draw = random.normal(0, 0.2, 40), random.normal(0, 0.03, 8)
        right, of = np.zeros((2, 40, 8))
        for draw in range(8):
            half = random.permutation(40)[:20]
            noise = random.normal(0, 0.5, (20, 5))
            right[half, draw] = (own[half][:, None] + of_draw[draw] + noise).sum(axis=1)
            of[half, draw] = 5
        found = Shares(right, of)
        means.append(found.mean)
        errors.append(found.error)
        surprises += beyond_chance(found.mean, found.error, found.freedom)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(means), rel=0.15)
    assert surprises / 600 < 0.06


def test_errors_of_shares_and_halves_are_those_of_a_slow_computation() -> None:
    right, of = np.array([[3.0], [1.0], [0.0], [4.0]]), np.full((4, 1), 4.0)
    found = Shares(right, of)
    shares = [3 / 4, 1 / 4, 0, 1]
    assert found.mean == 0.5
    assert found.error == pytest.approx(np.std(shares, ddof=1) / 2)  # of four, all as large
    assert found.freedom == 3
    assert Shares(right, of).less(Shares(right, of)).error == 0
    assert not beyond_chance(0, 0, 3)
    halves = Halves(np.array([0.1, 0.3, 0.2]), kept=6, classes=9)
    assert halves.mean == pytest.approx(0.2)
    assert halves.error == pytest.approx(0.1 * 2**0.5)
    for freedom, quantile in ((4, 2.776), (9, 2.262), (29, 2.045)):  # from a table
        assert student(freedom) == pytest.approx(quantile, rel=0.01)
    assert student(4, 0.01) == pytest.approx(4.604, rel=0.02)
    assert beyond_chance(2.5, 1, 9)
    assert not beyond_chance(2.5, 1, 9, tests=2)


def test_the_best_of_equal_encoders_is_seldom_told_better() -> None:
    random = np.random.default_rng(0)
    names = [str(n) for n in range(6)]
    probes = Probes((), np.empty((0, 1), np.float32))
    sides = [Embedded(probes, np.ones(4), np.ones(4), None, "cpu")] * 6
    surprises = 0
    for _ in range(300):
        right = random.binomial(10, 0.6, (6, 40, 1)).astype(float)
        measured: list[dict[str, Measured]] = [
            {"main": Shares(one, np.full((40, 1), 10.0))} for one in right
        ]
        found = comparison._differences(names, measured, sides, "main")
        surprises += any(one.told for one in found if one.figure == "main")
    assert surprises / 300 < 0.06


def test_compare_prints_a_table_json_and_a_plot(
    shell: Shell, data: Path, coarse_folder: Path
) -> None:
    pytest.importorskip("matplotlib")
    (shell.folder / "mine").mkdir()
    shutil.copytree(data, shell.folder / "things")
    (shell.folder / "things" / "thing0" / "broken.png").write_text("no picture")
    arguments = ("encoder", "compare", coarse_folder, shell.encoder, "--data", "things")
    ran = shell(*arguments, "--seeds", "5", "--shots", "1", "--out", "plot.png", code=1)
    assert "things: 48 pictures of 12 things; 5 draws" in ran.stdout
    assert "  recall@1 " in ran.stdout
    assert "TPIR (rank 1) at FPIR 0.01 is left out" in ran.stdout
    assert "MB of memory" in ran.stdout
    assert "broken.png" in ran.stderr
    with Image.open(BytesIO((shell.folder / "plot.png").read_bytes())) as drawn:
        assert drawn.format == "PNG"
    (found,) = shell.json(*arguments, "--seeds", "5", "--shots", "1", code=1)
    assert found.keys() == {
        "data", "pictures", "identities", "draws", "shots", "main", "contestants", "differences",
        "left_out", "rejected",
    }  # fmt: skip
    first = found["contestants"][0]
    assert first.keys() == {
        "encoder", "dimension", "figures", "rate", "size", "memory", "device",
    }  # fmt: skip
    assert first["figures"]["one shot"].keys() == {"mean", "error", "draws"}
    assert len(found["left_out"]) == 1


def test_what_cannot_be_compared_is_a_line(
    shell: Shell, data: Path, coarse_folder: Path, pictures: Callable[..., Path]
) -> None:
    loose = pictures({".": 12}, "loose")
    few = pictures({"a": 3, "b": 3}, "few")
    broken = shell.folder / "broken"
    shutil.copytree(data, broken)
    for path in broken.glob("*/*"):
        path.write_bytes(b"nothing")
    copy = shell.folder / "copy"
    shutil.copytree(shell.encoder, copy)
    both = (shell.encoder, coarse_folder)
    for arguments, said in (
        ((shell.encoder, "--data", data), "one encoder cannot be compared"),
        ((shell.encoder, shell.encoder, "--data", data), "are the same encoder"),
        ((shell.encoder, copy, "--data", data), "are the same encoder"),
        ((shell.encoder, "nowhere", "--data", data), "unknown encoder: 'nowhere'"),
        ((*both, "--data", loose), "no two pictures show the same thing"),
        ((*both, "--data", few), "2 of 2 things have two pictures or more, too few"),
        ((*both, "--data", data, "--shots", "4"), "0 of 12 things have more than 4 pictures"),
        ((*both, "--data", broken), f"48 pictures cannot be used, such as {broken}"),
        ((*both, "--data", "nowhere"), "nowhere: no such file or folder"),
        ((*both, "--data", data, "--out", "plot.svg"), "plots are PNG files"),
        ((*both, "--data", data, "--out", "no/plot.png"), "there is no folder no"),
    ):
        ran = shell("encoder", "compare", *arguments, code=2)
        assert said in ran.stderr
        assert ran.stderr.count("\n") == 1
    few_draws = shell("encoder", "compare", *both, "--data", data, "--seeds", "2", code=2)
    assert "it must be at least 5" in few_draws.stderr


@pytest.mark.slow
def test_a_folder_that_nothing_can_be_called_by_is_rejected_and_the_others_are_not(
    shell: Shell, data: Path, coarse_folder: Path
) -> None:
    things = shell.folder / "things"
    shutil.copytree(data, things)
    (things / "thing0").rename(things / "a\nb")
    for command in (
        ("add", things, "--gallery", "gallery", "--encoder", shell.encoder, "--yes"),
        ("add", things, "--gallery", "other", "--encoder", shell.encoder, "--dry-run"),
        ("encoder", "compare", shell.encoder, coarse_folder, "--data", things, "--seeds", "5"),
        ("benchmark", "--split", things, "--encoder", shell.encoder, "--seeds", "2"),
    ):
        ran = shell(*command, code=1)
        assert ran.stderr.count("'a\\nb' cannot be an identity's name") == 4
        assert "a\\nb/0.png: " in ran.stderr
        assert "11" in ran.stdout


def test_an_encoder_that_cannot_run_is_named(
    tmp_path: Path, data: Path, coarse_folder: Path, toy_folder: Path
) -> None:
    broken = write_toy_encoder(tmp_path / "broken", onnx=b"no graph")
    with pytest.raises(EncoderError, match=r"broken/encoder\.onnx"):
        comparison.compare([coarse_folder, broken], files_of(data), draws=5)
    with pytest.MonkeyPatch.context() as patch:  # killed for its memory, say
        patch.setattr(side_by_side, "command", lambda module: ("false",))
        with pytest.raises(
            EncoderError, match="ended: exit code 1; it may have needed more memory"
        ):
            comparison.compare([coarse_folder, toy_folder], files_of(data), draws=5)
    with pytest.raises(UsageError, match="draws"):
        comparison.compare([coarse_folder, broken], files_of(data), draws=1)
