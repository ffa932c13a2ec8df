from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from inspect import getattr_static
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from conftest import picture, write_toy_encoder

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray, PixelArray
from siamese_search.errors import GalleryMismatch, ImageError, StorageError, UsageError
from siamese_search.files import underway
from siamese_search.gallery import enrolment
from siamese_search.pictures.sources import find, normalised, read_answers, read_manifest
from siamese_search.records import ImageFile, Progress, Rejection

Pictures = Callable[..., Path]


def manifest(path: Path, text: str) -> list[ImageFile | Rejection]:
    path.write_text(text, encoding="utf-8")
    return list(read_manifest(str(path)))


def test_a_manifest_gives_paths_labels_and_metadata(tmp_path: Path) -> None:
    assert manifest(tmp_path / "m.csv", 'label,path,shop\n"a, b",x/1.jpg,north\nc,/y.png,\n') == [
        ImageFile(str(tmp_path / "x" / "1.jpg"), "a, b", {"shop": "north"}),
        ImageFile("/y.png", "c", {}),
    ]


@pytest.mark.parametrize("by", [";", "\t"])
def test_a_manifest_may_be_parted_otherwise(tmp_path: Path, by: str) -> None:
    text = f"\ufeffpath{by}label{by}shop\nx, 1.jpg{by}a, b{by}north\n"
    assert manifest(tmp_path / "m.csv", text) == [
        ImageFile(str(tmp_path / "x, 1.jpg"), "a, b", {"shop": "north"})
    ]


def test_a_manifest_row_without_path_or_label_is_rejected_with_its_line(tmp_path: Path) -> None:
    rows = manifest(tmp_path / "m.csv", "path,label\n,a\nx.jpg,\ny.jpg\nz.jpg,b,surplus\n")
    assert [type(row) for row in rows] == [Rejection, Rejection, Rejection, ImageFile]
    assert "line 2" in str(rows[0])
    assert "line 3" in str(rows[1])


def test_a_manifest_row_with_too_long_metadata_is_rejected(tmp_path: Path) -> None:
    rows = manifest(
        tmp_path / "m.csv",
        f"path,label,n\nx.jpg,a,{'x' * 65536}\ny.jpg,a,{'x' * 65535}\nz.jpg,a,{'x' * 200_000}\n",
    )
    assert [type(row) for row in rows] == [Rejection, ImageFile, Rejection]
    assert "line 2: its metadata has 65537 bytes" in str(rows[0])
    assert "line 4: its metadata has 200001 bytes" in str(rows[2])
    with pytest.raises(UsageError, match=r"m\.csv cannot be read.*field limit"):
        manifest(tmp_path / "m.csv", f"path,label\nx.jpg,{'a' * 2_000_000}\n")


@pytest.mark.parametrize("text", ["", "path\nx\n", "a;b\n"])
def test_a_file_without_the_columns_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="path and label"):
        manifest(tmp_path / "m.csv", text)


def test_names_are_normalised_or_refused() -> None:
    assert normalised("  Cafe\u0301 ") == "Café"
    for name in ("", " ", "a\nb", "a\udcff"):
        with pytest.raises(UsageError):
            normalised(name)


def test_two_spellings_of_a_folder_are_one_identity(tmp_path: Path, toy: Encoder) -> None:
    for number, name in enumerate(("Caf\u00e9", "Cafe\u0301")):
        (tmp_path / "p" / name).mkdir(parents=True)
        picture(number).save(tmp_path / "p" / name / "a.png")
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([tmp_path / "p"])
        assert gallery.identities() == [("Café", 2)]


def test_progress_counts_every_file_once(tmp_path: Path, pictures: Pictures, toy: Encoder) -> None:
    folder = pictures({"a": 70})
    (folder / "a" / "text.png").write_text("x")
    seen: list[Progress] = []
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder], watch=seen.append)
    assert seen[-1].done == 71
    assert [p.done for p in seen] == sorted(p.done for p in seen)


def test_what_others_enrol_meanwhile_is_skipped_or_reported(
    tmp_path: Path, pictures: Pictures, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures({"a": 2})
    decode = Encoder.decode
    done: list[bool] = []

    def slow(self: Encoder, data: bytes) -> npt.NDArray[np.uint8]:
        if not done:
            done.append(True)
            with Gallery.open(tmp_path / "gallery", toy) as other:
                other.enroll([folder / "a" / "0.png"], label="a")
                other.enroll([folder / "a" / "1.png"], label="b")
        return decode(self, data)

    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        monkeypatch.setattr(Encoder, "decode", slow)
        report = gallery.enroll([folder])
        assert (report.added, report.skipped) == (0, 1)
        (rejection,) = report.rejected
        assert "enrolled as 'b'" in rejection.reason


def test_a_copy_is_made_of_what_others_enrol_meanwhile_without_one(
    tmp_path: Path, pictures: Pictures, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, decode = pictures({"a": 4}), Encoder.decode
    paths = sorted((folder / "a").iterdir())
    contents = [path.read_bytes() for path in paths]

    def slow(self: Encoder, data: bytes) -> npt.NDArray[np.uint8]:
        monkeypatch.setattr(Encoder, "decode", decode)
        with Gallery.open(tmp_path / "gallery", toy) as other:
            other.enroll([paths[0]], label="a", copy=True)
            other.enroll([paths[1]], label="a")
            other.enroll([paths[2]], label="b")
        return decode(self, data)

    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        monkeypatch.setattr(Encoder, "decode", slow)
        report = gallery.enroll(paths, label="a", copy=True)
        assert (report.added, report.skipped, report.copied) == (1, 2, 1)
        assert [item.copy for item in gallery.items("b")] == [None]  # it is rejected
        shutil.rmtree(folder)
        assert [gallery.image(item) for item in gallery.items("a")] == contents[:2] + contents[3:]
        assert not list((tmp_path / "gallery" / "images").rglob(".*"))


def test_of_files_with_the_same_content_the_first_says_the_metadata(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    place = pictures({"a": 1}) / "a"
    shutil.copy(place / "0.png", place / "1.png")
    files = [str(place / "0.png"), str(place / "1.png")]

    def enrol(*metadata: dict[str, str]) -> dict[str, str]:
        gallery.enroll(files, label="a", metadata=metadata)
        (item,) = gallery.items("a")
        return item.metadata

    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        first, second = {"shop": "Leeds"}, {"shop": "York", "price": "3"}
        for _ in range(2):
            assert enrol(first, second) == {"shop": "Leeds", "price": "3"}
        assert len(gallery.changes()) == 1  # the second run changed nothing
        assert enrol({"shop": "Hull"}, second) == {"shop": "Hull", "price": "3"}


def test_a_long_enrolment_writes_index_files_on_the_way(
    tmp_path: Path, pictures: Pictures, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr("siamese_search.gallery.compaction.PENDING_UNDERWAY", 50)
    folder = pictures({"a": 300})
    indexed: list[int] = []
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder], watch=lambda _: indexed.append(gallery.info().indexed))
        assert len(set(indexed)) >= 3
        assert gallery.info().indexed >= 150  # it is written again once what it holds has doubled


def test_an_interruption_keeps_what_was_committed(
    tmp_path: Path, pictures: Pictures, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "COMMIT_SECONDS", 0.0)
    folder = pictures({"a": 400})

    def interrupt(progress: Progress) -> None:
        if progress.done >= 64:
            raise KeyboardInterrupt

    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        with pytest.raises(KeyboardInterrupt):
            gallery.enroll([folder], watch=interrupt)
        assert 64 <= len(gallery) < 400
        assert gallery.check() == []
        before = len(gallery)
        report = gallery.enroll([folder])
        assert (report.skipped, report.added) == (before, 400 - before)


def test_enrolment_streams_and_does_not_hold_all_files(
    tmp_path: Path, pictures: Pictures, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "COMMIT_SECONDS", 0.0)
    folder = pictures({"a": 600})
    taken, committed, most = 0, 0, 0

    def files() -> Iterator[ImageFile | Rejection]:
        nonlocal taken, most
        for file in find([str(folder)]):
            taken += 1
            most = max(most, taken - committed)
            yield file

    def watch(progress: Progress) -> None:
        nonlocal committed
        committed = progress.done

    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        assert gallery.enroll_found(files(), watch=watch).added == 600
    assert most <= 300


def test_a_copy_that_cannot_be_written_is_a_clear_error(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    folder = pictures({"a": 2})
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        (tmp_path / "gallery" / "images").write_text("in the way")
        with pytest.raises(StorageError, match="images"):
            gallery.enroll([folder], copy=True)
        assert len(gallery) == 0


def test_a_copy_is_made_of_what_was_enrolled_without_one(
    tmp_path: Path, pictures: Pictures, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "COPIED", 2)  # committed together
    folder = pictures({"a": 3, "b": 2})
    (folder / "a" / "twin.png").write_bytes((folder / "a" / "0.png").read_bytes())
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder / "a"], label="a")
        gallery.relabel("a", "c")
        assert gallery.info().copies == 0
        report = gallery.enroll([folder], copy=True)
        assert (report.added, report.skipped, report.copied) == (2, 4, 3)
        assert gallery.info().copies == 5
        assert gallery.enroll([folder], copy=True).copied == 0
        shutil.rmtree(folder)  # the copies are enough
        assert all(gallery.image(item) for item in gallery.items("c"))
        assert gallery.check() == []
        assert list(gallery.changed_pictures()) == []
        gallery.undo()  # adding b; what was copied stays
        assert gallery.info().copies == 3
        assert not list((tmp_path / "gallery" / "images").rglob(".*.png.[!0]*"))


def test_a_file_that_was_overwritten_is_told(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    folder = pictures({"a": 2, "b": 1})
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        assert gallery.enroll([folder]).replaced == ()
        picture(50).save(folder / "a" / "1.png")
        report = gallery.enroll([folder])
        assert (report.added, report.replaced) == (1, ((2, str(folder / "a" / "1.png")),))
        assert gallery.enroll([folder]).replaced == ()


def test_a_rejected_picture_is_not_copied(tmp_path: Path, pictures: Pictures, toy: Encoder) -> None:
    folder = pictures({"a": 1})
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder])
        report = gallery.enroll([folder], label="b", copy=True)
        assert (len(report.rejected), report.copied, gallery.info().copies) == (1, 0, 0)
        assert not list((tmp_path / "gallery").glob("images/*"))


def test_what_stops_in_the_middle_leaves_no_copies_without_items(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    files = [file for file in find([str(pictures({"a": 40}))]) if isinstance(file, ImageFile)]

    def stopping() -> Iterator[ImageFile]:
        yield from files
        raise KeyboardInterrupt

    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        with pytest.raises(KeyboardInterrupt):
            gallery.enroll_found(stopping(), copy=True)
        assert len(list((tmp_path / "gallery" / "images").rglob("*.png*"))) == len(gallery)


def test_leftovers_of_killed_runs_are_swept_once_nobody_copies_or_they_are_old(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([pictures({"a": 1})], copy=True)
        (copy,) = (tmp_path / "gallery" / "images").rglob("*.png")
        old = copy.with_name(f".{'0' * 64}.png.0123abcd")
        fresh = copy.with_name(f".{'1' * 64}.png.0123abcd")
        for path in (old, fresh, copy):
            path.touch()
        for path in (old, copy):
            os.utime(path, (time.time() - 7200,) * 2)
        with underway(tmp_path / "gallery"):
            gallery.compact()
            assert (old.exists(), fresh.exists(), copy.exists()) == (False, True, True)
        gallery.compact()
        assert (fresh.exists(), copy.exists()) == (False, True)


def test_copies_of_a_run_that_goes_on_are_not_swept(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    folder = tmp_path / "gallery"
    with Gallery.open(folder, toy) as gallery, Gallery.open(folder, toy) as other:

        def slowly() -> Iterator[ImageFile | Rejection]:
            for file in find([str(pictures({"a": 20}))]):
                yield file
                other.compact()

        report = gallery.enroll_found(slowly(), copy=True)
        assert report.added == 20
        assert gallery.check() == []


def test_a_gallery_never_deletes_the_pictures_it_shares_its_folder_with(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    folder = pictures({"cats": 2, "ab": 2}, folder="images")
    for name in ("index-old.faiss", "index.faiss", ".gallery.db.mine"):
        (tmp_path / name).write_text("somebody's")
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for path in files:
        os.utime(path, (time.time() - 7200,) * 2)
    with Gallery.open(tmp_path, toy) as gallery:
        gallery.enroll([folder])
        gallery.enroll([folder / "cats" / "0.png"], label="cats", copy=True)
        gallery.compact()
        gallery.remove("cats")
        gallery.compact()
    assert [path for path in files if not path.exists()] == []


@pytest.mark.parametrize("count", [2, 0])
def test_embeddings_and_names_must_match_in_number(toy: Encoder, count: int) -> None:
    vectors: npt.NDArray[np.float32] = toy.embed([picture(1)])
    with pytest.raises(UsageError, match="same"):
        enrolment.embedded_items(vectors, ["x"] * count, None)


def answer(image: object, **changes: object) -> bytes:
    fields = {"image": image, "identity": None, "score": 0.1, "matches": []}
    return json.dumps(fields | changes).encode() + b"\n"


def test_images_of_answers_get_the_label_and_whole_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [answer("a.png"), b"\n", answer("/b/\u00e9.png", identity="known")]
    assert read_answers(lines, "answers", " mug ") == [
        ImageFile(str(tmp_path / "a.png"), "mug"),
        ImageFile("/b/\u00e9.png", "mug"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"{", b"3", b"[1]", b"\xff", b"[" * 100_000, b'{"added": 1}', b'{"image": "a.png"}',
        answer(7), answer(None), answer("a\ud800"),
    ],
)  # fmt: skip
def test_what_is_no_answer_of_a_query_is_an_error(line: bytes) -> None:
    with pytest.raises(UsageError, match=r"answers, line 2, is not what `siasearch query"):
        read_answers([answer("a.png"), line], "answers", "mug")


def test_answers_must_not_be_empty_nor_the_label() -> None:
    with pytest.raises(UsageError, match="answers is empty"):
        read_answers([b"\n"], "answers", "mug")
    with pytest.raises(UsageError, match="cannot be an identity's name"):
        read_answers([answer("a.png")], "answers", " ")


def test_a_path_that_can_be_none_is_rejected(tmp_path: Path, toy: Encoder) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        report = gallery.enroll([ImageFile(f"{tmp_path}/a\0b.png", "a")])
    assert "null" in report.rejected[0].reason


def test_a_switch_while_an_enrolment_begins_mixes_no_encoders(
    tmp_path: Path, pictures: Pictures, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = Encoder.open(write_toy_encoder(tmp_path / "twin", threshold=0.8, name="twin",
        weights={"nothing": np.ones(1, np.float32)}), "cpu")  # fmt: skip
    assert (twin.dimension, twin.fingerprint == toy.fingerprint) == (toy.dimension, False)
    folder = pictures({"a": 2, "b": 2})
    read = getattr_static(Gallery, "encoder")
    switched: list[bool] = []

    def then_another_switches(self: Gallery) -> Encoder:
        encoder: Encoder = read.fget(self)
        if self is gallery and not switched:
            switched.append(True)
            with Gallery.open(self.folder) as other:
                assert other.rebuild(twin).switched
        return encoder

    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder / "a"], "a")
        monkeypatch.setattr(Gallery, "encoder", property(then_another_switches))
        with pytest.raises(GalleryMismatch, match="meanwhile"):
            gallery.enroll([folder / "b"], "b")
        assert len(gallery) == 2
        assert gallery.enroll([folder / "b"], "b").added == 2
        assert gallery.check() == []


class Broken:
    """A runtime that gives NaN for one picture and no length for another."""

    device, batch, parallel = "cpu", 16, 1

    def __init__(self, encoder: Encoder, wrong: FloatArray) -> None:
        self._inner = encoder.runtime
        self._nan, self._zero = wrong

    def embed(self, pixels: PixelArray) -> FloatArray:
        return self.describe(pixels)[0]

    def describe(self, pixels: PixelArray) -> tuple[FloatArray, None]:
        vectors = self._inner.embed(pixels).copy()
        vectors[(np.abs(vectors - self._nan) < 1e-3).all(axis=1)] = np.nan
        vectors[(np.abs(vectors - self._zero) < 1e-3).all(axis=1)] = 0
        return vectors, None


def test_a_picture_without_a_finite_embedding_is_rejected(
    tmp_path: Path, pictures: Pictures, toy: Encoder, toy_folder: Path
) -> None:
    folder = pictures({"a": 4})
    broken = Encoder.open(toy_folder, "cpu")
    broken.__dict__["runtime"] = Broken(toy, toy.embed([picture(1), picture(2)]))
    with Gallery.open(tmp_path / "gallery", broken) as gallery:
        report = gallery.enroll([folder], copy=True)
        assert (report.added, len(gallery)) == (2, 2)
        assert [Path(one.path).name for one in report.rejected] == ["1.png", "2.png"]
        assert all("no finite embedding" in one.reason for one in report.rejected)
        assert gallery.check() == []
        assert len(list((tmp_path / "gallery" / "images").rglob("*.*"))) == 2
        answers = dict(gallery.identify_each([folder / "a" / f"{n}.png" for n in range(3)]))
        assert [isinstance(answer, ImageError) for answer in answers.values()] == [
            False, True, True,
        ]  # fmt: skip


def test_a_rebuild_names_the_pictures_without_a_finite_embedding(
    tmp_path: Path, pictures: Pictures, toy: Encoder, coarse: Encoder, coarse_folder: Path
) -> None:
    folder = pictures({"a": 4})
    broken = Encoder.open(coarse_folder, "cpu")
    broken.__dict__["runtime"] = Broken(coarse, coarse.embed([picture(1), picture(2)]))
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder])
        report = gallery.rebuild(broken)
        assert not report.switched
        assert [Path(one.path).name for one in report.missing] == ["1.png", "2.png"]
        assert "no finite embedding" in report.missing[0].reason
        assert gallery.check() == []


def test_an_identity_that_becomes_a_distractor_meanwhile_is_rejected(
    tmp_path: Path, pictures: Pictures, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures({"a": 2, "b": 1})
    decode = Encoder.decode
    done: list[bool] = []

    def slow(self: Encoder, data: bytes) -> npt.NDArray[np.uint8]:
        if not done:
            done.append(True)
            with Gallery.open(tmp_path / "gallery", toy) as other:
                other.enroll([folder / "b" / "0.png"], label="a", distractor=True)
        return decode(self, data)

    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        monkeypatch.setattr(Encoder, "decode", slow)
        report = gallery.enroll([folder / "a"], label="a", copy=True)
        assert report.added == 0
        assert {one.reason for one in report.rejected} == {
            "'a' is enrolled as a distractor: use another name"
        }
        assert gallery.identities() == [("a", 1)]
        assert gallery.distractors() == {"a"}


def test_an_odd_suffix_is_not_kept_in_a_copy_s_name(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    folder = pictures({"a": 3})
    names = ["0." + "x" * 200, "1.PNG", "2.p\u00e4 ng"]
    for number, name in enumerate(names):
        (folder / "a" / f"{number}.png").rename(folder / "a" / name)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        paths = [ImageFile(str(folder / "a" / name), "a") for name in names]
        assert gallery.enroll(paths, copy=True).added == 3
        copies = [Path(item.copy or "").suffix for item in gallery.items("a")]
        assert copies == ["", ".png", ""]
        assert gallery.check() == []


def test_an_interrupted_enrolment_does_not_compact_first(
    tmp_path: Path, pictures: Pictures, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "COMMIT_SECONDS", 0.0)
    folder = pictures({"a": 60})

    def interrupt(progress: Progress) -> None:
        if progress.done >= 32:
            raise KeyboardInterrupt

    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        with pytest.raises(KeyboardInterrupt):
            gallery.enroll([folder], watch=interrupt)
        assert len(gallery) >= 32
        assert gallery.info().index is None
        gallery.enroll([folder])
        assert gallery.info().index is not None


def test_the_bytes_of_a_gallery_are_its_own(
    tmp_path: Path, pictures: Pictures, toy: Encoder
) -> None:
    folder = pictures({"cats": 2, "ab": 2}, folder="images")
    (tmp_path / "film.mkv").write_bytes(bytes(1_000_000))
    with Gallery.open(tmp_path, toy) as gallery:
        gallery.enroll([folder], copy=True)
        gallery.compact()
        ours = [tmp_path / "gallery.db", tmp_path / str(gallery.info().index)]
        ours += [tmp_path / str(item.copy) for item in gallery.items("cats")]
        ours += [tmp_path / str(item.copy) for item in gallery.items("ab")]
        assert gallery.info().bytes == sum(path.stat().st_size for path in ours)
