from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from siamese_search import Encoder, Gallery
from siamese_search.errors import ImageError, StorageError, UsageError
from siamese_search.evaluation import explain, protocols
from siamese_search.evaluation.evaluate import evaluate, evaluate_splits
from siamese_search.evaluation.report import shown, write_report
from siamese_search.records import ImageFile

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
        picture(seed, noise=4).save(tmp_path / "probes" / name / f"{seed}.png")
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
    made, rejected = evaluate_splits(toy, files, shots=2, seeds=3)
    assert ["the same picture as" in one.reason for one in rejected] == [True]
    again, _ = evaluate_splits(toy, files, shots=2, seeds=3)
    assert [one.figures for one in made] == [one.figures for one in again]
    assert len({tuple(one.per_identity) for one in made}) > 1
    for one in made:
        assert one.figures["identities"] == 6
        assert one.figures["items"] == 12
        assert one.figures["strangers"] == 6 * 4 + 1
        assert one.figures["probes"] == 12 * 4 + 1 - 12
        assert one.figures["recall@1"] == 1
    with pytest.raises(UsageError, match="0 classes have more than 4 pictures"):
        evaluate_splits(toy, files, shots=4)
    with pytest.raises(UsageError, match="a share of the classes"):
        evaluate_splits(toy, files, strangers=1.0)
    everybody, _ = evaluate_splits(toy, files, strangers=0.0, seeds=1)
    assert everybody[0].figures["strangers"] == 1
    assert np.isfinite(everybody[0].figures["EER"])


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
        assert drawn.size == (320 + 8 + 320, 320)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"text\.png"):
        explain.explain(toy, tmp_path / "a.png", tmp_path / "text.png")
    with pytest.raises(StorageError):
        explain.draw(found, tmp_path / "nowhere" / "out.png")


def test_the_published_protocols_run_on_a_tiny_copy_of_their_layout(
    tmp_path: Path, toy: Encoder
) -> None:
    rows: dict[str, list[str]] = {"train": [], "test": []}
    classes = ["Class Name,Class ID,Coarse Name,Coarse ID,Iconic,Description"]
    for fine in range(12):
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
