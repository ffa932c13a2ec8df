"""Watching a folder: each file once, when it is whole, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import watchfiles
from conftest import picture
from shell import Shell

from siamese_search.cli.watch import Answers
from siamese_search.errors import UsageError
from siamese_search.pictures.find import find_images
from siamese_search.pictures.watching import Folder, Listener, Look
from siamese_search.records import ImageFile

Watching = subprocess.Popen[str]


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A folder that is looked at a second after the last look."""

    def __init__(self, root: Path) -> None:
        self.clock = Clock()
        self.folder = Folder(str(root), lambda: find_images(str(root)), clock=self.clock)

    def look(self) -> Look:
        self.clock.now += 1
        return self.folder.look()

    def new(self) -> list[str]:
        return [os.path.basename(file.path) for file in self.look().new]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    (tmp_path / "in").mkdir()
    return Watched(tmp_path / "in")


def test_a_file_is_handed_out_once_when_it_stands_still(watched: Watched, tmp_path: Path) -> None:
    place = tmp_path / "in" / "milk" / "1.png"
    place.parent.mkdir()
    for written in (b"a", b"ab", b"abc"):
        place.write_bytes(written)
        assert (watched.new(), watched.folder.look().waiting) == ([], 1)
    (found,) = watched.look().new
    assert found == ImageFile(str(place), "milk")
    assert (watched.new(), watched.new()) == ([], [])
    place.write_bytes(b"abcd")
    assert (watched.new(), watched.new(), watched.new()) == ([], ["1.png"], [])


def test_what_is_empty_or_not_finished_by_its_name_waits(watched: Watched, tmp_path: Path) -> None:
    empty, part = tmp_path / "in" / "a.png", tmp_path / "in" / "b.png.part"
    empty.touch()
    part.write_bytes(b"b")
    assert [watched.new() for _ in range(3)] == [[], [], []]
    part.rename(tmp_path / "in" / "b.png")
    empty.write_bytes(b"a")
    assert (watched.new(), watched.new()) == ([], ["a.png", "b.png"])
    empty.write_bytes(b"")
    look = watched.look()
    assert (look.new, look.gone) == ([], [])


def test_what_goes_is_told_and_what_comes_back_is_no_news(watched: Watched, tmp_path: Path) -> None:
    place, away = tmp_path / "in" / "a.png", tmp_path / "a.png"
    place.write_bytes(b"a")
    assert (watched.new(), watched.new()) == ([], ["a.png"])
    place.rename(away)
    assert watched.look().gone == [str(place)]
    assert watched.look().gone == []
    away.rename(place)
    assert (watched.new(), watched.new()) == ([], [])
    place.rename(place.with_name("b.png"))
    assert watched.look().gone == [str(place)]
    assert watched.new() == ["b.png"]


def test_where_it_is_asked_for_what_comes_back_is_handed_out_again(
    watched: Watched, tmp_path: Path
) -> None:
    again: list[str] = []
    root, clock = str(tmp_path / "in"), watched.clock
    watched.folder = Folder(root, lambda: find_images(root), clock=clock, again=lambda: again)
    first, second = tmp_path / "in" / "a.png", tmp_path / "in" / "b.png"
    first.write_bytes(b"a")
    assert (watched.new(), watched.new()) == ([], ["a.png"])
    first.rename(second)
    assert (watched.new(), watched.new()) == ([], ["b.png"])
    second.rename(first)
    assert (watched.new(), watched.new(), watched.new()) == ([], ["a.png"], [])
    again.append(str(first))
    assert watched.new() == []
    again.clear()
    assert (watched.new(), watched.new()) == (["a.png"], [])


def test_a_folder_that_is_away_loses_nothing(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "in" / "a.png").write_bytes(b"a")
    assert (watched.new(), watched.new()) == ([], ["a.png"])
    (tmp_path / "in").rename(tmp_path / "away")
    assert watched.look() == Look(missing=True)
    (tmp_path / "away").rename(tmp_path / "in")
    assert watched.look() == Look()


def test_where_nobody_tells_of_changes_a_folder_is_polled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said: list[str] = []
    with Listener(str(tmp_path), None, said.append) as listener:
        listener.wait(0.01)
    assert "looked through every 2 seconds: with `pip install" in said[0]


def test_the_system_tells_of_changes(tmp_path: Path) -> None:
    with Listener(str(tmp_path)) as listener:
        assert listener.wait(30)  # it listens from now on: what came before is to be looked for
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "1.png").write_bytes(b"a")
        assert listener.wait(30)
        while listener.wait(2):
            pass
        assert not listener.wait(0.1)


def test_trouble_with_telling_leads_to_polling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Iterator[object]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watchfiles, "watch", refuse)
    said: list[str] = []
    with Listener(str(tmp_path), None, said.append) as listener:
        listener.wait(30)
    assert "the system does not tell of changes (No space left on device)" in said[0]


# The command


@contextmanager
def watching(shell: Shell, *arguments: str) -> Iterator[Watching]:
    """The command as it runs; killed in the end where it has not ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "siamese_search", "watch", *arguments, "--settle", "0.3"],
        cwd=shell.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = iter(process.stderr.readline, "")
        assert any(line.startswith("watching ") for line in said)  # else Ctrl-C comes too early
        yield process
    finally:
        process.kill()
        process.communicate()


def stop(process: Watching, by: signal.Signals = signal.SIGINT) -> tuple[str, str]:
    """What it printed until it was stopped."""
    process.send_signal(by)
    printed = process.communicate(timeout=60)
    assert "Traceback" not in printed[1]
    return printed


def until(true: Callable[[], bool]) -> None:
    """Wait until something holds."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < 60
        time.sleep(0.1)


def count(shell: Shell) -> int:
    if not (shell.folder / "indexes" / "default" / "gallery.db").exists():
        return 0
    result = shell.run(["info", "--json"])
    return json.loads(result.stdout)["items"] if result.returncode == 0 else 0


def test_what_appears_is_enrolled_until_ctrl_c(shell: Shell, pictures: Callable[..., Path]) -> None:
    pictures({"milk": 2}, "in")
    with watching(shell, "in", "--encoder", shell.encoder, "--json") as process:
        until(lambda: count(shell) == 2)
        pictures({"tea": 1}, "in", first_seed=50)
        picture(60).save(shell.folder / "in" / "loose.png")
        (shell.folder / "in" / "note.txt").write_text("no picture")
        (shell.folder / "in" / "bad.png").write_bytes(b"bad")
        until(lambda: count(shell) == 4)
        (shell.folder / "in" / "milk" / "0.png").unlink()
        time.sleep(3)
        stdout, stderr = stop(process)
    lines = [json.loads(line) for line in stdout.splitlines()]
    place = shell.folder / "in" / "tea" / "0.png"
    assert {"image": str(place), "identity": "tea", "item": 4} in lines or {
        "image": str(place), "identity": "tea", "item": 3
    } in lines  # fmt: skip
    assert sorted(line["identity"] for line in lines) == ["loose", "milk", "milk", "tea"]
    assert "in/milk/0.png; their items stay" in stderr
    assert "rejected: " in stderr
    assert "stopped: 4 enrolled, 1 rejected; 4 items now" in stderr
    assert process.returncode == 1  # something was rejected
    picture(61).save(shell.folder / "in" / "last.png")
    chosen = ("--flat", "--exclude", "m*", "--exclude", "bad.png")
    with watching(shell, "in", *chosen) as process:
        until(lambda: count(shell) == 5)
        time.sleep(3)  # what is rejected is told after the commit
        _, stderr = stop(process, signal.SIGTERM)
    assert shell.json("list", "in")[0]["path"].endswith("last.png")
    assert stderr.count("the same image is enrolled as") == 2  # as another than in, below, too


def test_places_are_noted_of_files_that_are_renamed_back_or_relabelled(
    shell: Shell, pictures: Callable[..., Path]
) -> None:
    folder = pictures({"milk": 1}, "in")

    def lies(place: str, identity: str = "milk") -> bool:
        result = shell.run(["list", identity, "--json"])
        return result.returncode == 0 and str(folder / place) in result.stdout

    with watching(shell, "in", "--encoder", shell.encoder, "--poll", "0.3") as process:
        until(lambda: lies("milk/0.png"))
        for before, after in ("01", "10"):
            (folder / "milk" / f"{before}.png").rename(folder / "milk" / f"{after}.png")
            until(lambda after=after: lies(f"milk/{after}.png"))  # type: ignore[misc]
        (folder / "milk").rename(folder / "tea")
        time.sleep(3)
        shell("relabel", "milk", "tea")
        until(lambda: lies("tea/0.png", "tea"))
        time.sleep(3)  # what is not rejected any more is forgotten after the commit
        _, stderr = stop(process)
    assert "the same image is enrolled as" in stderr
    assert process.returncode == 0


@pytest.mark.slow
def test_each_file_of_a_burst_is_enrolled_once_with_kills(shell: Shell) -> None:
    prepared = shell.folder / "prepared"
    names = [f"{number % 7}/{number}.png" for number in range(300)]
    for number, name in enumerate(names):
        (prepared / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(prepared / name)
    into = shell.folder / "in"
    into.mkdir()
    for burst in range(3):
        with watching(shell, "in", "--encoder", shell.encoder) as process:
            before = count(shell)
            for name in names[100 * burst : 100 * burst + 100]:
                (into / name).parent.mkdir(exist_ok=True)
                shutil.copy(prepared / name, into / name)
            until(lambda before=before: count(shell) > before)  # type: ignore[misc]
            process.kill()  # in the midst of it, or just after
    with watching(shell, "in") as process:
        until(lambda: count(shell) == len(names))
        stop(process)
    assert process.returncode == 0
    found = [
        item["path"]
        for identity in shell.json("list")
        for item in shell.json("list", identity["identity"])
    ]
    assert sorted(found) == sorted(str(into / name) for name in names)
    assert shell.json("check")[0]["ok"]


@pytest.mark.slow
def test_each_file_is_named_once_with_kills(shell: Shell, pictures: Callable[..., Path]) -> None:
    folder = pictures({"a": 20, "b": 20}, "enrolled")
    shell("add", "enrolled", "--encoder", shell.encoder)
    out = shell.folder / "answers.jsonl"

    def answered() -> int:
        return len(out.read_text().splitlines()) if out.exists() else 0

    into = shell.folder / "in"
    into.mkdir()
    for burst in "ab":
        with watching(shell, "in", "--query", "--json", "--out", "answers.jsonl") as process:
            before = answered()
            shutil.copytree(folder / burst, into / burst)
            until(lambda before=before: answered() > before)  # type: ignore[misc]
            process.kill()
    text = out.read_text()
    out.write_text(text[: len(text) - 5])  # as where a disk was full
    with watching(shell, "in", "--query", "--json", "--out", "answers.jsonl") as process:
        until(lambda: answered() == 40)
        time.sleep(2)
        _, stderr = stop(process)
    assert "rejected" in stderr
    assert process.returncode == 0
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(answers) == 40
    assert {one["image"] for one in answers} == {str(path) for path in into.rglob("*.png")}
    for one in answers:
        assert one["matches"][0]["identity"] == Path(one["image"]).parent.name
        assert one["size"] == Path(one["image"]).stat().st_size


def test_without_a_file_of_answers_only_what_is_new_is_named(
    shell: Shell, pictures: Callable[..., Path]
) -> None:
    pictures({"a": 1, "b": 1}, "enrolled")
    shell("add", "enrolled", "--encoder", shell.encoder)
    pictures({"old": 2}, "in")
    with watching(shell, "in", "--query") as process:
        assert process.stdout is not None
        picture(1).save(shell.folder / "in" / "new.png")
        assert process.stdout.readline().startswith("in/new.png: b ")
        printed, _ = stop(process)
    assert process.returncode == 0
    assert "old" not in printed


def test_where_a_file_of_answers_goes_a_new_one_takes_the_next(tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    first, second = ({"image": name, "size": 1, "modified": 2.0} for name in "ab")
    old = tmp_path / "old.jsonl"
    answers = Answers(out)
    answers.add(first)
    out.rename(old)
    answers.add(second)
    assert [json.loads(path.read_text()) for path in (old, out)] == [first, second]
    out.unlink()
    out.touch()  # as programs that rotate logs make it
    answers.add(first)
    assert json.loads(out.read_text()) == first
    out.unlink()
    out.write_text("no answers")
    with pytest.raises(UsageError, match="name another file"):
        answers.add(second)
    assert out.read_text() == "no answers"


def test_what_cannot_be_watched_is_a_line(shell: Shell, pictures: Callable[..., Path]) -> None:
    pictures({"a": 2}, "in")
    assert "nowhere is no folder" in shell("watch", "nowhere", code=2).stderr
    assert not (shell.folder / "indexes").exists()
    said = shell("watch", "in", "--out", "x", code=2).stderr
    assert "nothing is asked about, so --out does nothing: it needs --query" in said
    assert "so --where does" in shell("watch", "in", "--where", "a=b", code=2).stderr
    for option in ("--label=a", "--flat", "--copy", "--identity-from=stem"):
        said = shell("watch", "in", "--query", option, code=2).stderr
        assert f"--query enrols nothing, so {option.split('=')[0]} does nothing" in said
    assert "no gallery" in shell("watch", "in", "--query", code=2).stderr
    shell("add", "in", "--encoder", shell.encoder)
    for text in ("no answers\n", "no answers", '{"image": 1}\n'):
        (shell.folder / "x").write_text(text)
        said = shell("watch", "in", "--query", "--out", "x", code=2).stderr
        assert "x, line 1, is not what" in said
        assert (shell.folder / "x").read_text() == text
