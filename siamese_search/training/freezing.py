"""Freezing: layers next to the input that keep their weights, and run faster for it.

Low layers of a trained backbone serve any pictures; where there is little data, training them
over-fits, and takes most of the time.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any, cast

import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from siamese_search.errors import UsageError
from siamese_search.network import EmbeddingNetwork


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


def folded(network: EmbeddingNetwork, images: Tensor) -> EmbeddingNetwork:
    """The same network over the same tensors, but for batch normalisation that is frozen.

    Where neither it nor the convolution before it is trained, the two become one convolution.
    ``images`` (n, channels, height, width) are what both are compared on: where layers follow each
    other otherwise than they are listed, the network comes back as it is.
    """
    shared: dict[int, Any] = {id(t): t for t in (*network.parameters(), *network.buffers())}
    view = copy.deepcopy(network, shared)
    _fold(view)
    with torch.inference_mode():
        same = torch.allclose(network.eval().embed(images), view.eval().embed(images), atol=1e-3)
    return view if same else network


def _fold(module: nn.Module) -> None:
    for (_, one), (name, following) in pairwise(module.named_children()):
        if (
            isinstance(one, nn.Conv2d)
            and isinstance(following, _BatchNorm)
            and not any(p.requires_grad for p in (*one.parameters(), *following.parameters()))
        ):
            plain = nn.BatchNorm2d(following.num_features, following.eps).eval()
            plain.load_state_dict(following.state_dict())
            fused = fuse_conv_bn_eval(one.eval(), plain)
            one.weight, one.bias = fused.weight, fused.bias
            # timm's batch normalisation has the activation in it.
            activation = getattr(following, "act", None)
            setattr(module, name, activation if activation is not None else nn.Identity())
    for child in module.children():
        _fold(child)
