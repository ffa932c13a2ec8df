"""What ``query`` is asked about: files, folders, lists of them, or an image on standard input; and
parts of these.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from siamese_search.errors import UsageError
from siamese_search.pictures.archives import Member, is_archive, members
from siamese_search.pictures.choosing import NOTHING, Exclusion
from siamese_search.pictures.sources import find, not_empty
from siamese_search.records import ImageFile, Rejection, printable

if TYPE_CHECKING:
    from siamese_search.errors import ImageError
    from siamese_search.pictures.kind import Kind
    from siamese_search.pictures.regions import Box
    from siamese_search.records import Identification

    Ask = Callable[[Iterable[Any]], Iterator[tuple[Any, Identification | ImageError]]]
    Part = tuple[int, int, int, int]
    Asked = str | bytes | Member
    Answers = Iterator[tuple[Asked, Part | None, Identification | ImageError]]

STANDARD_INPUT = "-"
BINARY = {*range(1, 9), *range(14, 32)}  # bytes that no list of paths has
ANSWER = ("image", "identity", "score", "confidence", "threshold")
CANDIDATE = ("nearest", "nearest_score", "item", "path")


def listed(places: Iterable[str], reject: Callable[[Rejection], object]) -> list[str]:
    """The paths that lists name, one a line, or each ended by NUL; ``-`` is standard input.

    Those that do not exist are rejected. Raises UsageError for what is no such list, or an empty
    one.
    """
    found: list[str] = []
    for place in places:
        if place == STANDARD_INPUT:
            data = sys.stdin.buffer.read()
        else:
            with open(place, "rb") as file:
                data = file.read()
        if BINARY & set(data):
            raise UsageError(f"{printable(place)} is no list of paths, one a line")
        lines = data.split(b"\0" if b"\0" in data else b"\n")
        paths = [os.fsdecode(line.removesuffix(b"\r")) for line in lines if line.strip()]
        if not paths:
            raise UsageError(f"{printable(place)} lists no paths")
        for path in paths:
            if os.path.lexists(path):
                found.append(os.path.join(".", path) if path == STANDARD_INPUT else path)
            else:
                reject(Rejection(printable(path), "there is no such file"))
    return found


def asked(
    images: Sequence[str],
    kind: Kind,
    reject: Callable[[Rejection], object],
    exclude: Exclusion = NOTHING,
) -> Iterator[Asked]:
    """The images to ask about, named as they were typed; the one on standard input as its bytes,
    those in archives that were named as open files.

    What is not of the kind by its name, or excluded, is passed over, and what does not exist is
    rejected. Raises UsageError where there is no image.
    """
    named = [image for image in images if image != STANDARD_INPUT]
    files = [image for image in named if os.path.lexists(image)]
    if not files and len(named) == len(images):
        files = named[:1]  # which raises
    for image in named:
        if image not in files:
            reject(Rejection(printable(image), "there is no such file"))
    if len(named) < len(images):
        yield sys.stdin.buffer.read()
    if not files:
        return
    for found in not_empty(_each(files, kind, exclude), files, kind):
        if isinstance(found, Rejection):
            reject(found)
        else:
            yield found.path if found.picture is None else found.picture


def _each(roots: Iterable[str], kind: Kind, exclude: Exclusion) -> Iterator[ImageFile | Rejection]:
    """What is in files, folders and archives, named as these were typed."""
    for root in roots:
        if is_archive(root, kind):
            for one in members(root, kind, exclude):
                yield one if isinstance(one, Rejection) else ImageFile(one.name, "", picture=one)
        else:
            for found in find([root], kind=kind, exclude=exclude):
                yield _as_typed(root, found)


def _as_typed(root: str, found: ImageFile | Rejection) -> ImageFile | Rejection:
    """What was found in a file or folder, its path beginning as that was typed."""
    if isinstance(found, Rejection):
        return found
    inside = os.path.relpath(found.path, os.path.abspath(root))
    return replace(found, path=root if inside == os.curdir else os.path.join(root, inside))


def name_of(image: Asked) -> str:
    """What an image is called in answers."""
    if isinstance(image, Member):
        return image.name
    return STANDARD_INPUT if isinstance(image, bytes) else image


def columns(ranked: bool) -> list[str]:
    """The columns of a table of answers; ``ranked``, it has a row for each candidate."""
    return [*ANSWER, *(["rank"] if ranked else []), *CANDIDATE]


def rows(image: str, answer: Identification, ranked: bool) -> Iterator[list[object]]:
    """An answer as rows of a table: one with the best candidate, or one for each. What is not known
    is empty.
    """
    first = (image, answer.identity, answer.score, answer.confidence, answer.threshold)
    shown = answer.matches if ranked else answer.matches[:1]
    for rank, one in enumerate(shown or (None,), start=1):
        place = (rank if one else None,) if ranked else ()
        found = (None,) * 4 if one is None else (one.identity, one.score, one.item, one.path)
        yield ["" if value is None else value for value in (*first, *place, *found)]


# Parts of images


def boxes_of(texts: Sequence[str]) -> list[Box]:
    """The boxes that texts mean. Raises UsageError."""
    if not texts:
        return []
    from siamese_search.pictures.regions import parse_box

    return [parse_box(text) for text in texts]


def as_asked(ask: Ask, images: Iterable[Asked], boxes: Sequence[Box]) -> Answers:
    """Answers to images, or to the same boxes of each."""
    if not boxes:
        for image, answer in ask(images):
            yield image, None, answer
        return
    from siamese_search.pictures.regions import Region

    for region, answer in ask(Region(image, box) for image in images for box in boxes):
        yield region.image, region.box, answer


def in_grid(ask: Ask, images: Iterable[Asked], along: int) -> Answers:
    """Answers to images, and to windows of them that name an identity."""
    from siamese_search.errors import ImageError
    from siamese_search.gallery.viewing import in_windows, what_is_where

    for image in images:
        try:
            probes = in_windows(image, along)
        except ImageError as error:
            yield image, None, error
            continue
        for probe, answer in what_is_where(ask(probes)):
            yield image, None if probe is image else probe.box, answer


def place_of(image: str, box: Part | None) -> str:
    """An image, or a part of it, for people."""
    return image if box is None else f"{image} [{','.join(map(str, box))}]"
