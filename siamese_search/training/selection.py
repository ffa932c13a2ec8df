"""Which weights a run keeps, by what they make of the pictures that are held out.

Knows nothing of how weights are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from siamese_search.training.retrieval import Gain, Retrieval

Weights = dict[str, Tensor]

BLENDS = (1.0, 0.75, 0.5, 0.25)  # shares of the trained weights


class Selection:
    """The weights to keep. Of those that are as good as the best, the last are kept."""

    def __init__(self, start: Weights) -> None:
        self.start = start
        self.weights: Weights | None = None  # those that are kept
        self.found: Retrieval | None = None  # how well they find what is held out
        self.first: Retrieval | None = None  # how well the starting point does
        self.top: Retrieval | None = None  # of the highest mAP@R so far
        self.step = 0  # that the kept weights are of
        self.share = 1.0  # of them, the rest being the starting point's
        self.stale = 0  # epochs since one was as good

    def see(self, step: int, found: Retrieval | None, weights: Callable[[], Weights]) -> None:
        """Keep the weights of a step if no earlier ones were better; without a measure, always.

        What differs by chance alone is no reason to prefer weights of a higher learning rate.
        """
        if found is not None:
            if step == 0:
                self.first = found
            if self.top is None or found.precision > self.top.precision:
                self.top = found
            self.stale += 1
            if not found.as_good_as(self.top):
                return
        self.stale = 0
        self.weights, self.found, self.step, self.share = weights(), found, step, 1.0

    def blend(self, judge: Callable[[Weights], Retrieval]) -> None:
        """Average the kept weights with the starting point's, where that is better.

        What a network knew before often serves new classes too (Wortsman et al. 2022). Of shares
        that differ by chance alone the largest is taken. Where nothing is gained over the starting
        point, that is kept.
        """
        assert self.weights is not None
        if self.step == 0:
            return
        blends: dict[float, tuple[Weights, Retrieval]] = {}
        for share in BLENDS:
            mixed = {
                name: self.start[name].lerp(tensor, share) if tensor.is_floating_point() else tensor
                for name, tensor in self.weights.items()
            }
            blends[share] = mixed, judge(mixed)
        top = max((found for _, found in blends.values()), key=lambda found: found.precision)
        self.share, (self.weights, self.found) = next(
            (share, blend) for share, blend in blends.items() if blend[1].as_good_as(top)
        )
        gain = self.gain()
        if gain is not None and gain.mean <= 0:
            self.weights, self.found, self.step, self.share = self.start, self.first, 0, 1.0

    def gain(self) -> Gain | None:
        """What the kept weights gain over the starting point, None where that is not known."""
        return self.found.over(self.first) if self.found and self.first else None

    def tensors(self) -> Weights:
        """What a checkpoint keeps of it, beside ``facts``."""
        kept = {f"best.{name}": tensor for name, tensor in (self.weights or {}).items()}
        for name, one in (("first", self.first), ("top", self.top), ("found", self.found)):
            if one is not None:
                kept[name] = torch.tensor(one.precisions)  # none may share memory
        return kept

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as JSON."""
        reached = self.found.recall if self.found else 0.0
        return {
            "best": reached if self.weights else None,
            "first": self.first.recall if self.first else None,
            "top": self.top.recall if self.top else None,
            "kept": {"step": self.step, "share of trained weights": self.share},
            "stale": self.stale,
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.step, self.stale = facts["kept"]["step"], facts["stale"]
        self.share = facts["kept"]["share of trained weights"]
        if "top" in tensors:
            self.top = Retrieval(facts["top"], tensors["top"].numpy())
        if "first" in tensors:
            self.first = Retrieval(facts["first"], tensors["first"].numpy())
        if "found" in tensors:
            self.found = Retrieval(facts["best"], tensors["found"].numpy())
        if facts["best"] is not None:
            start = "best."
            self.weights = {
                name.removeprefix(start): tensor
                for name, tensor in tensors.items()
                if name.startswith(start)
            }
