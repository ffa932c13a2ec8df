"""What is done is done, and the exit code right, whatever standard output and error lead to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import picture

from siamese_search import Encoder, Gallery, cli

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command line of a shell, where ``$S`` is siasearch."""
    return subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env=os.environ | {"S": f"{sys.executable} -m siamese_search"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&- <&-"])
def test_enrolling_does_not_need_streams(closed: str, tmp_path: Path, toy_folder: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(3):
        picture(number).save(tmp_path / "a" / f"{number}.png")
    done = shell(f"$S add a --label a -e {toy_folder} -g gallery {closed}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with Gallery.open(tmp_path / "gallery") as gallery:
        assert gallery.identities() == [("a", 3)]
        assert gallery.check() == []


def test_what_cannot_be_printed_is_no_traceback(tmp_path: Path, toy_folder: Path) -> None:
    with Gallery.open(tmp_path / "gallery", toy_folder) as gallery:
        gallery.enroll([picture(1)], "a")
    done = shell("$S list --json -g gallery >&-", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done = shell("$S list -g gallery >/dev/full", tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: output: No space left on device\n")


def test_what_cannot_be_said_stops_nothing(tmp_path: Path, toy_folder: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(2):
        picture(number).save(tmp_path / "a" / f"{number}.png")
    (tmp_path / "a" / "broken.png").write_text("no picture")
    done = shell(f"$S add a --label a -e {toy_folder} -g gallery 2>/dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("2 added, 0 skipped (enrolled already), 1 rejected")
    assert shell("$S remove nobody -g gallery 2>/dev/full", tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "there is not enough memory"),
        (RuntimeError("can't start new thread"), "no thread can be started"),
    ],
)
def test_too_little_memory_is_one_line(
    error: Exception,
    said: str,
    tmp_path: Path,
    toy: Encoder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Gallery.open(tmp_path / "gallery", toy).close()

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Gallery, "compact", fail)
    monkeypatch.setattr(sys, "argv", ["siasearch", "compact", "-g", str(tmp_path / "gallery")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_an_identity_called_unknown_is_told_from_the_answer(
    tmp_path: Path, toy_folder: Path
) -> None:
    picture(1).save(tmp_path / "one.png")
    with Gallery.open(tmp_path / "gallery", toy_folder) as gallery:
        gallery.enroll([picture(1)], "unknown")
        gallery.enroll([picture(2)], "junk", distractor=True)
    done = shell("$S query one.png -g gallery", tmp_path)
    assert done.stdout.startswith("one.png: 'unknown' (98% sure; score 1.000")
    done = shell("$S relabel unknown junk -g gallery", tmp_path)
    assert "'junk' is a distractor: whatever is like its items gets no name" in done.stderr
    assert "undo -g gallery` parts them" in done.stdout
    assert shell("$S undo -g gallery", tmp_path).returncode == 0
    done = shell("$S query one.png -g gallery", tmp_path)
    assert done.stdout.startswith("one.png: 'unknown' (98% sure; score 1.000")
