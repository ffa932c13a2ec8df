"""Pictures in archives: found as in folders, and nothing that an archive says is believed."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from shell import Shell

from siamese_search.pictures import archives
from siamese_search.pictures.archives import Member, is_archive, members
from siamese_search.pictures.choosing import NOTHING, Exclusion
from siamese_search.pictures.kind import Kind
from siamese_search.records import Rejection

NAMES = ("milk/1.png", "2.png", "note.txt", "inner.zip", ".hidden/3.png", "__MACOSX/4.png")


def make_zip(path: Path, contents: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, contents: dict[str, bytes]) -> Path:
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def found(path: Path, exclude: Exclusion = NOTHING) -> tuple[dict[str, bytes], dict[str, str]]:
    """What is in the members that are read, and why others are rejected, by their names."""
    read, rejected = {}, {}
    for one in members(str(path), exclude=exclude):
        if isinstance(one, Rejection):
            rejected[one.path.removeprefix(f"{path}/")] = one.reason
        else:
            assert (one.read(), one.read(3)) == (one.read(), one.read()[:3])
            read[one.name.removeprefix(f"{path}/")] = one.read()
    return read, rejected


@pytest.mark.parametrize("name", ["a.zip", "a.ZIP", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2"])
def test_pictures_are_found_as_in_a_folder(tmp_path: Path, name: str) -> None:
    make = make_zip if name.lower().endswith(".zip") else make_tar
    path = make(tmp_path / name, {one: one.encode() for one in NAMES})
    assert is_archive(str(path))
    assert found(path) == ({one: one.encode() for one in NAMES[:2]}, {})
    assert found(path, exclude=Exclusion.of(["milk"]))[0] == {"2.png": b"2.png"}
    assert not is_archive(str(tmp_path / "none.zip"))
    assert not is_archive(str(path), Kind(frozenset({path.suffix.lower()})))


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_names_are_no_paths(tmp_path: Path, make: Callable[..., Path]) -> None:
    path = make(tmp_path / f"a.{make.__name__[5:]}", {"../out.png": b"a", "/etc/b.png": b"b"})
    before = sorted(os.listdir(tmp_path))
    assert found(path) == ({"etc/b.png": b"b"}, {})
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_bounds(tmp_path: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {f"{n}.png": bytes(1000 * n) for n in range(1, 5)}
    path = make(tmp_path / f"a.{make.__name__[5:]}", contents)
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 3000)
    read, rejected = found(path)
    assert (list(read), list(rejected)) == (["1.png", "2.png", "3.png"], ["4.png"])
    monkeypatch.setattr(archives, "TOTAL_BYTES", 5000)
    read, rejected = found(path)
    assert list(read) == ["1.png", "2.png"]
    assert "unpacks to more than" in rejected[str(path)]
    monkeypatch.setattr(archives, "TOTAL_BYTES", 50_000)
    monkeypatch.setattr(archives, "MEMBERS", 3)
    assert "more than 3 members: unpack it yourself" in found(path)[1][str(path)]


def test_a_large_member_is_read_from_disk(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (one,) = members(str(make_zip(tmp_path / "a.zip", {"1.png": data})))
    assert isinstance(one, Member)
    assert one.read() == data


def test_what_a_zip_archive_says_is_not_believed(tmp_path: Path) -> None:
    whole = make_zip(tmp_path / "a.zip", {"1.png": b"a" * 5000, "2.png": b"b"})
    data = bytearray(whole.read_bytes())
    directory = data.index(b"PK\1\2")
    struct.pack_into("<I", data, directory + 24, 10)  # unpacked, it says, it has 10 bytes
    whole.write_bytes(data)
    read, rejected = found(whole)
    assert read["2.png"] == b"b"
    assert "1.png" in rejected or len(read["1.png"]) <= 10
    data[directory + 8] |= 1
    whole.write_bytes(data)
    assert found(whole)[1] == {"1.png": "it is encrypted"}
    struct.pack_into("<I", data, data.index(b"PK\5\6") + 12, 1 << 31)  # bytes of its directory
    whole.write_bytes(data)
    assert str(whole) in found(whole)[1]
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        other = make_zip(tmp_path / "b.zip", {"1.png": b"a"}, method)
        assert "deflate it" in found(other)[1]["1.png"]


def test_a_directory_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_AT_ONCE", 70_000)
    path = make_zip(tmp_path / "a.zip", {f"{n}.png": b"" for n in range(2000)})
    assert "a directory or header of more than" in found(path)[1][str(path)]


def test_links_and_hostile_headers_of_a_tar_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo(f"{kind.decode()}.png")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    read, rejected = found(path)
    assert (read, len(rejected)) == ({}, 4)
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(20 << 20))
    assert "header of more than 16 MiB" in found(path)[1][str(path)]
    header.type, header.size = tarfile.DIRTYPE, -512
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert str(path) in found(path)[1]
    cut = make_tar(tmp_path / "b.tar", {"1.png": bytes(5000), "2.png": b"b"})
    cut.write_bytes(cut.read_bytes()[:3000])
    assert found(cut)[0] == {}
    assert found(cut)[1]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2"])
@pytest.mark.parametrize(
    "data", [b"", b"no archive", bytes(2000), b"PK\3\4", b"PK\5\6" + b"a" * 18]
)
def test_what_is_no_archive_is_rejected(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    read, rejected = found(path)
    assert read == {}
    assert "damaged, or none" in rejected.get(str(path), "damaged, or none")


def test_query_asks_about_the_pictures_in_archives(
    tmp_path: Path, toy_folder: Path, pictures: Callable[..., Path]
) -> None:
    shell = Shell(tmp_path, toy_folder)
    folder = pictures({"milk": 1, "tea": 1})
    shell("add", folder, "--encoder", shell.encoder)
    written = io.BytesIO()
    picture(9).save(written, "PNG")
    contents = {f"{one.parent.name}/0.png": one.read_bytes() for one in folder.rglob("*.png")}
    contents |= {"new.png": written.getvalue(), "bad.png": b"bad", "note.txt": b"text"}
    make_zip(tmp_path / "a.zip", contents)
    make_tar(tmp_path / "b.tgz", contents)
    result = shell("query", "a.zip", "b.tgz", "pictures/tea", "--csv", "--keep-unknown", code=1)
    rows = [line.split(",")[:2] for line in result.stdout.splitlines()[1:]]
    each = [["milk/0.png", "milk"], ["tea/0.png", "tea"], ["new.png", ""]]
    assert sorted(rows) == sorted(
        [[f"{place}/{name}", who] for place in ("a.zip", "b.tgz") for name, who in each]
        + [["pictures/tea/0.png", "tea"]]
    )
    assert "rejected: a.zip/bad.png: " in result.stderr
    assert "1 image that got no name is kept" in result.stderr
    parts = shell("query", "a.zip", "--grid", "2", "--exclude", "bad.png", "--json").stdout
    assert '"image": "a.zip/milk/0.png"' in parts
    assert len(shell("query", "b.tgz", "--turns", "2", "-k", "1", code=1).stdout) > 0
    assert "no images in pictures" in shell("query", "pictures", "--exclude=*", code=2).stderr


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2"])
def test_damage_anywhere_is_a_rejection_or_other_bytes(tmp_path: Path, name: str) -> None:
    random = np.random.default_rng(1)
    make = make_zip if name.endswith(".zip") else make_tar
    contents = {f"{n}.png": random.bytes(300 * n) for n in range(4)}
    whole = make(tmp_path / name, contents).read_bytes()
    path = tmp_path / f"damaged{name[1:]}"
    for _ in range(75):
        data = bytearray(whole)
        for place in random.integers(0, len(data), int(random.integers(1, 20))):
            data[place] = random.integers(256)
        path.write_bytes(
            data[: random.integers(1, len(data) + 1)] if random.random() < 0.3 else data
        )
        read, _ = found(path)
        assert sum(map(len, read.values())) <= 2 * len(whole) + 10_000
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted({name, path.name})


def test_bombs_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1 << 20)
    monkeypatch.setattr(archives, "TOTAL_BYTES", 4 << 20)
    bombs = {f"{n}.png": bytes(8 << 20) for n in range(8)}
    for name, make in (("a.zip", make_zip), ("a.tar.gz", make_tar), ("a.tar.bz2", make_tar)):
        path = make(tmp_path / name, bombs)
        assert path.stat().st_size < 1 << 20
        read, rejected = found(path)
        assert read == {}
        assert "unpacks to more than" in rejected[str(path)]
