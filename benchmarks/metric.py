"""What does a metric gain that a gallery learns from its own items, and does it ever harm?

    python benchmarks/metric.py [--encoder general-2] [--repeats 20]

In every draw some pictures are enrolled, the metric is learned from these alone, and all other
pictures are probes, identities scored by the balanced rule. Beside it: plain cosine of the same
descriptor. Protocols and splits are those of the README in the data folder; the five sets of
``domains`` are those that the metric was chosen on, birds and groceries are for reporting. TPIR is
that at exactly 1 % FPIR by evidence, as ``openset.py`` computes it. Of ``cub-unseen R@1`` every
item is searched under a metric that was learned without its identity. *Own means*: plain cosine
and, under ``metric``, catalogue pictures and probes each about their own mean, that of the probes
from 100 training photos, because these are seen to be of another kind. What that gives with
strangers is measured by ``kinds.py``. ``--encoder glyph`` is measured on new characters instead.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from common import (
    Bars,
    cub_classes,
    data_folder,
    grocery_iconic,
    grocery_split,
    parser,
    table,
    write_results,
)

from siamese_search import Encoder
from siamese_search.arrays import FloatArray, IntArray
from siamese_search.decision.evidence import evidence
from siamese_search.decision.kinds import of_another_kind
from siamese_search.decision.learning import Prior, cross_fitted, fit, sample
from siamese_search.decision.metric import Metric, plain, unit
from siamese_search.evaluation import metrics, protocols
from siamese_search.evaluation.protocols import Photo

DOMAINS = ("cars", "faces", "flowers", "objects", "signs")
PROBES = 2500
KNOWN = 100  # photos from the shop that tell the probes' mean
FPIR = 0.01
HARM = 0.5  # points that a metric may lose
Labels = npt.NDArray[np.str_]
Draw = tuple[IntArray, IntArray]
Pairs = list[tuple[float, float]]  # per cent by plain cosine and by the metric, a draw each
BARS = {
    "domains, one shot": 53,
    "domains, four shots": 74,
    "grocery-iconic, own means": 42,
    "40 unseen groceries, one photo": 64,
    "40 unseen groceries, five photos": 87,
    "cub-unseen R@1": 67,
    "groceries, five photos: TPIR": 25,
    "50 birds, five photos: TPIR": 14,
}
CHARACTER_BARS = {"omniglot-unseen R@1": 93.5}


class Pictures:
    """Descriptors of pictures and their classes."""

    def __init__(self, vectors: FloatArray, classes: Labels) -> None:
        self.vectors, self.classes = vectors, classes

    @classmethod
    def of(
        cls, photos: Sequence[Photo], embed: Callable[[Sequence[Photo]], FloatArray]
    ) -> Pictures:
        """Of photos by their fine labels."""
        return cls(embed(photos), np.array([photo.fine for photo in photos]))

    def take(self, chosen: npt.NDArray[Any]) -> Pictures:
        """Some of them."""
        return Pictures(self.vectors[chosen], self.classes[chosen])

    def some_of_each(
        self, shots: int, seed: int, identities: int | None = None
    ) -> tuple[Pictures, Pictures]:
        """``shots`` pictures of each class, or of some at random, and all other pictures."""
        chance = np.random.default_rng(seed)
        names = np.unique(self.classes)
        if identities is not None:
            names = np.sort(chance.permutation(names)[:identities])
        kept = np.concatenate(
            [chance.permutation(np.flatnonzero(self.classes == name))[:shots] for name in names]
        )
        return self.take(kept), self.take(np.setdiff1d(np.arange(len(self.classes)), kept))


def scored(
    enrolled: Pictures, probes: Pictures, metric: Metric | None
) -> tuple[Labels, FloatArray]:
    """Identities (c,), and the scores (n, c) of probes by the balanced rule."""
    items, queries = enrolled.vectors, probes.vectors
    if metric is not None:
        items, queries = metric.apply(items), metric.apply_to_probes(queries)
    order = np.argsort(enrolled.classes, kind="stable")
    names, starts = np.unique(enrolled.classes[order], return_index=True)
    best = np.maximum.reduceat(queries @ items[order].T, starts, axis=1)
    prototypes = unit(np.add.reduceat(items[order], starts, axis=0))
    return names, (best + queries @ prototypes.T) / 2


def top_1(names: Labels, scores: FloatArray, probes: Pictures) -> float:
    """Per cent of probes whose best identity is right."""
    return 100 * float((names[scores.argmax(axis=1)] == probes.classes).mean())


def tpir(names: Labels, scores: FloatArray, probes: Pictures) -> float:
    """TPIR at exactly 1 % FPIR by evidence, per cent."""
    ranked = np.sort(scores, axis=1)[:, ::-1]
    shown = evidence(ranked[:, 0], ranked[:, 1])
    right = names[scores.argmax(axis=1)] == probes.classes
    known = np.isin(probes.classes, names)
    return 100 * float(metrics.tpir_at_fpir(shown, right, known, FPIR)[0])


def compared(
    draws: Iterator[tuple[Pictures, Pictures]],
    prior: Prior | None,
    figure: Callable[[Labels, FloatArray, Pictures], float] = top_1,
) -> Pairs:
    """A figure by plain cosine and by the metric, for each draw of enrolled pictures and probes."""
    pairs = []
    for enrolled, probes in draws:
        metric = fit(enrolled.vectors, enrolled.classes, prior)
        plain, learned = (figure(*scored(enrolled, probes, one), probes) for one in (None, metric))
        pairs.append((plain, learned))
    return pairs


def own_means(enrolled: Pictures, probes: Pictures, seen: Pictures) -> tuple[float, float]:
    """Top-1 by plain cosine as it is, and with either side about its own mean where the probes
    that were ``seen`` before are of another kind than what is enrolled.
    """
    whole = plain(enrolled.vectors.shape[1])
    before = top_1(*scored(enrolled, probes, whole), probes)
    if not of_another_kind(enrolled.vectors, seen.vectors, enrolled.classes, seen.classes):
        return before, before
    metric = whole.centred_on(enrolled.vectors, seen.vectors)
    return before, top_1(*scored(enrolled, probes, metric), probes)


def recall(pictures: Pictures, prior: Prior | None) -> tuple[float, float]:
    """Leave-one-out recall@1 by plain cosine and by metrics that have not seen the identity."""

    def right(vectors: FloatArray, out: IntArray) -> IntArray:
        cosines = vectors[out] @ vectors.T
        cosines[np.arange(len(out)), out] = -1
        hits: IntArray = pictures.classes[cosines.argmax(axis=1)] == pictures.classes[out]
        return hits

    everything = np.arange(len(pictures.classes))
    plain = right(pictures.vectors, everything).mean()
    hits = [
        right(metric.apply(pictures.vectors), out)
        for metric, out in cross_fitted(pictures.vectors, pictures.classes, prior)
    ]
    return 100 * float(plain), 100 * float(np.concatenate(hits).mean())


def domain(encoder: Encoder, name: str) -> Pictures:
    """One of the five sets."""
    files = sorted((data_folder() / "domains" / name).glob("*/*"))
    classes = np.array([file.parent.name for file in files])
    return Pictures(encoder.embed([str(file) for file in files]), classes)


def domains(encoder: Encoder, repeats: int) -> dict[str, Pairs]:
    figures: dict[str, Pairs] = {}
    for name in DOMAINS:
        pictures = domain(encoder, name)
        for title, shots in (("one shot", 1), ("four shots", 4)):
            draws = (pictures.some_of_each(shots, seed) for seed in range(repeats))
            figures[f"{name}, {title}"] = compared(draws, encoder.prior)
    for title in ("one shot", "four shots"):
        parts = zip(*(figures[f"{name}, {title}"] for name in DOMAINS), strict=True)
        figures[f"domains, {title}"] = [tuple(np.mean(part, axis=0).tolist()) for part in parts]
    return figures


def groceries(encoder: Encoder, repeats: int) -> dict[str, Pairs]:
    embed = protocols.Pictures(encoder)
    icons, train, test = (
        Pictures.of(photos, embed)
        for photos in (grocery_iconic(), grocery_split("train"), grocery_split("test"))
    )
    figures = {"grocery-iconic top-1": compared(iter([(icons, test)]), encoder.prior)}
    figures["grocery-iconic, own means"] = [
        own_means(icons, test, train.take(chance.permutation(len(train.vectors))[:KNOWN]))
        for chance in map(np.random.default_rng, range(repeats))
    ]
    figures |= unseen_groceries(icons, train, test, encoder.prior, repeats)
    even = train.take(train.classes.astype(int) % 2 == 0)
    draws = ((even.some_of_each(5, seed)[0], test) for seed in range(repeats))
    figures["groceries, five photos: TPIR"] = compared(draws, encoder.prior, tpir)
    return figures


def unseen_groceries(
    icons: Pictures, train: Pictures, test: Pictures, prior: Prior | None, repeats: int
) -> dict[str, Pairs]:
    """The odd classes by their catalogue picture, by one, five and all of their photos; all 81 by
    theirs.
    """
    odd = [p.take(p.classes.astype(int) % 2 == 1) for p in (icons, train, test)]
    seen = (
        odd[1].take(np.random.default_rng(draw).permutation(len(odd[1].vectors))[:KNOWN])
        for draw in range(repeats)
    )
    shown = {
        title: compared(
            ((odd[1].some_of_each(shots, seed)[0], odd[2]) for seed in range(repeats)), prior
        )
        for title, shots in (("one photo", 1), ("five photos", 5))
    }
    return {
        "40 unseen groceries, catalogue, own means": [own_means(odd[0], odd[2], s) for s in seen],
        **{f"40 unseen groceries, {title}": pairs for title, pairs in shown.items()},
        "40 unseen groceries, all photos": compared(iter([(odd[1], odd[2])]), prior),
        "81 groceries, all photos": compared(iter([(train, test)]), prior),
    }


def birds(encoder: Encoder, repeats: int) -> dict[str, Pairs]:
    photos = [photo for bird in cub_classes()[-100:] for photo in bird]
    pictures = Pictures.of(photos, protocols.Pictures(encoder))
    figures = {"cub-unseen R@1": [recall(pictures, encoder.prior)]}
    for title, shots in (("one shot", 1), ("five shots", 5)):
        draws = (pictures.some_of_each(shots, seed) for seed in range(repeats))
        figures[f"cub-unseen {title}"] = compared(draws, encoder.prior)

    def fifty() -> Iterator[tuple[Pictures, Pictures]]:
        for seed in range(repeats):
            enrolled, rest = pictures.some_of_each(5, seed, identities=50)
            chance = np.random.default_rng(seed)
            yield enrolled, rest.take(chance.permutation(len(rest.classes))[:PROBES])

    figures["50 birds, five photos: TPIR"] = compared(fifty(), encoder.prior, tpir)
    return figures


def characters(encoder: Encoder, repeats: int) -> dict[str, Pairs]:
    names, drawings = protocols.drawings(data_folder())
    classes = np.array([name.rpartition("/")[0] for name in names])
    pictures = Pictures(encoder.embed(drawings), classes)
    figures = {"omniglot-unseen R@1": [recall(pictures, encoder.prior)]}
    for title, shots in (("one shot", 1), ("five shots", 5)):
        draws = (pictures.some_of_each(shots, seed) for seed in range(repeats))
        figures[f"omniglot-unseen {title}"] = compared(draws, encoder.prior)
    return figures


def learning_times(encoder: Encoder, repeats: int = 3) -> dict[str, float]:
    """Median seconds to learn from 10,000 items, and from a million of which it takes a sample."""
    chance = np.random.default_rng(0)
    width = encoder.dimension
    times = {}
    for title, count in (("10,000 items", 10_000), ("a million items", 1_000_000)):
        owners = chance.integers(0, count // 5, count)
        taken = []
        for _ in range(repeats):
            begun = time.perf_counter()
            kept = sample(owners)
            spent = time.perf_counter() - begun
            centres = chance.standard_normal((count // 5, width), dtype=np.float32)
            noise = chance.standard_normal((len(kept), width), dtype=np.float32)
            items = unit(centres[owners[kept]] + noise)
            begun = time.perf_counter()
            fit(items, owners[kept], encoder.prior)
            taken.append(spent + time.perf_counter() - begun)
        times[title] = statistics.median(taken)
    return times


def main() -> None:
    arguments = parser(__doc__, repeats=20)
    arguments.set_defaults(encoder="general-2")
    options = arguments.parse_args()
    encoder = Encoder.open(options.encoder)
    figures: dict[str, Pairs] = {}
    drawn = encoder.record.preprocessing.channels == 1
    for part in (characters,) if drawn else (domains, groceries, birds):
        figures |= part(encoder, options.repeats)
    times = learning_times(encoder)
    means = {name: np.mean(pairs, axis=0).tolist() for name, pairs in figures.items()}
    rows = []
    for name, (before, learned) in means.items():
        spread = np.std(np.array(figures[name]), axis=0, ddof=1) if len(figures[name]) > 1 else None
        sd = "" if spread is None else f"{spread[1]:.1f}"
        rows.append((name, f"{before:.1f}", f"{learned:.1f}", sd, f"{learned - before:+.1f}"))
    table(
        f"{encoder.name}, {encoder.dimension}-d, per cent; {options.repeats} draws where there are"
        " several",
        ("", "plain cosine", "metric", "s.d.", "gain"),
        rows,
    )
    table("Learning", ("items", "seconds"), [(n, f"{s:.2f}") for n, s in times.items()])
    bars = Bars()
    for name, bar in (CHARACTER_BARS if drawn else BARS).items():
        bars.at_least(name, means[name][1], bar, " %")
    for name, (before, learned) in means.items():
        bars.at_least(f"{name}: gain", learned - before, -HARM, " points")
    bars.at_most("learning, 10,000 items", times["10,000 items"], 3, " s")
    bars.at_most("learning, a million items", times["a million items"], 60, " s")
    bars.show()
    results = {"draws": options.repeats, "raw": figures, "seconds": times, "bars": bars.rows}
    write_results("metric-glyph" if drawn else "metric", options.encoder, results)


if __name__ == "__main__":
    main()
