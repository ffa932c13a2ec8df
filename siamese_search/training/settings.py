"""What a training run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from siamese_search.errors import UsageError
from siamese_search.training.augmentation import PRESETS


@dataclass(frozen=True)
class Settings:
    """Settings of a run; those that are None follow from the starting point.

    ``start`` is an encoder (shipped name or folder), a timm backbone with ImageNet weights, or
    ``scratch``: a small residual network for small grey pictures. A batch has ``classes`` x
    ``images`` pictures; an epoch is ``epoch_steps`` batches. ``rate`` is AdamW's highest learning
    rate, the backbone's is ``backbone_rate`` times that; it rises over the share ``warm_up`` of
    the steps and falls to nought as a cosine. ``average`` is the decay of the averaged weights,
    which are what is validated; of all epochs the last is kept whose recall@1 lies within a
    standard error of the highest. ``patience`` is how many epochs without a better
    recall@1 end the run. ``frozen`` is the share of the backbone's groups of layers, from
    the input on, that are never trained. ``freeze`` is how many steps only the head is
    trained, ``freeze_norm`` keeps batch normalisation's statistics. ``hard_every``
    mines the hardest classes for each other every so many epochs, 0 for never. ``size`` is height
    and width in pixels, ``crop`` the share of a photo's short side that is seen, from its middle.
    """

    start: str = "general"
    loss: str = "multi-similarity"
    augmentation: str = "photo"
    steps: int = 600
    epoch_steps: int = 50
    classes: int = 16
    images: int = 4
    rate: float | None = None
    backbone_rate: float | None = None
    weight_decay: float = 1e-4
    warm_up: float = 0.1
    clip: float = 10.0
    average: float = 0.99
    dimension: int | None = None
    dropout: float = 0.0
    frozen: float | None = None
    freeze: int = 0
    freeze_norm: bool | None = None
    hard_every: int = 0
    size: int | None = None
    crop: float | None = None
    holdout: float = 0.2
    patience: int = 8
    seed: int = 0
    cache_bytes: int = 4 << 30

    def resolved(self) -> Settings:
        """With what follows from the starting point filled in. Raises UsageError."""
        from siamese_search.training.losses import LOSSES

        for what, value, known in (
            ("loss", self.loss, LOSSES),
            ("augmentation", self.augmentation, PRESETS),
        ):
            if value not in known:
                raise UsageError(f"unknown {what} {value!r}: choose one of {', '.join(known)}")
        bounds = {"steps": 1, "epoch_steps": 1, "classes": 2, "images": 1, "patience": 1}
        for field, least in bounds.items():
            if getattr(self, field) < least:
                raise UsageError(f"{field} is {getattr(self, field)}: at least {least}")
        if not 0 <= self.holdout < 1:
            raise UsageError(
                f"holdout is {self.holdout}: a share of the classes, from 0 to below 1"
            )
        for field in ("crop", "frozen"):
            value = getattr(self, field)
            if (value is not None and not 0 <= value <= 1) or (field == "crop" and value == 0):
                raise UsageError(f"{field} is {value}: a share, from 0 to 1")
        scratch = self.start == "scratch"
        defaults: dict[str, Any] = {
            "rate": 4e-3 if scratch else 3e-4,
            "backbone_rate": 1.0 if scratch else 0.3,
            "freeze_norm": not scratch,
            "frozen": 0.0 if scratch else 0.5,
        }
        missing = {
            field: value for field, value in defaults.items() if getattr(self, field) is None
        }
        return replace(self, **missing)
