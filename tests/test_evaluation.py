from __future__ import annotations

import math
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from matplotlib.text import Text
from PIL import Image

from siamese_search import Encoder, Gallery
from siamese_search.arrays import DoubleArray, FloatArray
from siamese_search.errors import ImageError, StorageError, UsageError
from siamese_search.evaluation import explain, plots, protocols
from siamese_search.evaluation.evaluate import evaluate, evaluate_embeddings
from siamese_search.evaluation.inbox import write_groups
from siamese_search.evaluation.report import write_report
from siamese_search.evaluation.splits import Split, evaluate_splits
from siamese_search.evaluation.unmatched import unmatched_labels
from siamese_search.evaluation.words import (
    left_out_lines,
    shown,
    stranger_lines,
    unmatched_lines,
)
from siamese_search.records import ImageFile, UnknownGroup

Pictures = Callable[..., Path]


def files_of(folder: Path) -> list[ImageFile]:
    return [ImageFile(str(path), path.parent.name) for path in sorted(folder.glob("*/*.png"))]


@pytest.fixture
def gallery(tmp_path: Path, toy: Encoder, pictures: Pictures) -> Gallery:
    gallery = Gallery.open(tmp_path / "gallery", toy)
    gallery.enroll([pictures({"a": 1, "b": 1, "c": 1})])  # seeds 0, 1, 2
    return gallery


def test_labelled_probes_tell_how_well_a_gallery_works(gallery: Gallery, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1), ("c", 1), ("nobody", 50), ("nobody", 2)):
        (tmp_path / "probes" / name).mkdir(parents=True, exist_ok=True)
        picture(seed, noise=4 + (name == "c")).save(tmp_path / "probes" / name / f"{seed}.png")
    (tmp_path / "probes" / "a" / "broken.png").write_text("no picture")
    found = evaluate(gallery, files_of(tmp_path / "probes"))
    figures = found.figures
    assert (figures["probes"], figures["strangers"], figures["identities"]) == (5, 2, 3)
    # b's double under c is wrong; of the strangers one is c's double.
    assert figures["recall@1"] == pytest.approx(2 / 3)
    assert figures["TPIR"] == pytest.approx(2 / 3)
    assert figures["FPIR"] == pytest.approx(1 / 2)
    assert figures["mAP@R"] == pytest.approx(2 / 3)
    assert figures["recall@5"] == 1
    assert 0.5 < figures["AUC"] < 1
    assert found.confusions == (("c", "b", 1),)
    assert found.per_identity[0] == ("c", 1, 0, 0)
    assert [(one.identity, one.named) for one in found.mistakes] in (
        [("c", "b"), (None, "c")],
        [(None, "c"), ("c", "b")],
    )
    again = evaluate(gallery, [tmp_path / "probes"])
    assert again.figures | {"probes per second": 0} == figures | {"probes per second": 0}
    (rejection,) = found.rejected
    assert rejection.path.endswith("broken.png")
    write_report(tmp_path / "report.html", "a < b", found)
    page = (tmp_path / "report.html").read_text()
    assert "a &lt; b" in page
    assert page.count("data:image/jpeg") == 4  # two mistakes, each beside what it was taken for
    assert "broken.png" in page
    assert "http" not in page
    with pytest.raises(StorageError):
        write_report(tmp_path / "nowhere" / "report.html", "", found)


def test_scores_of_all_identities_are_those_of_identification(gallery: Gallery) -> None:
    probes = gallery.encoder.embed([picture(seed) for seed in range(4)])
    names, scores = gallery.scores(probes)
    assert names == ["a", "b", "c"]
    for row, answer in zip(scores, gallery.identify_embeddings(probes, k=3), strict=True):
        ranked = {match.identity: match.score for match in answer.matches}
        assert dict(zip(names, row.tolist(), strict=True)) == pytest.approx(ranked, abs=1e-6)


def test_each_picture_is_asked_about_once(gallery: Gallery, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1), ("nobody", 50)):
        (tmp_path / "probes" / name).mkdir(parents=True)
        picture(seed, noise=4).save(tmp_path / "probes" / name / f"{seed}.png")
    probes = tmp_path / "probes"
    once = evaluate(gallery, [probes])
    shutil.copy(probes / "a" / "0.png", probes / "nobody" / "a copy.png")
    shutil.copy(probes / "b" / "1.png", probes / "b" / "2.png")
    # A file that is named again is not called rejected, but where it is named otherwise.
    found = evaluate(gallery, [probes, probes / "nobody", probes, probes / "a" / "0.png"])
    assert found.figures | {"probes per second": 0} == once.figures | {"probes per second": 0}
    assert [(Path(one.path).name, one.reason.split(":")[0]) for one in found.rejected] == [
        ("2.png", f"the same picture as {probes / 'b' / '1.png'}"),
        ("a copy.png", f"the same picture is taken as 'a' already, by {probes / 'a' / '0.png'}"),
        ("50.png", f"the same picture is taken as 'nobody' already, by {probes / 'nobody/50.png'}"),
        ("a copy.png", f"the same picture is taken as 'a' already, by {probes / 'a' / '0.png'}"),
        ("2.png", f"the same picture as {probes / 'b' / '1.png'}"),
        ("a copy.png", f"the same picture is taken as 'a' already, by {probes / 'a' / '0.png'}"),
        ("0.png", f"the same picture is taken as 'a' already, by {probes / 'a' / '0.png'}"),
    ]


def test_a_rate_that_was_not_calibrated_for_is_told(
    tmp_path: Path, toy: Encoder, pictures: Pictures, caplog: pytest.LogCaptureFixture
) -> None:
    strange = pictures({f"other{n}": 1 for n in range(6)}, "strangers", first_seed=50)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([pictures({"a": 1, "b": 1, "c": 1})])
        gallery.calibrate(0.3, strangers=[strange])
        evaluate(gallery, [strange])
        assert not any("calibrated" in one for one in caplog.messages)
        gallery.calibrate(0.3, strangers=[strange], turns=4)
        evaluate(gallery, [strange])
        told = [one for one in caplog.messages if "calibrated" in one]
        assert ["for 4 turns, and each probe is looked at in one" in one for one in told] == [True]
        gallery.enroll([pictures({f"new{n}": 1 for n in range(3)}, "new", first_seed=80)])
        evaluate(gallery, [strange])
    assert any("changed much since it was calibrated" in one for one in caplog.messages)


def test_without_strangers_or_known_probes_what_cannot_be_told_is_nan(
    gallery: Gallery, tmp_path: Path
) -> None:
    probe = tmp_path / "probe.png"
    picture(0, noise=4).save(probe)
    known = evaluate(gallery, [ImageFile(str(probe), "a")]).figures
    assert math.isnan(known["FPIR"])
    assert known["recall@1"] == 1
    strange = evaluate(gallery, [ImageFile(str(probe), "z")]).figures
    assert math.isnan(strange["recall@1"])
    assert math.isnan(strange["EER"])
    assert shown("EER", strange["EER"]) == "-"


def test_nothing_to_measure_is_a_clear_error(
    gallery: Gallery, tmp_path: Path, toy: Encoder
) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(UsageError, match="none of the probes could be read"):
        evaluate(gallery, [ImageFile(str(tmp_path / "broken.png"), "a")])
    picture(0).save(tmp_path / "probe.png")
    with (
        Gallery.open(tmp_path / "empty", toy) as empty,
        pytest.raises(UsageError, match="nothing is enrolled"),
    ):
        evaluate(empty, [ImageFile(str(tmp_path / "probe.png"), "a")])


def test_splits_of_a_folder_are_disjoint_and_repeat(tmp_path: Path, toy: Encoder) -> None:
    for seed in range(12):
        folder = tmp_path / "photos" / f"class {seed}"
        folder.mkdir(parents=True)
        for number in range(4):
            picture(seed, noise=8 * number).save(folder / f"{number}.png")
    (tmp_path / "photos" / "single").mkdir()
    picture(77).save(tmp_path / "photos" / "single" / "0.png")
    picture(77).save(tmp_path / "photos" / "single" / "double.png")
    files = files_of(tmp_path / "photos")
    whole = evaluate_splits(toy, files, Split(shots=2, draws=3))
    made = whole.draws
    assert ["the same picture as" in one.reason for one in whole.rejected] == [True]
    again = evaluate_splits(toy, files, Split(shots=2, draws=3)).draws
    assert [str(one.figures) for one in made] == [str(one.figures) for one in again]
    assert len({tuple(one.per_identity) for one in made}) > 1
    for one in made:
        assert one.figures["identities"] == 6
        assert one.figures["items"] == 12
        assert one.figures["strangers"] == 6 * 4 + 1
        assert one.figures["probes"] == 12 * 4 + 1 - 12
        assert one.figures["recall@1"] == 1
    with pytest.raises(UsageError, match="0 classes have more than 4 pictures"):
        evaluate_splits(toy, files, Split(shots=4))
    with pytest.raises(UsageError, match="0 classes have more than 1 picture, so that one is left"):
        evaluate_splits(toy, files[:40:4], Split(shots=1))
    with pytest.raises(UsageError, match="a share of the classes"):
        evaluate_splits(toy, files, Split(strangers=1.0))
    (everybody,) = evaluate_splits(toy, files, Split(strangers=0.0, draws=1)).draws
    assert everybody.figures["strangers"] == 1
    assert np.isfinite(everybody.figures["EER"])


def test_an_explanation_marks_what_two_pictures_share(tmp_path: Path, toy: Encoder) -> None:
    shared = np.asarray(picture(0)).copy()
    other = np.asarray(picture(1)).copy()
    other[:, :16] = shared[:, :16]  # the left halves are the same
    for name, pixels in (("a", shared), ("b", other)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    found = explain.explain(toy, tmp_path / "a.png", tmp_path / "b.png")
    for region in found.regions:
        assert region.shape == (16, 16)
        assert region[:, :6].mean() > region[:, 10:].mean()
    assert 0 < found.score < 1
    explain.draw(found, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.size[0] >= 1200
    with plots.style():
        figure = explain.figure(found)
        plots.png(figure)
    words = " ".join(text.get_text() for text in figure.findobj(Text))
    most = max(float(np.abs(region).max()) for region in found.regions)
    for said in ("a.png", "b.png", f"score {found.score:.3f}", f"threshold {toy.threshold:.3f}"):
        assert said in words
    for said in (f"-{most:.3f}\nagainst the resemblance", f"+{most:.3f}\nfor the resemblance"):
        assert said in words
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    for number, box in enumerate(boxes):
        assert figure.bbox.count_contains(box.corners()) == 4
        assert not any(box.overlaps(other) for other in boxes[:number])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"text\.png"):
        explain.explain(toy, tmp_path / "a.png", tmp_path / "text.png")
    with pytest.raises(StorageError):
        explain.draw(found, tmp_path / "nowhere" / "out.png")


def test_an_explanation_numbers_the_places_that_find_each_other(
    tmp_path: Path, placing: Encoder
) -> None:
    pixels = np.asarray(picture(0))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(np.roll(pixels, 8, axis=1)).save(tmp_path / "b.png")
    found = explain.explain(placing, tmp_path / "a.png", tmp_path / "b.png")
    assert (found.grid, len(found.places)) == (4, explain.PLACES)
    for pair in found.places:  # each has moved a column to the right
        assert pair.other == 4 * (pair.place // 4) + (pair.place % 4 + 1) % 4
    with plots.style():
        figure = explain.figure(found)
        plots.png(figure)
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    words = [text.get_text() for text in texts]
    assert all(words.count(str(number)) == 2 for number in range(1, explain.PLACES + 1))
    # The drawing says what the numbers are, clear of all else and large enough to read.
    (legend,) = (text for text in texts if text.get_text() == explain.NUMBERS)
    box = legend.get_window_extent()
    assert figure.bbox.count_contains(box.corners()) == 4
    assert not any(box.overlaps(one.get_window_extent()) for one in texts if one is not legend)
    assert float(legend.get_fontsize()) >= 10


def test_the_published_protocols_run_on_a_tiny_copy_of_their_layout(
    tmp_path: Path, toy: Encoder
) -> None:
    rows: dict[str, list[str]] = {"train": [], "test": []}
    classes = ["Class Name,Class ID,Coarse Name,Coarse ID,Iconic,Description"]
    for fine in range(8):
        for split, count in (("train", 6), ("test", 2)):
            for number in range(count):
                place = tmp_path / "grocery" / split / f"{fine}-{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                noise = 6.0 * (number + (split == "test") * 6 + 1)
                picture(fine, noise=noise).save(place)
                rows[split].append(f"{split}/{place.name}, {fine}, {fine // 2}")
        icon = tmp_path / "grocery" / f"icon-{fine}.png"
        picture(fine).save(icon)
        classes.append(f"name,{fine},coarse,{fine // 2},/{icon.name},")
        bird = tmp_path / "cub-2010" / "images" / f"{fine:03}.bird"
        bird.mkdir(parents=True)
        for number in range(3):
            picture(fine, noise=5.0 * number).convert("RGB").save(bird / f"{number}.jpg")
    for split, lines in rows.items():
        (tmp_path / "grocery" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "grocery" / "classes.csv").write_text("\n".join(classes) + "\n")
    (tmp_path / "omniglot").mkdir()
    with zipfile.ZipFile(tmp_path / "omniglot" / "images_evaluation.zip", "w") as archive:
        for seed in range(4):
            for number in range(3):
                content = BytesIO()
                picture(seed, noise=4.0 * number).save(content, format="PNG")
                archive.writestr(f"x/A/character{seed}/{number}.png", content.getvalue())
    with zipfile.ZipFile(tmp_path / "omniglot" / "all_runs.zip", "w") as archive:
        lines = []
        for seed in range(4):
            for kind, noise in (("training", 0.0), ("test", 9.0)):
                content = BytesIO()
                picture(seed, noise=noise).save(content, format="PNG")
                archive.writestr(f"all_runs/run01/{kind}/{seed}.png", content.getvalue())
            lines.append(f"run01/test/{seed}.png run01/training/{seed if seed else 1}.png")
        archive.writestr("all_runs/run01/class_labels.txt", "\n".join(lines) + "\n")
    pictures = protocols.Pictures(toy)
    grocery = protocols.SUITES["grocery"](pictures, tmp_path, 2)
    assert grocery["grocery-iconic top-1"] == [100.0]
    assert len(grocery["grocery-unseen natural 5-shot"]) == 2
    birds = protocols.SUITES["cub"](pictures, tmp_path, 2)
    assert birds["cub-unseen R@1"] == [100.0]
    assert birds["cub-unseen identified"] == [100.0]
    letters = protocols.SUITES["omniglot"](pictures, tmp_path, 1)
    assert letters["omniglot-unseen R@1"] == [100.0]
    assert letters["omniglot-400 error"] == [25.0]  # one of four is said to be another
    with pytest.raises(UsageError, match="name the folder"):
        protocols.grocery_split(tmp_path / "nowhere", "train")


def test_names_are_compared_as_they_are_enrolled_and_distractors_are_strangers(
    tmp_path: Path, toy: Encoder
) -> None:
    for number, name in enumerate(("Cafe\u0301", " padded", "plain")):
        place = tmp_path / "photos" / name
        place.mkdir(parents=True)
        picture(number).save(place / "0.png")
    picture(9).save(tmp_path / "poster.png")
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([tmp_path / "photos"])
        gallery.enroll([tmp_path / "poster.png"], distractor=True)
        found = evaluate(gallery, [tmp_path / "photos", tmp_path / "poster.png"])
    assert (found.figures["strangers"], found.figures["TPIR"], found.figures["FPIR"]) == (1, 1, 0)
    assert found.mistakes == ()
    # To itself, a distractor is no impostor, though it never gets its name.
    assert (found.figures["AUC"], found.figures["EER"]) == (1, 0)
    assert max(found.impostor) < 0.9


def test_a_label_is_near_to_names_with_other_folders_case_signs_or_spelling() -> None:
    enrolled = ["Packages/Milk/Oatly", "Fruit/Red Apple", "pear", "Tea/Green", "Coffee/Green"]
    labels = [
        *["Milk/Oatly"] * 3,  # a folder above is missing
        *["Shop/pear"] * 2,  # a folder above is too many
        *["fruit/red_apple"],  # case, and the sign between words
        *["Tea/Gren"] * 4,  # a letter
        *["Green"] * 2,  # stands for either
        *["Walrus"] * 9,
        *["pear"] * 5,
    ]
    found = [(one.label, one.pictures, one.near) for one in unmatched_labels(labels, enrolled)]
    assert found == [
        ("Tea/Gren", 4, ("Tea/Green",)),
        ("Milk/Oatly", 3, ("Packages/Milk/Oatly",)),
        ("Green", 2, ("Coffee/Green", "Tea/Green")),
        ("Shop/pear", 2, ("pear",)),
        ("fruit/red_apple", 1, ("Fruit/Red Apple",)),
        ("Walrus", 9, ()),
    ]
    assert unmatched_labels(["pear"], enrolled) == ()
    lines = unmatched_lines(unmatched_labels(labels, enrolled))
    assert lines[0] == "6 labels are not enrolled, so their 21 pictures count as strangers:"
    assert lines[2] == "Milk/Oatly, 3 pictures (near: Packages/Milk/Oatly)"
    (heading, line) = unmatched_lines(unmatched_labels(["z"], enrolled))
    assert heading == "1 label is not enrolled, so its 1 picture counts as a stranger:"
    assert line == "z, 1 picture"


def test_many_labels_are_compared_with_many_names_in_little_time() -> None:
    names = [f"shelf {n % 97}/thing {n}" for n in range(20_000)]
    labels = [f"thing {n}" for n in range(0, 20_000, 7)] + [f"walrus {n}" for n in range(3000)]
    begun = time.process_time()
    found = unmatched_labels(labels, names)
    assert time.process_time() - begun < 10  # 120 million comparisons would take an hour
    near = {one.label: one.near for one in found}
    assert near["thing 700"] == ("shelf 21/thing 700",)
    lines = unmatched_lines(found)
    assert len(lines) == 14  # a heading, twelve labels, and how many more
    assert lines[-1] == "and 5846 more labels, 2846 near to a name that is; --json lists all"


def test_probes_whose_labels_are_not_enrolled_are_named_first(
    gallery: Gallery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        (tmp_path / "probes" / "shop" / "a").mkdir(parents=True, exist_ok=True)
        picture(0, noise=number + 1).save(tmp_path / "probes" / "shop" / "a" / f"{number}.png")
    found = evaluate(gallery, [tmp_path / "probes"])
    (one,) = found.unmatched
    assert (one.label, one.pictures, one.near) == ("shop/a", 3, ("a",))
    assert found.figures["FPIR"] == 1  # all are named, and none is a mistake
    assert "their labels are near to names that are enrolled, as 'shop/a' to 'a'" in caplog.text
    write_report(tmp_path / "report.html", "probes", found)
    page = (tmp_path / "report.html").read_text()
    assert page.index("shop/a, 3 pictures (near: a)") < page.index("<table>")
    assert evaluate(gallery, [tmp_path / "probes" / "shop"]).unmatched == ()


def test_strangers_are_counted_by_what_they_show(tmp_path: Path, toy: Encoder) -> None:
    """Eleven of thirty pictures of one lemon are named, and none of five other things."""
    random = np.random.default_rng(0)
    enrolled = np.eye(49, dtype=np.float32)[:8]
    away = np.eye(49, dtype=np.float32)[20:25]
    lemon = np.concatenate([enrolled[:1].repeat(9, 0), enrolled[1:2].repeat(2, 0)])
    lemon = np.concatenate([lemon, away[:1].repeat(19, 0)])
    probes = np.concatenate([lemon, away.repeat(30, 0)]) + random.normal(0, 0.001, (180, 49))
    probes = (probes / np.linalg.norm(probes, axis=1, keepdims=True)).astype(np.float32)
    truth = ["lemon"] * 30 + [f"other{n // 30}" for n in range(150)]
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(enrolled, ["satsuma", "orange", *"abcdef"])
        found = evaluate_embeddings(gallery, probes, truth)
        alone = evaluate_embeddings(gallery, probes[:30], truth[:30])
        each = evaluate_embeddings(gallery, probes[::30], list("uvwxyz"))
        known = evaluate_embeddings(gallery, enrolled[:1], ["satsuma"])
    first, *others = found.per_stranger
    assert (first.name, first.probes, first.named) == ("lemon", 30, 11)
    assert first.called == (("satsuma", 9), ("orange", 2))
    assert first.worst is not None
    assert first.worst.named in ("satsuma", "orange")
    assert [(one.named, one.worst) for one in others] == [(0, None)] * 5
    rate, one = found.stranger_rate, alone.stranger_rate
    assert rate is not None
    assert one is not None
    assert (rate.probes, rate.named, rate.things, rate.named_things) == (180, 11, 6, 1)
    assert rate.lower < 11 / 180 < 0.25 < rate.upper  # of 180 strangers it would be up to 0.1
    assert (one.lower < 0.05, one.upper > 0.9) == (True, True)  # one thing tells next to nothing
    told, few = stranger_lines(rate)
    assert told.startswith(
        "11 of 180 pictures of strangers got a name: all of 1 thing out of 6. Of"
    )
    assert few == "6 different strangers are few to tell a rate: show 30 or so, a folder each"
    asked = stranger_lines(replace(rate, asked=0.05))[1]
    assert asked.startswith("6 different strangers are few to see a rate of 5%: show 60 or so")
    assert len(stranger_lines(replace(rate, asked=0.3, things=10))) == 1
    assert stranger_lines(each.stranger_rate)[0].startswith("1 of 6 strangers got a name. Of")
    assert stranger_lines(known.stranger_rate) == []
    write_report(tmp_path / "report.html", "fruit", found)
    page = (tmp_path / "report.html").read_text()
    assert told in page
    assert "<td>lemon</td><td>11 of 30</td><td>satsuma 9, orange 2</td>" in page
    assert "5 other strangers never got a name" in page


def test_copies_of_enrolled_pictures_are_counted_and_said(
    tmp_path: Path, toy: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        folder = tmp_path / "probes" / f"id{number}"
        folder.mkdir(parents=True)
        picture(number).save(folder / "same.png")
        picture(number, noise=4).save(folder / "other.png")
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        for number in range(3):
            shutil.copy(
                tmp_path / "probes" / f"id{number}" / "same.png", tmp_path / f"{number}.png"
            )
            gallery.enroll([tmp_path / f"{number}.png"], label=f"id{number}")
        found = evaluate(gallery, [tmp_path / "probes"])
    assert found.enrolled_probes == 3
    assert "3 of 6 probes are enrolled themselves" in caplog.text
    write_report(tmp_path / "report.html", "copies", found)
    assert "3 of 6 probes are enrolled themselves" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("strangers", "given"), [(29, ()), (30, (0.1,)), (300, (0.1, 0.01))])
def test_rates_that_too_few_strangers_tell_are_left_out_and_said_so(
    tmp_path: Path, toy: Encoder, strangers: int, given: tuple[float, ...]
) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(12 + strangers, 49)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [f"id{n}" for n in range(6)]
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors[:6], names)
        truth = [*names, *["nobody"] * strangers]
        found = evaluate_embeddings(gallery, vectors[6 : 12 + strangers], truth, fpir=0.02)
    told = {rate for rate in (0.1, 0.01, 0.001) if found.figures[f"TPIR at FPIR {rate:g}"] >= 0}
    assert told == set(given)
    left = {one.figure: one for one in found.left_out if one.of == "strangers"}
    assert set(left) == {
        f"TPIR at FPIR {rate:g}" for rate in (0.1, 0.02, 0.01, 0.001) if strangers < 3 / rate
    }
    small = left["TPIR at FPIR 0.001"]
    assert (small.counted, small.needed) == (strangers, 3000)
    (curve,) = found.growth
    assert np.isnan(curve.tpir).all() == (strangers < 150)
    assert np.isfinite(curve.recall).all()
    pairs = {one.figure: one for one in found.left_out if one.of != "strangers"}
    counted = 6 * (6 + strangers) - 6
    assert (pairs["FNMR at FMR 0.001"].counted, pairs["FNMR at FMR 0.001"].needed) == (
        counted,
        3000,
    )
    assert math.isnan(found.figures["FNMR at FMR 0.001"])
    assert ("FNMR at FMR 0.01" in pairs) == (counted < 300)
    (line,) = [line for line in left_out_lines(found.left_out) if "FPIR 0.001" in line]
    assert line == (
        f"TPIR (rank 1) at FPIR 0.001 is left out: {strangers} pictures of strangers cannot show"
        " such a rate, 3,000 could (rule of three)"
    )
    write_report(tmp_path / "report.html", "few", found)
    assert line in (tmp_path / "report.html").read_text()


def crowd(random: np.random.Generator) -> tuple[FloatArray, list[str], FloatArray]:
    """Items with their identities, and probes of ``own``: that has the best prototype for them, but
    none of the 100 nearest items.
    """

    def unit(vectors: DoubleArray) -> DoubleArray:
        scaled: DoubleArray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
        return scaled

    probe = np.eye(49)[0]
    aside = unit(random.normal(size=(5 + 12, 48)))
    aside = np.pad(aside, ((0, 0), (1, 0)))  # at right angles to the probe
    others = unit(0.64 * probe + 0.77 * aside[:5]).repeat(20, axis=0)
    items = np.concatenate([others, unit(0.6 * probe + 0.8 * aside[5:])])
    items = unit(items + 0.004 * random.normal(size=items.shape))
    names = [f"other{n // 20}" for n in range(100)] + ["own"] * 12
    probes = unit(probe + 0.005 * random.normal(size=(9, 49)))
    return items.astype(np.float32), names, probes.astype(np.float32)


@pytest.mark.parametrize("calibrate", [False, True])
def test_benchmark_names_whom_a_query_names_in_a_crowded_gallery(
    tmp_path: Path, toy: Encoder, calibrate: bool, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(0)
    items, names, probes = crowd(random)
    spread = random.normal(size=(20, 49)).repeat(5, axis=0)
    spread += 1.5 * random.normal(size=spread.shape)
    spread /= np.linalg.norm(spread, axis=1, keepdims=True)
    first = np.arange(100) % 5 < 3
    labels = [f"id{n // 5}" for n in range(100)]
    asked = np.concatenate([probes, spread[~first], spread[-5:]]).astype(np.float32)
    truth = [*["own"] * 9, *(labels[n] for n in np.flatnonzero(~first)), *["nobody"] * 5]
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(items, names)
        gallery.enroll_embeddings(
            spread[first].astype(np.float32), [labels[n] for n in np.flatnonzero(first)]
        )
        if calibrate:
            gallery.calibrate(0.1)
        places = [str(n) for n in range(len(asked))]
        found = evaluate_embeddings(gallery, asked, truth, paths=places)
        queried = gallery.identify_embeddings(asked, k=5)
        identities, scores = gallery.scores(asked)
    best = [answer.matches[0].identity for answer in queried]
    assert best == [identities[column] for column in scores.argmax(axis=1)]
    assert best[:9] == ["own"] * 9
    wrong = {int(one.path): one.named for one in found.mistakes}
    own = [name if name in identities else None for name in truth]
    named = [wrong.get(row, own[row]) for row in range(len(asked))]
    assert named == [answer.identity for answer in queried]
    assert 0 < len(wrong) < 50  # not cut off
    assert found.figures["recall@1"] == np.mean(
        [a == b for a, b in zip(best, own, strict=True) if b]
    )
    assert "a query does not find" not in caplog.text


def test_where_a_query_does_not_compare_all_identities_it_is_said(
    gallery: Gallery, caplog: pytest.LogCaptureFixture
) -> None:
    probes = gallery.encoder.embed([picture(0, noise=5), picture(1, noise=5)])
    answers = gallery.identify_embeddings(probes, k=3)
    # As if the first one's best identity had been missed.
    missed = replace(answers[0], matches=answers[0].matches[1:], identity=None)
    evaluate_embeddings(gallery, probes, ["a", "b"], answers=[missed, answers[1]])
    assert "of 1 of 2 probes a query does not find the best identity" in caplog.text


def test_a_group_of_one_picture_has_one_image(tmp_path: Path) -> None:
    groups = [UnknownGroup(1, (1,), ("a.png",), None), UnknownGroup(2, (2, 3), ("b", "c"), None)]
    write_groups(tmp_path / "page.html", "groups", groups)
    page = (tmp_path / "page.html").read_text()
    assert "Group 1: 1 image</h2>" in page
    assert "Group 2: 2 images</h2>" in page
