"""Whether training helped: as a gallery would say, with the start kept where it did not."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_metric_learning")
pytest.importorskip("onnxscript")

from test_training import SMALL, Stop, drawn, first, stop  # noqa: E402, F401

from siamese_search import Encoder  # noqa: E402
from siamese_search.arrays import FloatArray, IntArray  # noqa: E402
from siamese_search.decision.learning import Prior  # noqa: E402
from siamese_search.decision.trained import View  # noqa: E402
from siamese_search.errors import TrainingError, UsageError  # noqa: E402
from siamese_search.training import as_gallery, judging, plan  # noqa: E402
from siamese_search.training.as_gallery import (  # noqa: E402
    BETTER,
    CHANCE,
    WORSE,
    Described,
    compare,
    named_rightly,
)
from siamese_search.training.data import Pictures  # noqa: E402
from siamese_search.training.retrieval import Retrieval, retrieval  # noqa: E402
from siamese_search.training.run import TrainingReport, train  # noqa: E402
from siamese_search.training.selection import Selection  # noqa: E402
from siamese_search.training.settings import Settings  # noqa: E402
from siamese_search.training.words import gained  # noqa: E402

pytestmark = pytest.mark.usefixtures("quickly_exported")

LABELS = np.repeat(np.arange(30), 10)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are not drawn, which takes longer than they do."""
    monkeypatch.setattr("siamese_search.training.run._draw", lambda *_: None)


def unit(vectors: Any) -> FloatArray:
    made: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return made


def embedded(noise: float, nuisance: float, seed: int = 0) -> FloatArray:
    """Ten vectors of each of 30 classes about their centres; all classes vary along the same two
    directions as well, as light or pose makes pictures do.
    """
    random = np.random.default_rng(seed)
    centres = np.concatenate([np.zeros((30, 2)), random.normal(size=(30, 14))], axis=1)
    made = centres[LABELS] + noise * np.random.default_rng(1).normal(size=(300, 16))
    made[:, :2] += nuisance * np.random.default_rng(2).normal(size=(300, 2))
    return unit(made)


def described(vectors: FloatArray, name: str = "trained") -> Described:
    return Described(name, vectors, None)


# The comparison


def test_named_rightly_is_that_of_the_slow_way() -> None:
    """One picture of each, and few: no metric is learned, the nearest by cosine is named."""
    vectors = embedded(0.9, 1.0)
    right = np.zeros(30)
    for seed in range(4):
        random = np.random.default_rng(seed)
        orders = [random.permutation(np.flatnonzero(name == LABELS)) for name in range(30)]
        items = [order[0] for order in orders]
        for name, order in enumerate(orders):
            for probe in order[1:]:
                cosines = [float(vectors[item] @ vectors[probe]) for item in items]
                right[name] += int(np.argmax(cosines)) == name
    found = named_rightly(vectors, LABELS, None, shots=1, draws=4)
    assert found == pytest.approx(right / (4 * 9))


def test_a_difference_is_told_by_classes() -> None:
    found = compare(described(embedded(0.3, 0.0)), described(embedded(1.2, 0.0)), LABELS, True)
    assert found is not None
    assert (found.classes, found.pictures, found.shots) == (30, 300, 5)
    assert found.several is not None
    shots = (named_rightly(embedded(noise, 0.0), LABELS, None, 5) for noise in (0.3, 1.2))
    apart = next(shots) - next(shots)
    assert found.several.gained == pytest.approx(apart.mean())
    assert found.several.error == pytest.approx(apart.std(ddof=1) / math.sqrt(30))
    assert found.verdict == BETTER
    assert found.is_better
    other = compare(described(embedded(1.2, 0.0)), described(embedded(0.3, 0.0)), LABELS, True)
    assert other is not None
    assert (other.verdict, other.is_better) == (WORSE, False)


def test_another_seed_of_the_same_quality_is_within_chance() -> None:
    verdicts = [
        compare(
            described(embedded(0.8, 0.0, seed)), described(embedded(0.8, 0.0, seed + 50)), LABELS,
            True, draws=3,
        )
        for seed in range(6)
    ]  # fmt: skip
    assert sum(found is not None and found.verdict == CHANCE for found in verdicts) >= 5


def test_what_was_chosen_of_many_epochs_must_be_ahead_by_more() -> None:
    other, gained = described(embedded(0.8, 0.0, 50)), 0
    for seed in range(12):
        one, many = (
            compare(described(embedded(0.77, 0.0, seed)), other, LABELS, True, 2, chosen_of=epochs)
            for epochs in (1, 100)
        )
        assert one is not None
        assert many is not None
        assert many.main == replace(one.main, told=many.main.told)
        assert one.main.told or not many.main.told
        if one.main.gained < 0:  # what was chosen and is worse all the same
            assert many.main.told == one.main.told
        gained += one.main.told - many.main.told
    assert gained > 0


def test_where_several_pictures_are_even_one_decides() -> None:
    labels = np.repeat(np.arange(6), 4)
    poor, good = unit(np.eye(6)[labels] + 0.9 * np.roll(np.eye(6), 1, 0)[labels]), np.eye(6)[labels]
    even = as_gallery.Difference(1.0, 1.0, 0.0, 0.0, False)
    found = compare(described(unit(good)), described(poor), labels, True)
    assert found is not None
    more = as_gallery.Difference(0.5, 0.7, 0.2, 0.05, True)
    assert replace(found, several=even, one_shot=more).main == more
    assert replace(found, several=even, one_shot=more).verdict == BETTER


def test_too_little_to_compare_is_not_known() -> None:
    labels: IntArray = np.array([0, 0, 1, 2], np.int64)
    one = described(unit(np.eye(4)))
    assert compare(one, one, labels, True) is None


def test_pictures_that_are_alone_in_their_class_are_not_asked_about() -> None:
    labels = np.array([0, 0, 1, 1, 2], np.int64)
    vectors = unit(np.eye(3)[labels] + 0.01)
    assert named_rightly(vectors, labels, None, 5).tolist() == [1, 1]


# Which weights are kept


def selection_of(before: Retrieval, after: Retrieval) -> tuple[Selection, Any]:
    """A run of one epoch, whose weights are kept by mAP@R."""
    start, trained = ({"weight": torch.tensor([value])} for value in (0.0, 1.0))
    selection = Selection(start)
    selection.see(0, before, lambda: start)
    selection.see(10, after, lambda: trained)
    selection.blend(lambda weights: after if float(weights["weight"]) == 1 else before, trained)
    return selection, trained


def test_what_gains_by_plain_cosines_alone_is_not_kept() -> None:
    """A metric takes off what all classes vary by; to learn that once more is no gain."""
    before, after = embedded(0.55, 2.0), embedded(0.75, 0.0)
    plain = retrieval(before, LABELS), retrieval(after, LABELS)
    selection, _ = selection_of(*plain)
    gain = selection.gain()
    assert gain is not None
    assert gain.error is not None
    assert gain.mean > 3 * gain.error  # beyond chance
    assert selection.step == 10
    judged = compare(described(after), described(before, "start"), LABELS, True)
    assert judged is not None
    assert judged.several is not None
    assert judged.several.gained <= 0
    assert judged.verdict != BETTER
    selection.heed(judged)
    assert (selection.step, selection.weights, selection.share) == (0, selection.start, 1.0)
    assert selection.found is plain[0]
    assert selection.gain() == gain  # of what was trained, which is still said


def test_what_gains_by_both_is_kept_and_so_is_what_nobody_can_judge() -> None:
    before, after = embedded(0.9, 1.0), embedded(0.4, 0.0)
    judged = compare(described(after), described(before, "start"), LABELS, True)
    assert judged is not None
    assert judged.is_better
    for heeded in (judged, None):
        selection, trained = selection_of(retrieval(before, LABELS), retrieval(after, LABELS))
        selection.heed(heeded)
        assert (selection.step, selection.weights) == (10, trained)


# An early end


def after_epochs(precisions: list[float]) -> Selection:
    """What is known after epochs with these mAP@R, the start's first."""
    selection = Selection({})
    for step, precision in enumerate(precisions):
        values = np.full(4, precision, np.float32)
        selection.see(step, Retrieval(precision, values), dict)
    return selection


def test_a_run_that_gains_or_rises_never_counts_as_one_that_gains_nothing() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        start, *course = random.uniform(0.3, 0.9, 13).round(3).tolist()
        for end in range(1, 13):
            if max(course[:end]) > start:
                assert not after_epochs([start, *course[:end]]).gains_nothing
            rising = sorted(set(course[:end]))
            assert not after_epochs([1 - 1e-6, *rising]).gains_nothing
    falls_and_rises = [0.7, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.69, 0.72]
    for end in range(1, 10):
        assert not after_epochs(falls_and_rises[:end]).gains_nothing


def test_a_run_that_gains_nothing_and_rises_no_more_is_seen() -> None:
    assert after_epochs([0.7, 0.6, 0.65, 0.64, 0.6, 0.63]).gains_nothing
    assert after_epochs([0.7, 0.7, 0.7, 0.7, 0.7]).gains_nothing
    assert after_epochs([1.0, 0.9]).gains_nothing  # nothing is left to gain
    assert not after_epochs([1.0]).gains_nothing
    resumed, known = Selection({}), after_epochs([0.7, 0.6, 0.65, 0.64, 0.6, 0.63])
    resumed.restore(known.tensors(), json.loads(json.dumps(known.facts())))
    assert resumed.gains_nothing
    assert resumed.epochs == 5


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_run_without_gain_ends_at_half_and_says_so(
    first: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    folder, start = first
    still = replace(
        SMALL, start=str(start), dimension=None, steps=20, epoch_steps=2, rate=0.0, give_up=0.5
    )
    report = train([folder], tmp_path / "out", still)
    assert report.steps <= 10
    assert report.ended is not None
    assert f"at step {report.steps} of 20" in report.ended
    assert report.kept == 0
    assert "ended early" in "\n".join(gained(report))
    record = Encoder.open(tmp_path / "out").record
    assert record.training["ended early"] == report.ended
    again = train([folder], tmp_path / "out", still, resume=True)
    assert replace(again, seconds=report.seconds) == report


# Runs


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_kept_start_keeps_what_it_knows_for_metrics(
    first: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    folder, run = first
    start = tmp_path / "start"
    known = Encoder.open(run, "cpu")
    from siamese_search.embedding.record import verified_weights, write_encoder

    prior = Prior(np.zeros(16, np.float32), np.diag(np.arange(1, 17)).astype(np.float32))
    write_encoder(
        start,
        name="start",
        architecture=known.record.architecture,
        preprocessing=known.record.preprocessing,
        dimension=16,
        onnx=(run / "encoder.onnx").read_bytes(),
        weights=verified_weights(known.folder, known.record),
        threshold=known.threshold,
        calibration=known.record.calibration,
        training={},
        prior=prior,
    )
    report = train(
        [folder],
        tmp_path / "out",
        replace(SMALL, start=str(start), dimension=None, steps=2, rate=0.0),
    )
    assert report.kept == 0
    assert report.as_gallery is not None
    assert report.as_gallery.against == "start"
    made = Encoder.open(tmp_path / "out", "cpu").prior
    assert made is not None
    assert np.array_equal(made.within, prior.within) == (report.adapted is None)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_without_steps_only_how_pictures_vary_is_learned(
    first: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quickly_exported: Any,
) -> None:
    monkeypatch.setattr(torch.onnx, "export", quickly_exported)  # a graph is in the fingerprint
    folder, start = first
    still = replace(SMALL, start=str(start), dimension=None, steps=0)
    report = train([folder], tmp_path / "out", still)
    before, after = (Encoder.open(one) for one in (start, tmp_path / "out"))
    assert (report.steps, report.kept) == (0, 0)
    assert after.fingerprint == before.fingerprint
    assert after.threshold == before.threshold
    assert report.as_gallery is None  # nothing is compared with itself
    assert "no step was asked for" in said_of(report)
    with pytest.raises(UsageError, match="give more pictures"):
        train([folder], tmp_path / "none", replace(still, holdout=0.0))
    with pytest.raises(TrainingError, match="earlier run: name another folder"):
        train([folder], tmp_path / "out", still)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_an_adapted_prior_is_written_and_said(
    first: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder, start = first
    one = as_gallery.Difference(0.5, 0.6, 0.1, 0.02, True)
    found = as_gallery.AsGallery("known", 20, 200, 10, 5, True, one, one)
    prior = Prior(np.zeros(16, np.float32), np.diag(np.arange(1, 17)).astype(np.float32))
    monkeypatch.setattr(judging, "prior_of", lambda *_: (prior, found))
    asked = f"train {folder} --from {start} --steps 0 --holdout 0.3 --out mine --json"
    out, _ = command(asked, tmp_path, monkeypatch, capfd)
    assert json.loads(out)["adapted"]["one_shot"]["gained"] == 0.1
    made = Encoder.open(tmp_path / "mine", "cpu")
    assert made.prior is not None
    assert np.array_equal(made.prior.within, prior.within)
    assert made.record.training["prior adapted"]["one_shot"]["gained"] == 0.1


def test_pictures_that_tell_how_a_class_varies_are_several_of_each() -> None:
    labels = np.concatenate([np.arange(3000), np.repeat(np.arange(1500), 7), np.arange(40)])
    pictures = Pictures(np.zeros((len(labels), 1, 1, 1), np.uint8), labels).alike()
    counts = np.bincount(pictures.labels)
    assert set(np.unique(counts)) <= {0, 8, 9}
    assert 1900 < len(pictures) <= 2000
    few = Pictures(np.zeros((90, 1, 1, 1), np.uint8), np.arange(90) // 30).alike()
    assert np.bincount(few.labels).tolist() == [20, 20, 20]


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_run_from_scratch_is_compared_with_a_shipped_encoder_and_kept_whatever(
    first: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    folder, _ = first
    settings = replace(SMALL, augmentation="glyph", steps=2, epoch_steps=2)
    report = train([folder], tmp_path / "out", settings)
    assert report.as_gallery is not None
    assert report.as_gallery.against == "glyph"
    assert report.as_gallery.unseen
    assert report.kept > 0
    facts = Encoder.open(tmp_path / "out").record.training["as a gallery"]
    assert facts["verdict"] == report.verdict
    assert facts["one_shot"]["gained"] == report.as_gallery.one_shot.gained


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_where_nothing_is_held_out_the_gain_is_not_known(
    first: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    folder, _ = first
    report = train([folder], tmp_path / "out", replace(SMALL, holdout=0.0, steps=2))
    assert (report.as_gallery, report.verdict) == (None, "not known")
    assert "not known" in "\n".join(gained(report))
    assert report.basis.startswith("48 training pictures of 12 classes")


def said_of(report: TrainingReport, **changes: Any) -> str:
    return "\n".join(gained(replace(report, **changes)))


def test_what_is_better_is_said_plainly() -> None:
    one = as_gallery.Difference(0.5, 0.6, 0.1, 0.02, True)
    worse = as_gallery.Difference(0.6, 0.5, -0.1, 0.02, True)
    found = as_gallery.AsGallery("general-2", 20, 200, 10, 5, True, one, one)
    report = TrainingReport(
        "mine", "", 8, 10, 1.0, 80, 800, "classes", 0.5, 0.6, 0.5, (), 20, 200,
        0.03, 0.01, 10, "", found, found.verdict,
    )  # fmt: skip
    text = said_of(report)
    assert "mAP@R over the start, by plain cosines: +3.0 ± 1.0 points" in text
    assert "up to 5 pictures of each enrolled: 50.0% and 60.0% named rightly, +10.0 ± 2.0" in text
    assert "better: the trained encoder names more rightly than general-2" in text
    lost = replace(found, several=worse)
    text = said_of(report, as_gallery=lost, verdict=lost.verdict)
    assert "worse: use general-2, which names more rightly" in text
    assert text.endswith("with one picture of each: better")
    assert "starting weights are kept" in said_of(report, as_gallery=lost, kept=0)
    even = replace(found, several=replace(one, told=False))
    text = said_of(report, as_gallery=even, verdict=even.verdict)
    assert f"{CHANCE}; more held-out classes might tell; with one picture of each: better" in text
    assert "trained on" in said_of(report, as_gallery=replace(found, unseen=False))
    assert "flatters" not in said_of(report)
    text = said_of(report, as_gallery=replace(found, chosen_of=12))
    assert "the same pictures chose the best of 12 epochs, which flatters" in text
    text = said_of(report, adapted=found)
    assert "begin with how your pictures vary: +10.0 ± 2.0 points named rightly" in text


def varying(classes: int, seed: int, loud: float, apart: float) -> tuple[FloatArray, Any]:
    """Six vectors of each of some classes. They vary by ``loud`` in four directions and by a half
    in the others, in which classes lie ``apart``.
    """
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), 6)
    four = np.arange(24) < 4
    noise = random.normal(size=(len(labels), 24)) * np.where(four, loud, 0.5)
    centres = random.normal(size=(classes, 24)) * np.where(four, 1.0, apart)
    return unit(centres[labels] + noise), labels


@pytest.mark.parametrize("adapts", [True, False])
def test_a_prior_is_adapted_unless_galleries_lose_by_it(adapts: bool) -> None:
    seen, labels = varying(60, 1, loud=2.5, apart=1.0)
    # Of other things what varied in those may be what tells them apart.
    held, others = varying(20, 2, 2.5, 1.0) if adapts else varying(20, 2, 1.0, 0.1)
    known = Prior(np.zeros(24, np.float32), np.eye(24, dtype=np.float32))
    prior, gain = judging.prior_of(known, View(held, seen), others, labels, True)
    if adapts:
        assert gain is not None
        assert gain.main.gained > 0.01
        assert prior is not known
    else:
        assert (prior, gain) == (known, None)
    assert judging.prior_of(known, View(held, seen), others, labels, False) == (known, None)
    alone = np.arange(len(seen))  # of one picture each, no prior
    assert judging.prior_of(known, View(held, seen), others, alone, True) == (known, None)


# The command


def command(
    arguments: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[str, str]:
    """What a command prints on standard output, and on standard error."""
    code, out, err = ended(arguments, folder, monkeypatch, capfd)
    assert code == 0, err
    return out, err


def refused(
    arguments: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> str:
    """What a command prints that is stopped by an error."""
    code, _, err = ended(arguments, folder, monkeypatch, capfd)
    assert code == 2, err
    return err


def ended(
    arguments: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[object, str, str]:
    """A command's exit code, and what it prints on standard output and on standard error."""
    from siamese_search.cli.app import main

    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["siasearch", *arguments.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    output = capfd.readouterr()
    return stop.value.code, output.out, output.err


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    first: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder, _ = first
    before = sorted(path for path in folder.parent.rglob("*"))
    asked = f"train {folder} --out mine --from scratch --size 16 --classes 4 --steps 30 --dry-run"
    out, _ = command(asked, tmp_path, monkeypatch, capfd)
    assert "48 pictures of 12 classes" in out
    assert "steps" in out
    assert "as you say" in out
    assert "30 steps of 16 pictures at" in out
    assert list(tmp_path.iterdir()) == []
    assert sorted(path for path in folder.parent.rglob("*")) == before
    out, _ = command(f"{asked} --json", tmp_path, monkeypatch, capfd)
    facts = json.loads(out)
    assert facts["plan"]["survey"]["classes"] == 12
    assert {"setting": "steps", "value": 30, "reason": "as you say", "given": True} in facts[
        "plan"
    ]["choices"]
    assert facts["estimate"]["seconds"] > 0
    assert list(tmp_path.iterdir()) == []
    for one in sorted(folder.iterdir())[:8]:
        shutil.copytree(one, tmp_path / "few" / one.name)
    _, err = command(asked.replace(str(folder), "few"), tmp_path, monkeypatch, capfd)
    assert "note: few classes: pictures of each are held out" in err


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_resume_goes_on_as_was_chosen(
    first: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder, _ = first
    monkeypatch.chdir(tmp_path)
    from siamese_search.training.data import found_files
    from siamese_search.training.survey import survey

    given = {"start": "scratch", "size": 48, "steps": 4, "epoch_steps": 2, "dimension": 16}
    made = plan.planned(survey(found_files([folder], "mine")[0]), given)
    with pytest.raises(Stop):
        train([folder], "mine", made, tell=stop)
    out, err = command(f"train {folder} -o mine --resume --json", tmp_path, monkeypatch, capfd)
    report = json.loads(out)
    assert report["steps"] == 4
    assert report["plan"] == json.loads(json.dumps(made.facts()))
    assert "going on" in err
    assert report["verdict"] in (BETTER, WORSE, CHANCE)
    saved = Encoder.open(tmp_path / "mine").record.training
    assert Settings(**saved["settings"]) == made.settings.resolved()


def test_a_dry_run_refuses_a_place_as_the_run_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    drawn(tmp_path / "pictures")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "encoder.json").write_text("{}")
    (tmp_path / "file").write_text("")
    for place, says in (("mine", "holds an earlier run"), ("file/mine", "file is no folder")):
        said = refused(f"train pictures --out {place} --dry-run", tmp_path, monkeypatch, capfd)
        assert says in said


def test_resume_without_a_run_and_with_a_dry_run_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    drawn(tmp_path / "pictures")
    for options, says in (
        ("--resume", "to resume from"),
        ("--resume --dry-run", "leave out --resume"),
    ):
        assert says in refused(f"train pictures {options}", tmp_path, monkeypatch, capfd)
