"""Galleries copied, split, moved with their pictures, and freed of pictures that are gone."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import picture
from shell import Shell

from siamese_search import Encoder, Gallery
from siamese_search.errors import StorageError, UsageError
from siamese_search.gallery import copying, editing

Pictures = Callable[..., Path]


@pytest.fixture
def gallery(tmp_path: Path, toy: Encoder, pictures: Pictures) -> Iterator[Gallery]:
    folder = pictures({"cat": 3, "dog": 2, "dogs/big": 2})
    with Gallery.open(tmp_path / "old", toy) as made:
        made.enroll(folder)
        made.enroll([picture(40)], label="bird", metadata={"sex": "f"}, copy=True)
        yield made


def names(gallery: Gallery) -> dict[str, int]:
    return dict(gallery.identities())


def test_a_copy_is_the_gallery_as_it_is(gallery: Gallery, tmp_path: Path) -> None:
    made = gallery.copy(tmp_path / "new")
    assert (made.identities, made.items, made.pictures) == (4, 8, 1)
    with Gallery.open(tmp_path / "new") as new:
        assert names(new) == names(gallery)
        assert new.image(new.items("bird")[0])
        assert new.check() == []
    with pytest.raises(StorageError, match="is there already"):
        gallery.copy(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "pictures"]


def test_a_part_moves_to_a_new_gallery(gallery: Gallery, tmp_path: Path) -> None:
    before, moved = names(gallery), [one.number for one in gallery.items("bird")]
    moved += [one.number for one in gallery.items("dog")]
    made = gallery.split(tmp_path / "new", moved)
    assert (made.identities, made.items, made.pictures) == (2, 3, 1)
    assert names(gallery) == {"cat": 3, "dogs/big": 2}
    with Gallery.open(tmp_path / "new") as new:
        assert names(new) == {"bird": 1, "dog": 2}
        assert new.image(new.items("bird")[0])
        assert new.identify(picture(3))[0].matches[0].identity == "dog"
        assert new.last_change() is None
        assert new.check() == []
    # What stays behind is in no file of the new one.
    assert b"cat" not in (tmp_path / "new" / "gallery.db").read_bytes()
    gallery.undo()
    assert names(gallery) == before
    assert gallery.check() == []


def test_nothing_leaves_before_the_new_gallery_is_whole(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, version = names(gallery), gallery.version
    moved = [one.number for one in gallery.items("cat")]

    def full(*_: object) -> None:
        raise StorageError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(copying, "import_archive", full)
        with pytest.raises(StorageError):
            gallery.split(tmp_path / "new", moved)
    for wrong in ([], [moved[0], 99]):
        with pytest.raises(UsageError):
            gallery.split(tmp_path / "new", wrong)
    assert (names(gallery), gallery.version) == (before, version)
    assert not (tmp_path / "new").exists()
    with monkeypatch.context() as patch:  # killed in between: both have them
        patch.setattr(editing, "remove", full)
        with pytest.raises(StorageError):
            gallery.split(tmp_path / "new", moved)
    assert names(gallery) == before
    with Gallery.open(tmp_path / "new") as new:
        assert names(new) == {"cat": 3}


def test_parts_are_chosen_by_name_metadata_or_share(gallery: Gallery, tmp_path: Path) -> None:
    gallery.close()
    shell = Shell(tmp_path)
    told = shell("split", "a", "dog*", "-g", "old", "--keep")
    assert "a: 2 identities, 4 items" in told.stdout
    assert shell.json("split", "b", "--where", "sex=f", "-g", "old")[0]["left"] == 7
    assert (
        "`siasearch undo -g old` puts them back"
        in shell("split", "c", "--share", "33%", "-g", "old").stdout
    )
    left = {row["identity"] for row in shell.json("list", "-g", "old")}
    gone = {row["identity"] for row in shell.json("list", "-g", "c")}
    assert (len(left), len(gone)) == (2, 1)
    assert not left & gone
    assert shell.json("copy", "d", "-g", "a")[0]["items"] == 4
    assert "no identity fits 'fox'" in shell("split", "e", "fox", "-g", "old", code=2).stderr
    assert "choose what to move" in shell("split", "e", "-g", "old", code=2).stderr
    assert "choose" in shell("split", "e", "x", "--share", "1%", "-g", "old", code=2).stderr


def test_pictures_that_were_moved_with_their_gallery_are_found(
    tmp_path: Path, toy: Encoder, pictures: Pictures
) -> None:
    pictures({"cat": 2}, folder="home/photos")
    with Gallery.open(tmp_path / "home" / "indexes" / "mine", toy) as old:
        old.enroll(tmp_path / "home" / "photos")
    for place in ("elsewhere", "again"):
        shutil.move(tmp_path / "home", tmp_path / place)
        with Gallery.open(tmp_path / place / "indexes" / "mine") as new:
            (item, _) = new.items("cat")
            assert item.source == str(tmp_path / place / "photos" / "cat" / "0.png")
            assert new.image(item)
            assert list(new.changed_pictures(deep=True)) == []
            assert new.identify(picture(0))[0].matches[0].path == item.source
            if place == "elsewhere":  # paths of both places are stored from now on
                picture(9).save(tmp_path / place / "photos" / "new.png")
                new.enroll(tmp_path / place / "photos" / "new.png")
            else:
                assert new.image(new.items("new")[0])
            assert new.check() == []
        shutil.move(tmp_path / place, tmp_path / "home")
    shutil.rmtree(tmp_path / "home" / "photos")
    with Gallery.open(tmp_path / "home" / "indexes" / "mine") as new:
        gone = {one.item for one in new.changed_pictures()}
        assert len(gone) == 3


@pytest.mark.parametrize("alike", [False, True])
def test_no_other_picture_is_taken_for_one_that_is_gone(
    tmp_path: Path, toy: Encoder, pictures: Pictures, alike: bool
) -> None:
    pictures({"cat": 2}, folder="a/photos")
    with Gallery.open(tmp_path / "a" / "mine", toy) as first:
        first.enroll(tmp_path / "a" / "photos")
        (item, _) = first.items("cat")
        first.copy(tmp_path / "b" / "mine")
    own, other = (tmp_path / place / "photos" / "cat" / "0.png" for place in "ab")
    other.parent.mkdir(parents=True)
    other.write_bytes(bytes(item.size) if alike else b"other")
    os.utime(other, (time.time() + 100,) * 2)
    own.unlink()
    with Gallery.open(tmp_path / "b" / "mine", toy) as gallery:
        if not alike:
            assert gallery.items("cat")[0].source == str(own)
            assert gallery.identify(picture(0))[0].matches[0].path == str(own)
        (gone,) = gallery.changed_pictures()
        assert (gone.path, gone.item) == (str(own), item.number)
        assert gone.reason.endswith("is gone")


def test_items_whose_pictures_are_gone_or_overwritten_are_dropped_on_request(
    gallery: Gallery, tmp_path: Path
) -> None:
    gallery.close()
    shell = Shell(tmp_path)
    place = tmp_path / "pictures"
    assert "every picture is as it was" in shell("prune", "-g", "old").stdout
    (place / "cat" / "1.png").unlink()
    picture(77).save(place / "dog" / "0.png")
    told = shell("prune", "-g", "old", "--deep")
    assert "2 items of 8 would be dropped: say --yes" in told.stdout
    assert "cat/1.png" in told.stdout.replace("\\", "/")
    (found,) = shell.json("prune", "-g", "old", "--gone")
    assert (found["pruned"], [one["item"] for one in found["chosen"]]) == (0, [2])
    (found,) = shell.json("prune", "-g", "old", "--overwritten", "--deep", "--yes")
    assert (found["pruned"], found["items"]) == (1, 7)
    assert "dropped 1 item, 6 left" in shell("prune", "-g", "old", "--yes").stdout
    shell("undo", "-g", "old", "--yes")
    assert shell.json("info", "-g", "old")[0]["items"] == 7
