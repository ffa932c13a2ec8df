"""Does ``audit`` find wrong labels?

    python benchmarks/audit.py [--repeats 10] [--set grocery cub omniglot]

5 % of a gallery's items get the identity of another class, at random; ``audit`` ranks all items by
how much better another identity fits. The share of the wrong ones among its first rows, and among
the items that it lists; before the gallery is calibrated, and after, when it has learned from the
wrong labels, too. grocery is train.txt (81 classes, under ``general``), cub the last 100 kinds,
omniglot 5 pictures each of the 659 evaluation characters (under ``glyph``).
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import RESULTS, Bars, parser, table, write_results
from rules import SETS, Set

from siamese_search import Gallery
from siamese_search.arrays import FloatArray
from siamese_search.records import Audit

PLANTED = 0.05
ROWS = (0.02, 0.05, 0.1, 0.2, 0.3)
MOST = {"omniglot": 5}


class Found(NamedTuple):
    """The share of the planted labels that is found, after each item of the ranking, and among
    those that are ``listed``; how many ``rows`` of all items these are, as a share.
    """

    curve: FloatArray
    listed: float
    rows: float


def measure(name: str, data: Set, seed: int) -> dict[str, Found]:
    """What is found of planted labels, before and after calibrating."""
    chance = np.random.default_rng(seed)
    names, classes = np.unique(data.classes), data.classes
    kept = np.concatenate(
        [chance.permutation(np.flatnonzero(classes == label))[: MOST.get(name)] for label in names]
    )
    labels = classes[kept].copy()
    wrong = chance.choice(len(kept), round(PLANTED * len(kept)), replace=False)
    for position in wrong:
        labels[position] = chance.choice(names[names != labels[position]])
    with tempfile.TemporaryDirectory() as folder, Gallery.open(folder, data.encoder) as gallery:
        numbers = gallery.enroll_embeddings(data.vectors[kept], labels.tolist())
        planted = {numbers[position] for position in wrong}
        before = found_by(gallery.audit(), planted)
        gallery.calibrate(0.05)
        return {name: before, f"{name}, calibrated": found_by(gallery.audit(), planted)}


def found_by(audit: Audit, planted: set[int]) -> Found:
    """What an audit finds of planted labels."""
    hits = np.cumsum([one.item in planted for one in audit.suspects]) / len(planted)
    curve = np.full(audit.items, hits[-1])
    curve[: len(hits)] = hits
    listed = [one.item for one in audit.suspects if one.doubt > 0]
    return Found(curve, len(planted.intersection(listed)) / len(planted), len(listed) / audit.items)


def main() -> None:
    arguments = parser(__doc__, repeats=10)
    arguments.add_argument("--set", nargs="+", choices=SETS, default=list(SETS))
    options = arguments.parse_args()
    bars, rows = Bars(), []
    raw: dict[str, Any] = {}
    curves: dict[str, FloatArray] = {}
    for name in options.set:
        data = SETS[name]()
        runs = [measure(name, data, seed) for seed in range(options.repeats)]
        for called in runs[0]:
            own = [run[called] for run in runs]
            length = len(own[0].curve)
            first = {share: [one.curve[round(share * length) - 1] for one in own] for share in ROWS}
            listed = [one.listed for one in own]
            raw[called] = {"first": first, "listed": listed, "rows": [one.rows for one in own]}
            curves[called] = np.mean([one.curve for one in own], axis=0)
            told = [*first.values(), listed, raw[called]["rows"]]
            rows.append((called, length, *(f"{100 * statistics.mean(one):.1f}" for one in told)))
            bars.at_least(
                f"{called}: in the first 10 %", 100 * statistics.mean(first[0.1]), 80, " %"
            )
        print(name, flush=True)
    header = (
        "gallery",
        "items",
        *(f"first {share:.0%}" for share in ROWS),
        "listed",
        "rows listed",
    )
    table(f"Wrong labels found, per cent, {options.repeats} draws", header, rows)
    bars.show()
    draw(curves, RESULTS / "audit.png")
    write_results("audit", "general", {"draws": options.repeats, "raw": raw, "bars": bars.rows})


def draw(curves: dict[str, FloatArray], path: Path) -> None:
    """The share of wrong labels found over the share of rows looked at."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 4))
    for name, curve in curves.items():
        axes.plot(np.arange(1, len(curve) + 1) / len(curve), curve, label=name)
    axes.set(xlim=(0, 0.3), ylim=(0, 1.02), xlabel="rows looked at", ylabel="wrong labels found")
    axes.axvline(0.1, color="grey", linewidth=0.8)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
