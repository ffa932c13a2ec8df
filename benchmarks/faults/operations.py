"""Kill siasearch in a long sequence of operations, also of two at once: nothing may be lost.

    python benchmarks/faults/operations.py --kills 400 --seed 1

Three ways to die, each in a forked process that works on a small gallery: at every instrumented
step of every operation (SQL statements, syncs, renames, deletions, index files; just before and
just after), by the kernel inside a write (a file size limit whose signal is not ignored), and by
SIGKILL at random moments of a sequence of operations. After each, the gallery is opened afresh
and compared with the model in ``tests/crashing.py``. A part of ``kills.py``; by itself it writes
``results/operations.json`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from crashing import PICTURES, Action, Told, World, prepare_process

import siamese_search
import siamese_search.cli
from siamese_search.storage import catalog

KINDS = (
    "create", "add", "bulk", "copy", "two at once", "remove", "relabel", "undo", "compact",
    "reindex", "rebuild",
)  # fmt: skip
RESULTS = Path(__file__).parent / "results"
# Calls around which a process may be told to die.
STEPS = ((os, "fsync"), (os, "replace"), (os, "link"), (os, "unlink"), (faiss, "write_index"))


class Steps:
    """Counts steps and kills this process at one of them.

    ``distinct`` are those at which a kill leaves something else than one at the step before: the
    files in ``folder`` have changed, or more has been ``told``. Nobody looks where there is none.
    """

    def __init__(self, last: int, folder: Path | None = None) -> None:
        self._left = last
        self._reading = False
        self._folder = folder
        self._seen: object = None
        self.passed = 0
        self.told = 0
        self.distinct: list[int] = []

    def step(self, what: object = None, *_: object) -> None:
        # Nothing changes between a reading statement and the next: one step for all in a row.
        before, self._reading = self._reading, str(what).startswith("SELECT")
        if before and self._reading:
            return
        self.passed += 1
        if self.passed == self._left:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._folder is not None:
            files = {path: path.read_bytes() for path in self._folder.rglob("*") if path.is_file()}
            seen = self.told, files
            if seen != self._seen:
                self.distinct.append(self.passed)
            self._seen = seen

    def watch(self) -> None:
        """Count from now on."""
        for module, name in STEPS:
            setattr(module, name, self._around(getattr(module, name)))
        connect = sqlite3.connect

        def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*arguments, **options)
            connection.set_trace_callback(self.step)
            return connection

        sqlite3.connect = traced  # type: ignore[assignment]

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def around(*arguments: Any, **options: Any) -> Any:
            self.step()
            result = function(*arguments, **options)
            self.step()
            return result

        return around


@dataclass
class Child:
    """A forked process that performs one action and tells through a pipe how far it is."""

    pid: int
    pipe: int
    _said: bytes = b""

    @classmethod
    def start(
        cls,
        world: World,
        action: Action,
        *,
        steps: int = 0,
        limit: int = 0,
        shell: bool = False,
        look: bool = False,
    ) -> Child:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid:
            os.close(writing)
            return cls(pid, reading)
        try:
            os.close(reading)
            silence = os.open(os.devnull, os.O_RDWR)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            counter = Steps(steps, world.folder if look else None)
            _work(world, action, writing, counter, limit, shell)
        except BaseException as error:
            fault = {"error": f"{action.kind}: {type(error).__name__}: {error}"}
            os.write(writing, json.dumps(fault).encode() + b"\n")
        finally:
            os._exit(0)

    def wait_begun(self) -> None:
        while b"\n" not in self._said and (said := os.read(self.pipe, 65536)):
            self._said += said

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> tuple[Told, int, list[int]]:
        """What it told, the signal that killed it (0 if none), and the steps to kill it at."""
        while said := os.read(self.pipe, 65536):
            self._said += said
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        told = Told()
        steps: list[int] = []
        for line in self._said.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                continue
            said_so = json.loads(line)
            told.begun |= "begun" in said_so
            told.done |= "done" in said_so
            told.error += said_so.get("error", "")
            if "tried" in said_so:
                told.tried.append(frozenset(said_so["tried"]))
            told.acknowledged.update(said_so.get("acknowledged", ()))
            steps = said_so.get("steps", steps)
        return told, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, steps


def _work(world: World, action: Action, pipe: int, counter: Steps, limit: int, shell: bool) -> None:
    def tell(**facts: object) -> None:
        os.write(pipe, json.dumps(facts).encode() + b"\n")
        counter.told += 1

    add = catalog.Catalog.add

    def telling_add(self: catalog.Catalog, items: Any, *rest: Any, **more: Any) -> list[int | None]:
        numbers = [world.content(item.content) for item in items]
        tell(tried=numbers)
        added = add(self, items, *rest, **more)
        tell(acknowledged=numbers)
        return added

    catalog.Catalog.add = telling_add  # type: ignore[method-assign]
    arguments = world.arguments(action) if shell else []
    counter.watch()
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    tell(begun=True)
    if shell:
        _run_command(arguments)
    else:
        world.perform(action)
    tell(done=True, steps=counter.distinct or [*range(1, counter.passed + 1)])


def _run_command(arguments: list[str]) -> None:
    sys.argv = ["siasearch", *arguments]
    try:
        siamese_search.cli.main()
    except SystemExit as end:
        # 1 is "some files rejected": pictures that were relabelled meanwhile.
        if end.code not in (None, 0, 1):
            raise


@dataclass
class Campaign:
    """Runs kills and counts them."""

    world: World
    random: np.random.Generator
    distinct: bool = False  # at a step that changes nothing, a kill leaves what the last one left
    kills: Counter[str] = field(default_factory=Counter)
    inside: int = 0
    hot_journals: int = 0
    unkilled: int = 0
    violations: list[str] = field(default_factory=list)
    _seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.kills.values())

    def _settle(
        self, way: str, actions: tuple[Action, ...], children: list[Child]
    ) -> list[list[int]]:
        """Wait for children, look at what they left, and count. Returns the steps they took."""
        ends = [child.end() for child in children]
        killed = [told for told, signalled, _ in ends if signalled]
        kinds = " + ".join(action.kind for action in actions)
        if killed:
            self.kills[f"{way}: {kinds}"] += 1
            self.inside += any(told.begun and not told.done for told in killed)
            journal = self.world.folder / "gallery.db-journal"
            with suppress(FileNotFoundError):
                self.hot_journals += journal.stat().st_size > 0
        else:
            self.unkilled += 1
        try:
            faults = self.world.faults(actions, [told for told, _, _ in ends])
        except Exception as error:
            faults = [f"looking at it raised {type(error).__name__}: {error}"]
        self._note(f"{way}: {kinds}", faults)
        return [steps for _, _, steps in ends]

    def _note(self, what: str, faults: list[str]) -> None:
        for fault in faults:
            self.violations.append(f"kill {self.total}, {what}: {fault}")
            print(f"VIOLATION {self.violations[-1]}", flush=True)

    def _tidy(self, what: str) -> None:
        """The next compaction must succeed without any repair, and leave nothing unnamed."""
        if not (self.world.folder / "gallery.db").exists():
            return
        try:
            faults = [f"left over: {name}" for name in self.world.leftovers()]
        except Exception as error:
            faults = [f"compaction raised {type(error).__name__}: {error}"]
        self._note(what, faults)

    def do(self, kind: str) -> None:
        """An operation that nobody kills."""
        (action,) = self.world.plan(kind, self.random)
        self._settle("not", (action,), [Child.start(self.world, action)])

    def every_step(self, kind: str) -> int:
        """Kill one operation at each of its steps, from the same gallery each time."""
        if kind == "undo":  # of a few, which were enrolled in two commits
            absent = [n for n in range(PICTURES) if n not in self.world.model]
            copied = Action("copy", tuple(absent[:6]))
            self._settle("not", (copied,), [Child.start(self.world, copied)])
        self.world.save()
        (action,) = self.world.plan(kind, self.random)
        if kind in ("bulk", "copy"):  # two commits, as a batch is of five
            action = replace(action, pictures=action.pictures[:6])
        undisturbed = Child.start(self.world, action, look=self.distinct)
        (steps,) = self._settle("not", (action,), [undisturbed])
        for step in steps:
            self.world.restore()
            self._settle("step", (action,), [Child.start(self.world, action, steps=step)])
            self._tidy(f"after step {step} of {kind}")
        self.world.restore()
        return len(steps)

    def inside_a_write(self, kind: str) -> None:
        """Let the kernel kill an operation at the write that passes a limit."""
        actions = self.world.plan(kind, self.random)
        size = 0
        with suppress(FileNotFoundError):
            size = (self.world.folder / "gallery.db").stat().st_size
        # Small limits stop the journal or a copy, others the database as it grows.
        floor = size if self.random.random() < 0.5 else 1
        limit = int(self.random.integers(floor, floor + 3 * 2**14))
        children = [Child.start(self.world, action, limit=limit) for action in actions[:1]]
        self._settle("write", actions[:1], children)

    def at_random(self, kind: str) -> None:
        """SIGKILL at a moment within the time that the operation takes."""
        actions = self.world.plan(kind, self.random)
        shell = self.random.random() < 0.25
        key = f"{kind} {shell}"
        # The first of a kind is left alone, to learn how long it takes.
        delay = self.random.random() * 1.1 * self._seconds.get(key, 1000.0)
        children = [Child.start(self.world, action, shell=shell) for action in actions]
        for child in children:
            child.wait_begun()
        began = time.perf_counter()
        doomed = children[: 1 if self.random.random() < 0.3 else None]
        ended = False
        while (left := delay - (time.perf_counter() - began)) > 0 and not ended:
            time.sleep(min(left, 0.002))
            ended = all(_has_ended(child.pid) for child in doomed)
        took = time.perf_counter() - began
        for child in doomed:
            child.kill()
        if ended:
            self._seconds[key] = 0.8 * self._seconds.get(key, took) + 0.2 * took
        self._settle("random", actions, children)


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def run(
    world: World, kills: int, seed: int, steps: Sequence[str], distinct: bool = False
) -> Campaign:
    """A campaign: every step of some operations, then random moments until there are enough."""
    campaign = Campaign(world, np.random.default_rng(seed), distinct)
    if "create" in steps:
        campaign.every_step("create")
    campaign.do("create")
    campaign.do("bulk")
    campaign.do("copy")
    for kind in steps:
        if kind != "create":
            print(f"{kind}: {campaign.every_step(kind)} steps", file=sys.stderr, flush=True)
    kinds = [kind for kind in KINDS if kind != "create"]
    told = 0
    while campaign.total < kills:
        if campaign.total >= told:
            print(f"{campaign.total} kills", file=sys.stderr, flush=True)
            told += 500
        kind = str(campaign.random.choice(kinds))
        if len(world.model) > 110:
            kind = "remove"
        elif len(world.model) < 30:
            kind = "bulk"
        if campaign.random.random() < 0.2:
            campaign.inside_a_write(kind)
        else:
            campaign.at_random(kind)
        if campaign.random.random() < 0.1:
            campaign._tidy("after random kills")
        if campaign.random.random() < 0.01:  # first creation, again and again
            shutil.rmtree(world.folder)
            world.model, world.numbers = {}, {}
            for _ in range(5):
                campaign.at_random("create")
            campaign.do("create")
    return campaign


def main() -> int:
    """Run, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    single = [kind for kind in KINDS if kind != "two at once"]
    parser.add_argument(
        "--steps", nargs="*", choices=single, default=single, help="operations to kill at each step"
    )
    parser.add_argument(
        "--distinct", action="store_true", help="pass over steps at which no file has changed"
    )
    parser.add_argument("--folder", type=Path, help="where the gallery lies; default: as usual")
    parser.add_argument("--out", type=Path, default=RESULTS / "operations.json")
    options = parser.parse_args()
    prepare_process()
    faiss.omp_set_num_threads(1)  # OpenMP's threads do not survive a fork
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        world = World(Path(folder))
        campaign = run(world, options.kills, options.seed, options.steps, options.distinct)
    result = {
        "kills": campaign.total,
        "inside an operation": campaign.inside,
        "left a hot journal": campaign.hot_journals,
        "came too late": campaign.unkilled,
        "violations": campaign.violations,
        "kills by way and operation": dict(sorted(campaign.kills.items())),
        "seed": options.seed,
        "seconds": round(time.perf_counter() - began),
        "versions": {
            "siasearch": siamese_search.__version__,
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "faiss": faiss.__version__,
            "system": platform.system() + " " + platform.release(),
        },
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result | {"violations": len(campaign.violations)}, indent=2))
    return 1 if campaign.violations else 0


if __name__ == "__main__":
    sys.exit(main())
