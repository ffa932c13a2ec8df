from __future__ import annotations

import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from shell import Shell

from siamese_search.cli import common
from siamese_search.records import Progress

Pictures = Callable[..., Path]


def test_progress_is_a_line_now_and_then_where_nobody_looks_at_a_bar(
    shell: Shell, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures({"a": 3})
    monkeypatch.setattr(common, "LINE_SECONDS", 1000.0)
    assert "enrolling" not in shell("add", folder, "--encoder", shell.encoder).stderr
    monkeypatch.setattr(common, "LINE_SECONDS", 0.0)
    assert "enrolling: 3 of 3, " in shell("add", folder).stderr
    now = iter(2 * [0.0, 9.0, 11.0, 13.0, 21.0, 22.0])
    monkeypatch.setattr(common, "LINE_SECONDS", 10.0)
    monkeypatch.setattr("siamese_search.cli.common.time.monotonic", lambda: next(now))
    said: list[str] = []
    monkeypatch.setattr(common, "note", said.append)
    with common.progress_bar("enrolling", lambda: 400) as watch:
        for done in (90, 110, 130, 210, 220):
            watch(Progress("enrolling", done))
    assert said == ["enrolling: 110 of 400, 10 a second", "enrolling: 210 of 400, 10 a second"]
    said.clear()
    with common.progress_bar("training") as watch:
        for done in (90, 110, 130, 210, 220):
            watch(Progress(f"loss {1 / done:.3f}", done, 400))  # as it goes, in the same stage
    assert said == ["loss 0.009: 110 of 400, 10 a second", "loss 0.005: 210 of 400, 10 a second"]


def test_a_bar_says_how_many_and_never_of_how_many_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    for total, expected in ((None, "7"), (9, "7/9")):
        drawn = Terminal()
        monkeypatch.setattr(sys, "stderr", drawn)
        monkeypatch.setenv("TERM", "xterm")
        with common.progress_bar("training") as watch:
            watch(Progress("training", 0, total))
            watch(Progress("training", 7, total))
        assert "/?" not in drawn.getvalue()
        assert f"{expected} " in drawn.getvalue()
        assert ("7/" in drawn.getvalue()) == (total is not None)
