"""What does a gallery of one picture each gain by the metric that it learns, and is the rate kept?

    python benchmarks/one_picture.py [--encoder general-2] [--repeats 10]

Nothing can be held out to judge a metric there, so ``siasearch calibrate`` takes one that is next
to plain cosines, from 50 pictures on (``decision/learning.py``). Some things are enrolled, with one
picture each; probes are other pictures of these, and of the others, which are strangers. *plain*:
``--metric none``; *auto*: as the gallery sees fit. FPIR and TPIR are those of a gallery that was
calibrated for the rate by nothing but what is enrolled. Cars and flowers are among what it was
chosen on, as were the catalogue pictures against photos of ``train.txt``; characters are embedded
by ``glyph``. In the catalogue nobody is a stranger: it shows what is lost where probes look
otherwise, and no ``--strangers`` say so.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import metric
import numpy as np
from common import (
    Bars,
    cub_classes,
    grocery_iconic,
    grocery_split,
    parser,
    table,
    write_results,
)
from metric import Pictures
from openset import PROBES, RATES, calibration_error, measure
from rules import omniglot

from siamese_search import Encoder
from siamese_search.decision.learning import learned
from siamese_search.evaluation import protocols

METRICS = {"plain": "none", "auto": "auto"}
RATE_FIGURES = [f"{kind} {rate:.0%}" for rate in RATES for kind in ("FPIR", "TPIR", "within")]


def drawn(pictures: Pictures, count: int, repeats: int) -> Iterator[tuple[Pictures, Pictures]]:
    """Pictures enrolled, of so many things, and probes."""
    for seed in range(repeats):
        enrolled, rest = pictures.some_of_each(1, seed, identities=count)
        chance = np.random.default_rng(seed)
        yield enrolled, rest.take(chance.permutation(len(rest.classes))[:PROBES])


def compared(
    encoder: Encoder, draws: Iterator[tuple[Pictures, Pictures]]
) -> dict[str, dict[str, float]]:
    """Means over draws, by the metric, as shares."""
    raw: dict[str, list[dict[str, Any]]] = {name: [] for name in METRICS}
    for enrolled, probes in draws:
        for name, wanted in METRICS.items():
            items = enrolled.vectors, enrolled.classes
            raw[name].append(measure(encoder, items, probes.vectors, probes.classes, metric=wanted))
    return {name: summarised(ones) for name, ones in raw.items()}


def summarised(draws: list[dict[str, Any]]) -> dict[str, float]:
    """Means and standard deviations over draws."""
    found = {"top-1": [float(one["right"][one["known"]].mean()) for one in draws]}
    for key in RATE_FIGURES:
        found[key] = [one[key] for one in draws if key in one] or [0.0]
    means = {key: statistics.mean(values) for key, values in found.items()}
    spread = {
        f"{key} s.d.": statistics.stdev(values) for key, values in found.items() if len(values) > 1
    }
    return means | spread | {"ECE": calibration_error(draws)}


def main() -> None:
    arguments = parser(__doc__, repeats=10)
    arguments.set_defaults(encoder="general-2")
    options = arguments.parse_args()
    encoder, repeats = Encoder.open(options.encoder), options.repeats
    embed = protocols.Pictures(encoder)
    icons, train, test = (
        Pictures.of(photos, embed)
        for photos in (grocery_iconic(), grocery_split("train"), grocery_split("test"))
    )
    birds = Pictures.of([photo for bird in cub_classes()[-100:] for photo in bird], embed)
    drawings = omniglot()
    characters, glyph = Pictures(drawings.vectors, drawings.classes), drawings.encoder
    shop = ((train.some_of_each(1, seed, identities=60)[0], test) for seed in range(repeats))
    settings = [
        ("50 cars", encoder, drawn(metric.domain(encoder, "cars"), 50, repeats)),
        ("60 flowers", encoder, drawn(metric.domain(encoder, "flowers"), 60, repeats)),
        ("60 groceries", encoder, shop),
        ("50 birds", encoder, drawn(birds, 50, repeats)),
        ("75 birds", encoder, drawn(birds, 75, repeats)),
        ("100 characters", glyph, drawn(characters, 100, repeats)),
        ("600 characters", glyph, drawn(characters, 600, repeats)),
    ]
    summary = {title: compared(own, draws) for title, own, draws in settings}
    for title, probes in (("catalogue, photos of train", train), ("catalogue, of test", test)):
        made = learned(icons.vectors, icons.classes, encoder.prior)
        summary[title] = {
            name: {"top-1": metric.top_1(*metric.scored(icons, probes, one), probes) / 100}
            for name, one in (("plain", None), ("auto", made))
        }
    rows = [
        (title, name, *(_cell(figures, key) for key in ("top-1", *RATE_FIGURES, "ECE")))
        for title, both in summary.items()
        for name, figures in both.items()
    ]
    header = ("one picture each of", "metric", "top-1", *RATE_FIGURES, "ECE")
    table(f"{encoder.name}; per cent, {repeats} draws", header, rows)
    bars = Bars()
    for title, both in summary.items():
        gain = 100 * (both["auto"]["top-1"] - both["plain"]["top-1"])
        bars.at_least(f"{title}: gain", gain, -metric.HARM, " points")
        for rate in RATES if "FPIR 1%" in both["auto"] else ():
            off = both["auto"][f"FPIR {rate:.0%}"] / rate
            bars.at_most(f"{title}: off {rate:.0%} by factor", max(off, 1 / max(off, 1e-9)), 2.0)
    bars.show()
    write_results(
        "one_picture", options.encoder, {"draws": repeats, "raw": summary, "bars": bars.rows}
    )


def _cell(figures: dict[str, float], key: str) -> str:
    if key not in figures:
        return ""
    if key == "ECE":
        return f"{figures[key]:.3f}"
    spread = figures.get(f"{key} s.d.", 0.0)
    return f"{100 * figures[key]:.1f}" + (f" ± {100 * spread:.1f}" if spread else "")


if __name__ == "__main__":
    main()
