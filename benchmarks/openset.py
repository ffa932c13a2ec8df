"""Does a calibrated gallery keep the error rate that was asked for, and mean its confidence?

    python benchmarks/openset.py [--repeats 10] [--set grocery cub omniglot]

Some classes are enrolled with one or five pictures each, ``Gallery.calibrate`` sees nothing but
those and keeps plain cosines, and then come probes: other pictures of the same classes, and
strangers. grocery: the even classes by photos of train.txt (or their iconic picture, also
calibrated by the train.txt photos of the odd classes as strangers), probed with test.txt; cub: some
of the last 100 kinds; omniglot: some of the 659 evaluation characters, under ``glyph``. Measured
against the FPIR that was asked for: the share of strangers that got a name, and in how many draws
it lay within the bounds of ``calibrate``. Draws where that refused the rate, since the enrolled are
too few for it, are left out of the means. TPIR: the share of the others that got the right one.
ECE: the expected calibration error of the confidence in ten bins (Guo et al. 2017), strangers
weighing half, over all draws together. *Global* is what other tools do: the best item's cosine
against one threshold, the one that gives 1 % FPIR on another set (cub's for grocery, grocery's for
the others). *At best*: TPIR where each statistic's own threshold lets exactly 1 % of the strangers
pass.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
from common import Bars, grocery_iconic, grocery_split, parser, table, write_results
from rules import SETS

from siamese_search import Encoder, Gallery
from siamese_search.decision.evidence import evidence
from siamese_search.errors import UsageError
from siamese_search.evaluation import metrics

RATES = (0.01, 0.05)
SIZES = {"grocery": (41,), "cub": (20, 50), "omniglot": (20, 100, 600)}
PROBES = 2500


def measure(
    encoder: Encoder,
    enrolled: tuple[npt.NDArray[np.float32], npt.NDArray[Any]],
    probes: npt.NDArray[np.float32],
    truth: npt.NDArray[Any],
    strangers: list[str] | None = None,
    metric: str = "none",
) -> dict[str, Any]:
    """One draw: rates, and the raw scores that pooled figures need."""
    known = np.isin(truth, enrolled[1])
    figures: dict[str, Any] = {"known": known}
    with tempfile.TemporaryDirectory() as folder, Gallery.open(folder, encoder) as gallery:
        gallery.enroll_embeddings(enrolled[0], enrolled[1].tolist())
        for rate in RATES:
            try:
                found = gallery.calibrate(rate, strangers=strangers, metric=metric)
            except UsageError as error:  # too few for this rate
                print(error, flush=True)
                continue
            answers = gallery.identify_embeddings(probes, k=2)
            best = np.array([answer.matches[0].identity for answer in answers])
            named = np.array([answer.identity is not None for answer in answers])
            figures[f"FPIR {rate:.0%}"] = float(named[~known].mean())
            within = found.lower <= max(figures[f"FPIR {rate:.0%}"], 0.5 / (~known).sum())
            within &= figures[f"FPIR {rate:.0%}"] <= found.upper
            figures[f"within {rate:.0%}"] = float(within)
            figures[f"TPIR {rate:.0%}"] = float((named & (best == truth))[known].mean())
        answers = gallery.identify_embeddings(probes, k=2)
        best = np.array([answer.matches[0].identity for answer in answers])
        figures["confidence"] = np.array([answer.confidence for answer in answers])
        figures["right"] = best == truth
        first, second = (
            np.array([answer.matches[n].score for answer in answers]) for n in range(2)
        )
        figures["evidence"] = evidence(first, second)
        plain = gallery.identify_embeddings(probes, k=1, rule="best", threshold=0.0)
        figures["best"] = np.array([answer.matches[0].score for answer in plain])
        figures["best right"] = np.array([a.matches[0].identity for a in plain]) == truth
    return figures


def calibration_error(draws: list[dict[str, Any]]) -> float:
    """The expected calibration error over draws, strangers weighing half."""
    confidence, right, known = (
        np.concatenate([draw[key] for draw in draws]) for key in ("confidence", "right", "known")
    )
    return metrics.calibration_error(confidence, right, known)


def main() -> None:
    arguments = parser(__doc__, repeats=10)
    arguments.add_argument("--set", nargs="+", choices=SETS, default=list(SETS))
    options = arguments.parse_args()
    measured: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name in options.set:
        data = SETS[name]()
        settings = [(shots, size) for size in SIZES[name] for shots in (1, 5)]
        even = [n for n in np.unique(data.classes) if int(n) % 2 == 0] if data.apart else None
        for shots, size in settings:
            for seed in range(options.repeats):
                enrolled, probes = data.draw(shots, size, seed, among=even)
                probes = probes[:PROBES]
                measured[f"{name}, {shots} of {size}"].append(
                    measure(
                        data.encoder,
                        (data.vectors[enrolled], data.classes[enrolled]),
                        data.probes[probes],
                        data.truth[probes],
                    )
                )
            print(name, shots, size, flush=True)
        if name == "grocery":
            icons = [photo for photo in grocery_iconic() if int(photo.fine) % 2 == 0]
            vectors = data.encoder.embed([photo.path for photo in icons])
            labels = np.array([photo.fine for photo in icons])
            odd = [photo.path for photo in grocery_split("train") if int(photo.fine) % 2]
            for title, strangers in (("iconic", None), ("iconic + strangers", odd)):
                figures = measure(
                    data.encoder, (vectors, labels), data.probes, data.truth, strangers
                )
                measured[f"grocery, {title} of 41"].append(figures)
    summary = summarised(measured)
    show(summary, options.repeats)
    bars = Bars()
    for setting, figures in summary.items():
        if "iconic" in setting:
            continue
        for rate in RATES:
            off = figures[f"FPIR {rate:.0%}"] / rate
            bars.at_most(f"{setting}: off {rate:.0%} by factor", max(off, 1 / max(off, 1e-9)), 2.0)
        bars.at_most(f"{setting}: ECE", figures["ECE"], 0.05)
    bars.show()
    write_results(
        "openset", "general", {"draws": options.repeats, "raw": summary, "bars": bars.rows}
    )


def summarised(measured: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Means over draws, by setting."""
    # The global threshold: 1 % of another set's strangers reach it by their best item.
    strangers = {
        setting: np.quantile(np.concatenate([d["best"][~d["known"]] for d in draws]), 0.99)
        for setting, draws in measured.items()
    }
    summary = {}
    for setting, draws in measured.items():
        shots = setting.split(", ")[1][0]
        other = f"cub, {shots} of 50" if "grocery" in setting else f"grocery, {shots} of 41"
        figures: dict[str, float] = {}
        for rate in RATES:
            for kind in ("FPIR", "TPIR"):
                key = f"{kind} {rate:.0%}"
                values = [draw[key] for draw in draws if key in draw] or [0.0]
                figures[key] = statistics.mean(values)
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                figures[f"{kind} {rate:.0%} s.d."] = spread
            figures[f"refused {rate:.0%}"] = sum(f"FPIR {rate:.0%}" not in draw for draw in draws)
            figures[f"within bounds {rate:.0%}"] = statistics.mean(
                draw.get(f"within {rate:.0%}", 1.0) for draw in draws
            )
        figures["ECE"] = calibration_error(draws)
        for title, score, right in (
            ("at best", "evidence", "right"),
            ("at best, best item", "best", "best right"),
        ):
            figures[title] = statistics.mean(
                metrics.tpir_at_fpir(d[score], d[right], d["known"], 0.01)[0] for d in draws
            )
        if other in strangers:
            threshold = strangers[other]
            figures["global FPIR"] = statistics.mean(
                float((d["best"][~d["known"]] > threshold).mean()) for d in draws
            )
            figures["global TPIR"] = statistics.mean(
                float((d["best right"] & (d["best"] > threshold))[d["known"]].mean()) for d in draws
            )
        summary[setting] = figures
    return summary


def show(summary: dict[str, dict[str, float]], repeats: int) -> None:
    """Print the table."""
    rows = []
    for setting, f in summary.items():
        rates = [
            f"{100 * f[f'{kind} {rate:.0%}']:.1f} ± {100 * f[f'{kind} {rate:.0%} s.d.']:.1f}"
            for rate in RATES
            for kind in ("FPIR", "TPIR")
        ]
        other = [
            f"{100 * f[key]:.1f}" if key in f else ""
            for key in ("global FPIR", "global TPIR", "at best", "at best, best item")
        ]
        within = [f"{100 * f[f'within bounds {rate:.0%}']:.0f}" for rate in RATES]
        refused = [f"{f[f'refused {rate:.0%}']:.0f}" for rate in RATES]
        rows.append((setting, *rates, *within, *refused, *other, f"{f['ECE']:.3f}"))
    asked = [f"{kind} {rate:.0%}" for rate in RATES for kind in ("FPIR", "TPIR")]
    asked += [f"{what} {rate:.0%}" for what in ("within", "refused") for rate in RATES]
    others = ["global FPIR", "global TPIR", "at best", "best item", "ECE"]
    header = ("items of identities", *asked, *others)
    table(f"Per cent, {repeats} draws", header, rows)


if __name__ == "__main__":
    main()
