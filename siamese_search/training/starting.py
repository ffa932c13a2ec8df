"""Starting points: the embedding network that a run begins with.

Knows nothing of pictures and losses.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import Any

import safetensors
import safetensors.torch
import torch

from siamese_search.decision.learning import Prior
from siamese_search.embedding.backbones import imagenet_weights
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.network import EmbeddingNetwork
from siamese_search.embedding.record import shipped, verified_bytes
from siamese_search.errors import EncoderError, UsageError
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.training.settings import Settings

SMALL = 48  # pixels: height and width for a network from scratch
PHOTO = 224
GRID = 3  # where strokes lie tells characters apart: a mean over the whole would lose it

# Why: benchmarks/results/encoder_choice.md. The second part is the last block, before the head.
PHOTO_POOLING = [
    {"source": "features", "power": 2.0, "spread": 1.0, "weight": 1.0},
    {"source": 4, "power": 1.0, "spread": 1.0, "weight": 0.5},
]


@dataclass(frozen=True)
class Start:
    """The network to train, its architecture, and how pictures become its pixels.

    ``encoder`` is whose weights the network has, None where it is nobody's.
    """

    network: EmbeddingNetwork
    architecture: dict[str, Any]
    how: Preprocessing
    encoder: Encoder | None = None

    @property
    def is_encoder(self) -> bool:
        """Whether the untrained network embeds as the encoder does."""
        return (
            self.encoder is not None
            and self.how == self.encoder.record.preprocessing
            and self._is_built_alike
        )

    @property
    def prior(self) -> Prior | None:
        """What the encoder knows for the metrics of galleries, which trained weights still serve;
        None where it knows nothing, or a new projection makes other directions.
        """
        return self.encoder.prior if self.encoder is not None and self._is_built_alike else None

    @property
    def _is_built_alike(self) -> bool:
        assert self.encoder is not None
        built, theirs = (
            {**architecture, "dropout": 0.0}
            for architecture in (self.architecture, self.encoder.record.architecture)
        )
        return built == theirs


def starting_point(settings: Settings) -> Start:
    """What a run begins with.

    Raises EncoderError where the weights cannot be had, UsageError for an unknown backbone.
    """
    torch.manual_seed(settings.seed)  # for what is new
    start = settings.start
    if start in shipped() or os.path.isfile(os.path.join(start, "encoder.json")):
        return _from_encoder(settings)
    if start == "scratch":
        size = settings.size or SMALL
        architecture = _architecture("siasearch_resnet", 1, [255.0], [64.0], settings)
        architecture["pooling"][0]["grid"] = GRID
        if architecture["projection"] is None:
            architecture["projection"] = 256
        how = _seen(
            Preprocessing(size, size, channels=1, resize="trim", crop_fraction=1.0), settings
        )
        return Start(EmbeddingNetwork(architecture), architecture, how)
    if os.path.isfile(start):
        raise UsageError(
            f"{start} is a file: a start is an encoder's folder, whose weights are safetensors;"
            " pickled weights (.pt, .pth) are not read"
        )
    import timm

    if not timm.is_model(start):
        raise UsageError(
            f"unknown starting point {start!r}: take a shipped encoder ({', '.join(shipped())}), an"
            " encoder's folder, a timm backbone, or scratch"
        )
    settled = timm.get_pretrained_cfg(start)
    mean, std = ([255.0 * v for v in values] for values in (settled.mean, settled.std))
    if start.startswith("tf_efficientnet_lite"):
        mean, std = [127.0] * 3, [128.0] * 3
    size = settings.size or PHOTO
    architecture = _architecture(start, 3, mean, std, settings)
    if start.startswith("tf_efficientnet_lite"):
        architecture["pooling"] = PHOTO_POOLING
    network = EmbeddingNetwork(architecture)
    _try(network, start, size)
    network.backbone.load_state_dict(imagenet_weights(start))
    _project_evenly(network)
    return Start(network, architecture, _seen(Preprocessing(size, size), settings))


def _try(network: EmbeddingNetwork, start: str, size: int) -> None:
    """Raise UsageError for a backbone whose features cannot be pooled, before weights are had."""
    try:
        with torch.inference_mode():
            made = network.eval()(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"the backbone {start!r} cannot be used at {size} pixels: {str(error).splitlines()[0]}"
        ) from error
    assert made.shape == (1, network.dimension)


def _architecture(
    backbone: str, channels: int, mean: list[float], std: list[float], settings: Settings
) -> dict[str, Any]:
    return {
        "backbone": backbone,
        "channels": channels,
        "mean": mean,
        "std": std,
        "pooling": [{"source": "features", "power": 1.0, "spread": None, "weight": 1.0}],
        "dropout": settings.dropout,
        "projection": settings.dimension,
    }


def _seen(how: Preprocessing, settings: Settings) -> Preprocessing:
    """Preprocessing with the size and the crop that are asked for. Raises UsageError for a crop
    where none is made.
    """
    if settings.crop not in (None, how.crop_fraction) and how.resize != "crop":
        raise UsageError(
            f"{settings.start} does not crop pictures, so --crop would do nothing: leave it out"
        )
    return replace(
        how,
        height=settings.size or how.height,
        width=settings.size or how.width,
        crop_fraction=settings.crop or how.crop_fraction,
    )


def _from_encoder(settings: Settings) -> Start:
    """The network of an encoder, with a new projection where another dimension is asked for."""
    encoder = Encoder.open(settings.start, "cpu")
    architecture = dict(encoder.record.architecture)
    if architecture.get("graph") == "onnx":
        raise EncoderError(
            f"{encoder.folder} was an ONNX file, whose network cannot be trained further: start"
            " from a timm backbone or another encoder"
        )
    how = _seen(encoder.record.preprocessing, settings)
    content = verified_bytes(encoder.folder, encoder.record, "weights.safetensors")
    try:
        loaded = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise EncoderError(f"{encoder.folder}'s weights are no safetensors: {error}") from error
    weights = {name: tensor.float() for name, tensor in loaded.items()}
    fresh = settings.dimension is not None and settings.dimension != architecture["projection"]
    architecture["dropout"] = settings.dropout
    if fresh:
        architecture["projection"] = settings.dimension
        for name in ("projection.weight", "projection.bias"):
            weights.pop(name, None)
    try:
        network = EmbeddingNetwork(architecture)
        network.load_state_dict(weights, strict=not fresh)
    except (KeyError, RuntimeError) as error:
        raise EncoderError(
            f"{encoder.folder} cannot be trained further: {str(error).splitlines()[0]}"
        ) from error
    if fresh:
        _project_evenly(network)
    return Start(network, architecture, how, encoder)


def _project_evenly(network: EmbeddingNetwork) -> None:
    """Make a new projection a random rotation, which keeps cosines nearly as they were."""
    weight = getattr(network.projection, "weight", None)
    if weight is not None:
        torch.nn.init.orthogonal_(weight)
        with torch.no_grad():
            weight.mul_(math.sqrt(max(1.0, weight.shape[1] / weight.shape[0])))
            bias = getattr(network.projection, "bias", None)
            if bias is not None:
                bias.zero_()
