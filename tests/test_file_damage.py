"""No damage to a file changes an answer unnoticed. All of it: benchmarks/faults/damage.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[1] / "benchmarks" / "faults" / "damage.py"


@pytest.mark.slow
def test_no_damage_changes_an_answer_unnoticed(tmp_path: Path) -> None:
    out = tmp_path / "damage.json"
    command = [sys.executable, str(CAMPAIGN), "--cases", "40", "--seed", "7", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.exists(), done.stderr
    result = json.loads(out.read_text())
    assert result["faults"] == []
    outcomes = result["outcomes"]
    assert outcomes["database"]["caught at once"] > 7
    assert outcomes["encoder"]["caught at once"] == 40
    assert all(
        outcomes[kind]["same"] == 40 for kind in ("small index", "large index", "cache")
    )  # the database answers, or it is compiled again
