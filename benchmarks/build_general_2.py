"""Makes the shipped encoder ``general-2`` again: ``general`` with a richer descriptor.

    python benchmarks/build_general_2.py DIR [DIR ...] [--out siamese_search/encoders/general-2]

The network is that of ``general``, not trained further. More of its stages are pooled, and what
they give is brought to 512 dimensions by principal components, in which what ``general`` learned to
favour weighs more. A second output gives places. And there is a prior for the metrics that
galleries learn: the scatter of descriptors within classes. Components, places and prior are fitted
on folders of public pictures, a folder a class, each folder weighing the same; the shipped ones on
Caltech-101 without its faces, and miniImageNet, which no protocol uses. Threshold and confidence
are fitted on Grocery's training photos, as for ``general``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from build_general import fitted_on_grocery, stored_weights
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from siamese_search.arrays import DoubleArray, FloatArray, IntArray
from siamese_search.decision.closer import fit_projection
from siamese_search.decision.learning import Prior
from siamese_search.decision.metric import unit
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.network import EmbeddingNetwork, export_onnx, round_weights
from siamese_search.embedding.record import SHIPPED, write_encoder
from siamese_search.pictures.read import read_file

NAME = "general-2"
DIMENSION = 512
TUNED = 0.7  # what general's own projection weighs beside the descriptor
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


@torch.inference_mode()
def cells_of(network: EmbeddingNetwork, encoder: Encoder, paths: list[Path]) -> FloatArray:
    """Means over the cells of a grid on the map that places are made of: (n, channels)."""
    cells = []
    for start in range(0, len(paths), BATCH):
        pixels = [encoder.decode(read_file(str(path))) for path in paths[start : start + BATCH]]
        maps = network.maps(torch.from_numpy(np.stack(pixels)))[PLACES["source"]]
        grid = functional.adaptive_avg_pool2d(maps, PLACES["grid"])
        cells.append(grid.flatten(2).transpose(1, 2).flatten(0, 1).numpy())
    return np.concatenate(cells)


def principal(sets: list[FloatArray], tuned: FloatArray) -> tuple[DoubleArray, DoubleArray]:
    """Mean (d,) of descriptors and a projection (d, ``DIMENSION``), each set weighing the same.

    Principal components, of the descriptors joined with what ``tuned`` (m, c), the projection that
    ``general`` learned, makes of the c values of its parts, which come first.
    """
    mean = np.mean([vectors.mean(axis=0, dtype=np.float64) for vectors in sets], axis=0)
    width = len(mean)
    moments = np.zeros((width, width))
    for vectors in sets:
        apart = vectors - mean
        moments += apart.T @ apart / len(vectors)
    learned = np.zeros((len(tuned), width))
    learned[:, : tuned.shape[1]] = tuned
    spread = np.trace(learned @ moments @ learned.T) / np.trace(moments)
    joined = np.vstack([TUNED / np.sqrt(spread) * learned, np.eye(width)])
    directions = np.linalg.eigh(joined @ moments @ joined.T)[1][:, ::-1][:, :DIMENSION]
    return mean, joined.T @ directions


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
    parser.add_argument("--names", nargs="+", default=["Caltech-101 without faces", "miniImageNet"])
    parser.add_argument("--out", type=Path, default=SHIPPED / NAME)
    options = parser.parse_args()
    start = Encoder.open("general", "cpu")
    start.verify_files()
    architecture = start.record.architecture | {"pooling": POOLING, "projection": None}
    how = start.record.preprocessing
    stored = load_file(start.folder / "weights.safetensors")
    weights = {name: values.float() for name, values in stored.items()}
    tuned = weights.pop("projection.weight").numpy()

    def written(folder: Path, weights: dict[str, Tensor], **fields: Any) -> Encoder:
        network = EmbeddingNetwork(fields["architecture"])
        network.load_state_dict(weights)
        round_weights(network)
        common: dict[str, Any] = {
            "name": NAME,
            "preprocessing": how,
            "dimension": network.dimension,
            "onnx": export_onnx(network.eval(), how.height, how.width),
            "weights": stored_weights(network),
            "threshold": start.threshold,
            "calibration": start.record.calibration,
            "training": start.record.training,
        }
        write_encoder(folder, **common | fields)
        return Encoder.open(folder, "cpu")

    found = [pictures(folder) for folder in options.pictures]
    classes = [owners for _, owners in found]
    with tempfile.TemporaryDirectory() as place:
        wide = written(Path(place), weights, architecture=architecture)
        sets = [wide.embed(paths) for paths, _ in found]
    mean, components = principal(sets, tuned)
    network = EmbeddingNetwork(architecture | {"places": PLACES}).eval()
    network.load_state_dict(weights, strict=False)
    cells = np.concatenate([cells_of(network, start, paths[::EACH]) for paths, _ in found])
    place_mean, whitening = fit_projection(cells, PLACES["dimension"])
    fitted = {
        "projection.weight": components.T,
        "projection.bias": -mean @ components,
        "places.weight": whitening.T[:, :, None, None],
        "places.bias": -place_mean @ whitening,
    }
    weights |= {n: torch.from_numpy(np.ascontiguousarray(v)).float() for n, v in fitted.items()}
    narrow = [unit(((vectors - mean) @ components).astype(np.float32)) for vectors in sets]
    fields: dict[str, Any] = {
        "architecture": architecture | {"projection": DIMENSION, "centred": True, "places": PLACES},
        "prior": prior_of(narrow, classes),
        "training": start.record.training
        | {
            "network": f"{start.name}, {start.fingerprint}",
            "components, places and prior": [
                f"{folder}: {len(owners)} pictures of {owners.max() + 1} classes"
                for folder, owners in zip(options.names, classes, strict=True)
            ],
        },
    }
    threshold, calibration = fitted_on_grocery(written(options.out, weights, **fields))
    fields |= {"threshold": threshold, "calibration": calibration}
    made = written(options.out, weights, **fields)
    made.verify_files()
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(
        f"{options.out}: dimension {made.dimension}, {size / 1e6:.1f} MB, threshold"
        f" {made.threshold}, fingerprint {made.fingerprint}"
    )


if __name__ == "__main__":
    main()
