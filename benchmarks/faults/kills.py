"""Kill siasearch at thousands of moments and look at what is left: nothing may be lost.

    python benchmarks/faults/kills.py --seed 1

Half of the kills are SIGKILL at random moments of each command of ``tests/trials.py``: the gallery
must be as before or after, and the same command must do the rest. The others are those of
``operations.py``: at every step of operations, inside writes, and at random moments of long
sequences of operations, also of two at once. Writes ``results/kills.json`` beside this file; an
interrupted run goes on when it is started again. ``benchmarks/serving_kills.py`` kills the server.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import operations
from campaign import Case, Try, faults_of, finish, parser, run, scratch
from crashing import World
from trials import NAMES, Trials

STINT = 40  # kills of a sequence of operations
STEPS = tuple(kind for kind in operations.KINDS if kind != "two at once")
TRIES = 20  # a moment may come too late


class Killing:
    """Kills commands at random moments within the time that they take."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials
        self._seconds: dict[str, float] = {}

    def attempt(self, name: str, seed: int) -> dict[str, Any]:
        """Kill a command once."""
        chance = random.Random(seed)
        command = self._trials.commands[name]
        self._trials.expected(command)
        for _ in range(TRIES):
            self._trials.restore(command.start)
            # The first of each is left alone, to learn how long it takes.
            moment = chance.random() * 1.1 * self._seconds.get(name, 50.0)
            began = time.monotonic()
            ended = self._trials.run(command.arguments, kill_after=moment)
            if ended.code < 0:
                break
            took = time.monotonic() - began
            self._seconds[name] = 0.5 * (self._seconds.get(name, took) + took)
        faults = self._trials.faults(command, ended)
        return {"kills": {f"random: {name}": int(ended.code < 0)}, "faults": faults}


@contextmanager
def trying() -> Iterator[Try]:
    """What tries a case: one kill of a command, a stint of a sequence, or an operation's steps."""
    with scratch(memory=False) as folder:  # a disk, which takes its time
        trials = Trials(Path(folder) / "trials")
        killing = Killing(trials)
        world = World(Path(folder) / "operations")

        def attempt(case: Case) -> dict[str, Any]:
            kind, what, seed = str(case[0]), str(case[1]), int(case[2])
            if kind == "command":
                return killing.attempt(what, seed)
            shutil.rmtree(world.folder, ignore_errors=True)
            world.model, world.numbers = {}, {}
            kills, steps = (STINT, []) if kind == "sequence" else (0, [what])
            done = operations.run(world, kills, seed, steps)
            return {"kills": dict(done.kills), "faults": done.violations}

        yield attempt


def main() -> int:
    """Run, print, and write the result."""
    arguments = parser(__doc__, "kills", 3200)
    arguments.add_argument(
        "--commands-only", action="store_true", help="half of the cases: those of commands"
    )
    options = arguments.parse_args()
    began = time.monotonic()
    cases: list[Case] = [
        ("command", NAMES[number % len(NAMES)], options.seed + number)
        for number in range(options.cases // 2)
    ]
    if not options.commands_only:
        stints = -(-options.cases // 2 // STINT)
        cases += [("sequence", "", options.seed + number) for number in range(stints)]
        cases += [("steps", kind, options.seed) for kind in STEPS]
    random.Random(options.seed).shuffle(cases)  # so that processes share long ones
    outcomes = run(options, cases, trying)
    kills: Counter[str] = sum((Counter(one["kills"]) for one in outcomes), Counter())
    faults = faults_of(outcomes)
    summary = (
        f"killed at random moments and at every step of every command, also of two at once:"
        f" {kills.total()} kills, {len(faults)} faults"
    )
    return finish(
        options, began, summary,
        {"kills": kills.total(), "by way": dict(sorted(kills.items())), "faults": faults},
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
