"""Batches: which pictures of which classes, turned, joined, bent and augmented.

Every random choice of a batch follows from the seed and its number alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from siamese_search.training import augmentation, compounds, distributed, variants
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
        self.sampler = ClassSampler(self.labels, settings.classes, settings.images, settings.seed)
        self._joined = np.zeros(self.sampler.classes, bool)
        self._partners: ClassSampler | None = None
        self._variants = 0.0

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
        own = distributed.share(len(positions), self.sampler.classes)
        pixels = self._joined_pixels(positions[own], partners[own], maps[own])
        if self._variants:
            self._vary(pixels, step, own)
        seed = seed_of(self._seed, step, 1 + distributed.rank())
        size = size_at(step, self._settings, self._size)
        return augmentation.augment(pixels, self.augmentation, size, seed), classes, seed

    def multiply(self) -> None:
        """Make further classes of those of each batch: join some in pairs, bend some as a whole.

        Pairs of neighbours are joined, spread evenly: hard classes stay together, and processes
        that share a batch have as many each.
        """
        pairs = np.arange(self.sampler.classes) // 2
        share = self.augmentation.compounds
        self._joined = np.floor((pairs + 1) * share) > np.floor(pairs * share)
        count = int(self._joined.sum())
        if count:
            self._partners = ClassSampler(self.labels, count, self._images, self._seed + 1)
        self._variants = self.augmentation.variants

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

    def _joined_pixels(
        self, positions: npt.NDArray[np.int64], partners: npt.NDArray[np.int64], maps: Tensor
    ) -> Tensor:
        """Pictures, joined with their partners where they have one; uint8, as decoded."""
        pixels = self._turned(positions)
        if (partners >= 0).any():
            chosen = torch.from_numpy(np.flatnonzero(partners >= 0))
            background = self.augmentation.background or 0
            others = self._turned(partners[partners >= 0])
            pixels[chosen] = compounds.joined(pixels[chosen], others, maps[chosen], background)
        return pixels

    def _vary(self, pixels: Tensor, step: int, own: slice) -> None:
        """Bend the pictures of some classes, all of a class alike; in place.

        Hard classes come in pairs, which are bent alike, and so stay hard.
        """
        alike = self._images * (1 if self.sampler.neighbours is None else 2)
        bend = torch.arange(self.sampler.classes * self._images) // alike  # each picture's
        count, (rows, columns) = int(bend[-1]) + 1, pixels.shape[1:3]
        random = torch.Generator().manual_seed(seed_of(self._seed, step, 0, 1))
        bent = torch.rand(count, generator=random) < self._variants
        grids = variants.grids(count, (rows, columns), random)
        chosen = bent[bend[own]].nonzero().flatten()
        grid = grids[bend[own][chosen]]
        background = self.augmentation.background or 0
        pixels[chosen] = variants.varied(pixels[chosen], grid, background)

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
