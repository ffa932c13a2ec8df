"""Training data: pictures with identities, decoded once and kept, split by class.

It knows nothing of networks, nor of what a run does with the pictures.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from siamese_search.arrays import IntArray, PixelArray
from siamese_search.embedding import pipeline
from siamese_search.errors import ImageError, StorageError, UsageError
from siamese_search.pictures import render
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.pictures.read import content_hash, read_file
from siamese_search.pictures.sources import find, nameable, not_empty, of_another, places_of
from siamese_search.records import ImageFile, Progress, Rejection
from siamese_search.words import printable

Watcher = Callable[[Progress], None]

SMALL = 128  # pixels
SOME = 2000  # pictures that calibrate beside what is held out
SOME_EACH = 20  # of a class
FEW_CLASSES = 10  # with fewer, none can be spared for validation
SPARING = 4  # pictures of a class, from which on some can be held out


@dataclass(frozen=True)
class Content:
    """What a file held when it was decoded: the SHA-256 of its bytes, in hexadecimal digits."""

    path: str
    digest: str


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures, uint8 (n, height, width, channels), with their classes."""

    pixels: PixelArray
    labels: IntArray
    contents: tuple[Content, ...] = ()  # of each, where they come from files

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, least: int = 1) -> Pictures:
        """At most so many pictures of each class, and about ``SOME`` of all; but so many of each
        at ``least``.
        """
        classes = int(self.labels.max()) + 1
        return self.first(max(least, min(SOME_EACH, SOME // classes)))

    def alike(self) -> Pictures:
        """Pictures that tell how those of one class vary: about ``SOME``, of classes at random that
        have two or more, so many of each as ``some`` takes where classes are few.
        """
        counts = np.minimum(np.bincount(self.labels), SOME_EACH)
        several = np.random.default_rng(0).permutation(np.flatnonzero(counts > 1))
        taken = several[np.cumsum(counts[several]) <= max(SOME, SOME_EACH)]
        return self.take(np.flatnonzero(np.isin(self.labels, taken))).first(SOME_EACH)

    def whole(self) -> Pictures:
        """All pictures of some classes, two at least: about ``SOME``, with all of their pairs."""
        classes = np.unique(self.labels)
        every = max(1, min(-(-len(self) // SOME), len(classes) // 2))
        return self.take(np.flatnonzero(np.isin(self.labels, classes[::every])))

    def first(self, each: int) -> Pictures:
        """The first pictures of each class, ``each`` at most."""
        order = np.argsort(self.labels, kind="stable")
        firsts = np.searchsorted(self.labels[order], self.labels[order])
        return self.take(order[np.arange(len(order)) - firsts < each])

    def take(self, chosen: IntArray) -> Pictures:
        """Those at some positions (m,)."""
        contents = tuple(self.contents[one] for one in chosen) if self.contents else ()
        return Pictures(self.pixels[chosen], self.labels[chosen], contents)


@dataclass(frozen=True)
class Split:
    """Which files train and which validate, and how the latter were chosen."""

    training: list[ImageFile]
    validation: list[ImageFile]
    how: str  # "classes", "pictures" or "none"


def split(files: Sequence[ImageFile], share: float, seed: int) -> Split:
    """Hold out a share of the classes; with few classes, pictures of each; else nothing.

    Held-out classes show how well new ones will be told apart, which is the point. Raises
    UsageError where there are fewer than two classes.
    """
    classes: dict[str, list[ImageFile]] = defaultdict(list)
    for file in files:
        classes[file.identity].append(file)
    if len(classes) < 2:
        raise UsageError(
            f"{len(classes)} class in the training pictures: at least two are needed, each in a"
            " folder of its own"
        )
    random = np.random.default_rng([seed, 2])
    several = sorted(name for name, members in classes.items() if len(members) > 1)
    count = min(round(share * len(classes)), len(several), len(classes) - 2)
    if len(several) >= FEW_CLASSES and count >= 2:
        held = {several[n] for n in random.permutation(len(several))[:count]}
        return Split(
            [file for file in files if file.identity not in held],
            [file for file in files if file.identity in held],
            "classes",
        )
    validation = []
    for name in several if share else []:
        members = classes[name]
        if len(members) >= SPARING:
            chosen = random.permutation(len(members))[: max(2, round(share * len(members)))]
            validation += [members[n] for n in chosen]
    if len({file.identity for file in validation}) < 2:  # recall@1 would be 100 %, whatever
        validation = []
    held_files = {file.path for file in validation}
    training = [file for file in files if file.path not in held_files]
    return Split(training, validation, "pictures" if validation else "none")


def cautions(parts: Split, each: Iterable[int], loss: str) -> Iterator[str]:
    """What one should know of a run on what is left, ``each`` of which are a class's pictures."""
    if parts.how == "pictures":
        yield "few classes: pictures of each are held out in place of classes, so recall@1 flatters"
    elif parts.how == "none":
        few = "too little is left of what was to be held out"
        why = few if parts.validation else "nothing can be held out"
        yield f"{why}: there is no early stopping, and the threshold is a guess"
    single = sum(count == 1 for count in each)
    if single and loss != "self-supervised":
        yield f"{single} classes have one picture each: its altered views are their only pairs"


def decode(
    files: Sequence[ImageFile],
    classes: dict[str, int],
    preprocessing: Preprocessing,
    limit: int,
    watch: Watcher = lambda progress: None,
    first: dict[str, ImageFile] | None = None,
    labelled: bool = True,
) -> tuple[Pictures, list[Rejection]]:
    """Decode files in threads; those that are no pictures are rejected with their reason.

    With ``first``, files by SHA-256, which are added to, copies of what is there are left out, and
    rejected where files are ``labelled`` and that is of another identity. Up to ``limit`` bytes are
    held in memory; beyond, in an unnamed temporary file.
    """
    shape = (len(files), preprocessing.height, preprocessing.width, preprocessing.channels)
    pixels = np.empty(shape, np.uint8) if int(np.prod(shape)) <= limit else _on_disk(shape)
    labels: list[int] = []
    kept: list[Content] = []
    rejected: list[Rejection] = []

    contents: dict[str, str] = {}

    def load(file: ImageFile) -> PixelArray:
        data = read_file(file.path)
        contents[file.path] = content_hash(data)
        return render.decode(data, preprocessing)

    with pipeline.thread_pool() as pool:
        stream = pipeline.decoded(pool, ((file, file) for file in files), load)
        for done, (file, result) in enumerate(stream, start=1):
            watch(Progress("decoding", done, len(files)))
            if isinstance(result, ImageError):
                rejected.append(Rejection(printable(file.path), str(result)))
                continue
            digest = contents[file.path]
            earlier = file if first is None else first.setdefault(digest, file)
            if earlier is file:
                pixels[len(labels)] = result
                labels.append(classes[file.identity])
                kept.append(Content(file.path, digest))
            elif labelled and earlier.identity != file.identity:
                rejected.append(of_another(file, earlier))
    return Pictures(pixels[: len(labels)], np.array(labels, np.int64), tuple(kept)), rejected


def _on_disk(shape: tuple[int, ...]) -> PixelArray:
    """An array in an unnamed temporary file. Raises StorageError where there is no room."""
    backing = tempfile.TemporaryFile()  # noqa: SIM115  the mapping keeps it
    size = int(np.prod(shape))
    try:
        if hasattr(os, "posix_fallocate"):  # else a full disk would kill the process later
            os.posix_fallocate(backing.fileno(), 0, size)
        return np.memmap(backing, np.uint8, "w+", shape=shape)
    except OSError as error:
        raise StorageError(
            f"{size / 1e9:.1f} GB of decoded pictures find no room in {tempfile.gettempdir()}:"
            f" {error.strerror}; set TMPDIR to a larger disk, or take a smaller --size"
        ) from error


def roomy(preprocessing: Preprocessing) -> Preprocessing:
    """Preprocessing for training pictures: all that a crop would cut away is still there.

    Small pictures are kept at twice the size, so that warping does not blur them.
    """
    if preprocessing.resize == "crop":
        return preprocessing.uncut()
    grow = 2 if max(preprocessing.width, preprocessing.height) <= SMALL else 1
    return replace(
        preprocessing, width=grow * preprocessing.width, height=grow * preprocessing.height
    )


def found_files(
    images: Iterable[str | os.PathLike[str] | ImageFile | Rejection], out: str | os.PathLike[str]
) -> tuple[list[ImageFile], list[Rejection]]:
    """Pictures to train on, each once, without what an earlier run drew into ``out``; files by
    path, so that an order of finding changes nothing. What is found under two identities is
    rejected under the second. Raises UsageError for a place that has none, and for an ``out`` that
    contains one, or all pictures.
    """
    files: dict[str, ImageFile] = {}  # by where they really lie
    rejected: list[Rejection] = []
    inside = os.path.join(os.path.realpath(out), "")
    left_out = drawn = False
    for one in places_of(images, "images"):
        given = isinstance(one, ImageFile | Rejection)
        place = os.fspath(one) if not given else ""
        left_out |= not given and os.path.join(os.path.realpath(place), "").startswith(inside)
        for found in nameable([one] if given else not_empty(find([place]), [place])):
            if isinstance(found, Rejection):
                rejected.append(found)
                continue
            real = os.path.realpath(found.path)
            if real.startswith(inside):
                drawn = True
                continue
            first = files.setdefault(real, found)
            if first.identity != found.identity:
                rejected.append(of_another(found, first))
    if left_out or (drawn and not files):
        raise UsageError(f"{os.fspath(out)} contains the pictures: --out takes a folder of its own")
    return sorted(files.values(), key=lambda file: file.path), rejected
