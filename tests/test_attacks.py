"""Changed pictures: what changes and attacks make, and what is measured of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from PIL import Image
from shell import Shell
from test_glyph import CHARACTERS, drawn

from siamese_search import Encoder, Gallery
from siamese_search.arrays import DoubleArray, FloatArray, PixelArray
from siamese_search.decision.metric import Metric
from siamese_search.errors import EncoderError, RuntimeUnavailable, UsageError
from siamese_search.evaluation import attacks, changes
from siamese_search.evaluation.agreement import PLAIN, VIEWS
from siamese_search.evaluation.campaign import Campaign
from siamese_search.evaluation.robustness import Plan, Share
from siamese_search.evaluation.robustness_report import write_robustness
from siamese_search.evaluation.robustness_words import outcome_rows, robustness_lines
from siamese_search.gallery.slopes import EvidenceSlopes, _before
from siamese_search.records import ImageFile

Pictures = Callable[..., Path]


def some_pixels(channels: int = 3, count: int = 3) -> PixelArray:
    shown = np.stack([np.asarray(picture(seed)) for seed in range(count)])
    return shown[..., :channels].copy()


# What changes make


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("change", changes.NATURAL, ids=lambda one: one.name)
def test_a_stronger_change_changes_more_and_is_drawn_by_its_seed(
    change: changes.Change, channels: int
) -> None:
    pixels = some_pixels(channels)
    made = [
        change.make(pixels, strength, np.random.default_rng(1))
        for strength in (change.strengths[0], change.strengths[-1])
    ]
    assert all(one.shape == pixels.shape and one.dtype == np.uint8 for one in made)
    weak, strong = (np.abs(one.astype(float) - pixels).mean() for one in made)
    assert 0 < weak < strong
    again = change.make(pixels, change.strengths[0], np.random.default_rng(1))
    assert (again == made[0]).all()


def test_a_blur_keeps_what_is_even_and_its_transpose_is_itself_inside() -> None:
    even = np.full((1, 12, 12, 3), 77, np.float32)
    assert changes.blurred(even, 1.5) == pytest.approx(even)
    dot = np.zeros((1, 21, 21, 1), np.float32)
    dot[0, 10, 10] = 1
    assert changes.blurred(dot, 1.0)[0, 10, 12] == changes.blurred(dot, 1.0)[0, 10, 8] > 0


def test_corners_of_a_picture_seen_from_aside_are_where_they_were_put() -> None:
    to = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], float)
    back = np.array([[1, 2], [9, 0], [11, 12], [-1, 9]], float)
    a, b, c, d, e, f, g, h = changes._coefficients(to, back)
    for (x, y), (u, v) in zip(to, back, strict=True):
        below = g * x + h * y + 1
        assert ((a * x + b * y + c) / below, (d * x + e * y + f) / below) == pytest.approx((u, v))


# Attacks


class Flat:
    """Embeds a picture as all its values, so slopes by pixels are those by embeddings."""

    def slopes(
        self, pixels: FloatArray, by_embedding: Callable[[FloatArray], FloatArray]
    ) -> FloatArray:
        return by_embedding(pixels.reshape(len(pixels), -1)).reshape(pixels.shape)


def test_projected_gradient_goes_to_the_corner_of_what_is_allowed() -> None:
    pixels = some_pixels(count=10).clip(10, 240)
    wanted = np.random.default_rng(3).choice([-1.0, 1.0], pixels.shape).astype(np.float32)
    flat = wanted.reshape(len(pixels), -1)

    def product(part: slice, seen: FloatArray) -> attacks.Valued:
        return (seen * flat[part]).sum(axis=1), flat[part]

    aim = attacks.Aim(product, (PLAIN,))
    bounds = attacks.within(pixels, 4)
    found = np.concatenate(list(attacks.attacked(Flat(), bounds, pixels, aim, 10)))
    assert (found == pixels + 4 * wanted).all()


def test_a_patch_changes_one_square_alone() -> None:
    pixels = some_pixels()

    def brightness(part: slice, seen: FloatArray) -> attacks.Valued:
        del part
        return seen.sum(axis=1), np.ones_like(seen)

    bounds = attacks.patch(pixels, 0.1, np.random.default_rng(0))
    aim = attacks.Aim(brightness, (PLAIN, *VIEWS))
    (found,) = attacks.attacked(Flat(), bounds, pixels, aim, 5)
    side = round((0.1 * 32 * 32) ** 0.5)
    for before, after in zip(pixels, found, strict=True):
        rows, columns = np.nonzero((before != after).any(axis=-1))
        assert np.ptp(rows) < side
        assert np.ptp(columns) < side
    assert (bounds.high - bounds.low > 0).any(axis=-1).sum(axis=(1, 2)).tolist() == [side**2] * 3


# Slopes


def differences(value: Callable[[DoubleArray], float], at: DoubleArray) -> DoubleArray:
    """Slopes by trying."""
    steps = 1e-3 * np.eye(len(at))
    return np.array([(value(at + step) - value(at - step)) / 2e-3 for step in steps])


def test_slopes_before_a_metric_are_those_of_its_projection() -> None:
    random = np.random.default_rng(0)
    mean, projection = random.normal(size=6) / 5, random.normal(size=(6, 4))
    metric = Metric(mean.astype(np.float32), projection.astype(np.float32), "within", 0.5)
    towards = random.normal(size=4)
    at = random.normal(size=6)
    at /= np.linalg.norm(at)

    def score(given: DoubleArray) -> float:
        moved = (given - metric.mean) @ metric.projection.astype(float)
        return float(moved @ towards / np.linalg.norm(moved))

    found = _before(metric, at[None].astype(np.float32), towards[None].astype(np.float32))
    assert found[0] == pytest.approx(differences(score, at), abs=1e-3)


def test_evidence_is_the_score_less_half_of_the_best_others(
    toy: Encoder, pictures: Pictures, tmp_path: Path
) -> None:
    folder = pictures({"cat": 3, "dog": 1, "owl": 2})
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll(folder)
        probe = toy.embed([picture(99)])
        names, scores = gallery.scores(probe)
        values, slopes = EvidenceSlopes(gallery).of(probe, ["dog"])
        others = [score for name, score in zip(names, scores[0], strict=True) if name != "dog"]
        expected = scores[0][names.index("dog")] - max(0, *others) / 2
        assert values[0] == pytest.approx(float(expected), abs=1e-5)
        moved = probe + 0.05 * slopes
        moved /= np.linalg.norm(moved)
        assert EvidenceSlopes(gallery).of(moved.astype(np.float32), ["dog"])[0] > values


def test_the_twin_gives_slopes_by_pixels() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("timm")
    encoder = Encoder.open("glyph", "cpu")
    twin = encoder.twin()
    pixels = encoder.decode(png(drawn(CHARACTERS["L"])))[None].astype(np.float32)
    towards = encoder.embed([drawn(CHARACTERS["Z"])])

    slopes = twin.slopes(pixels, lambda seen: np.broadcast_to(towards, seen.shape).copy())
    assert slopes.shape == pixels.shape
    stepped = (pixels + 2 * np.sign(slopes)).clip(0, 255).round().astype(np.uint8)
    before, after = (twin.embed(one) @ towards[0] for one in (pixels.astype(np.uint8), stepped))
    assert after > before + 0.01


def png(image: Image.Image) -> bytes:
    from io import BytesIO

    content = BytesIO()
    image.save(content, "png")
    return content.getvalue()


# What is measured


def test_shares_are_bounded() -> None:
    assert Share(0, 30).lower == 0
    assert Share(0, 30).upper == pytest.approx(1 - 0.05 ** (1 / 30), abs=2e-3)
    assert (Share(0, 0).lower, Share(0, 0).upper) == (0, 1)


@pytest.fixture
def glyphs(tmp_path: Path) -> tuple[Path, list[ImageFile]]:
    """A gallery of three characters, and files of these and of a stranger."""
    files = []
    for name, strokes in CHARACTERS.items():
        for number, (shift, width) in enumerate(((0, 3), (3, 3), (-3, 2))):
            place = tmp_path / "drawn" / name / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            drawn(strokes, shift, width).save(place)
            files.append(ImageFile(str(place), name))
    with Gallery.open(tmp_path / "gallery", Encoder.open("glyph", "cpu")) as gallery:
        for file in files:
            if file.identity != "N" and file.path.endswith("0.png"):
                gallery.enroll(file.path, file.identity)
    return tmp_path / "gallery", [file for file in files if not file.path.endswith("0.png")]


def test_attacks_by_gradient_change_answers(
    glyphs: tuple[Path, list[ImageFile]],
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("timm")
    folder, files = glyphs
    with Gallery.open(folder) as gallery:
        campaign = Campaign(gallery, files, Plan("gradient", limit=2, steps=3))
        assert 0 < campaign.seconds() < 600
        found = campaign.measured()
    assert (found.enrolled, found.strangers) == (6, 2)
    assert found.outcomes[0].change == "unattacked"
    evading = [one for one in found.outcomes if one.goal == "evade"]
    hits = [one.evaded.hits for one in evading if one.evaded is not None]
    assert [one.strength for one in evading] == [1, 2, 4, 8]
    assert hits == sorted(hits)
    asked = [one.impersonated.of for one in found.outcomes if one.impersonated is not None]
    assert asked == [2] * 4


def test_the_only_identity_can_be_evaded_and_nobody_else_be_impersonated(
    glyphs: tuple[Path, list[ImageFile]],
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("timm")
    folder, files = glyphs
    with Gallery.open(folder) as gallery:
        for name in ("Z", "A"):
            gallery.remove(name)
        own = [file for file in files if file.identity == "L"]
        found = Campaign(gallery, own, Plan("gradient", limit=1, steps=1)).measured()
    assert {one.goal for one in found.outcomes[1:]} == {"evade"}


def test_views_are_attacked_with_and_without_knowing_of_them(
    glyphs: tuple[Path, list[ImageFile]],
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("timm")
    folder, files = glyphs
    with Gallery.open(folder) as gallery:
        found = Campaign(gallery, files, Plan("views", limit=1, steps=1)).measured()
    assert [(one.change, one.strength) for one in found.outcomes[1:]] == [
        ("full gradient", 2), ("full gradient", 8),
        ("gradient through views", 2), ("gradient through views", 8),
    ]  # fmt: skip


def test_the_command_measures_natural_changes_without_torch(
    toy_folder: Path, pictures: Pictures, tmp_path: Path
) -> None:
    folder = pictures({"cat": 3, "dog": 3, "owl": 3, "elk": 3})
    code = f"""
import sys
for name in ("torch", "timm", "torchvision", "safetensors"):
    sys.modules[name] = None
sys.argv = ["siasearch", "benchmark", "--split", {str(folder)!r}, "--encoder", {str(toy_folder)!r},
            "--limit", "3", "--attack", *sys.argv[1:]]
from siamese_search.__main__ import main
main()
"""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
        )

    done = run("natural", "--json", "--report", str(tmp_path / "report.html"))
    assert done.returncode == 0, done.stderr
    assert "this takes about" in done.stderr
    found = json.loads(done.stdout)
    assert len(found["outcomes"]) == 1 + sum(len(one.strengths) for one in changes.NATURAL)
    assert "print and scan" in (tmp_path / "report.html").read_text(encoding="utf-8")
    refused = run("gradient")
    assert refused.returncode != 0
    assert "pip install 'siamese-search[train]'" in refused.stderr
    assert "`--attack natural` needs none" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_what_was_measured_is_said_in_words_and_on_a_page(
    toy: Encoder, pictures: Pictures, tmp_path: Path
) -> None:
    folder = pictures({"cat": 1, "dog": 1, "owl": 1, "elk": 1})
    files = [ImageFile(str(path), path.parent.name) for path in sorted(folder.rglob("*.png"))]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"none")
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll(folder)
        asked = [*files, ImageFile(str(broken), "cat")]
        found = Campaign(gallery, asked, Plan("natural")).measured()
    assert [one.path for one in found.rejected] == [str(broken)]
    header, first, *rows = outcome_rows(found)
    assert header.evaded == "no longer named rightly"
    assert first.misnamed.startswith("0 of 4 (0-")
    assert {row.change for row in rows} == {one.name for one in changes.NATURAL}
    assert any("4 probes of enrolled identities" in line for line in robustness_lines(found))
    write_robustness(tmp_path / "report.html", "how <it> holds", found)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "how &lt;it&gt; holds" in page
    assert "broken.png" in page


def test_what_cannot_be_measured_is_an_error(
    toy: Encoder, pictures: Pictures, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="choose one of natural"):
        Plan("magic")
    with pytest.raises(UsageError, match="limit"):
        Plan(limit=0)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        with pytest.raises(UsageError, match="nothing is enrolled"):
            Campaign(gallery, [], Plan("natural"))
        gallery.enroll(pictures({"cat": 1}))
        with pytest.raises(UsageError, match="could be read"):
            Campaign(gallery, [ImageFile("gone.png", "cat")], Plan("natural"))
        with pytest.raises((EncoderError, RuntimeUnavailable)):  # a toy has no network
            Campaign(gallery, [], Plan("gradient"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x", "--limit", "3"), "--limit does nothing without --attack"),
        (("x", "--attack", "natural", "--seeds", "2"), "--seeds does nothing with --attack"),
        (("x", "--attack", "natural", "--fpir", "1%"), "--fpir does nothing with --attack"),
        (("--split", "x", "--attack", "natural", "--rule", "best"), "--rule does nothing"),
        (("--suite", "cub", "--attack", "natural"), "--suite does nothing with --attack"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    arguments: tuple[str, ...], said: str, tmp_path: Path, toy_folder: Path
) -> None:
    shell = Shell(tmp_path, toy_folder)
    assert said in shell("benchmark", *arguments, code=2).stderr


def test_a_gallery_is_attacked_by_labelled_probes(
    tmp_path: Path, toy_folder: Path, pictures: Pictures
) -> None:
    shell = Shell(tmp_path, toy_folder)
    enrolled = pictures({"cat": 1, "dog": 1, "owl": 1})
    shell("add", enrolled, "--encoder", toy_folder)
    probes = pictures({"cat": 1, "stranger": 1}, folder="probes")
    (probes / "broken.png").write_bytes(b"none")
    ran = shell("benchmark", probes, "--attack", "natural", "--limit", "2", code=1)
    assert "print and scan" in ran.stdout
    assert "1 probe of strangers" in ran.stdout
    assert "rejected: " in ran.stderr
    assert "unknown attack 'x'" in shell("benchmark", probes, "--attack", "x", code=2).stderr
