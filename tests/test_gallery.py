from __future__ import annotations

import os
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import picture, write_toy_encoder

from siamese_search import Encoder, Gallery, SiaSearchError
from siamese_search.decision.rules import RULES
from siamese_search.errors import (
    EncoderError,
    GalleryMismatch,
    GalleryMissing,
    ImageError,
    UsageError,
)
from siamese_search.records import ImageFile, Progress

Pictures = Callable[..., Path]


def test_what_was_enrolled_a_second_ago_is_identified(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        report = gallery.enroll([pictures({"cat": 2, "birds/tit": 1})])
        assert (report.added, report.skipped, report.rejected) == (3, 0, ())
        assert (report.identities, report.items, len(gallery)) == (2, 3, 3)
        # birds/tit holds seed 2, cat 0 and 1
        known, stranger = gallery.identify([picture(2, noise=8), picture(50)], k=5)
        assert known.identity == "birds/tit"
        assert known.score is not None
        assert known.score > 0.9
        assert known.confidence is not None
        assert 0.5 < known.confidence <= 1
        assert [match.identity for match in known.matches] == ["birds/tit", "cat"]
        assert stranger.identity is None
        assert len(stranger.matches) == 2


def test_an_image_directly_in_the_folder_is_its_own_identity(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    folder = pictures({"x": 1})
    picture(9).save(folder / "Mona Lisa.png")
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder])
        assert gallery.identities() == [("Mona Lisa", 1), ("x", 1)]


def test_a_label_overrides_and_enrolling_again_skips(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    folder = pictures({"a": 2, "b": 1})
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        assert gallery.enroll([folder], label=" owl ").added == 3
        assert gallery.identities() == [("owl", 3)]
        assert gallery.enroll([folder], label="owl").skipped == 3


def test_enrolling_again_decodes_nothing(
    tmp_path: Path, pictures: Pictures, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures({"a": 3})
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder])

        def refuse(*_: object) -> None:
            raise AssertionError("decoded again")

        monkeypatch.setattr("siamese_search.pictures.render.decode", refuse)
        assert gallery.enroll([folder]).skipped == 3


def test_content_under_another_identity_is_reported_not_enrolled(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    folder = pictures({"a": 1})
    (folder / "b").mkdir()
    shutil.copy(folder / "a" / "0.png", folder / "b" / "copy.png")
    shutil.copy(folder / "a" / "0.png", folder / "a" / "twin.png")
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        report = gallery.enroll([folder])
        assert (report.added, report.skipped) == (1, 1)
        (rejection,) = report.rejected
        assert rejection.path.endswith("b/copy.png")
        assert "enrolled as 'a'" in rejection.reason
        assert gallery.identities() == [("a", 1)]


def test_bad_files_are_rejected_and_the_rest_enrolled(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    folder = pictures({"a": 40})
    (folder / "a" / "empty.jpg").touch()
    (folder / "a" / "text.png").write_text("no picture")
    whole = (folder / "a" / "3.png").read_bytes()
    (folder / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        report = gallery.enroll([folder])
        assert report.added == 40
        assert sorted(Path(r.path).name for r in report.rejected) == [
            "cut.png",
            "empty.jpg",
            "text.png",
        ]


def test_every_one_of_several_equal_bad_files_is_named(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    folder = pictures({"a": 1, "b": 1})
    for place in ("a/x.png", "a/y.png", "b/z.png"):
        (folder / place).write_text("no picture")
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        report = gallery.enroll([folder])
        assert (report.added, report.skipped) == (2, 0)
        assert sorted(Path(r.path).name for r in report.rejected) == ["x.png", "y.png", "z.png"]
        assert len({r.reason for r in report.rejected}) == 1


def test_the_folder_around_a_gallery_can_be_enrolled_again_and_again(
    pictures: Pictures, toy: Encoder
) -> None:
    folder = pictures({"a": 2})
    with Gallery.open(folder / "indexes" / "default", toy) as gallery:
        assert gallery.enroll([folder], copy=True).added == 2
        again = gallery.enroll([folder], copy=True)
        assert (again.added, again.skipped, again.rejected) == (0, 2, ())


def test_one_image_is_taken_as_a_list_of_one(tmp_path: Path, toy: Encoder) -> None:
    picture(1).save(tmp_path / "x.png")
    path = tmp_path / "x.png"
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        assert gallery.enroll(path).added == 1
        pixels = np.asarray(picture(1))
        for one in (str(path), path, path.read_bytes(), pixels, picture(1)):
            (answer,) = gallery.identify(one)
            assert answer.identity == "x"
        with pytest.raises(ImageError, match=r"nowhere.png: there is no such file"):
            gallery.identify("nowhere.png")
        for threshold in (float("nan"), 2.0):
            with pytest.raises(UsageError, match="threshold"):
                gallery.identify([picture(1)], threshold=threshold)
        with pytest.raises(UsageError, match="k is 0"):
            gallery.search(toy.embed([picture(1)]), 0)


def test_nothing_to_enrol_is_an_error(tmp_path: Path, toy: Encoder) -> None:
    (tmp_path / "empty").mkdir()
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        with pytest.raises(UsageError, match="no images in"):
            gallery.enroll([tmp_path / "empty"])
        with pytest.raises(UsageError, match="no such file"):
            gallery.enroll([tmp_path / "nowhere"])


def by_hand(rule: str, vectors: npt.NDArray[np.float32], probe: npt.NDArray[np.float32]) -> float:
    """An identity's score, the obvious way."""
    cosines = sorted((float(vector @ probe) for vector in vectors), reverse=True)
    mean = vectors.mean(axis=0)
    prototype = float(mean @ probe) / float(np.linalg.norm(mean))
    if rule == "trimmed" and len(vectors) >= 4:
        closeness = [float(vector @ mean) / float(np.linalg.norm(mean)) for vector in vectors]
        middle = float(np.median(closeness))
        spread = float(np.median([abs(value - middle) for value in closeness]))
        pairs = zip(vectors, closeness, strict=True)
        mean = np.mean([v for v, value in pairs if value >= middle - 3 * spread - 1e-6], axis=0)
    return {
        "best": cosines[0],
        "mean-of-best": float(np.mean(cosines[:3])),
        "prototype": prototype,
        "balanced": (cosines[0] + prototype) / 2,
        "trimmed": float(mean @ probe) / float(np.linalg.norm(mean)),
    }[rule]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_scores_as_by_hand_and_k_identities_are_found(
    tmp_path: Path, toy: Encoder, rule: str
) -> None:
    random = np.random.default_rng(0)

    def near(axis: int, spread: float, count: int) -> npt.NDArray[np.float32]:
        vectors = random.normal(0, spread, (count, toy.dimension))
        vectors[:, axis] += 1
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors.astype(np.float32)

    # 500 items of one identity crowd around the probe; the others lie farther out.
    groups = {"crowd": near(0, 0.01, 500), "one": near(1, 0.05, 5), "two": near(2, 0.05, 1)}
    groups["one"][0] = near(2, 0.05, 1)[0]  # an outlier
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        for name, vectors in groups.items():
            gallery.enroll_embeddings(vectors, [name] * len(vectors))
        for probe in near(0, 0.01, 1)[0], near(1, 0.05, 1)[0]:
            expected = {name: by_hand(rule, vectors, probe) for name, vectors in groups.items()}
            for _ in range(2):  # also with what the first answer has left in memory
                (answer,) = gallery.identify_embeddings(probe[None], k=5, rule=rule)
                found = {match.identity: match.score for match in answer.matches}
                assert found == pytest.approx(expected, abs=2e-6)
                assert list(found.values()) == sorted(found.values(), reverse=True)
            ((nearest,), _) = gallery.search(probe[None], 1)
            assert answer.matches[0].item == nearest[0]
        gallery.remove("two")
        gallery.remove(item=2)
        left = np.delete(groups["crowd"], 1, axis=0)
        (answer,) = gallery.identify_embeddings(probe[None], k=5, rule=rule)
        scores = {match.identity: match.score for match in answer.matches}
        assert scores["crowd"] == pytest.approx(by_hand(rule, left, probe), abs=2e-6)
        with pytest.raises(UsageError, match="unknown rule 'worst'"):
            gallery.identify_embeddings(probe[None], rule="worst")


def test_a_filter_holds_for_prototypes_too(tmp_path: Path, toy: Encoder) -> None:
    vectors = np.eye(4, toy.dimension, dtype=np.float32)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        shops = [{"shop": "north"}, {"shop": "south"}, {"shop": "north"}, {"shop": "south"}]
        gallery.enroll_embeddings(vectors, ["a", "a", "b", "b"], shops)
        probe = np.array([[0.8, 0.6] + [0] * (toy.dimension - 2)], np.float32)
        (everywhere,) = gallery.identify_embeddings(probe, rule="prototype")
        (north,) = gallery.identify_embeddings(probe, where={"shop": "north"}, rule="prototype")
    assert everywhere.matches[0].score == pytest.approx(1.4 / 2**0.5, abs=1e-6)
    assert north.matches[0].score == pytest.approx(0.8, abs=1e-6)


def test_identities_with_thousands_of_items_are_told_apart_in_little_memory(
    tmp_path: Path, toy: Encoder
) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(3 * 4000, toy.dimension))
    for axis in range(3):
        vectors[axis * 4000 : (axis + 1) * 4000, axis] += 40  # far apart: one crowds the best
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    enrolled = vectors.astype(np.float32)
    names = [f"id{axis}" for axis in range(3) for _ in range(4000)]
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(enrolled, names)
        probes = enrolled[::400]
        answers = gallery.identify_embeddings(probes, k=5, rule="best")
        exact = probes @ enrolled.T
        for answer, row in zip(answers, exact, strict=True):
            best = {f"id{axis}": row[axis * 4000 : (axis + 1) * 4000].max() for axis in range(3)}
            assert {m.identity: m.score for m in answer.matches} == pytest.approx(best, abs=1e-6)
            assert [m.score for m in answer.matches] == sorted(
                (m.score for m in answer.matches), reverse=True
            )
        many = np.repeat(probes, 40, axis=0)
        gallery.search(probes, 5)
        tracemalloc.start()
        gallery.search(many, 100)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64e6


def test_a_filter_finds_k_where_k_exist(tmp_path: Path, pictures: Pictures, toy: Encoder) -> None:
    folder = pictures({f"id{n}": 1 for n in range(30)})
    files = [
        ImageFile(str(folder / f"id{n}" / "0.png"), f"id{n}", {"shop": "x" if n % 10 == 0 else "y"})
        for n in range(30)
    ]
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll(files)
        (answer,) = gallery.identify([picture(7)], k=3, where={"shop": "x"})
        assert {match.identity for match in answer.matches} == {"id0", "id10", "id20"}
        assert answer.identity is None
        (nothing,) = gallery.identify([picture(7)], k=3, where={"shop": "z"})
        assert (nothing.identity, nothing.score, nothing.matches) == (None, None, ())


def test_a_threshold_decides(tmp_path: Path, pictures: Pictures, toy: Encoder) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([pictures({"a": 1})])
        (strict,) = gallery.identify([picture(0, noise=10)], threshold=0.99999)
        (lenient,) = gallery.identify([picture(77)], threshold=-1)
        assert (strict.identity, lenient.identity) == (None, "a")
        assert strict.threshold == 0.99999


def test_removed_stays_removed_and_relabelled_stays_relabelled(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    folder = pictures({"a": 2, "b": 2})
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder])
        assert gallery.identify([picture(1)], rule="best")[0].identity == "a"
        assert gallery.remove("a") == 2
        assert gallery.relabel("b", "bee") == 2
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        for _ in range(2):
            assert gallery.identify([picture(1)], rule="best")[0].identity is None
            assert gallery.identify([picture(2)], rule="best")[0].identity == "bee"
            assert gallery.check() == []
            gallery.compact()
        item = gallery.items("bee")[0]
        assert gallery.relabel(None, "wasp", item=item.number) == 1
        assert gallery.identify([picture(2)], rule="best")[0].identity == "wasp"
        assert gallery.remove(item=item.number) == 1
        with pytest.raises(UsageError, match=r"no identity 'be'.*close to it: bee"):
            gallery.remove("be")
        with pytest.raises(UsageError, match="no item"):
            gallery.remove(item=item.number)
        with pytest.raises(UsageError, match="either"):
            gallery.remove()


def test_copies_let_a_gallery_be_rebuilt_without_the_sources(
    tmp_path: Path, pictures: Pictures, toy: Encoder, coarse: Encoder
) -> None:
    folder = pictures({"a": 2, "b": 1})
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder], copy=True)
        shutil.rmtree(folder)
        report = gallery.rebuild(coarse)
        assert (report.switched, report.embedded, report.missing) == (True, 3, ())
        assert gallery.identify([picture(2)], rule="best")[0].identity == "b"
        assert gallery.check() == []
        gallery.remove("a")
        assert len(list((tmp_path / "gallery" / "images").rglob("*.png"))) == 1
        next((tmp_path / "gallery" / "images").rglob("*.png")).write_bytes(b"other")
        assert "other content" in gallery.check()[0]


def test_rebuild_under_another_encoder_keeps_numbers_labels_and_metadata(
    tmp_path: Path, pictures: Pictures, toy: Encoder, coarse_folder: Path
) -> None:
    folder = pictures({"a": 2, "b": 2})
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder])
        gallery.remove(item=1)
        before = [gallery.items(name) for name, _ in gallery.identities()]
        assert gallery.rebuild(coarse_folder).switched
        assert gallery.encoder.name == "coarse"
        assert [gallery.items(name) for name, _ in gallery.identities()] == before
        assert gallery.identify([picture(3)], rule="best")[0].identity == "b"
        assert gallery.search(gallery.encoder.embed([picture(3)]), 1)[0].tolist() == [[4]]
    with Gallery.open(tmp_path / "gallery") as gallery:
        assert gallery.encoder.name == "coarse"
    with pytest.raises(GalleryMismatch, match="rebuild --encoder"):
        Gallery.open(tmp_path / "gallery", toy)


def test_missing_images_stop_the_switch_and_a_later_rebuild_resumes(
    tmp_path: Path, pictures: Pictures, toy: Encoder, coarse: Encoder
) -> None:
    folder = pictures({"a": 2, "b": 2})
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder])
        moved = tmp_path / "elsewhere.png"
        shutil.move(folder / "b" / "1.png", moved)
        (folder / "b" / "0.png").write_bytes(b"changed")
        report = gallery.rebuild(coarse)
        assert not report.switched
        assert report.embedded == 2
        assert [Path(r.path).name for r in report.missing] == ["0.png", "1.png"]
        assert gallery.encoder is toy
        assert (
            gallery.identify([picture(3)], rule="best")[0].identity == "b"
        )  # the old generation answers
        assert gallery.enroll([moved], label="b").skipped == 1  # tells where it lies now
        report = gallery.rebuild(coarse, skip_missing=True)
        assert report.switched
        assert report.embedded == 1
        assert len(report.missing) == 1
        assert gallery.identify([picture(3)], rule="best")[0].identity == "b"
        assert len(gallery) == 4
        assert "item 3 has no embedding" in gallery.check()[0]
        gallery.enroll_embeddings(coarse.embed([picture(7)]), ["c"], [{"shop": "x"}])
        gallery.remove("c")
        report = gallery.rebuild()
        assert (report.switched, len(report.missing)) == (True, 1)
        picture(2).save(folder / "b" / "0.png")
        report = gallery.rebuild()
        assert (report.switched, report.embedded) == (True, 1)
        assert gallery.search(coarse.embed([picture(2)]), 1)[0].tolist() == [[3]]
        assert gallery.check() == []


def test_images_enrolled_during_a_rebuild_are_part_of_it(
    tmp_path: Path, pictures: Pictures, toy: Encoder, coarse: Encoder
) -> None:
    folder = pictures({"a": 3})
    late = pictures({"late": 2}, folder="late", first_seed=10)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder])
        seen: list[Progress] = []

        def enrol_late(progress: Progress) -> None:
            if not seen:
                with Gallery.open(tmp_path / "gallery", toy) as other:
                    other.enroll([late])
            seen.append(progress)

        report = gallery.rebuild(coarse, watch=enrol_late)
        assert (report.switched, report.embedded, report.items) == (True, 5, 5)
        assert gallery.identify([picture(11)], rule="best")[0].identity == "late/late"[5:]


def test_enrolled_embeddings_are_found_and_bad_ones_refused(tmp_path: Path, toy: Encoder) -> None:
    vectors = toy.embed([picture(1), picture(2)])
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        numbers = gallery.enroll_embeddings(vectors, ["a", "b"], [{"shop": "x"}, {}])
        items, scores = gallery.search(vectors, 3)
        assert items.tolist() == [[numbers[0], numbers[1], -1], [numbers[1], numbers[0], -1]]
        assert scores[:, 0] == pytest.approx([1, 1], abs=1e-6)
        assert (
            gallery.identify([picture(2)], where={"shop": "x"}, rule="best")[0].matches[0].identity
            == "a"
        )
        other = toy.embed([picture(3)])
        nan = np.full_like(other, np.nan)
        bad: Any
        for bad in (other[:, :5], other * 2, nan, other[None]):
            with pytest.raises(UsageError):
                gallery.enroll_embeddings(bad, ["c"])
        masked = np.ma.masked_array(other, other > 0)
        for bad in (masked, [*other.tolist(), [1]], other * np.float32(1e30)):
            with pytest.raises(UsageError):
                gallery.enroll_embeddings(bad, ["c"])
        names: Any
        for names in (["c", "d"], [""], ["a\x00b"], [5], [None], "c"):
            with pytest.raises(UsageError):
                gallery.enroll_embeddings(other, names)
        metadata: Any
        for metadata in (["x=y"], {"x": "y"}, [{"": "y"}], [{"x": None}], [{}, {}]):
            with pytest.raises(UsageError, match="metadata"):
                gallery.enroll_embeddings(other, ["c"], metadata)
        with pytest.raises(UsageError, match=r"embedding 1 \(a\) is enrolled already"):
            gallery.enroll_embeddings(np.concatenate([other, vectors]), ["c", "a", "b"])
        with pytest.raises(UsageError, match="already"):
            gallery.enroll_embeddings(vectors, ["a", "b"])
        with pytest.raises(UsageError, match="twice"):
            gallery.enroll_embeddings(np.concatenate([other, other]), ["c", "c"])
        with pytest.raises(UsageError):
            gallery.search(nan, 1)
        assert gallery.enroll_embeddings(other[:0], []) == []
        assert len(gallery) == 2


def test_probes_that_cannot_be_read_are_named(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    folder = pictures({"a": 1})
    (folder / "text.png").write_text("no picture")
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder / "a"])
        with pytest.raises(ImageError, match=r"text\.png: not an image"):
            gallery.identify([folder / "text.png"])
        paths = [folder / "text.png", folder / "a" / "0.png"]
        answers = [answer for _, answer in gallery.identify_each(paths)]
        assert isinstance(answers[0], ImageError)
        assert not isinstance(answers[1], ImageError)
        with pytest.raises(UsageError, match="k is 0"):
            gallery.identify([picture(0)], k=0)


def test_verify_says_same_or_different(tmp_path: Path, toy: Encoder) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        same = gallery.verify(picture(1), picture(1, noise=5))
        different = gallery.verify(picture(1), picture(2))
        assert (same.same, different.same) == (True, False)
        assert same.threshold is not None
        assert same.confidence is not None
        assert different.confidence is not None
        assert same.score > same.threshold > different.score
        assert same.confidence > 0.5 > different.confidence


def test_what_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(GalleryMissing, match="siasearch add"):
        Gallery.open(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(EncoderError, match="unknown encoder: 'nonsense'"):
        Gallery.open(tmp_path / "nothing", "nonsense")
    folder = write_toy_encoder(tmp_path / "mine")
    Gallery.open(tmp_path / "gallery", folder).close()
    shutil.move(folder, tmp_path / "moved")
    with (
        Gallery.open(tmp_path / "gallery") as gallery,
        pytest.raises(SiaSearchError, match="--encoder"),
    ):
        gallery.identify([picture(1)])
    with Gallery.open(tmp_path / "gallery", tmp_path / "moved") as gallery:
        assert gallery.identify([picture(1)])[0].matches == ()


def test_a_delta_is_searched_and_compaction_changes_no_answer(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    folder = pictures({f"id{n}": 1 for n in range(20)})
    late = pictures({"late": 1}, folder="late", first_seed=100)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder])
        index = gallery.info().index
        gallery.enroll([late])
        gallery.remove("id3")
        assert gallery.info().index == index  # small changes do not rewrite the large file
        probes = [picture(100), picture(3), picture(4)]
        before = gallery.identify(probes)
        assert [answer.identity for answer in before] == ["late", None, "id4"]
        gallery.compact()
        assert gallery.info().index != index
        assert gallery.identify(probes) == before
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        assert gallery.identify(probes) == before
        assert [path.name for path in (tmp_path / "gallery").glob("*.faiss")] == [
            gallery.info().index
        ]


def test_pictures_that_changed_since_they_were_enrolled_are_named(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    root = pictures({"a": 6})
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([root / "a" / f"{number}.png" for number in range(5)], label="a")
        gallery.enroll([root / "a" / "5.png"], label="a", copy=True)
        assert list(gallery.changed_pictures(deep=True)) == []
        paths = [root / "a" / f"{number}.png" for number in range(6)]
        picture(50).save(paths[0])  # of another size, or later
        paths[1].unlink()
        before = paths[2].stat()
        content = bytearray(paths[2].read_bytes())
        content[-20] ^= 1
        paths[2].write_bytes(content)
        os.utime(paths[2], ns=(before.st_atime_ns, before.st_mtime_ns))
        os.utime(paths[3], (time.time() + 100,) * 2)  # touched, and the same
        paths[5].unlink()  # the gallery has a copy
        found = {Path(one.path).name: one.reason for one in gallery.changed_pictures()}
        assert found == {
            "0.png": "item 1: has other content than before",
            "1.png": "item 2: is gone",
        }
        found = {Path(one.path).name: one.reason for one in gallery.changed_pictures(deep=True)}
        assert found.keys() == {"0.png", "1.png", "2.png"}
        assert gallery.check(deep=True) == []


def test_a_deep_check_finds_embeddings_that_are_not_of_their_pictures(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll(pictures({"a": 3}))
        catalog = gallery._catalog
        generation = catalog.state().generation
        catalog.store(generation, [2], toy.embed([picture(77)]))
        assert gallery.check() == []
        (fault,) = gallery.check(deep=True)
        assert "the embedding of item 2 is not what toy gives" in fault
