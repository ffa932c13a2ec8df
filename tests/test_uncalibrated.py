"""Encoders whose threshold was never fitted: nothing is named by them, until a gallery calibrates
itself, somebody gives a threshold, or it is fitted on pictures.
"""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture, write_toy_encoder
from PIL import Image
from shell import Shell

from siamese_search import Encoder, Gallery, evaluate
from siamese_search.embedding.record import SHIPPED, UNFITTED, read_record
from siamese_search.errors import EncoderError, UsageError
from siamese_search.evaluation import likeness, score_plots
from siamese_search.evaluation.explain import explain
from siamese_search.evaluation.own_scores import both_ways, own_scores
from siamese_search.evaluation.splits import Split, evaluate_splits
from siamese_search.evaluation.verdict import compared, verdict
from siamese_search.gallery import unasked
from siamese_search.importing.reference import fit_reference
from siamese_search.pictures.sources import find
from siamese_search.records import ImageFile, Rejection


def view(identity: int, number: int) -> Image.Image:
    """A picture of an identity, a little different for every number."""
    pixels = np.asarray(picture(identity)).astype(np.float64)
    pixels += np.random.default_rng([identity, number]).normal(0, 60, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def things(folder: Path, identities: range, views: range = range(3)) -> Path:
    """A folder with views of identities."""
    for identity in identities:
        place = folder / f"thing-{identity:02}"
        place.mkdir(parents=True, exist_ok=True)
        for number in views:
            view(identity, number).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three views of twelve identities."""
    return things(tmp_path_factory.mktemp("twelve"), range(12))


@pytest.fixture(scope="module")
def unfitted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy, with neither threshold, places nor a prior."""
    folder = tmp_path_factory.mktemp("encoders") / "unfitted"
    return write_toy_encoder(folder, threshold=None, calibration=None)


@pytest.fixture(scope="module")
def unfitted(unfitted_folder: Path) -> Encoder:
    return Encoder.open(unfitted_folder, "cpu")


@pytest.fixture
def gallery(tmp_path: Path, unfitted: Encoder) -> Gallery:
    return Gallery.open(tmp_path / "gallery", unfitted)


# The record


def test_a_record_says_that_nothing_was_fitted(
    tmp_path: Path, toy: Encoder, unfitted: Encoder, unfitted_folder: Path
) -> None:
    assert not unfitted.calibrated
    assert unfitted.threshold == 1
    assert read_record(unfitted_folder).calibration == UNFITTED["calibration"]
    assert "threshold not known" in repr(unfitted)
    assert toy.calibrated
    assert "threshold" not in repr(toy)
    halves: list[dict[str, Any]] = [{"threshold": None}, {"calibration": None}]
    for changes in halves:
        with pytest.raises(UsageError, match="fitted together"):
            write_toy_encoder(tmp_path / "half", **changes)
    claimed = {"threshold": 0.5, "calibration": UNFITTED["calibration"]}
    with pytest.raises(EncoderError, match="damaged"):
        read_record(write_toy_encoder(tmp_path / "claims", **claimed))


def test_two_pictures_have_a_score_alone(unfitted: Encoder) -> None:
    alone = unfitted.verify(view(0, 0), view(0, 1))
    assert (alone.same, alone.confidence, alone.threshold) == (None, None, None)
    assert compared(alone) == f"not known (score {alone.score:.3f}, threshold not known)"
    given = unfitted.verify(view(0, 0), view(0, 1), 0.5)
    assert (given.same, given.confidence, given.threshold) == (True, None, 0.5)
    assert compared(given) == f"same (score {given.score:.3f}, threshold 0.500)"
    other = unfitted.verify(view(0, 0), view(1, 1), 0.5)
    assert compared(other) == f"different (score {other.score:.3f}, threshold 0.500)"
    said = explain(unfitted, view(0, 0), view(0, 1), ("a", "b")).said
    assert said.endswith("the encoder unfitted has no threshold")


# Answers


def test_nothing_is_named_and_the_way_out_is_said(gallery: Gallery, tmp_path: Path) -> None:
    gallery.enroll(things(tmp_path / "few", range(4)))
    (answer,) = gallery.identify(view(0, 0))  # enrolled itself
    assert (answer.identity, answer.threshold, answer.confidence) == (None, None, None)
    assert [match.identity for match in answer.matches[:1]] == ["thing-00"]
    assert verdict(answer) == (
        f"unknown (nearest: thing-00; score {answer.score:.3f}, threshold not known)"
    )
    assert gallery.undecided is not None
    assert "unfitted is not known, so nothing is named: from 10 identities" in gallery.undecided
    assert "nothing named yet" in repr(gallery)
    facts = gallery.info()
    assert (facts.threshold, facts.undecided) == (None, gallery.undecided)
    (given,) = gallery.identify(view(0, 9), threshold=0.5)
    assert (given.identity, given.threshold, given.confidence) == ("thing-00", 0.5, None)
    assert verdict(given) == f"thing-00 (score {given.score:.3f})"
    gallery.uncalibrate()
    assert "run `siasearch calibrate`" in (gallery.undecided or "")


def test_it_is_measured_and_drawn_without_a_threshold(
    gallery: Gallery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gallery.enroll(things(tmp_path / "few", range(4)))
    measured = evaluate(gallery, things(tmp_path / "probes", range(6), range(5, 8)))
    assert measured.figures["recall@1"] == 1
    assert (measured.figures["TPIR"], measured.figures["FPIR"]) == (0, 0)
    assert np.isnan(measured.figures["calibration error"])
    assert measured.decided is None
    assert all(one.confidence is None for one in measured.mistakes)
    assert "so nothing is named" in caplog.text
    scores = own_scores(gallery, *both_ways(gallery, lambda progress: None))
    assert "not known" in scores.standard
    assert "no threshold is known" in score_plots.draw_scores(gallery).said
    view(0, 9).save(tmp_path / "probe.png")
    drawn = likeness.draw_neighbours(gallery, tmp_path / "probe.png")
    assert drawn.facts.threshold is None
    assert "threshold is not known, so nothing is named" in drawn.facts.derivation.lines()[1]
    assert len(gallery.audit().suspects) == 12


def test_what_is_kept_as_unknown_is_grouped(gallery: Gallery, tmp_path: Path) -> None:
    gallery.enroll(things(tmp_path / "few", range(4)))
    probes = sorted(things(tmp_path / "probes", range(20, 23)).rglob("*.png"))
    assert len(list(gallery.identify_each(probes, keep_unknown=True))) == 9
    assert [len(group.paths) for group in gallery.unknowns()] == [3, 3, 3]


# A gallery that calibrates itself


def test_it_calibrates_itself_once_it_can(gallery: Gallery, twelve: Path, tmp_path: Path) -> None:
    first = gallery.enroll(things(tmp_path / "few", range(9)))
    assert (first.calibrated, gallery.calibration) == (None, None)
    report = gallery.enroll(twelve)
    assert report.calibrated == 0.01
    found = gallery.calibration
    assert found is not None
    assert found.identities == 12
    assert (found.metric, found.closer) == (None, 0)  # what a score is stays as it was
    assert gallery.undecided is None
    assert "by itself" in (gallery.info().calibration or "")
    answers = gallery.identify([view(number, 9) for number in range(12)])
    assert [one.identity for one in answers] == [f"thing-{number:02}" for number in range(12)]
    assert all(
        one.identity is None for one in gallery.identify([view(n, 0) for n in range(30, 50)])
    )
    assert answers[0].confidence is not None
    # Not again until it is out of date; embeddings count as pictures do.
    added = gallery.enroll(things(tmp_path / "more", range(12, 14)))
    assert (added.calibrated, gallery.calibration) == (None, found)
    vectors = gallery.encoder.embed([view(number, 0) for number in range(14, 20)])
    gallery.enroll_embeddings(vectors, [f"thing-{number}" for number in range(14, 20)])
    again = gallery.calibration
    assert again is not None
    assert again.identities == 20


def test_a_confidence_that_rests_on_nothing_is_not_shown(gallery: Gallery, tmp_path: Path) -> None:
    gallery.enroll(things(tmp_path / "single", range(40), range(1)))
    assert gallery.calibration is not None
    assert not gallery.calibration.fitted
    (answer,) = gallery.identify(view(0, 9))
    assert answer.threshold is not None
    assert answer.confidence is None


def test_what_was_chosen_stays(gallery: Gallery, twelve: Path, tmp_path: Path) -> None:
    gallery.uncalibrate()
    assert gallery.enroll(twelve).calibrated is None
    assert gallery.calibration is None
    chosen = gallery.calibrate(0.1)
    gallery.enroll(things(tmp_path / "more", range(12, 24)))
    assert gallery.calibration == chosen
    assert gallery.is_stale(chosen)


def test_an_encoder_with_a_threshold_keeps_it(tmp_path: Path, toy: Encoder, twelve: Path) -> None:
    with Gallery.open(tmp_path / "known", toy) as gallery:
        assert gallery.enroll(twelve).calibrated is None
        assert gallery.calibration is None
        assert gallery.undecided is None
        assert gallery.info().threshold == toy.threshold


def test_undo_takes_the_calibration_with_it(
    gallery: Gallery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gallery.enroll(things(tmp_path / "few", range(8)))
    gallery.enroll(things(tmp_path / "more", range(8, 16)))
    assert gallery.calibration is not None
    gallery.undo()
    assert gallery.calibration is None
    assert gallery.identify(view(0, 9))[0].identity is None
    assert "nothing is named" in caplog.text
    gallery.redo()
    assert gallery.calibration is not None
    assert gallery.calibration.identities == 16
    for number in range(12, 16):
        gallery.remove(f"thing-{number}")
    assert gallery.calibration.identities == 12  # of those that are left
    assert gallery.check() == []


def test_what_cannot_be_calibrated_yet_is_tried_again_as_it_grows(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def refused(*_: object, **__: object) -> None:
        nonlocal calls
        calls += 1
        raise UsageError("too few")

    calibrating = gallery._calibrating
    monkeypatch.setattr(calibrating, "calibrate", refused)
    gallery.enroll(things(tmp_path / "ten", range(10)))
    gallery.enroll(things(tmp_path / "eleven", range(10, 11)))
    assert calls == 1
    assert "once more is enrolled" in (gallery.undecided or "")
    assert "`siasearch calibrate --fpir 0.1` may" in (gallery.undecided or "")
    gallery.enroll(things(tmp_path / "some", range(11, 14)))
    assert calls == 2
    monkeypatch.undo()
    monkeypatch.setattr(unasked, "HELD", 40)  # what takes long is left to `calibrate`
    gallery.enroll(things(tmp_path / "many", range(14, 30)))
    assert gallery.calibration is None
    monkeypatch.undo()
    assert gallery.enroll(things(tmp_path / "one", range(30, 31))).calibrated == 0.01
    monkeypatch.setattr(unasked, "AGAIN_AT_MOST", 40)
    assert gallery.enroll(things(tmp_path / "last", range(31, 40))).calibrated is None


def test_a_rebuild_goes_on_with_what_the_gallery_does_itself(
    gallery: Gallery, twelve: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nothing: dict[str, Any] = {"threshold": None, "calibration": None}
    write_toy_encoder(tmp_path / "unfitted", **nothing)
    other = write_toy_encoder(tmp_path / "other", pool=8, **nothing)
    gallery.enroll(twelve)
    report = gallery.rebuild(other)
    assert report.calibration is not None
    assert "by itself" in (gallery.info().calibration or "")
    assert "nothing is named" not in caplog.text
    gallery.uncalibrate()
    assert gallery.rebuild(gallery.folder.parent / "unfitted").calibration is None
    assert "nothing is named" in caplog.text


def test_moving_to_an_encoder_without_a_threshold_calibrates(
    tmp_path: Path, toy: Encoder, twelve: Path
) -> None:
    other = write_toy_encoder(tmp_path / "other", pool=8, threshold=None, calibration=None)
    with Gallery.open(tmp_path / "moved", toy) as gallery:
        gallery.enroll(twelve)
        report = gallery.rebuild(other)
        assert report.calibration is not None
        assert gallery.undecided is None


def test_metric_audit_and_split_need_neither_prior_nor_places(
    gallery: Gallery, unfitted: Encoder, tmp_path: Path
) -> None:
    folder = things(tmp_path / "some", range(30), range(4))
    gallery.enroll(folder)
    found = gallery.calibrate(0.05, metric="auto", closer="auto")
    assert (unfitted.prior, unfitted.gives_places, found.closer) == (None, False, 0.0)
    assert gallery.audit().items == 120
    assert (
        evaluate(gallery, things(tmp_path / "probes", range(35), range(5, 8))).figures["TPIR"] > 0.9
    )
    files = [one for one in find([str(folder)]) if isinstance(one, ImageFile)]
    (draw,) = evaluate_splits(unfitted, files, Split(shots=2, draws=1, fpir=0.05)).draws
    assert draw.figures["TPIR"] > 0.9


# The command line


@pytest.fixture
def shell(tmp_path: Path, unfitted_folder: Path) -> Shell:
    return Shell(tmp_path, unfitted_folder)


def test_every_command_says_it_once(shell: Shell, tmp_path: Path) -> None:
    few = things(tmp_path / "few", range(4))
    probes = things(tmp_path / "probes", range(2), range(9, 11))
    said = "is not known, so nothing is named"
    assert shell("add", few, "-e", shell.encoder).stderr.count(said) == 1
    for form in ((), ("--json",), ("--csv",)):
        asked = shell("query", probes, *form)
        assert asked.stderr.count(said) == 1
    assert "nearest: thing-00; score" in shell("query", probes).stdout
    assert "below threshold" not in shell("query", probes).stdout
    first = shell.json("query", probes)[0]
    assert (first["identity"], first["threshold"], first["confidence"]) == (None, None, None)
    assert shell("query", probes, "--csv").stdout.splitlines()[1].split(",")[1:5:2] == ["", ""]
    given = shell("query", probes, "--threshold", "0.5")
    assert said not in given.stderr
    assert "thing-00 (score" in given.stdout
    shown = shell("info")
    assert shown.stderr.count(said) == 1
    assert "not known: the encoder's was never fitted" in shown.stdout
    assert said in shell.json("info")[0]["undecided"]
    assert said in shell("benchmark", probes).stderr
    off = shell("calibrate", "--off")
    assert f"not calibrated: the threshold of the encoder unfitted {said}" in off.stdout
    a, b = sorted(probes.rglob("*.png"))[:2]
    compared = shell("verify", a, b, code=1)
    assert "not known (score" in compared.stdout
    assert "`siasearch encoder calibrate" in compared.stderr


def test_add_says_that_the_gallery_has_calibrated_itself(shell: Shell, twelve: Path) -> None:
    added = shell("add", twelve, "-e", shell.encoder, "-g", "a")
    assert added.stderr.count("the gallery calibrated itself") == 1
    assert "about 1% of strangers may get a name" in added.stderr
    assert "calibrate --off -g a` takes that back" in added.stderr
    assert "chosen by itself" in shell("info", "-g", "a").stdout
    (report,) = shell.json("add", twelve, "-e", shell.encoder, "-g", "b")
    assert report["calibrated"] == 0.01
    asked = shell("calibrate", "-g", "a", "--fpir", "0.05")
    assert "the encoder's threshold" not in asked.stderr
    assert "by itself" not in shell("info", "-g", "a").stdout


# The server


def test_the_server_says_it_and_enrols_alike(gallery: Gallery, tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("httpx")
    from starlette.testclient import TestClient

    from siamese_search.serving.app import application

    def shown(identity: int, number: int) -> tuple[str, tuple[str, bytes]]:
        content = BytesIO()
        view(identity, number).save(content, "PNG")
        return "image", ("a.png", content.getvalue())

    gallery.enroll(things(tmp_path / "few", range(9)))
    gallery.close()
    at = "/api/v1/galleries/gallery"
    with TestClient(application([gallery.folder], ["testserver"])) as client:
        facts = client.get(at).json()
        assert (facts["threshold"], facts["calibration"]) == (None, None)
        answered = client.post(f"{at}/identify", files=[shown(0, 9)]).json()
        (answer,) = answered["answers"]
        assert [answer[key] for key in ("identity", "threshold", "confidence")] == [None] * 3
        assert answer["matches"][0]["identity"] == "thing-00"
        assert answered["undecided"] == facts["undecided"]
        assert "so nothing is named" in facts["undecided"]
        pair = [("a", shown(0, 0)[1]), ("b", shown(0, 1)[1])]
        assert client.post(f"{at}/verify", files=pair).json()["same"] is None
        enrolled = client.post(f"{at}/enroll", files=[shown(9, 0)], data={"label": "thing-09"})
        assert enrolled.json()["calibrated"] == 0.01
        answered = client.post(f"{at}/identify", files=[shown(0, 9)]).json()
        assert answered["answers"][0]["identity"] == "thing-00"
        assert answered["undecided"] is None
        assert client.get(at).json()["undecided"] is None


# A reference


def test_a_reference_fits_the_threshold_and_galleries_stay_valid(
    tmp_path: Path, unfitted_folder: Path, twelve: Path
) -> None:
    folder = tmp_path / "own"
    shutil.copytree(unfitted_folder, folder)
    before = read_record(folder)
    with Gallery.open(tmp_path / "gallery", folder) as gallery:
        gallery.enroll(things(tmp_path / "few", range(20, 24)))
    found = fit_reference(folder, twelve)
    after = read_record(folder)
    assert (found.pictures, found.identities, found.before) == (36, 12, None)
    assert after.calibrated
    assert after.fingerprint == before.fingerprint
    assert after.threshold == found.threshold < 1
    assert after.calibration["strangers"]["scale"] > 0
    assert str(twelve) not in json.dumps(after.calibration)
    with Gallery.open(tmp_path / "gallery") as gallery:
        same, stranger = gallery.identify([view(20, 9), view(50, 0)])
        assert (same.identity, stranger.identity) == ("thing-20", None)
        assert same.confidence is not None
        assert stranger.confidence is not None
        assert same.confidence > 0.5 > stranger.confidence
    assert fit_reference(folder, [twelve]).before == found.threshold


def test_a_reference_that_says_too_little_is_refused(
    tmp_path: Path, unfitted_folder: Path, twelve: Path
) -> None:
    folder = tmp_path / "own"
    shutil.copytree(unfitted_folder, folder)
    kept = (folder / "encoder.json").read_bytes()
    few = things(tmp_path / "few", range(9))
    things(few, range(20, 40), range(1))  # one picture each says nothing
    (few / "thing-00" / "broken.png").write_bytes(b"no picture")
    rejected: list[Rejection] = []
    with pytest.raises(UsageError, match=r"^9 identities have two pictures or more"):
        fit_reference(folder, few, reject=rejected.append)
    assert [Path(one.path).name for one in rejected] == ["broken.png"]
    with pytest.raises(UsageError):
        fit_reference(folder, tmp_path / "nowhere")
    noise = things(tmp_path / "noise", range(12))
    for number, path in enumerate(sorted(noise.rglob("*.png"))):
        picture(1000 + number).save(path)  # no two of an identity are alike
    with pytest.raises(UsageError, match="does not tell these identities apart"):
        fit_reference(folder, noise)
    assert (folder / "encoder.json").read_bytes() == kept
    with pytest.raises(EncoderError, match=r"glyph comes with siasearch and is not changed"):
        fit_reference("glyph", twelve)
    with pytest.raises(EncoderError, match="is not changed"):
        fit_reference(SHIPPED / "glyph", twelve)


def test_the_same_picture_counts_once(tmp_path: Path, unfitted_folder: Path, twelve: Path) -> None:
    folder, doubled = tmp_path / "own", tmp_path / "doubled"
    shutil.copytree(unfitted_folder, folder)
    shutil.copytree(twelve, doubled)
    shutil.copy(doubled / "thing-00" / "0.png", doubled / "thing-00" / "again.png")
    shutil.copy(doubled / "thing-00" / "0.png", doubled / "thing-05" / "wrong.png")
    rejected: list[Rejection] = []
    fitted = fit_reference(folder, doubled, reject=rejected.append)
    assert fitted.pictures == 36
    assert ["is taken as 'thing-00' already" in one.reason for one in rejected] == [True]
    rejected.clear()
    # So does a file that is named again: as the same, or as an identity of its own.
    again = [twelve, twelve, twelve / "thing-00" / "0.png"]
    found = fit_reference(folder, again, reject=rejected.append)
    assert (found.pictures, found.threshold) == (36, fitted.threshold)
    assert ["is taken as 'thing-00' already" in one.reason for one in rejected] == [True]


def test_the_command_fits_an_encoder(
    shell: Shell, tmp_path: Path, unfitted_folder: Path, twelve: Path
) -> None:
    shutil.copytree(unfitted_folder, tmp_path / "own")
    done = shell("encoder", "calibrate", "own", "--reference", twelve)
    assert "by 36 pictures of 12 identities" in done.stdout
    assert "replaced" not in done.stderr
    (found,) = shell.json("encoder", "calibrate", "own", "--reference", twelve)
    assert found["before"] == found["threshold"]
    assert (
        "is not changed"
        in shell("encoder", "calibrate", "glyph", "--reference", twelve, code=2).stderr
    )
