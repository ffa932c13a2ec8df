"""What a training run is asked to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from siamese_search.errors import UsageError
from siamese_search.training.augmentation import PRESETS

LEAST = {"epoch_steps": 1, "classes": 2, "patience": 1, "dimension": 2, "size": 16}  # others: 0
MOST = (1 << 63) - 1  # of whole numbers
SHARES = {"warm_up", "average", "crop", "frozen", "give_up", "coarse", "dropout", "holdout"}
ABOVE_NOUGHT, BELOW_ONE = {"crop", "clip"}, {"dropout", "holdout"}


@dataclass(frozen=True)
class Settings:
    """Settings of a run; those that are None follow from the starting point.

    ``start`` is an encoder (shipped name or folder), a timm backbone with ImageNet weights, or
    ``scratch``: a small residual network for small grey pictures. A batch has ``classes`` x
    ``images`` pictures; an epoch is ``epoch_steps`` batches. ``rate`` is AdamW's highest learning
    rate, the backbone's is ``backbone_rate`` times that; it rises over the share ``warm_up`` of the
    steps and falls to nought as a cosine. With no ``steps`` the weights stay as they are, and only
    how the pictures vary is learned. ``average`` is the decay of the averaged weights, which
    are what is validated; of all epochs the last is kept whose mAP@R on what is held out is at most
    a standard error below the highest. ``patience`` is how many epochs in turn that are worse than
    that end the run; ``give_up`` is the share of the steps from which on a run ends that has gained
    nothing over its start and does not rise any more, None for never; neither counts steps that
    are ``coarse``. ``frozen`` is the share of
    the backbone's groups of layers, from the input on, that are never trained. ``freeze`` is how
    many steps only the head is trained, ``freeze_norm`` keeps batch normalisation's statistics.
    ``hard_every`` mines the hardest classes for each other every so many epochs, 0 for never.
    ``size`` is height and width in pixels, ``crop`` the share of a photo's short side that is seen,
    from its middle; ``coarse`` is the share of the steps, the first ones, in which two thirds of
    that size are seen, which is faster.
    """

    start: str = "general-2"
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
    give_up: float | None = None
    coarse: float = 0.0

    def resolved(self) -> Settings:
        """With what follows from the starting point filled in. Raises UsageError."""
        from siamese_search.training.losses import LOSSES

        for what, value, known in (
            ("loss", self.loss, LOSSES),
            ("augmentation", self.augmentation, PRESETS),
        ):
            if value not in known:
                raise UsageError(f"unknown {what} {value!r}: choose one of {', '.join(known)}")
        least = {
            "steps": int(self.start == "scratch"),
            "images": 1 if self.loss == "self-supervised" else 2,
        }
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if "int" in str(field.type):
                _require_whole(field.name, value, least.get(field.name, LEAST.get(field.name, 0)))
            elif "float" in str(field.type):
                _require_real(field.name, value)
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


def _require_whole(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"{name} is {value}: at least {least}")
    if value > MOST:
        raise UsageError(f"{name} is {value}: at most {MOST}")


def _require_real(name: str, value: float) -> None:
    share, above, below = (name in names for names in (SHARES, ABOVE_NOUGHT, BELOW_ONE))
    inside = 0 <= value <= (1 if share else sys.float_info.max)  # false for what is no number
    if not inside or (above and value == 0) or (below and value == 1):
        start = "above 0" if above else "from 0"
        what = f"a share, {start} to{' below' * below} 1" if share else f"a number, {start} on"
        raise UsageError(f"{name} is {value}: {what}")


def parsed(assignments: Iterable[str]) -> dict[str, Any]:
    """Settings given as NAME=VALUE, values as in JSON. Raises UsageError, naming what is there."""
    types = {field.name: str(field.type) for field in fields(Settings)}
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        if name not in types:
            raise UsageError(f"there is no setting {name!r}: choose of {', '.join(types)}")
        try:
            value = text if "str" in types[name] else json.loads(text)
        except ValueError:
            raise UsageError(f"{assignment}: {name} takes {types[name]}, not {text!r}") from None
        if isinstance(value, int) and "float" in types[name] and not isinstance(value, bool):
            value = float(value)
        known = {"str": str, "int": int, "float": float, "bool": bool, "None": type(None)}
        if type(value) not in [known[part.strip()] for part in types[name].split("|")]:
            raise UsageError(f"{assignment}: {name} takes {types[name]}, not {text!r}")
        values[name] = value
    return values
