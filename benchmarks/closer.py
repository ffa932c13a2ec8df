"""Does a closer look at the best candidates find the right one more often, and what does it cost?

    python benchmarks/closer.py [--repeats 20] [--set cars faces ...] [--skip-views]

One or several pictures of every class are enrolled, others are probes. *Global* scores identities
by the whole pictures' descriptors under a metric whitened on what is enrolled, by the balanced
rule; the *closer look* adds votes of places to the 50 best items' identities, with the weight that
the enrolled pictures themselves speak for. What was chosen was chosen on ``domains`` and the first
hundred birds; groceries and the last hundred birds are only reported. The projection that makes
places is fitted on domains and the first birds, leaving out the set that is measured.

Views: a probe also by its centre, or turned; probes centred on their own mean.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import closer_views
import numpy as np
from closer_features import DOMAINS, Features, FloatArray, IntArray, features, unit
from common import RESULTS, parser, table, write_results

from siamese_search.decision import closer

SETS: dict[str, tuple[int, ...]] = dict.fromkeys((*DOMAINS, "birds-first"), (1, 4))
SETS |= {"groceries": (1, 5), "birds-last": (1, 5)}
MULTIPLES = (0.125, 0.25, 0.5)  # of the unit weight, tried for one picture each
DIMENSION = 64
PROBES = 100  # of each draw
SAMPLE = 100  # items that the weight is learned from
FOLDS = 4
SHRINK = 0.3


@cache
def projection(without: str) -> tuple[FloatArray, FloatArray]:
    """Mean and whitening of cells, fitted without a set."""
    names = [name for name in (*DOMAINS, "birds-first") if name != without]
    cells = [features(name).cells[::5].reshape(-1, 112) for name in names]
    return closer.fit_projection(np.concatenate(cells), DIMENSION)


@cache
def places_of(name: str, set_name: str) -> FloatArray:
    """Places (n, 49, 64) of pictures, as they come back from storage."""
    mean, whitening = projection(set_name)
    places = closer.units((features(name).cells - mean) @ whitening)
    return closer.unpack([closer.pack(one) for one in places])


def metric(items: FloatArray, labels: IntArray) -> Callable[[FloatArray], FloatArray]:
    """Whitening by the scatter within identities where these have several items, and of all."""
    mean = items.mean(axis=0)
    rows = (items - mean) / np.sqrt(len(items))
    counts = np.bincount(labels)
    if counts.max() > 1:
        middles = np.stack([items[labels == label].mean(axis=0) for label in range(len(counts))])
        freedom = 1 - 1 / counts.max()
        within = (items - middles[labels]) / np.sqrt(len(items) * freedom)
        rows = np.concatenate([np.sqrt(0.6) * within, np.sqrt(0.4) * rows])
    # The directions of the rows' scatter, by way of their products, which are fewer.
    variances, combinations = np.linalg.eigh(rows @ rows.T)
    seen = variances > 1e-5
    variances, combinations = variances[seen], combinations[:, seen]
    directions = combinations.T @ rows / np.sqrt(variances)[:, None]
    floor = SHRINK * variances.sum() / min(len(variances), 256)
    scales = 1 / np.sqrt((1 - SHRINK) * variances + floor)
    matrix = (directions.T * (scales / scales.max())).astype(np.float32)
    return lambda vectors: unit((vectors - mean) @ matrix)


class Gallery:
    """Enrolled descriptors and places, with identities numbered from 0, none left out."""

    def __init__(self, vectors: FloatArray, places: FloatArray, labels: IntArray) -> None:
        self.vectors, self.places, self.labels = vectors, places, labels
        self.totals = np.zeros((int(labels.max()) + 1, vectors.shape[1]), np.float32)
        np.add.at(self.totals, labels, vectors)
        self.prototypes = unit(self.totals)

    def look(
        self, vector: FloatArray, places: FloatArray, without: int | None = None
    ) -> tuple[IntArray, FloatArray, FloatArray]:
        """Candidate identities of a probe, their scores by the balanced rule, and their votes.

        The probe may be an item of the gallery's, which is searched ``without`` it.
        """
        cosines, near = self.vectors @ vector, self.prototypes @ vector
        if without is not None:
            cosines[without] = -2
            own = self.labels[without]
            near[own] = unit((self.totals[own] - self.vectors[without])[None])[0] @ vector
        nearest = np.argsort(-cosines)[: closer.CANDIDATES]
        nearest = nearest[cosines[nearest] > -2]
        identities, owners = np.unique(self.labels[nearest], return_inverse=True)
        best = np.full(len(identities), -2, np.float32)
        np.maximum.at(best, owners, cosines[nearest])
        scores = np.asarray((best + near[identities]) / 2, np.float32)
        return identities, scores, closer.votes(places, self.places[nearest], owners)


def left_out(
    vectors: FloatArray, places: FloatArray, labels: IntArray, seed: int
) -> list[closer.Look]:
    """Enrolled items looked at without themselves, under a metric fitted without them."""
    order = np.random.default_rng(seed).permutation(len(labels))
    folds = np.argsort(order) % (FOLDS if np.bincount(labels).max() > 1 else 1)
    looks = []
    for fold in np.unique(folds):
        kept = folds != fold if folds.any() else folds == 0
        compact = np.unique(labels[kept], return_inverse=True)[1]
        gallery = Gallery(metric(vectors[kept], compact)(vectors), places, labels)
        for item in order[:SAMPLE][folds[order[:SAMPLE]] == fold].tolist():
            identities, scores, votes = gallery.look(gallery.vectors[item], places[item], item)
            own = np.flatnonzero(identities == labels[item])
            mine = int(own[0]) if len(own) else None
            looks.append(closer.Look(str(labels[item]), scores, votes, mine))
    return looks


def drawn(
    name: str, shots: int, seed: int
) -> tuple[Features, IntArray, Features, IntArray, str, str]:
    """Features, and which are enrolled; features, and which are probes; the names of both sets."""
    chance = np.random.default_rng(seed)
    if name == "groceries":  # odd classes, whose probes were taken another day
        there, others = features("grocery-train"), features("grocery-test")
        apart = ("grocery-train", "grocery-test")
        classes = [n for n, fine in enumerate(there.names) if int(fine) % 2]
    else:
        there = others = features(name)
        apart = (name, name)
        classes = list(range(len(there.names)))
    picked = [chance.permutation(np.flatnonzero(there.labels == c))[:shots] for c in classes]
    enrolled = np.concatenate(picked)
    wanted = there.names[classes]
    probes = np.flatnonzero(np.isin(others.names[others.labels], wanted))
    if others is there:
        probes = np.setdiff1d(probes, enrolled)
    return there, enrolled, others, chance.permutation(probes)[:PROBES], *apart


def measure(name: str, shots: int, seed: int) -> dict[str, float]:
    """Per cent named rightly by the global score alone and with votes, and the weight."""
    there, enrolled, others, probes, first, second = drawn(name, shots, seed)
    names, labels = np.unique(there.names[there.labels[enrolled]], return_inverse=True)
    vectors, places = there.descriptors[enrolled], places_of(first, name)[enrolled]
    apply = metric(vectors, labels)
    gallery = Gallery(apply(vectors), places, labels)
    looks = left_out(vectors, places, labels, seed)
    learned, one = closer.learn_weight(looks), closer.unit_weight(looks)
    seen, shown = apply(others.descriptors[probes]), places_of(second, name)[probes]
    weights = {"global": 0.0, "closer": learned.weight}
    weights |= {f"× {multiple:g}": multiple * one for multiple in MULTIPLES}
    right = dict.fromkeys(weights, 0)
    for vector, own, truth in zip(seen, shown, others.names[others.labels[probes]], strict=True):
        identities, scores, votes = gallery.look(vector, own)
        for kind, weight in weights.items():
            best = closer.fused(scores, votes, weight).argmax()
            right[kind] += bool(names[identities[best]] == truth)
    result = {kind: 100 * count / len(probes) for kind, count in right.items()}
    return result | {"multiple": learned.weight / one if one else 0.0}


def seconds_a_probe(repeats: int) -> dict[str, float]:
    """Milliseconds to unpack 50 candidates and to let 49 places vote, and for both; medians."""
    chance = np.random.default_rng(0)
    places = closer.units(chance.normal(size=(51, 49, DIMENSION)))
    packed, owners = [closer.pack(one) for one in places[1:]], np.arange(50)
    taken: list[tuple[float, float, float]] = []
    for _ in range(repeats):
        begun = time.perf_counter()
        items = closer.unpack(packed)
        between = time.perf_counter()
        closer.votes(places[0], items, owners)
        done = time.perf_counter()
        taken.append((between - begun, done - between, done - begun))
    medians = [1000 * statistics.median(column) for column in zip(*taken, strict=True)]
    return dict(zip(("unpack", "vote", "both"), medians, strict=True))


def main() -> None:
    arguments = parser(__doc__, repeats=20)
    arguments.add_argument("--set", nargs="*", choices=SETS, default=list(SETS))
    arguments.add_argument("--skip-views", action="store_true")
    options = arguments.parse_args()
    # What is not measured now stays as it was measured before.
    stored = RESULTS / "closer.json"
    results: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {}
    results["features"] = "EfficientNet-Lite0, ImageNet-1k, not trained further; 224 px"
    results["milliseconds"] = seconds_a_probe(200)
    sets = results.setdefault("sets", {})
    for name in options.set:
        for shots in SETS[name]:
            draws = [measure(name, shots, seed) for seed in range(options.repeats)]
            sets[f"{name}, {shots}"] = draws
            print(*row(f"{name}, {shots}", draws), file=sys.stderr, flush=True)
    kinds = ("global", "closer", *(f"× {multiple:g}" for multiple in MULTIPLES), "multiple")
    rows = [row(name, draws) for name, draws in sets.items()]
    table("Named rightly, %", ("set, pictures", "draws", "gain", *kinds), rows)
    print(f"\nmilliseconds a probe: {results['milliseconds']}")
    if not options.skip_views:
        results["views"] = closer_views.measured(options.repeats)
    write_results("closer", options.encoder, results)


def row(name: str, draws: list[dict[str, float]]) -> list[object]:
    """Means over draws, the gain with its standard error."""
    means = {kind: statistics.fmean(draw[kind] for draw in draws) for kind in draws[0]}
    gains = [draw["closer"] - draw["global"] for draw in draws]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    gain = f"{statistics.fmean(gains):+.1f} ± {error:.1f}"
    return [name, len(draws), gain, *(f"{value:.2f}" for value in means.values())]


if __name__ == "__main__":
    main()
