"""Batches: which pictures of which classes, turned, joined and augmented.

Every random choice of a batch follows from the seed and its number alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from siamese_search.training import augmentation, compounds, distributed
from siamese_search.training.data import Pictures
from siamese_search.training.resolution import Size, size_at
from siamese_search.training.sampling import ClassSampler
from siamese_search.training.settings import Settings


class Batches:
    """The batches of one run, of pictures that are of ``size`` in the end."""

    def __init__(self, training: Pictures, settings: Settings, size: Size) -> None:
        self.augmentation = augmentation.PRESETS[settings.augmentation]
        self.turns = 4 if self.augmentation.turns else 1
        self._pixels, self._size, self._settings = training.pixels, size, settings
        self._images, self._seed = settings.images, settings.seed
        unlabelled = settings.loss == "self-supervised"
        classes = np.arange(len(training)) if unlabelled else training.labels
        self.labels = (classes[:, None] * self.turns + np.arange(self.turns)).ravel()
        found = len(np.unique(self.labels))
        count = settings.classes if settings.classes <= found else distributed.whole(found)
        self.sampler = ClassSampler(self.labels, count, settings.images, settings.seed)
        self._joined = np.zeros(self.sampler.classes, bool)
        self._partners: ClassSampler | None = None

    @property
    def classes(self) -> int:
        """How many classes there are, each quarter turn being one of its own."""
        return int(self.labels.max()) + 1

    @property
    def pictures(self) -> int:
        """How many pictures a batch has, over all processes."""
        return self.sampler.classes * self.sampler.images

    def batch(self, step: int) -> tuple[Tensor, npt.NDArray[np.int64], int]:
        """This process's pictures of a step, the classes of all processes' pictures, and a seed.

        float32 (n, channels, height, width), int64 (pictures,), and what no other step and process
        draws by.
        """
        positions, classes = self.sampler.batch(step)
        partners, maps = self._compounds(step, classes)
        own = distributed.share(len(positions))
        seed = seed_of(self._seed, step, 1 + distributed.rank())
        size = size_at(step, self._settings, self._size)
        return self._views(positions[own], seed, size, partners[own], maps[own]), classes, seed

    def join(self) -> None:
        """Join some classes of each batch in pairs, which are further classes.

        Pairs of neighbours, spread evenly: hard classes stay together, and processes that share a
        batch have as many each.
        """
        pairs = np.arange(self.sampler.classes) // 2
        share = self.augmentation.compounds
        self._joined = np.floor((pairs + 1) * share) > np.floor(pairs * share)
        count = int(self._joined.sum())
        if count:
            self._partners = ClassSampler(self.labels, count, self._images, self._seed + 1)

    def _compounds(
        self, step: int, classes: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], Tensor]:
        """What each picture of the batch is joined with, -1 for nothing, and how.

        Gives the classes that are joined new numbers, in place.
        """
        partners = np.full(len(classes), -1, np.int64)
        maps = torch.zeros(len(classes), 2, 2, 3)
        if self._partners is not None:
            chosen = self._joined.repeat(self._images)
            partners[chosen], _ = self._partners.batch(step)
            random = torch.Generator().manual_seed(seed_of(self._seed, step, 0))
            ways = compounds.layouts(self._partners.classes, random)
            maps[chosen] = ways.repeat_interleave(self._images, dim=0)
            new = len(self.sampler.members) + np.arange(self._partners.classes)
            classes[chosen] = new.repeat(self._images)
        return partners, maps

    def _views(
        self,
        positions: npt.NDArray[np.int64],
        seed: int,
        size: Size,
        partners: npt.NDArray[np.int64] | None = None,
        maps: Tensor | None = None,
    ) -> Tensor:
        """Augmented pictures, float32 (n, channels, height, width)."""
        pixels = self._turned(positions)
        if partners is not None and maps is not None and (partners >= 0).any():
            chosen = torch.from_numpy(np.flatnonzero(partners >= 0))
            background = self.augmentation.background or 0
            others = self._turned(partners[partners >= 0])
            pixels[chosen] = compounds.joined(pixels[chosen], others, maps[chosen], background)
        return augmentation.augment(pixels, self.augmentation, size, seed)

    def _turned(self, positions: npt.NDArray[np.int64]) -> Tensor:
        """Pictures at positions, which count the quarter turns of each; uint8, as decoded."""
        pixels = torch.from_numpy(self._pixels[positions // self.turns])
        for turn in range(1, self.turns):
            chosen = torch.from_numpy(np.flatnonzero(positions % self.turns == turn))
            pixels[chosen] = torch.rot90(pixels[chosen], turn, (1, 2))
        return pixels

    def among_turned(self, neighbours: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Neighbours among classes and their quarter turns, each with those turned alike."""
        turns = np.arange(self.turns)
        grown = neighbours[:, None, :] * self.turns + turns[None, :, None]
        expanded: npt.NDArray[np.int64] = grown.reshape(-1, neighbours.shape[1])
        return expanded


def seed_of(*path: int) -> int:
    """A seed that differs wherever one of the numbers does."""
    return int(np.random.SeedSequence(path).generate_state(1, np.uint64)[0] >> np.uint64(1))
