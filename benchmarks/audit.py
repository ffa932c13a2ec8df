"""Does ``audit`` find wrong labels?

    python benchmarks/audit.py [--repeats 10] [--set grocery cub omniglot]

5 % of a gallery's items get the identity of another class, at random; ``audit`` ranks all items by
how much better another identity fits. The share of the wrong ones among its first rows. grocery is
train.txt (81 classes, under ``general``), cub the last 100 kinds, omniglot 5 pictures each of the
659 evaluation characters (under ``glyph``).
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np
from common import RESULTS, Bars, parser, table, write_results
from rules import SETS, Set

from siamese_search import Gallery

PLANTED = 0.05
ROWS = (0.02, 0.05, 0.1, 0.2, 0.3)
MOST = {"omniglot": 5}


def measure(name: str, data: Set, seed: int) -> list[float]:
    """The share of the planted labels that is found, after each item of the ranking."""
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
        found = gallery.audit()
    planted = {numbers[position] for position in wrong}
    hits = np.cumsum([one.item in planted for one in found.suspects]) / len(planted)
    curve = np.full(found.items, hits[-1])
    curve[: len(hits)] = hits
    return [float(share) for share in curve]


def main() -> None:
    arguments = parser(__doc__, repeats=10)
    arguments.add_argument("--set", nargs="+", choices=SETS, default=list(SETS))
    options = arguments.parse_args()
    bars, rows, raw, curves = Bars(), [], {}, {}
    for name in options.set:
        data = SETS[name]()
        runs = [measure(name, data, seed) for seed in range(options.repeats)]
        length = len(runs[0])
        raw[name] = {rows: [run[round(rows * length) - 1] for run in runs] for rows in ROWS}
        curves[name] = np.mean(runs, axis=0)
        shares = [f"{100 * statistics.mean(raw[name][share]):.1f}" for share in ROWS]
        rows.append((name, length, *shares))
        bars.at_least(f"{name}: in the first 10 %", 100 * statistics.mean(raw[name][0.1]), 80, " %")
        print(name, flush=True)
    header = ("gallery", "items", *(f"first {share:.0%}" for share in ROWS))
    table(f"Wrong labels found, per cent, {options.repeats} draws", header, rows)
    bars.show()
    draw(curves, RESULTS / "audit.png")
    write_results("audit", "general", {"draws": options.repeats, "raw": raw, "bars": bars.rows})


def draw(curves: dict[str, np.ndarray], path: Path) -> None:
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
