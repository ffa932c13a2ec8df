"""Folders as they are typed: what becomes an identity, what is said, what is never mixed up."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import picture
from shell import Shell
from terminal import answered

from siamese_search import Encoder, Gallery
from siamese_search.cli.naming import settle_names
from siamese_search.errors import UsageError
from siamese_search.pictures.kind import PICTURES

Pictures = Callable[..., Path]


@pytest.fixture
def shop(pictures: Pictures) -> Path:
    return pictures({"Milk": 3, "Tea": 2, "Rice": 1}, "shop")


@pytest.mark.usefixtures("shop")
def test_one_folder_of_pictures_is_refused_where_nobody_can_be_asked(shell: Shell) -> None:
    result = shell("add", "shop/Milk", "--encoder", shell.encoder, code=2)
    assert "nothing was done: name one identity by --label, or say --yes" in result.stderr
    assert not (shell.folder / "indexes").exists()
    result = shell("add", "shop/Milk", "--encoder", shell.encoder, "--yes")
    assert "3 added" in result.stdout
    assert "3 pictures lie directly in shop/Milk: each becomes an identity of its own" in (
        result.stderr
    )
    command = f"siasearch add shop/Milk --label Milk --encoder {shell.encoder}"
    assert f"  {command} --yes\n" in result.stderr
    again = shell("add", "shop/Milk")  # nothing is asked, and nothing said again
    assert ("3 skipped" in again.stdout, again.stderr) == (True, "")
    shutil.rmtree(shell.folder / "indexes")
    shell(*command.split()[1:])
    assert shell.json("list") == [{"identity": "Milk", "items": 3, "distractor": False}]


def test_folders_whose_files_share_names_are_refused_not_mixed(shell: Shell, shop: Path) -> None:
    folders = sorted(f"shop/{one.name}" for one in shop.iterdir())
    said = shell("add", *folders, "--encoder", shell.encoder, code=2).stderr
    assert "6 pictures lie directly in the 3 folders that you named" in said
    assert f"  siasearch add shop --encoder {shell.encoder}\n" in said
    assert "shop/Milk/0.png and shop/Rice/0.png would both be the identity '0'" in said
    assert not (shell.folder / "indexes").exists()
    (shop / "Greek").mkdir()
    (shop / "Rice").rename(shop / "Greek" / "Rice")  # a folder that holds no picture itself
    deep = [
        f"shop/{name}" for name in ("Greek", *(one[5:] for one in folders if "Rice" not in one))
    ]
    said = shell("add", *deep, "--encoder", shell.encoder, code=2).stderr
    assert "5 pictures lie directly in 2 of the folders that you named" in said
    assert f"  siasearch add shop --encoder {shell.encoder}\n" in said
    said = shell("add", *deep[:2], "--encoder", shell.encoder, code=2).stderr
    assert f"  siasearch add shop/Greek --encoder {shell.encoder}\n" in said
    assert f"  siasearch add {deep[1]} --label {deep[1][5:]} --encoder" in said
    (shop / "Greek" / "Rice").rename(shop / "Rice")
    (shop / "Greek").rmdir()
    said = shell("add", *folders[:2], "--encoder", shell.encoder, code=2).stderr
    assert "siasearch add shop/Milk --label Milk" in said  # not all folders of the one above
    assert "siasearch add shop/Rice --label Rice" in said
    result = shell("add", *folders, "--yes", "--encoder", shell.encoder)
    assert "has 3 identities" in result.stdout
    assert "would both be" in result.stderr
    assert shell("add", *folders).stderr == ""


@pytest.mark.usefixtures("shop")
def test_pictures_of_other_folders_that_are_called_the_same_are_pointed_out(shell: Shell) -> None:
    shell("add", "shop/Milk", "--encoder", shell.encoder, "--yes")
    said = shell("add", "shop/Milk").stderr
    assert "enrolled already, from elsewhere" not in said
    said = shell("add", "shop/Rice").stderr
    assert "note: 1 of these names is enrolled already, from elsewhere (0)" in said


@pytest.mark.usefixtures("shop")
def test_pictures_that_are_named_themselves(shell: Shell) -> None:
    pair = ("add", "shop/Tea/0.png", "shop/Tea/1.png", "--encoder", shell.encoder)
    assert not shell(*pair, code=2).stdout
    result = shell(*pair, "--yes")
    assert "each of 2 pictures becomes an identity of its own" in result.stderr
    assert "siasearch add shop/Tea/0.png shop/Tea/1.png --label Tea" in result.stderr
    picture(9).save(shell.folder / "coin.png")
    assert shell("add", "coin.png").stderr == ""  # one picture, by its name
    one = "note: 1 of 3 identities has one picture (Rice): with a few of each, more is recognised\n"
    assert shell("add", "shop", "-g", "other", "--encoder", shell.encoder).stderr == one
    assert shell("add", "shop", "-g", "other").stderr == ""  # nothing was added
    assert shell("add", "shop/Tea", "--label", "T", "-g", "third", "-e", shell.encoder).stderr == ""


def test_many_paths_are_named_in_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / shop / f"{number:04}" for shop in "ab" for number in range(500)]
    files = [tmp_path / f"{number}.png" for number in range(10_000)]
    for folder in folders:
        folder.mkdir(parents=True)
    for file in (*files, *(folder / "0.png" for folder in folders)):
        file.touch()
    for given in (folders, files):
        paths = [*map(str, given), str(given[0])]
        monkeypatch.setattr(sys, "argv", ["siasearch", "add", *paths, "--yes"])
        begun = time.process_time()
        settle_names(paths, None, True, PICTURES)
        assert time.process_time() - begun < 3  # by lists it took far longer
    said = capsys.readouterr().err
    assert "1000 pictures lie directly in 1000 of the folders" in said
    assert f"siasearch add {folders[0]} --label 0000 --yes\n" in said
    assert "and so on, for each of 1000 folders" in said
    assert "each of 10000 pictures becomes an identity of its own" in said


def test_single_pictures_beside_folders_are_pointed_out(shell: Shell, shop: Path) -> None:
    for number in (20, 21):
        picture(number).save(shop / f"{number}.png")
    said = shell("add", "shop", "--encoder", shell.encoder).stderr
    assert "2 pictures lie directly in shop, beside folders" in said
    assert shell("add", "shop").stderr == ""


def test_a_text_beside_folders_hides_no_hint(shell: Shell, shop: Path) -> None:
    for name in ("README.txt", "Thumbs.db"):
        (shop / name).write_text("no picture")
    every = sorted(f"shop/{one.name}" for one in shop.iterdir())
    said = shell("add", *every, "--encoder", shell.encoder, code=2).stderr
    assert "6 pictures lie directly in the 3 folders that you named" in said
    assert f"  siasearch add shop --encoder {shell.encoder}\n" in said
    picture(20).save(shop / "front.png")
    every.append("shop/front.png")
    said = shell("add", *every, "--encoder", shell.encoder, code=2).stderr
    assert "6 pictures lie directly in the 3 folders that you named" in said
    assert f"  siasearch add shop --encoder {shell.encoder}\n" in said


def test_one_picture_beside_folders_is_pointed_out(shell: Shell, shop: Path) -> None:
    picture(20).save(shop / "map.png")
    said = shell("add", "shop", "--encoder", shell.encoder).stderr
    assert "note: map.png lies beside the folders: it becomes the identity 'map'\n" in said
    assert shell("add", "shop").stderr == ""


def test_drawings_of_siasearch_are_passed_over(shell: Shell, shop: Path) -> None:
    picture(20).save(shop / "map.png")
    shell("add", "shop", "--encoder", shell.encoder)
    shell("plot", "confusions", "--out", "shop/Tea/alike.png")
    result = shell("add", "shop")
    assert "0 added, 7 skipped" in result.stdout
    assert result.stderr == "1 drawing of siasearch passed over\n"
    assert len(shell.json("query", "shop/Tea")) == 2
    assert len(shell.json("query", "shop/Tea/alike.png")) == 1  # what is named is wanted


@pytest.mark.usefixtures("shop")
def test_one_label_for_several_folders_is_pointed_out(shell: Shell) -> None:
    command = ("add", "shop", "--label", "All", "--encoder", shell.encoder)
    code, _, shown = answered("n", shell.folder, *command)
    assert code == 1
    assert "the pictures of 3 folders become one identity, 'All'" in shown
    assert not (shell.folder / "indexes").exists()
    said = "note: the pictures of 3 folders become one identity, 'All'\n"
    assert shell(*command).stderr == said
    assert shell("add", "shop/Tea", "--label", "All").stderr == ""


def test_a_gallery_in_the_folder_of_its_pictures_is_passed_over(shell: Shell, shop: Path) -> None:
    shell("add", "shop", "-g", "shop", "--copy", "--encoder", shell.encoder)
    assert list(shop.glob("images/*/*.png"))
    for place in ("shop", "other"):
        result = shell("add", "shop", "-g", place, "--encoder", shell.encoder)
        assert "0 rejected" in result.stdout
        assert "has 3 identities, 6 items" in result.stdout
        assert ".db" not in result.stderr


def test_a_renamed_folder_is_one_line(shell: Shell, shop: Path) -> None:
    shell("add", "shop", "--encoder", shell.encoder)
    (shop / "Milk").rename(shop / "Fresh Milk")
    result = shell("add", "shop", code=1)
    assert result.stdout.startswith("0 added, 3 skipped (enrolled already), 3 rejected\n")
    assert result.stderr == (
        "rejected: 3 images, all of 'Milk', under another name, 'Fresh Milk': if the folder was"
        " renamed, `siasearch relabel Milk 'Fresh Milk'`\n"
    )
    shell("relabel", "Milk", "Fresh Milk")
    assert shell("add", "shop").stderr == ""
    (shop / "Tea" / "0.png").rename(shop / "Rice" / "1.png")  # not all of them
    assert "the same image is enrolled as 'Tea'" in shell("add", "shop", code=1).stderr


@pytest.mark.usefixtures("shop")
def test_an_identity_called_as_no_answer_is_pointed_out(shell: Shell) -> None:
    said = shell("add", "shop/Milk", "--label", "Unknown", "--encoder", shell.encoder).stderr
    assert said == "note: an identity called 'Unknown' is easily taken for no answer: rename it\n"
    assert "called 'unknown'" in shell("relabel", "Unknown", "unknown").stderr
    assert shell("add", "shop/Milk", "--label", "unknown").stderr == ""
    made = shell(
        "embed", "shop/Milk", "--label", "unknown", "--encoder", shell.encoder, "-o", "t.npz"
    )
    assert "called 'unknown'" in made.stderr
    shell("import", "t.npz", "-g", "other")
    shell("add", "shop/Rice", "-g", "third", "--encoder", shell.encoder)
    assert "called 'unknown'" in shell("merge", "third", "other").stderr
    assert "called 'unknown'" in shell("import", "t.npz", "-g", "third").stderr


def test_python_refuses_to_mix_folders_too(tmp_path: Path, toy: Encoder, shop: Path) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        with pytest.raises(UsageError, match=r"would both be the identity '0'.*give a label"):
            gallery.enroll([shop / "Milk", shop / "Tea"])
        assert len(gallery) == 0
        assert gallery.enroll([shop / "Tea", shop / "Rice"], label="x").added == 3


def test_python_refuses_names_by_files_that_are_seldom_meant(
    tmp_path: Path, toy: Encoder, shop: Path
) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        with pytest.raises(UsageError, match=r"Milk has 3 pictures and no folders.*label='Milk'"):
            gallery.enroll(shop / "Milk")
        assert gallery.enroll(sorted((shop / "Milk").iterdir())).added == 3  # named themselves
        assert gallery.enroll([shop / "Milk", shop / "Milk" / "0.png"]).skipped == 4
        with pytest.raises(UsageError, match=r"Tea/0.png would be added to '0', .*Milk/0.png"):
            gallery.enroll(shop / "Tea" / "0.png")
        assert gallery.enroll(shop / "Tea" / "0.png", label="0").added == 1
        shutil.move(shop / "Milk", tmp_path / "moved")
        assert gallery.enroll(tmp_path / "moved" / "1.png").skipped == 1


@pytest.mark.usefixtures("shop")
def test_a_terminal_is_asked_before(shell: Shell) -> None:
    command = ("add", "shop/Milk", "--encoder", shell.encoder)
    code, printed, shown = answered("n", shell.folder, *command)
    assert (code, printed) == (1, "")
    assert "as an identity of its own? [y/N]" in shown
    assert "nothing was done" in shown
    assert not (shell.folder / "indexes").exists()
    code, printed, shown = answered("", shell.folder, *command, "--yes")
    assert code == 0
    assert "[y/N]" not in shown
    assert "3 added" in printed


def test_what_lies_beside_pictures_is_passed_over_and_counted(shell: Shell, shop: Path) -> None:
    names = ["1.txt", "1.json", "2.xmp", "Thumbs.db", ".DS_Store", "list.CSV", "film.mp4"]
    for name in names:
        (shop / "Milk" / name).write_text("no picture")
    (shop / "Milk" / "link.xml").symlink_to(shop / "Milk" / "1.txt")
    result = shell("add", "shop", "--encoder", shell.encoder)
    assert "6 added, 0 skipped (enrolled already), 0 rejected" in result.stdout
    assert result.stderr == (
        "7 files passed over, no pictures by their names:"
        " 1 .csv, 1 .db, 1 .json, 1 .mp4, 1 .txt, 1 .xml, 1 .xmp\n"
        "note: 1 of 3 identities has one picture (Rice): with a few of each, more is recognised\n"
    )
    (report,) = shell.json("add", "shop/Milk/1.txt", code=1)  # what is named is wanted
    assert report["rejected"][0]["path"].endswith("1.txt")
    (shop / "Milk" / "broken.png").write_text("no picture")
    assert "broken.png" in shell("add", "shop", code=1).stderr
    assert len(shell.json("query", "shop/Tea")) == 2
    (shell.folder / "texts").mkdir()
    (shell.folder / "texts" / "a.txt").write_text("x")
    assert "no images in texts" in shell("add", "texts", code=2).stderr


@pytest.mark.usefixtures("shop")
def test_a_dry_run_says_what_would_be_and_changes_nothing(shell: Shell) -> None:
    printed = shell("add", "shop", "--dry-run").stdout
    assert printed.splitlines() == [
        "       3  Milk", "       1  Rice", "       2  Tea",
        "6 images of 3 identities; nothing was enrolled",
    ]  # fmt: skip
    (plan,) = shell.json("add", "shop/Milk", "--dry-run")
    assert plan == {
        "images": 3,
        "videos": 0,
        "identities": {"0": 1, "1": 1, "2": 1},
        "rejected": [],
    }
    assert not (shell.folder / "indexes").exists()


def test_a_dry_run_rejects_what_the_run_would(shell: Shell, shop: Path) -> None:
    (shell.folder / "m.csv").write_text(f"path,label\n{shop}/Milk/0.png,a\n,b\nx.png,\n")
    typed = ("add", "--manifest", "m.csv", "--encoder", shell.encoder)
    (plan,) = shell.json(*typed, "--dry-run", code=1)
    assert plan["identities"] == {"a": 1}
    assert len(plan["rejected"]) == 2
    assert plan["rejected"] == shell.json(*typed, code=1)[0]["rejected"]


def test_each_folder_named_is_one_identity_where_it_is_flat(shell: Shell, shop: Path) -> None:
    (shop / "Milk" / "back").mkdir()
    picture(20).save(shop / "Milk" / "back" / "0.png")
    picture(21).save(shell.folder / "coin.png")
    typed = ("add", "shop/Milk", "shop/Tea/", "coin.png", "--flat", "--encoder", shell.encoder)
    assert shell.json(*typed, "--dry-run") == [
        {"images": 7, "videos": 0, "identities": {"Milk": 4, "Tea": 2, "coin": 1}, "rejected": []}
    ]
    assert shell(*typed).stderr.startswith("note: 1 of 3 identities has one picture (coin)")
    assert [(one["identity"], one["items"]) for one in shell.json("list")] == [
        ("Milk", 4), ("Tea", 2), ("coin", 1),
    ]  # fmt: skip


def test_identities_from_parents_stems_and_expressions(shell: Shell, shop: Path) -> None:
    every = sorted(f"shop/{one.name}" for one in shop.iterdir())
    plan = ("--encoder", shell.encoder, "--dry-run")

    def planned(*arguments: str, code: int = 0) -> dict[str, int]:
        (found,) = shell.json("add", *arguments, *plan, code=code)
        identities: dict[str, int] = found["identities"]
        return identities

    assert planned(*every, "--identity-from", "parent") == {"Milk": 3, "Rice": 1, "Tea": 2}
    assert planned("shop", "--identity-from", "stem") == {"0": 3, "1": 2, "2": 1}
    assert planned("shop", "--identity-from", "^(.)") == {"M": 3, "R": 1, "T": 2}
    assert planned("shop", "--identity-from", "^(?P<identity>M..)", code=1) == {"Mil": 3}
    result = shell("add", "shop", "--identity-from", "^(M.*)/", "-e", shell.encoder, code=1)
    assert result.stderr.count("no identity is found in its path") == 3
    assert "3 added" in result.stdout


def test_what_is_left_out_is_counted(shell: Shell, shop: Path) -> None:
    (shop / "Milk" / "@eaDir").mkdir()
    (shop / "Milk" / "@eaDir" / "0.png").write_bytes(b"no picture")
    (shop / "note.txt").write_text("no picture")
    left_out = ("--exclude", "2.png", "--exclude", "Rice")
    expected = [
        "1 file passed over, no pictures by their names: 1 .txt",
        "1 system or hidden folder passed over: 1 @eaDir",
        "2 files and folders excluded",
    ]
    result = shell("add", "shop", *left_out, "--encoder", shell.encoder, "--dry-run")
    assert "4 images of 2 identities; nothing was enrolled" in result.stdout
    assert result.stderr.splitlines() == expected
    result = shell("add", "shop", *left_out, "--encoder", shell.encoder)
    assert result.stderr.splitlines() == expected
    assert len(shell.json("query", "shop", *left_out)) == 4
    assert "no images in shop" in shell("query", "shop", "--exclude", "*", code=2).stderr


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--flat", "--label", "x"], "--label and --flat name identities: use one"),
        (["--flat", "--identity-from", "stem"], "--flat and --identity-from name identities"),
        (["--identity-from", "("], "is no regular expression"),
        (["--exclude", ""], "'' excludes nothing"),
    ],
)
def test_options_that_make_no_sense(shell: Shell, options: list[str], said: str) -> None:
    assert said in shell("add", "shop", *options, "-e", shell.encoder, code=2).stderr
    assert not (shell.folder / "indexes").exists()
