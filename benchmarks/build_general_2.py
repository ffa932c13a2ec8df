"""Makes the shipped encoder ``general-2`` again: ``general`` with a richer descriptor.

    python benchmarks/build_general_2.py DIR [DIR ...] [--out siamese_search/encoders/general-2]

The network is that of ``general``, not trained further. More of its stages are pooled, and what
they give is brought to 512 dimensions by principal components. A second output gives places. And
there is a prior for the metrics that galleries learn: the scatter of descriptors within classes.
Components, places and prior are fitted on folders of public pictures, a folder a class, each
folder weighing the same; the shipped ones on Caltech-101 and miniImageNet, which no protocol uses.
Threshold and confidence are fitted on Grocery's training photos, as for ``general``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from build_general import fitted_on_grocery, stored_weights
from safetensors.torch import load_file
from torch import Tensor

from siamese_search.arrays import DoubleArray, FloatArray, IntArray
from siamese_search.decision.closer import fit_projection
from siamese_search.decision.learning import Prior
from siamese_search.decision.metric import unit
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.network import EmbeddingNetwork, export_onnx, round_weights
from siamese_search.embedding.record import SHIPPED, write_encoder
from siamese_search.pictures import render
from siamese_search.pictures.read import read_file

NAME = "general-2"
DIMENSION = 512
EACH = 30  # pictures of a class
BATCH = 16
PLACES = {"source": 3, "grid": 7, "dimension": 64}
# The first two parts are those of ``general``.
POOLING: list[dict[str, Any]] = [
    {"source": "features", "power": 2.0, "spread": 1.0, "weight": 1.0},
    {"source": 4, "power": 1.0, "spread": 1.0, "weight": 0.5},
    {"source": 4, "deviation": True, "weight": 0.5},
    {"source": 3, "power": 1.0, "spread": None, "weight": 0.5},
    {"source": 2, "power": 1.0, "spread": None, "weight": 0.3},
]


def pictures(folder: Path) -> tuple[list[Path], IntArray]:
    """Pictures, at most ``EACH`` at random of each class, and their classes as numbers."""
    chance = np.random.default_rng(0)
    paths: list[Path] = []
    classes = []
    for number, place in enumerate(sorted(p for p in folder.iterdir() if p.is_dir())):
        files = sorted(p for p in place.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
        kept = np.sort(chance.permutation(len(files))[:EACH])
        paths += [files[n] for n in kept]
        classes += [number] * len(kept)
    if len(set(classes)) < 2:
        sys.exit(f"{folder} has no folders of pictures, a class each")
    return paths, np.array(classes)


class Wide(EmbeddingNetwork):
    """The network before principal components; its forward gives cells of the map, too."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        maps = self._feature_maps((pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std)
        return self._embedding(maps), self.cells(maps[PLACES["source"]])


@torch.inference_mode()
def described(network: Wide, encoder: Encoder, paths: list[Path]) -> tuple[FloatArray, FloatArray]:
    """Descriptors (n, wide) of pictures and cells (m, channels), some of each."""
    descriptors, cells = [], []
    for start in range(0, len(paths), BATCH):
        read = [encoder.decode(read_file(str(path))) for path in paths[start : start + BATCH]]
        wide, grid = network(torch.from_numpy(np.stack(read)))
        descriptors.append(wide.numpy())
        cells.append(grid.flatten(2).transpose(1, 2)[:, ::6].flatten(0, 1).numpy())
        if start % (50 * BATCH) == 0:
            print(f"  {start} of {len(paths)}", file=sys.stderr, flush=True)
    return np.concatenate(descriptors), np.concatenate(cells)


def principal(sets: list[FloatArray]) -> tuple[DoubleArray, DoubleArray]:
    """Mean (d,) and principal components (d, ``DIMENSION``), each set weighing the same."""
    mean = np.mean([vectors.mean(axis=0, dtype=np.float64) for vectors in sets], axis=0)
    moments = sum(((vectors - mean).T @ (vectors - mean)) / len(vectors) for vectors in sets)
    return mean, np.linalg.eigh(moments)[1][:, ::-1][:, :DIMENSION]


def prior_of(sets: list[FloatArray], classes: list[IntArray]) -> Prior:
    """The mean and the covariance within classes of descriptors, each set weighing the same."""
    within = np.zeros((DIMENSION, DIMENSION))
    for vectors, owners in zip(sets, classes, strict=True):
        means = np.stack(
            [vectors[owners == owner].mean(axis=0) for owner in range(owners.max() + 1)]
        )
        apart = (vectors - means[owners]).astype(np.float64)
        within += apart.T @ apart / (len(vectors) - len(means)) / len(sets)
    mean = np.mean([vectors.mean(axis=0) for vectors in sets], axis=0)
    return Prior(mean.astype(np.float32), within.astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", type=Path, nargs="+", metavar="DIR", help="a folder a class")
    parser.add_argument("--out", type=Path, default=SHIPPED / NAME)
    options = parser.parse_args()
    start = Encoder.open("general", "cpu")
    start.verify_files()
    architecture = start.record.architecture | {"pooling": POOLING, "places": PLACES}
    weights = {
        name: values.float()
        for name, values in load_file(start.folder / "weights.safetensors").items()
        if name != "projection.weight"
    }
    wide = Wide(architecture | {"projection": None})
    wide.load_state_dict(weights, strict=False)
    sets, cells, classes = [], [], []
    for folder in options.pictures:
        paths, owners = pictures(folder)
        vectors, some = described(wide.eval(), start, paths)
        sets.append(vectors)
        cells.append(some)
        classes.append(owners)
    mean, components = principal(sets)
    place_mean, whitening = fit_projection(np.concatenate(cells), PLACES["dimension"])
    architecture |= {"projection": DIMENSION, "centred": True}
    network = EmbeddingNetwork(architecture)
    fitted = {
        "projection.weight": components.T,
        "projection.bias": -mean @ components,
        "places.weight": whitening.T[:, :, None, None],
        "places.bias": -place_mean @ whitening,
    }
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(v)).float() for name, v in fitted.items()
    }
    network.load_state_dict(weights | tensors)
    round_weights(network)
    network.eval()
    how = start.record.preprocessing
    narrow = [unit(((vectors - mean) @ components).astype(np.float32)) for vectors in sets]
    fields: dict[str, Any] = {
        "name": NAME,
        "architecture": architecture,
        "preprocessing": how,
        "dimension": DIMENSION,
        "onnx": export_onnx(network, how.height, how.width),
        "weights": stored_weights(network),
        "prior": prior_of(narrow, classes),
        "threshold": start.threshold,
        "calibration": start.record.calibration,
        "training": start.record.training
        | {
            "descriptor": {
                "network": f"{start.name} {start.fingerprint}",
                "components, places and prior": [
                    f"{folder.name}: {len(owners)} pictures of {owners.max() + 1} classes"
                    for folder, owners in zip(options.pictures, classes, strict=True)
                ],
            }
        },
    }
    write_encoder(options.out, **fields)
    threshold, calibration = fitted_on_grocery(Encoder.open(options.out, "cpu"))
    write_encoder(options.out, **fields | {"threshold": threshold, "calibration": calibration})
    made = Encoder.open(options.out, "cpu")
    made.verify_files()
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(
        f"{options.out}: dimension {made.dimension}, {size / 1e6:.1f} MB, threshold"
        f" {made.threshold}, fingerprint {made.fingerprint}"
    )


if __name__ == "__main__":
    main()
