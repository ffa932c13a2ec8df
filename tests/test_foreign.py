"""A gallery from somebody else: paths in its database lead to nothing that is not ours."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import picture, seal

from siamese_search import Encoder, Gallery
from siamese_search.errors import ImageError, StorageError

Pictures = Callable[..., Path]


@pytest.fixture
def foreign(tmp_path: Path, pictures: Pictures, toy: Encoder) -> Path:
    """A gallery with a copy each of two items, and a file beside it that is not its own."""
    folder = tmp_path / "gallery"
    with Gallery.open(folder, toy) as gallery:
        gallery.enroll([pictures({"a": 1, "b": 1})], copy=True)
        gallery.compact()
    picture(0).save(tmp_path / "victim.png")
    return folder


def change(folder: Path, sql: str, *parameters: object) -> None:
    with closing(sqlite3.connect(folder / "gallery.db")) as database, database:
        database.execute(sql, parameters)


def hostile(kind: str, folder: Path, copy: str) -> str:
    """A path to put into ``items.copy``; what it leads to has the bytes that were enrolled."""
    victim = folder.parent / "victim.png"
    victim.write_bytes((folder / copy).read_bytes())
    if kind == "absolute":
        return str(victim)
    if kind == "above":
        return "../victim.png"
    if kind == "inside":
        shutil.copy(victim, folder / "notes.png")
        return "notes.png"
    if kind == "dots":
        return f"{copy}/../../../../victim.png"
    (folder / copy).unlink()
    if kind == "linked file":
        (folder / copy).symlink_to(victim)
        return copy
    elsewhere = folder.parent / "elsewhere"
    (folder / "images").rename(elsewhere)
    (elsewhere / Path(copy).relative_to("images")).write_bytes(victim.read_bytes())
    (folder / "images").symlink_to(elsewhere)
    return copy


@pytest.mark.parametrize(
    "kind", ["absolute", "above", "inside", "dots", "linked file", "linked folder"]
)
def test_a_copy_is_ours_only_by_name_and_below_the_gallery(
    kind: str, foreign: Path, toy: Encoder
) -> None:
    with Gallery.open(foreign, toy) as gallery:
        (item,) = gallery.items("a")
    path = hostile(kind, foreign, item.copy or "")
    change(foreign, "UPDATE items SET copy = ? WHERE id = ?", path, item.number)
    seal(foreign)
    files = sorted(one for one in foreign.parent.rglob("*") if one.is_file())
    for one in files:
        os.utime(one, (time.time() - 7200,) * 2)
    with Gallery.open(foreign, toy) as gallery:
        (item,) = gallery.items("a")
        with pytest.raises(ImageError, match=r"no path of a copy|leads out"):
            gallery.image(item)
        assert any(f"the copy of item {item.number}: " in fault for fault in gallery.check())
        gallery.remove("a")
        gallery.compact()
        assert len(gallery) == 1
    lost = [one.name for one in files if not one.exists()]
    ours = [name for name in lost if name.startswith("index-")]
    # The old index file goes, and the item's own copy, which the database no longer names.
    own = [Path(item.copy or "").name, f"{item.content}.png"]
    assert set(lost) - set(ours) <= set(own)
    assert (foreign.parent / "victim.png").exists()
    if kind == "linked folder":
        assert len(list((foreign.parent / "elsewhere").rglob("*.png"))) == 2


def test_no_copies_are_written_through_a_link(foreign: Path, toy: Encoder) -> None:
    elsewhere = foreign.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(foreign / "images")
    (foreign / "images").symlink_to(elsewhere)
    picture(7).save(foreign.parent / "new.png")
    with Gallery.open(foreign, toy) as gallery:
        with pytest.raises(StorageError, match="leads out of the gallery"):
            gallery.enroll([foreign.parent / "new.png"], copy=True)
        assert len(gallery) == 2
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../index-1-0123456789ab.faiss", "gallery.db", "/dev/zero", b"no text"]
)
def test_an_index_file_is_ours_only_by_name(name: str | bytes, foreign: Path, toy: Encoder) -> None:
    with Gallery.open(foreign, toy) as gallery:
        own = foreign / str(gallery.info().index)
    if isinstance(name, str) and name.startswith(".."):
        shutil.copy2(own, foreign / name)
    change(foreign, "UPDATE snapshots SET file = ?", name)
    with Gallery.open(foreign, toy) as gallery:
        (fault,) = gallery.check()
        assert fault == f"{name!r} is no name of an index file"
        assert gallery.identify([picture(1)])[0].identity == "b"
        gallery.compact()
        assert gallery.check() == []
        assert gallery.info().bytes > 0
