"""Makes the shipped encoder ``general-2`` again: ``general`` with a richer descriptor.

    python benchmarks/build_general_2.py --pictures DIR [DIR ...] [--out siamese_search/encoders/...]

The network is that of ``general``, not trained further. Four of its stages are pooled, and what
they give is brought to 512 dimensions by principal components. A second output gives places. And
there is a prior for the metrics that galleries learn: the scatter of descriptors within classes.
Components and prior are fitted on folders of public pictures, a folder a class, each weighing the
same; the shipped ones on Caltech-101 and miniImageNet, none of which any protocol uses. Threshold
and confidence are fitted on Grocery's training photos, as for ``general``.

What was chosen here, and what did not help: ``benchmarks/metric.py``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from build_general import fitted_on_grocery, stored_weights
from safetensors.torch import load_file

from siamese_search.arrays import DoubleArray, FloatArray, IntArray
from siamese_search.decision.closer import fit_projection
from siamese_search.decision.learning import Prior
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.network import EmbeddingNetwork, export_onnx, round_weights
from siamese_search.embedding.record import SHIPPED, read_record, write_encoder

NAME = "general-2"
DIMENSION = 512
EACH = 30  # pictures of a class
LEAST_SIDE = 2  # letters of a file name's ending, at least
PLACES = {"source": 3, "grid": 7, "dimension": 64}
POOLING: list[dict[str, Any]] = [
    {"source": "features", "power": 2.0, "spread": 1.0, "weight": 1.0},
    {"source": 4, "power": 1.0, "spread": 1.0, "weight": 0.5},
    {"source": 4, "deviation": True, "weight": 0.5},
    {"source": 3, "power": 1.0, "spread": None, "weight": 0.5},
    {"source": 2, "power": 1.0, "spread": None, "weight": 0.3},
]
