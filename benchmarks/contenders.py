"""What is compared in searching: each is built once, left in a folder and opened from there.

Each takes the float32 embeddings of ``Sized`` and finds the ``K`` nearest of queries. Packages
other than our own are imported when a contender is made, not before.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import faiss
import numpy as np
from embeddings import K, Sized, enrol

from siamese_search import Gallery
from siamese_search.arrays import FloatArray, IntArray
from siamese_search.index import SearchIndex

THREADS = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
EXACT = ("Flat", "SQfp16")
MOST_EFFORT = 4096


class Contender:
    """Something that finds the nearest neighbours among the embeddings of one size."""

    def __init__(self, sized: Sized, name: str) -> None:
        self.sized = sized
        self.folder = sized.folder / name

    @property
    def stamp(self) -> str:
        """What building depends on besides the embeddings."""
        return ""

    def build(self) -> dict[str, float]:
        """Leave an index in the folder; returns the seconds of it, and of its parts."""
        raise NotImplementedError

    def open(self) -> None:
        """Get ready to search."""
        raise NotImplementedError

    def search(self, queries: FloatArray) -> Any:
        """The K nearest of each query, as its interface returns them (q, K)."""
        raise NotImplementedError

    def rows(self, found: Any) -> IntArray:
        """What ``search`` returned as rows of the embeddings."""
        return np.asarray(found, np.int64)

    def set_effort(self, effort: int) -> None:
        """How far to search; more finds more and takes longer."""
        raise NotImplementedError

    @property
    def settings(self) -> dict[str, Any]:
        """What its speed and recall depend on."""
        return {}


# Ours


class Recipe(NamedTuple):
    """What our index is: a FAISS factory string, and how far it searches and scores again."""

    file: str
    factory: str
    effort: int | None
    candidates: int  # scored again from float32

    @property
    def exact(self) -> bool:
        return self.factory in EXACT


def recipe(gallery: Gallery) -> tuple[Recipe, Any]:
    """What the index of a gallery is, and the opened base, whose ``index`` is FAISS's."""
    info = gallery.info()
    base = SearchIndex.read(gallery.folder / str(info.index), info.dimension).base
    assert base is not None
    tuning = base.tuning
    found = Recipe(str(info.index), tuning.recipe, tuning.effort, K + tuning.spare)
    return found, base


class Ours(Contender):
    """``Gallery.search`` in an open gallery."""

    def __init__(self, sized: Sized, name: str = "ours") -> None:
        super().__init__(sized, name)
        self.gallery = self.folder / "gallery"

    def build(self) -> dict[str, float]:
        done = enrol(self.gallery, self.sized.encoder, self.sized.chunks())
        np.save(self.folder / "items.npy", np.array(done["items"], np.int64))
        return {"seconds": done["compact"], "enrolling": done["enrol"]}

    def open(self) -> None:
        self._opened = Gallery.open(self.gallery)

    def search(self, queries: FloatArray) -> Any:
        return self._opened.search(queries, K)[0]

    def rows(self, found: Any) -> IntArray:
        items: IntArray = np.load(self.folder / "items.npy")
        rows: IntArray = np.searchsorted(items, found)
        return rows

    @property
    def settings(self) -> dict[str, Any]:
        facts = recipe(self._opened)[0]._asdict()
        return {**facts, "recall as built": self._opened.info().recall}


def our_recipe(sized: Sized) -> Recipe:
    """The recipe of the gallery that has been built already."""
    with Gallery.open(Ours(sized).gallery) as gallery:
        return recipe(gallery)[0]


# FAISS by itself


class Faiss(Contender):
    """A FAISS index, kept in a file of its own."""

    def __init__(self, sized: Sized, name: str) -> None:
        super().__init__(sized, name)
        faiss.omp_set_num_threads(THREADS)

    def make(self) -> Any:
        raise NotImplementedError

    def build(self) -> dict[str, float]:
        begun = time.perf_counter()
        index = self.make()
        for chunk in self.sized.chunks():
            index.add(chunk)
        took = time.perf_counter() - begun
        faiss.write_index(index, str(self.folder / "index"))
        return {"seconds": took}

    def open(self) -> None:
        self.index: Any = faiss.downcast_index(self._read())

    def _read(self) -> Any:
        self._owner = faiss.read_index(str(self.folder / "index"))
        return self._owner

    def search(self, queries: FloatArray) -> Any:
        return self.index.search(queries, K)[1]


class ExactFloat(Faiss):
    """Exact search in float32: the reference."""

    def make(self) -> Any:
        return faiss.IndexFlatIP(self.sized.dimension)


class HalfPrecision(Faiss):
    """The vectors in half precision, as our exact recipe stores them, without scoring again."""

    def make(self) -> Any:
        kind = faiss.ScalarQuantizer.QT_fp16
        return faiss.IndexScalarQuantizer(self.sized.dimension, kind, faiss.METRIC_INNER_PRODUCT)


class SameIndex(Faiss):
    """The very index and effort of ours, its candidates scored again by FAISS."""

    @property
    def stamp(self) -> str:
        return our_recipe(self.sized).file

    def build(self) -> dict[str, float]:
        begun = time.perf_counter()
        with Gallery.open(Ours(self.sized).gallery) as gallery:
            ours, base = recipe(gallery)
        # By the same measure: distances of vectors of unit length rank as cosines do.
        flat = faiss.IndexFlat(self.sized.dimension, base.index.metric_type)
        for chunk in self.sized.chunks():
            flat.add(chunk)
        index = faiss.IndexRefine(base.index, flat)
        index.k_factor = ours.candidates / K
        faiss.write_index(index, str(self.folder / "index"))
        return {"seconds": time.perf_counter() - begun}

    @property
    def settings(self) -> dict[str, Any]:
        return {"k_factor": self.index.k_factor}


# What people would use instead


class Hnswlib(Contender):
    """hnswlib's graph, in float32."""

    def __init__(self, sized: Sized, name: str, links: int) -> None:
        super().__init__(sized, name)
        self._library = importlib.import_module("hnswlib")
        self._links = links

    def _empty(self) -> Any:
        index = self._library.Index("ip", self.sized.dimension)
        index.set_num_threads(THREADS)
        return index

    def build(self) -> dict[str, float]:
        begun = time.perf_counter()
        index = self._empty()
        index.init_index(self.sized.size, M=self._links, ef_construction=100, random_seed=1)
        for chunk in self.sized.chunks():
            index.add_items(chunk)
        took = time.perf_counter() - begun
        index.save_index(str(self.folder / "index"))
        return {"seconds": took}

    def open(self) -> None:
        self._index = self._empty()
        self._index.load_index(str(self.folder / "index"))

    def search(self, queries: FloatArray) -> Any:
        return self._index.knn_query(queries, K)[0]

    def set_effort(self, effort: int) -> None:
        self._index.set_ef(effort)

    @property
    def settings(self) -> dict[str, Any]:
        return {"M": self._links, "efConstruction": 100, "ef": self._index.ef}


class Usearch(Contender):
    """usearch's graph, at its default connectivity."""

    def __init__(self, sized: Sized, name: str, dtype: str) -> None:
        super().__init__(sized, name)
        self._library = importlib.import_module("usearch.index")
        self._dtype = dtype

    def _empty(self) -> Any:
        return self._library.Index(ndim=self.sized.dimension, metric="ip", dtype=self._dtype)

    def build(self) -> dict[str, float]:
        begun = time.perf_counter()
        index, first = self._empty(), 0
        for chunk in self.sized.chunks():
            index.add(np.arange(first, first + len(chunk)), chunk, threads=THREADS)
            first += len(chunk)
        took = time.perf_counter() - begun
        index.save(str(self.folder / "index"))
        return {"seconds": took}

    def open(self) -> None:
        self._index = self._empty()
        self._index.load(str(self.folder / "index"))

    def search(self, queries: FloatArray) -> Any:
        # It would start its threads for a single query too, which takes longer than searching.
        return self._index.search(queries, K, threads=min(THREADS, len(queries))).keys

    def set_effort(self, effort: int) -> None:
        self._index.expansion_search = effort

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "connectivity": self._index.connectivity,
            "expansion_add": self._index.expansion_add,
            "expansion_search": self._index.expansion_search,
            "dtype": self._dtype,
        }


def effort_for(target: float, recall: Callable[[int], float]) -> int:
    """The least effort, to a twentieth, whose recall reaches the target, or the most there is."""
    low, high = K - 1, K
    while recall(high) < target:
        if high >= MOST_EFFORT:
            return high
        low, high = high, min(2 * high, MOST_EFFORT)
    while high - low > max(1, high // 20):
        middle = (low + high) // 2
        low, high = (low, middle) if recall(middle) >= target else (middle, high)
    return high


class Kind(NamedTuple):
    """A contender by name: what makes it, and the package that it needs."""

    make: Callable[[Sized, str], Contender]
    package: str = "faiss"
    exhaustive: bool = False  # looks at every vector
    tuned: bool = False  # has an effort to raise until the recall is reached


OURS, REFERENCE, HALF, SAME = "ours", "exact", "fp16", "same"
KINDS = {
    OURS: Kind(Ours),
    REFERENCE: Kind(ExactFloat, exhaustive=True),
    HALF: Kind(HalfPrecision, exhaustive=True),
    SAME: Kind(SameIndex),
    "hnswlib-16": Kind(partial(Hnswlib, links=16), "hnswlib", tuned=True),
    "hnswlib-32": Kind(partial(Hnswlib, links=32), "hnswlib", tuned=True),
    "usearch-f32": Kind(partial(Usearch, dtype="f32"), "usearch.index", tuned=True),
    "usearch-f16": Kind(partial(Usearch, dtype="f16"), "usearch.index", tuned=True),
}


def contender(sized: Sized, name: str) -> Contender:
    return KINDS[name].make(sized, name)
