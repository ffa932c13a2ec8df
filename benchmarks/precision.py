"""How far are embeddings as they are computed from those in float32?

    python benchmarks/precision.py [--encoder general]

The cosine between the two for every tenth Grocery test photo and one photo of each bird. Where the
processor has no bfloat16, both are the same. One run; it is deterministic on one machine.
"""

from __future__ import annotations

import numpy as np
from common import cub_classes, grocery_split, parser, table, write_results

from siamese_search import Encoder
from siamese_search.embedding.openvino_runtime import OpenVINORuntime
from siamese_search.pictures import render
from siamese_search.pictures.read import read_file

BATCH = 32


def main() -> None:
    options = parser(__doc__, repeats=1).parse_args()
    encoder = Encoder.open(options.encoder, "cpu")
    photos = grocery_split("test")[::10] + [birds[0] for birds in cub_classes()]
    how = encoder.record.preprocessing
    pixels = np.stack([render.decode(read_file(photo.path), how) for photo in photos])
    exact = OpenVINORuntime(encoder.folder, encoder.record, exact=True)
    cosines = np.concatenate(
        [
            (encoder.runtime.embed(batch) * exact.embed(batch)).sum(axis=1)
            for batch in (pixels[n : n + BATCH] for n in range(0, len(pixels), BATCH))
        ]
    )
    figures = {
        "photos": len(cosines),
        "least": float(cosines.min()),
        "mean": float(cosines.mean()),
        "below 0.999, %": float(100 * (cosines < 0.999).mean()),
    }
    rows = [(name, f"{value:.5g}") for name, value in figures.items()]
    table(f"{encoder.name}: cosine to float32", ("", "value"), rows)
    write_results("precision", options.encoder, figures)


if __name__ == "__main__":
    main()
