"""Which weights a run keeps, by what they make of the pictures that are held out.

Knows nothing of how weights are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from siamese_search.training.as_gallery import AsGallery
from siamese_search.training.retrieval import Gain, Retrieval

Weights = dict[str, Tensor]

BLENDS = (1.0, 0.75, 0.5, 0.25)  # shares of the trained weights
FLAT = 3  # epochs in a row in which mAP@R rose no more: it does not rise


@dataclass(frozen=True)
class Trained:
    """Weights that were trained, and how well they find what is held out, where that is known."""

    weights: Weights
    found: Retrieval | None


class Selection:
    """The weights to keep. Of those that are as good as the best, the last are kept."""

    def __init__(self, start: Weights) -> None:
        self.start = start
        self.weights: Weights | None = None  # those that are kept
        self.found: Retrieval | None = None  # how well they find what is held out
        self.first: Retrieval | None = None  # how well the starting point does
        self.top: Retrieval | None = None  # of the highest mAP@R so far
        self.trained: Trained | None = None  # the best of what was trained, kept or not
        self.step = 0  # that the kept weights are of
        self.share = 1.0  # of them, the rest being the starting point's
        self.epochs = 0  # that were measured
        self.stale = 0  # epochs since one was as good
        self.highest: float | None = None  # mAP@R of any epoch, without the start
        self.flat = 0  # epochs since it rose

    @property
    def gains_nothing(self) -> bool:
        """Whether no epoch found more than the start does, and epochs do not get better; or none
        can, since the start finds all. A run whose epochs rise is never called that.
        """
        if self.first is None or self.highest is None:
            return False
        if self.first.precision >= 1:
            return True
        return self.highest <= self.first.precision and self.flat >= FLAT

    def see(self, step: int, found: Retrieval | None, weights: Callable[[], Weights]) -> None:
        """Keep the weights of a step if no earlier ones were better; without a measure, always.

        What differs by chance alone is no reason to prefer weights of a higher learning rate.
        """
        if found is not None:
            self.epochs += step > 0
            if step == 0:
                self.first = found
            elif self.highest is None or found.precision > self.highest:
                self.highest, self.flat = found.precision, 0
            else:
                self.flat += 1
            if self.top is None or found.precision > self.top.precision:
                self.top = found
            self.stale += 1
            if not found.as_good_as(self.top):
                return
        self.stale = 0
        self.weights, self.found, self.step, self.share = weights(), found, step, 1.0

    def be_patient(self) -> None:
        """Hold nothing against the epochs so far: later ones can do more than these could."""
        self.stale = self.flat = 0

    def blend(self, judge: Callable[[Weights], Retrieval], last: Weights) -> None:
        """Average the kept weights with the starting point's, where that is better.

        What a network knew before often serves new classes too (Wortsman et al. 2022). Of shares
        that differ by chance alone the largest is taken. Where nothing is gained over the starting
        point, that is kept; ``last`` are the weights of the last step, which then are what was
        trained where none were as good.
        """
        assert self.weights is not None
        if self.step == 0:
            self.trained = Trained(last, judge(last))
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
        self.trained = Trained(self.weights, self.found)
        gain = self.gain()
        if gain is not None and gain.mean <= 0:
            self._keep_start()

    def heed(self, judged: AsGallery | None) -> None:
        """Keep the starting point after all where a gallery that learns its metric, as most do,
        names no more rightly by what was trained. Only for a judgement against that start.
        """
        if judged is not None and not judged.is_better and self.first is not None:
            self._keep_start()

    def _keep_start(self) -> None:
        self.weights, self.found, self.step, self.share = self.start, self.first, 0, 1.0

    def gain(self) -> Gain | None:
        """What was trained gains over the starting point, whether it is kept or not; None where
        that is not known.
        """
        found = self.trained.found if self.trained else self.found
        return found.over(self.first) if found and self.first else None

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
            "epochs": self.epochs,
            "stale": self.stale,
            "highest": self.highest,
            "flat": self.flat,
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.step, self.stale = facts["kept"]["step"], facts["stale"]
        self.share = facts["kept"]["share of trained weights"]
        self.highest, self.flat = facts.get("highest"), facts.get("flat", 0)
        self.epochs = facts.get("epochs", 0)
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
