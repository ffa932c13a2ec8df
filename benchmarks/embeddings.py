"""Embeddings by the million: the encoder's own, extended to scale so that they stay realistic.

The real ones are those of every Grocery training and test photo and of the birds 101 to 200. Of
them come the identities' means, the items' *residuals* (what an item differs by from its
identity's mean) and the pooled covariance within identities. Then

- a new identity's mean is a convex combination of two real identities' means, its share uniform,
  which is Dirichlet(1, 1);
- each of its ten items adds sqrt(t) a + sqrt(1 - t) b, t uniform, a and b residuals of random items
  of one of the two, and Gaussian noise of ``noise`` times the pooled covariance; then it is scaled
  to unit length.

At the default ``noise`` as many extended embeddings as there are real ones have a greater local
intrinsic dimension than these, so that searching them is no easier; with a noise at which they have
not, scripts stop. It is the maximum likelihood over the 20 nearest neighbours (Levina & Bickel
2004), the median of 500 items. What it is at that number with as many items an identity as the real
have, rather than ten, is kept beside it, and what it is at each size. Probes are further items of
enrolled identities, drawn likewise. Everything is made in blocks that depend on the seed and their
number alone: a smaller set is the beginning of a larger one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import faiss
import numpy as np
from common import ROOT, cub_classes, grocery_split

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray, IntArray
from siamese_search.gallery.compaction import Compaction

K = 10  # neighbours that are searched
ITEMS = 10  # of an identity
PROBES = 1000
BLOCK = 2000  # identities made at a time
NEIGHBOURS = 20
SAMPLE = 500
NOISE = 0.3
SCAN = 50_000  # vectors compared at a time
# What the randomness is for, so that no two draws share any.
IDENTITIES, ENROLLED, ASKED, SAMPLES = range(4)


class Extended:
    """Items of identities that do not exist, made of real embeddings (n, d) and their classes."""

    def __init__(self, vectors: FloatArray, classes: IntArray, noise: float, seed: int) -> None:
        order = np.argsort(classes, kind="stable")
        vectors, classes = vectors[order], classes[order]
        self._seed = seed
        self._counts = np.bincount(classes)
        self._starts = np.cumsum(self._counts) - self._counts
        sums = np.add.reduceat(vectors, self._starts)
        self._means = (sums / self._counts[:, None]).astype(np.float32)
        self._residuals = vectors - self._means[classes]
        freedom = len(vectors) - len(self._means)
        values, directions = np.linalg.eigh(self._residuals.T @ self._residuals / freedom)
        root = directions * np.sqrt(noise * np.maximum(values, 0))
        self._root: FloatArray = np.ascontiguousarray(root.T, np.float32)

    def blocks(self, size: int, each: int = ITEMS) -> Iterator[FloatArray]:
        """The first ``size`` items, ``each`` an identity, as float32 (n, d) of unit length."""
        for block in range(-(-size // (BLOCK * each))):
            means, parents = self._identities(block)
            chance = np.random.default_rng([self._seed, ENROLLED, block])
            left = size - block * BLOCK * each
            means, parents = means.repeat(each, axis=0)[:left], parents.repeat(each)[:left]
            yield self._items(chance, means, parents)

    def probes(self, count: int, size: int) -> FloatArray:
        """Further items of random identities among those of the first ``size`` items."""
        chance = np.random.default_rng([self._seed, ASKED])
        wanted = np.sort(chance.integers(0, max(1, size // ITEMS), count))
        parts = []
        for block in np.unique(wanted // BLOCK):
            means, parents = self._identities(int(block))
            rows = wanted[wanted // BLOCK == block] % BLOCK
            parts.append(self._items(chance, means[rows], parents[rows]))
        return np.concatenate(parts)

    def _identities(self, block: int) -> tuple[FloatArray, IntArray]:
        """The means of a block's identities, and the real one that gives the residuals."""
        chance = np.random.default_rng([self._seed, IDENTITIES, block])
        first = chance.integers(0, len(self._means), BLOCK)
        second = (first + chance.integers(1, len(self._means), BLOCK)) % len(self._means)
        share = chance.random((BLOCK, 1), np.float32)
        return share * self._means[first] + (1 - share) * self._means[second], first

    def _items(
        self, chance: np.random.Generator, means: FloatArray, parents: IntArray
    ) -> FloatArray:
        """One item about each mean."""

        def residuals() -> FloatArray:
            inside = (chance.random(len(parents)) * self._counts[parents]).astype(np.int64)
            chosen: FloatArray = self._residuals[self._starts[parents] + inside]
            return chosen

        share = chance.random((len(means), 1), np.float32)
        vectors = means + np.sqrt(share) * residuals() + np.sqrt(1 - share) * residuals()
        vectors += chance.standard_normal(means.shape, np.float32) @ self._root
        unit: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


# How near they are to each other


def nearest(queries: FloatArray, vectors: FloatArray, k: int) -> FloatArray:
    """The k highest cosines of each query, best first, by comparing with every vector."""
    best = np.empty((len(queries), 0), np.float32)
    for begin in range(0, len(vectors), SCAN):
        block = np.ascontiguousarray(vectors[begin : begin + SCAN])
        cosines, _ = faiss.knn(queries, block, min(k, len(block)), faiss.METRIC_INNER_PRODUCT)
        best = -np.sort(-np.concatenate([best, cosines], axis=1), axis=1)[:, :k]
    return best


def neighbourhood(vectors: FloatArray, seed: int) -> dict[str, float]:
    """The local intrinsic dimension, and how near the neighbours are."""
    chance = np.random.default_rng([seed, SAMPLES])
    rows = np.sort(chance.choice(len(vectors), min(SAMPLE, len(vectors)), replace=False))
    cosines = nearest(vectors[rows], vectors, NEIGHBOURS + 1)[:, 1:]  # the first is itself
    distances = np.sqrt(np.maximum(2 - 2 * cosines.astype(np.float64), 1e-12))
    spread = np.log(distances[:, -1:] / distances[:, :-1]).mean(axis=1)
    return {
        "items": len(vectors),
        "local dimension": float(np.median(1 / np.maximum(spread, 1e-12))),
        "cosine to the 1st": float(cosines[:, 0].mean()),
        "cosine to the 10th": float(cosines[:, K - 1].mean()),
    }


# Kept in a folder, since making them takes minutes


@dataclass(frozen=True)
class Sized:
    """The embeddings of one size, as files: ``vectors.f32`` has the bare float32 (size, d)."""

    folder: Path
    encoder: str
    dimension: int
    size: int

    @property
    def vectors(self) -> FloatArray:
        """All of them, mapped."""
        shape = (self.size, self.dimension)
        return np.memmap(self.folder / "vectors.f32", np.float32, "r", shape=shape)

    def chunks(self) -> Iterator[FloatArray]:
        """All of them in turn, read rather than mapped, so that they do not count as resident."""
        with open(self.folder / "vectors.f32", "rb") as file:
            for begin in range(0, self.size, BLOCK * ITEMS):
                count = min(BLOCK * ITEMS, self.size - begin)
                yield np.fromfile(file, np.float32, count * self.dimension).reshape(count, -1)

    @property
    def probes(self) -> FloatArray:
        vectors: FloatArray = np.load(self.folder / "probes.npy")
        return vectors

    @property
    def tenth(self) -> FloatArray:
        """The cosine of each probe's tenth nearest item, by exact search."""
        cosines: FloatArray = np.load(self.folder / "tenth.npy")
        return cosines


class Work:
    """The folder where an encoder's embeddings are kept, with what is known of them."""

    def __init__(self, folder: Path, encoder: Encoder, seed: int, noise: float = NOISE) -> None:
        self._real = folder / f"{encoder.name}-{encoder.fingerprint[:8]}"
        self.folder = self._real / f"seed-{seed}-noise-{noise:g}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._encoder = encoder
        self._seed = seed
        self.facts: dict[str, dict[str, float]]
        self.extended = self._extended(*self._embedded(), noise)

    def _embedded(self) -> tuple[FloatArray, IntArray]:
        """The real embeddings and their classes."""
        path = self._real / "real.npz"
        if not path.exists():
            photos = [*grocery_split("train"), *grocery_split("test")]
            photos += [photo for birds in cub_classes()[100:] for photo in birds]
            print(f"embedding {len(photos)} photos", file=sys.stderr)
            _, classes = np.unique([photo.fine for photo in photos], return_inverse=True)
            vectors = self._encoder.embed([photo.path for photo in photos])
            temporary = path.with_name("unfinished.npz")
            np.savez(temporary, vectors=vectors, classes=classes)
            temporary.replace(path)
        with np.load(path) as kept:
            return kept["vectors"], kept["classes"]

    def _extended(self, vectors: FloatArray, classes: IntArray, noise: float) -> Extended:
        """Of the real ones; ends the script if they are easier to search than these."""
        extended = Extended(vectors, classes, noise, self._seed)
        path = self.folder / "facts.json"
        if not path.exists():
            real, each = len(vectors), round(len(vectors) / len(np.unique(classes)))
            self.facts = {
                "real": neighbourhood(vectors, self._seed),
                "extended": neighbourhood(np.concatenate([*extended.blocks(real)]), self._seed),
                f"extended, {each} an identity": neighbourhood(
                    np.concatenate([*extended.blocks(real, each)]), self._seed
                ),
            }
            path.write_text(json.dumps(self.facts))
        self.facts = json.loads(path.read_text())
        if self.facts["extended"]["local dimension"] < self.facts["real"]["local dimension"]:
            sys.exit(f"embeddings extended with noise {noise} are easier to search: {self.facts}")
        return extended

    def sized(self, size: int) -> tuple[Sized, dict[str, float]]:
        """The embeddings of one size and their neighbourhood, made unless they are there."""
        folder = self.folder / str(size)
        sized = Sized(folder, str(self._encoder.folder), self._encoder.dimension, size)
        facts = folder / "facts.json"
        if not facts.exists():
            print(f"making {size} embeddings", file=sys.stderr)
            folder.mkdir(exist_ok=True)
            with open(folder / "vectors.f32", "wb") as file:
                for block in self.extended.blocks(size):
                    block.tofile(file)
            vectors = self.extended.probes(PROBES, size)
            np.save(folder / "probes.npy", vectors)
            np.save(folder / "tenth.npy", nearest(vectors, sized.vectors, K)[:, -1])
            facts.write_text(json.dumps(neighbourhood(sized.vectors, self._seed)))
        return sized, json.loads(facts.read_text())


def work_argument(arguments: argparse.ArgumentParser) -> None:
    default = ROOT / "runs" / "search"
    arguments.add_argument(
        "--work",
        type=Path,
        default=default,
        metavar="DIR",
        help=f"what takes long to make is kept there, default {default.relative_to(ROOT)}",
    )


def enrol(folder: Path, encoder: str, blocks: Iterable[FloatArray]) -> dict[str, Any]:
    """Enrol blocks of embeddings, ten an identity, and compact: item numbers and seconds.

    One compaction, at the end: those on the way would time what nobody waits for here.
    """
    numbers: list[int] = []
    names = (f"identity {number // ITEMS}" for number in iter(range(2**62)))
    begun = time.perf_counter()
    with Gallery.open(folder, encoder) as gallery:
        with patch.object(Compaction, "is_due", return_value=False):
            for block in blocks:
                numbers += gallery.enroll_embeddings(block, [*islice(names, len(block))])
        enrolled = time.perf_counter()
        gallery.compact()
        done = time.perf_counter()
    return {"items": numbers, "enrol": enrolled - begun, "compact": done - enrolled}
