"""What a run leaves: an encoder folder, checked and calibrated, and its record."""

from __future__ import annotations

import importlib.metadata
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from siamese_search.encoder import Encoder, write_encoder
from siamese_search.errors import TrainingError
from siamese_search.network import EmbeddingNetwork, export_onnx, round_weights
from siamese_search.records import Preprocessing
from siamese_search.runtimes import OpenVINORuntime
from siamese_search.training.data import Pictures

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# The least cosine between what torch and the exported graph make of a picture: in float32, where
# only a wrong graph differs, and in the precision that it will run in.
AGREEMENT = 0.9999
ROUNDED_AGREEMENT = 0.99
PACKAGES = ("siasearch", "torch", "timm", "pytorch-metric-learning", "numpy")


def best_matches(
    embeddings: FloatArray, labels: IntArray, draws: int = 20, seed: int = 0
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Trials of identification: the best score of each probe, and whether its identity was right.

    In each draw half of the classes are enrolled with one to five pictures each; all other
    pictures are probes, those of the other classes of strangers. Returns (scores, right).
    """
    random = np.random.default_rng(seed)
    classes = np.unique(labels)
    members = {c: np.flatnonzero(labels == c) for c in classes}
    scores, right = [], []
    for _ in range(draws):
        shots = int(random.integers(1, 6))
        enrolled = np.concatenate(
            [
                random.permutation(members[c])[: min(shots, max(1, len(members[c]) - 1))]
                for c in random.permutation(classes)[: max(1, len(classes) // 2)]
            ]
        )
        probes = np.setdiff1d(np.arange(len(labels)), enrolled)
        cosines = embeddings[probes] @ embeddings[enrolled].T
        best = cosines.argmax(axis=1)
        scores.append(cosines.max(axis=1))
        right.append(labels[enrolled[best]] == labels[probes])
    return np.concatenate(scores), np.concatenate(right)


def logistic(scores: npt.ArrayLike, right: npt.ArrayLike) -> tuple[float, float]:
    """Slope and offset of the logistic of the score that fits best (Platt 1999).

    His smoothed targets keep it finite where scores separate right from wrong.
    """
    values = np.asarray(scores, np.float64)
    hits = np.asarray(right, bool)
    positive, negative = hits.sum(), (~hits).sum()
    targets = np.where(hits, (positive + 1) / (positive + 2), 1 / (negative + 2))
    inputs = np.stack([values, np.ones_like(values)], axis=1)
    parameters = np.array([1.0, 0.0])
    ridge = 1e-6 * np.eye(2) * len(values)
    for _ in range(100):  # Newton's method; the ridge keeps steps short on flat ground
        chances = 1 / (1 + np.exp(-np.clip(inputs @ parameters, -30, 30)))
        gradient = inputs.T @ (targets - chances)
        curvature = (inputs * (chances * (1 - chances))[:, None]).T @ inputs + ridge
        step = np.linalg.solve(curvature, gradient)
        parameters += step * min(1.0, 10 / np.abs(step).max())
        if np.abs(step).max() < 1e-9:
            break
    return float(parameters[0]), float(parameters[1])


def calibration(embeddings: FloatArray, labels: IntArray) -> tuple[float, dict[str, Any]]:
    """The threshold from which the best identity is rather right than wrong, and the logistic."""
    scores, right = best_matches(embeddings, labels)
    slope, offset = logistic(scores, right)
    if slope <= 0:  # scores that say nothing: never be sure
        slope, offset = 1.0, -1.0
    threshold = round(float(np.clip(-offset / slope, -1.0, 1.0)), 4)
    return threshold, {
        "slope": round(slope, 4),
        "offset": round(offset, 4),
        "target": "probability that the best-scoring identity is right",
        "data": f"{len(labels)} held-out pictures of {len(np.unique(labels))} classes; half of the"
        " classes enrolled with 1 to 5 pictures, all others as probes; 20 draws",
    }


def export(
    folder: Path,
    name: str,
    network: EmbeddingNetwork,
    architecture: dict[str, Any],
    how: Preprocessing,
    judged: Pictures,
    training: dict[str, Any],
) -> tuple[Encoder, FloatArray]:
    """Write the encoder folder; ``judged`` are the pictures that calibrate and check it.

    Returns the opened encoder and the embeddings of these pictures.

    Raises TrainingError where the exported graph disagrees with torch.
    """
    network = network.cpu().float().eval()
    round_weights(network)
    pixels = judged.pixels
    with torch.inference_mode():
        embeddings = np.concatenate(
            [
                network(torch.from_numpy(pixels[start : start + 64])).numpy()
                for start in range(0, len(pixels), 64)
            ]
        )
    threshold, fitted = calibration(embeddings, judged.labels)
    fields: dict[str, Any] = {
        "name": name,
        "architecture": architecture | {"dropout": 0.0},
        "preprocessing": how,
        "dimension": network.dimension,
        "onnx": export_onnx(network, how.height, how.width),
        "weights": {
            key: (values.half() if values.ndim > 1 else values).numpy().copy()
            for key, values in network.state_dict().items()
        },
        "threshold": threshold,
        "calibration": fitted,
        "training": training | {"versions": _versions()},
    }
    # In place only once it has been checked.
    sample = np.ascontiguousarray(pixels[:32])
    with tempfile.TemporaryDirectory() as place:
        write_encoder(place, **fields)
        made = Encoder.open(place, "cpu")
        exact = OpenVINORuntime(made.folder, made.record, exact=True)
        for runtime, needed in ((exact, AGREEMENT), (made.runtime, ROUNDED_AGREEMENT)):
            least = float((runtime.embed(sample) * embeddings[:32]).sum(axis=1).min())
            if not least >= needed:
                raise TrainingError(
                    f"the exported graph disagrees with torch: a cosine of {least:.4f} where"
                    f" {needed} is needed; the run's checkpoint is kept"
                )
    fields["training"]["least cosine to float32"] = round(least, 4)
    write_encoder(folder, **fields)
    return Encoder.open(folder, "cpu"), embeddings


def _versions() -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in PACKAGES}
