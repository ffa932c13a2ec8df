"""Losses on the embeddings of a batch, those of pytorch-metric-learning where it has them.

A loss takes float32 embeddings (n, dimension) of unit length and classes int64 (n,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_metric_learning import distances, losses, miners
from torch import Tensor, nn
from torch.nn import functional


class MinedLoss(nn.Module):
    """A loss on the pairs or triplets that a miner picks from the batch."""

    def __init__(self, loss: nn.Module, miner: nn.Module | None = None) -> None:
        super().__init__()
        self.loss = loss
        self.miner = miner

    def forward(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        mined = self.miner(embeddings, classes) if self.miner is not None else None
        value: Tensor = self.loss(embeddings, classes, mined)
        return value


class ContrastiveLoss(nn.Module):
    """Similar pairs by their squared distance, others by the square of what they lack to the margin
    (Hadsell et al. 2006), each the mean over pairs that are not there yet.
    """

    def __init__(self, margin: float = 0.8) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        similar = torch.triu(classes[:, None] == classes[None], diagonal=1)
        others = torch.triu(classes[:, None] != classes[None], diagonal=1)
        squared = (2 - 2 * embeddings @ embeddings.T).clamp(min=1e-8)
        lacking = (self.margin - squared.sqrt()).clamp(min=0).square()
        pulled, pushed = squared[similar], lacking[others & (lacking > 0)]
        terms = [term.mean() for term in (pulled, pushed) if len(term)]
        return torch.stack(terms).sum() if terms else embeddings.sum() * 0


class PrototypicalLoss(nn.Module):
    """Episodes (Snell et al. 2017): half of each class's pictures make its prototype, the others
    are to be nearest to their own. Expects the classes in runs of equal length.

    ``scale`` multiplies the squared distances, which are at most 4 between unit vectors.
    """

    def __init__(self, scale: float = 10.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        runs = embeddings.reshape(len(torch.unique(classes)), -1, embeddings.shape[1])
        half = runs.shape[1] // 2
        if half == 0:
            raise ValueError("prototypical needs two pictures of each class or more in a batch")
        prototypes = runs[:, :half].mean(dim=1)
        queries = runs[:, half:].flatten(0, 1)
        squared = (queries[:, None] - prototypes[None]).square().sum(dim=2)
        own = classes.new_tensor(range(len(runs))).repeat_interleave(runs.shape[1] - half)
        return functional.cross_entropy(-self.scale * squared, own)


def _cosine() -> Any:
    return distances.CosineSimilarity()


def _euclidean() -> Any:
    return distances.LpDistance(normalize_embeddings=True, p=2, power=1)


# Each by (number of classes, dimension).
LOSSES: dict[str, Callable[[int, int], nn.Module]] = {
    "contrastive": lambda n, d: ContrastiveLoss(),
    "triplet": lambda n, d: MinedLoss(  # semi-hard (Schroff et al. 2015)
        losses.TripletMarginLoss(margin=0.2, distance=_euclidean()),
        miners.TripletMarginMiner(margin=0.2, type_of_triplets="semihard", distance=_euclidean()),
    ),
    "batch-hard": lambda n, d: MinedLoss(  # Hermans et al. 2017
        losses.TripletMarginLoss(margin=0.2, distance=_euclidean()),
        miners.BatchHardMiner(distance=_euclidean()),
    ),
    # Sohn 2016, of unit vectors and with a temperature, so that norms need no penalty.
    "n-pair": lambda n, d: MinedLoss(losses.NTXentLoss(temperature=0.1, distance=_cosine())),
    "angular": lambda n, d: MinedLoss(losses.AngularLoss(alpha=40)),
    "multi-similarity": lambda n, d: MinedLoss(  # Wang et al. 2019
        losses.MultiSimilarityLoss(alpha=2, beta=40, base=0.5)
    ),
    "supcon": lambda n, d: MinedLoss(losses.SupConLoss(temperature=0.1)),  # Khosla et al. 2020
    "proxy-anchor": lambda n, d: MinedLoss(  # Kim et al. 2020
        losses.ProxyAnchorLoss(num_classes=n, embedding_size=d, margin=0.1, alpha=32)
    ),
    "arcface": lambda n, d: MinedLoss(  # Deng et al. 2019
        losses.ArcFaceLoss(num_classes=n, embedding_size=d, margin=28.6, scale=32)
    ),
    "subcenter-arcface": lambda n, d: MinedLoss(  # Deng et al. 2020
        losses.SubCenterArcFaceLoss(num_classes=n, embedding_size=d, margin=28.6, scale=32)
    ),
    "prototypical": lambda n, d: PrototypicalLoss(),
    # Two views of each unlabelled picture are the pair (Chen et al. 2020).
    "self-supervised": lambda n, d: MinedLoss(
        losses.NTXentLoss(temperature=0.2, distance=_cosine())
    ),
}
