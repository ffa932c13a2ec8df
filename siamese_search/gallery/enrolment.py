"""Enrolment: from paths to committed items, as a stream with bounded memory.

Files are read and hashed, what is enrolled already drops out, the rest is decoded, embedded and
committed about once a second. What a commit has acknowledged survives whatever comes after.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from siamese_search.arrays import FloatArray, PixelArray
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.pipeline import described, parallel_map, thread_pool
from siamese_search.embedding.vectors import Description, as_embeddings
from siamese_search.errors import ImageError, UsageError
from siamese_search.gallery.agreement import require_same_graph
from siamese_search.gallery.copies import NewCopies, copy_path, settle_copies
from siamese_search.pictures.kind import TIME, VIDEO
from siamese_search.pictures.memory import contents, suffix_of
from siamese_search.pictures.read import content_hash
from siamese_search.pictures.sources import Files, nameable, normalised, texts_of
from siamese_search.records import (
    EnrollmentReport,
    ImageFile,
    Misnamed,
    NewItem,
    Progress,
    Rejection,
    Watcher,
)
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.facts import Enrolled
from siamese_search.storage.history import new_run
from siamese_search.words import printable, same_picture

COMMIT_SECONDS = 1.0
MANY = 1000  # items that are written by a connection of their own
COPIED = 256  # copies of items enrolled before that are committed together


def embedded_items(
    vectors: FloatArray,
    identities: Iterable[str],
    metadata: Iterable[Mapping[str, str]] | None,
) -> list[NewItem]:
    """Items for embeddings (n, dimension) that come without images; UsageError for bad ones."""
    if isinstance(identities, str) or isinstance(metadata, Mapping):
        raise UsageError("identities and metadata are lists, with one for each embedding")
    identities = list(identities)
    metadata = [{}] * len(identities) if metadata is None else list(metadata)
    if not len(vectors) == len(identities) == len(metadata):
        raise UsageError(
            f"{len(vectors)} embeddings, {len(identities)} identities and {len(metadata)} metadata:"
            " their numbers must be the same"
        )
    texts = [texts_of(pairs, f"metadata {row}") for row, pairs in enumerate(metadata)]
    return [
        NewItem(
            normalised(identity),
            hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest(),
            metadata=pairs,
        )
        for vector, identity, pairs in zip(vectors, identities, texts, strict=True)
    ]


@dataclass(frozen=True)
class _Read:
    """A file's bytes, read once, so that hash, pixels and copy are of the same content."""

    file: ImageFile
    data: bytes
    content: str

    @property
    def copy(self) -> str:
        """Where a copy of it lies in the gallery."""
        return copy_path(self.content, self.file.source or suffix_of(self.data))


class Enrolment:
    """One run of enrolment into a catalog. Counts are of what was committed."""

    def __init__(
        self,
        catalog: Catalog,
        encoder: Encoder,
        *,
        copies: Path | None = None,  # the gallery's folder, where they shall be kept
        distractor: bool = False,  # identities that must never be named
        change: int | None = None,  # that it goes on with
        after_commit: Callable[[], object] = lambda: None,
        watch: Watcher = lambda progress: None,
    ) -> None:
        self._after_commit = after_commit
        self._catalog = catalog
        self._encoder = encoder
        self._copies = None if copies is None else NewCopies(copies)
        self._distractor = distractor
        self._kinds: dict[str, bool] = {}  # whether an identity is a distractor
        self._watch = watch
        self._last_before = catalog.state().last_item
        # What its transactions have in common.
        self.change = (change is not None and catalog.run_of(change)) or new_run()
        self.added = 0
        self.numbers: list[int] = []  # of the items added
        self.skipped = 0
        self._unembedded: set[int] = set()  # items of files that were skipped
        self.rejected: list[Rejection] = []
        self._relabelled: Counter[tuple[str, str]] = Counter()
        self._misnamed: Counter[tuple[str, str]] = Counter()  # rejected: enrolled as, found as
        # Content seen in this run but not yet settled: its file, and later files with it.
        self._underway: dict[str, tuple[ImageFile, list[ImageFile]]] = {}
        # What to note of items that were enrolled before: where they lie now, new metadata.
        self._moved: dict[int, str] = {}
        self._described: dict[int, dict[str, str]] = {}
        self._spoken_of: set[int] = set()  # items whose metadata were given in this run
        # Copies of them that were written, but not yet named.
        self._written: dict[int, str] = {}
        self.copied = 0
        self.calibrated: float | None = None  # the FPIR, where the gallery has done so after it

    def run(self, files: Files) -> None:
        """Enrol files. An exception, also Ctrl-C, leaves what was committed before it."""
        require_same_graph(self._catalog, self._encoder, self._catalog.path.parent)
        try:
            self._run_through(files)
        finally:
            if self._copies is not None:
                self._copies.discard()

    def report(self) -> EnrollmentReport:
        """What was done, with the gallery's totals as of now."""
        totals = self._catalog.totals()
        relabelled = tuple((*names, count) for names, count in self._relabelled.items())
        replaced = tuple(self._catalog.replaced(self._last_before)) if self.added else ()
        return EnrollmentReport(
            self.added, self.skipped, tuple(self.rejected), *totals, relabelled, self.copied,
            replaced, self._renamed(), tuple(self.numbers), self.calibrated,
            len(self._unembedded),
        )  # fmt: skip

    def _renamed(self) -> tuple[tuple[str, str, int], ...]:
        """The identities, of several pictures, that have come whole under one other name."""
        names = Counter(was for was, _ in self._misnamed)
        return tuple(
            (was, now, count)
            for (was, now), count in self._misnamed.items()
            if names[was] == 1 < count == self._catalog.count_items(was)
        )

    def _run_through(self, files: Files) -> None:
        items: list[NewItem] = []
        descriptions: list[Description] = []
        committed = time.monotonic()
        with thread_pool(2) as readers:
            read = parallel_map(
                readers,
                self._read,
                self._regular(files),
                ahead=8,
                cost=lambda file: _size(file.path),
            )
            with described(
                ((self._item(task), task) for task in self._new(read)),
                self._decode,
                lambda: self._encoder.runtime,
                cost=lambda task: len(task.data),
            ) as stream:
                for batch in stream:
                    for item, result in batch:
                        if isinstance(result, ImageError):
                            file, twins = self._underway.pop(item.content)
                            for one in (file, *twins):
                                self._reject(one.path, str(result))
                        else:
                            items.append(item)
                            descriptions.append(result)
                    if time.monotonic() - committed >= COMMIT_SECONDS:
                        self._commit(items, descriptions)
                        committed = time.monotonic()
                self._commit(items, descriptions)

    def _regular(self, files: Files) -> Iterator[ImageFile]:
        for file in nameable(files):
            if isinstance(file, Rejection):
                self.rejected.append(file)
                continue
            name = file.identity
            if name not in self._kinds:
                kind = self._catalog.is_distractor(name)
                self._kinds[name] = self._distractor if kind is None else kind
            if self._kinds[name] != self._distractor:
                self._reject(file.path, self._other_kind(name))
                continue
            yield file

    def _other_kind(self, name: str) -> str:
        what = "an identity to be named" if self._distractor else "a distractor"
        return f"{name!r} is enrolled as {what}: use another name"

    def _read(self, file: ImageFile) -> _Read | Rejection:
        try:
            data = contents(file.path if file.picture is None else file.picture)
        except ImageError as error:
            return Rejection(printable(file.path), str(error))
        if file.picture is not None:  # its pixels are not held until it is committed
            file = replace(file, picture=b"")
        return _Read(file, data, content_hash(data))

    def _new(self, read: Iterable[_Read | Rejection]) -> Iterator[_Read]:
        """Drop what is enrolled already, before it costs a decode."""
        for task in read:
            if isinstance(task, Rejection):
                self.rejected.append(task)
                continue
            if task.content in self._underway:
                self._underway[task.content][1].append(task.file)
                continue
            known = self._catalog.known([task.content]).get(task.content)
            if known:
                if self._already(task.file, known):
                    self._copy(task, known)
                self._report()
            else:
                self._underway[task.content] = task.file, []
                yield task

    def _already(self, file: ImageFile, known: Enrolled) -> bool:
        """Account for a file whose content is enrolled; whether it is skipped, not rejected."""
        if known.identity != file.identity and known.was == file.identity:
            self._relabelled[known.was, known.identity] += 1  # a correction stays
        elif known.identity != file.identity:
            why = same_picture(known.identity)
            self.rejected.append(Misnamed(printable(file.path), why, known.number))
            self._misnamed[known.identity, file.identity] += 1
            return False
        self.skipped += 1
        if not known.embedded:
            self._unembedded.add(known.number)
        if file.source is not None and file.source != known.source and (
            known.source is None or not os.path.exists(known.source)
        ):  # fmt: skip
            self._moved[known.number] = file.source
        if file.metadata:
            self._describe(file, known.number)
        return True

    def _describe(self, file: ImageFile, number: int) -> None:
        """Note a file's metadata for an enrolled item.

        Of several files with the same content the first counts, and the others add what it lacks:
        else each run would change the item. A frame keeps its time for as long as its video is
        there, since frames that look alike come in every run.
        """
        (item,) = self._catalog.items([number]) or (None,)
        if item is None:
            return
        noted = self._described.get(number, {})
        kept: Iterable[str] = ()
        if number > self._last_before or number in self._spoken_of:
            kept = item.metadata | noted
        elif file.picture is not None and os.path.exists(item.metadata.get(VIDEO, "")):
            kept = (VIDEO, TIME)
        self._spoken_of.add(number)
        new = noted | {key: text for key, text in file.metadata.items() if key not in kept}
        if item.metadata | new != item.metadata:
            self._described[number] = new

    def _copy(self, task: _Read, known: Enrolled) -> None:
        """Keep a copy of what was enrolled without one."""
        if self._copies is None or known.copied or known.number in self._written:
            return
        self._copies.write(task.copy, task.data)
        self._written[known.number] = task.copy
        if len(self._written) >= COPIED:
            self._commit_copies()

    def _commit_copies(self) -> None:
        if self._copies is None or not self._written:
            return
        written, publish = self._written, self._copies.publish
        self.copied += self._catalog.note_copies(
            written,
            lambda without: publish({copy: n in without for n, copy in written.items()}),
        )
        self._written = {}

    def _item(self, task: _Read) -> NewItem:
        file, copy = task.file, None
        if self._copies is not None:
            copy = task.copy
        return NewItem(
            file.identity, task.content, file.source, len(task.data), copy, metadata=file.metadata
        )

    def _decode(self, task: _Read) -> PixelArray:
        pixels = self._encoder.decode(task.data)
        if self._copies is not None:
            self._copies.write(task.copy, task.data)
        return pixels

    def _commit(self, items: list[NewItem], descriptions: list[Description]) -> None:
        if items:
            numbers = self._catalog.add(
                items,
                np.stack([one.embedding for one in descriptions]),
                self._encoder.fingerprint,
                before_commit=lambda numbers: self._publish(items, numbers),
                distractor=self._distractor,
                places=[one.places for one in descriptions],
                run=self.change,
            )
            for item, number in zip(items, numbers, strict=True):
                file, twins = self._underway.pop(item.content)
                if number is None:  # another process was faster
                    owner = self._catalog.known([item.content]).get(item.content)
                    twins.insert(0, file)
                else:
                    owner = Enrolled(number, item.identity, item.source)
                    self.added += 1
                    self.numbers.append(number)
                for twin in twins:
                    if owner:
                        if self._already(twin, owner) and item.copy and number is None:
                            self._written[owner.number] = item.copy  # the other made none, perhaps
                    elif self._catalog.is_distractor(item.identity) is (not self._distractor):
                        self._reject(twin.path, self._other_kind(item.identity))
                    else:
                        self._reject(
                            twin.path, "it was removed while it was enrolled: add it again"
                        )
            items.clear()
            descriptions.clear()
        if self._moved or self._described:
            self._catalog.annotate(self._moved, self._described, self.change)
            self._moved.clear()
            self._described.clear()
        self._commit_copies()
        settle_copies(self._catalog, self._catalog.path.parent)
        self._report()
        self._after_commit()

    def _publish(self, items: Sequence[NewItem], numbers: Sequence[int | None]) -> None:
        if self._copies is not None:
            added = (item for item, n in zip(items, numbers, strict=True) if n is not None)
            self._copies.publish({item.copy: True for item in added if item.copy is not None})

    def _reject(self, path: str, reason: str) -> None:
        self.rejected.append(Rejection(printable(path), reason))

    def _report(self) -> None:
        done = self.added + self.skipped + len(self.rejected)
        self._watch(Progress("enrolling", done))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):  # no name at all, with a NUL
        return 0


def enroll_embeddings(
    catalog: Catalog,
    embeddings: FloatArray,
    identities: Iterable[str],
    metadata: Iterable[Mapping[str, str]] | None,
    places: Sequence[FloatArray | None] | None = None,
) -> list[int]:
    """See ``Gallery.enroll_embeddings``."""
    generation = catalog.state().generation
    vectors = as_embeddings(embeddings, generation.dimension)
    items = embedded_items(vectors, identities, metadata)
    if places is not None and len(places) != len(items):
        raise UsageError(f"places of {len(places)} pictures, but embeddings of {len(items)}")
    added: list[int] = []
    # Many take so long to write that others must be able to ask meanwhile, by their connection.
    own = nullcontext(catalog) if len(items) < MANY else closing(Catalog(catalog.path, spill=False))
    with own as writer:

        def whole(numbers: Sequence[int | None]) -> None:
            never = writer.distractors({item.identity for item in items})
            if never:
                raise UsageError(
                    f"{min(never)!r} is enrolled as a distractor: use another name; none was"
                    " enrolled"
                )
            for row, number in enumerate(numbers):
                if number is None:
                    raise UsageError(
                        f"embedding {row} ({items[row].identity}) is enrolled already, or given"
                        " twice: none was enrolled"
                    )
                added.append(number)

        writer.add(items, vectors, generation.fingerprint, before_commit=whole, places=places or ())
        settle_copies(writer, catalog.path.parent)
    return added
