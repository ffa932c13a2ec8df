"""A network from elsewhere, ready to be written as an encoder folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from siamese_search.pictures.preprocessing import Preprocessing


@dataclass(frozen=True)
class Imported:
    """A network from elsewhere, ready to be written as an encoder folder.

    ``architecture`` is what ``EmbeddingNetwork`` builds, ``{"graph": "onnx"}`` where no torch
    network is known. ``onnx`` takes uint8 (n, height, width, channels) and gives unit-length
    float32 (n, dimension). ``weights`` are empty for a plain ONNX file. ``origin`` has source,
    licence, file and SHA-256, and what the files say.
    """

    name: str
    architecture: dict[str, Any]
    preprocessing: Preprocessing
    dimension: int
    onnx: bytes
    weights: dict[str, npt.NDArray[np.generic]]
    origin: dict[str, Any]
