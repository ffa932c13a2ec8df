"""Views of a network that train faster than it would, over the same tensors.

Low layers of a trained backbone serve any pictures; where there is little data, training them
over-fits, and takes most of the time. Those that are frozen are folded here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from siamese_search.embedding.network import EmbeddingNetwork
from siamese_search.errors import UsageError


def lower_layers(backbone: nn.Module, share: float) -> list[nn.Parameter]:
    """The parameters of the first groups of layers, this share of the groups, as timm cuts them.

    Raises UsageError for a backbone that timm does not cut into groups.
    """
    if not share:
        return []
    if not hasattr(backbone, "group_matcher"):
        raise UsageError("this backbone's layers are not in groups: take --frozen 0")
    groups = group_parameters(backbone, cast(Any, backbone).group_matcher(coarse=True))
    parameters = dict(backbone.named_parameters())
    chosen = sorted(groups)[: round(share * len(groups))]
    return [parameters[name] for number in chosen for name in groups[number]]


def training_view(
    network: EmbeddingNetwork, images: Tensor, still: bool = False
) -> EmbeddingNetwork:
    """The same network over the same tensors, made for training.

    Where neither batch normalisation nor the convolution before it is trained, the two become one
    convolution; where its statistics are ``still``, one that is made of both in each step.
    ``images`` (n, channels, height, width) are what both are compared on: where layers follow each
    other otherwise than they are listed, nothing is folded.
    """
    view = _shared_copy(network)
    _fold(view, still)
    with torch.inference_mode():
        if not torch.allclose(network.eval().embed(images), view.eval().embed(images), atol=1e-3):
            view = _shared_copy(network)
    if images.device.type == "cpu":
        for module in view.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1 and module.weight.requires_grad:
                setattr(module, "forward", _in_full_precision(module.forward))  # noqa: B010
    return view


def _shared_copy(network: EmbeddingNetwork) -> EmbeddingNetwork:
    shared: dict[int, Any] = {id(t): t for t in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, shared)


def _in_full_precision(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """On CPUs the gradient of a depthwise convolution takes several times longer in bfloat16."""

    def run(images: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(images.float())

    return run


class _Normalised(nn.Module):
    """A convolution and the batch normalisation after it, whose statistics do not change, as one
    convolution. Its weights are made of both each time, so that both learn, and the maps between
    them are never written.
    """

    def __init__(self, convolution: nn.Conv2d, norm: _BatchNorm) -> None:
        super().__init__()
        self.convolution, self.norm = convolution, norm

    def forward(self, images: Tensor) -> Tensor:
        norm = self.norm
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        weight = self.convolution.weight * scale[:, None, None, None]
        if self.convolution.bias is not None:
            shift = shift + self.convolution.bias * scale
        made = {"weight": weight, "bias": shift}
        maps: Tensor = torch.func.functional_call(self.convolution, made, (images,))
        return maps


def _fold(module: nn.Module, still: bool) -> None:
    for (place, one), (name, following) in pairwise(module.named_children()):
        if not (isinstance(one, nn.Conv2d) and isinstance(following, _BatchNorm)):
            continue
        trained = any(p.requires_grad for p in (*one.parameters(), *following.parameters()))
        if trained and not (still and following.affine and following.track_running_stats):
            continue
        if trained:
            setattr(module, place, _Normalised(one, following))
        else:
            plain = nn.BatchNorm2d(following.num_features, following.eps).eval()
            plain.load_state_dict(following.state_dict())
            fused = fuse_conv_bn_eval(one.eval(), plain)
            one.weight, one.bias = fused.weight, fused.bias
        # timm's batch normalisation has the activation in it.
        activation = getattr(following, "act", None)
        setattr(module, name, activation if activation is not None else nn.Identity())
    for child in module.children():
        if not isinstance(child, _Normalised):
            _fold(child, still)
