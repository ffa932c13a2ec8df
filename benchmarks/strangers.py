"""How often do the bounds hold that a benchmark gives for the rate of strangers that are named?

    python benchmarks/strangers.py [--repeats 2] [--encoder general-2]

Groceries (photos of train.txt and test.txt) and birds (the last hundred kinds): five photos of half
of the classes are enrolled, the other classes are strangers, 15 photos each. Thresholds are set so
that 1, 5, 10 or 20 % of the strangers' photos are named: the true rates. Then 3, 6 or 12 strangers
are drawn, 200 times, with 5 or 15 photos each, and the bounds are those that these alone suggest:
with photos of one thing counted as few strangers, as siasearch does, and with each counted as one.
How alike photos of one stranger are is the intraclass correlation of whether they are named.
"""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from common import cub_classes, grocery_split, parser, table, write_results

from siamese_search import Encoder, Gallery
from siamese_search.arrays import BoolArray, DoubleArray, FloatArray
from siamese_search.decision.evidence import evidence_of
from siamese_search.decision.strangers import counted_bounds

RATES = (0.01, 0.05, 0.1, 0.2)
THINGS, PHOTOS = (3, 6, 12), (5, 15)
SHOTS, MOST = 5, 15  # photos enrolled of each class, and of each stranger
DRAWS = 200


class Held(NamedTuple):
    """How often bounds held in one setting: by things, and with each photo as a stranger."""

    set: str
    seed: int
    rate: float
    alike: float
    things: int
    photos: int
    by_things: float
    by_photos: float


def classes_of(name: str) -> dict[str, list[str]]:
    """The photos of each class of a set, those that have enough."""
    found = defaultdict(list)
    if name == "groceries":
        photos = [*grocery_split("train"), *grocery_split("test")]
    else:
        photos = [photo for kind in cub_classes()[100:] for photo in kind]
    for photo in photos:
        found[photo.fine].append(photo.path)
    chance = random.Random(0)
    return {
        label: chance.sample(paths, MOST) for label, paths in found.items() if len(paths) >= MOST
    }


def evidence(encoder: Encoder, vectors: dict[str, FloatArray], seed: int) -> DoubleArray:
    """That of strangers (things, photos), to a gallery of the other half of the classes."""
    order = np.random.default_rng(seed).permutation(sorted(vectors)).tolist()
    enrolled, strange = order[: len(order) // 2], order[len(order) // 2 :]
    with tempfile.TemporaryDirectory() as place, Gallery.open(place, encoder) as gallery:
        for label in enrolled:
            gallery.enroll_embeddings(vectors[label][:SHOTS], [label] * SHOTS)
        answers = [gallery.identify_embeddings(vectors[label], k=2) for label in strange]
    return np.array([[evidence_of(one.matches) for one in each] for each in answers])


def likeness(named: BoolArray) -> float:
    """The intraclass correlation of what is ``named`` (things, photos)."""
    share, within = named.mean(), named.mean(axis=1)
    noise = (within * (1 - within)).mean() / (named.shape[1] - 1)
    return float((within.var(ddof=1) - noise) / (share * (1 - share)))


def held(name: str, seed: int, shown: DoubleArray) -> Iterator[Held]:
    chance = np.random.default_rng(seed)
    for rate in RATES:
        named = shown >= np.quantile(shown, 1 - rate)
        true = float(named.mean())
        for things in THINGS:
            for photos in PHOTOS:
                hits = np.zeros(2)
                for _ in range(DRAWS):
                    drawn = named[chance.integers(len(named), size=things)]
                    seen = np.concatenate([chance.permutation(row)[:photos] for row in drawn])
                    for way, groups in enumerate(
                        (np.arange(things).repeat(photos), np.arange(len(seen)))
                    ):
                        low, high = counted_bounds(seen, groups)
                        hits[way] += low <= true <= high
                by_things, by_photos = (hits / DRAWS).tolist()
                yield Held(name, seed, rate, likeness(named), things, photos, by_things, by_photos)


def main() -> None:
    options = parser(__doc__, repeats=2)
    options.set_defaults(encoder="general-2")
    chosen = options.parse_args()
    encoder = Encoder.open(chosen.encoder)
    found: list[Held] = []
    for name in ("groceries", "birds"):
        photos = classes_of(name)
        vectors = {label: encoder.embed(paths) for label, paths in photos.items()}
        for seed in range(chosen.repeats):
            found += held(name, seed, evidence(encoder, vectors, seed))
            print(f"{name}, draw {seed + 1} of {chosen.repeats}", flush=True)
    rows = []
    for name in ("groceries", "birds"):
        for rate in RATES:
            own = [one for one in found if (one.set, one.rate) == (name, rate)]
            alike = [one.alike for one in own]
            rows.append((
                name, f"{rate:.0%}", f"{min(alike):.2f} to {max(alike):.2f}",
                *(f"{100 * np.mean([getattr(one, way) for one in own]):.0f}"
                  f" ({100 * min(getattr(one, way) for one in own):.0f})"
                  for way in ("by_things", "by_photos")),
            ))  # fmt: skip
    header = ("strangers", "rate", "photos alike", "by things", "by photos")
    table("Bounds that held, per cent of draws, mean (and least) over settings", header, rows)
    raw = [one._asdict() for one in found]
    write_results("strangers", chosen.encoder, {"draws": DRAWS, "raw": raw})


if __name__ == "__main__":
    main()
