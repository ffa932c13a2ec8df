"""The report of an evaluation: figures with their meaning, plots of what decided, mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from test_maps import Tags

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray
from siamese_search.evaluation import plots, report_plots
from siamese_search.evaluation.evaluate import evaluate, evaluate_embeddings
from siamese_search.evaluation.glossary import meaning
from siamese_search.evaluation.report import write_report
from siamese_search.evaluation.results import Evaluation
from siamese_search.records import ImageFile

Pictures = Callable[..., Path]
HOSTILE = "<img src=x onerror=alert(1)>&amp;"


def noisy(rows: int, seed: int) -> FloatArray:
    """Unit vectors (30 * rows, 49) around 30 centres that are always the same."""
    vectors = np.random.default_rng(0).normal(size=(30, 49)).repeat(rows, axis=0)
    vectors += 1.1 * np.random.default_rng(seed).normal(size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


@pytest.fixture
def evaluations(tmp_path: Path, toy: Encoder) -> Iterator[Callable[[bool], Evaluation]]:
    """Of a gallery of twenty identities, asked about thirty, before it is calibrated and after."""
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        names = [f"id{n // 4}" for n in range(80)]
        gallery.enroll_embeddings(noisy(4, 1)[:80], names)

        def made(calibrated: bool) -> Evaluation:
            if calibrated:
                gallery.calibrate(0.1, metric="none")
            return evaluate_embeddings(gallery, noisy(5, 2), [f"id{n // 5}" for n in range(150)])

        yield made


@pytest.mark.parametrize("calibrated", [False, True])
def test_what_decided_shows_the_rates_at_its_threshold(
    evaluations: Callable[[bool], Evaluation], calibrated: bool
) -> None:
    found = evaluations(calibrated)
    decided = found.decided
    assert decided is not None
    assert decided.by == ("evidence" if calibrated else "score")
    known = len(decided.right) + len(decided.wrong)
    assert (known, len(decided.strangers)) == (100, 50)
    named = sum(value >= decided.threshold for value in decided.right) / known
    assert named == pytest.approx(found.figures["TPIR"])
    passed = sum(value >= decided.threshold for value in decided.strangers) / 50
    assert passed == pytest.approx(found.figures["FPIR"])
    assert not calibrated or 0 < found.figures["TPIR"] < 1
    with plots.style():
        histogram, cmc, det = report_plots.drawn(found)
    (axes,) = histogram.figure.axes
    assert set(axes.lines[0].get_xdata()) == {decided.threshold}  # type: ignore[arg-type]
    words = [text.get_text() for text in axes.get_legend().get_texts()]  # type: ignore[union-attr]
    assert f"threshold {decided.threshold:.3f}" in words
    assert "strangers (50 probes)" in words
    assert cmc.caption != det.caption


def test_every_figure_has_a_meaning_and_nothing_is_empty(
    evaluations: Callable[[bool], Evaluation], tmp_path: Path
) -> None:
    found = evaluations(False)
    for name in (*found.figures, "probes per second"):
        assert meaning(name), name
    assert "a share of 0.01 of the strangers" in meaning("TPIR at FPIR 0.01")
    assert "among the 5 best" in meaning("recall@5")
    write_report(tmp_path / "report.html", "title", found)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert meaning("EER") in page
    assert "<td></td>" not in page
    for table in page.split("<table>")[1:]:
        assert table.split("</table>")[0].count("<tr>") >= 2
    nothing = replace(
        found, growth=(), mistakes=(), confusions=(), per_identity=(), cmc=(), det=(), decided=None
    )
    write_report(tmp_path / "report.html", "title", nothing)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<table>") == 1
    assert "data:image/png" not in page
    assert "<h2>Mistakes</h2><p>None.</p>" in page
    for absent in ("Taken for each other", "Identities", "As more is enrolled", "Not read"):
        assert absent not in page


def test_only_strangers_or_none_leave_out_what_cannot_be_told(tmp_path: Path, toy: Encoder) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(noisy(1, 1)[:6], [f"id{n}" for n in range(6)])
        for truth, figures in ((["nobody"] * 8, 1), ([f"id{n % 6}" for n in range(8)], 4)):
            found = evaluate_embeddings(gallery, noisy(1, 2)[:8], truth)
            write_report(tmp_path / "report.html", "title", found)
            page = (tmp_path / "report.html").read_text(encoding="utf-8")
            assert page.count("data:image/png") == figures
            assert ("No probe is a stranger" in page) == (truth[0] != "nobody")
            assert "<td>-</td>" not in page


def test_mistakes_show_both_pictures_with_their_names(
    tmp_path: Path, toy: Encoder, pictures: Pictures
) -> None:
    for name, image in (("of a", picture(0, 3)), (HOSTILE, picture(1, 3)), ("seen", picture(80))):
        image.save(tmp_path / f"{name}.png")
    truths = {"of a": "nobody", HOSTILE: HOSTILE, "seen": "c"}
    probes = [ImageFile(str(tmp_path / f"{name}.png"), truth) for name, truth in truths.items()]
    folder = pictures({"a": 1, "b": 1, "c": 1})
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder])
        gallery.enroll_embeddings(noisy(1, 1)[:1], [HOSTILE])
        found = evaluate(gallery, probes)
    (folder / "b" / "0.png").unlink()
    mistakes = {one.identity: one for one in found.mistakes}
    assert (mistakes[None].named, mistakes[HOSTILE].named, mistakes["c"].named) == ("a", "b", None)
    assert (mistakes[None].best, mistakes[HOSTILE].best) == ("a", "b")

    write_report(tmp_path / "report.html", HOSTILE, found)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    tags = Tags(page)
    assert not any("onerror" in one for _, one in tags.found)
    files = [one["title"] or "" for tag, one in tags.found if tag == "figure" and "title" in one]
    assert str(tmp_path / f"{HOSTILE}.png") in files
    assert str(folder / "a" / "0.png") in files
    kinds = ("Strangers that got a name</h2>", "Got a wrong name: 1", "Enrolled, but unknown: 1")
    for said in (*kinds, "of a.png", "seen.png", "no picture"):
        assert said in page
    assert page.index(kinds[0]) < page.index(kinds[1]) < page.index(kinds[2])
