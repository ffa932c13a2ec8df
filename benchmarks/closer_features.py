"""Features for ``closer.py``: global descriptors, and the cells that places are made of.

EfficientNet-Lite0 with ImageNet weights, not trained further, as an ONNX graph run by OpenVINO;
each set is computed once and kept in ``runs/closer``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from build_general import PREPROCESSING, build_network
from common import ROOT, cub_classes, data_folder, grocery_iconic, grocery_split
from PIL import Image
from torch import Tensor, nn

from siamese_search.embedding import pipeline
from siamese_search.embedding.network import EmbeddingNetwork
from siamese_search.embedding.openvino_runtime import import_openvino
from siamese_search.pictures import render

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

KEPT = ROOT / "runs" / "closer"
DOMAINS = ("cars", "faces", "flowers", "objects", "signs")
FIRST = 8  # pictures of each of the first hundred birds
BATCH = 32
SIDE = 7  # cells along each side
# Channels of the descriptor's parts and how much each weighs: the head (generalised mean, power 2),
# then mean and standard deviation of stages 7, 5 and 3.
PARTS = ((1280, 1.0), (320, 0.5), (320, 0.5), (112, 0.5), (112, 0.5), (40, 0.3), (40, 0.3))


@dataclass(frozen=True)
class Features:
    """Of n pictures: descriptors (n, 2224) of unit length, stage-5 cells (n, 49, 112), the mean of
    four neighbours each, and labels (n,), numbered.
    """

    descriptors: FloatArray
    cells: FloatArray
    labels: IntArray
    names: npt.NDArray[np.str_]


class Looking(nn.Module):
    """Pixels to the descriptor's parts and the cells."""

    def __init__(self, network: EmbeddingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        network = self.network
        images = (pixels.permute(0, 3, 1, 2).float() - network.mean) / network.std
        head, stages = cast(Any, network.backbone).forward_intermediates(images, indices=[2, 3, 4])
        parts = [head.clamp(min=1e-6).pow(2).mean((2, 3)).sqrt()]
        for stage in reversed(stages):
            parts += [stage.mean((2, 3)), stage.flatten(2).std(2)]
        cells = nn.functional.avg_pool2d(stages[1], 2)
        return torch.cat(parts, 1), cells.flatten(2).transpose(1, 2)


@cache
def graph() -> Any:
    """The compiled graph."""
    pixels = torch.zeros((2, PREPROCESSING.height, PREPROCESSING.width, 3), dtype=torch.uint8)
    program = torch.onnx.export(
        Looking(build_network()).eval(),
        (pixels,),
        dynamo=True,
        opset_version=18,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        verbose=False,
    )
    assert program is not None
    core = import_openvino().Core()
    model = core.read_model(program.model_proto.SerializeToString(), b"")
    return core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def listed(name: str) -> list[tuple[str, str]]:
    """Paths and classes of a set."""
    if name in DOMAINS:
        files = sorted((data_folder() / "domains" / name).rglob("*"))
        return [(str(path), path.parent.name) for path in files if path.is_file()]
    if name == "birds-first":
        return [(p.path, p.fine) for birds in cub_classes()[:100] for p in birds[:FIRST]]
    if name == "birds-last":
        return [(p.path, p.fine) for birds in cub_classes()[100:] for p in birds]
    photos = grocery_iconic() if name == "iconic" else grocery_split(name.partition("-")[2])
    return [(photo.path, photo.fine) for photo in photos]


def rendered(path: str, view: str) -> npt.NDArray[np.uint8]:
    """A picture's pixels: its centre (``view`` is a share of its side), or turned (``turnN``)."""
    content = Path(path).read_bytes()
    if not view.startswith("turn"):
        share = PREPROCESSING.crop_fraction * float(view)
        return render.decode(content, replace(PREPROCESSING, crop_fraction=share))
    wide = replace(PREPROCESSING, width=320, height=320, crop_fraction=1.0)
    pixels = render.decode(content, wide)
    fill = tuple(int(value) for value in np.median(pixels.reshape(-1, 3), axis=0))
    turned = Image.fromarray(pixels).rotate(
        int(view[4:]), Image.Resampling.BILINEAR, fillcolor=fill
    )
    middle = turned.crop((20, 20, 300, 300))
    return np.asarray(middle.resize((224, 224), Image.Resampling.BILINEAR))


def features(name: str, view: str = "1") -> Features:
    """Features of a set under a view; descriptors alone, no cells, under any but the whole."""
    path = KEPT / f"{name}-{view}.npz"
    if not path.exists():
        begun = time.perf_counter()
        KEPT.mkdir(parents=True, exist_ok=True)
        made = list(computed([p for p, _ in listed(name)], view))
        kept = {"pooled": np.concatenate([one[0] for one in made])}
        if view == "1":
            kept["cells"] = np.concatenate([one[1] for one in made]).astype(np.float16)
        np.savez(path, **cast(Any, kept))
        print(f"  {name} {view}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    with np.load(path) as stored:
        pooled, few = stored["pooled"], np.empty((0, SIDE**2, 112), np.float32)
        cells = stored["cells"].astype(np.float32) if "cells" in stored.files else few
    names, labels = np.unique([label for _, label in listed(name)], return_inverse=True)
    return Features(joined(pooled), cells, labels.astype(np.int64), names)


def computed(paths: list[str], view: str) -> Iterator[tuple[FloatArray, FloatArray]]:
    """The graph's outputs, batch by batch."""
    with pipeline.thread_pool() as pool:
        pixels = pipeline.parallel_map(pool, lambda p: rendered(p, view), paths, ahead=2 * BATCH)
        for batch in pipeline.batches(pixels, BATCH):
            pooled, cells = graph()(np.stack(batch)).values()
            yield pooled.copy(), cells.copy()


def joined(pooled: FloatArray) -> FloatArray:
    """The descriptor: parts of unit length, weighed."""
    ends = np.cumsum([size for size, _ in PARTS])[:-1]
    parts = np.split(pooled, ends, axis=1)
    weighed = [weight * unit(part) for part, (_, weight) in zip(parts, PARTS, strict=True)]
    return unit(np.concatenate(weighed, axis=1))


def unit(vectors: FloatArray) -> FloatArray:
    """Rows of unit length."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-6), np.float32)
