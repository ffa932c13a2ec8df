"""System calls of a running process, watched or made to fail by strace."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def untraceable() -> str:
    """Why no process can be traced here; empty where it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-e", "inject=fsync:error=EIO", "-o", "/dev/null", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if tried.returncode == 0 else f"strace does not work here: {tried.stderr.strip()}"


@contextmanager
def tracing(*options: str) -> Iterator[Callable[[int], None]]:
    """Gives what attaches strace, with these options, to a process and to all its threads.

    It must end inside.
    """
    started: list[subprocess.Popen[str]] = []

    def attach(pid: int) -> None:
        tracer = subprocess.Popen(
            ["strace", "-f", *options, "-p", str(pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(tracer)
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        if "attached" not in said:
            raise RuntimeError(f"strace: {said}{tracer.stderr.read()}")

    try:
        yield attach
    finally:
        for tracer in started:
            tracer.communicate()


def counted_calls(log: Path, calls: Sequence[str]) -> dict[str, int]:
    """How often a thread made each call, at most: strace counts for each thread of its own."""
    counts: Counter[tuple[str, str]] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        pid, _, rest = line.partition(" ")
        name = rest.strip().partition("(")[0]
        if name in calls:
            counts[name, pid] += 1
    return {
        name: max((count for (one, _), count in counts.items() if one == name), default=0)
        for name in calls
    }
