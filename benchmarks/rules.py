"""Which scoring rule identifies best when identities have several items?

    python benchmarks/rules.py [--repeats 5] [--set grocery cub omniglot]

n pictures of every class are enrolled, others are probes: Grocery's train.txt and test.txt, the
last 100 kinds of CUB 2010, and Omniglot's evaluation alphabets under ``glyph``; nobody trained on
these classes. Closed set: how often the best identity is right. Open set: only half of the
classes are enrolled, and TPIR is given at the threshold that 1 % of the others' probes reach.
All figures are per cent, means over draws of classes and pictures; the default rule was chosen on
Grocery's val.txt, on Omniglot background alphabets held out of training, and on birds.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from common import Bars, cub_classes, data_folder, grocery_split, parser, table, write_results

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray
from siamese_search.decision.rules import DEFAULT_RULE, RULES
from siamese_search.evaluation.protocols import distinct, drawings

SHOTS = (1, 3, 5, 10)
PROBES = 1500
FPIR = 0.01


class Set:
    """Embeddings of pictures to enrol and of probes, with their classes; may be the same."""

    def __init__(
        self,
        encoder: Encoder,
        enrolled: tuple[FloatArray, Sequence[str]],
        probes: tuple[FloatArray, Sequence[str]] | None = None,
    ) -> None:
        self.encoder = encoder
        self.vectors, self.classes = enrolled[0], np.array(enrolled[1])
        self.apart = probes is not None
        self.probes, truth = probes or enrolled
        self.truth = np.array(truth)

    def draw(
        self, shots: int, identities: int, seed: int, among: Sequence[str] | None = None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Positions of what is enrolled and of the probes; identities at random or the first of
        ``among``.
        """
        chance = np.random.default_rng(seed)
        names = chance.permutation(np.unique(self.classes)) if among is None else among
        chosen = [
            chance.permutation(np.flatnonzero(self.classes == name))[:shots]
            for name in names[:identities]
        ]
        enrolled = np.concatenate(chosen)
        probes = np.arange(len(self.truth))
        if not self.apart:
            probes = np.setdiff1d(probes, enrolled)
        return enrolled, chance.permutation(probes)


def grocery() -> Set:
    encoder = Encoder.open("general")
    train, test = grocery_split("train"), grocery_split("test")
    embedded = [
        (encoder.embed([p.path for p in photos]), [p.fine for p in photos])
        for photos in (train, test)
    ]
    return Set(encoder, *embedded)


def cub() -> Set:
    encoder = Encoder.open("general")
    photos = [photo for birds in cub_classes()[-100:] for photo in birds]
    return Set(encoder, (encoder.embed([p.path for p in photos]), [p.fine for p in photos]))


def omniglot() -> Set:
    encoder = Encoder.open("glyph")
    names, pictures = drawings(data_folder())
    return Set(
        encoder, (distinct(encoder.embed(pictures)), [name.rpartition("/")[0] for name in names])
    )


SETS = {"grocery": grocery, "cub": cub, "omniglot": omniglot}


def measure(data: Set, shots: int, share: float, seed: int) -> dict[str, float]:
    """Per cent by rule: identification rate, closed set for ``share`` 1, else at 1 % FPIR."""
    identities = round(share * len(np.unique(data.classes)))
    enrolled, probes = data.draw(shots, identities, seed)
    probes = probes[:PROBES]
    truth = data.truth[probes]
    known = np.isin(truth, data.classes[enrolled])
    rates = {}
    with tempfile.TemporaryDirectory() as folder, Gallery.open(folder, data.encoder) as gallery:
        gallery.enroll_embeddings(data.vectors[enrolled], data.classes[enrolled].tolist())
        for rule in RULES:
            answers = gallery.identify_embeddings(data.probes[probes], k=1, rule=rule)
            best = [answer.matches[0] for answer in answers]
            right = np.array([match.identity for match in best]) == truth
            scores = np.array([match.score for match in best])
            reached = right[known]
            if share < 1:
                reached = reached & (scores[known] > np.quantile(scores[~known], 1 - FPIR))
            rates[rule] = 100 * float(reached.mean())
    return rates


def main() -> None:
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument("--set", nargs="+", choices=SETS, default=list(SETS))
    options = arguments.parse_args()
    raw: dict[str, dict[str, list[float]]] = {}
    for name in options.set:
        data = SETS[name]()
        for shots in SHOTS:
            for kind, share in (("closed", 1.0), ("open", 0.5)):
                rates = defaultdict(list)
                for seed in range(options.repeats):
                    for rule, rate in measure(data, shots, share, seed).items():
                        rates[rule].append(rate)
                raw[f"{name} {kind} {shots}"] = dict(rates)
                print(name, kind, shots, flush=True)
    table(
        f"Identification rate, per cent, {options.repeats} draws (open: at {FPIR:.0%} FPIR)",
        ("set, kind, items each", *RULES),
        [
            (setting, *(f"{statistics.mean(rates[rule]):.1f}" for rule in RULES))
            for setting, rates in raw.items()
        ],
    )
    bars = Bars()
    for shots in SHOTS:
        gains = [
            statistics.mean(raw[f"{name} closed {shots}"][DEFAULT_RULE])
            - statistics.mean(raw[f"{name} closed {shots}"]["best"])
            for name in options.set
        ]
        bar = 0.0 if shots >= 5 else -0.5
        bars.at_least(f"{DEFAULT_RULE} over best, {shots} items", statistics.mean(gains), bar)
    bars.show()
    write_results("rules", "general", {"draws": options.repeats, "raw": raw, "bars": bars.rows})


if __name__ == "__main__":
    main()
