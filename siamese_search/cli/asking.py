"""What ``query`` is asked about: files, folders, lists of them, an image on standard input, videos
and cameras; and parts of these.
"""

from __future__ import annotations

import os
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from siamese_search.errors import UsageError
from siamese_search.pictures.archives import Member, is_archive, members
from siamese_search.pictures.choosing import NOTHING, Exclusion
from siamese_search.pictures.kind import WITH_VIDEOS, Kind, is_video
from siamese_search.pictures.sources import find, not_empty
from siamese_search.records import ImageFile, Rejection
from siamese_search.words import printable

if TYPE_CHECKING:
    from siamese_search.errors import ImageError
    from siamese_search.pictures.regions import Box
    from siamese_search.pictures.video import Frame
    from siamese_search.records import Identification

    Ask = Callable[[Iterable[Any]], Iterator[tuple[Any, Identification | ImageError]]]
    Part = tuple[int, int, int, int]
    Asked = str | bytes | Member | Frame
    Answers = Iterator[tuple[Asked, Part | None, Identification | ImageError]]

STANDARD_INPUT = "-"
AT_ONCE = 64 << 20  # bytes of frames that are held together
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
        data = data.removeprefix(BOM_UTF8)
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
    every: float | None = None,
) -> Iterator[Asked]:
    """The images to ask about, named as they were typed; the one on standard input as its bytes,
    those in archives that were named as open files, videos as their frames.

    What is not of the kind by its name, or excluded, is passed over, and what does not exist is
    rejected. Videos in folders are passed over unless there is a step, ``every`` so many seconds.
    Raises UsageError where there is no image.
    """
    named = [image for image in images if image != STANDARD_INPUT]
    files: list[str] = []
    missing: list[str] = []
    for image in named:
        (files if os.path.lexists(image) else missing).append(image)
    if not files and len(named) == len(images):
        files, missing = missing[:1], missing[1:]  # which raises
    for image in missing:
        reject(Rejection(printable(image), "there is no such file"))
    if len(named) < len(images):
        yield sys.stdin.buffer.read()
    if not files:
        return
    for found in not_empty(_each(files, kind, exclude, every), files, kind):
        if isinstance(found, Rejection):
            reject(found)
        else:
            yield found.path if found.picture is None else found.picture


def _each(
    roots: Iterable[str], kind: Kind, exclude: Exclusion, every: float | None
) -> Iterator[ImageFile | Rejection]:
    """What is in files, folders, archives and videos, named as these were typed."""
    from siamese_search.pictures.video import filmed

    pictures = kind.suffixes is None
    below = WITH_VIDEOS if pictures and every is not None else kind
    for root in roots:
        if is_archive(root, kind):
            for one in members(root, kind, exclude):
                yield one if isinstance(one, Rejection) else ImageFile(one.name, "", picture=one)
            continue
        for found in find([root], kind=below, exclude=exclude):
            typed = _as_typed(root, found)
            if pictures and isinstance(typed, ImageFile) and is_video(typed.path):
                yield from filmed(typed, every)
            else:
                yield typed


def _as_typed(root: str, found: ImageFile | Rejection) -> ImageFile | Rejection:
    """What was found in a file or folder, its path beginning as that was typed."""
    if isinstance(found, Rejection):
        return found
    inside = os.path.relpath(found.path, os.path.abspath(root))
    return replace(found, path=root if inside == os.curdir else os.path.join(root, inside))


def name_of(image: Asked) -> str:
    """What an image is called in answers."""
    if isinstance(image, str | bytes):
        return image if isinstance(image, str) else STANDARD_INPUT
    return image.name


def in_parts(images: Iterable[Asked]) -> Iterator[Iterable[Asked]]:
    """Images in parts that may be asked about together: frames are in memory, so few of them at a
    time, and of a camera one alone.
    """
    from siamese_search.pictures.video import Frame

    for moving, group in groupby(images, lambda one: isinstance(one, Frame)):
        if not moving:
            yield group
            continue
        some: list[Asked] = []
        held = 0
        for frame in group:
            assert isinstance(frame, Frame)
            some.append(frame)
            held += len(frame.content)
            if frame.taken is not None or held >= AT_ONCE:
                yield some
                some, held = [], 0
        if some:
            yield some


def when(image: Asked) -> dict[str, object]:
    """When a frame is, or was taken, as ``query --json`` has it; nothing of pictures."""
    from siamese_search.pictures.video import Frame

    if not isinstance(image, Frame):
        return {}
    taken = {} if image.taken is None else {"taken": image.taken.isoformat()}
    return {"time": image.time, **taken}


def moment(image: Asked) -> str:
    """When a frame is, for people; nothing of pictures."""
    from siamese_search.pictures.video import Frame

    return f" at {image.moment}" if isinstance(image, Frame) else ""


def changes(answers: Answers) -> Answers:
    """Answers to frames that name another identity than that to the frame before, or none where
    that did; all to pictures.
    """
    before: dict[tuple[str, Part | None], tuple[str | None]] = {}
    for image, box, answer in answers:
        if when(image) and not isinstance(answer, Exception):
            place, found = (name_of(image), box), (answer.identity,)
            if before.get(place) == found:
                continue
            before[place] = found
        yield image, box, answer


def columns(ranked: bool, timed: bool = False) -> list[str]:
    """The columns of a table of answers; ``ranked``, it has a row for each candidate, ``timed``,
    the time in a video.
    """
    first, *others = ANSWER
    time = ["time"] if timed else []
    return [first, *time, *others, *(["rank"] if ranked else []), *CANDIDATE]


def rows(place: Sequence[object], answer: Identification, ranked: bool) -> Iterator[list[object]]:
    """An answer about a place, an image and its time in a table that has one, as rows of it: one
    with the best candidate, or one for each. What is not known is empty.
    """
    first = (*place, answer.identity, answer.score, answer.confidence, answer.threshold)
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
    from siamese_search.pictures.regions import Region

    for some in in_parts(images):
        if not boxes:
            for image, answer in ask(some):
                yield image, None, answer
            continue
        for region, answer in ask(Region(image, box) for image in some for box in boxes):
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
