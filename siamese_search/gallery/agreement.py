"""Agreement: does an encoder still embed as it did when pictures were enrolled?

The fingerprint of one of format 1 leaves out the graph, so that another graph with a digest to
match would pass for the one that made a gallery. From format 2 on the fingerprint tells.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import EncoderError, ImageError
from siamese_search.gallery.copies import enrolled_bytes
from siamese_search.storage.catalog import Catalog

LEAST = 0.98  # the cosine; runtimes in half precision agree to 0.999
TRIED = 64  # items whose pictures are looked for
SAMPLE = 200  # items that are embedded again


def require_same_graph(catalog: Catalog, encoder: Encoder, folder: Path) -> None:
    """Raise EncoderError where an enrolled picture gets another embedding than the stored one.

    Nothing is looked at where the fingerprint, or a list of shipped graphs, vouches for the graph,
    nor where no picture is at hand.
    """
    generation = catalog.state().generation
    if encoder.record.vouches_for_graph or generation.fingerprint != encoder.fingerprint:
        return
    for numbers, vectors in itertools.islice(catalog.embeddings(generation), 1):
        for number, cosine in _agreements(catalog, encoder, folder, numbers[:TRIED], vectors):
            if not cosine >= LEAST:  # NaN is none, either
                raise EncoderError(
                    f"{encoder.location} embeds item {number} otherwise than when it was enrolled:"
                    f" {'its graph' if encoder.record.digests else 'it'} was changed; get the"
                    " encoder again, or rebuild under one of its own name or fingerprint"
                )
            return


def disagreements(catalog: Catalog, encoder: Encoder, folder: Path) -> Iterator[tuple[int, float]]:
    """Of items spread over all that have their picture, those to which the encoder gives another
    embedding now than the stored one, with the cosine of the two.
    """
    numbers = catalog.identity_numbers()[0]
    if len(numbers) > SAMPLE:
        numbers = numbers[np.linspace(0, len(numbers) - 1, SAMPLE).astype(np.int64)]
    numbers, vectors = catalog.vectors(catalog.state().generation, numbers)
    for number, cosine in _agreements(catalog, encoder, folder, numbers, vectors):
        if not cosine >= LEAST:
            yield number, cosine


def _agreements(
    catalog: Catalog, encoder: Encoder, folder: Path, numbers: IntArray, vectors: FloatArray
) -> Iterator[tuple[int, float]]:
    """Items whose picture is at hand, with the cosine of their stored and their new embedding."""
    items = {item.number: item for item in catalog.items(numbers)}
    for number, vector in zip(numbers.tolist(), vectors[: len(numbers)], strict=True):
        try:
            pixels = encoder.decode(enrolled_bytes(items[number], folder))
        except (ImageError, KeyError):  # KeyError: removed just now
            continue
        yield number, float(encoder.runtime.embed(pixels[None])[0] @ vector)
