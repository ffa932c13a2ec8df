"""Sampling: which pictures make a batch. A batch is P classes with K pictures each.

A batch depends on nothing but the seed and its number, so training can go on from any step.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import IntArray


class ClassSampler:
    """Draws ``classes`` x ``images`` pictures, all of one class together.

    Each pass over the data takes every class once, in a new order. Where a class has fewer
    pictures than ``images``, some come twice (augmentation makes different views of them).
    ``neighbours``, where given, are the classes most alike to each, nearest first, int64
    (number of classes, m): half of the classes of a batch are then drawn from those of its
    others, which makes hard negatives likely.
    """

    def __init__(self, labels: npt.ArrayLike, classes: int, images: int, seed: int) -> None:
        every = np.asarray(labels)
        self.members = [np.flatnonzero(every == label) for label in np.unique(every)]
        self.classes = min(classes, len(self.members))
        self.images = images
        self.neighbours: IntArray | None = None
        self._seed = seed

    def __len__(self) -> int:
        """Batches in a pass over all classes."""
        return max(1, len(self.members) // self.classes)

    def batch(self, number: int) -> tuple[IntArray, IntArray]:
        """The positions of the pictures of a batch, and their classes: two int64 (P * K,)."""
        lap, place = divmod(number, len(self))
        order = np.random.default_rng([self._seed, 0, lap]).permutation(len(self.members))
        chosen = order[place * self.classes : (place + 1) * self.classes]
        random = np.random.default_rng([self._seed, 1, number])
        if self.neighbours is not None:
            chosen = self._with_neighbours(chosen, random)
        picked = [
            random.choice(self.members[c], self.images, replace=len(self.members[c]) < self.images)
            for c in chosen
        ]
        return np.concatenate(picked), chosen.repeat(self.images)

    def _with_neighbours(self, chosen: IntArray, random: np.random.Generator) -> IntArray:
        """Half of the classes, each followed by one that is alike."""
        assert self.neighbours is not None
        kept, spare = np.split(chosen, [(len(chosen) + 1) // 2])
        taken, pairs = set(kept.tolist()), []
        for number, one in enumerate(kept):
            pairs.append(one)
            if number < len(spare):
                others = [*random.permutation(self.neighbours[one]), *spare]
                pairs.append(next(c for c in others if c not in taken))
                taken.add(pairs[-1])
        return np.array(pairs, np.int64)
