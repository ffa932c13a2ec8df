"""Imported networks of real sizes: parity with torch, and images a second against plain torch.

    python benchmarks/imports.py [--photos 32] [--repeats 3]

Five networks that timm knows, with random weights, are imported as anybody would import them. Then
three ways take turns at the same Grocery photos: the loop that people write (open a file with
Pillow, timm's transform, the network, a picture at a time, by torch on all cores), and the encoder
as a gallery runs it, in float32 and as it runs here (in bfloat16 where the processor has it, unless
that is too coarse for the network). All count decoding. Cosines are to torch, on eight of these
photos, both on the same pixels.
"""

from __future__ import annotations

import gc
import os
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import safetensors.torch
import timm
import torch
from common import (
    Bars,
    grocery_split,
    interleaved,
    median_ratio,
    medians,
    parser,
    seconds,
    table,
    write_results,
)
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn

from siamese_search import Encoder
from siamese_search.embedding import pipeline
from siamese_search.embedding.openvino_runtime import OpenVINORuntime, import_openvino
from siamese_search.embedding.runtimes import Runtime
from siamese_search.importing.network import import_network
from siamese_search.importing.stated import Stated
from siamese_search.importing.writing import write_imported
from siamese_search.machine import cores
from siamese_search.pictures import render

SIZE = 224
NETWORKS = (
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch16_siglip_224",
    "convnext_tiny",
    "efficientnet_b0",
    "swin_tiny_patch4_window7_224",
)
PLAIN, EXACT, OURS = "plain torch, float32", "encoder, float32", "encoder, as it runs here"
SEED = 0
PARITY, FASTER, FASTER_HALVED = 0.999, 2.0, 4.0


def main() -> None:
    """Measure, print, write the results."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--photos", type=int, default=32)
    options = arguments.parse_args()
    torch.set_num_threads(cores())
    paths = [photo.path for photo in grocery_split("val")]
    photos = random.Random(SEED).sample(paths, options.photos)
    core = import_openvino().Core()
    halved = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    bars, rows, results = Bars(), [], {}
    with tempfile.TemporaryDirectory() as place:
        for name in NETWORKS:
            found = measured(name, Path(place, name), photos, options.repeats, halved)
            gc.collect()
            results[name] = found
            rows.append(row(name, found))
            for runtime, cosine in found["least cosine"].items():
                bars.at_least(f"{name}: least cosine, {runtime}", cosine, PARITY)
            bars.at_least(f"{name}: float32 over plain", found["float32 over plain"], FASTER)
            if halved:
                faster = found["here over plain"]
                bars.at_least(f"{name}: as it runs here over plain", faster, FASTER_HALVED)
    print(f"{options.photos} photos of the Grocery Store Dataset at {SIZE} pixels, {cores()} cores")
    table("Images a second, decoding counted", HEADER, rows)
    bars.show()
    facts = {"photos": options.photos, "bfloat16": halved, "networks": results}
    write_results("imports", options.encoder, facts | {"bars": bars.rows})


HEADER = (
    *("network", "M parameters", "s to import", "least cosine", "plain torch"),
    *("encoder float32", "times", "encoder here", "times", "here in"),
)


def row(name: str, found: dict[str, Any]) -> tuple[object, ...]:
    """A network's row of the table."""
    rates = found["images/s"]
    return (
        name,
        f"{found['parameters'] / 1e6:.1f}",
        f"{found['seconds to import']:.0f}",
        f"{min(found['least cosine'].values()):.5f}",
        f"{rates[PLAIN]:.1f}",
        f"{rates[EXACT]:.1f}",
        f"{found['float32 over plain']:.1f}",
        f"{rates[OURS]:.1f}",
        f"{found['here over plain']:.1f}",
        found["precision"],
    )


def measured(
    name: str, place: Path, photos: Sequence[str], repeats: int, halved: bool
) -> dict[str, Any]:
    """What there is to say of a network, with random weights."""
    torch.manual_seed(SEED)
    sized = {"img_size": SIZE} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    model = timm.create_model(name, pretrained=False, **sized).eval()
    settle(model, photos[:8])
    place.mkdir()
    weights = place / "model.safetensors"
    tensors = {key: values.contiguous() for key, values in model.state_dict().items()}
    safetensors.torch.save_file(tensors, weights)
    begun = time.perf_counter()
    asked = Stated(height=SIZE, width=SIZE)
    # Which refuses what does not agree with torch.
    made = import_network(name, weights=weights, asked=asked, pictures=photos[:8])
    write_imported(made, place / "encoder")
    took = time.perf_counter() - begun
    encoder = Encoder.open(place / "encoder", "cpu")
    exact = OpenVINORuntime(encoder.folder, encoder.record, exact=True)
    tasks: dict[str, Callable[[], float]] = {
        PLAIN: partial(rate, photos, partial(plainly, model, photos)),
        EXACT: partial(rate, photos, partial(as_enrolled, encoder, exact, photos)),
        OURS: partial(rate, photos, partial(as_enrolled, encoder, encoder.runtime, photos)),
    }
    raw = interleaved(tasks, repeats)
    return {
        "parameters": sum(one.numel() for one in model.parameters()),
        "seconds to import": round(took, 1),
        "least cosine": made.origin["agreement"],
        "precision": made.architecture.get("precision") or ("bfloat16" if halved else "float32"),
        "images/s": medians(raw),
        "float32 over plain": median_ratio(raw[EXACT], raw[PLAIN]),
        "here over plain": median_ratio(raw[OURS], raw[PLAIN]),
        "raw": raw,
    }


def settle(model: nn.Module, photos: Sequence[str]) -> None:
    """Batch normalisation gets the statistics of some photos, as a trained network's would fit:
    without, random layers grow or shrink what they are given.
    """
    norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
    if not norms:
        return
    transform = create_transform(**resolve_data_config({"input_size": (3, SIZE, SIZE)}))
    pictures = torch.stack([transform(Image.open(path).convert("RGB")) for path in photos])
    for one in norms:
        one.train()
        one.momentum = None
        one.reset_running_stats()
    with torch.inference_mode():
        model(pictures)
    model.eval()


def plainly(model: Any, photos: Sequence[str]) -> None:
    """The loop that people write."""
    settled = resolve_data_config({"input_size": (3, SIZE, SIZE)}, model=model)
    transform = create_transform(**settled)
    with torch.inference_mode():
        for path in photos:
            image = transform(Image.open(path).convert("RGB"))[None]
            given = model.forward_head(model.forward_features(image), pre_logits=True)
            nn.functional.normalize(given).numpy()


def as_enrolled(encoder: Encoder, runtime: Runtime, photos: Sequence[str]) -> None:
    """Decode and embed as a gallery does."""
    sources = ((path, path) for path in photos)
    load = partial(render.load, preprocessing=encoder.record.preprocessing)
    with pipeline.described(sources, load, lambda: runtime) as stream:
        deque(stream, maxlen=0)


def rate(photos: Sequence[str], task: Callable[[], object]) -> float:
    """Images a second of a task."""
    return len(photos) / seconds(task)


if __name__ == "__main__":
    main()
