"""Whatever names files have, no output steers a terminal, and no name forges a line."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from conftest import picture, write_toy_encoder
from shell import Ran, Shell

from siamese_search.records import Rejection

CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
STEERING = re.compile(CONTROLS.pattern[:-1] + "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
NAME = "a\u202eb\u2028error: c"  # what an identity's name may have
FILE = "x\x1b[31m\x9b2J\ny.png"


def named(folder: Path) -> Path:
    """Twelve things with two pictures each, one of which has such a name, as have its files."""
    for thing in range(12):
        place = folder / (NAME if thing == 0 else f"thing{thing}")
        place.mkdir(parents=True)
        picture(thing, noise=5).save(place / FILE)
        picture(thing, noise=9).save(place / "other.png")
    return folder


def require_tame(ran: Ran, pattern: re.Pattern[str] = STEERING) -> None:
    for text in (ran.stdout, ran.stderr):
        assert not pattern.search(text), ascii(text)
        assert not re.search(r"^(error: c|y\.png)", text, re.MULTILINE)


def test_no_output_has_what_steers_a_terminal(shell: Shell) -> None:
    pytest.importorskip("matplotlib")
    data = named(shell.folder / "data")
    first = data / NAME / FILE
    require_tame(shell("add", "data", "--encoder", shell.encoder))
    asked: tuple[tuple[str | Path, ...], ...] = (
        ("list",), ("list", NAME), ("info",), ("query", first), ("verify", first, first),
        ("audit",), ("benchmark", "data"), ("benchmark", "--split", "data", "--seeds", "1", "-e",
        shell.encoder), ("plot", "neighbours", first, "--k", "2"), ("plot", "confusions"),
        ("plot", "scores"), ("explain", first, first), ("calibrate",), ("check",),
        ("remove", NAME), ("undo",),
    )  # fmt: skip
    for arguments in asked:
        ran = shell.run([str(one) for one in arguments])
        assert ran.returncode in (0, 1), ran.stderr
        require_tame(ran)
    for arguments in (("list", "--csv"), ("list", NAME, "--csv"), ("query", first, "--csv")):
        ran = shell(*arguments)
        require_tame(ran, CONTROLS)
        header, *rows = csv.reader(ran.stdout.split("\n")[:-1])
        assert rows
        assert {len(row) for row in rows} == {len(header)}
    assert "a\u202eb\\u2028error: c,2,False" in shell("list", "--csv").stdout


def test_encoders_of_any_name_are_printed_as_one_line(shell: Shell, coarse_folder: Path) -> None:
    folder = write_toy_encoder(shell.folder / "bad\x1b[2J\ny.png")
    require_tame(shell("encoder", "list"))
    require_tame(shell("encoder", "info", folder.name))
    data = named(shell.folder / "data")
    arguments = ("--data", data, "--seeds", "5", "--shots", "1")
    require_tame(shell("encoder", "compare", folder.name, coarse_folder, *arguments))


@pytest.mark.slow
def test_what_training_says_has_no_controls(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    run = pytest.importorskip("siamese_search.training.run")
    report = run.TrainingReport(
        encoder=f"out{FILE}",
        fingerprint="",
        dimension=2,
        steps=1,
        seconds=1.0,
        classes=2,
        pictures=4,
        held_out="classes",
        recall_before=None,
        recall=None,
        threshold=0.5,
        rejected=(Rejection(FILE, "no picture"),),
    )
    monkeypatch.setattr(run, "train", lambda *_, **__: report)
    ran = shell("train", named(shell.folder / "data"), code=1)
    assert "outx" in ran.stdout
    require_tame(ran)
