"""Cut the power while a command writes: what was not synced may be lost, all else must be there.

    python benchmarks/faults/power_loss.py --seed 1

What each command of ``tests/trials.py`` does to files is recorded once. From that, disks are made
as ``tests/disks.py`` has them: after so many of its steps, with no more than had to be there by
then, with all that was written, or with something in between, writes torn and out of order. On each
of them the gallery must open as before or after the command, ``check`` must find no fault, and the
same command must do the rest; once it had ended, all that it did must be there. Writes
``results/power_loss.json`` beside this file; an interrupted run goes on when it is started again.
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

from campaign import Case, Try, faults_of, finish, parser, run, scratch
from disks import KINDS_OF_LOSS, OPTIONS, Recording, recorded
from tracing import tracing, untraceable
from trials import NAMES, Ended, Trials

from siamese_search.errors import SiaSearchError


def record(trials: Trials, name: str) -> Recording:
    """What a command does to its prepared gallery."""
    command = trials.commands[name]
    trials.restore(command.start)
    log = trials.root / "steps.log"
    with tracing(*OPTIONS, "-o", str(log)) as attach:
        trials.run(command.arguments, attach)
    before = None if command.start == "none" else trials.root / command.start
    return recorded(log, trials.folder, before)


def tried(
    trials: Trials, name: str, recording: Recording, count: int, loss: str, seed: int
) -> list[str]:
    """What is wrong with the disk after so many steps of a command."""
    disk = recording.state(count, loss, random.Random(seed))
    shutil.rmtree(trials.folder, ignore_errors=True)
    disk.write(trials.folder.parent)
    if count < len(recording.changes):
        return trials.faults(trials.commands[name], None)
    traces = []
    if name == "remove --forever":
        try:
            traces = trials.left_behind(compact=False)
        except SiaSearchError as error:
            traces = [str(error)]
    faults = trials.faults(trials.commands[name], Ended(0, ""))
    return [f"not gone for good: {trace}" for trace in traces] + faults


@contextmanager
def trying() -> Iterator[Try]:
    """What tries a case: a command, its step in 10,000, what is lost, and a seed."""
    with scratch() as folder:
        trials = Trials(Path(folder), Path(folder) / "disk" / "gallery")
        recordings: dict[str, Recording] = {}

        def attempt(case: Case) -> dict[str, Any]:
            name, step, loss, seed = case
            if name not in recordings:
                trials.expected(trials.commands[str(name)])
                recordings[str(name)] = record(trials, str(name))
            steps = len(recordings[str(name)].changes)
            count = round(int(step) / SCALE * steps)
            recording = recordings[str(name)]
            faults = tried(trials, str(name), recording, count, str(loss), int(seed))
            return {"steps": steps, "count": count, "faults": faults}

        yield attempt


SCALE = 10_000  # what a command does differs a little from time to time


def main() -> int:
    """Run, print, and write the result."""
    arguments = parser(__doc__, "power_loss", 2100)
    arguments.add_argument("--commands", nargs="*", choices=NAMES, default=list(NAMES))
    options = arguments.parse_args()
    names = options.commands
    if why := untraceable():
        sys.exit(why)
    began = time.monotonic()
    chance = random.Random(options.seed)
    cases: list[Case] = []
    for number in range(options.cases):
        name, turn = names[number % len(names)], number // len(names)
        loss = KINDS_OF_LOSS[turn % len(KINDS_OF_LOSS)]
        # Once for each command and kind of loss, the power goes when the command has just ended.
        step = SCALE if turn < len(KINDS_OF_LOSS) else chance.randrange(SCALE + 1)
        cases.append((name, step, loss, options.seed + number))
    outcomes = run(options, cases, trying)
    faults = faults_of(outcomes)
    summary = (
        f"power lost while a command wrote, what was not synced lost, torn or out of order:"
        f" {len(outcomes)} states of {len(names)} commands, {len(faults)} faults"
    )
    return finish(
        options, began, summary,
        {
            "states": len(outcomes),
            "steps of each command": {one["case"][0]: one["steps"] for one in outcomes},
            "states by loss": dict(Counter(one["case"][2] for one in outcomes)),
            "faults": faults,
        },
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
