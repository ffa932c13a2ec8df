"""Pictures of strangers: what a gallery may be calibrated by. Each picture counts once.

Knows nothing of evidence and thresholds.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.turning import describe_turns_each
from siamese_search.errors import ImageError
from siamese_search.gallery.learning import Asked
from siamese_search.pictures.kind import Kind
from siamese_search.pictures.read import content_hash, is_path, read_file
from siamese_search.pictures.sources import find, nameable, not_empty, places_of
from siamese_search.records import ImageFile, Rejection
from siamese_search.storage.catalog import Catalog
from siamese_search.words import counted, printable

log = logging.getLogger("siasearch")

SHOWN = 3  # pictures that are left out

Places = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def shown_by(
    catalog: Catalog,
    encoder: Encoder,
    places: Places,
    turns: int,
    reject: Callable[[Rejection], None],
) -> Asked:
    """Pictures of things that are not enrolled, in so many turns each. What cannot be read goes to
    ``reject``; a warning tells what else is left out.
    """
    pictures = _not_enrolled(catalog, places, encoder.kind, reject)
    looks, shown, again = [], [], []
    first: set[bytes] = set()
    described = describe_turns_each(encoder, [file.path for file in pictures], turns)
    for file, (_, result) in zip(pictures, described, strict=True):
        if isinstance(result, ImageError):
            reject(Rejection(printable(file.path), str(result)))
            continue
        upright = result[0].embedding.tobytes()
        if upright in first:
            again.append(file.path)
            continue
        first.add(upright)
        looks.append(result)
        shown.append(file.identity)
    _tell_left_out(again, "the same as others, and no further strangers")
    return Asked(looks, shown, encoder.dimension)


def _not_enrolled(
    catalog: Catalog, places: Places, kind: Kind, reject: Callable[[Rejection], None]
) -> list[ImageFile]:
    """The pictures in these places, without those of what is enrolled."""
    given = places_of(places, "strangers")
    named = [os.fspath(place) for place in given if is_path(place)]
    records = (place for place in given if not is_path(place))
    pictures, here = [], []
    found = nameable(chain(records, find(named, kind=kind)))
    for file in not_empty(found, named or ["an empty list"], kind):
        if isinstance(file, Rejection):
            reject(file)
        elif _is_enrolled(catalog, file.path):
            here.append(file.path)
        else:
            pictures.append(file)
    _tell_left_out(here, "enrolled, and so no strangers")
    enrolled = {name for name, _ in catalog.identities()} - catalog.distractors(None)
    named_so = sorted({file.identity for file in pictures if file.identity in enrolled})
    if not named_so:
        return pictures
    left = [file for file in pictures if file.identity not in enrolled]
    log.warning(
        "%d of %d pictures are no strangers, but named as what is enrolled (%s): left out",
        len(pictures) - len(left),
        len(pictures),
        ", ".join(named_so[:5]) + (" and others" if len(named_so) > 5 else ""),
    )
    return left


def _is_enrolled(catalog: Catalog, path: str) -> bool:
    try:
        content = content_hash(read_file(path))
    except ImageError:
        return False
    return bool(catalog.known([content]))


def _tell_left_out(paths: Sequence[str], why: str) -> None:
    if paths:
        log.warning(
            "%s %s: left out (%s)",
            counted(len(paths), "picture is", "pictures are"),
            why,
            ", ".join(map(printable, paths[:SHOWN])) + ", ..." * (len(paths) > SHOWN),
        )
