"""What does `export --protect` cost in accuracy, and what does it keep from whom?

    python benchmarks/protection.py [--encoder general-2] [--repeats 5]

The photos of the Grocery training set: half of each class is enrolled in a gallery, the other half
is asked about, and is a second gallery of the same things. A repeat draws new keys.

- Accuracy: the gallery is shared, restored and asked, with the key, by the same embeddings.
- Linkability: cosines between the two galleries' items, of the same class and of others. The area
  under the ROC curve (0.5 is chance), and the global measure D_sys of Gomez-Barrero et al. (2018),
  General framework to evaluate unlinkability in biometric template protection systems: 0 is
  unlinkable, 1 fully linkable; and D_sys of shuffled classes, which is what so many pairs make of
  chance.
- Attacks by who knows more than a protected gallery: pairs of embeddings with their rotated ones
  (orthogonal Procrustes); pictures of the same kind and the encoder (principal axes aligned, then
  refined by mutual nearest neighbours; Liu, Giannella & Kargupta 2006, An attacker's view of
  distance preserving maps); another gallery of the very same pictures (each item known by its
  cosines to all others). The cosine is that of what was rotated back and the true embeddings.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from common import Bars, grocery_split, parser, table, write_results

from siamese_search import Encoder, Gallery
from siamese_search.arrays import BoolArray, DoubleArray, FloatArray, IntArray
from siamese_search.embedding.protection import Key, rotated

BINS = 100
ROUNDS = 20  # of refinement
SHARES = (0.25, 0.5, 0.9, 1.0, 1.5)  # of the dimension, of pairs that somebody knows


def area(scores: DoubleArray, mated: BoolArray) -> float:
    """Under the ROC curve: how often a mated pair scores more, ties by half."""
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    count = int(mated.sum())
    above = ranks[mated].sum() - count * (count + 1) / 2
    return float(above / (count * (len(scores) - count)))


def linkability(scores: DoubleArray, mated: BoolArray) -> float:
    """D_sys with equal priors: what a score tells of being mated, the mean over mated pairs."""
    edges = np.histogram_bin_edges(scores, BINS)
    same = np.histogram(scores[mated], edges)[0] / mated.sum()
    others = np.histogram(scores[~mated], edges)[0] / (~mated).sum()
    posterior = np.divide(same, same + others, out=np.zeros(BINS), where=same > 0)
    return float((same * np.maximum(0, 2 * posterior - 1)).sum())


def procrustes(there: FloatArray, here: FloatArray) -> DoubleArray:
    """The rotation that takes ``there`` (n, d) nearest to ``here`` (n, d)."""
    left, _, right = np.linalg.svd(there.T.astype(np.float64) @ here)
    rotation: DoubleArray = left @ right
    return rotation


def aligned(there: FloatArray, here: FloatArray) -> DoubleArray:
    """The same without known pairs, of pictures of the same kind."""
    axes = []
    for side in (there, here):
        found = np.linalg.eigh(side.T.astype(np.float64) @ side)[1][:, ::-1]
        skew = ((side @ found) ** 3).sum(axis=0)
        axes.append(found * np.where(skew < 0, -1, 1))
    rotation: DoubleArray = axes[0] @ axes[1].T
    for _ in range(ROUNDS):
        scores = (there @ rotation) @ here.T
        forth, back = scores.argmax(axis=1), scores.argmax(axis=0)
        mutual = np.flatnonzero(back[forth] == np.arange(len(there)))
        rotation = procrustes(there[mutual], here[forth[mutual]])
    return rotation


def recovered(protected: FloatArray, rotation: DoubleArray, true: FloatArray) -> float:
    """The mean cosine of what is rotated back and what was there."""
    return float(((protected @ rotation) * true).sum(axis=1).mean())


class Answers:
    """What a gallery answers to embeddings."""

    def __init__(self, gallery: Gallery, probes: FloatArray) -> None:
        self.ranks = [
            [match.identity for match in found.matches]
            for found in gallery.identify_embeddings(probes, k=10)
        ]


def accuracy(
    encoder: Encoder, items: FloatArray, names: list[str], probes: FloatArray, own: list[str]
) -> dict[str, float]:
    """Shares of probes: named rightly before and with the key, and with ten equal ranks."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        with Gallery.open(place / "plain", encoder) as plain:
            plain.enroll_embeddings(items, names)
            before = Answers(plain, probes).ranks
            plain.share(place / "shared.zip", key=place / "key")
        Gallery.restore(place / "shared.zip", place / "new")
        key = Key.read(place / "key")
        turned = rotated(probes, key.rotation(encoder.dimension))
        with Gallery.open(place / "new", encoder.protected(key)) as new:
            after = Answers(new, turned).ranks
    right = [
        fmean(rank[0] == name for rank, name in zip(ranks, own, strict=True))
        for ranks in (before, after)
    ]
    equal = fmean(a == b for a, b in zip(before, after, strict=True))
    return {"recall@1": right[0], "recall@1 with the key": right[1], "ten equal ranks": equal}


def drawn(dimension: int) -> DoubleArray:
    """The rotation of a new key."""
    with tempfile.TemporaryDirectory() as scratch:
        return Key.made(Path(scratch, "key")).rotation(dimension)


def once(items: FloatArray, probes: FloatArray, mated: BoolArray, chance: Any) -> dict[str, float]:
    """One draw of keys."""
    width = items.shape[1]
    first, second = drawn(width), drawn(width)
    a, b, b_same = rotated(items, first), rotated(probes, second), rotated(probes, first)
    found: dict[str, float] = {}
    for name, one, other in (
        ("unprotected", items, probes),
        ("one key", a, b_same),
        ("two keys", a, b),
    ):
        scores = (one @ other.T).ravel().astype(np.float64)
        found[f"AUC, {name}"] = area(scores, mated)
        found[f"D_sys, {name}"] = linkability(scores, mated)
        if name == "two keys":
            found["D_sys, shuffled"] = linkability(scores, chance.permutation(mated))
    order = chance.permutation(len(items))
    for share in SHARES:
        known, rest = np.split(order, [round(share * width)])
        rotation = procrustes(a[known], items[known])
        found[f"cosine, pairs known: {share:g} d"] = recovered(a[rest], rotation, items[rest])
    rotation = aligned(a, probes)
    found["cosine, pictures of the same kind"] = recovered(a, rotation, items)
    scores = ((a @ rotation) @ probes.T).ravel().astype(np.float64)
    found["AUC, pictures of the same kind"] = area(scores, mated)
    again = rotated(items, second)[order]
    profiles = [np.sort(side @ side.T, axis=1) for side in (a, again)]
    gaps = (profiles[0] ** 2).sum(1)[:, None] - 2 * profiles[0] @ profiles[1].T
    nearest: IntArray = (gaps + (profiles[1] ** 2).sum(1)).argmin(axis=1)
    found["linked rightly, the same pictures"] = float((order[nearest] == np.arange(len(a))).mean())
    return found


def main() -> None:
    arguments = parser(__doc__, repeats=5)
    arguments.set_defaults(encoder="general-2")
    chosen = arguments.parse_args()
    encoder = Encoder.open(chosen.encoder)
    photos = sorted(grocery_split("train"), key=lambda photo: photo.fine)
    vectors = encoder.embed([photo.path for photo in photos])
    names = np.array([photo.fine for photo in photos])
    items, probes, enrolled, own = vectors[::2], vectors[1::2], names[::2], names[1::2]
    mated = (enrolled[:, None] == own).ravel()
    right = accuracy(encoder, items, enrolled.tolist(), probes, own.tolist())
    chance = np.random.default_rng(0)
    runs = [once(items, probes, mated, chance) for _ in range(chosen.repeats)]
    means = {name: fmean(run[name] for run in runs) for name in runs[0]}
    table(
        f"{len(items)} items, {len(probes)} probes, {len(set(names))} identities, {encoder.name}",
        ["what", "figure"],
        [[name, f"{value:.3f}"] for name, value in (right | means).items()],
    )
    bars = Bars()
    bars.at_least("probes with ten equal ranks", right["ten equal ranks"], 0.99)
    bars.at_most("AUC between two keys, from 0.5", abs(means["AUC, two keys"] - 0.5), 0.05)
    bars.show()
    facts = {"accuracy": right, "runs": runs, "means": means, "bars": bars.rows}
    write_results("protection", chosen.encoder, facts)


if __name__ == "__main__":
    main()
