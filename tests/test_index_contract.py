"""What any index must do that a gallery searches by, against a slow loop.

A further engine is a further line in ``ENGINES``.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.errors import GalleryError, UsageError
from siamese_search.gallery.guarded import GuardedIndex
from siamese_search.index import Engine, FaissEngine, Index, Previous, Wanted

# Unit vectors whose products float32 holds exactly, so that equal scores are equal in any order.
EXACT = [np.eye(4)[n] * sign for n in range(4) for sign in (1, -1)]
EXACT += [np.array(signs) / 2 for signs in itertools.product((1, -1), repeat=4)]
EXACT_VECTORS = np.array(EXACT, np.float32)


@dataclass(frozen=True)
class Kind:
    """An engine, and a recipe of its that is not exact."""

    engine: Engine
    rough: Wanted
    answering: Callable[[Index], Index] = lambda index: index


def guarded(index: Index) -> Index:
    return GuardedIndex(index, lambda: pytest.fail("a sound index was given up"))


ENGINES = {
    "faiss": Kind(FaissEngine(), Wanted("IVF16,PQ12x4fs", 0.95)),
    "faiss, guarded": Kind(FaissEngine(), Wanted("IVF16,PQ12x4fs", 0.95), guarded),
}


# What is written is the same, however it is asked.
writing = pytest.mark.parametrize("kind", [ENGINES["faiss"]], ids=["faiss"])


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest) -> Kind:
    return ENGINES[request.param]


class Loop:
    """The same, slowly: one vector after the other."""

    def __init__(self) -> None:
        self.found: dict[int, FloatArray] = {}

    def search(
        self, query: FloatArray, k: int, allowed: set[int] | None = None
    ) -> list[tuple[int, float]]:
        scored = []
        for item, vector in self.found.items():
            if allowed is None or item in allowed:
                score = sum(float(a) * float(b) for a, b in zip(query, vector, strict=True))
                scored.append((-score, item))
        return [(item, -score) for score, item in sorted(scored)[:k]]


def answered(
    index: Index, queries: FloatArray, k: int, allowed: IntArray | None = None
) -> list[list[tuple[int, float]]]:
    """Rows of (item, score), with what pads them checked and taken away."""
    items, scores = index.search(queries, k, allowed)
    assert items.dtype == np.int64
    assert scores.dtype == np.float32
    assert items.shape == scores.shape == (len(queries), k)
    assert np.array_equal(items == -1, scores == -np.inf)
    return [
        [(item, score) for item, score in zip(row, values, strict=True) if item >= 0]
        for row, values in zip(items.tolist(), scores.tolist(), strict=True)
    ]


def clustered(seed: int, rows: int, dimension: int = 24) -> FloatArray:
    """Ten to an identity, as galleries have them, of unit length."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(-(-rows // 10), dimension)).repeat(10, axis=0)[:rows]
    vectors += 0.4 * random.normal(size=vectors.shape)
    unit: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")
    return unit


chosen_vectors = st.lists(st.integers(0, len(EXACT_VECTORS) - 1), max_size=40)
steps = st.lists(
    st.tuples(st.just("add"), chosen_vectors)
    | st.tuples(st.just("remove"), st.lists(st.integers(0, 200), max_size=20)),
    max_size=6,
)


@pytest.mark.parametrize("name", ENGINES)
@settings(max_examples=40, deadline=None)
@given(base=chosen_vectors, steps=steps, gap=st.integers(1, 3), seed=st.integers(0, 9))
def test_an_index_is_a_loop_over_its_items(
    name: str,
    base: list[int],
    steps: list[tuple[str, list[int]]],
    gap: int,
    seed: int,
) -> None:
    kind, loop = ENGINES[name], Loop()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        items = gap * np.arange(1, len(base) + 1)
        kind.engine.write(path, 4, [(items, EXACT_VECTORS[base])] if base else [])
        index = kind.answering(kind.engine.read(path, 4))
        loop.found = dict(zip(items.tolist(), EXACT_VECTORS[base], strict=True))
        last = gap * len(base)
        for what, numbers in [("remove", []), *steps]:
            if what == "add":
                new = last + gap * np.arange(1, len(numbers) + 1)
                last += gap * len(numbers)
                index.add(new, EXACT_VECTORS[numbers])
                loop.found |= dict(zip(new.tolist(), EXACT_VECTORS[numbers], strict=True))
            else:
                index.remove(np.unique(np.array(numbers, np.int64)))
                for number in numbers:
                    loop.found.pop(number, None)
            compare(index, loop, np.random.default_rng(seed))
        index.close()
        assert len(index) == 0
        assert answered(index, EXACT_VECTORS[:2], 3) == [[], []]


def compare(index: Index, loop: Loop, random: np.random.Generator) -> None:
    there = sorted(loop.found)
    assert (len(index), index.items.tolist()) == (len(there), there)
    asked = np.arange(0, max(there, default=0) + 3)
    assert asked[index.holds(asked)].tolist() == there
    vectors = index.vectors(asked)
    assert vectors.shape == (len(there), 4)
    assert all(np.array_equal(v, loop.found[n]) for v, n in zip(vectors, there, strict=True))
    allowed = asked[random.random(len(asked)) < 0.4]
    for some in (None, allowed):
        only = None if some is None else set(some.tolist())
        expected = [loop.search(query, 70, only) for query in EXACT_VECTORS[:17]]
        for count, k in itertools.product((1, 17), (1, 5, 70)):  # many are searched otherwise
            found = answered(index, EXACT_VECTORS[:count], k, some)
            assert found == [row[:k] for row in expected[:count]]


@pytest.fixture
def rough(kind: Kind, tmp_path: Path) -> Iterator[tuple[Index, FloatArray]]:
    """An index by a recipe that is not exact: 2,000 items in a file, 500 since; every seventh is
    removed.
    """
    vectors = clustered(1, 2500)
    written = kind.engine.write(
        tmp_path / "index", 24, [(np.arange(2000), vectors[:2000])], kind.rough
    )
    assert written.items == 2000
    assert written.recipe == kind.rough.recipe
    assert written.recall is not None
    assert written.recall >= kind.rough.recall
    index = kind.answering(kind.engine.read(tmp_path / "index", 24))
    index.add(np.arange(2000, 2500), vectors[2000:])
    index.remove(np.arange(0, 2500, 7))
    yield index, vectors
    index.close()


def test_what_is_searched_roughly_finds_nearly_all(rough: tuple[Index, FloatArray]) -> None:
    index, vectors = rough
    left = np.setdiff1d(np.arange(2500), np.arange(0, 2500, 7))
    queries = clustered(1, 2500)[::50]
    shares = []
    for query, found in zip(queries, answered(index, queries, 10), strict=True):
        exact = left[np.argsort(-(vectors[left] @ query), kind="stable")[:10]]
        assert {item for item, _ in found} <= set(left.tolist())
        shares.append(len({item for item, _ in found} & set(exact.tolist())) / 10)
        assert [score for _, score in found] == pytest.approx(
            [float(vectors[item] @ query) for item, _ in found], abs=1e-6
        )
    assert np.mean(shares) >= 0.9


def test_a_filter_and_what_came_since_are_searched_in_full(
    rough: tuple[Index, FloatArray],
) -> None:
    index, vectors = rough
    loop = Loop()
    loop.found = {n: vectors[n] for n in range(2500) if n % 7}
    queries = vectors[1800:2300:50]
    for allowed in (np.arange(1900, 2200), np.arange(2000, 2500), np.array([3, 2499])):
        for query, found in zip(queries, answered(index, queries, 6, allowed), strict=True):
            expected = loop.search(query, 6, set(allowed.tolist()))
            assert [item for item, _ in found] == [item for item, _ in expected]
    new = np.setdiff1d(np.arange(2000, 2500), np.arange(0, 2500, 7))
    assert [row[0][0] for row in answered(index, vectors[new], 1)] == new.tolist()


def test_a_search_gives_as_many_as_there_are(rough: tuple[Index, FloatArray]) -> None:
    index, vectors = rough
    (row,) = answered(index, vectors[:1], 3000)
    assert sorted(item for item, _ in row) == index.items.tolist()


@pytest.mark.slow
@writing
def test_what_goes_on_from_an_earlier_file_is_as_good(kind: Kind, tmp_path: Path) -> None:
    vectors = clustered(2, 3000)
    first = kind.engine.write(tmp_path / "old", 24, [(np.arange(2000), vectors[:2000])], kind.rough)
    old = Previous(tmp_path / "old", first.sha256)
    kept = np.setdiff1d(np.arange(3000), np.arange(0, 2000, 9))
    for name, numbers in (("grown", np.arange(3000)), ("thinned", kept)):
        kind.engine.write(tmp_path / name, 24, [(numbers, vectors[numbers])], kind.rough, old)
        index = kind.engine.read(tmp_path / name, 24)
        found = index.search(vectors[numbers], 1)[0][:, 0]
        assert np.mean(found == numbers) > 0.98
        index.close()


@pytest.mark.slow
@writing
@pytest.mark.parametrize("part", [0.05, 0.5, 0.9])
def test_nothing_is_taken_from_an_earlier_file_that_was_damaged(
    kind: Kind, tmp_path: Path, part: float
) -> None:
    vectors = clustered(3, 2500)
    first = kind.engine.write(tmp_path / "old", 24, [(np.arange(2000), vectors[:2000])], kind.rough)
    size = (tmp_path / "old").stat().st_size
    with open(tmp_path / "old", "r+b") as file:  # a few zeroed pages, as a failing disk leaves them
        file.seek(int(part * size) // 4096 * 4096)
        file.write(bytes(min(8 * 4096, size - file.tell())))
    old, chunks = Previous(tmp_path / "old", first.sha256), [(np.arange(2500), vectors)]
    with_it = kind.engine.write(tmp_path / "with", 24, chunks, kind.rough, old)
    without = kind.engine.write(tmp_path / "without", 24, chunks, kind.rough)
    assert with_it.sha256 == without.sha256


@writing
def test_a_file_is_written_whole_or_not_at_all(kind: Kind, tmp_path: Path) -> None:
    def chunks() -> Iterator[tuple[IntArray, FloatArray]]:
        yield np.arange(4), EXACT_VECTORS[:4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kind.engine.write(tmp_path / "index", 4, chunks())
    assert list(tmp_path.iterdir()) == []


@writing
@pytest.mark.parametrize("wanted", [Wanted("nonsense"), Wanted(recall=1.5), Wanted(recall=0)])
def test_what_cannot_be_made_is_said_and_leaves_nothing(
    kind: Kind, wanted: Wanted, tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        kind.engine.write(tmp_path / "index", 4, [(np.arange(4), EXACT_VECTORS[:4])], wanted)
    assert list(tmp_path.iterdir()) == []


def test_another_file_and_another_dimension_are_refused(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(bytes(9000))
    kind.engine.write(tmp_path / "index", 4, [(np.arange(4), EXACT_VECTORS[:4])])
    for name, dimension in (("other", 4), ("none", 4), ("index", 5)):
        with pytest.raises(GalleryError, match=str(tmp_path / name)):
            kind.engine.read(tmp_path / name, dimension)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="nobody tells what is mapped")
@pytest.mark.parametrize("roughly", [False, True])
def test_a_closed_index_lets_go_of_its_file(kind: Kind, tmp_path: Path, roughly: bool) -> None:
    vectors = clustered(4, 1500)
    wanted = kind.rough if roughly else None
    kind.engine.write(tmp_path / "index", 24, [(np.arange(1500), vectors)], wanted)
    index = kind.answering(kind.engine.read(tmp_path / "index", 24))
    index.search(vectors[:1], 3)
    index.search(vectors[:40], 3)
    assert str(tmp_path / "index") in held()
    index.close()
    assert str(tmp_path / "index") not in held()


def held() -> str:
    """The files that this process has mapped or open."""
    opened = []
    for name in os.listdir("/proc/self/fd"):
        try:
            opened.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # the folder's own
            continue
    return Path("/proc/self/maps").read_text() + "\n".join(opened)
