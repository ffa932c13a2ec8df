"""What `query` is asked about, tables, and lists by metadata."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from shell import Shell

from siamese_search.cli.asking import asked
from siamese_search.pictures.kind import PICTURES

Pictures = Callable[..., Path]


@pytest.fixture
def shell(tmp_path: Path, toy_folder: Path, pictures: Pictures) -> Shell:
    shell = Shell(tmp_path, toy_folder)
    shell("add", pictures({"Milk": 2, "Tea/green": 1}), "--encoder", shell.encoder)
    return shell


def piped(shell: Shell, data: bytes, *arguments: str, code: int = 0) -> tuple[str, str]:
    """What a command prints that is given bytes on standard input."""
    command = [sys.executable, "-m", "siamese_search", *arguments]
    result = subprocess.run(command, cwd=shell.folder, input=data, capture_output=True)
    assert result.returncode == code, result.stderr
    return result.stdout.decode(), result.stderr.decode()


def test_an_image_on_standard_input(shell: Shell) -> None:
    image = (shell.folder / "pictures/Tea/green/0.png").read_bytes()
    printed, _ = piped(shell, image, "query", "-", "--json")
    answer = json.loads(printed)
    assert (answer["image"], answer["identity"]) == ("-", "Tea/green")
    printed, _ = piped(shell, image, "query", "-", "pictures/Milk/0.png", "--json")
    assert [json.loads(line)["image"] for line in printed.splitlines()] == [
        "-", "pictures/Milk/0.png"
    ]  # fmt: skip
    assert "rejected: -: empty file" in piped(shell, b"", "query", "-", code=1)[1]
    _, said = piped(shell, image, "query", "-", "--threshold", "1", "--keep-unknown")
    assert "no image is kept" in said  # there is no file to enrol later


@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig"])
def test_a_list_of_paths_and_folders(shell: Shell, end: str, mark: str) -> None:
    paths = ["pictures/Milk/1.png", "nowhere.png", "pictures/Tea"]
    printed, said = piped(
        shell, end.join([*paths, ""]).encode(mark), "query", "--paths-from", "-", "--json", code=1
    )
    answers = [json.loads(line) for line in printed.splitlines()]
    assert [one["matches"][0]["identity"] for one in answers] == ["Milk", "Tea/green"]
    assert answers[0]["image"] == "pictures/Milk/1.png"
    assert "rejected: nowhere.png: there is no such file" in said


def test_images_are_called_as_they_were_typed(shell: Shell) -> None:
    def asked(*paths: str) -> list[str]:
        return [one["image"] for one in shell.json("query", *paths)]

    assert asked("pictures/Tea", "pictures/Milk/0.png") == [
        "pictures/Tea/green/0.png", "pictures/Milk/0.png"
    ]  # fmt: skip
    (name,) = asked(str(shell.folder / "pictures" / "Tea"))
    assert name == str(shell.folder / "pictures" / "Tea" / "green" / "0.png")


def test_what_is_enrolled_is_not_kept_as_unknown(shell: Shell) -> None:
    said = shell("query", "pictures", "--threshold", "1", "--keep-unknown").stderr
    assert said.startswith("no image is kept: ")
    assert "nothing is kept" in shell("unknowns").stdout


def test_what_does_not_exist_keeps_others_from_no_answer(shell: Shell) -> None:
    image = "pictures/Milk/1.png"
    result = shell("query", "nowhere.png", image, "--json", code=1)
    assert json.loads(result.stdout)["image"] == image
    assert result.stderr == "rejected: nowhere.png: there is no such file\n"
    said = shell("query", "nowhere.png", "gone.png", code=2).stderr
    assert said == "error: nowhere.png: no such file or folder\n"


def test_what_is_no_list_is_refused(shell: Shell) -> None:
    (shell.folder / "empty").touch()
    image = "pictures/Milk/0.png"
    assert "is no list of paths" in shell("query", "--paths-from", image, code=2).stderr
    assert "lists no paths" in shell("query", "--paths-from", "empty", code=2).stderr
    assert "no such file" in shell("query", "--paths-from", "gone", code=2).stderr.lower()


def test_many_paths_take_no_longer_each_than_few(shell: Shell) -> None:
    class Compared(str):
        times = 0
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            Compared.times += 1
            return str.__eq__(self, other)

    image = str(shell.folder / "pictures/Milk/0.png")
    paths = [Compared("/" * number + image) for number in range(300)]
    assert len(list(asked(paths, PICTURES, lambda rejection: None))) == len(paths)
    assert Compared.times <= 10 * len(paths)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--exclude", "*.png"], "--exclude is about files and folders in a folder"),
        (["--every", "2s"], "--every is about videos"),
        (["--changes"], "--changes is about videos"),
    ],
)
def test_what_would_do_nothing_is_refused(shell: Shell, options: list[str], message: str) -> None:
    assert message in shell("query", "pictures/Milk/0.png", *options, code=2).stderr
    if options[0] == "--exclude":
        assert message in shell("add", "pictures/Milk/0.png", *options, code=2).stderr


def test_a_table_has_a_row_an_image(shell: Shell) -> None:
    (shell.folder / "a, b.png").write_bytes((shell.folder / "pictures/Milk/0.png").read_bytes())
    printed = shell("query", "a, b.png", "pictures", "--csv").stdout
    rows = list(csv.DictReader(printed.splitlines()))
    assert [row["nearest"] for row in rows] == ["Milk", "Milk", "Milk", "Tea/green"]
    assert rows[0]["image"] == "a, b.png"
    assert rows[3]["identity"] == "Tea/green"
    assert float(rows[3]["score"]) == pytest.approx(1, abs=1e-3)
    (row,) = csv.DictReader(
        shell("query", "a, b.png", "--csv", "--threshold", "1").stdout.splitlines()
    )
    assert (row["identity"], row["nearest"]) == ("", "Milk")
    ranked = list(
        csv.DictReader(shell("query", "pictures", "--csv", "-k", "2").stdout.splitlines())
    )
    assert [(row["rank"], row["nearest"]) for row in ranked[-2:]] == [
        ("1", "Tea/green"),
        ("2", "Milk"),
    ]
    assert len(ranked) == 6
    assert {row["identity"] for row in ranked[-2:]} == {"Tea/green"}
    assert float(ranked[-1]["nearest_score"]) < float(ranked[-2]["nearest_score"])
    assert "choose one" in shell("query", "a, b.png", "--csv", "--json", code=2).stderr


def test_items_are_listed_by_their_metadata(shell: Shell) -> None:
    (shell.folder / "list.csv").write_text(
        "path,label,shop\npictures/Milk/0.png,Milk,north\npictures/Tea/green/0.png,Tea/green,north\n"
    )
    shell("add", "--manifest", "list.csv")
    found = shell.json("list", "--where", "shop=north")
    assert [(one["item"], one["identity"]) for one in found] == [(1, "Milk"), (3, "Tea/green")]
    assert [one["item"] for one in shell.json("list", "Milk", "--where", "shop=north")] == [1]
    assert [one["item"] for one in shell.json("list", "Tea/*", "--where", "shop=north")] == [3]
    assert "1  Milk  " in shell("list", "--where", "shop=north").stdout
    result = shell("list", "--where", "shop=south")
    assert (result.stdout, result.stderr) == ("", "no item has shop=south\n")
    assert "write key=value" in shell("list", "--where", "shop", code=2).stderr
