"""Ranking against a slow loop over all identities, in galleries where many are near a probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray
from siamese_search.gallery import ranking

IDENTITIES, EACH = 60, 12


def crowded(dimension: int, seed: int = 0) -> tuple[FloatArray, list[str]]:
    """Identities whose items spread as widely as the identities themselves, all in one corner."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(IDENTITIES, 1, dimension)) + 2 * random.normal(size=dimension)
    items = centres + 1.2 * random.normal(size=(IDENTITIES, EACH, dimension))
    flat = items.reshape(-1, dimension)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    names = [f"id {n // EACH:02}" for n in range(IDENTITIES * EACH)]
    return np.concatenate([flat, -flat[:1]]).astype(np.float32), [*names, "alone"]


@pytest.fixture
def gallery(tmp_path: Path, toy: Encoder) -> Gallery:
    vectors, names = crowded(toy.dimension)
    gallery = Gallery.open(tmp_path / "gallery", toy)
    gallery.enroll_embeddings(
        vectors, names, [{"half": str(n % EACH // 6)} for n in range(len(names))]
    )
    return gallery


def slow(
    vectors: FloatArray, names: list[str], query: FloatArray, rule: str
) -> list[tuple[float, str]]:
    """Every identity's score, best first."""
    scores = []
    for name in sorted(set(names)):
        own = vectors[[n for n, other in enumerate(names) if other == name]]
        mean = own.mean(axis=0)
        prototype = float(query @ mean / np.linalg.norm(mean))
        best = float(max(own @ query))
        wanted = {"best": best, "prototype": prototype, "balanced": (best + prototype) / 2}
        scores.append((wanted[rule], name))
    return sorted(scores, reverse=True)


@pytest.mark.parametrize("rule", ["balanced", "best", "prototype"])
@pytest.mark.parametrize("k", [1, 3, 40])
def test_the_best_identities_are_those_of_all_whatever_k(
    gallery: Gallery, toy: Encoder, rule: str, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "CANDIDATES", 4)  # so that most are found by prototype
    vectors, names = crowded(toy.dimension)
    probes, _ = crowded(toy.dimension, seed=1)
    probes = probes[::37]
    with gallery:
        answers = gallery.identify_embeddings(probes, k=k, rule=rule)
    for probe, answer in zip(probes, answers, strict=True):
        expected = slow(vectors, names, probe, rule)[:k]
        assert [match.identity for match in answer.matches] == [name for _, name in expected]
        assert [match.score for match in answer.matches] == pytest.approx(
            [score for score, _ in expected], abs=1e-5
        )


@pytest.mark.parametrize("alone", [False, True])
def test_many_items_of_one_identity_hide_no_other_and_cost_little(
    tmp_path: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    """The nearest items, as many as are looked at first, are all of the probe's identity."""
    random = np.random.default_rng(3)
    each, others = (1 if alone else 5), 400
    names = ["big"] * 90 + [f"{n // each:03}" for n in range(others * each)]
    centres = {name: random.normal(size=toy.dimension) for name in dict.fromkeys(names)}
    vectors = np.array([centres[name] + 0.4 * random.normal(size=toy.dimension) for name in names])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    scored: list[str] = []
    best_items = ranking.Ranking._best_items

    def counted(self: ranking.Ranking, query: FloatArray, names: list[str], *more: Any) -> Any:
        scored.extend(names)
        return best_items(self, query, names, *more)

    monkeypatch.setattr(ranking.Ranking, "_best_items", counted)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors, names)
        probe = vectors[:1] + vectors[1:2]
        (answer,) = gallery.identify_embeddings(probe / np.linalg.norm(probe), k=5)
    expected = slow(vectors, names, probe[0] / np.linalg.norm(probe), "balanced")[:5]
    assert [match.identity for match in answer.matches] == [name for _, name in expected]
    assert len(scored) < others / 4


def test_the_nearest_items_alone_would_rank_others(gallery: Gallery, toy: Encoder) -> None:
    """Else the tests above would show nothing."""
    probes, _ = crowded(toy.dimension, seed=1)
    with gallery:
        nearest, _ = gallery.search(probes[::37], 4)
        answers = gallery.identify_embeddings(probes[::37], k=1)
        owners = [{gallery.items_by_number([item])[0].identity for item in row} for row in nearest]
    missed = [a.matches[0].identity not in o for a, o in zip(answers, owners, strict=True)]
    assert any(missed)


def test_prototypes_follow_every_change(
    gallery: Gallery, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "CANDIDATES", 4)
    vectors, names = crowded(toy.dimension)
    more, _ = crowded(toy.dimension, seed=2)
    probes, _ = crowded(toy.dimension, seed=1)
    probes = probes[::61]
    kept = list(range(len(names)))

    def agrees() -> bool:
        held = np.concatenate([vectors[kept], more[: len(added)]])
        labels = [names[n] for n in kept] + added
        answers = gallery.identify_embeddings(probes, k=2)
        found = [[match.identity for match in answer.matches] for answer in answers]
        loop = [[name for _, name in slow(held, labels, p, "balanced")[:2]] for p in probes]
        return found == loop

    added: list[str] = []
    with gallery:
        assert agrees()
        gallery.enroll_embeddings(more[:5], ["id 03"] * 5)
        added = ["id 03"] * 5
        assert agrees()
        gallery.remove(item=7)
        kept.remove(6)
        assert agrees()
        gallery.relabel("id 09", "id 10")
        names = ["id 10" if name == "id 09" else name for name in names]
        assert agrees()
        gallery.compact()
        assert agrees()


def test_a_filter_counts_the_items_that_it_leaves_only(
    gallery: Gallery, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "CANDIDATES", 4)
    vectors, names = crowded(toy.dimension)
    left = [n for n in range(len(names)) if n % EACH // 6 == 1]
    probes, _ = crowded(toy.dimension, seed=1)
    with gallery:
        answers = gallery.identify_embeddings(probes[::61], k=3, where={"half": "1"})
    for probe, answer in zip(probes[::61], answers, strict=True):
        expected = slow(vectors[left], [names[n] for n in left], probe, "balanced")[:3]
        assert [match.identity for match in answer.matches] == [name for _, name in expected]
