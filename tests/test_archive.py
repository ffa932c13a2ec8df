"""A gallery as one archive: what comes back, what others do meanwhile, and hostile archives."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import multiprocessing
import shutil
import sqlite3
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture, seal
from shell import Shell

from siamese_search import Gallery
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import (
    GalleryDamaged,
    GalleryFormatError,
    SiaSearchError,
    StorageError,
    UsageError,
)
from siamese_search.gallery import archive
from siamese_search.gallery.copies import copied_bytes
from siamese_search.records import Copy

Pictures = Callable[..., Path]
DAMAGED = 100  # archives


@pytest.fixture
def gallery(tmp_path: Path, toy: Encoder, pictures: Pictures) -> Iterator[Gallery]:
    """One with copies, metadata, a distractor, a kept probe, and something removed."""
    folder = pictures({"cat": 3, "dog": 2, "gone": 1})
    with Gallery.open(tmp_path / "old", toy) as made:
        made.enroll(folder, copy=True)
        made.enroll([picture(50)], label="bird", metadata={"sex": "f\n\u00e4"}, copy=True)
        made.enroll([picture(51)], label="fence", distractor=True)
        made.remove("gone")
        made.relabel("dog", "hound")
        list(made.identify_each([picture(77)], threshold=0.999, keep_unknown=True))
        made.compact_if_due()
        yield made


def facts(gallery: Gallery) -> list[Any]:
    """All that one sees of a gallery, but where its folder is."""
    items = [item for name, _ in gallery.identities() for item in gallery.items(name)]
    return [gallery.distractors(), items, [gallery.image(one) for one in items if one.copy]]


def embeddings(gallery: Gallery) -> bytes:
    _, vectors = gallery.sample(1000)
    return b"".join(np.ascontiguousarray(row).tobytes() for row in vectors)


def test_a_restored_gallery_is_the_same(gallery: Gallery, toy: Encoder, tmp_path: Path) -> None:
    out = tmp_path / "all.zip"
    made = gallery.export(out)
    assert (made.identities, made.items, made.pictures, made.missing) == (4, 7, 7, ())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    names = zipfile.ZipFile(out).namelist()
    assert not [name for name in names if name.endswith(".faiss")]
    restored = Gallery.restore(out, tmp_path / "new")
    assert (restored.identities, restored.items, restored.pictures) == (4, 7, 7)
    with Gallery.open(tmp_path / "new", toy) as new:
        assert facts(new) == facts(gallery)
        assert embeddings(new) == embeddings(gallery)
        probe = picture(1, noise=5)
        assert new.identify(probe) == gallery.identify(probe)
        assert new.check(deep=True) == []
        (group,) = new.unknowns()
        new.folder.joinpath("..", "old", "unknowns").rename(tmp_path / "elsewhere")
        assert new.unknown(group.members[0])  # its own, not that of the old folder
        assert new.changes() == []  # what was removed is not handed on
        assert "gone" not in (tmp_path / "new" / "gallery.db").read_bytes().decode("latin-1")
        new.compact()
        assert new.check() == []


def test_equal_galleries_make_equal_archives(gallery: Gallery, tmp_path: Path) -> None:
    gallery.export(tmp_path / "a.zip", pictures=False)
    Gallery.restore(tmp_path / "a.zip", tmp_path / "new")
    names = zipfile.ZipFile(tmp_path / "a.zip").namelist()
    assert sorted(names) == ["gallery.db", "siasearch.json"]
    with Gallery.open(tmp_path / "new") as new:
        assert new.info().copies == 0
        assert new.check() == []
        assert len(new) == len(gallery)


def test_a_copy_that_is_gone_is_named_and_the_rest_comes_back(
    gallery: Gallery, tmp_path: Path
) -> None:
    (item, *_) = gallery.items("cat")
    (gallery.folder / str(item.copy)).write_bytes(b"other")
    made = gallery.export(tmp_path / "all.zip")
    assert made.missing == (item.number,)
    Gallery.restore(tmp_path / "all.zip", tmp_path / "new")
    with Gallery.open(tmp_path / "new") as new:
        assert new.check() == []
        assert new.items("cat")[0].copy is None


def test_a_damaged_gallery_is_refused_before_anything_is_written(
    gallery: Gallery, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(gallery.folder / "gallery.db")) as db, db:
        db.execute("UPDATE items SET size = size + 1 WHERE id = 2")
    with pytest.raises(GalleryDamaged, match=r"item 2 is damaged.*nothing was written"):
        gallery.export(tmp_path / "all.zip")
    assert not (tmp_path / "all.zip").exists()


def test_only_a_new_folder_is_filled(gallery: Gallery, tmp_path: Path) -> None:
    gallery.export(tmp_path / "all.zip")
    with pytest.raises(StorageError, match="there already"):
        Gallery.restore(tmp_path / "all.zip", gallery.folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("x")
    with pytest.raises(StorageError, match="there already"):
        Gallery.restore(tmp_path / "all.zip", tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    Gallery.restore(tmp_path / "all.zip", tmp_path / "empty")
    with pytest.raises(UsageError, match="no file"):
        Gallery.restore(tmp_path / "none.zip", tmp_path / "other")
    with pytest.raises(StorageError, match="is a folder"):
        gallery.export(tmp_path)


@pytest.mark.parametrize("number", range(1, 8))
def test_galleries_of_all_formats_travel(number: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(Path(__file__).parent / "golden" / f"format-{number}.zip") as golden:
        golden.extractall(tmp_path)
    (found,) = tmp_path.rglob("gallery.db")
    with Gallery.open(found.parent) as old:
        old.export(tmp_path / "all.siasearch")
        total = len(old)
    assert Gallery.restore(tmp_path / "all.siasearch", tmp_path / "new").items == total


def _write_pairs(folder: Path, name: int, stop: Any) -> None:
    """Enrol pairs, each in one transaction, and remove some, until told to stop."""
    with Gallery.open(folder) as gallery:
        random = np.random.default_rng(name)
        count = 0
        while not stop.is_set():
            vectors = random.normal(size=(2, 49)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            gallery.enroll_embeddings(vectors, [f"pair-{name}-{count}"] * 2)
            if count % 3 == 2:
                gallery.remove(f"pair-{name}-{count - 1}")
            count += 1


@pytest.mark.slow
def test_what_is_exported_while_others_write_is_a_state_that_existed(
    toy: Encoder, tmp_path: Path
) -> None:
    with Gallery.open(tmp_path / "old", toy) as gallery:
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        writers = [
            context.Process(target=_write_pairs, args=(gallery.folder, name, stop))
            for name in range(3)
        ]
        for writer in writers:
            writer.start()
        try:
            states: list[dict[int, int]] = []
            while len(states) < 4 or not all(states[-1].values()):
                gallery.export(tmp_path / f"{len(states)}.zip")
                states.append(_pairs_of(tmp_path, len(states)))
        finally:
            stop.set()
            for writer in writers:
                writer.join()
    for earlier, later in itertools.pairwise(states):
        assert all(later[name] >= earlier[name] for name in earlier)


def _pairs_of(place: Path, number: int) -> dict[int, int]:
    """The last pair of each writer in an archive, in which all pairs are whole."""
    Gallery.restore(place / f"{number}.zip", place / f"new-{number}")
    with Gallery.open(place / f"new-{number}") as gallery:
        found = gallery.identities()
        assert all(count == 2 for _, count in found)
        last = dict.fromkeys(range(3), 0)
        for name, _ in found:
            writer, count = map(int, name.split("-")[1:])
            last[writer] = max(last[writer], 1 + count)
        # Nothing before the last one is missing, but what its writer has removed.
        for writer, count in last.items():
            there = {int(n.split("-")[2]) for n, _ in found if n.startswith(f"pair-{writer}-")}
            assert set(range(count)) - there <= set(range(1, count, 3))
        return last


def test_the_command_line_exports_and_imports(
    tmp_path: Path, toy_folder: Path, pictures: Pictures
) -> None:
    shell = Shell(tmp_path, toy_folder)
    shell("add", pictures({"cat": 2}), "--encoder", shell.encoder, "--copy")
    assert "1 identity, 2 items, 2 pictures of its own" in shell("export", "all.zip").stdout
    said = shell("import", "all.zip", "-g", "again").stdout
    assert said.startswith("again: 1 identity, 2 items")
    (facts,) = shell.json("export", "few.siasearch", "--without-pictures", "-g", "again")
    assert facts == {
        "file": "few.siasearch", "identities": 1, "items": 2, "pictures": 0, "missing": []
    }  # fmt: skip
    (facts,) = shell.json("import", "few.siasearch", "-g", "third")
    assert facts == {"gallery": "third", "identities": 1, "items": 2, "pictures": 0}
    assert "there already" in shell("import", "all.zip", "-g", "again", code=2).stderr
    assert "ends in one of .zip" in shell("export", "all.tar", code=2).stderr
    (copy, *_) = (tmp_path / "again" / "images").glob("*/*")
    copy.unlink()
    lost = shell("export", "all.zip", "-g", "again", code=1)
    assert "its copy in the gallery is gone" in lost.stderr


def test_pictures_that_are_removed_meanwhile_are_of_no_state_that_is_exported(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Copy] = []

    def removing(folder: Path, copy: Copy) -> bytes | None:
        calls.append(copy)
        if len(calls) == 2:
            gallery.remove("cat")
            gallery.compact()
        return copied_bytes(folder, copy)

    monkeypatch.setattr(archive, "copied_bytes", removing)
    assert gallery.export(tmp_path / "all.zip").items == 4
    Gallery.restore(tmp_path / "all.zip", tmp_path / "new")
    with Gallery.open(tmp_path / "new") as new:
        assert facts(new) == facts(gallery)
        assert new.check() == []


# Hostile archives


def rewritten(path: Path, out: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """An archive with other members, its description brought up to date."""
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    change(members)
    if "siasearch.json" in members and "gallery.db" in members:
        about = json.loads(members["siasearch.json"])
        database = members["gallery.db"]
        about["database"] = {
            "bytes": len(database),
            "sha256": hashlib.sha256(database).hexdigest(),
        }
        members["siasearch.json"] = json.dumps(about).encode()
    with zipfile.ZipFile(out, "w") as target:
        for name, data in members.items():
            target.writestr(name, data)
    return out


NAMES = [
    "../evil", "/evil", "images/../../evil", "images/ab/../../evil.png", "C:\\evil", "..\\evil",
    "\\\\server\\evil", "evil", "gallery.db-journal", ".maintenance.lock", "index-1-abc.faiss",
    "images/", "images/ab/", "IMAGES/ab/x", "siasearch.json/x", "gallery.db/x", "./gallery.db",
    "images//ab/x", "images/ab/" + "0" * 64, "images/00/" + "0" * 63, "images/00/" + "0" * 65,
    "images/00/" + "0" * 64 + "/x", "images/00/" + "0" * 64 + ".a/b", "unknowns/" + "0" * 64 + ".A",
    "unknowns/../" + "0" * 64, "unknowns/" + "0" * 63, "images/00/" + "0" * 64 + ".\\..\\x",
    "CON", "nul", "images/00/\uff0e\uff0e/x", "a" * 5000, "~/evil", "$HOME/evil", "%2e%2e/evil",
    "images/00/" + "0" * 64 + "\n", "gallery.db ", " gallery.db", "gallery.db.", "GALLERY.DB",
]  # fmt: skip


def test_no_member_lands_elsewhere(gallery: Gallery, tmp_path: Path) -> None:
    out = tmp_path / "all.zip"
    gallery.export(out)
    before = sorted(tmp_path.iterdir())
    for number, name in enumerate(NAMES):
        bad = tmp_path / "bad.zip"
        rewritten(out, bad, functools.partial(_with, name))
        _refused(bad, tmp_path / f"new-{number}")
        bad.unlink()
    assert sorted(tmp_path.iterdir()) == before
    assert not (tmp_path.parent / "evil").exists()


def _with(name: str, members: dict[str, bytes]) -> None:
    members[name] = b"evil"


def _refused(path: Path, folder: Path, match: str = "nothing was imported|newer") -> None:
    with pytest.raises((GalleryDamaged, GalleryFormatError), match=match):
        Gallery.restore(path, folder)
    assert not folder.exists()


def test_links_twins_and_packed_members_are_refused(gallery: Gallery, tmp_path: Path) -> None:
    out = tmp_path / "all.zip"
    gallery.export(out)
    with zipfile.ZipFile(out) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    copy = next(name for name in members if name.startswith("images/"))

    def write(*copies: bytes, mode: int = stat.S_IFREG, packed: bool = False) -> Path:
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as target:
            for name, data in members.items():
                for content in copies if name == copy else [data]:
                    info = zipfile.ZipInfo(name)
                    info.external_attr = (mode | 0o777) << 16
                    target.writestr(info, content, zipfile.ZIP_DEFLATED if packed else None)
        return tmp_path / "bad.zip"

    _refused(write(b"/etc/passwd", mode=stat.S_IFLNK), tmp_path / "new", "no regular file")
    _refused(write(members[copy], mode=stat.S_IFIFO), tmp_path / "new", "no regular file")
    # 200 KB of 200 MB
    _refused(write(bytes(200 << 20), packed=True), tmp_path / "new", "compressed")
    with pytest.warns(UserWarning, match="Duplicate"):
        bad = write(members[copy], members[copy])
    _refused(bad, tmp_path / "new", "there are two")
    _refused(write(members[copy] + b"x"), tmp_path / "new", "other content")
    _refused(write(), tmp_path / "new", "lacks pictures")
    Gallery.restore(write(members[copy]), tmp_path / "new")


def test_lying_sizes_and_counts_are_refused(gallery: Gallery, tmp_path: Path) -> None:
    out = tmp_path / "all.zip"
    gallery.export(out)
    good = out.read_bytes()
    central = good.rindex(b"PK\1\2")  # of the last member, the database
    end = good.rindex(b"PK\5\6")
    first = good.index(b"PK\1\2")

    def with_(at: int, form: str, *values: Any) -> Path:
        data = bytearray(good)
        struct.pack_into(form, data, at, *values)
        (tmp_path / "bad.zip").write_bytes(data)
        return tmp_path / "bad.zip"

    _refused(with_(first + 20, "<2L", 200 << 20, 200 << 20), tmp_path / "new", "more than it")
    _refused(with_(first + 20, "<2L", 300 << 20, 300 << 20), tmp_path / "new", "too large")
    _refused(with_(first + 24, "<L", 1 << 30), tmp_path / "new", "compressed")
    _refused(with_(central + 20, "<2L", 100, 100), tmp_path / "new")
    _refused(with_(central + 42, "<L", 0), tmp_path / "new")  # where another member lies
    _refused(with_(end + 12, "<L", 1 << 31), tmp_path / "new", "it lists")
    assert Gallery.restore(with_(0, "<4s", b"PK\3\4"), tmp_path / "new").items == 7


def test_a_list_of_too_many_members_is_refused_unread(tmp_path: Path) -> None:
    size = 500 << 20  # sparse
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 10**7, 10**7, size, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, size, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    with open(tmp_path / "bad.zip", "wb") as file:
        file.seek(size)
        file.write(record + locator + end)
    _refused(tmp_path / "bad.zip", tmp_path / "new", "10000000 members")


def test_hostile_databases_are_refused(gallery: Gallery, tmp_path: Path) -> None:
    out = tmp_path / "all.zip"
    gallery.export(out, pictures=False)

    def altered(sql: str, sealed: bool = False) -> Callable[[dict[str, bytes]], None]:
        def change(members: dict[str, bytes]) -> None:
            path = tmp_path / "altered" / "gallery.db"
            path.parent.mkdir()
            path.write_bytes(members["gallery.db"])
            with closing(sqlite3.connect(path)) as db:
                db.executescript(sql)
            if sealed:  # by somebody who knows how
                seal(path.parent)
            members["gallery.db"] = path.read_bytes()
            shutil.rmtree(path.parent)

        return change

    for sql, why in (
        ("CREATE TRIGGER t AFTER INSERT ON items BEGIN DELETE FROM items; END", "unknown"),
        ("CREATE VIEW v AS SELECT 1", "unknown"),
        ("DROP TABLE places; CREATE VIEW places AS SELECT 1 AS item, 2 AS content", "."),
        ("UPDATE items SET copy = '../../etc/passwd'", "item 1 is damaged"),
        ("UPDATE items SET content = 5 WHERE id = 1", "."),
        ("UPDATE embeddings SET vector = 5", "."),
        ("UPDATE embeddings SET vector = zeroblob(1)", "embedding"),
        ("UPDATE settings SET value = 99 WHERE key = 'items'", "counted"),
        ("PRAGMA application_id = 7", "not a gallery"),
        ("PRAGMA user_version = 99", "upgrade"),
        ("DROP TABLE settings", "."),
    ):
        bad = rewritten(out, tmp_path / "bad.zip", altered(sql))
        _refused(bad, tmp_path / "new", why)
    for copy in ("../../etc/passwd", "images/00/" + "0" * 64, "/etc/passwd"):
        change = altered(f"UPDATE items SET copy = '{copy}' WHERE id = 1", sealed=True)
        _refused(rewritten(out, tmp_path / "bad.zip", change), tmp_path / "new", "lacks pictures")
    bad = rewritten(out, tmp_path / "bad.zip", lambda members: members.update({"gallery.db": b"x"}))
    _refused(bad, tmp_path / "new")
    fine = rewritten(out, tmp_path / "fine.zip", altered("SELECT 1"))
    assert Gallery.restore(fine, tmp_path / "new").items == 7


@pytest.mark.slow
def test_no_damaged_archive_makes_a_gallery(gallery: Gallery, tmp_path: Path) -> None:
    """Bytes altered, cut or doubled at random: refused in our words, or all that it held is
    back.
    """
    out = tmp_path / "all.zip"
    gallery.export(out)
    good, random = out.read_bytes(), np.random.default_rng(1)
    passed = 0
    for _ in range(DAMAGED):
        data = bytearray(good)
        how = random.integers(4)
        if how == 0:
            data = data[: random.integers(len(data))]
        elif how == 1:
            data[random.integers(len(data))] ^= 1 << random.integers(8)
        elif how == 2:  # in the list of members, where most can be told of
            list_at = good.index(b"PK\1\2")
            data[random.integers(list_at, len(data))] = random.integers(256)
        else:
            start = random.integers(len(data))
            data[start:start] = data[start : start + random.integers(1, 5000)]
        (tmp_path / "bad.zip").write_bytes(data)
        try:
            made = Gallery.restore(tmp_path / "bad.zip", tmp_path / "new")
        except SiaSearchError:
            assert not (tmp_path / "new").exists()
            continue
        passed += 1
        with Gallery.open(tmp_path / "new") as new:
            assert made.items == 7
            assert facts(new) == facts(gallery)
        (tmp_path / "new").rename(tmp_path / f"passed-{passed}")
    hidden = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert hidden == []
