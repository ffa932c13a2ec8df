"""Recipes: which FAISS index a base has, trained and tuned to a recall that is measured.

Up to 100,000 items, half precision is scanned and what may be near scored again: that is exact.
Above, inverted lists of projections with 4-bit product quantisation (Jégou et al. 2011; André et
al. 2017 for the scan in registers), whose candidates are scored again from float32. Knows nothing
of files and item numbers.
"""

from __future__ import annotations

import functools
import logging
import math
import mmap
import re
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np

from siamese_search import machine
from siamese_search.arrays import FloatArray, IntArray
from siamese_search.errors import UsageError
from siamese_search.index.contract import AUTO, Wanted
from siamese_search.index.kernels import ROUNDING, approximate, products, scan
from siamese_search.index.lists import effort_name, set_effort
from siamese_search.index.segments import Tuning

log = logging.getLogger("siasearch")

EXACT = "SQfp16"
K = 10
EXACT_RECIPES = (EXACT, "Flat")
EXACT_AT_MOST = 100_000
APPROXIMATE_AT_LEAST = 1000  # fewer are searched in no time, and little can be learned from them
# What FAISS takes without a word and ends the process over, or fills the memory with.
BOUNDS = {
    "IVF": (1, 1 << 22),
    "HNSW": (2, 512),
    "NSG": (16, 512),
    "x": (1, 24),  # bits of a code
    "fs_": (1, 1024),
}
FEWEST_DIMENSIONS = 8  # that product quantisation has something to divide of
PROJECTED_AT_MOST = 256  # dimensions
LISTS_AT_MOST = 16_384
PER_LIST = 32  # vectors a list's centre is trained on
PASSES = 8  # of k-means
MEMORY_SHARE = 8  # of the machine's memory that an index may fill
PROBES = 1000  # items that recall is measured on
SPARES = (16, 32, 64, 128, 256, 512, 1024)
STRAINED = 2  # times the effort that it took before: an index does not fit what came
RESCORED = 64  # coarse scores that take as long as scoring one candidate again
BLOCK = 1 << 15


@dataclass(frozen=True)
class Earlier:
    """An index of fewer vectors to go on from: a copy, since it will grow.

    ``goes_on`` says that its vectors are the first of those to come; else only what it has learned
    is of use.
    """

    index: Any
    tuning: Tuning
    goes_on: bool


@dataclass(frozen=True)
class Built:
    """A filled FAISS index, how to search it, and whether that reaches the recall for certain."""

    index: Any
    tuning: Tuning
    reached: bool


def checked(wanted: Wanted, dimension: int) -> Wanted:
    """The same. Raises UsageError where FAISS knows no such index of that dimension."""
    if not 0 < wanted.recall <= 1:
        raise UsageError(f"recall is {wanted.recall}: give a share above 0, up to 1")
    if wanted.recipe != AUTO:
        made(wanted.recipe, dimension)
    return wanted


def resolved(wanted: Wanted, items: int, dimension: int) -> str:
    """The recipe for so many items: a few have an exact index, whatever is wanted."""
    recipe = choose(items, dimension) if wanted.recipe == AUTO else wanted.recipe
    exact = recipe in EXACT_RECIPES or items >= APPROXIMATE_AT_LEAST
    return recipe if exact else EXACT


def serves(tuning: Tuning, recipe: str, count: int) -> bool:
    """Whether what an earlier index has learned will do for a recipe and so many items.

    An exact one has learned nothing: it is made anew as fast as it is copied.
    """
    same = tuning.recipe == recipe and recipe not in EXACT_RECIPES
    return same and count <= 2 * tuning.trained


def choose(items: int, dimension: int, memory: int | None = None) -> str:
    """The recipe for so many items; ``memory`` bounds its bytes beside the vectors."""
    if items <= EXACT_AT_MOST or dimension < FEWEST_DIMENSIONS:
        return EXACT
    budget = (machine.memory() // MEMORY_SHARE if memory is None else memory) / items
    # The main components, in products of two that take 4 bits: what lies beyond tells little, and
    # is not forgotten when candidates are scored again.
    kept = min(PROJECTED_AT_MOST, dimension - dimension % 4)
    while kept / 4 > budget and kept > 32:
        kept = kept // 8 * 4
    lists = min(LISTS_AT_MOST, 2 ** round(math.log2(8 * math.sqrt(items))))
    projection = "" if kept == dimension else f"PCAR{kept},"
    return f"{projection}IVF{lists},PQ{kept // 2}x4fs"


def made(recipe: str, dimension: int) -> faiss.Index:
    """An empty index by its factory string. Raises UsageError where there is none.

    Those that are not exact go by distances, which rank vectors of unit length as cosines do, also
    after a projection.
    """
    metric = faiss.METRIC_INNER_PRODUCT if recipe in EXACT_RECIPES else faiss.METRIC_L2
    try:
        for kind, (least, most) in BOUNDS.items():
            for number in re.findall(rf"{kind}(\d+)", recipe):
                if not least <= int(number) <= most:
                    raise ValueError(f"{kind} takes a number from {least} to {most}")
        return faiss.index_factory(dimension, recipe, metric)
    except (RuntimeError, MemoryError, ValueError) as error:
        raise UsageError(
            f"FAISS makes no index {recipe!r} of dimension {dimension} ({_reason(error)}): take"
            " auto, or a factory string such as HNSW32 or IVF4096,PQ64x4fs"
        ) from error


def _reason(error: Exception) -> str:
    """What FAISS says, without where it says it."""
    return str(error).rsplit(": ", 1)[-1].strip()


def build(
    vectors: FloatArray, wanted: Wanted, earlier: Earlier | None = None, seed: int = 0
) -> Built:
    """A filled index of vectors (n, dimension), which may be mapped, and how to search it.

    What an ``earlier`` one has learned is used again until there are twice as many, or until it
    does not serve for those that came. A few vectors have an exact index, whatever is wanted, and
    so have those of which ``auto`` does not reach the wanted recall. Raises UsageError where the
    recipe does not work with these vectors.
    """
    count, dimension = vectors.shape
    recipe = resolved(wanted, count, dimension)
    found = None
    if earlier and serves(earlier.tuning, recipe, count):
        before = earlier.tuning
        with suppress(RuntimeError):  # some graphs cannot grow
            found = _filled(earlier, vectors, wanted.recall, seed)
            strained = (found.tuning.effort or 0) > STRAINED * (before.effort or 0)
            # What never reached the recall need not be trained again and again.
            if strained or (not found.reached and (before.recall or 0.0) >= wanted.recall):
                log.info("the index %s was trained on other items than came: anew", recipe)
                found = None
    try:
        if found is None:
            fresh = Earlier(made(recipe, dimension), Tuning(recipe, count), goes_on=True)
            found = _filled(fresh, vectors, wanted.recall, seed)
    except (RuntimeError, MemoryError) as error:
        raise UsageError(
            f"FAISS makes no index {recipe!r} of {count} items ({_reason(error)}): take auto, or"
            " another factory string"
        ) from error
    if not found.reached:
        log.warning(
            "the index %s reaches recall@10 %.3f, not %g for certain: %s",
            recipe,
            found.tuning.recall,
            wanted.recall,
            "all items are searched instead"
            if wanted.recipe == AUTO
            else "`siasearch compact --recipe` takes another, auto for one",
        )
        if wanted.recipe == AUTO:
            return build(vectors, Wanted(EXACT))
    return found


def _filled(earlier: Earlier, vectors: FloatArray, recall: float, seed: int) -> Built:
    """An earlier index, perhaps an empty one, with all the vectors. Raises RuntimeError where it
    cannot go on.
    """
    index, tuning = earlier.index, earlier.tuning
    # Lower efforts will not do now; unless what is wanted has become less.
    known = tuning.recall is not None and tuning.recall < (1 + recall) / 2
    least = (tuning.effort or 0) // 2 if known else 0
    if not earlier.goes_on:
        index.reset()
    _train(index, vectors, seed)
    # Some graphs are made at once or not at all.
    rows = len(vectors) if "NSG" in tuning.recipe else BLOCK
    for start in range(index.ntotal, len(vectors), rows):
        _let_go(vectors)
        index.add(np.ascontiguousarray(vectors[start : start + rows]))
    tuning = Tuning(tuning.recipe, tuning.trained)
    if tuning.recipe in EXACT_RECIPES:
        error = _error(vectors) if tuning.recipe == EXACT else ROUNDING
        return Built(index, replace(tuning, error=error), reached=True)
    return Built(index, *tuned(index, vectors, tuning, recall, seed, least))


def _train(index: faiss.Index, vectors: FloatArray, seed: int) -> None:
    if index.is_trained:
        return
    inverted = faiss.try_extract_index_ivf(index)
    wanted = 65_536
    if inverted is not None:
        inverted.cp.niter = PASSES
        inverted.cp.min_points_per_centroid = 1  # no warning
        wanted = max(wanted, PER_LIST * inverted.nlist)
    chosen = np.arange(len(vectors))
    if len(chosen) > wanted:
        chosen = np.random.default_rng(seed).choice(len(vectors), wanted, replace=False)
    index.train(np.ascontiguousarray(vectors[np.sort(chosen)]))


def _let_go(vectors: FloatArray) -> None:
    """Drop what a mapping has of its file in this process's memory, where the system lets it."""
    mapping = getattr(vectors, "_mmap", None)
    if isinstance(mapping, mmap.mmap) and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _error(vectors: FloatArray) -> float:
    """What an inner product with a unit vector may be off in half precision, by Cauchy-Schwarz."""
    most = 0.0
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        lost = block - block.astype(np.float16)
        most = max(most, float(np.linalg.norm(lost, axis=1).max(initial=0.0)))
    return most + ROUNDING


def tuned(
    index: faiss.Index,
    vectors: FloatArray,
    tuning: Tuning,
    target: float,
    seed: int = 0,
    lowest: int = 0,
) -> tuple[Tuning, bool]:
    """How far to search for the wanted recall@10, measured on some of the vectors themselves, and
    whether it is reached for certain, within a standard error.

    Of the efforts that reach it, each with as few candidates to score again as will do, the
    cheapest is taken; where none does, the highest. Efforts below ``lowest`` are not
    tried: that takes longer than adding to an index.
    """
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(len(vectors), min(PROBES, len(vectors)), replace=False))
    queries = np.ascontiguousarray(vectors[chosen])
    truth = without_item(chosen, *scan(vectors, queries, min(K + 1, len(vectors))))
    name = effort_name(index)
    efforts = [(effort, cost) for effort, cost in _efforts(index, name) if effort >= lowest]

    @functools.cache
    def tried(effort: int, spares: tuple[int, ...]) -> tuple[int, float, bool]:
        """Candidates to score again, the recall they give, and whether that is enough."""
        set_effort(index, effort)
        positions = approximate(index, queries, min(K + 1 + spares[-1], len(vectors)))
        scores = products(queries, vectors, positions)
        for spare in spares:
            near = slice(0, K + 1 + spare)
            found = without_item(chosen, positions[:, near], scores[:, near])
            hits = (truth[:, :, None] == found[:, None]).any(axis=2) & (truth >= 0)
            shares = hits.sum(axis=1) / (truth >= 0).sum(axis=1)
            recall = float(shares.mean())
            enough = bool(recall - shares.std() / math.sqrt(len(shares)) >= target)
            if enough:
                break
        return spare, recall, enough

    # Recall rises with the effort: the first that reaches it is sought in growing steps from the
    # cheapest on, then between the last two.
    low = high = 0
    while high < len(efforts) and not tried(efforts[high][0], SPARES)[2]:
        low, high = high + 1, 2 * high + 1
    high = min(high, len(efforts))
    first = bisect_left(efforts, True, low, high, key=lambda one: tried(one[0], SPARES)[2])
    best, least = tuning, math.inf
    for effort, cost in efforts[first:] or efforts:  # it may rise unevenly: then all are tried
        cheaper = tuple(spare for spare in SPARES if cost + RESCORED * spare < least)
        if not cheaper:
            break
        spare, recall, enough = tried(effort, cheaper)
        if enough or not least < math.inf:
            best = replace(tuning, effort=effort if name else None, spare=spare, recall=recall)
            least = cost + RESCORED * spare if enough else math.inf
    return best, least < math.inf


def _efforts(index: faiss.Index, name: str | None) -> Iterator[tuple[int, float]]:
    """Efforts to try, rising, and about how many coarse scores each costs."""
    inverted = faiss.try_extract_index_ivf(index)
    if name is None:
        yield 1, index.ntotal
    elif inverted is None:
        for power in range(3, 13):
            yield 1 << power, RESCORED * (1 << power)
    else:
        steps = sorted({width << power for power in range(30) for width in (2, 3)})
        for effort in [*(step for step in steps if step < inverted.nlist), inverted.nlist]:
            yield effort, index.ntotal * effort / inverted.nlist


def without_item(own: IntArray, positions: IntArray, scores: FloatArray) -> IntArray:
    """The best ten of each row, best first, without the probe itself; -1 where there are fewer."""
    scores = np.where(positions == own[:, None], -np.inf, scores)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    kept = np.take_along_axis(scores, order, axis=1) > -np.inf
    return np.where(kept, np.take_along_axis(positions, order, axis=1), -1)
