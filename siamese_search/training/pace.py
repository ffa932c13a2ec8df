"""How long a run takes, by its first steps. Knows nothing of what a step does."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

from siamese_search.training.data import SOME
from siamese_search.words import counted, duration

WARM = 2  # steps that are slower than later ones
ENOUGH, FEWEST = 8, 3  # steps that are timed, and how many of them do where they take
SECONDS = 20.0  # so long
LOOKS_IN_THE_END = 8  # at what is held out: averages with the start, the comparison, the record


class Pace:
    """Times the first steps of a run and says once how long all will take.

    ``steps`` are left, of so many ``pictures`` each; ``more`` seconds go to what is between them.
    ``cost`` is how much the n-th of them, from nought, has to do beside others, and ``work`` what
    all of them have. The median step counts: now and then what is held out is looked at before one.
    """

    def __init__(
        self,
        steps: int,
        pictures: int,
        more: float,
        tell: Callable[[str], None],
        work: float,
        clock: Callable[[], float] = time.perf_counter,
        cost: Callable[[int], float] = lambda step: 1.0,
    ) -> None:
        self.steps, self.pictures, self.more = steps, pictures, more
        self._work, self._cost = work, cost
        self._tell, self._clock = tell, clock
        self._times: list[float] = []
        self._said = False

    def step(self) -> None:
        """A step is done."""
        if self._said:
            return
        self._times.append(self._clock())
        timed = self._times[WARM - 1 :]
        count = len(timed) - 1
        if count >= ENOUGH or (count >= FEWEST and timed[-1] - timed[0] >= SECONDS):
            self._said = True
            costs = [self._cost(WARM + step) for step in range(count)]
            rate = pace(timed, costs)
            work = self._work / costs[0]
            self._tell(in_words(self.steps, self.pictures, rate, self.more, work))


def pace(times: Sequence[float], costs: Sequence[float] = ()) -> float:
    """Steps a second, by when each was done. Where the steps after the first have other ``costs``,
    it is the pace of those that have the cost of the second.
    """
    durations = [later - earlier for earlier, later in pairwise(times)]
    costs = costs or [1.0] * len(durations)
    alike = (took * costs[0] / own for took, own in zip(durations, costs, strict=False))
    return 1 / max(statistics.median(alike), 1e-6)


def looking(picture: float, held: int, trained: int, looks: int) -> float:
    """Seconds for all that is embedded beside the steps, of so many ``held`` and ``trained``
    pictures that take so long each: ``looks`` at what is held out, more of them in the end, and
    two at some of what was trained on, by which an encoder's record and its prior are made.
    """
    return picture * ((looks + LOOKS_IN_THE_END) * held + 2 * min(trained, SOME))


def in_words(
    steps: int, pictures: int, rate: float, more: float = 0.0, work: float | None = None
) -> str:
    """How long so many steps take at a rate per second, and ``more`` seconds. They do ``work``
    times what those do that the rate is of: ``steps`` times if None.
    """
    if not steps:
        return f"about {duration(more)}"
    pace = f"{rate:.1f} steps a second" if rate >= 1 else f"{1 / rate:.1f} seconds a step"
    work = steps if work is None else work
    total = duration(work / rate + more)
    where = "here, slower later" if work > steps else "here"
    return f"about {total}: {counted(steps, 'step')} of {pictures} pictures at {pace} {where}"
