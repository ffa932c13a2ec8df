"""What a failed or killed process leaves on the disk does not stay there, nor in the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import picture

from siamese_search import Encoder, Gallery
from siamese_search.errors import DiskFull, StorageError
from siamese_search.files import new_file, underway
from siamese_search.index import FaissEngine
from siamese_search.records import Snapshot
from siamese_search.storage.catalog import Catalog

STRAY = ".index-1-0123456789ab.faiss"  # as of a process that was killed while it wrote


@pytest.fixture
def gallery(tmp_path: Path, toy: Encoder) -> Gallery:
    gallery = Gallery.open(tmp_path / "gallery", toy)
    gallery.enroll([picture(1), picture(2)], label="some")
    gallery.compact()
    return gallery


def names(gallery: Gallery) -> set[str]:
    return {path.name for path in gallery.folder.iterdir()}


def test_an_index_that_could_not_be_switched_to_is_deleted(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(gallery)

    def full(*_: object) -> None:
        raise DiskFull("no space")

    monkeypatch.setattr(Catalog, "set_snapshot", full)
    with pytest.raises(StorageError):
        gallery.compact()
    assert names(gallery) == before
    assert gallery.check() == []


def test_an_index_whose_commit_failed_but_is_there_is_kept(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = gallery.info().index
    commit = Catalog.set_snapshot

    def committed(self: Catalog, snapshot: Snapshot) -> None:
        commit(self, snapshot)
        raise StorageError("disk I/O error")  # as where the end of the journal was not synced

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "set_snapshot", committed)
        with pytest.raises(StorageError):
            gallery.compact()
    assert gallery.info().index != before
    assert gallery.check() == []


def test_what_is_left_behind_goes_before_a_new_index_is_written(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    (gallery.folder / STRAY).write_bytes(b"half")

    def full(*_: object) -> None:
        assert STRAY not in names(gallery)
        raise StorageError("no space")

    monkeypatch.setattr(FaissEngine, "write", full)
    with pytest.raises(StorageError):
        gallery.compact()


@pytest.mark.parametrize("what", ["add", "remove", "relabel"])
def test_a_full_disk_is_cleared_of_what_was_left_behind(
    what: str, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise DiskFull("gallery.db: the disk is full")

    def change() -> object:
        if what == "add":
            return gallery.enroll([picture(3)], label="more")
        return gallery.remove("some") if what == "remove" else gallery.relabel("some", "others")

    (gallery.folder / STRAY).write_bytes(b"half")
    with monkeypatch.context() as patch:
        patch.setattr(Catalog, what, full)
        with pytest.raises(DiskFull, match="left-over files were deleted: try again"):
            change()
        assert STRAY not in names(gallery)
        with pytest.raises(DiskFull, match=r"full$"):
            change()
    change()
    assert gallery.check() == []


def test_half_a_new_gallery_is_swept_unless_somebody_is_making_it(gallery: Gallery) -> None:
    half = gallery.folder / ".gallery.db.0123abcd"
    half.write_bytes(b"half")
    with underway(gallery.folder):
        gallery.compact()
        assert half.exists()
    gallery.compact()
    assert not half.exists()


def test_what_a_killed_import_or_export_has_left_goes_with_the_next(
    gallery: Gallery, tmp_path: Path
) -> None:
    gallery.export(tmp_path / "a.zip")
    (empty, other, mine) = (
        tmp_path / name for name in (".new.00000000", ".new.x", ".new.0123abcd")
    )
    left = [tmp_path / ".new.89abcdef", tmp_path / ".a.zip.89abcdef"]
    for place in (other, mine, *left):
        place.mkdir()
        (place / "gallery.db").write_bytes(b"half")
    empty.mkdir()
    with underway(mine):  # somebody is importing
        Gallery.restore(tmp_path / "a.zip", tmp_path / "new")
        gallery.export(tmp_path / "a.zip")
    assert not any(place.exists() for place in left)
    assert all(place.exists() for place in (empty, other, mine))


def test_a_gallery_that_came_in_has_its_index(gallery: Gallery, tmp_path: Path) -> None:
    gallery.export(tmp_path / "a.zip")
    gallery.export_items(tmp_path / "a.npz")
    for name in ("a.zip", "a.npz"):
        Gallery.restore(tmp_path / name, tmp_path / f"new {name}")
        with Gallery.open(tmp_path / f"new {name}") as new:
            assert (new.info().indexed, new.check()) == (2, [])


def test_a_file_that_was_not_finished_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "new") as file:
        file.write(bytes(1 // len(b"")))
    assert not list(tmp_path.iterdir())
