from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from conftest import picture, seal

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray
from siamese_search.decision.calibration import (
    Evidence,
    fit,
    rate_at,
    self_test,
    threshold_at,
)
from siamese_search.decision.evidence import evidence, logistic
from siamese_search.decision.reference import Reference, record
from siamese_search.decision.rules import DEFAULT_RULE
from siamese_search.errors import GalleryDamaged, UsageError
from siamese_search.records import Calibration, LeftOut, Match, Rejection

Pictures = Callable[..., Path]

NORMAL = Reference.of({})


def fitted(
    strangers: npt.ArrayLike, groups: npt.ArrayLike, fpir: float, reference: Reference = NORMAL
) -> Calibration:
    nobody = np.array([], bool)
    shown = [str(group) for group in np.asarray(groups).tolist()]
    seen = Evidence(np.asarray(strangers, float), shown, np.array([]), [], nobody)
    return fit(seen, reference, fpir, DEFAULT_RULE, (40, 40), "gallery")


def clustered(
    seed: int, dimension: int, identities: int, each: int, spread: float = 0.5
) -> tuple[FloatArray, list[str]]:
    """Unit vectors around a centre for each identity."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(identities, dimension)).repeat(each, axis=0)
    vectors = centres + spread * random.normal(size=centres.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), [f"{seed}-{n // each}" for n in range(len(vectors))]


@pytest.mark.slow
def test_many_strangers_give_their_own_quantile() -> None:
    values = np.random.default_rng(0).gamma(2.0, 0.05, 50_000)
    found = fitted(values, np.arange(50_000), 0.01)
    assert (values >= threshold_at(0.01, found.thresholds)).mean() == pytest.approx(0.01, rel=0.05)
    assert not found.extrapolated
    assert found.lower <= 0.01 <= found.upper
    assert found.upper < 0.0125


def test_rates_and_thresholds_are_each_others_inverse() -> None:
    values = np.random.default_rng(0).normal(size=3000)
    thresholds = fitted(values, np.arange(3000), 0.03).thresholds
    assert list(thresholds) == sorted(thresholds)
    assert list(thresholds.values()) == sorted(thresholds.values(), reverse=True)
    for rate in (0.001, 0.004, 0.03, 0.2):
        assert rate_at(threshold_at(rate, thresholds), thresholds) == pytest.approx(rate, rel=1e-6)


def test_too_little_is_refused() -> None:
    with pytest.raises(UsageError, match="4 identities cannot tell"):
        fitted([0.1] * 8, [0, 0, 1, 1, 2, 2, 3, 3], 0.01)
    with pytest.raises(UsageError, match="cannot tell"):
        fitted([], [], 0.01)
    for fpir in (0.0, 1.0, -1.0, 0.5, 1e-9, float("nan")):
        with pytest.raises(UsageError, match=r"from 0\.001 to 0\.3"):
            fitted(np.arange(10.0), np.arange(10), fpir)


def test_strangers_that_all_score_alike_are_no_trouble() -> None:
    found = fitted([0.5] * 10, range(10), 0.01)
    assert threshold_at(0.01, found.thresholds) > 0.5


def test_the_logistic_lies_where_right_and_wrong_are_even_and_weighs() -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(-1, 1, 20_000)
    right = random.random(20_000) < 1 / (1 + np.exp(-(8 * scores - 4)))
    slope, offset = logistic(scores, right)
    assert -offset / slope == pytest.approx(0.5, abs=0.02)
    assert logistic([0.1, 0.2, 0.8, 0.9], [False, False, True, True])[0] > 0
    twice = np.concatenate([scores, scores[right]])
    counted = logistic(twice, np.concatenate([right, right[right]]))
    assert logistic(scores, right, np.where(right, 2.0, 1.0)) == pytest.approx(counted, rel=1e-3)


def test_the_record_of_an_encoder_tells_what_held_out_classes_are_like() -> None:
    vectors, names = clustered(0, 64, 40, 8)
    threshold, fields = record(vectors, np.unique(names, return_inverse=True)[1])
    assert 0 < threshold < 1
    assert fields["strangers"]["scale"] > 0
    reference = Reference.of(fields)
    assert reference.exceeded(0.01) > reference.exceeded(0.1) > 0
    assert reference.slope > 0
    # Pictures of another day are less like those enrolled: one may be less sure.
    later, _ = clustered(0, 64, 40, 4, spread=1.5)
    classes = np.unique(names, return_inverse=True)[1]
    _, apart = record(vectors, classes, (later, classes[::2]))
    assert apart["strangers"]["tail"] == fields["strangers"]["tail"]
    sure = [fields["strangers"]["slope"], apart["strangers"]["slope"]]
    assert sure[1] < sure[0]
    _, alone = record(vectors[:8], np.zeros(8, np.int64))  # one class: nothing to tell
    assert "strangers" not in alone


def gallery_of(folder: Path, encoder: Encoder, vectors: FloatArray, names: list[str]) -> Gallery:
    gallery = Gallery.open(folder, encoder)
    gallery.enroll_embeddings(vectors, names)
    return gallery


@pytest.mark.slow
@pytest.mark.parametrize("each", [1, 4])
def test_strangers_pass_at_the_rate_that_was_asked(tmp_path: Path, toy: Encoder, each: int) -> None:
    rates = []
    for draw in range(1, 6):  # of one gallery the rate may be off by more
        vectors, names = clustered(2 * draw, toy.dimension, 150, each)
        strangers, _ = clustered(2 * draw + 1, toy.dimension, 800, 1)
        with gallery_of(tmp_path / str(draw), toy, vectors, names) as gallery:
            thresholds = gallery.calibrate(0.02).thresholds
            shown = gallery.identify_embeddings(strangers, k=2)
            seen = np.array([evidence(*(m.score for m in one.matches)) for one in shown])
            strict, laxer = (seen >= threshold_at(fpir, thresholds) for fpir in (0.02, 0.1))
            assert [one.identity is not None for one in shown] == strict.tolist()
            asked = gallery.identify_embeddings(strangers[:200], fpir=0.1)
            assert [one.identity is not None for one in asked] == laxer[:200].tolist()
            rates.append((strict.mean(), laxer.mean()))
    for fpir, rate in zip((0.02, 0.1), np.mean(rates, axis=0), strict=True):
        assert fpir / 1.5 <= rate <= 1.5 * fpir


@pytest.mark.parametrize("each", [1, 4])
def test_a_calibrated_gallery_decides_by_its_thresholds(
    tmp_path: Path, toy: Encoder, each: int
) -> None:
    vectors, names = clustered(0, toy.dimension, 150, each)
    strangers, _ = clustered(1, toy.dimension, 2000, 1)
    with gallery_of(tmp_path / "gallery", toy, vectors, names) as gallery:
        found = gallery.calibrate(0.02)
        assert gallery.calibration == found
        answers = gallery.identify_embeddings(strangers, k=1)
        rate = np.mean([answer.identity is not None for answer in answers])
        assert all(
            (a.identity is None) == (a.score < (a.threshold or 0)) for a in answers if a.score
        )
        assert all(len(answer.matches) == 1 for answer in answers)
        laxer = gallery.identify_embeddings(strangers, fpir=0.06)
        assert np.mean([answer.identity is not None for answer in laxer]) > rate
        fixed = gallery.identify_embeddings(strangers[:9], threshold=0.7)
        assert {answer.threshold for answer in fixed} == {0.7}
        assert found.fitted == (each > 1)


def test_the_self_test_is_what_asking_without_the_item_gives(tmp_path: Path, toy: Encoder) -> None:
    vectors, names = clustered(3, toy.dimension, 8, 3, spread=1.5)
    with gallery_of(tmp_path / "gallery", toy, vectors, names) as gallery:
        left_out = list(gallery._self_test.left_out(DEFAULT_RULE))
    assert [one.identity for one in left_out] == names
    seen = self_test(left_out)
    strangers, genuine, right = seen.strangers, seen.genuine, seen.right
    for item in range(len(vectors)):
        rest = np.array([name != names[item] for name in names])
        others = np.arange(len(names)) != item
        for number, (left, found) in enumerate([(rest, strangers), (others, genuine)]):
            place = tmp_path / f"{item}-{number}"
            kept = [name for name, stays in zip(names, left, strict=True) if stays]
            with gallery_of(place, toy, vectors[left], kept) as gallery:
                (answer,) = gallery.identify_embeddings(vectors[item : item + 1], k=2)
            first, second = answer.matches
            expected = evidence(first.score, second.score)
            assert found[item] == pytest.approx(float(expected), abs=1e-5)
            if number == 1:
                assert right[item] == (first.identity == names[item])


def test_an_uncalibrated_gallery_has_no_rates(tmp_path: Path, toy: Encoder) -> None:
    vectors, names = clustered(0, toy.dimension, 6, 1)
    with gallery_of(tmp_path / "gallery", toy, vectors, names) as gallery:
        assert gallery.calibration is None
        with pytest.raises(UsageError, match="siasearch calibrate"):
            gallery.identify_embeddings(vectors, fpir=0.01)
        gallery.calibrate(0.1)
        with pytest.raises(UsageError, match="not calibrated for the rule best"):
            gallery.identify_embeddings(vectors, fpir=0.01, rule="best")
        with pytest.raises(UsageError, match="a share of strangers from"):
            gallery.identify_embeddings(vectors, fpir=2.0)
        with pytest.raises(UsageError, match="unknown rule"):
            gallery.calibrate(rule="worst")


def test_a_calibration_grows_stale_and_a_rebuild_renews_it(
    tmp_path: Path, toy: Encoder, coarse: Encoder, pictures: Pictures
) -> None:
    folder = pictures({f"id{n}": 2 for n in range(8)})
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder])
        found = gallery.calibrate(0.05)
        assert not gallery.is_stale(found)
        needed = threshold_at(0.05, found.thresholds)
        said = gallery.info().calibration
        assert said == f"FPIR 0.05, rule {DEFAULT_RULE}, evidence from {needed:.3f} on"
        gallery.enroll([pictures({"new": 6}, "more", first_seed=50)])
        assert gallery.is_stale(found)
        assert "stale" in str(gallery.info().calibration)
        assert gallery.rebuild(coarse).switched
        renewed = gallery.calibration
        assert renewed is not None
        assert (renewed.fpir, renewed.items) == (0.05, 22)
        assert renewed.thresholds != found.thresholds
        assert gallery.calibrate().fpir == 0.05  # as before
        # As many as ever, but others.
        gallery.remove("new")
        gallery.enroll([pictures({"newer": 6}, "others", first_seed=80)])
        assert len(gallery) == renewed.items
        assert gallery.is_stale(renewed)
        assert not gallery.is_stale(gallery.calibrate())
        gallery.remove("newer")
        assert gallery.is_stale(renewed)


def test_pictures_of_strangers_can_be_named(
    tmp_path: Path, toy: Encoder, pictures: Pictures, caplog: pytest.LogCaptureFixture
) -> None:
    folder = pictures({f"id{n}": 1 for n in range(3)})  # too few to tell by themselves
    strange = pictures({f"other{n}": 1 for n in range(12)}, "strangers", first_seed=100)
    (strange / "broken.png").write_text("no picture")
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder])
        with pytest.raises(UsageError, match="--strangers"):
            gallery.calibrate(0.1)
        found = gallery.calibrate(0.1, strangers=[strange])
        assert (found.strangers, found.source) == (12, "strangers")
        assert "broken.png" in caplog.text
        caplog.clear()
        rejected: list[Rejection] = []
        (strange / "other0" / "text.gif").write_text("no picture")
        again = gallery.calibrate(0.1, strangers=[strange], reject=rejected.append)
        assert again == found
        assert sorted(Path(one.path).name for one in rejected) == ["broken.png", "text.gif"]
        assert not caplog.messages
        # Copies are no further strangers, wherever they lie.
        shutil.copytree(strange, tmp_path / "more" / "copies")
        shutil.copytree(strange, tmp_path / "more" / "others")
        again = gallery.calibrate(0.1, strangers=[strange, tmp_path / "more"], reject=print)
        assert again == found
        assert "24 pictures are the same as others, and no further strangers" in caplog.text
        shutil.copytree(folder / "id0", strange / "id0")
        picture(999).save(strange / "id0" / "another.png")
        again = gallery.calibrate(0.1, strangers=[strange], reject=rejected.append)
        assert again == found
        assert "named as what is enrolled (id0)" in caplog.text
        with pytest.raises(UsageError, match="pictures of 0 strangers"):
            gallery.calibrate(0.1, strangers=[folder])
        gallery.rebuild()
        assert gallery.calibration == found


@pytest.mark.parametrize(
    ("count", "ends"),
    [(3, ["any more: 3 identities cannot", "by strangers: run"]), (8, ["its own items: run"])],
)
def test_a_rebuild_tells_how_to_calibrate_by_strangers_again(
    tmp_path: Path,
    toy: Encoder,
    coarse: Encoder,
    pictures: Pictures,
    caplog: pytest.LogCaptureFixture,
    count: int,
    ends: list[str],
) -> None:
    strange = pictures({f"other{n}": 1 for n in range(12)}, "strangers", first_seed=100)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([pictures({f"id{n}": 2 for n in range(count)})])
        gallery.calibrate(0.1, rule="best", strangers=[strange], turns=2)
        assert gallery.rebuild(coarse).calibration == gallery.calibration
        assert (gallery.calibration is None) == (count == 3)
    said = [message for message in caplog.messages if "not calibrated under this" not in message]
    assert len(said) == len(ends)
    assert all(f"{end} " in message for end, message in zip(ends, said, strict=True))
    command = "`siasearch calibrate --fpir 0.1 --rule best --strangers FOLDER --turns 2` again"
    assert said[-1].endswith(command)


def test_a_damaged_calibration_is_named(tmp_path: Path, toy: Encoder) -> None:
    vectors, names = clustered(0, toy.dimension, 6, 1)
    with gallery_of(tmp_path / "gallery", toy, vectors, names) as gallery:
        gallery.calibrate(0.1)
    with sqlite3.connect(tmp_path / "gallery" / "gallery.db") as db:
        db.execute("UPDATE calibrations SET content = '{\"fpir\": 1}'")
    db.close()
    with (
        Gallery.open(tmp_path / "gallery", toy) as gallery,
        pytest.raises(GalleryDamaged, match="run `siasearch calibrate`"),
    ):
        gallery.identify_embeddings(vectors)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.calibrate(0.1)
        gallery.identify_embeddings(vectors)


def test_a_distractor_is_never_named(tmp_path: Path, toy: Encoder, pictures: Pictures) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([pictures({"cat": 1, "dog": 1})])
        shown = pictures({"poster": 1}, "not these", first_seed=7)
        assert gallery.enroll([shown], distractor=True).added == 1
        (answer,) = gallery.identify([picture(7)], threshold=-1)
        assert answer.identity is None
        assert answer.matches[0].identity == "poster"
        assert [match.distractor for match in answer.matches] == [True, False, False]
        assert gallery.identify([picture(0, noise=5)])[0].identity == "cat"
        assert gallery.info().distractors == 1
        # A name is one or the other.
        more = pictures({"cat": 1, "poster": 1}, "more", first_seed=20)
        (refused,) = gallery.enroll([more], distractor=True).rejected
        assert "'cat' is enrolled as an identity to be named" in refused.reason
        report = gallery.enroll([more])
        assert ["as a distractor:" in r.reason for r in report.rejected] == [True]
        # A correction from use: what was taken for a cat was none.
        gallery.relabel("cat", "poster")
        assert gallery.identify([picture(0)], threshold=-1)[0].identity is None


def test_an_audit_finds_wrong_labels_doubles_and_what_is_not_told_apart(
    tmp_path: Path, toy: Encoder
) -> None:
    vectors, names = clustered(0, toy.dimension, 20, 6, spread=0.3)
    double = vectors[:1] + np.float32(1e-3)
    vectors = np.concatenate([vectors, double / np.linalg.norm(double)])
    names = [*names, names[0]]
    names[40], names[70] = names[100], names[3]  # two wrong labels
    names[17] = "alone"
    with gallery_of(tmp_path / "gallery", toy, vectors, names) as gallery:
        found = gallery.audit()
        assert found.items == len(names)
        assert {one.item for one in found.suspects[:2]} == {41, 71}
        assert len(found.suspects) == len(names) - 1  # nothing to compare the lonely one with
        assert found.suspects[0].others[0].identity in ("0-6", "0-11")
        assert found.suspects == tuple(sorted(found.suspects, key=lambda one: -one.doubt))
        assert [pair[:2] for pair in found.duplicates if pair[2] > 0.999] == [(1, len(names))]
        assert {pair[:2] for pair in found.confusable} >= {("0-16", "0-6")}
        assert gallery.audit(duplicate=1.01).duplicates == ()


def test_an_audit_of_next_to_nothing_is_empty(tmp_path: Path, toy: Encoder) -> None:
    vectors, _ = clustered(0, toy.dimension, 1, 2)
    with gallery_of(tmp_path / "one", toy, vectors[:1], ["a"]) as gallery:
        assert gallery.audit().suspects == ()
    with gallery_of(tmp_path / "two", toy, vectors, ["a", "a"]) as gallery:
        found = gallery.audit(duplicate=2.0)
        assert [one.others for one in found.suspects] == [(), ()]
        assert (found.duplicates, found.confusable) == ((), ())


@pytest.mark.parametrize("metric", ["auto", "none"])
def test_a_filter_or_a_lonely_identity_lets_no_more_strangers_pass(
    tmp_path: Path, toy: Encoder, metric: str
) -> None:
    vectors, names = clustered(0, toy.dimension, 100, 1)
    strangers, _ = clustered(1, toy.dimension, 500, 1)
    with gallery_of(tmp_path / "gallery", toy, vectors[:99], names[:99]) as gallery:
        gallery.enroll_embeddings(vectors[99:], names[99:], [{"shop": "north"}])
        gallery.calibrate(0.02, metric=metric)
        north = gallery.identify_embeddings(strangers, where={"shop": "north"})
        assert sum(answer.identity is not None for answer in north) <= 10
        (own,) = gallery.identify_embeddings(vectors[99:], where={"shop": "north"})
        assert own.identity == names[99]
        for name in names[:99]:
            gallery.remove(name)
        alone = gallery.identify_embeddings(strangers)
        assert sum(answer.identity is not None for answer in alone) <= 10
        if metric == "none":
            assert all((answer.threshold or 0) >= toy.threshold for answer in alone)


def test_one_large_identity_does_not_hide_the_others(
    tmp_path: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese_search.gallery.calibrating.SAMPLE", 60)
    large, _ = clustered(0, toy.dimension, 1, 1000)
    vectors, names = clustered(1, toy.dimension, 12, 1)
    with gallery_of(tmp_path / "gallery", toy, large, ["big"] * 1000) as gallery:
        gallery.enroll_embeddings(vectors, names)
        found = gallery.calibrate(0.1)
        assert found.strangers == 12 + 60 // 13
        assert not found.fitted  # one identity is no ground for a confidence


def test_a_new_name_for_a_distractor_is_one(tmp_path: Path, toy: Encoder) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        picture(7).save(tmp_path / "noise.png")
        gallery.enroll([tmp_path / "noise.png"], distractor=True)
        gallery.relabel("noise", "background")
        assert gallery.distractors() == {"background"}
        assert gallery.identify([picture(7)])[0].identity is None


def test_strangers_that_are_enrolled_do_not_count(
    tmp_path: Path, toy: Encoder, pictures: Pictures
) -> None:
    folder = pictures({f"id{n}": 1 for n in range(12)})
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        with pytest.raises(UsageError, match="nothing is enrolled"):
            gallery.calibrate()
        gallery.enroll([folder])
        with pytest.raises(UsageError, match="pictures of 0 strangers cannot tell"):
            gallery.calibrate(strangers=folder)


def test_strangers_are_named_in_one_spelling(
    tmp_path: Path, toy: Encoder, pictures: Pictures, caplog: pytest.LogCaptureFixture
) -> None:
    enrolled = pictures({unicodedata.normalize("NFC", f"fl{n}é"): 1 for n in range(5)})
    other = {unicodedata.normalize("NFD", f"fl{n}é"): 1 for n in range(5)}
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([enrolled])
        with pytest.raises(UsageError, match="pictures of 0 strangers cannot tell"):
            gallery.calibrate(strangers=pictures(other, "others", first_seed=50))
    assert "5 of 5 pictures are no strangers, but named as what is enrolled" in caplog.text


def one_left_out(
    item: int, own: float | None, others: Sequence[tuple[str, float, bool]]
) -> LeftOut:
    matches = tuple(Match(name, score, 0, None, never) for name, score, never in others)
    return LeftOut(item, f"id{item}", None, own, matches)


def test_the_self_test_sees_distractors_as_a_query_does() -> None:
    """A best match that is never named is no false positive, but it is a rival."""
    seen = self_test(
        [
            one_left_out(0, 0.9, [("a", 0.8, False), ("never", 0.6, True)]),
            one_left_out(1, 0.7, [("never", 0.8, True), ("a", 0.4, False)]),
            one_left_out(2, 0.9, [("a", 0.5, False), ("b", 0.4, False)]),
        ],
        never={"id2"},
    )
    assert seen.strangers.tolist() == [pytest.approx(0.5), -np.inf, pytest.approx(0.3)]
    assert seen.genuine.tolist() == [pytest.approx(0.5), -np.inf]
    assert seen.right.tolist() == [True, False]
    assert list(seen.owners) == ["id0", "id1"]  # a distractor is no genuine probe
    assert seen.again.tolist() == pytest.approx([0.6, 0.6])


def test_distractors_leave_the_rate_as_it_was_asked(tmp_path: Path, toy: Encoder) -> None:
    rates = []
    for draw in range(1, 5):
        vectors, names = clustered(2 * draw, toy.dimension, 200, 1)
        strangers, _ = clustered(2 * draw + 1, toy.dimension, 800, 1)
        gallery_of(tmp_path / str(draw), toy, vectors, names).close()
        with sqlite3.connect(tmp_path / str(draw) / "gallery.db") as db:
            db.execute("UPDATE identities SET distractor = id % 2")
        db.close()
        seal(tmp_path / str(draw))
        with Gallery.open(tmp_path / str(draw), toy) as gallery:
            gallery.calibrate(0.05)
            answers = gallery.identify_embeddings(strangers, k=1)
            rates.append(np.mean([answer.identity is not None for answer in answers]))
    assert 0.04 <= np.mean(rates) <= 0.07


def test_where_nearly_all_strangers_are_like_a_distractor_nothing_is_said() -> None:
    with pytest.raises(UsageError, match="all but 2 of 20 strangers are most like what is never"):
        fitted([0.1, 0.2, *[-np.inf] * 18], range(20), 0.1)


def test_calibrating_says_what_share_of_the_own_will_be_named() -> None:
    random = np.random.default_rng(0)
    genuine = np.array([0.9, 0.9, 0.9, 0.1, 0.9])
    right = np.array([True, True, False, True, True])
    seen = Evidence(
        random.normal(0.3, 0.05, 400), [str(n) for n in range(400)], genuine, list("abcde"), right
    )
    found = fit(seen, NORMAL, 0.05, DEFAULT_RULE, (400, 405), "gallery")
    assert (found.genuine, found.named) == (5, 3 / 5)
    nobody = fitted(random.normal(size=400), range(400), 0.05)
    assert (nobody.genuine, nobody.named) == (0, None)


def test_a_rate_that_no_picture_could_reach_is_refused_with_the_least_that_is_offered(
    tmp_path: Path, toy: Encoder
) -> None:
    vectors, names = clustered(0, 16, 12, 1, spread=2.0)
    padded = np.zeros((12, toy.dimension), np.float32)
    padded[:, :16], padded[:, 16] = vectors * 0.6, 0.8  # all alike: nobody stands out
    with gallery_of(tmp_path / "gallery", toy, padded, names) as gallery:
        with pytest.raises(UsageError, match=r"too few for an FPIR of 0\.001") as refused:
            gallery.calibrate(0.001)
        assert gallery.calibration is None
        least = float(str(refused.value).rpartition("a rate from ")[2].removesuffix(" on"))
        found = gallery.calibrate(least)
        assert min(found.thresholds) == least
        answers = gallery.identify_embeddings(padded)
        again = [evidence(a.matches[0].score, a.matches[1].score) for a in answers]
        assert max(found.thresholds.values()) <= np.median(again) + 1e-6
        named = [answer.identity for answer in answers]
        assert sum(name is not None for name in named) >= len(names) / 2
        with pytest.raises(UsageError, match=f"take a rate from {least:g} on"):
            gallery.identify_embeddings(padded, fpir=0.001)


def test_each_answer_has_a_p_value_among_the_strangers(tmp_path: Path, toy: Encoder) -> None:
    vectors, names = clustered(0, toy.dimension, 50, 1)
    strangers, _ = clustered(1, toy.dimension, 400, 1)
    with gallery_of(tmp_path / "gallery", toy, vectors, names) as gallery:
        assert gallery.identify_embeddings(vectors)[0].p_value is None  # not calibrated
        gallery.calibrate(0.1, metric="none")
        known = self_test(list(gallery.left_out())).strangers
        answers = gallery.identify_embeddings(strangers, k=2)
        for answer in answers[:50]:
            shown = evidence(answer.matches[0].score, answer.matches[1].score)
            slow = (1 + (known.round(6) >= float(shown)).sum()) / (len(known) + 1)
            assert answer.p_value == pytest.approx(float(slow))
        found = [answer.p_value for answer in answers if answer.p_value is not None]
        assert len(found) == 400
        assert np.mean(np.array(found) <= 0.1) <= 0.2  # of one gallery
        own = gallery.identify_embeddings(vectors)
        assert {answer.p_value for answer in own} == {1 / 51}
        assert gallery.identify_embeddings(vectors[:1], rule="best")[0].p_value is None


def test_a_calibration_of_an_earlier_release_still_decides(tmp_path: Path, toy: Encoder) -> None:
    vectors, names = clustered(0, toy.dimension, 30, 1)
    with gallery_of(tmp_path / "gallery", toy, vectors, names) as gallery:
        gallery.calibrate(0.1)
        now = gallery.identify_embeddings(vectors)
    with sqlite3.connect(tmp_path / "gallery" / "gallery.db") as db:
        ((content,),) = db.execute("SELECT content FROM calibrations").fetchall()
        fields = json.loads(content)
        for later in ("independent", "evidence", "genuine", "named", "checksum"):
            del fields[later]
        db.execute("UPDATE calibrations SET content = ?", (json.dumps(fields),))
    db.close()
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        before = gallery.identify_embeddings(vectors)
    assert [answer.p_value for answer in before] == [None] * 30
    assert before == [dataclasses.replace(answer, p_value=None) for answer in now]


def test_a_rebuild_under_another_encoder_says_that_nothing_is_calibrated(
    tmp_path: Path,
    toy: Encoder,
    coarse: Encoder,
    pictures: Pictures,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([pictures({f"id{n}": 1 for n in range(3)})])
        gallery.rebuild()
        assert not caplog.messages
        assert gallery.rebuild(coarse).switched
        (said,) = caplog.messages
        assert "not calibrated under this encoder" in said
        assert f"{coarse.threshold:.3f}" in said
