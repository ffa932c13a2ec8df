"""Copies: the images that a gallery keeps, and the bytes that were enrolled."""

from __future__ import annotations

import re
from pathlib import Path

from siamese_search.errors import ImageError
from siamese_search.pictures.read import content_hash, read_file
from siamese_search.records import Item

COPY_NAME = re.compile(r"[0-9a-f]{64}(\.[^.]*)?|\.[0-9a-f]{64}(\.[^.]*)?\.[0-9a-f]{8}")


COPIES = "images"


def enrolled_bytes(item: Item, folder: Path) -> bytes:
    """The bytes that were enrolled: of the gallery's copy, else of the source if still the same.

    Raises ImageError where there are none.
    """
    if item.copy is not None:
        path = str(folder / item.copy)
    elif item.source is not None:
        path = item.source
    else:
        raise ImageError("was enrolled as an embedding, without an image")
    data = read_file(path)
    if content_hash(data) != item.content:
        raise ImageError("has other content than when it was enrolled")
    return data
