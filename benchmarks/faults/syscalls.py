"""Kill or fail every command at its Nth system call: nothing may be lost, half done, or unclear.

    python benchmarks/faults/syscalls.py --seed 1

Each command of ``tests/trials.py`` is watched by strace, to learn how often it calls the system.
Then, in cases drawn evenly from all of them, strace kills it at a call, lets that call fail once
(no space left, input/output error and the like), or that and all further ones. After each case the
gallery must be as before or after the command, ``check`` must find no fault, what the command
printed must be clear, an exit code of 0 must be true, and the same command must do the rest. Writes
``results/syscalls.json`` beside this file; an interrupted run goes on when it is started again.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

from campaign import Case, Try, faults_of, finish, parser, run, scratch
from tracing import counted_calls, tracing, untraceable
from trials import NAMES, Ended, Trials

# By what each call may fail.
CALLS = {
    "openat": ("EIO", "EMFILE", "ENOSPC"),
    "read": ("EIO",),
    "pread64": ("EIO",),
    "write": ("ENOSPC", "EIO"),
    "pwrite64": ("ENOSPC", "EIO"),
    "fsync": ("EIO", "ENOSPC"),
    "fdatasync": ("EIO", "ENOSPC"),
    "ftruncate": ("EIO", "ENOSPC"),
    "rename": ("EIO", "ENOSPC"),
    "unlink": ("EIO", "EACCES"),
    "mkdir": ("EIO", "ENOSPC"),
    "flock": ("EIO", "ENOLCK"),
    "fcntl": ("EIO",),  # where there are no locks, a minute is waited for them
    "mmap": (),  # killed there alone: Python itself hangs where a thread gets no memory
}


def traced_run(trials: Trials, name: str, calls: str, *options: str) -> Ended:
    """A command from its prepared gallery, of which these calls are traced."""
    command = trials.commands[name]
    trials.restore(command.start)
    with tracing("-e", f"trace={calls}", *options) as attach:
        return trials.run(command.arguments, attach)


def all_cases(trials: Trials, commands: Sequence[str]) -> list[Case]:
    """Every call of these commands with every way to fail."""
    cases: list[Case] = []
    log = trials.root / "calls.log"
    for name in commands:
        traced_run(trials, name, ",".join(CALLS), "-o", str(log))
        for call, count in counted_calls(log, list(CALLS)).items():
            for number in range(1, count + 1):
                ways = ["KILL", *CALLS[call], *(f"{error}+" for error in CALLS[call])]
                cases += [(name, call, number, way) for way in ways]
    return cases


def drawn(everything: Sequence[Case], count: int, seed: int) -> list[Case]:
    """So many cases, kills and failures in turn, and of both as evenly as may be of each call of
    each command: most calls are locks.
    """
    kills: dict[Case, list[Case]] = defaultdict(list)
    failures: dict[Case, list[Case]] = defaultdict(list)
    for case in random.Random(seed).sample(everything, len(everything)):
        (kills if case[3] == "KILL" else failures)[case[:2]].append(case)
    return in_turn([in_turn(kills.values()), in_turn(failures.values())])[:count]


def in_turn(groups: Iterable[list[Case]]) -> list[Case]:
    """The first of each group, then the second of each, and so on."""
    return [case for turn in zip_longest(*groups) for case in turn if case]


@contextmanager
def trying() -> Iterator[Try]:
    """What tries a case."""
    with scratch() as folder:
        trials = Trials(Path(folder))
        known: set[str | int] = set()

        def attempt(case: Case) -> dict[str, Any]:
            name, call, number, way = case
            if name not in known:
                trials.expected(trials.commands[str(name)])
                known.add(name)
            error, onward, _ = str(way).partition("+")
            what = "signal=KILL" if way == "KILL" else f"error={error}"
            inject = f"inject={call}:{what}:when={number}{onward}"
            ended = traced_run(trials, str(name), str(call), "-e", inject, "-o", "/dev/null")
            faults = trials.faults(trials.commands[str(name)], ended)
            said = {"printed": ended.printed[-600:]} if faults else {}
            return {"code": ended.code, "faults": faults, **said}

        yield attempt


def main() -> int:
    """Run, print, and write the result."""
    arguments = parser(__doc__, "syscalls", 2400)
    arguments.add_argument("--commands", nargs="*", choices=NAMES, default=list(NAMES))
    options = arguments.parse_args()
    if why := untraceable():
        sys.exit(why)
    began = time.monotonic()
    with scratch() as folder:
        everything = all_cases(Trials(Path(folder)), options.commands)
    outcomes = run(options, drawn(everything, options.cases, options.seed), trying)
    codes = Counter(one["code"] for one in outcomes)
    faults = faults_of(outcomes)
    summary = (
        f"killed ({codes[-9]}) or failed at the Nth system call of {len(options.commands)}"
        f" commands: {len(outcomes)} of {len(everything)} cases, {len(faults)} faults"
    )
    by_call = Counter(f"{one['case'][0]}: {one['case'][1]}" for one in outcomes)
    return finish(
        options, began, summary,
        {
            "cases": len(outcomes),
            "of": len(everything),
            "exit codes": {str(code): count for code, count in sorted(codes.items())},
            "cases by command and call": dict(sorted(by_call.items())),
            "faults": faults,
        },
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
