from __future__ import annotations

import json
import math
import operator
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from siamese_search.errors import GalleryError, UsageError
from siamese_search.index import Previous, SearchIndex, Wanted, recipes, search, sha256, write_index
from siamese_search.index.segments import Tuning

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def unit(random: np.random.Generator, rows: int, dimension: int = 24) -> Floats:
    vectors = random.normal(size=(rows, dimension))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def brute_force(items: Integers, vectors: Floats, query: Floats, k: int) -> list[tuple[int, float]]:
    values = query.tolist()
    scored = [
        (-np.float32(math.fsum(map(operator.mul, vector, values))), item)
        for item, vector in zip(items.tolist(), vectors.tolist(), strict=True)
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


def test_cores_share_a_scan_without_changing_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(7)
    items, vectors, queries = np.arange(500), unit(random, 500), unit(random, 9)
    write_index(tmp_path / "i", 24, [(items, vectors)])
    index = SearchIndex.read(tmp_path / "i", 24)
    index.remove(items[::5])
    monkeypatch.setattr("siamese_search.index.segments.cores", lambda: 3)
    alone = [answers(index, query[None], 7, items[100:]) for query in queries]
    monkeypatch.setattr("siamese_search.index.segments.SHARED_BYTES", 0)
    assert [answers(index, query[None], 7, items[100:]) for query in queries] == alone


@pytest.mark.parametrize("recipe", ["IVF16,PQ12x4fs", "PCAR12,IVF16,PQ6x4fs", "IVF16,SQ8"])
def test_cores_share_the_lists_of_a_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    vectors = clustered(np.random.default_rng(8), 3000)
    write_index(tmp_path / "i", 24, [(np.arange(3000), vectors)], Wanted(recipe, 0.95))
    found = []
    for count in (1, 3):
        monkeypatch.setattr("siamese_search.index.segments.all_cores", lambda count=count: count)
        index = SearchIndex.read(tmp_path / "i", 24)
        found.append(np.concatenate([index.search(query[None], 9)[0] for query in vectors[::90]]))
    assert np.mean(found[0] == found[1]) > 0.97


def test_an_empty_index_answers_with_padding() -> None:
    items, scores = SearchIndex(24).search(unit(np.random.default_rng(0), 2), 3)
    assert (items == -1).all()
    assert (scores == -np.inf).all()


def test_write_returns_the_checksum_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(0), 10)
    written = write_index(
        tmp_path / "i.faiss", 24, [(np.arange(5), vectors[:5]), (np.arange(5, 10), vectors[5:])]
    )
    assert (written.sha256, written.items) == (sha256(tmp_path / "i.faiss"), 10)
    assert (written.recipe, written.recall) == ("SQfp16", None)
    assert [path.name for path in tmp_path.iterdir()] == ["i.faiss"]


def test_an_index_file_is_a_safetensors_file(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    items, vectors = np.arange(3, 13), unit(np.random.default_rng(0), 10)
    write_index(tmp_path / "i", 24, [(items, vectors)])
    tensors = safetensors.load_file(tmp_path / "i")
    assert set(tensors) == {"vectors", "items", "index"}
    assert (tensors["vectors"] == vectors).all()
    assert tensors["items"].tolist() == items.tolist()


@pytest.mark.parametrize(
    ("name", "value"),
    [("effort", 0), ("effort", "x"), ("spare", -1), ("error", "x"), ("trained", None)],
)
def test_a_file_that_says_nonsense_of_itself_is_refused(
    tmp_path: Path, name: str, value: object
) -> None:
    write_index(tmp_path / "i", 24, [(np.arange(9), unit(np.random.default_rng(0), 9))])
    content = (tmp_path / "i").read_bytes()
    header = json.loads(content[8:4096])
    header["__metadata__"][name] = json.dumps(value)
    changed = content[:8] + json.dumps(header).encode().ljust(4088) + content[4096:]
    (tmp_path / "i").write_bytes(changed)
    with pytest.raises(GalleryError, match="no index of this format"):
        SearchIndex.read(tmp_path / "i", 24)


def golden_vectors(count: int) -> Floats:
    """What the files in ``golden/`` hold, under the numbers 3, 6, 9 and so on."""
    rows, columns = np.arange(1, count + 1)[:, None], np.arange(1, 13)
    vectors = np.sin(rows * columns * 0.37) + np.cos(rows * 0.11 + columns)
    unit: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.mark.parametrize(
    ("name", "count", "recipe"), [("exact", 40, "SQfp16"), ("lists", 300, "PCAR8,IVF4,PQ4x4fs")]
)
def test_a_stored_index_file_opens_and_answers(name: str, count: int, recipe: str) -> None:
    index = SearchIndex.read(Path(__file__).parent / "golden" / f"index-{name}.faiss", 12)
    items, vectors = 3 * np.arange(1, count + 1), golden_vectors(count)
    assert index.items.tolist() == items.tolist()
    assert np.abs(index.vectors(items) - vectors).max() < 1e-6
    assert index.base is not None
    assert index.base.tuning.recipe == recipe
    allowed = items[::3]
    for query, found, filtered in zip(
        vectors[::20], answers(index, vectors[::20], 4), answers(index, vectors[::20], 4, allowed),
        strict=True,
    ):  # fmt: skip
        exact = brute_force(items, vectors, query, 4)
        assert found[0][0] == exact[0][0]
        assert recipe != "SQfp16" or [item for item, _ in found] == [item for item, _ in exact]
        exact = brute_force(allowed, vectors[::3], query, 4)
        assert [item for item, _ in filtered] == [item for item, _ in exact]
        assert [score for _, score in filtered] == pytest.approx([s for _, s in exact], abs=1e-6)


@pytest.mark.parametrize("content", [b"", b"x", bytes(5000), b"\x10" + bytes(7) + b"{}" * 3000])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(GalleryError, match="no index of this format"):
        SearchIndex.read(tmp_path / "other", 24)


def test_an_index_of_another_dimension_is_refused(tmp_path: Path) -> None:
    write_index(tmp_path / "i", 24, [(np.arange(9), unit(np.random.default_rng(0), 9))])
    with pytest.raises(GalleryError, match="no index of this format"):
        SearchIndex.read(tmp_path / "i", 25)


def test_an_empty_index_file_can_be_searched(tmp_path: Path) -> None:
    write_index(tmp_path / "i", 24, [])
    index = SearchIndex.read(tmp_path / "i", 24)
    assert answers(index, unit(np.random.default_rng(0), 2), 3) == [[], []]


def test_half_precision_is_off_by_no_more_than_is_said(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    vectors, queries = unit(random, 500), unit(random, 3)
    write_index(tmp_path / "i", 24, [(np.arange(500), vectors)])
    base = SearchIndex.read(tmp_path / "i", 24).base
    assert base is not None
    assert base.tuning.error is not None
    scores, positions = base.index.search(queries, 500)
    true = np.take_along_axis(queries @ vectors.T, positions, axis=1)
    assert np.abs(scores - true).max() <= base.tuning.error < 1e-3
    found = base.candidates(queries, 100, None)
    assert found.items.shape[1] < 400
    for query, items, rest in zip(queries, found.items, found.rest, strict=True):
        assert (np.delete(vectors, items, axis=0) @ query).max() <= rest


def clustered(random: np.random.Generator, rows: int) -> Floats:
    """Ten to an identity, as galleries have them."""
    vectors = unit(random, rows // 10).repeat(10, axis=0) + 0.5 * unit(random, rows)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", ["IVF16,PQ12x4fs", "HNSW16", "IVF16,SQ8", "OPQ4_8,IVF16,PQ4x4fs"]
)
def test_a_recipe_reaches_the_recall_that_was_asked_for(tmp_path: Path, recipe: str) -> None:
    random = np.random.default_rng(3)
    vectors = clustered(random, 2000)
    written = write_index(tmp_path / "i", 24, [(np.arange(2000), vectors)], Wanted(recipe, 0.97))
    assert written.recipe == recipe
    assert written.recall is not None
    assert written.recall >= 0.97
    index = SearchIndex.read(tmp_path / "i", 24)
    queries = vectors[::50] + 0.3 * unit(random, 40)  # further pictures of who is enrolled
    exact = [[item for item, _ in brute_force(np.arange(2000), vectors, q, 10)] for q in queries]
    found = index.search(queries, 10)[0].tolist()
    assert np.mean([len(set(a) & set(b)) for a, b in zip(exact, found, strict=True)]) >= 9.3


def test_a_recipe_keeps_filters_removals_and_the_delta_exact(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    vectors = clustered(random, 3000)
    write_index(tmp_path / "i", 24, [(np.arange(2500), vectors[:2500])], Wanted("IVF16,PQ12x4fs"))
    index = SearchIndex.read(tmp_path / "i", 24)
    index.add(np.arange(2500, 3000), vectors[2500:])
    index.remove(np.arange(0, 3000, 7))
    few = np.setdiff1d(np.arange(2000, 2600), np.arange(0, 3000, 7))
    many = np.setdiff1d(np.arange(300, 3000), np.arange(0, 3000, 7))
    rest = np.setdiff1d(np.arange(3000), np.arange(0, 3000, 7))
    queries = vectors[2400:2600:20]
    for query, row in zip(queries, answers(index, queries, 8, np.arange(2000, 2600)), strict=True):
        expected = brute_force(few, vectors[few], query, 8)
        assert [item for item, _ in row] == [item for item, _ in expected]
    for query, row in zip(queries, answers(index, queries, 8, np.arange(300, 3000)), strict=True):
        expected = brute_force(many, vectors[many], query, 8)
        assert [item for item, _ in row] == [item for item, _ in expected]
    for query, row in zip(queries, answers(index, queries, 8), strict=True):
        expected = brute_force(rest, vectors[rest], query, 8)
        assert len({item for item, _ in row} & {item for item, _ in expected}) >= 7
        assert {item for item, _ in row} <= set(rest.tolist())


def test_a_recipe_always_gives_as_many_as_there_are(tmp_path: Path) -> None:
    vectors = clustered(np.random.default_rng(5), 1000)
    write_index(tmp_path / "i", 24, [(np.arange(1000), vectors)], Wanted("IVF16,PQ12x4fs", 0.5))
    found = SearchIndex.read(tmp_path / "i", 24).search(vectors[:3], 1000)[0]
    assert [sorted(row) for row in found.tolist()] == [list(range(1000))] * 3


def earlier(path: Path, vectors: Floats, wanted: Wanted) -> Previous:
    """An index file that another goes on from."""
    written = write_index(path, vectors.shape[1], [(np.arange(len(vectors)), vectors)], wanted)
    return Previous(path, written.sha256)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [np.arange(3000), np.arange(3, 3000)])
def test_what_a_recipe_has_learned_is_used_again(tmp_path: Path, kept: Integers) -> None:
    vectors = clustered(np.random.default_rng(6), 3000)
    wanted = Wanted("IVF16,PQ12x4fs", 0.95)
    old = earlier(tmp_path / "old", vectors[:2000], wanted)
    before = SearchIndex.read(tmp_path / "old", 24).base
    write_index(tmp_path / "new", 24, [(kept, vectors[kept])], wanted, old)
    index = SearchIndex.read(tmp_path / "new", 24)
    assert index.base is not None
    assert before is not None
    assert index.base.tuning.trained == before.tuning.trained == 2000
    found = index.search(vectors[kept], 1)[0][:, 0]
    assert np.mean(found == kept) > 0.98


def test_a_lower_recall_is_tuned_to_although_an_earlier_index_reached_more(tmp_path: Path) -> None:
    vectors = clustered(np.random.default_rng(6), 3000)
    high, low = Wanted("IVF16,PQ12x4fs", 0.99), Wanted("IVF16,PQ12x4fs", 0.6)
    old = earlier(tmp_path / "old", vectors[:2000], high)
    efforts = []
    for name, wanted, previous in (("same", high, old), ("less", low, old), ("anew", low, None)):
        path = tmp_path / name
        written = write_index(path, 24, [(np.arange(3000), vectors)], wanted, previous)
        base = SearchIndex.read(path, 24).base
        assert base is not None
        assert (written.recall or 0) >= wanted.recall
        efforts.append(base.tuning.effort or 0)
    assert efforts[0] > efforts[1] == efforts[2]


@pytest.mark.parametrize(
    "recipe",
    ["nonsense", "", "HNSW1", "IVF0,Flat", "IVF16_HNSW0,Flat", "PQ12x0", "IVF16,PQ12x4fs_0"],
)
def test_unknown_recipes_are_said(recipe: str) -> None:
    with pytest.raises(UsageError, match=f"FAISS makes no index '{recipe}'.*: take auto"):
        recipes.checked(Wanted(recipe), 24)


def test_an_unusable_recall_is_said() -> None:
    with pytest.raises(UsageError, match="share"):
        recipes.checked(Wanted(recall=1.2), 24)


@pytest.mark.parametrize("recipe", ["IVF2000,Flat", "IDMap,Flat", "ZnLattice2x10_2"])
def test_a_recipe_that_does_not_work_with_the_items_is_said(tmp_path: Path, recipe: str) -> None:
    items, vectors = np.arange(1000), unit(np.random.default_rng(0), 1000)
    with pytest.raises(UsageError, match=r"1000 items .*: take auto|not searched: take auto"):
        write_index(tmp_path / "i", 24, [(items, vectors)], Wanted(recipe))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [0, 1, 999])
@pytest.mark.parametrize("recipe", ["HNSW32", "IVF16,PQ12x4fs"])
def test_few_items_have_an_exact_index(tmp_path: Path, recipe: str, count: int) -> None:
    items, vectors = np.arange(count), unit(np.random.default_rng(0), count)
    written = write_index(tmp_path / "i", 24, [(items, vectors)], Wanted(recipe))
    assert (written.recipe, written.recall) == ("SQfp16", None)


def test_recipes_follow_size_dimension_and_memory() -> None:
    assert recipes.choose(100_000, 512) == "SQfp16"
    assert recipes.choose(1_000_000, 512, memory=1 << 30) == "PCAR256,IVF8192,PQ128x4fs"
    assert recipes.choose(1_000_000, 256, memory=1 << 30) == "IVF8192,PQ128x4fs"
    assert recipes.choose(1_000_000, 509, memory=1 << 30) == "PCAR256,IVF8192,PQ128x4fs"
    assert recipes.choose(1_000_000, 510, memory=40_000_000) == "PCAR128,IVF8192,PQ64x4fs"
    assert recipes.choose(200_000, 30, memory=1 << 30) == "PCAR28,IVF4096,PQ14x4fs"


@pytest.mark.parametrize("dimension", [8, 30, 100, 255, 512, 1280])
@pytest.mark.parametrize("memory", [1 << 20, 1 << 26, 1 << 30])
def test_what_auto_chooses_can_be_made(dimension: int, memory: int) -> None:
    recipe = recipes.choose(6_000_000, dimension, memory)
    assert recipes.made(recipe, dimension).d == dimension


@pytest.mark.slow
def test_an_index_that_does_not_fit_what_came_is_trained_anew(tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    vectors = np.zeros((3500, 24), np.float32)
    vectors[:2000, :12] = clustered(random, 2000)[:, :12]
    vectors[2000:, 12:] = clustered(random, 1500)[:, 12:]  # of which the first show nothing
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    wanted = Wanted("PCAR12,IVF64,PQ6x4fs", 0.95)
    first = write_index(tmp_path / "old", 24, [(np.arange(2000), vectors[:2000])], wanted)
    assert (first.recall or 0) >= 0.95
    old = Previous(tmp_path / "old", first.sha256)
    write_index(tmp_path / "new", 24, [(np.arange(3500), vectors)], wanted, old)
    base = SearchIndex.read(tmp_path / "new", 24).base
    assert base is not None
    assert base.tuning.trained == 3500
    assert (base.tuning.recall or 0) >= 0.95


def test_auto_is_exact_where_nothing_else_finds_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recipes, "EXACT_AT_MOST", 1000)
    monkeypatch.setattr(recipes, "SPARES", (1,))
    vectors = unit(np.random.default_rng(9), 1500)
    written = write_index(tmp_path / "i", 24, [(np.arange(1500), vectors)], Wanted(recall=1.0))
    assert (written.recipe, written.recall) == ("SQfp16", None)
    assert "all items are searched instead" in caplog.text


def test_a_graph_that_cannot_grow_is_made_anew(tmp_path: Path) -> None:
    vectors = clustered(np.random.default_rng(10), 1500)
    wanted = Wanted("NSG16,Flat", 0.9)
    old = earlier(tmp_path / "old", vectors[:1200], wanted)
    write_index(tmp_path / "new", 24, [(np.arange(1500), vectors)], wanted, old)
    index = SearchIndex.read(tmp_path / "new", 24)
    assert np.mean(index.search(vectors, 1)[0][:, 0] == np.arange(1500)) > 0.98


def test_many_queries_are_searched_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = clustered(np.random.default_rng(11), 2000)
    write_index(tmp_path / "i", 24, [(np.arange(2000), vectors)], Wanted("IVF16,PQ12x4fs"))
    index = SearchIndex.read(tmp_path / "i", 24)
    whole = index.search(vectors[:100], 5)
    monkeypatch.setattr(search, "CELLS", 200)
    parts = index.search(vectors[:100], 5)
    assert np.array_equal(whole[0], parts[0])
    assert np.array_equal(whole[1], parts[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("recipe", ["SQfp16", "IVF16,PQ12x4fs"])
def test_a_forked_process_can_search_batches(tmp_path: Path, recipe: str) -> None:
    script = (
        "import os, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from siamese_search.index import SearchIndex, Wanted, write_index\n"
        "vectors = np.random.default_rng(0).normal(size=(1500, 24)).astype(np.float32)\n"
        "vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)\n"
        "path = Path(sys.argv[1])\n"
        "write_index(path, 24, [(np.arange(1500), vectors)], Wanted(sys.argv[2], 0.5))\n"
        "SearchIndex.read(path, 24).search(vectors[:200], 5)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    SearchIndex.read(path, 24).search(vectors[:200], 5)\n"
        "    os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "i"), recipe]
    assert subprocess.run(command, timeout=60).returncode == 0


def test_a_recall_that_is_called_reached_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of few probes, whose recall is known within a wide error only."""
    monkeypatch.setattr(recipes, "PROBES", 50)
    vectors = clustered(np.random.default_rng(3), 2000)
    index = recipes.made("IVF16,PQ12x4fs", 24)
    recipes._train(index, vectors, 0)
    index.add(vectors)
    untuned = Tuning("IVF16,PQ12x4fs", 2000)
    for target in np.linspace(0.5, 0.98, 13).tolist():
        found, reached = recipes.tuned(index, vectors, untuned, target)
        assert not reached or (found.recall or 0) >= target
