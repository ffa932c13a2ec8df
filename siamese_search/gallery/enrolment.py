"""Enrolment: from paths to committed items, as a stream with bounded memory.

Files are read and hashed, what is enrolled already drops out, the rest is decoded, embedded and
committed about once a second. What a commit has acknowledged survives whatever comes after.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from siamese_search.arrays import FloatArray, PixelArray
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.pipeline import AHEAD, embed_batches, parallel_map, thread_pool
from siamese_search.errors import ImageError, StorageError, UsageError
from siamese_search.files import sync_folder
from siamese_search.gallery.copies import COPIES
from siamese_search.pictures.read import content_hash, read_file
from siamese_search.pictures.sources import Files, normalised
from siamese_search.records import ImageFile, NewItem, Progress, Rejection, Watcher, printable
from siamese_search.storage.catalog import Catalog

COMMIT_SECONDS = 1.0


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
    for row, pairs in enumerate(metadata):
        if not isinstance(pairs, Mapping) or not all(
            key and isinstance(key, str) and isinstance(value, str | int | float)
            for key, value in pairs.items()
        ):
            raise UsageError(f"metadata {row} is {pairs!r}: it needs names and texts or numbers")
    return [
        NewItem(
            normalised(identity),
            hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest(),
            metadata={key: str(value) for key, value in pairs.items()},
        )
        for vector, identity, pairs in zip(vectors, identities, metadata, strict=True)
    ]


@dataclass(frozen=True)
class _Read:
    """A file's bytes, read once, so that hash, pixels and copy are of the same content."""

    file: ImageFile
    data: bytes
    content: str


class Enrolment:
    """One run of enrolment into a catalog. Counts are of what was committed."""

    def __init__(
        self,
        catalog: Catalog,
        encoder: Encoder,
        generation: int,
        *,
        copies: Path | None = None,  # the gallery's folder, where they shall be kept
        distractor: bool = False,  # identities that must never be named
        after_commit: Callable[[], object] = lambda: None,
        watch: Watcher = lambda progress: None,
    ) -> None:
        self._after_commit = after_commit
        self._catalog = catalog
        self._encoder = encoder
        self._generation = generation
        self._copies = copies
        self._distractor = distractor
        self._kinds: dict[str, bool] = {}  # whether an identity is a distractor
        self._run = secrets.token_hex(4)
        self._unpublished: set[Path] = set()  # copies whose items are not committed yet
        self._watch = watch
        self.added = 0
        self.skipped = 0
        self.rejected: list[Rejection] = []
        # Content seen in this run but not yet settled: its identity, and later files with it.
        self._underway: dict[str, tuple[str, list[ImageFile]]] = {}
        # What to note of items that were enrolled before: where they lie now, new metadata.
        self._moved: dict[int, str] = {}
        self._described: dict[int, dict[str, str]] = {}

    def run(self, files: Files) -> None:
        """Enrol files. An exception, also Ctrl-C, leaves what was committed before it."""
        try:
            self._run_through(files)
        finally:
            for path in self._unpublished:
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def _run_through(self, files: Files) -> None:
        items: list[NewItem] = []
        vectors: list[FloatArray] = []
        committed = time.monotonic()
        with thread_pool(2) as readers, thread_pool() as decoders:
            read = parallel_map(
                readers,
                self._read,
                self._regular(files),
                ahead=8,
                cost=lambda file: _size(file.path),
            )
            decoded = parallel_map(
                decoders,
                self._decode,
                self._new(read),
                ahead=AHEAD,
                cost=lambda task: len(task.data),
            )
            for batch in embed_batches(decoded, lambda: self._encoder.runtime):
                for item, result in batch:
                    if isinstance(result, ImageError):
                        self._reject(item.source or "", str(result))
                        for twin in self._underway.pop(item.content)[1]:
                            self._reject(twin.path, str(result))
                    else:
                        items.append(item)
                        vectors.append(result)
                if time.monotonic() - committed >= COMMIT_SECONDS:
                    self._commit(items, vectors)
                    committed = time.monotonic()
            self._commit(items, vectors)

    def _regular(self, files: Files) -> Iterator[ImageFile]:
        for file in files:
            if isinstance(file, Rejection):
                self.rejected.append(file)
                continue
            try:
                name = normalised(file.identity)
            except UsageError as error:
                self._reject(file.path, str(error))
                continue
            if name not in self._kinds:
                kind = self._catalog.is_distractor(name)
                self._kinds[name] = self._distractor if kind is None else kind
            if self._kinds[name] != self._distractor:
                what = "a distractor" if self._kinds[name] else "an identity to be named"
                self._reject(file.path, f"{name!r} is enrolled as {what}: use another name")
                continue
            yield replace(file, identity=name)

    def _read(self, file: ImageFile) -> _Read | Rejection:
        try:
            data = read_file(file.path)
        except ImageError as error:
            return Rejection(printable(file.path), str(error))
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
                self._already(task.file, *known)
                self._report()
            else:
                self._underway[task.content] = task.file.identity, []
                yield task

    def _already(self, file: ImageFile, number: int, identity: str, source: str | None) -> None:
        """Account for a file whose content is enrolled."""
        if identity != file.identity:
            reason = f"the same image is enrolled as {identity!r}: relabel or remove that one first"
            self._reject(file.path, reason)
            return
        self.skipped += 1
        if source not in (None, file.path) and not os.path.exists(source):
            self._moved[number] = file.path
        if file.metadata:
            (item,) = self._catalog.items([number]) or (None,)
            if item and item.metadata | file.metadata != item.metadata:
                self._described[number] = file.metadata

    def _decode(self, task: _Read) -> tuple[NewItem, PixelArray | ImageError]:
        file = task.file
        item = NewItem(
            file.identity, task.content, file.path, len(task.data), metadata=file.metadata
        )
        try:
            pixels = self._encoder.decode(task.data)
        except ImageError as error:
            return item, error
        if self._copies is not None:
            suffix = Path(file.path).suffix.lower()
            item = replace(item, copy=f"{COPIES}/{task.content[:2]}/{task.content}{suffix}")
            self._unpublished.add(self._temporary(item))
            self._write_copy(self._temporary(item), task.data)
        return item, pixels

    def _temporary(self, item: NewItem) -> Path:
        """Where a copy lies, by a name of this run's own, until its item is committed."""
        assert self._copies is not None
        assert item.copy is not None
        path = self._copies / item.copy
        return path.with_name(f".{path.name}.{self._run}")

    @staticmethod
    def _write_copy(path: Path, data: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise StorageError(f"{path}: {error.strerror}") from error

    def _publish_copies(self, items: Sequence[NewItem], numbers: Sequence[int | None]) -> None:
        """Give the copies their names inside the transaction that commits their items."""
        copied = [(item, number) for item, number in zip(items, numbers, strict=True) if item.copy]
        for item, number in copied:
            temporary = self._temporary(item)
            if number is None:
                temporary.unlink(missing_ok=True)
            else:
                temporary.replace(temporary.parent / Path(item.copy or "").name)
        for folder in {self._temporary(item).parent for item, _ in copied}:
            sync_folder(folder)
        self._unpublished.difference_update(self._temporary(item) for item, _ in copied)

    def _commit(self, items: list[NewItem], vectors: list[FloatArray]) -> None:
        if items:
            numbers = self._catalog.add(
                items,
                np.stack(vectors),
                self._generation,
                before_commit=lambda numbers: self._publish_copies(items, numbers),
                distractor=self._distractor,
            )
            for item, number in zip(items, numbers, strict=True):
                identity, twins = self._underway.pop(item.content)
                if number is None:  # another process was faster
                    owner = self._catalog.known([item.content]).get(item.content)
                    twins.insert(0, ImageFile(item.source or "", identity))
                else:
                    owner = number, identity, item.source
                    self.added += 1
                for twin in twins:
                    if owner:
                        self._already(twin, *owner)
                    else:
                        self._reject(
                            twin.path, "it was removed while it was enrolled: add it again"
                        )
            items.clear()
            vectors.clear()
        if self._moved or self._described:
            self._catalog.annotate(self._moved, self._described)
            self._moved.clear()
            self._described.clear()
        self._report()
        self._after_commit()

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
