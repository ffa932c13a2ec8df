"""The embedding network in torch: pixels in, unit-length embeddings out.

Only the torch runtime and training import this, since torch takes seconds to import. An
architecture is the JSON that ``encoder.json`` carries:

    backbone     a timm model name, or siasearch_resnet (backbones.py)
    arguments    what timm is to build it with beside the channels, such as img_size; none if absent
    channels     1 or 3
    mean, std    a number per channel, on the 0 to 255 scale: (pixel - mean) / std
    pooling      a list of parts, each with
        source   "features" (what the backbone's classifier would pool), a stage number, or "head":
                 what the backbone's own head makes of the features for its classifier (a class
                 token, attention pooling, ...), which is taken as it is
        power    of the generalised mean (Radenovic et al. 2018); 1 is the plain mean
        grid     cells along each side that are pooled apart and joined, 1 if absent; more than
                 one keeps where things are, for pictures that are centred
        spread   standard deviation of a centred Gaussian window, in half widths of the feature
                 map; null is uniform
        weight   length of this part in the concatenation
        deviation    true for the standard deviation over the map, in place of a mean; false if
                 absent
    dropout      probability, before the projection
    projection   dimension of a learned linear projection, or null for none
    centred      true where the projection takes a mean off first: it has a bias; false if absent
    precision    "float32" for a network that half precision is too coarse for; none if absent
    places       local features beside the embedding, none if absent: the means over the cells of a
                 ``grid`` on the map of ``source``, projected to ``dimension``

It knows nothing of files, training or galleries.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from siamese_search.decision.closer import fit_projection
from siamese_search.embedding import backbones  # noqa: F401  registers ours with timm

HALF = float(np.finfo(np.float16).max)
# What would have timm read files, or build what is no backbone.
UNTAKEN = {"pretrained", "checkpoint_path", "cache_dir", "features_only", "in_chans", "num_classes"}


class EmbeddingNetwork(nn.Module):
    """Builds the network that an architecture describes, with random weights.

    ``dimension`` is that of the embeddings, ``place_shape`` that of a picture's places, None where
    it has none. Embedding raises ValueError where the backbone's
    features are not maps that can be pooled.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Mapping[str, Any]) -> None:
        super().__init__()
        channels = int(architecture.get("channels", 3))
        self.backbone = timm.create_model(
            _known(architecture["backbone"]),
            pretrained=False,
            in_chans=channels,
            num_classes=0,
            **arguments_of(architecture),
        )
        parts: Sequence[Mapping[str, Any]] = architecture["pooling"]
        places = architecture.get("places")
        sources = {part["source"] for part in parts} | ({places["source"]} if places else set())
        self._stages = sorted(sources - {"features", "head"})
        self.pools = nn.ModuleList(_pool(part) for part in parts)
        self._sources = [part["source"] for part in parts]
        self._weights = [float(part.get("weight", 1.0)) for part in parts]
        for name in ("mean", "std"):
            values = torch.tensor(architecture[name], dtype=torch.float32)
            self.register_buffer(name, values.reshape(1, -1, 1, 1), persistent=False)
        width = sum(self._channels_of(p["source"]) * p.get("grid", 1) ** 2 for p in parts)
        projection = architecture.get("projection")
        self.dropout = nn.Dropout(float(architecture.get("dropout", 0.0)))
        centred = bool(architecture.get("centred", False))
        self.projection = nn.Linear(width, projection, centred) if projection else nn.Identity()
        self.dimension = int(projection or width)
        self._places: str | int = places["source"] if places else ""
        self.place_shape = (int(places["grid"]) ** 2, int(places["dimension"])) if places else None
        if places:
            self.cells = nn.AdaptiveAvgPool2d(places["grid"])
            self.places = nn.Conv2d(self._channels_of(places["source"]), places["dimension"], 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (n, height, width, channels) to float32 (n, dimension), each row unit length."""
        # Moving the last axis this way leaves the memory as it is: channels_last.
        return self.embed(pixels.permute(0, 3, 1, 2).float())

    def embed(self, images: Tensor) -> Tensor:
        """The same from float32 (n, channels, height, width), 0 to 255, as training has them."""
        return self._embedding(self._feature_maps((images - self.mean) / self.std))

    def describe(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The embeddings of ``forward``, and places (n, grid * grid, dimension), row by row, each
        of unit length. Only where the architecture has places.
        """
        maps = self.maps(pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            cells = self.places(self.cells(maps[self._places].float()))
            places = functional.normalize(cells, dim=1).flatten(2).transpose(1, 2)
        return self._embedding(maps), places

    @torch.no_grad()
    def fit_places(self, batches: Iterable[Tensor]) -> None:
        """Make places of the directions in which cells of pictures vary.

        ``batches`` are uint8 (n, height, width, channels). Only where the architecture has places.
        """
        assert self.place_shape is not None
        cells = [self.cells(self.maps(pixels)[self._places].float()) for pixels in batches]
        rows = torch.cat([one.flatten(2).transpose(1, 2).flatten(0, 1).cpu() for one in cells])
        mean, whitening = fit_projection(rows.numpy(), self.place_shape[1])
        weights = torch.from_numpy(np.ascontiguousarray(whitening.T))
        self.places.weight.copy_(weights[:, :, None, None])
        cast(Tensor, self.places.bias).copy_(torch.from_numpy(-mean @ whitening))

    def maps(self, pixels: Tensor) -> dict[str | int, Tensor]:
        """The feature maps that are pooled, (n, channels, rows, columns) by their sources."""
        return self._feature_maps((pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std)

    def _embedding(self, maps: Mapping[str | int, Tensor]) -> Tensor:
        """From feature maps by source to unit-length embeddings (n, dimension)."""
        # Half precision is for the backbone: squares and norms stay in float32.
        with torch.autocast(maps[self._sources[0]].device.type, enabled=False):
            pooled = [
                weight * functional.normalize(pool(maps[source].float()))
                for pool, source, weight in zip(
                    self.pools, self._sources, self._weights, strict=True
                )
            ]
            embedding = self.projection(self.dropout(torch.cat(pooled, dim=1)))
            return functional.normalize(embedding)

    def _feature_maps(self, images: Tensor) -> dict[str | int, Tensor]:
        """The maps to pool, each (n, channels, rows, columns), by source; a head's (n, width)."""
        backbone = cast(Any, self.backbone)
        maps: dict[str | int, Tensor] = {}
        if self._stages:
            features, stages = backbone.forward_intermediates(images, indices=self._stages)
            maps.update(zip(self._stages, stages, strict=True))
        else:
            features = backbone.forward_features(images)
        if "features" in (*self._sources, self._places):
            maps["features"] = features
        found = {source: self._as_map(features) for source, features in maps.items()}
        if "head" in self._sources:
            found["head"] = backbone.forward_head(features, pre_logits=True)
        return found

    def _as_map(self, features: Tensor) -> Tensor:
        """What a backbone gives as (n, channels, rows, columns).

        Transformers give tokens (n, count, channels), those of no place first, or channels last.
        """
        backbone = cast(Any, self.backbone)
        if features.ndim == 3:
            tokens = features[:, int(getattr(backbone, "num_prefix_tokens", 0)) :]
            count, places, channels = tokens.shape
            side = math.isqrt(places)
            return tokens.transpose(1, 2).reshape(count, channels, side, places // side)
        if features.ndim != 4:
            raise ValueError("it gives no feature maps")
        if getattr(backbone, "output_fmt", "NCHW") == "NHWC":
            return features.permute(0, 3, 1, 2)
        return features

    def _channels_of(self, source: str | int) -> int:
        backbone = cast(Any, self.backbone)
        if source == "features":
            return int(backbone.num_features)
        if source == "head":
            return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)
        return int(backbone.feature_info[source]["num_chs"])


def _known(name: object) -> str:
    """A name that timm knows; ValueError for any other, such as a file's or a hub's."""
    if not isinstance(name, str) or not timm.is_model(name):
        raise ValueError(f"timm knows no backbone {name!r}")
    return name


def arguments_of(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """What timm builds an architecture's backbone with. Raises ValueError for what it shall not."""
    given = architecture.get("arguments") or {}
    for name in given:
        if name in UNTAKEN or name.startswith("pretrained"):
            raise ValueError(f"a backbone has no argument {name!r} here")
    return {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}


def _pool(part: Mapping[str, Any]) -> nn.Module:
    """What pools a part of an architecture's ``pooling``."""
    if part["source"] == "head":
        return nn.Identity()
    if part.get("grid", 1) > 1:
        return GridPool(part["grid"])
    if part.get("deviation", False):
        return DeviationPool()
    return WindowedPool(part.get("power", 1.0), part.get("spread"))


class DeviationPool(nn.Module):
    """Standard deviations over a feature map: how unevenly something is spread."""

    def forward(self, maps: Tensor) -> Tensor:
        """float32 (n, channels, rows, columns) to (n, channels)."""
        apart = maps.flatten(2) - maps.mean(dim=(2, 3))[:, :, None]
        # The root has no slope at nought.
        return (apart * apart).mean(dim=2).clamp(min=1e-12).sqrt()


class GridPool(nn.Module):
    """Means over the cells of a grid on a feature map, all joined."""

    def __init__(self, grid: int) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, maps: Tensor) -> Tensor:
        """float32 (n, channels, rows, columns) to (n, channels * grid * grid)."""
        return functional.adaptive_avg_pool2d(maps, self.grid).flatten(1)


class WindowedPool(nn.Module):
    """Generalised mean over a feature map, under a centred Gaussian window.

    The window makes what is in the middle of the picture count more than its surroundings.
    """

    def __init__(self, power: float = 1.0, spread: float | None = None) -> None:
        super().__init__()
        self.power = power
        self.spread = spread

    def forward(self, maps: Tensor) -> Tensor:
        """float32 (n, channels, rows, columns) to (n, channels)."""
        window = self._window(maps.shape[2], maps.shape[3], maps.device)
        if self.power == 1.0:
            return maps.flatten(2) @ window
        raised = maps.clamp(min=1e-6).pow(self.power)
        return (raised.flatten(2) @ window).pow(1.0 / self.power)

    def _window(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """float32 (rows * columns,), sums to one."""
        if self.spread is None:
            return torch.full((rows * columns,), 1.0 / (rows * columns), device=device)
        falls = [
            torch.exp(-0.5 * (torch.linspace(-1.0, 1.0, size, device=device) / self.spread) ** 2)
            for size in (rows, columns)
        ]
        window = torch.outer(falls[0], falls[1]).flatten()
        return window / window.sum()


@torch.no_grad()
def round_weights(network: nn.Module) -> None:
    """Round weights in place to float16, so that bfloat16 arithmetic rounds them no further.

    A runtime folds batch normalisation into the convolution before it, then rounds the product:
    with weights as trained, that is most of bfloat16's error. So the product is rounded here, to
    the nearest bfloat16, and every runtime computes with the same weights.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d)]
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.BatchNorm2d):
            continue
        scale = torch.ones(len(layer.weight))
        if isinstance(following, nn.BatchNorm2d) and following.num_features == len(scale):
            variance = cast(Tensor, following.running_var)
            scale = following.weight * torch.rsqrt(variance + following.eps)
            scale[scale.abs() < 1e-6] = 1  # such a channel is nought in any case
        scale = scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
        layer.weight.copy_(((layer.weight * scale).bfloat16().float() / scale).half().float())


def export_onnx(network: EmbeddingNetwork, height: int, width: int) -> bytes:
    """The network as an ONNX graph: ``pixels`` uint8 (n, height, width, channels), any n, to
    ``embedding`` float32 (n, dimension) and, where the architecture has them, ``places`` float32
    (n, grid * grid, dimension of places).

    Kernels are stored as float16, where that holds their values, and cast to float32, which halves
    the file; what is computed stays float32. Needs onnx and onnxscript.
    """
    # The torch runtime has no need of these.
    import onnx
    from onnx import numpy_helper

    network = copy.deepcopy(network).cpu().eval()
    pixels = torch.zeros((2, height, width, network.mean.shape[1]), dtype=torch.uint8)
    names = ["embedding"] if network.place_shape is None else ["embedding", "places"]
    program = torch.onnx.export(
        network if network.place_shape is None else _Describing(network).eval(),
        (pixels,),
        dynamo=True,
        opset_version=18,
        input_names=["pixels"],
        output_names=names,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        verbose=False,
    )
    assert program is not None
    exported = program.model_proto
    casts = []
    for tensor in exported.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim > 1 and np.abs(values).max(initial=0) <= HALF:
            name = tensor.name
            halved = numpy_helper.from_array(values.astype(np.float16), f"{name}.half")
            tensor.CopyFrom(halved)
            casts.append(
                onnx.helper.make_node("Cast", [halved.name], [name], to=onnx.TensorProto.FLOAT)
            )
    # A fresh graph: the exporter's notes on every node name the source files it came from.
    nodes = casts + [_without_notes(node) for node in exported.graph.node]
    graph = onnx.helper.make_graph(
        nodes,
        "encoder",
        [
            onnx.helper.make_tensor_value_info(
                "pixels", onnx.TensorProto.UINT8, ["batch", *pixels.shape[1:]]
            )
        ],
        [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *shape])
            for name, shape in zip(
                names, ((network.dimension,), network.place_shape or ()), strict=False
            )
        ],
        list(exported.graph.initializer),
    )
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=10,
        producer_name="siasearch",
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


class _Describing(nn.Module):
    """A network whose forward gives places, too."""

    def __init__(self, network: EmbeddingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.describe(pixels)


def _without_notes(node: Any) -> Any:
    del node.metadata_props[:]
    node.doc_string = ""
    return node
