"""What a container may use of its machine is what counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from siamese_search import machine


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands for that of control groups."""
    monkeypatch.setattr(machine, "GROUPS", tmp_path)
    machine._quota.cache_clear()
    yield tmp_path
    machine._quota.cache_clear()


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({"cpu/cpu.cfs_quota_us": "90000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_cores(files: dict[str, str], cores: int | None, groups: Path) -> None:
    all_of_them = machine.cores()
    for name, text in files.items():
        (groups / name).parent.mkdir(exist_ok=True)
        (groups / name).write_text(text)
    machine._quota.cache_clear()
    assert machine.cores() == (cores or all_of_them)


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_memory(name: str, groups: Path) -> None:
    whole = machine.memory()
    (groups / name).parent.mkdir(exist_ok=True)
    (groups / name).write_text("max\n")
    assert machine.memory() == whole
    (groups / name).write_text(f"{256 << 20}\n")
    assert machine.memory() == 256 << 20
