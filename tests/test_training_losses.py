"""Losses of training, against slow loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_metric_learning")

from siamese_search.training import retrieval  # noqa: E402
from siamese_search.training.losses import LOSSES, PrototypicalLoss  # noqa: E402


def batch(seed: int = 0) -> tuple[Any, Any]:
    vectors = torch.randn(12, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors), torch.arange(4).repeat_interleave(3)


def test_contrastive_pulls_similar_pairs_together_and_pushes_others_to_the_margin() -> None:
    vectors, labels = batch()
    similar, others = [], []
    for a in range(12):
        for b in range(12):
            distance = float((vectors[a] - vectors[b]).norm())
            if a != b and labels[a] == labels[b]:
                similar.append(distance**2)
            elif a != b:
                others.append(max(0.0, 0.8 - distance) ** 2)
    expected = sum(similar) / len(similar)
    pushed = [value for value in others if value > 0]
    expected += sum(pushed) / len(pushed) if pushed else 0.0
    assert float(LOSSES["contrastive"](4, 8)(vectors, labels)) == pytest.approx(expected, rel=1e-4)


def test_triplet_takes_semi_hard_negatives_only() -> None:
    vectors, labels = batch()
    losses = []
    for a in range(12):
        for p in range(12):
            for n in range(12):
                if a == p or labels[a] != labels[p] or labels[a] == labels[n]:
                    continue
                near = float((vectors[a] - vectors[p]).norm())
                far = float((vectors[a] - vectors[n]).norm())
                if 0 < far - near <= 0.2:
                    losses.append(0.2 + near - far)
    positive = [value for value in losses if value > 0]
    expected = sum(positive) / len(positive)
    assert float(LOSSES["triplet"](4, 8)(vectors, labels)) == pytest.approx(expected, rel=1e-4)


def test_multi_similarity_weighs_pairs() -> None:
    vectors, labels = batch()
    scores = (vectors @ vectors.T).tolist()
    total = 0.0
    for a in range(12):
        positives = [scores[a][b] for b in range(12) if b != a and labels[b] == labels[a]]
        negatives = [scores[a][b] for b in range(12) if labels[b] != labels[a]]
        total += math.log(1 + sum(math.exp(-2 * (s - 0.5)) for s in positives)) / 2
        total += math.log(1 + sum(math.exp(40 * (s - 0.5)) for s in negatives)) / 40
    loss = LOSSES["multi-similarity"](4, 8)(vectors, labels)
    assert float(loss) == pytest.approx(total / 12, rel=1e-4)


def test_prototypical_compares_with_the_mean_of_each_class() -> None:
    vectors, labels = batch()
    total = []
    for label in range(4):
        for query in vectors[labels == label][1:]:
            distances = [float((query - vectors[3 * c]).square().sum()) for c in range(4)]
            weights = [math.exp(-10 * d) for d in distances]
            total.append(-math.log(weights[label] / sum(weights)))
    assert float(PrototypicalLoss()(vectors, labels)) == pytest.approx(np.mean(total), rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_draws_classes_together(name: str) -> None:
    torch.manual_seed(0)
    loss = LOSSES[name](4, 8)
    start, labels = batch()
    vectors = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([vectors, *loss.parameters()], lr=0.05)
    for _ in range(200):
        value = loss(torch.nn.functional.normalize(vectors), labels)
        optimizer.zero_grad()
        if value.requires_grad:
            value.backward()
            optimizer.step()
    after = torch.nn.functional.normalize(vectors.detach()).numpy()
    before = retrieval.retrieval(start.numpy(), labels.numpy()).recall
    assert retrieval.retrieval(after, labels.numpy()).recall > max(before, 0.6)
