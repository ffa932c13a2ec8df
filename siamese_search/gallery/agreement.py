"""Agreement: does an encoder of format 1 still embed as it did when pictures were enrolled?

Its fingerprint leaves out the graph, so that another graph with a digest to match would pass for
the one that made a gallery. From format 2 on the fingerprint tells.
"""

from __future__ import annotations

from pathlib import Path

from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import EncoderError, ImageError
from siamese_search.gallery.copies import enrolled_bytes
from siamese_search.storage.catalog import Catalog

LEAST = 0.98  # the cosine; runtimes in half precision agree to 0.999
TRIED = 64  # items whose pictures are looked for


def require_same_graph(catalog: Catalog, encoder: Encoder, folder: Path) -> None:
    """Raise EncoderError where an enrolled picture gets another embedding than the stored one.

    Nothing is looked at where the fingerprint, or a list of shipped graphs, vouches for the graph,
    nor where no picture is at hand.
    """
    generation = catalog.state().generation
    if encoder.record.vouches_for_graph or generation.fingerprint != encoder.fingerprint:
        return
    numbers, vectors = next(catalog.embeddings(generation), ((), ()))
    items = {item.number: item for item in catalog.items(numbers[:TRIED])}
    for number, vector in zip(numbers[:TRIED], vectors[:TRIED], strict=True):
        try:
            pixels = encoder.decode(enrolled_bytes(items[int(number)], folder))
        except (ImageError, KeyError):  # KeyError: removed just now
            continue
        found = encoder.runtime.embed(pixels[None])[0]
        if not float(found @ vector) >= LEAST:  # NaN is none, either
            raise EncoderError(
                f"{encoder.folder} embeds item {number} otherwise than when it was enrolled: its"
                " graph was changed; get the encoder again, or rebuild under one of its own name"
            )
        return
