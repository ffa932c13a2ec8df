"""Contenders in processes of their own, so that memory is theirs alone, taking turns."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
from common import seconds, status
from contenders import KINDS, contender, effort_for
from embeddings import Sized

BATCH = 100
MODES = {"single": "1 probe", "batch": f"{BATCH} probes"}
SINGLES, BATCHES = 200, 5  # of a turn
EXHAUSTIVE = 20_000_000  # items that a turn of exact search looks at, one probe at a time
TARGET = 0.99
ROUNDING = 1e-5  # two float32 sums of the same products differ by less

Record = dict[str, Any]


class Desk:
    """An opened contender, in a process that nothing else is in."""

    def __init__(self, sized: Sized, name: str, effort: int | None = None) -> None:
        self._sized = sized
        self._contender = contender(sized, name)  # imports what it needs
        self._probes, self._tenth = sized.probes, sized.tenth
        self._before = status("RssAnon"), status("RssFile")
        self._contender.open()
        if effort is not None:
            self._contender.set_effort(effort)

    def search(self, first: int, size: int, count: int) -> list[float]:
        """Seconds of each of ``count`` searches for ``size`` probes, from the ``first`` on."""
        took = []
        for begin in range(first, first + count * size, size):
            queries = self._probes[np.arange(begin, begin + size) % len(self._probes)]
            took.append(seconds(lambda q=queries: self._contender.search(q)))  # type: ignore[misc]
        return took

    def recall(self, effort: int | None = None) -> float:
        """The share of what it finds that belongs to the nearest, ties counted."""
        if effort is not None:
            self._contender.set_effort(effort)
        batches = range(0, len(self._probes), BATCH)
        found = [self._contender.search(self._probes[at : at + BATCH]) for at in batches]
        rows = np.concatenate([self._contender.rows(some) for some in found])
        vectors = self._sized.vectors
        pairs = zip(rows, self._probes, strict=True)
        cosines = np.array([vectors[near] @ probe for near, probe in pairs])
        return float((cosines >= self._tenth[:, None] - ROUNDING).mean())

    def facts(self) -> Record:
        """What it holds by now, then its recall and settings."""
        own, mapped = status("RssAnon"), status("RssFile")
        return {
            "own bytes": own - self._before[0],
            "mapped bytes": mapped - self._before[1],
            "recall": self.recall(),
            "settings": self._contender.settings,
        }


_desk: Desk


def _open(sized: Sized, name: str, effort: int | None) -> None:
    global _desk
    _desk = Desk(sized, name, effort)


def _ask(method: str, *arguments: Any) -> Any:
    return getattr(_desk, method)(*arguments)


def build(sized: Sized, name: str) -> Record:
    """Build a contender: seconds, and the most that this process has ever held."""
    one = contender(sized, name)
    return {**one.build(), "peak bytes": status("VmHWM"), "stamp": one.stamp}


def tune(sized: Sized, name: str) -> int:
    """The effort with which a contender reaches the recall."""
    return effort_for(TARGET, Desk(sized, name).recall)


def fresh(task: Callable[..., Any], *arguments: Any) -> Any:
    """What a task returns in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(task, *arguments).result()


class Turns:
    """A contender in a process of its own, and the seconds of every search by turn."""

    def __init__(self, sized: Sized, name: str, effort: int | None) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        self._pool.submit(_open, sized, name, effort).result()
        most = EXHAUSTIVE // sized.size if KINDS[name].exhaustive else SINGLES
        self._counts = {
            "single": min(SINGLES, max(10, most)),
            "batch": min(BATCHES, max(1, most // 20)),
        }
        self.took: dict[str, list[list[float]]] = {mode: [] for mode in MODES}

    def take(self, mode: str) -> float:
        """One turn: probes a second."""
        size, count = BATCH if mode == "batch" else 1, self._counts[mode]
        first = len(self.took[mode]) * size * count
        took = self._pool.submit(_ask, "search", first, size, count).result()
        self.took[mode].append(took)
        return size * count / math.fsum(took)

    def facts(self) -> Record:
        facts: Record = self._pool.submit(_ask, "facts").result()
        return facts

    def close(self) -> None:
        self._pool.shutdown()
