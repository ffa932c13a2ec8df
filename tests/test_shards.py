"""Shards: tables of embeddings that many machines make, and the gallery of all of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from shell import Shell

from siamese_search import Gallery
from siamese_search.arrays import PixelArray
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import GalleryDamaged, UsageError
from siamese_search.gallery.shards import embed_shard, part_of
from siamese_search.pictures.sources import find
from siamese_search.records import ImageFile, Progress

Pictures = Callable[..., Path]
COUNTS = {"cat": 7, "dog/small": 6, "bird": 8}


def all_of(gallery: Gallery) -> dict[str, tuple[Any, ...]]:
    """What is known of every item but when it was added, with its embedding, by its content."""
    items, vectors = gallery.sample(1000)
    return {
        one.content: (one.identity, one.source, one.size, one.metadata, vector.tobytes())
        for one, vector in zip(items, vectors, strict=True)
    }


def interrupted(progress: Progress) -> None:
    """What Ctrl-C does once something is committed."""
    if progress.done >= 16:
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", [".npz", ".parquet"])
def test_parts_of_a_folder_make_the_gallery_that_one_process_makes(
    tmp_path: Path, placing: Encoder, pictures: Pictures, kind: str
) -> None:
    folder = pictures(COUNTS)
    tables = []
    for number in (1, 2, 3):
        if kind == ".parquet":
            pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
        table = tmp_path / f"{number}{kind}"
        made = embed_shard(part_of(find([str(folder)]), number, 3), table, placing)
        assert 0 < made.items < 21
        tables.append(table)
    assert not list(tmp_path.glob(".*"))
    Gallery.restore(tables[0], tmp_path / "shards")
    with Gallery.open(tmp_path / "shards", placing) as shards:
        for table in tables[1:]:
            shards.import_items(table)
        with Gallery.open(tmp_path / "one", placing) as one:
            one.enroll(folder)
            assert all_of(shards) == all_of(one)
            assert shards.info().places == (one.info().places if kind == ".parquet" else 0)


def test_each_file_falls_to_one_part_wherever_the_folder_lies(pictures: Pictures) -> None:
    for place in ("here", "there/deep"):
        files = list(find([str(pictures(COUNTS, place))]))
        parts = [[one.path for one in part_of(files, n, 4)] for n in (1, 2, 3, 4)]
        assert sorted(path for part in parts for path in part) == sorted(f.path for f in files)
        names = [[path.split(place)[1] for path in part] for part in parts]
        if place == "here":
            before = names
    assert names == before


def test_an_ended_run_goes_on_where_it_was(
    tmp_path: Path, toy: Encoder, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, out = list(find([str(pictures(COUNTS))])), tmp_path / "part.npz"
    monkeypatch.setattr("siamese_search.gallery.enrolment.COMMIT_SECONDS", 0)
    decoded: list[Any] = []
    decode = Encoder.decode

    def counted(encoder: Encoder, data: Any) -> PixelArray:
        decoded.append(data)
        return decode(encoder, data)

    monkeypatch.setattr(Encoder, "decode", counted)
    with pytest.raises(KeyboardInterrupt):
        embed_shard(files, out, toy, {"paths": "these"}, interrupted)
    assert not out.exists()
    before = len(decoded)
    made = embed_shard(files, out, toy, {"paths": "these"})
    assert made.items == 21
    assert len(decoded) < before + 21  # what was committed is not decoded again
    again = embed_shard(files, out, toy, {"paths": "these"})
    assert again.already
    assert again.items == 21
    assert not list(tmp_path.glob(".*"))


def test_what_an_ended_run_was_asked_otherwise_is_not_taken_up(
    tmp_path: Path, toy: Encoder, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, out = list(find([str(pictures(COUNTS))])), tmp_path / "part.npz"
    monkeypatch.setattr("siamese_search.gallery.enrolment.COMMIT_SECONDS", 0)

    with pytest.raises(KeyboardInterrupt):
        embed_shard(files, out, toy, {"paths": "these"}, interrupted)
    assert embed_shard(files[20:], out, toy, {"paths": "others"}).items == 1


def test_a_table_of_another_encoder_is_not_taken_for_done(
    tmp_path: Path, toy: Encoder, coarse: Encoder, pictures: Pictures
) -> None:
    files, out = list(find([str(pictures({"cat": 1}))])), tmp_path / "part.npz"
    embed_shard(files, out, toy)
    content = out.read_bytes()
    with pytest.raises(UsageError, match="another file"):
        embed_shard(files, out, coarse)
    assert out.read_bytes() == content


def test_one_process_makes_a_table(tmp_path: Path, toy: Encoder, pictures: Pictures) -> None:
    files, out = list(find([str(pictures({"cat": 1}))])), tmp_path / "part.npz"
    work = tmp_path / ".part.npz.work"
    work.mkdir()
    with FileLock(work / "lock"), pytest.raises(UsageError, match="another process"):
        embed_shard(files, out, toy)
    assert embed_shard(files, out, toy).items == 1


def test_without_pictures_there_is_no_table(tmp_path: Path, toy: Encoder) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    file = ImageFile(str(tmp_path / "bad.png"), "cat")
    with pytest.raises(UsageError, match=r"no picture to embed; .*bad\.png"):
        embed_shard([file], tmp_path / "part.npz", toy)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.png"]


def test_places_in_a_table_are_verified(
    tmp_path: Path, placing: Encoder, pictures: Pictures
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
    arrow = pytest.importorskip("pyarrow")
    out = tmp_path / "part.parquet"
    embed_shard(find([str(pictures({"cat": 3}))]), out, placing)
    table = parquet.read_table(out)
    sound = table.column("places").to_pylist()
    other = np.eye(2, 4, dtype=np.float32)
    from siamese_search.decision.closer import pack

    for broken in (sound[0][:-1], b"", sound[0][:-1] + b"?", pack(other)):
        for places in ([sound[0], broken, None], [broken] * 3):
            column = arrow.array(places, arrow.binary())
            at = table.schema.get_field_index("places")
            parquet.write_table(table.set_column(at, "places", column), tmp_path / "bad.parquet")
            with Gallery.open(tmp_path / "gallery", placing) as gallery:
                if not len(gallery):
                    gallery.enroll(pictures({"dog": 1}, "more", first_seed=9))
                with pytest.raises(GalleryDamaged):
                    gallery.import_items(tmp_path / "bad.parquet")
                assert len(gallery) == 1


def test_the_commands_say_what_they_did(shell: Shell, pictures: Pictures) -> None:
    folder = pictures(COUNTS)
    for number in (1, 2):
        part = shell("embed", folder, "--part", f"{number}/2", "-o", f"{number}.npz",
                     "--encoder", shell.encoder)  # fmt: skip
        assert f"{number}.npz: " in part.stdout
    again = shell("embed", folder, "--part", "2/2", "-o", "2.npz", "--encoder", shell.encoder)
    assert "there already" in again.stderr
    assert shell.json("import", "1.npz", "2.npz", "-g", "all")[0]["items"] == 21
    assert shell.json("import", "1.npz", "2.npz", "-g", "all")[0]["skipped"] == 21
    missing = shell("import", "1.npz", "3.npz", "-g", "none", code=2)
    assert "no file 3.npz" in missing.stderr
    assert not (shell.folder / "none").exists()
    for bad in ("0/2", "3/2", "1", "a/b", "1/0"):
        said = shell("embed", folder, "--part", bad, "-o", "x.npz", code=2)
        assert "1/100" in said.stderr
    assert "ends in" in shell("embed", folder, "-o", "x.csv", code=2).stderr
    assert not list(shell.folder.glob(".*"))


def test_pictures_that_are_called_by_their_files_are_embedded_only_if_that_is_meant(
    shell: Shell, pictures: Pictures
) -> None:
    folder = pictures({"a": 2, "b": 2})
    files: list[str | Path] = [*folder.glob("*/*.png")]
    embed = ["embed", *files, "-o", "1.npz", "--encoder", shell.encoder]
    assert "--yes to take them so" in shell(*embed, code=2).stderr  # both would be called 0
    said = shell("embed", folder / "a", "-o", "1.npz", "--encoder", shell.encoder, code=2).stderr
    assert f"siasearch embed {folder / 'a'} --label a -o 1.npz" in said
    assert "nothing was done" in said
    assert not (shell.folder / "1.npz").exists()
    assert shell.json(*embed, "--yes")[0]["items"] == 4
    joined = shell("embed", *folder.iterdir(), "--label", "c", "-o", "2.npz", "-e", shell.encoder)
    assert "the pictures of 2 folders become one identity, 'c'" in joined.stderr


def test_what_cannot_be_embedded_is_named_and_the_rest_is_there(
    shell: Shell, pictures: Pictures
) -> None:
    folder = pictures({"cat": 2})
    (folder / "cat" / "bad.png").write_bytes(b"no picture")
    kinds = [".npz", ".parquet"] if importlib.util.find_spec("pyarrow") else [".npz"]
    for kind in kinds:
        embed = ["embed", str(folder), "-o", "1" + kind, "--encoder", str(shell.encoder)]
        (said,) = shell.json(*embed, code=1)
        assert said["items"] == 2
        assert [one["path"].endswith("bad.png") for one in said["rejected"]] == [True]
        (again,) = shell.json(*embed, code=1)  # as where a failed task is run again
        assert again == said | {"already": True}
        assert "bad.png: " in shell(*embed, code=1).stderr


@pytest.mark.parametrize("kind", [".npz", ".parquet"])
def test_a_part_without_a_picture_is_an_empty_table(
    tmp_path: Path, toy: Encoder, pictures: Pictures, kind: str
) -> None:
    if kind == ".parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    bad = ImageFile(str(tmp_path / "bad.png"), "cat")
    full, empty = tmp_path / f"full{kind}", tmp_path / f"empty{kind}"
    embed_shard(find([str(pictures({"cat": 2}))]), full, toy)
    assert embed_shard([], empty, toy, empty=True).items == 0
    assert embed_shard([], empty, toy, empty=True).already
    made = embed_shard([bad], tmp_path / f"bad{kind}", toy, empty=True)
    assert (made.items, len(made.rejected)) == (0, 1)
    Gallery.restore(empty, tmp_path / "gallery")
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.import_items(full)
        gallery.import_items(empty)
        assert len(gallery) == 2


def test_only_a_part_may_be_empty(shell: Shell, pictures: Pictures) -> None:
    folder = pictures({"cat": 1})
    embed = ["embed", str(folder), "--encoder", str(shell.encoder)]
    made = [shell.json(*embed, "--part", f"{n}/2", "-o", f"{n}.npz")[0]["items"] for n in (1, 2)]
    assert sorted(made) == [0, 1]
    (folder / "cat" / "0.png").unlink()
    assert "no part" in shell(*embed, "--part", "2/2", "-o", "3.npz", code=2).stderr
