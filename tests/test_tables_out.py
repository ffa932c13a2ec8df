"""What commands print as tables, sorted and cut as asked."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import picture
from shell import Shell

from siamese_search import Encoder, Gallery


@pytest.fixture
def shell(tmp_path: Path, toy: Encoder, pictures: Callable[..., Path]) -> Shell:
    folder = pictures({"ant": 1, "bee": 3, "cat": 2})
    with Gallery.open(tmp_path / "indexes" / "default", toy) as gallery:
        gallery.enroll(folder)
        gallery.enroll([picture(3, noise=1)], label="wrong")  # as one of the bees
    return Shell(tmp_path)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_lists_are_sorted_and_cut(shell: Shell) -> None:
    told = shell("list", "--sort", "items", "--limit", "2", "--csv")
    assert [row["identity"] for row in rows(told.stdout)] == ["bee", "cat"]
    assert "2 of 4 are listed" in told.stderr
    told = shell("list", "bee", "--sort", "path", "--csv")
    paths = [row["path"] for row in rows(told.stdout)]
    assert paths == sorted(paths)
    assert len(shell.json("list", "bee", "--limit", "1")) == 1
    assert "sorted by name or items" in shell("list", "--sort", "path", code=2).stderr
    assert "sorted by item, identity" in shell("list", "bee", "--sort", "items", code=2).stderr


def test_an_audit_is_a_table(shell: Shell) -> None:
    found = rows(shell("audit", "--csv").stdout)
    assert {row["kind"] for row in found} >= {"label", "duplicate"}
    (pair,) = [row for row in found if row["kind"] == "duplicate"]
    assert {pair["identity"], pair["other"]} == {"bee", "wrong"}
    assert float(pair["score"]) > 0.98
    kinds = [row["kind"] for row in rows(shell("audit", "--csv", "--top", "1").stdout)]
    assert kinds == sorted({row["kind"] for row in found}, key=kinds.index)
    assert "choose one" in shell("audit", "--csv", "--json", code=2).stderr


def test_a_benchmark_is_a_table(shell: Shell) -> None:
    (first,) = shell.json("benchmark", "pictures")
    found = {
        row["figure"]: row["draw 1"] for row in rows(shell("benchmark", "pictures", "--csv").stdout)
    }
    assert set(found) == set(first["draws"][0])
    assert float(found["recall@1"]) == first["draws"][0]["recall@1"]
    assert "leave out" in shell("benchmark", "pictures", "--csv", "--json", code=2).stderr


def test_shells_complete_commands(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_SIASEARCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "siasearch ex")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert set(shell("").stdout.split()) == {"export", "explain"}
