"""Nothing acknowledged is lost when siasearch is killed. All: benchmarks/faults/kills.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

CAMPAIGN = Path(__file__).parents[1] / "benchmarks" / "faults" / "operations.py"
STEPS = [
    "create",
    "add",
    "remove",
    "relabel",
    "compact",
    "reindex",
    "undo",
    "bulk",
    "copy",
    "rebuild",
]


def campaign(out: Path, *options: str) -> dict[str, Any]:
    """A campaign's result, from a process of its own: forks want a process without threads."""
    command = [sys.executable, str(CAMPAIGN), "--seed", "5", "--out", str(out), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert out.exists(), done.stdout
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def test_nothing_is_lost_by_a_kill_at_a_random_moment(tmp_path: Path) -> None:
    result = campaign(tmp_path / "random", "--kills", "30", "--steps")
    assert result["violations"] == []
    assert result["kills"] >= 25
    assert result["inside an operation"] >= 25
    assert result["left a hot journal"] > 2


def test_nothing_is_lost_by_a_kill_at_any_step_of_any_operation(tmp_path: Path) -> None:
    result = campaign(tmp_path / "steps", "--kills", "0", "--distinct", "--steps", *STEPS)
    assert result["violations"] == []
    kills = result["kills by way and operation"]
    for kind in STEPS:
        assert kills[f"step: {kind.replace('bulk', 'add')}"] >= 5, kind
