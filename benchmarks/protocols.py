"""How accurate is an encoder, through the gallery, on the protocols that need no training?

    python benchmarks/protocols.py [--encoder general] [--suite grocery cub omniglot] [--rule best]

What ``siasearch benchmark --suite`` measures, against reference points, with bars. Protocols,
splits and reference points are those of the README in the data folder; all figures are per cent.
Rows of draws give mean and standard deviation over ``--repeats`` draws of the photos to enrol.
"""

from __future__ import annotations

import statistics

from common import Bars, data_folder, parser, table, write_results

from siamese_search import Encoder
from siamese_search.decision.rules import RULES
from siamese_search.evaluation.protocols import SUITES, Figures, Pictures

# Untuned EfficientNet-Lite0, from the README of the data.
REFERENCE = {
    "grocery-iconic top-1": 30.1,
    "grocery-iconic top-5": 68.1,
    "grocery-gallery top-1 fine": 63.5,
    "grocery-unseen iconic 1-shot": 41.7,
    "grocery-unseen full gallery": 80.1,
    "cub-unseen R@1": 58.7,
    "cub-unseen 1-shot": 27.2,
}
BARRED = ("grocery-iconic top-1", "grocery-gallery top-1 fine", "cub-unseen R@1")


def main() -> None:
    arguments = parser(__doc__, repeats=20)
    arguments.add_argument("--suite", nargs="+", choices=SUITES, default=["grocery", "cub"])
    arguments.add_argument("--rule", choices=RULES, help="default: the gallery's own")
    options = arguments.parse_args()
    encoder = Encoder.open(options.encoder)
    pictures = Pictures(encoder, options.rule)
    figures: Figures = {}
    for suite in options.suite:
        figures |= SUITES[suite](pictures, data_folder(), options.repeats)
    rows = []
    for name, values in figures.items():
        spread = f"{statistics.stdev(values):.1f}" if len(values) > 1 else ""
        rows.append((name, f"{statistics.fmean(values):.1f}", spread, REFERENCE.get(name, "")))
    table(
        f"{encoder.name}, {encoder.dimension}-d, threshold {encoder.threshold:.3f};"
        f" {options.repeats} draws where there are several",
        ("per cent", "mean", "s.d.", "reference"),
        rows,
    )
    bars = Bars()
    for name in BARRED:
        if name in figures:
            bars.at_least(name, figures[name][0], REFERENCE[name], " %")
            bars.at_least(f"{name} (aim)", figures[name][0], REFERENCE[name] + 3, " %")
    bars.show()
    settings = {"draws": options.repeats, "unit": "per cent", "reference": REFERENCE}
    default = options.suite == arguments.get_default("suite")
    name = "protocols" if default else f"protocols-{'-'.join(options.suite)}"
    if options.rule:
        name += f"-{options.rule}"
    write_results(name, options.encoder, {**settings, "raw": figures, "bars": bars.rows})


if __name__ == "__main__":
    main()
