"""An imported network written as an encoder folder, without a fitted threshold."""

from __future__ import annotations

import os

from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.record import write_encoder
from siamese_search.importing.imported import Imported


def write_imported(imported: Imported, folder: str | os.PathLike[str]) -> Encoder:
    """Write the encoder folder, and open it on the CPU.

    Its threshold is 1, which no other picture reaches, until somebody fits one.
    """
    write_encoder(
        folder,
        name=imported.name,
        architecture=imported.architecture,
        preprocessing=imported.preprocessing,
        dimension=imported.dimension,
        onnx=imported.onnx,
        weights=imported.weights,
        threshold=1.0,
        calibration={"fitted": False, "slope": 20.0, "offset": -16.0},
        training={"imported": imported.origin},
    )
    return Encoder.open(folder, "cpu")
