"""Whether an exported graph gives what torch gives, by every runtime of this machine."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from siamese_search.arrays import FloatArray, PixelArray
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.onnx_runtime import ONNXRuntime
from siamese_search.embedding.openvino_runtime import OpenVINORuntime
from siamese_search.embedding.runtimes import Runtime
from siamese_search.errors import EncoderError
from siamese_search.importing.imported import Imported
from siamese_search.importing.writing import write_imported
from siamese_search.pictures import render
from siamese_search.pictures.preprocessing import Preprocessing

AGREEMENT = 0.999  # the least cosine
PICTURES = 8
SEED = 0


def rendered(pictures: Sequence[Any], how: Preprocessing) -> PixelArray:
    """The pixels of some pictures, uint8 (n, height, width, channels).

    Without pictures, of mosaics that are made here. Raises ImageError for what cannot be read.
    """
    return np.stack([render.load(one, how) for one in pictures or mosaics()])


def mosaics() -> list[PixelArray]:
    """Pictures with coarse and fine structure in colours, always the same: uint8 (256, 256, 3)."""
    random = np.random.default_rng(SEED)
    made = []
    for _ in range(PICTURES):
        layers = [
            Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8)).resize((256, 256))
            for side in (3, 12, 64)
        ]
        shares = random.dirichlet((3.0, 2.0, 1.0))
        mixed = sum(
            share * np.asarray(one, float) for share, one in zip(shares, layers, strict=True)
        )
        made.append(np.asarray(mixed).round().astype(np.uint8))
    return made


def require_agreement(
    made: Imported, pixels: PixelArray, expected: FloatArray, names: Sequence[str] = ()
) -> dict[str, float]:
    """The least cosine to what torch gives, by the name of each runtime that there is.

    ``expected`` is torch's float32 (n, dimension), ``names`` what to call the pictures. Raises
    EncoderError, saying which runtime and picture, where it is below 0.999.
    """
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "encoder")
        write_imported(made, folder)
        encoder = Encoder.open(folder, "cpu")
        for name, open_runtime in _runtimes().items():
            runtime = open_runtime(encoder.folder, encoder.record)
            given = np.concatenate([runtime.embed(one[None]) for one in pixels])
            cosines = (given * expected).sum(axis=1)
            # Not the least of them: that may be no number.
            worst = int(np.argmin(np.nan_to_num(cosines, nan=-1.0)))
            found[name] = round(float(cosines[worst]), 6)
            if not cosines[worst] >= AGREEMENT:
                which = names[worst] if names else f"generated picture {worst + 1}"
                raise EncoderError(
                    f"{made.name} is not imported: {name} disagrees with torch on {which}, with a"
                    f" cosine of {cosines[worst]:.4f} where {AGREEMENT} is needed{_way_out(name)}"
                )
    return found


def _runtimes() -> dict[str, Callable[[Path, Any], Runtime]]:
    """Those that may run the encoder on this machine's CPU."""
    runtimes: dict[str, Callable[[Path, Any], Runtime]] = {"ONNX Runtime": ONNXRuntime}
    chosen = os.environ.get("SIASEARCH_RUNTIME")
    if chosen != "onnxruntime" and importlib.util.find_spec("openvino") is not None:
        runtimes["OpenVINO"] = OpenVINORuntime
    return runtimes


def _way_out(name: str) -> str:
    if name != "OpenVINO":
        return ""
    return "; set SIASEARCH_RUNTIME=onnxruntime, to import and to use it, and it runs in float32"
