"""Nothing acknowledged is lost when siasearch is killed. All: benchmarks/faults/kills.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

CAMPAIGN = Path(__file__).parents[1] / "benchmarks" / "faults" / "operations.py"
STEPS = {
    "first half": ["create", "add", "remove", "relabel", "compact", "reindex"],
    "second half": ["undo", "bulk", "copy", "rebuild"],
}


@pytest.fixture(scope="module")
def campaigns(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Campaigns at once, in processes of their own: forks want a process without threads."""
    folder = tmp_path_factory.mktemp("campaigns")
    options = {name: ["--kills", "0", "--steps", *kinds] for name, kinds in STEPS.items()}
    options["random"] = ["--kills", "110", "--steps"]
    running = {
        name: subprocess.Popen(
            [sys.executable, str(CAMPAIGN), "--seed", "5", "--out", str(folder / name), *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, more in options.items()
    }

    def result(name: str) -> dict[str, Any]:
        printed, _ = running.pop(name).communicate()
        assert (folder / name).exists(), printed
        summary: dict[str, Any] = json.loads((folder / name).read_text())
        return summary

    yield result
    for process in running.values():
        process.kill()
        process.communicate()


def test_nothing_is_lost_by_a_kill_at_a_random_moment(
    campaigns: Callable[[str], dict[str, Any]],
) -> None:
    result = campaigns("random")
    assert result["violations"] == []
    assert result["kills"] >= 100
    assert result["inside an operation"] >= 100
    assert result["left a hot journal"] > 10


@pytest.mark.parametrize("half", STEPS)
def test_nothing_is_lost_by_a_kill_at_any_step_of_any_operation(
    half: str, campaigns: Callable[[str], dict[str, Any]]
) -> None:
    result = campaigns(half)
    assert result["violations"] == []
    kills = result["kills by way and operation"]
    for kind in STEPS[half]:
        assert kills[f"step: {kind.replace('bulk', 'add')}"] >= 10, kind
