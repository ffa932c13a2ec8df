"""What a gallery does about an index file that is damaged, of a newer siasearch, or done with."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
from conftest import picture, write_toy_encoder

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray
from siamese_search.gallery import snapshots
from siamese_search.gallery.compaction import Compaction
from siamese_search.gallery.verifying import Verification
from siamese_search.index import FaissEngine, SearchIndex, recipes, sha256

ITEMS = 1200
HEADER = 4096  # where the vectors begin
Answer = list[tuple[str | None, float | None]]


@pytest.fixture(autouse=True)
def as_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are not read in full to open them, and an index of 1,200 is not exact."""
    monkeypatch.setattr(snapshots, "SMALL_BYTES", 0)
    monkeypatch.setattr(recipes, "EXACT_AT_MOST", 1000)


@pytest.fixture
def unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as nobody has found out that a file is damaged."""
    monkeypatch.setattr(Verification, "_run", lambda self: None)


def clustered(dimension: int, count: int = ITEMS) -> tuple[FloatArray, list[str]]:
    """Six to an identity."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(count // 6, dimension)).repeat(6, axis=0)
    vectors += 0.4 * random.normal(size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), [f"id{n // 6}" for n in range(count)]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compacted gallery and its encoder."""
    folder = tmp_path_factory.mktemp("original")
    toy = Encoder.open(write_toy_encoder(folder / "toy"), "cpu")
    vectors, names = clustered(toy.dimension)
    with pytest.MonkeyPatch.context() as patch, Gallery.open(folder / "gallery", toy) as gallery:
        patch.setattr(recipes, "EXACT_AT_MOST", 1000)
        gallery.enroll_embeddings(vectors, names)
        assert gallery.info().recipe == "PCAR48,IVF256,PQ24x4fs"
    return folder


@pytest.fixture
def made(original: Path, tmp_path: Path, toy: Encoder) -> tuple[Path, FloatArray, list[str]]:
    """A gallery of its own, with its vectors and names; items are numbered from 1."""
    folder = tmp_path / "gallery"
    shutil.copytree(original / "gallery", folder)
    state = index_file(folder).stat()
    db = sqlite3.connect(folder / "gallery.db")
    with db:  # as if it had been written here
        stamp = state.st_mtime_ns, state.st_ino
        db.execute("UPDATE snapshots SET mtime_ns = ?, inode = ?", stamp)
    db.close()
    return folder, *clustered(toy.dimension)


def index_file(folder: Path) -> Path:
    (path,) = folder.glob("index-*.faiss")
    return path


def overwrite(path: Path, offset: int, content: bytes) -> None:
    """As a failing disk does it: size, time and inode stay."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def longest_lists(path: Path, dimension: int, count: int) -> list[tuple[int, int]]:
    """Where in a file the numbers of the longest inverted lists stand, and their bytes."""
    base = SearchIndex.read(path, dimension).base
    assert base is not None
    lists = faiss.extract_index_ivf(base.index).invlists
    sizes = [lists.list_size(number) for number in range(lists.nlist)]
    content, places = path.read_bytes(), []
    for number in sorted(range(lists.nlist), key=lambda number: -sizes[number])[:count]:
        stored = faiss.rev_swig_ptr(lists.get_ids(number), sizes[number]).tobytes()
        places.append((content.index(stored), len(stored)))
    return places


def by_loop(vectors: FloatArray, query: FloatArray, k: int) -> list[tuple[int, float]]:
    """The k nearest items, numbered from 1, with their cosines."""
    cosines = (vectors.astype(np.float64) @ query).tolist()
    ranked = sorted(range(len(vectors)), key=lambda row: (-cosines[row], row))
    return [(row + 1, cosines[row]) for row in ranked[:k]]


def test_a_large_file_is_verified_while_it_answers_and_then_no_more_if_it_is_damaged(
    made: tuple[Path, FloatArray, list[str]], toy: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    folder, vectors, _ = made
    with Gallery.open(folder, toy) as gallery:
        assert gallery._snapshots.verified()
        expected = gallery.identify_embeddings(vectors[:50], rule="best")
    path = index_file(folder)
    # Somebody else's vectors, as long as they should be: no answer looks impossible.
    overwrite(path, HEADER, np.roll(vectors[:60], 7, axis=0).astype("<f4").tobytes())
    with Gallery.open(folder, toy) as gallery:
        gallery._snapshots.verified()  # until that is known
        answers = gallery.identify_embeddings(vectors[:50], rule="best")
        assert [answer.identity for answer in answers] == [answer.identity for answer in expected]
        assert caplog.text.count(f"{path} is damaged (wrong checksum)") == 1
        assert gallery.check() == [f"{path} is damaged (wrong checksum)"]
        gallery.rebuild()
        assert gallery._snapshots.verified()
        assert gallery.check() == []


@pytest.mark.slow
@pytest.mark.usefixtures("unverified")
@pytest.mark.parametrize("way", ["compact", "enrol and compact", "rebuild"])
def test_what_a_damaged_file_lost_does_not_stay_lost(
    way: str, made: tuple[Path, FloatArray, list[str]], toy: Encoder
) -> None:
    folder, vectors, _ = made
    with Gallery.open(folder, toy) as gallery:
        gallery.compact(recall=0.9)  # which an index without some of its items reaches as well
        sound = gallery.search(vectors, 1)[0][:, 0] == np.arange(1, ITEMS + 1)
    path = index_file(folder)
    for offset, size in longest_lists(path, vectors.shape[1], 3):
        overwrite(path, offset, bytes(size))
    with Gallery.open(folder, toy) as gallery:
        found = gallery.search(vectors, 1)[0][:, 0] == np.arange(1, ITEMS + 1)
        lost = sound & ~found
        assert 0 < lost.sum() < 60
        assert gallery.check() == [f"{path} is damaged (wrong checksum)"]
        if way == "enrol and compact":
            more, names = clustered(toy.dimension, ITEMS + 60)
            gallery.enroll_embeddings(more[-60:], names[-60:])
        (gallery.rebuild if way == "rebuild" else gallery.compact)()
        assert gallery.check() == []
        items = np.flatnonzero(lost) + 1
        assert gallery.search(vectors[lost], 1)[0][:, 0].tolist() == items.tolist()


@pytest.mark.usefixtures("unverified")
@pytest.mark.parametrize("factor", [3.0, 1.01, np.nan, np.inf])
def test_a_cosine_that_is_none_is_never_given(
    factor: float,
    made: tuple[Path, FloatArray, list[str]],
    toy: Encoder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, vectors, _ = made
    path = index_file(folder)
    overwrite(path, HEADER, (vectors[0] * np.float32(factor)).astype("<f4").tobytes())
    with Gallery.open(folder, toy) as gallery:
        for _ in range(2):
            items, scores = gallery.search(vectors[:3], 4)
            for row, query in enumerate(vectors[:3]):
                expected = by_loop(vectors, query, 4)
                assert items[row].tolist() == [item for item, _ in expected]
                assert scores[row] == pytest.approx([score for _, score in expected], abs=1e-6)
            answer = gallery.identify_embeddings(vectors[:1])[0]
            assert answer.identity == "id0"
            assert -1 <= (answer.score or 0) <= 1.00001
        assert caplog.text.count(f"{path} is damaged") == 1
        assert gallery.check() == [f"{path} is damaged (wrong checksum)"]
        # What comes and goes afterwards is found as ever.
        (number,) = gallery.enroll_embeddings(-vectors[:1], ["against"])
        assert gallery.search(-vectors[:1], 1)[0].tolist() == [[number]]
        gallery.remove("id0")
        assert gallery.search(vectors[:1], 1)[0][0, 0] > 6
        gallery.rebuild()
        assert gallery.check() == []


@pytest.mark.usefixtures("unverified")
def test_an_identitys_items_are_looked_at_too(
    made: tuple[Path, FloatArray, list[str]], toy: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    folder, vectors, _ = made
    with Gallery.open(folder, toy) as gallery:
        expected = gallery.identify_embeddings(vectors[:1], rule="prototype")[0]
    path = index_file(folder)
    # The last of its items, so far off that no search finds it.
    overwrite(path, HEADER + 5 * vectors[0].nbytes, (-9 * vectors[0]).astype("<f4").tobytes())
    with Gallery.open(folder, toy) as gallery:
        answer = gallery.identify_embeddings(vectors[:1], rule="prototype")[0]
    assert answer.identity == expected.identity
    assert answer.score == pytest.approx(expected.score, abs=1e-6)
    assert f"{path} is damaged" in caplog.text


def test_an_embedding_that_the_database_holds_wrongly_is_left_out_and_said(
    made: tuple[Path, FloatArray, list[str]], toy: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    """As earlier releases stored it where a runtime gave it."""
    folder, vectors, _ = made
    with Gallery.open(folder, toy) as gallery:
        catalog = gallery._catalog
        catalog.store(catalog.state().generation, [7], 2 * vectors[6:7])
        items, scores = gallery.search(vectors[6:7], 3)
        rest = np.delete(vectors, 6, axis=0)
        expected = [(item + (item > 6), score) for item, score in by_loop(rest, vectors[6], 3)]
        assert items[0].tolist() == [item for item, _ in expected]
        assert scores[0] == pytest.approx([score for _, score in expected], abs=1e-6)
        assert "1 embeddings, of item 7 for one, are not of unit length" in caplog.text
        assert any("item 7 is not of unit length" in fault for fault in gallery.check())


def as_newer(path: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    """Change an index file's header, and what the database says of the file."""
    content = path.read_bytes()
    header = json.loads(content[8:HEADER])
    change(header)
    path.write_bytes(content[:8] + json.dumps(header).encode().ljust(HEADER - 8) + content[HEADER:])
    db = sqlite3.connect(path.with_name("gallery.db"))
    with db:
        db.execute("UPDATE snapshots SET sha256 = ?", (sha256(path),))
    db.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda header: header["__metadata__"].update(format="2"), "of format 2"),
        (lambda header: header["__metadata__"].update(graph="1"), "with 'graph'"),
        (lambda header: header.update(norms=header["items"]), "with 'norms'"),
    ],
)
def test_an_index_file_of_a_newer_siasearch_is_said_and_not_used(
    change: Callable[[dict[str, dict[str, object]]], object],
    said: str,
    made: tuple[Path, FloatArray, list[str]],
    toy: Encoder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, vectors, _ = made
    path = index_file(folder)
    as_newer(path, change)
    with Gallery.open(folder, toy) as gallery:
        (fault,) = gallery.check()
        assert said in fault
        assert "upgrade it" in fault
        assert (gallery.search(vectors, 1)[0][:, 0] == np.arange(1, ITEMS + 1)).all()
        assert said in caplog.text
        gallery.compact()
        assert gallery.check() == []


def held(folder: Path) -> set[str]:
    """The index files that this process has open or mapped."""
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()
    paths = {found.path for found in process.open_files()}
    if hasattr(process, "memory_maps"):
        paths |= {found.path for found in process.memory_maps()}
    return {path for path in paths if path.startswith(str(folder)) and ".faiss" in path}


def test_a_closed_gallery_holds_no_file(
    made: tuple[Path, FloatArray, list[str]], toy: Encoder
) -> None:
    folder, vectors, _ = made
    gallery = Gallery.open(folder, toy)
    gallery.identify_embeddings(vectors[:20])
    assert held(folder) == {str(index_file(folder))}
    gallery.close()
    assert held(folder) == set()


@pytest.mark.parametrize("whose", ["its own", "another's"])
def test_an_index_that_was_replaced_is_let_go(
    whose: str, made: tuple[Path, FloatArray, list[str]], toy: Encoder
) -> None:
    folder, vectors, _ = made
    with Gallery.open(folder, toy) as gallery, Gallery.open(folder, toy) as other:
        gallery.identify_embeddings(vectors[:20])
        if whose == "its own":
            gallery.compact()
            assert held(folder) == set()  # not only at the next search
        else:
            other.compact()
        gallery.identify_embeddings(vectors[:20], rule="best")
        assert held(folder) == {str(index_file(folder))}


def test_a_catch_up_that_fails_half_way_leaves_nothing_half_done(
    made: tuple[Path, FloatArray, list[str]], toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, vectors, names = made

    def failing(*_: object) -> None:
        raise MemoryError

    with Gallery.open(folder, toy) as gallery:
        gallery.identify_embeddings(vectors[:20])
        gallery.enroll_embeddings(-vectors[:5], names[:5])
        with monkeypatch.context() as patched:
            patched.setattr(SearchIndex, "remove", failing)
            with pytest.raises(MemoryError):
                gallery.search(vectors[:1], 1)
            assert held(folder) == set()
        assert gallery.search(-vectors[:5], 1)[0][:, 0].tolist() == list(
            range(ITEMS + 1, ITEMS + 6)
        )


def test_an_engine_that_is_given_is_used(made: tuple[Path, FloatArray, list[str]]) -> None:
    folder, _, _ = made
    opened = []

    class Noting(FaissEngine):
        def read(self, path: Path, dimension: int) -> SearchIndex:
            opened.append(path)
            return super().read(path, dimension)

    with Gallery.open(folder) as gallery:
        own = snapshots.Snapshots(folder, gallery._catalog, Noting())
        with own.searching() as view:
            assert len(view.index) == ITEMS
        own.release()
    assert opened == [index_file(folder)]


def test_embeddings_that_are_stored_anew_are_answered_by(
    tmp_path: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Compaction, "compact_if_due", lambda *_, **__: False)  # no index file
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, path in enumerate(paths):
        picture(seed).save(path)
    vectors = toy.embed(paths)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll(paths)
        assert gallery.search(vectors[:1], 1)[0].tolist() == [[1]]
        catalog = gallery._catalog
        catalog.store(catalog.state().generation, [1, 2], vectors[::-1])
        assert gallery.search(vectors[:1], 1)[0].tolist() == [[2]]
