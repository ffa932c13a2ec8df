"""Campaigns: many cases, each kept as it is done, so that an interrupted run goes on."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from siamese_search import __version__

RESULTS = Path(__file__).parent / "results"
MEMORY = Path("/dev/shm")

Case = Sequence[str | int]
Try = Callable[[Case], dict[str, Any]]  # what became of a case; "faults" are those that it found


def parser(description: str | None, name: str, cases: int) -> argparse.ArgumentParser:
    """Arguments that every campaign takes."""
    result = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    result.add_argument("--cases", type=int, default=cases, help=f"at least; default {cases}")
    result.add_argument("--seed", type=int, default=1)
    result.add_argument("--processes", type=int, default=2)
    result.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    return result


def scratch(memory: bool = True) -> tempfile.TemporaryDirectory[str]:
    """A folder for a process, in memory where no disk is under trial."""
    use = memory and os.access(MEMORY, os.W_OK)
    return tempfile.TemporaryDirectory(dir=MEMORY if use else None)


def run(
    options: argparse.Namespace,
    cases: Sequence[Case],
    trying: Callable[[], AbstractContextManager[Try]],
) -> list[dict[str, Any]]:
    """What became of each case, in processes that take turns.

    Each is kept at once in a file beside that of the result. Those that are there already, from
    a run of the same seed that was interrupted, are not done again.
    """
    kept = _kept(options)
    done = {tuple(one["case"]): one for one in kept}
    left = [case for case in cases if tuple(case) not in done]
    print(f"{len(cases)} cases, {len(left)} to do", file=sys.stderr, flush=True)
    context = get_context("spawn")
    processes = min(options.processes, len(left))
    workers = [
        context.Process(
            target=_work, args=(_journal(options, n), left[n::processes], trying)
        )
        for n in range(processes)
    ]  # fmt: skip
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["SIASEARCH_CACHE"] = ""
    if processes == 1:  # this one will do
        _work(_journal(options, 0), left, trying)
        workers = []
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed := [worker.exitcode for worker in workers if worker.exitcode]:
        sys.exit(f"a process of the campaign ended with {failed[0]}: run it again to go on")
    done = {tuple(one["case"]): one for one in _kept(options)}
    return [done[tuple(case)] for case in cases]


def _journal(options: argparse.Namespace, number: int) -> Path:
    out: Path = options.out
    return out.with_name(f"{out.stem}-seed{options.seed}.partial{number}.jsonl")


def _kept(options: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    for path in sorted(options.out.parent.glob(_journal(options, 0).name.replace("0.", "*."))):
        lines = path.read_text().splitlines(keepends=True)
        found += [json.loads(line) for line in lines if line.endswith("\n")]
    return found


def _work(
    journal: Path, cases: Sequence[Case], trying: Callable[[], AbstractContextManager[Try]]
) -> None:
    journal.parent.mkdir(parents=True, exist_ok=True)
    with trying() as attempt, journal.open("a") as file:
        for number, case in enumerate(cases, 1):
            outcome = {"case": list(case), **attempt(case)}
            file.write(json.dumps(outcome) + "\n")
            file.flush()
            for fault in outcome["faults"]:
                print(f"FAULT {list(case)}: {fault}", flush=True)
            if number % 100 == 0:
                print(f"{number}/{len(cases)}", file=sys.stderr, flush=True)


def finish(options: argparse.Namespace, began: float, summary: str, result: dict[str, Any]) -> int:
    """Write the result, print the summary, and return the exit code; nothing is left to go on."""
    whole = {
        "summary": summary,
        **result,
        "seed": options.seed,
        "seconds": round(time.monotonic() - began),
        "versions": {
            "siasearch": __version__,
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "system": f"{platform.system()} {platform.release()}",
        },
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(whole, indent=1) + "\n")
    for path in options.out.parent.glob(_journal(options, 0).name.replace("0.", "*.")):
        path.unlink()
    print(summary)
    return 1 if result["faults"] else 0


def faults_of(outcomes: Sequence[dict[str, Any]]) -> list[str]:
    """All faults, each with its case."""
    return [f"{one['case']}: {fault}" for one in outcomes for fault in one["faults"]]
