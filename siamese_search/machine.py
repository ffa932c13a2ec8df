"""What this machine has, and what of it this process may use."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")

_shares = [1]  # that the cores are divided into, of which this process takes one


def cores() -> int:
    """How many cores this process should keep busy: its share of all that it may use."""
    return max(1, all_cores() // _shares[0])


def take_share(of: int) -> None:
    """Have this process take one of so many equal shares of the cores, from now on."""
    _shares[0] = of


def all_cores() -> int:
    """How many cores this process may use, with those that it shares them with."""
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    return min(count, _quota())


@cache
def _quota() -> int:
    """The cores that a control group's share of time is worth; many where it has no limit."""
    least = math.inf
    for folder in _groups():
        with suppress(OSError, ValueError):
            share, _, period = (folder / "cpu.max").read_text().partition(" ")
            least = min(least, float("inf" if share == "max" else share) / float(period))
    with suppress(OSError, ValueError):  # as earlier kernels have it
        quota, time = (
            float((GROUPS / "cpu" / f"cpu.cfs_{what}_us").read_text())
            for what in ("quota", "period")
        )
        if quota > 0:
            least = min(least, quota / time)
    return max(1, math.ceil(least)) if math.isfinite(least) else 1 << 20


def memory() -> int:
    """Bytes of main memory, or of what a container may use; where nobody tells, 8 GiB."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        whole = 8 << 30
    limits = [folder / "memory.max" for folder in _groups()]
    for path in (*limits, GROUPS / "memory" / "memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # ``max`` is no number
            whole = min(whole, int(path.read_text()))
    return whole


def peak_memory() -> int | None:
    """The most bytes of main memory that this process has held; None where nobody counts them."""
    with suppress(OSError, ValueError, IndexError):
        # Not what getrusage says: it may be that of the process that started this one.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    with suppress(ImportError):
        import resource

        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return held if sys.platform == "darwin" else 1024 * held
    return None


def forget_peak_memory() -> None:
    """Have ``peak_memory`` count from now on, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _groups() -> Iterator[Path]:
    """The folders of the control groups that this process is in, from its own to the outermost."""
    own = GROUPS
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        place = next(line for line in lines if line.startswith("0::"))[3:]
        own = GROUPS / place.lstrip("/")
    yield own
    for folder in own.parents:
        if folder == GROUPS or GROUPS in folder.parents:
            yield folder


def give_back_memory() -> None:
    """Have what was freed given back to the system, where the C library keeps it and can."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
