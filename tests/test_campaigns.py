"""Whatever happens to a command, nothing is lost. All of it: benchmarks/faults/."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disks import OPTIONS, recorded
from tracing import untraceable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux"),
]

FAULTS = Path(__file__).parents[1] / "benchmarks" / "faults"
# Tracing takes time: of commands that differ little, one stands for the others.
SOME = ["add", "add --copy later", "remove --forever", "undo", "calibrate", "compact", "rebuild"]
WHY_NOT = untraceable()
traced = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@pytest.fixture
def result(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """What a campaign writes; they run in processes of their own, as forks want no threads."""

    def run(name: str, *options: str) -> dict[str, Any]:
        out = tmp_path / f"{name}.json"
        command = [sys.executable, str(FAULTS / f"{name}.py"), "--seed", "3", "--out", str(out)]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        if "can be mounted" in done.stderr or "no `mount`" in done.stderr:
            pytest.skip(done.stderr.strip())
        assert out.exists(), done.stderr
        found: dict[str, Any] = json.loads(out.read_text())
        assert list(tmp_path.iterdir()) == [out]
        return found

    return run


def test_a_command_that_is_killed_at_a_random_moment(
    result: Callable[..., dict[str, Any]],
) -> None:
    found = result("kills", "--cases", "42", "--processes", "1", "--commands-only")
    assert found["faults"] == []
    assert found["kills"] >= 20


@traced
def test_a_command_whose_nth_system_call_fails(result: Callable[..., dict[str, Any]]) -> None:
    found = result("syscalls", "--cases", "28", "--processes", "1", "--commands", *SOME)
    assert found["faults"] == []
    assert {"-9", "2"} <= found["exit codes"].keys()


def test_a_disk_that_gets_full(result: Callable[..., dict[str, Any]]) -> None:
    wanted = ["add --copy", "compact", "rebuild --encoder"]
    found = result("full_disk", "--levels", "3", "--processes", "1", "--commands", *wanted)
    assert found["faults"] == []
    assert [found["refused"][name] for name in wanted] == [2, 2, 2]


@traced
def test_power_that_goes(result: Callable[..., dict[str, Any]]) -> None:
    found = result("power_loss", "--cases", "21", "--processes", "1", "--commands", *SOME)
    assert found["faults"] == []
    assert set(found["states by loss"]) == {"least", "random"}


def test_processes_that_write_at_once(result: Callable[..., dict[str, Any]]) -> None:
    found = result("processes", "--processes", "4", "--writes", "25")
    assert found["faults"] == []
    assert sum(found["writes"].values()) == 100


@traced
def test_what_was_not_synced_is_lost(tmp_path: Path) -> None:
    """The recorder itself: a file that is synced in a folder that is not, and the other way."""
    folder, log = tmp_path / "folder", tmp_path / "log"
    folder.mkdir()
    (folder / "old").write_bytes(b"o" * 1000)
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "old").write_bytes(b"o" * 1000)
    script = (
        "import os, sys\n"
        "folder = sys.argv[1]\n"
        "def write(name, sync):\n"
        "    with open(f'{folder}/{name}', 'wb') as file:\n"
        "        file.write(b'n' * 1000)\n"
        "        file.flush()\n"
        "        if sync: os.fsync(file.fileno())\n"
        "write('lost content', False)\n"
        "write('kept', True)\n"
        "os.rename(f'{folder}/old', f'{folder}/renamed')\n"
        "os.fsync(os.open(folder, os.O_RDONLY))\n"
        "write('lost name', True)\n"
        "os.unlink(f'{folder}/renamed')\n"
    )
    command = ["strace", "-f", *OPTIONS, "-o", str(log), sys.executable, "-c", script, str(folder)]
    subprocess.run(command, check=True)
    recording = recorded(log, folder, tmp_path / "before")
    count = len(recording.changes)
    for loss, names in (
        ("least", {"lost content", "kept", "renamed"}),
        ("all", {"lost content", "kept", "lost name"}),
    ):
        place = tmp_path / loss
        recording.state(count, loss, random.Random(1)).write(place)
        there = {path.name: path.read_bytes() for path in (place / "folder").iterdir()}
        assert there.keys() == names
        assert there["kept"] == b"n" * 1000
        assert there["lost content"] == (b"" if loss == "least" else b"n" * 1000)
