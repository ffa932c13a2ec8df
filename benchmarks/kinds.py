"""What does a gallery gain where probes are of another kind than what is enrolled? Does it notice?

    python benchmarks/kinds.py [--encoder general-2] [--repeats 10] [--split test]

In every draw, 41 of Grocery's 81 classes are enrolled, and ``Gallery.calibrate`` is shown up to ten
pictures of each of 20 others as strangers. The photos of ``--split`` are probes: those of enrolled
classes, and as strangers those of the 20 classes that are left. The same gallery is calibrated with
plain cosines (``none``) and as it sees fit (``auto``). *Told*: the share of draws where each side
was compared about its own mean. TPIR is the share of known probes that get their right name, FPIR
that of strangers that get a name, at 1 and 5 % asked; draws that refuse 1 % are left out there, and
counted. *At exactly*: TPIR by the threshold that just this share of these strangers reaches.

- catalogue, shop asked: what it is for;
- shop (five photos each), catalogue asked: here the pictures of each teach a metric, too;
- shop, shop asked: one kind, so nothing may change;
- catalogue, birds as strangers: shop photos are asked, but strangers show quite other things, so
  nothing may change.

The limits in ``decision/kinds.py`` were chosen on train and val, and on other sets: test is for
reporting.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import Bars, cub_classes, grocery_iconic, grocery_split, parser, table, write_results

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray
from siamese_search.decision.evidence import evidence
from siamese_search.errors import UsageError
from siamese_search.evaluation import metrics
from siamese_search.evaluation.protocols import Photo

RATES = (0.01, 0.05)
ENROLLED, STRANGERS, EACH = 41, 20, 10
Labels = npt.NDArray[np.str_]


class Pictures:
    """Photos, their classes and their embeddings."""

    def __init__(self, encoder: Encoder, photos: list[Photo]) -> None:
        self.photos = photos
        self.classes: Labels = np.array([photo.fine for photo in photos])
        self.vectors = encoder.embed([photo.path for photo in photos])

    def of(self, names: Labels, most: int, chance: np.random.Generator) -> npt.NDArray[np.int64]:
        """Positions of at most so many of each of these classes."""
        found = [chance.permutation(np.flatnonzero(self.classes == name))[:most] for name in names]
        return np.concatenate(found)


@dataclass(frozen=True)
class Setting:
    """What is enrolled, how many of each class; what strangers and probes are taken from."""

    enrolled: Pictures
    shots: int
    strangers: Pictures
    probes: Pictures


def measure(encoder: Encoder, setting: Setting, seed: int) -> dict[str, dict[str, Any]]:
    """One draw's figures, by metric."""
    chance = np.random.default_rng(seed)
    names = chance.permutation(np.unique(setting.enrolled.classes))
    known, shown = names[:ENROLLED], names[ENROLLED : ENROLLED + STRANGERS]
    asked = ~np.isin(setting.probes.classes, shown)
    probes, truth = setting.probes.vectors[asked], setting.probes.classes[asked]
    if not np.isin(shown, setting.strangers.classes).all():  # they show other things
        shown = chance.permutation(np.unique(setting.strangers.classes))[:STRANGERS]
    own = setting.enrolled.of(known, setting.shots, chance)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for place in setting.strangers.of(shown, EACH, chance):
            photo = setting.strangers.photos[place]
            here = Path(folder, "strangers", f"stranger {photo.fine}")
            here.mkdir(parents=True, exist_ok=True)
            (here / f"{place}{Path(photo.path).suffix}").symlink_to(Path(photo.path).resolve())
        with Gallery.open(Path(folder, "gallery"), encoder) as gallery:
            gallery.enroll_embeddings(
                setting.enrolled.vectors[own], setting.enrolled.classes[own].tolist()
            )
            for metric in ("none", "auto"):
                gallery.calibrate(0.05, strangers=Path(folder, "strangers"), metric=metric)
                figures[metric] = answered(gallery, probes, truth, np.isin(truth, known))
                said = gallery.info().metric or ""
                figures[metric]["told"] = float("own mean" in said)
    return figures


def answered(
    gallery: Gallery, probes: FloatArray, truth: Labels, known: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """What a calibrated gallery makes of probes."""
    answers = gallery.identify_embeddings(probes, k=2)  # at the rate it is calibrated for
    right = np.array([answer.matches[0].identity for answer in answers]) == truth
    first, second = (np.array([answer.matches[n].score for answer in answers]) for n in range(2))
    shown = evidence(first, second)
    figures: dict[str, Any] = {"top-1": float(right[known].mean())}
    for rate in RATES:
        figures[f"at exactly {rate:.0%}"] = float(
            metrics.tpir_at_fpir(shown, right, known, rate)[0]
        )
        try:
            decided = gallery.identify_embeddings(probes, k=1, fpir=rate)
        except UsageError:  # too few strangers for this rate
            continue
        named = np.array([answer.identity is not None for answer in decided])
        figures[f"TPIR {rate:.0%}"] = float((named & right)[known].mean())
        figures[f"FPIR {rate:.0%}"] = float(named[~known].mean())
    return figures


def main() -> None:
    arguments = parser(__doc__, repeats=10)
    arguments.set_defaults(encoder="general-2")
    arguments.add_argument("--split", choices=("val", "test"), default="test")
    options = arguments.parse_args()
    encoder = Encoder.open(options.encoder)
    birds = [bird[:EACH] for bird in cub_classes()[-100:]]
    icons, train, probes, others = (
        Pictures(encoder, photos)
        for photos in (
            grocery_iconic(),
            grocery_split("train"),
            grocery_split(options.split),
            [photo for bird in birds for photo in bird],
        )
    )
    others.classes = np.array([f"bird {name}" for name in others.classes])
    settings = {
        "catalogue, shop asked": Setting(icons, 1, train, probes),
        "shop (five photos each), catalogue asked": Setting(train, 5, icons, icons),
        "shop, shop asked": Setting(train, 1, train, probes),
        "catalogue, birds as strangers": Setting(icons, 1, others, probes),
    }
    drawn: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for title, setting in settings.items():
        drawn[title] = defaultdict(list)
        for seed in range(options.repeats):
            for metric, figures in measure(encoder, setting, seed).items():
                drawn[title][metric].append(figures)
    show(encoder, options.split, options.repeats, drawn)
    bars = Bars()
    for title, by_metric in drawn.items():
        plain, auto = (mean(by_metric[metric], "top-1") for metric in ("none", "auto"))
        told = mean(by_metric["auto"], "told")
        if title.endswith("asked") and title != "shop, shop asked":
            bars.at_least(f"{title}: told", told, 100, " %")
            bars.at_least(f"{title}: top-1 gained", auto - plain, 0, " points")
        else:
            bars.at_most(f"{title}: told", told, 0, " %")
            bars.at_least(f"{title}: top-1 gained", auto - plain, 0, " points")
    bars.show()
    name = f"kinds-{encoder.name}" if options.split == "test" else f"kinds-{encoder.name}-val"
    results = {"draws": options.repeats, "split": options.split, "raw": drawn, "bars": bars.rows}
    write_results(name, options.encoder, results)


def mean(draws: list[dict[str, Any]], key: str) -> float:
    """Per cent, over the draws that have it."""
    return 100 * float(np.mean([draw[key] for draw in draws if key in draw]))


def show(
    encoder: Encoder, split: str, repeats: int, drawn: dict[str, dict[str, list[dict[str, Any]]]]
) -> None:
    """Print the table."""
    rates = [f"{kind} {rate:.0%}" for rate in RATES for kind in ("FPIR", "TPIR")]
    keys = ["top-1", *rates, *(f"at exactly {rate:.0%}" for rate in RATES)]
    rows = []
    for title, by_metric in drawn.items():
        for metric, draws in by_metric.items():
            cells = []
            for key in keys:
                values = [100 * draw[key] for draw in draws if key in draw]
                spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
                cells.append(f"{np.mean(values):.1f} ± {spread:.1f}" if values else "")
            refused = sum(f"FPIR {RATES[0]:.0%}" not in draw for draw in draws)
            rows.append((title, metric, f"{mean(draws, 'told'):.0f}", *cells, refused))
    header = ("enrolled", "metric", "told", *keys, "refused 1%")
    table(f"{encoder.name}, {split}: per cent, {repeats} draws", header, rows)


if __name__ == "__main__":
    main()
