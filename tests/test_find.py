"""Finding, reading and hashing image files."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import sys
from pathlib import Path

import pytest

from siamese_search.errors import ImageError, UsageError
from siamese_search.pictures.choosing import Exclusion, naming
from siamese_search.pictures.find import NO_KIND, SYSTEM, find_images
from siamese_search.pictures.read import MAX_FILE_BYTES, content_hash, read_file
from siamese_search.records import ImageFile, Rejection

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX files")


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def identities(root: Path) -> list[tuple[str, str]]:
    """Relative path and identity of everything found; no rejections expected."""
    found = list(find_images(str(root)))
    assert all(isinstance(file, ImageFile) for file in found)
    return [
        (os.path.relpath(file.path, root).replace(os.sep, "/"), file.identity)
        for file in found
        if isinstance(file, ImageFile)
    ]


def rejections(root: Path | str) -> dict[str, str]:
    found = find_images(str(root))
    return {os.path.basename(r.path): r.reason for r in found if isinstance(r, Rejection)}


def test_an_identity_is_the_folder_and_a_file_in_the_root_its_own(tmp_path: Path) -> None:
    touch(tmp_path, "Greek/character02/2.png", "Greek/character01/1.png", "Greek/x.png", "a.b.jpg")
    assert identities(tmp_path) == [
        ("Greek/character01/1.png", "Greek/character01"),
        ("Greek/character02/2.png", "Greek/character02"),
        ("Greek/x.png", "Greek"),
        ("a.b.jpg", "a.b"),
    ]


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "in/a/1.png")
    monkeypatch.chdir(tmp_path)
    (found,) = find_images("in/../in")
    assert found == ImageFile(str(tmp_path / "in" / "a" / "1.png"), "a")


def test_a_file_as_root_is_named_by_its_stem(tmp_path: Path) -> None:
    touch(tmp_path, "deep/coin.jpeg")
    path = str(tmp_path / "deep" / "coin.jpeg")
    assert list(find_images(path)) == [ImageFile(path, "coin")]


def test_hidden_names_and_clutter_are_passed_over(tmp_path: Path) -> None:
    touch(
        tmp_path, ".hidden.png", ".git/x.png", "Thumbs.db", "a/desktop.ini", "__MACOSX/a.png",
        "a/.DS_Store", "a/1.png",
    )  # fmt: skip
    assert identities(tmp_path) == [("a/1.png", "a")]
    # asked for by name, it is wanted
    assert [f.path for f in find_images(str(tmp_path / ".git"))] == [
        str(tmp_path / ".git" / "x.png")
    ]


def test_folders_of_systems_are_passed_over_and_told(tmp_path: Path) -> None:
    names = ("@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", ".git", "a/@eaDir")
    touch(tmp_path, "a/1.png", "a/.hidden.png", "a/note.txt", *(f"{one}/x.png" for one in names))
    told: list[tuple[str, str]] = []
    found = find_images(str(tmp_path), lambda path, why: told.append((path, why)))
    assert [os.path.basename(file.path) for file in found] == ["1.png"]
    expected = [(str(tmp_path / one), SYSTEM) for one in names]
    assert sorted(told) == sorted([*expected, (str(tmp_path / "a" / "note.txt"), NO_KIND)])


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("*.gif", ["1.png", "a/b/2.png", "old/3.png"]),
        ("old", ["1.png", "a/4.gif", "a/b/2.png"]),
        ("old/", ["1.png", "a/4.gif", "a/b/2.png"]),
        ("a/b", ["1.png", "a/4.gif", "old/3.png"]),
        ("/old/*", ["1.png", "a/4.gif", "a/b/2.png"]),
        ("a/*.png", ["1.png", "a/4.gif", "old/3.png"]),
        ("?.png", ["a/4.gif"]),
        ("OLD", ["1.png", "a/4.gif", "a/b/2.png", "old/3.png"]),
    ],
)
def test_what_a_pattern_leaves_out(tmp_path: Path, pattern: str, left: list[str]) -> None:
    touch(tmp_path, "1.png", "a/b/2.png", "old/3.png", "a/4.gif")
    found = find_images(str(tmp_path), exclude=Exclusion.of([pattern]))
    assert [os.path.relpath(file.path, tmp_path) for file in found] == left


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("parent", ["in", "milk", "back"]),
        ("stem", ["tea_1", "front", "2"]),
        ("^[^_/]+", ["tea", "milk", "milk"]),
        ("^(?:([a-z]+)/|([a-z]+)_)", ["tea", "milk", "milk"]),
        ("(m)(?P<identity>i..)", [None, "ilk", "ilk"]),
    ],
)
def test_ways_to_name_identities(tmp_path: Path, way: str, expected: list[str | None]) -> None:
    root = str(tmp_path / "in")
    files = ["tea_1.png", "milk/front.png", "milk/back/2.png"]
    assert [naming(way)(root, os.path.join(root, one)) for one in files] == expected


@pytest.mark.parametrize("way", ["(", "folder", ""])
def test_what_names_no_identity_is_refused(way: str) -> None:
    with pytest.raises(UsageError, match="regular expression"):
        naming(way)


def test_an_empty_folder_yields_nothing_and_a_missing_one_a_rejection(tmp_path: Path) -> None:
    assert list(find_images(str(tmp_path))) == []
    (gone,) = find_images(str(tmp_path / "gone"))
    assert gone == Rejection(str(tmp_path / "gone"), "there is no such file (any more)")


@pytest.mark.skipif(sys.platform != "linux", reason="paths may not be that long there")
def test_folders_nested_deeper_than_python_recurses_are_walked(tmp_path: Path) -> None:
    depth = 1200
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir("d", dir_fd=here)
            inner = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
        os.close(os.open("1.png", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    finally:
        os.close(here)
    (found,) = find_images(str(tmp_path))
    assert isinstance(found, ImageFile)
    assert found.identity == "/".join("d" * depth)
    # pytest's own clean-up recurses
    os.unlink(found.path)
    touch(tmp_path, "keep")
    os.removedirs(os.path.dirname(found.path))
    assert identities(tmp_path) == [("keep", "keep")]


@posix
def test_pipes_and_sockets_are_rejected_unopened(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "a" / "sock"))
        reasons = rejections(tmp_path)
    assert reasons == {
        "pipe.png": "a named pipe, not a regular file",
        "sock": "a socket, not a regular file",
    }
    assert rejections(tmp_path / "a" / "pipe.png") == {
        "pipe.png": "a named pipe, not a regular file"
    }
    assert rejections("/dev/null") == {"null": "a device, not a regular file"}


@posix
def test_links_are_followed_and_keep_their_own_name(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.png", "root/a/2.png")
    (tmp_path / "root" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "c.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    assert identities(tmp_path / "root") == [("a/2.png", "a"), ("b/1.png", "b"), ("c.png", "c")]
    (tmp_path / "alias").symlink_to(tmp_path / "root")
    assert len(identities(tmp_path / "alias")) == 3


@posix
def test_links_in_circles_and_to_nowhere_are_rejected(tmp_path: Path) -> None:
    touch(tmp_path, "root/a/1.png")
    links = tmp_path / "root" / "a"
    (links / "up").symlink_to("..")
    (links / "here").symlink_to(".")
    (links / "outside").symlink_to(tmp_path)
    (links / "self").symlink_to("self")
    (links / "nowhere.png").symlink_to("gone.png")
    circle = "the link leads back to a folder that contains it"
    assert rejections(tmp_path / "root") == {
        "up": circle,
        "here": circle,
        "outside": circle,
        "self": "the link leads back to itself",
        "nowhere.png": "the link leads nowhere",
    }
    found = [f for f in find_images(str(tmp_path / "root")) if isinstance(f, ImageFile)]
    assert [os.path.basename(f.path) for f in found] == ["1.png"]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
def test_names_that_are_not_utf8_are_rejected_printably(tmp_path: Path) -> None:
    touch(tmp_path, "good/1.png")
    folder = os.fsencode(tmp_path)
    with open(folder + b"/caf\xe9.png", "wb"):
        pass
    os.mkdir(folder + b"/b\xff")
    with open(folder + b"/b\xff/2.png", "wb"):
        pass
    found = list(find_images(str(tmp_path)))
    assert [type(f) for f in found].count(ImageFile) == 1
    reasons = {f.path: f.reason for f in found if isinstance(f, Rejection)}
    assert reasons == {
        f"{tmp_path}/caf\\xe9.png": "the name is not valid UTF-8: rename it",
        f"{tmp_path}/b\\xff": "the name is not valid UTF-8: rename it",
    }
    for path in reasons:
        path.encode("utf-8")


def test_a_folder_that_cannot_be_listed_is_rejected_and_the_rest_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.png", "locked/2.png", "z/3.png")
    scandir = os.scandir

    def guarded(path: str) -> object:
        if path.endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found = list(find_images(str(tmp_path)))
    assert [f.identity for f in found if isinstance(f, ImageFile)] == ["a", "z"]
    assert rejections(tmp_path) == {"locked": "the folder cannot be read: permission denied"}


def test_folders_are_listed_only_when_they_are_reached(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    walk = find_images(str(tmp_path))
    assert isinstance(next(walk), ImageFile)
    touch(tmp_path, "b/3.png")
    assert len(list(walk)) == 2


def test_a_file_is_read_whole_and_hashed(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    (tmp_path / "f").write_bytes(data)
    assert read_file(str(tmp_path / "f")) == data
    assert content_hash(data) == hashlib.sha256(data).hexdigest()


@posix
def test_reading_anything_but_a_file_with_contents_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "sock"))
        for name, reason in {
            "empty": "empty file",
            "gone": "no such file",
            "pipe": "a named pipe, not a regular file",
            "sock": "not a regular file",
            ".": "a folder, not a regular file: name the files in it",
            "nul\0": "null",
        }.items():
            with pytest.raises(ImageError, match=reason):
                read_file(f"{tmp_path}/{name}")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENAMETOOLONG])
def test_errors_of_the_system_become_plain_reasons(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(ImageError) as caught:
        read_file("x")
    assert str(caught.value).lower() == os.strerror(number).lower()


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with open(path, "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ImageError, match="268,435,457 bytes"):
        read_file(str(path))
