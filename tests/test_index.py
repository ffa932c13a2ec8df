from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from siamese_search.errors import GalleryError
from siamese_search.index import SearchIndex, sha256, write_index

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def unit(random: np.random.Generator, rows: int, dimension: int = 24) -> Floats:
    vectors = random.normal(size=(rows, dimension))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def brute_force(items: Integers, vectors: Floats, query: Floats, k: int) -> list[tuple[int, float]]:
    scored = [
        (-np.float32(sum(float(a) * float(b) for a, b in zip(vector, query, strict=True))), item)
        for item, vector in zip(items.tolist(), vectors, strict=True)
    ]
    return [(item, float(-score)) for score, item in sorted(scored)[:k]]


def answers(
    index: SearchIndex, queries: Floats, k: int, allowed: Integers | None = None
) -> list[list[tuple[int, float]]]:
    items, scores = index.search(queries, k, allowed)
    assert items.dtype == np.int64
    assert scores.dtype == np.float32
    assert items.shape == scores.shape == (len(queries), k)
    return [
        [(item, score) for item, score in zip(row, values, strict=True) if item >= 0]
        for row, values in zip(items.tolist(), scores.tolist(), strict=True)
    ]


@pytest.mark.parametrize("in_base", [0, 1, 150, 300])
@pytest.mark.parametrize("with_removals", [False, True])
@pytest.mark.parametrize("with_filter", [False, True])
def test_answers_are_those_of_brute_force_however_items_are_spread(
    tmp_path: Path, in_base: int, with_removals: bool, with_filter: bool
) -> None:
    random = np.random.default_rng(in_base)
    items = np.cumsum(random.integers(1, 4, 300))
    vectors = unit(random, 300)
    vectors[250:] = vectors[10]  # 51 equal scores, more than any spare candidates
    write_index(tmp_path / "base", 24, [(items[:in_base], vectors[:in_base])])
    index = SearchIndex.read(tmp_path / "base", 24)
    for start in range(in_base, 300, 40):
        index.add(items[start : start + 40], vectors[start : start + 40])
    kept = np.ones(300, bool)
    if with_removals:
        kept[random.choice(300, 60, replace=False)] = False
        index.remove(items[~kept][:30])
        index.remove(items[~kept])  # again, with ones that are gone already
        index.remove(np.array([10_000]))
    allowed = None
    if with_filter:
        chosen = random.random(300) < 0.5
        allowed = items[chosen]
        searched = kept & chosen
    else:
        searched = kept
    assert len(index) == kept.sum()
    many = np.concatenate([unit(random, 24), vectors[10:11]])
    few = many[-3:]
    for k, queries in ((1, many), (7, few), (60, few), (60, many), (400, few)):
        for query, row in zip(queries, answers(index, queries, k, allowed), strict=True):
            expected = brute_force(items[searched], vectors[searched], query, k)
            assert [item for item, _ in row] == [item for item, _ in expected]
            assert [score for _, score in row] == pytest.approx([s for _, s in expected], abs=1e-7)


def test_scores_do_not_depend_on_the_segment_to_the_last_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    items, vectors, queries = np.arange(1, 201), unit(random, 200), unit(random, 30)
    write_index(tmp_path / "all", 24, [(items, vectors)])
    write_index(tmp_path / "half", 24, [(items[:100], vectors[:100])])
    whole, split = SearchIndex.read(tmp_path / "all", 24), SearchIndex.read(tmp_path / "half", 24)
    split.add(items[100:], vectors[100:])
    assert answers(whole, queries, 10) == answers(split, queries, 10)


def test_an_empty_index_answers_with_padding() -> None:
    items, scores = SearchIndex(24).search(unit(np.random.default_rng(0), 2), 3)
    assert (items == -1).all()
    assert (scores == -np.inf).all()


def test_write_returns_the_checksum_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(0), 10)
    checksum, count = write_index(
        tmp_path / "i.faiss", 24, [(np.arange(5), vectors[:5]), (np.arange(5, 10), vectors[5:])]
    )
    assert (checksum, count) == (sha256(tmp_path / "i.faiss"), 10)
    assert [path.name for path in tmp_path.iterdir()] == ["i.faiss"]


def test_a_faiss_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    for other in (
        faiss.IndexFlatL2(24),
        faiss.IndexFlatIP(24),
        faiss.IndexIDMap(faiss.IndexFlatL2(24)),
        faiss.IndexIDMap(faiss.IndexFlatIP(8)),
    ):
        faiss.write_index(other, str(tmp_path / "other"))
        with pytest.raises(GalleryError, match="no index of this format"):
            SearchIndex.read(tmp_path / "other", 24)
