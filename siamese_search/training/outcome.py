"""What a run leaves: an encoder folder, checked and calibrated, and its record.

Knows nothing of how the weights came about.
"""

from __future__ import annotations

import importlib.metadata
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search import __version__
from siamese_search.arrays import FloatArray, PixelArray
from siamese_search.decision.learning import Prior
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.network import EmbeddingNetwork, export_onnx, round_weights
from siamese_search.embedding.onnx_runtime import ONNXRuntime
from siamese_search.embedding.record import write_encoder
from siamese_search.errors import TrainingError
from siamese_search.pictures.preprocessing import Preprocessing

log = logging.getLogger("siasearch")


# The least cosine between what torch and the exported graph make of a picture: in float32, where
# only a wrong graph differs, and in the precision that it will run in, where a network that was
# hardly trained may differ.
AGREEMENT = 0.9999
ROUNDED_AGREEMENT = 0.99
PACKAGES = ("torch", "timm", "pytorch-metric-learning", "numpy")


def final(network: EmbeddingNetwork) -> EmbeddingNetwork:
    """The network as it will be written: on the CPU, its weights rounded. In place."""
    network = network.cpu().float().eval()
    round_weights(network)
    return network


def export(
    folder: Path,
    name: str,
    network: EmbeddingNetwork,
    architecture: dict[str, Any],
    how: Preprocessing,
    pixels: PixelArray,
    embeddings: FloatArray,
    decision: tuple[float, dict[str, Any]],
    training: dict[str, Any],
    prior: Prior | None = None,
) -> Encoder:
    """Write the encoder folder, with the threshold and the calibration of ``decision``, and what it
    knows for the metrics of galleries, its ``prior``.

    ``pixels`` (n, height, width, channels) and what the ``final`` network made of them check the
    graph. Raises TrainingError where it disagrees.
    """
    threshold, fitted = decision
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
        "prior": prior,
    }
    # In place only once it has been checked.
    sample = np.ascontiguousarray(pixels[:32])
    with tempfile.TemporaryDirectory() as place:
        write_encoder(place, **fields)
        made = Encoder.open(place, "cpu")
        exact = ONNXRuntime(made.folder, made.record)
        least, rounded = (
            float((runtime.embed(sample) * embeddings[:32]).sum(axis=1).min())
            for runtime in (exact, made.runtime)
        )
        if not least >= AGREEMENT:
            raise TrainingError(
                f"the exported graph disagrees with torch: a cosine of {least:.4f} where"
                f" {AGREEMENT} is needed; the run's checkpoint is kept"
            )
        if not rounded >= ROUNDED_AGREEMENT:
            log.warning(
                "rounded as this processor runs it, the encoder's embeddings are as far as a cosine"
                " of %.4f from the exact ones: train for longer",
                rounded,
            )
    fields["training"]["least cosine to float32"] = round(rounded, 4)
    write_encoder(folder, **fields)
    return Encoder.open(folder, "cpu")


def _versions() -> dict[str, str]:
    others = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"siasearch": __version__, **others}
