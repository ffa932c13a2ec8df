"""The closer look in a gallery: what it finds, what it leaves alone, and that its places are kept,
made again, checked and dropped.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from PIL import Image
from typer.testing import CliRunner

from siamese_search import Encoder, Gallery
from siamese_search.cli import app
from siamese_search.decision import closer
from siamese_search.errors import GalleryDamaged, UsageError
from siamese_search.evaluation.own_scores import both_ways, own_scores
from siamese_search.records import unwatched
from siamese_search.storage.database import PAGE_BYTES

Pictures = Callable[..., Path]
IDENTITIES, EACH = 30, 4


def moved(seed: int, shift: int) -> Image.Image:
    """A mosaic of an identity, moved: its colours are elsewhere, so embeddings hardly agree."""
    pixels = np.asarray(picture(seed, noise=3.0))
    return Image.fromarray(np.roll(pixels, (8 * (shift % 4), 8 * (shift // 4)), axis=(0, 1)))


def folder_of(place: Path, shifts: range, identities: int = IDENTITIES) -> Path:
    for seed in range(identities):
        (place / f"m{seed}").mkdir(parents=True, exist_ok=True)
        for shift in shifts:
            moved(seed, (shift * 5 + seed) % 16).save(place / f"m{seed}" / f"{shift}.png")
    return place


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("shelf"), range(EACH))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("asked"), range(EACH, EACH + 2))


@pytest.fixture
def gallery(tmp_path: Path, shelf: Path, placing: Encoder) -> Gallery:
    gallery = Gallery.open(tmp_path / "gallery", placing)
    gallery.enroll([shelf])
    return gallery


def first_right(gallery: Gallery, asked: Path) -> float:
    """The share of pictures whose best identity is theirs."""
    paths = sorted(asked.rglob("*.png"))
    found = gallery.identify(paths, k=3)
    return float(
        np.mean([a.matches[0].identity == p.parent.name for a, p in zip(found, paths, strict=True)])
    )


def sql(gallery: Gallery, statement: str, *values: object) -> list[tuple[object, ...]]:
    with sqlite3.connect(gallery.folder / "gallery.db") as db:
        found = db.execute(statement, values).fetchall()
    db.close()
    return found


def test_calibrating_learns_to_look_closely(gallery: Gallery, asked: Path) -> None:
    with gallery:
        before = first_right(gallery, asked)
        assert gallery.calibrate(0.1).closer > 0
        after = first_right(gallery, asked)
        assert before + 0.2 < after
        found = gallery.calibration
        assert found is not None
        assert found.closer_gain is not None
        assert found.closer_gain > 0.2
        assert "more in 100 held-out items are named rightly" in str(gallery.info().closer)
        assert gallery.info().places == IDENTITIES * EACH
        assert gallery.check() == []


def test_order_is_by_scores_and_what_the_look_adds(gallery: Gallery, asked: Path) -> None:
    with gallery:
        gallery.calibrate(0.1)
        (answer,) = gallery.identify([next(iter(sorted(asked.rglob("*.png"))))], k=10)
        together = [match.score + (match.closer or 0) for match in answer.matches]
        assert together == sorted(together, reverse=True)
        assert answer.score == answer.matches[0].score


def test_where_it_does_not_decide_strangers_are_named_no_more_often(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closer, "DECIDING", np.inf)
    with gallery:
        calibrated = gallery.calibrate(0.2)
        assert (calibrated.looked, calibrated.deciding) == (None, calibrated)
        strangers = [moved(seed, seed) for seed in range(500, 650)]
        found = gallery.encoder.describe(strangers)
        vectors = np.stack([one.embedding for one in found])
        plain = gallery.identify_embeddings(vectors)
        looked = gallery.identify_embeddings(vectors, places=[one.places for one in found])
        named = [[a.identity is not None for a in answers] for answers in (plain, looked)]
        assert not any(b and not a for a, b in zip(*named, strict=True))
        assert [a.matches for a in plain] != [a.matches for a in looked]


def test_where_it_decides_votes_are_part_of_scores(gallery: Gallery, asked: Path) -> None:
    with gallery:
        found = gallery.calibrate(0.1)
        assert found.looked is not None
        assert found.deciding == found.looked
        assert "votes are part of scores" in str(gallery.info().closer)
        paths = sorted(asked.rglob("*.png"))
        described = gallery.encoder.describe(paths)
        vectors = np.stack([one.embedding for one in described])
        looked = gallery.identify_embeddings(vectors, places=[one.places for one in described])
        plain = gallery.identify_embeddings(vectors)
        truth = [path.parent.name for path in paths]
        right = [
            [a.identity == name for a, name in zip(b, truth, strict=True)] for b in (plain, looked)
        ]
        assert np.mean(right[0]) + 0.2 < np.mean(right[1])
        assert all(match.closer is None for answer in looked for match in answer.matches)
        strangers = gallery.identify([moved(seed, seed) for seed in range(500, 700)])
        assert np.mean([answer.identity is not None for answer in strangers]) < 0.2
        # What is filtered has other rivals than those that were calibrated: scores decide.
        (filtered,) = gallery.identify(paths[:1], where={"shop": "none"})
        assert filtered.identity is None


def test_a_filter_that_leaves_out_nobody_changes_no_answer(
    gallery: Gallery, shelf: Path, asked: Path
) -> None:
    with gallery:
        gallery.enroll([shelf], metadata={"shop": "north"})
        assert gallery.calibrate(0.1).looked is not None
        paths = sorted(asked.rglob("*.png"))[:10]
        plain = gallery.identify(paths, threshold=0.9)
        assert gallery.identify(paths, threshold=0.9, where={"shop": "north"}) == plain
        gallery.enroll([shelf / "m0"], label="m0", metadata={"shop": "south"})
        filtered = gallery.identify(paths, threshold=0.9, where={"shop": "north"})
        assert all(match.closer is not None for answer in filtered for match in answer.matches)
    query = ["query", str(paths[0]), "-g", str(gallery.folder), "--threshold", "0.9"]
    assert "for their sum" in CliRunner().invoke(app, query).stderr
    assert "for their sum" not in CliRunner().invoke(app, [*query, "--rule", "best"]).stderr


def test_an_answer_does_not_depend_on_k_or_on_other_probes(gallery: Gallery, asked: Path) -> None:
    with gallery:
        gallery.calibrate(0.1)
        paths = sorted(asked.rglob("*.png"))[:6]
        together = gallery.identify(paths, k=8)
        for path, answer in zip(paths, together, strict=True):
            (alone,) = gallery.identify([path], k=1)
            assert alone.identity == answer.identity
            assert alone.matches[0].identity == answer.matches[0].identity
            assert alone.matches[0].score == pytest.approx(answer.matches[0].score, abs=1e-4)


def test_none_keeps_no_places_and_auto_makes_them_again(
    gallery: Gallery, shelf: Path, asked: Path
) -> None:
    with gallery:
        weight = gallery.calibrate(0.1).closer
        after = first_right(gallery, asked)
        assert gallery.calibrate(0.1, closer="none").closer == 0
        assert (gallery.info().places, gallery.info().closer) == (len(gallery), None)
        assert gallery.calibrate(0.1, closer="auto").closer == weight  # places were still there
        gallery.calibrate(0.1, closer="none")
        gallery.remove("m0")
        gallery.enroll([shelf / "m0"], label="m0")
        assert 0 < gallery.info().places < len(gallery)
        gallery.compact()
        assert gallery.info().places == 0
        assert gallery.calibrate(0.1).closer == 0  # what was chosen holds
        assert gallery.calibrate(0.1, closer="auto").closer == 0  # there are none yet
        gallery.rebuild()
        assert gallery.info().places == IDENTITIES * EACH
        assert gallery.calibrate(0.1).closer > 0
        assert first_right(gallery, asked) == pytest.approx(after, abs=0.05)
        with pytest.raises(UsageError, match="unknown closer look 'often'"):
            gallery.calibrate(0.1, closer="often")


def test_damaged_places_are_named_and_made_again(gallery: Gallery, asked: Path) -> None:
    with gallery:
        gallery.calibrate(0.1)
        ((content,),) = sql(gallery, "SELECT content FROM places WHERE item = 7")
        assert isinstance(content, bytes)
        for damaged in (content[:-1], content[:20] + b"x" + content[21:], b"", "text"):
            sql(gallery, "UPDATE places SET content = ? WHERE item = 7", damaged)
            assert [line for line in gallery.check() if "item 7" in line]
        with pytest.raises(GalleryDamaged, match=r"places of item 7.*siasearch rebuild"):
            gallery.identify(sorted(asked.rglob("*.png")))
        gallery.rebuild()
        assert gallery.check() == []
        assert sql(gallery, "SELECT content FROM places WHERE item = 7") == [(content,)]


def test_items_without_a_picture_are_candidates_all_the_same(
    gallery: Gallery, placing: Encoder
) -> None:
    with gallery:
        probe = moved(700, 3)
        gallery.enroll_embeddings(placing.embed([moved(700, 3), moved(700, 9)]), ["other"] * 2)
        gallery.calibrate(0.1)
        assert gallery.info().places == IDENTITIES * EACH
        (answer,) = gallery.identify([probe])
        assert answer.matches[0].identity == "other"
        gallery.rebuild()  # has no picture to make them from
        assert gallery.check() == []


def test_places_go_with_their_item_and_with_their_encoder(
    gallery: Gallery, toy: Encoder, placing: Encoder
) -> None:
    with gallery:
        gallery.calibrate(0.1)
        gallery.remove("m3")
        assert gallery.info().places == (IDENTITIES - 1) * EACH
        gallery.relabel("m4", "renamed")
        gallery.rebuild(toy)
        assert (gallery.info().places, gallery.calibration.closer) == (0, 0)  # type: ignore[union-attr]
        assert sql(gallery, "SELECT count(*) FROM places") == [(0,)]
        gallery.rebuild(placing)
        assert gallery.info().places == (IDENTITIES - 1) * EACH
        found = gallery.calibration
        assert found is not None
        assert found.closer > 0
        assert gallery.check() == []


def test_places_that_mislead_have_no_weight(tmp_path: Path, placing: Encoder) -> None:
    # All pictures have the same colours, in an order of their own: only the embedding tells.
    random = np.random.default_rng(0)
    colours = random.integers(0, 256, (16, 3)).astype(np.uint8)
    for name in range(20):
        order = colours[random.permutation(16)].reshape(4, 4, 3)
        (tmp_path / "same" / f"o{name}").mkdir(parents=True)
        for number in range(4):
            noise = random.normal(0, 25, (16, 16, 3))
            pixels = (order.repeat(4, 0).repeat(4, 1) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "same" / f"o{name}" / f"{number}.png")
    with Gallery.open(tmp_path / "gallery", placing) as gallery:
        gallery.enroll([tmp_path / "same"])
        assert gallery.calibrate(0.1).closer == 0
        assert gallery.info().closer is None


@pytest.mark.parametrize("alike", [True, False])
def test_one_picture_each_gives_it_little_weight_where_votes_agree_with_scores(
    tmp_path: Path, pictures: Pictures, placing: Encoder, alike: bool
) -> None:
    # In pairs that resemble each other, or nobody resembles anybody.
    for name in range(20):
        (tmp_path / "shop" / f"p{name}").mkdir(parents=True)
        made = picture(name // 2 if alike else name, noise=20 + name)
        made.save(tmp_path / "shop" / f"p{name}" / "0.png")
    strange = pictures({f"s{number}": 1 for number in range(20)}, "strange", first_seed=100)
    with Gallery.open(tmp_path / "gallery", placing) as gallery:
        gallery.enroll([tmp_path / "shop"])
        found = gallery.calibrate(0.2, strangers=strange)
        assert (found.closer > 0) == alike
        assert (found.closer_gain, found.looked) == (None, None)
        assert ("too few" in str(gallery.info().closer)) == alike


def test_an_encoder_without_places_takes_no_look(tmp_path: Path, shelf: Path, toy: Encoder) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([shelf])
        assert gallery.calibrate(0.1).closer == 0
        gallery.rebuild()
        assert gallery.info().places == 0


def test_an_item_takes_few_bytes(gallery: Gallery) -> None:
    with gallery:
        ((longest,),) = sql(gallery, "SELECT max(length(content)) FROM places")
        assert isinstance(longest, int)
        assert longest < 100 < 4096 < PAGE_BYTES


def test_the_command_line_shows_and_switches_it(
    gallery: Gallery, asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(gallery.folder)
    gallery.close()
    run = CliRunner().invoke
    done = run(app, ["calibrate", "-g", folder, "--fpir", "0.1"])
    assert done.exit_code == 0
    assert "closer look: " in done.output
    image = str(sorted(asked.rglob("*.png"))[0])
    answer = json.loads(run(app, ["query", image, "-g", folder, "--json"]).stdout)
    assert answer["matches"][0]["closer"] is None  # its votes are part of the score
    monkeypatch.setattr(closer, "DECIDING", np.inf)
    assert run(app, ["calibrate", "-g", folder]).exit_code == 0
    answer = json.loads(run(app, ["query", image, "-g", folder, "--json"]).stdout)
    assert answer["matches"][0]["closer"] >= 0
    assert " +0." in run(app, ["query", image, "-g", folder]).stdout
    assert run(app, ["calibrate", "-g", folder, "--closer", "none"]).exit_code == 0
    facts = json.loads(run(app, ["info", "-g", folder, "--json"]).stdout)
    assert (facts["closer"], facts["places"]) == (None, facts["items"])
    assert run(app, ["calibrate", "-g", folder, "--closer", "never"]).exit_code


def test_places_of_another_number_of_pictures_are_refused(gallery: Gallery) -> None:
    with gallery:
        vectors = gallery.encoder.embed([moved(1, 1)])
        with pytest.raises(UsageError, match="places of 2 pictures"):
            gallery.identify_embeddings(vectors, places=[None, None])


def test_own_scores_are_those_that_decide(gallery: Gallery) -> None:
    with gallery:
        found = gallery.calibrate(0.1)
        assert found.looked is not None
        scores = own_scores(gallery, *both_ways(gallery, unwatched))
        assert scores.threshold == found.looked.thresholds[0.1] != found.thresholds[0.1]
        assert scores.fnir == pytest.approx(1 - (found.looked.named or 0))
        assert f"evidence from {scores.threshold:.3f} on" in str(gallery.info().calibration)
        assert all(one.path for one in scores.asked)
        for number in range(2, IDENTITIES):  # votes decide no more
            gallery.remove(f"m{number}")
        scores = own_scores(gallery, *both_ways(gallery, unwatched))
        assert scores.threshold == found.thresholds[0.1]
        assert f"evidence from {scores.threshold:.3f} on" in str(gallery.info().calibration)


def test_votes_decide_no_more_once_the_gallery_has_shrunk(gallery: Gallery) -> None:
    with gallery:
        assert gallery.calibrate(0.1).looked is not None
        strangers = [moved(seed, seed) for seed in range(500, 540)]
        found = gallery.encoder.describe(strangers)
        vectors = np.stack([one.embedding for one in found])
        places = [one.places for one in found]
        before = gallery.identify_embeddings(vectors, places=places)
        assert all(match.closer is None for answer in before for match in answer.matches)
        for number in range(2, IDENTITIES):
            gallery.remove(f"m{number}")
        looked = gallery.identify_embeddings(vectors, places=places)
        plain = gallery.identify_embeddings(vectors)
        pairs = zip(looked, plain, strict=True)
        assert not any(a.identity is not None and b.identity is None for a, b in pairs)
        assert all(match.closer is not None for answer in looked for match in answer.matches)


def test_votes_decide_only_among_candidates_that_all_have_places(gallery: Gallery) -> None:
    with gallery:
        assert gallery.calibrate(0.1).looked is not None
        probe = gallery.encoder.describe([moved(1, 9)])[0]
        asked = probe.embedding[None]
        (whole,) = gallery.identify_embeddings(asked, places=[probe.places])
        assert {match.closer for match in whole.matches} == {None}
        own = [item.number for item in gallery.items(whole.matches[0].identity)]
        for number in own:
            sql(gallery, "DELETE FROM places WHERE item = ?", number)
        (looked,) = gallery.identify_embeddings(asked, places=[probe.places])
        (plain,) = gallery.identify_embeddings(asked)
        assert looked.threshold == pytest.approx(plain.threshold, abs=0.2)
        assert None not in {match.closer for match in looked.matches}


def test_a_crowd_of_one_identity_leaves_strangers_as_many_candidates(gallery: Gallery) -> None:
    with gallery:
        crowd = [moved(0, shift % 16) for shift in range(16)]
        noisy = [np.asarray(one) ^ np.uint8(n % 3) for n, one in enumerate(crowd * 6)]
        gallery.enroll(noisy, label="m0")
        test = gallery._self_test
        item = gallery.items("m0")[0].number
        ((_, own, _, votes),) = test._looked(np.array([item]), "balanced", strange=True)
        assert own[0] == "m0"
        assert "m0" not in votes
        assert len(votes) > 10


def test_a_damaged_row_whose_picture_is_gone_is_dropped(gallery: Gallery, asked: Path) -> None:
    with gallery:
        gallery.enroll([moved(600, 1), moved(600, 2)], label="shown")
        number = gallery.items("shown")[0].number
        gallery.calibrate(0.1)
        sql(gallery, "UPDATE places SET content = x'00' WHERE item = ?", number)
        gallery.rebuild()
        assert gallery.check() == []
        assert gallery.info().places == (IDENTITIES * EACH) + 1
        gallery.identify(sorted(asked.rglob("*.png")))


def test_a_changed_calibration_is_never_used(gallery: Gallery) -> None:
    with gallery:
        gallery.calibrate(0.1)
        ((content,),) = sql(gallery, "SELECT content FROM calibrations")
        fields = json.loads(str(content))
        changes: list[dict[str, object]] = [
            {"closer": fields["closer"] * 2}, {"looked": None}, {"scale": 0.0}, {"thresholds": {}},
            {"rule": "balancee"}, {"location": float("nan")},
        ]  # fmt: skip
        for change in changes:
            for sealed in (fields | change, {**fields, **change, "checksum": None}):
                if change.keys() <= {"closer", "looked", "rule"} and sealed["checksum"] is None:
                    continue  # as an earlier release might have stored it
                sql(gallery, "UPDATE calibrations SET content = ?", json.dumps(sealed))
                with pytest.raises(GalleryDamaged, match="calibration is damaged"):
                    gallery.identify([moved(1, 1)])
        assert gallery.calibrate(0.1).closer == fields["closer"]
        gallery.identify([moved(1, 1)])


def test_undo_brings_no_places_back_where_none_are_kept(gallery: Gallery) -> None:
    with gallery:
        gallery.remove("m5")
        gallery.calibrate(0.1, closer="none")
        gallery.undo()
        assert 0 < gallery.info().places < len(gallery)


@pytest.mark.parametrize("shape", [(16, 4), (3, 16), (0, 3)])
def test_places_that_no_encoder_gives_are_refused(gallery: Gallery, shape: tuple[int, int]) -> None:
    with gallery:
        vectors = gallery.encoder.embed([moved(800, 1)])
        for places in (np.zeros(shape, np.float32), np.full((16, 3), np.nan, np.float32)):
            with pytest.raises(UsageError, match="places of picture 0 have the shape"):
                gallery.identify_embeddings(vectors, places=[places])
            with pytest.raises(UsageError, match="places of picture 0 have the shape"):
                gallery.enroll_embeddings(vectors, ["new"], places=[places])


def test_a_rebuild_killed_before_it_calibrates_again_does_so_when_run_again(
    gallery: Gallery, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with gallery:
        gallery.calibrate(0.1, rule="best")
        with monkeypatch.context() as patch:
            patch.setattr("siamese_search.gallery.calibrating.Calibrating.renewed", killed)
            with pytest.raises(Killed):
                gallery.rebuild(toy)
        assert gallery.calibration is None
        report = gallery.rebuild(toy)
        assert report.calibration is not None
        assert (report.calibration.fpir, report.calibration.rule) == (0.1, "best")
        assert gallery.calibration == report.calibration
        assert gallery.rebuild(toy).calibration is None
        assert gallery.check() == []
