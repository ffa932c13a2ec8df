"""Descriptions of pictures at several turns each: for what lies anyhow.

A picture is decoded once and turned in memory. Knows nothing of which turn is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

from siamese_search.arrays import PixelArray
from siamese_search.embedding import pipeline
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.vectors import Description
from siamese_search.errors import ImageError
from siamese_search.pictures import regions, render
from siamese_search.pictures.read import several

Looks = list[Description]
Place = tuple[Any, int]  # an image, and how many turns of it follow


def describe_turns_each(
    encoder: Encoder, images: Iterable[Any], count: int
) -> Iterator[tuple[Any, Looks | ImageError]]:
    """Stream (image, description of each of ``count`` equal turns, the upright first).

    In the order given, with the error of an image in place of its descriptions. Images are
    as ``Encoder.embed_each`` takes them. Raises UsageError for a count out of range.
    """
    if count == 1:
        for image, result in encoder.describe_each(images):
            yield image, result if isinstance(result, ImageError) else [result]
        return
    encoder.require_pictures("turns")
    how = encoder.record.preprocessing
    wide = how.uncut()
    size = count * how.width * how.height * how.channels

    def load(image: Any) -> PixelArray:
        return regions.turns(render.load(image, wide), count, how)

    sources = ((image, image) for image in several(images))
    with pipeline.thread_pool() as pool:
        turned = pipeline.decoded(pool, sources, load, cost=lambda source: size)
        described = pipeline.describe_batches(_one_by_one(turned), lambda: encoder.runtime)
        with closing(described) as stream:
            gathered: Looks = []
            error: ImageError | None = None
            for (image, following), result in (pair for batch in stream for pair in batch):
                if isinstance(result, ImageError):
                    error = error or result
                else:
                    gathered.append(result)
                if not following:
                    yield image, error or gathered
                    gathered, error = [], None


def _one_by_one(
    turned: Iterable[tuple[Any, PixelArray | ImageError]],
) -> Iterator[tuple[Place, PixelArray | ImageError]]:
    """Each turn of each picture by itself; an error stands for all of them."""
    for image, pixels in turned:
        if isinstance(pixels, ImageError):
            yield (image, 0), pixels
        else:
            for number, one in enumerate(pixels, start=1):
                yield (image, len(pixels) - number), one
