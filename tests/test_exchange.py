"""Items as tables and back: every bit, what happens to conflicts, and tables that make no sense."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from shell import Shell

from siamese_search import Gallery
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import (
    GalleryDamaged,
    GalleryMismatch,
    SiaSearchError,
    StorageError,
    UsageError,
)

Pictures = Callable[..., Path]
DOG = 'dog, "the" ä'
KINDS = [".npz", ".csv", ".parquet"]


@pytest.fixture
def gallery(tmp_path: Path, toy: Encoder, pictures: Pictures) -> Iterator[Gallery]:
    folder = pictures({"cat": 3, DOG: 2})
    with Gallery.open(tmp_path / "old", toy) as made:
        made.enroll(folder)
        made.enroll([picture(50)], "bird", metadata={"sex": "f", "note": 'a "b",\r\nc\n\u2028'})
        made.enroll([picture(51)], label="fence", distractor=True)
        made.remove(item=2)
        made.relabel(DOG, "hound")
        random = np.random.default_rng(0).normal(size=(1500, 49)).astype(np.float32)
        random /= np.linalg.norm(random, axis=1, keepdims=True)
        random[0] = 0
        random[0, :2] = 1, 1e-40  # a number so small that few digits are left of it
        made.enroll_embeddings(random, [f"many {n % 40}" for n in range(1500)])
        yield made


def needs(kind: str) -> None:
    if kind == ".parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")


def facts(gallery: Gallery) -> list[Any]:
    """All that is known of items but their numbers."""
    items = [item for name, _ in gallery.identities() for item in gallery.items(name)]
    return [
        gallery.distractors(),
        sorted((i.content, i.identity, i.source, i.added, i.size, i.metadata) for i in items),
    ]


def bits(gallery: Gallery) -> dict[str, bytes]:
    """Every embedding by its item's content."""
    items, vectors = gallery.sample(10_000)
    return {one.content: row.tobytes() for one, row in zip(items, vectors, strict=True)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trip_keeps_every_bit_and_answer(
    gallery: Gallery, toy: Encoder, tmp_path: Path, kind: str
) -> None:
    needs(kind)
    written = gallery.export_items(tmp_path / f"items{kind}", embeddings=True)
    assert (written.items, written.left_out) == (len(gallery), 0)
    made = Gallery.restore(tmp_path / f"items{kind}", tmp_path / "new")
    assert made.items == len(gallery)
    with Gallery.open(tmp_path / "new", toy) as new:
        assert facts(new) == facts(gallery)
        assert bits(new) == bits(gallery)
        for probe in (picture(1, noise=5), picture(50), picture(90)):
            ours, theirs = new.identify(probe)[0], gallery.identify(probe)[0]
            assert [(m.identity, m.score) for m in ours.matches] == [
                (m.identity, m.score) for m in theirs.matches
            ]
        assert new.check() == []
        # A correction stays: what was enrolled as a dog is a hound here, too.
        again = new.enroll(tmp_path / "pictures" / DOG, label=DOG)
        assert (again.skipped, len(again.relabelled)) == (2, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_table_takes_the_longest_metadata(toy: Encoder, tmp_path: Path, kind: str) -> None:
    needs(kind)
    with Gallery.open(tmp_path / "old", toy) as old:
        with pytest.raises(UsageError, match="metadata has 65537 bytes: an item takes 65536"):
            old.enroll([picture(1)], "a", metadata={"n": "x" * 65536})
        longest = {"n": "\x01" * 65535}  # which JSON writes in six characters each
        old.enroll([picture(1)], "a", metadata=longest)
        old.export_items(tmp_path / f"items{kind}", embeddings=True)
    Gallery.restore(tmp_path / f"items{kind}", tmp_path / "new")
    with Gallery.open(tmp_path / "new", toy) as new:
        assert new.items("a")[0].metadata == longest


def test_other_programs_open_what_is_written(gallery: Gallery, tmp_path: Path) -> None:
    gallery.export_items(tmp_path / "items.npz")
    with np.load(tmp_path / "items.npz", allow_pickle=False) as loaded:
        assert loaded["embeddings"].shape == (len(gallery), 49)
        rows = [json.loads(line) for line in loaded["items.jsonl"].decode().split("\n")[:-1]]
    assert len(rows) == len(gallery)
    gallery.export_items(tmp_path / "items.csv")
    with open(tmp_path / "items.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["identity"] for row in table] == [row["identity"] for row in rows]
    assert "embedding" not in table[0]
    assert json.loads(table[4]["metadata"])["note"] == 'a "b",\r\nc\n\u2028'


def test_parquet_that_pandas_has_written_again_is_taken(gallery: Gallery, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    gallery.export_items(tmp_path / "items.parquet")
    table = parquet.read_table(tmp_path / "items.parquet")
    lists = table.column("embedding").to_pylist()  # of any length, as most programs have them
    place = table.schema.get_field_index("embedding")
    column = pyarrow.array(lists, pyarrow.list_(pyarrow.float64()))
    table = table.set_column(place, "embedding", column).drop_columns(["number"])
    parquet.write_table(table.slice(3, 700), tmp_path / "some.parquet")
    Gallery.restore(tmp_path / "some.parquet", tmp_path / "new")
    with Gallery.open(tmp_path / "new") as new:
        ours, theirs = bits(new), bits(gallery)
        assert len(ours) == 700
        assert all(theirs[content] == row for content, row in ours.items())


@pytest.mark.parametrize("kind", KINDS)
def test_conflicts_are_skipped_replaced_or_refused(
    gallery: Gallery, toy: Encoder, tmp_path: Path, kind: str
) -> None:
    needs(kind)
    path = tmp_path / f"items{kind}"
    gallery.export_items(path, embeddings=True)
    total = len(gallery)
    with Gallery.open(tmp_path / "other", toy) as other:
        other.enroll(tmp_path / "pictures" / "cat", label="puss", copy=True)  # two are in the table
        other.enroll([picture(70)], label="mine")
        before, version = facts(other), other.version
        said = r"its item 1 \('cat', .*0\.png\) is enrolled already, as item 1 \('puss'\)"
        with pytest.raises(UsageError, match=rf"items\{kind}: {said}: nothing of it was imported"):
            other.import_items(path, on_conflict="error")
        assert (facts(other), other.version) == (before, version)

        taken = other.import_items(path)
        assert (taken.added, taken.skipped, taken.renamed) == (total - 2, 2, 2)
        assert other.count("puss") == 3
        assert len(other) == total + 2
        assert other.import_items(path).skipped == total  # nothing to do
        assert other.undo().what == "add"
        assert facts(other) == before

        taken = other.import_items(path, on_conflict="replace")
        assert (taken.added, taken.replaced, taken.skipped) == (total, 2, 0)
        assert (other.count("puss"), other.count("cat")) == (1, 2)
        assert all(other.image(item) for item in other.items("cat") if item.copy)
        assert other.info().copies == 3  # those of the same pictures stay
        assert other.check() == []
        other.undo()
        assert facts(other) == before
        assert other.check() == []
        with pytest.raises(UsageError, match="on_conflict is 'all'"):
            other.import_items(path, on_conflict="all")


def test_another_encoder_and_another_kind_are_refused(
    gallery: Gallery, toy: Encoder, coarse: Encoder, tmp_path: Path
) -> None:
    gallery.export_items(tmp_path / "items.npz")
    with Gallery.open(tmp_path / "coarse", coarse) as other:
        with pytest.raises(GalleryMismatch, match="cannot be compared"):
            other.import_items(tmp_path / "items.npz")
        assert len(other) == 0
    with Gallery.open(tmp_path / "other", toy) as other:
        other.enroll([picture(60)], label="fence")
        with pytest.raises(UsageError, match="'fence' is no distractor here"):
            other.import_items(tmp_path / "items.npz")
        assert len(other) == 1
    with pytest.raises(StorageError, match="there already"):
        Gallery.restore(tmp_path / "items.npz", gallery.folder)


def test_a_gallery_merged_into_another_brings_all_that_it_has(
    placing: Encoder, coarse: Encoder, tmp_path: Path, pictures: Pictures
) -> None:
    folder = pictures({"cat": 3, "dog": 2})
    with (
        Gallery.open(tmp_path / "a", placing) as a,
        Gallery.open(tmp_path / "b", placing) as b,
    ):
        a.enroll(folder / "cat", label="puss")
        b.enroll(folder, metadata={"shelf": "4"}, copy=True)
        b.enroll([picture(60)], label="fence", distractor=True)
        b.remove(item=2)
        (lost, *_) = b.items("dog")
        (b.folder / str(lost.copy)).unlink()
        before = facts(a)
        with pytest.raises(UsageError, match="is enrolled already"):
            a.merge(b, on_conflict="error")
        taken = a.merge(b)
        assert (taken.added, taken.skipped, taken.renamed) == (3, 2, 2)
        assert (a.count("puss"), a.count("dog"), a.distractors()) == (3, 2, {"fence"})
        assert (a.info().copies, a.info().places) == (1, 6)
        assert a.check(deep=True) == []
        a.undo()
        assert facts(a) == before
        taken = a.merge(b, on_conflict="replace")
        assert (taken.added, taken.replaced) == (5, 2)
        assert (a.count("puss"), a.count("cat")) == (1, 2)
        assert (a.info().copies, a.info().places) == (3, 6)
        assert [a.image(item) for item in a.items("cat")] == [b.image(i) for i in b.items("cat")]
        assert a.check(deep=True) == []
        a.undo()
        a.compact()
        assert facts(a) == before
        assert not list((a.folder / "images").rglob("*.*"))
        with pytest.raises(UsageError, match="with itself"):
            a.merge(a)
        with Gallery.open(tmp_path / "c", coarse) as c, pytest.raises(GalleryMismatch):
            a.merge(c)
    hidden = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert hidden == []


# Tables that make no sense


def npz(out: Path, change: Callable[[dict[str, bytes]], object], source: Path) -> Path:
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out


BAD_ROWS: list[dict[str, Any]] = [
    {"identity": ""}, {"identity": 5}, {"identity": "a\u0000"}, {"identity": "\ud800"},
    {"content": "00"}, {"content": None}, {"content": "Z" * 64}, {"size": -1}, {"size": 1 << 63},
    {"size": "5"}, {"added": "yesterday"}, {"added": None}, {"distractor": 1}, {"path": 5},
    {"path": "\udcff"}, {"was": ""}, {"metadata": []}, {"metadata": {"a": {}}},
    {"metadata": {"": "b"}}, {"metadata": {"a": "\ud800"}},
]  # fmt: skip


def test_rows_that_make_no_sense_are_refused_and_none_is_kept(
    gallery: Gallery, toy: Encoder, tmp_path: Path
) -> None:
    good, bad = tmp_path / "items.npz", tmp_path / "bad.npz"
    gallery.export_items(good)

    def altered(fields: dict[str, Any]) -> Callable[[dict[str, bytes]], None]:
        def change(members: dict[str, bytes]) -> None:
            lines = members["items.jsonl"].decode().split("\n")
            lines[1200] = json.dumps(json.loads(lines[1200]) | fields)
            members["items.jsonl"] = "\n".join(lines).encode()

        return change

    with Gallery.open(tmp_path / "new", toy) as new:
        version = new.version
        for fields in BAD_ROWS:
            with pytest.raises(UsageError, match=r"row 1201.*nothing was imported"):
                new.import_items(npz(bad, altered(fields), good))
        first = json.loads(zipfile.ZipFile(good).read("items.jsonl").decode().split("\n")[0])
        with pytest.raises(UsageError, match="comes twice"):
            new.import_items(npz(bad, altered({"content": first["content"]}), good))
        assert (len(new), new.version) == (0, version)
        assert new.import_items(npz(bad, altered({}), good)).added == len(gallery)


def array(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


def test_arrays_that_make_no_sense_are_refused(
    gallery: Gallery, toy: Encoder, tmp_path: Path
) -> None:
    good, bad = tmp_path / "items.npz", tmp_path / "bad.npz"
    gallery.export_items(good)
    with np.load(good) as loaded:
        vectors, lines, about = (
            loaded[name] for name in ("embeddings", "items.jsonl", "about.json")
        )
    count = len(vectors)
    scaled, odd = vectors.copy(), vectors.copy()
    scaled[700] *= 2
    odd[700, 3] = np.nan
    huge = array(vectors).replace(f"({count}, 49)".encode(), b"(9999999999999, 49)"[:10] + b", 49)")
    for members in (
        {"embeddings.npy": array(vectors.astype(object))},  # a pickle
        {"embeddings.npy": array(vectors.astype(np.float64))},
        {"embeddings.npy": array(np.asfortranarray(vectors))},
        {"embeddings.npy": array(vectors[:-1])},
        {"embeddings.npy": array(vectors[:, :-1])},
        {"embeddings.npy": array(scaled)},
        {"embeddings.npy": array(odd)},
        {"embeddings.npy": array(vectors)[:-1]},
        {"embeddings.npy": array(vectors) + b"x"},
        {"embeddings.npy": b"\x93NUMPY"},
        {"embeddings.npy": huge},
        {"items.jsonl": lines + b"{}\n"},
        {"items.jsonl": lines[:-100]},
        {"items.jsonl": b"[" * 900_000},
        {"items.jsonl": b"\xff\xfe"},
        {"about.json": b"{}"},
        {"about.json": b"[]"},
        {"about.json": about.replace(b'"fingerprint": "', b'"fingerprint": 5, "x": "')},
    ):
        npz(bad, lambda there, members=members: there.update(members), good)  # type: ignore[misc]
        with Gallery.open(tmp_path / "new", toy) as new:
            with pytest.raises((GalleryDamaged, UsageError, GalleryMismatch)):
                new.import_items(bad)
            assert len(new) == 0
    with pytest.raises(UsageError, match="there is no file"):
        Gallery.restore(tmp_path / "none.npz", tmp_path / "third")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_damaged_table_is_taken_in(
    gallery: Gallery, toy: Encoder, tmp_path: Path, kind: str
) -> None:
    """Bytes altered or cut at random: refused, or, in CSV, which has no checksum, still sound."""
    needs(kind)
    gallery.remove("many 1")
    for number in range(2, 40):
        gallery.remove(f"many {number}")
    gallery.export_items(tmp_path / f"items{kind}", embeddings=True)
    good, random = (tmp_path / f"items{kind}").read_bytes(), np.random.default_rng(2)
    bad = tmp_path / f"bad{kind}"
    with Gallery.open(tmp_path / "new", toy) as new:
        for turn in range(60):
            data = bytearray(good)
            if turn % 3:
                data[random.integers(len(data))] ^= 1 << random.integers(8)
            else:
                data = data[: random.integers(len(data))]
            bad.write_bytes(data)
            try:
                taken = new.import_items(bad)
            except SiaSearchError:
                assert len(new) == 0
                continue
            if kind != ".csv":
                assert bits(new) == bits(gallery)
            assert taken.added == len(new)
            new.undo()
        assert new.check() == []


@pytest.mark.parametrize(
    "command",
    [
        ("export", "items.npz", "-g", "old"),
        ("export", "shared.npz", "-g", "old", "--pseudonyms", "names.csv"),
        ("export", "shared.zip", "-g", "old", "--protect", "my.key"),
        ("merge", "new", "old"),
    ],
)
def test_what_has_no_embedding_is_left_out_with_a_word(
    tmp_path: Path, toy_folder: Path, coarse: Encoder, pictures: Pictures, command: tuple[str, ...]
) -> None:
    folder = pictures({"cat": 3})
    with Gallery.open(tmp_path / "old", toy_folder) as old:
        old.enroll(folder)
        (folder / "cat" / "1.png").unlink()
        old.rebuild(coarse, skip_missing=True)
    with Gallery.open(tmp_path / "new", coarse) as new:
        new.enroll([picture(50)], "bird")
    shell = Shell(tmp_path, toy_folder)
    told = shell(*command, "--json", code=1)
    facts = json.loads(told.stdout)
    assert (facts["left_out"], facts.get("added", facts["items"])) == (1, 2)
    assert "1 item without an embedding is left out" in told.stderr
    assert "siasearch rebuild -g old" in told.stderr


def test_the_command_line_exports_and_imports_tables(
    gallery: Gallery, tmp_path: Path, toy_folder: Path
) -> None:
    shell = Shell(tmp_path, toy_folder)
    assert "1506 items" in shell("export", "items.npz", "-g", "old").stdout
    assert "1506 items" in shell("import", "items.npz", "-g", "new").stdout
    gallery.split(tmp_path / "some", [gallery.items("bird")[0].number], keep=True)
    gallery.relabel("bird", "owl")
    shell("export", "items.csv", "-g", "old", "--embeddings")
    said = shell("import", "items.csv", "-g", "new")
    assert "0 added, 1506 skipped (enrolled already)" in said.stdout
    assert "1 item is enrolled as another identity" in said.stderr
    (facts,) = shell.json("import", "items.csv", "-g", "new", "--on-conflict", "replace")
    assert facts == {
        "added": 1506, "replaced": 1506, "skipped": 0, "renamed": 0, "left_out": 0, "items": 1506
    }  # fmt: skip
    (facts,) = shell.json("merge", "new", "old")
    assert facts == {
        "added": 0, "replaced": 0, "skipped": 1506, "renamed": 0, "left_out": 0, "items": 1506
    }  # fmt: skip
    shell("export", "birds.npz", "-g", "some")
    both = ("import", "birds.npz", "items.csv", "--on-conflict", "error")
    told = shell(*both, "-g", "third", code=2).stderr
    assert "imported before: birds.npz, 1 item" in told
    assert "error: items.csv: its item" in told
    shell("export", "plain.csv", "-g", "old")
    assert "no column 'encoder'" in shell("import", "plain.csv", "-g", "x", code=2).stderr
    assert (
        "choose skip"
        in shell("import", "items.csv", "-g", "new", "--on-conflict", "x", code=2).stderr
    )
    assert (
        "no pictures" in shell("export", "a.npz", "-g", "old", "--without-pictures", code=2).stderr
    )
    assert "anyway" in shell("export", "a.zip", "-g", "old", "--embeddings", code=2).stderr
