"""Enrolment: from paths to committed items, as a stream with bounded memory.

Files are read and hashed, what is enrolled already drops out, the rest is decoded, embedded and
committed about once a second. What a commit has acknowledged survives whatever comes after.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import secrets
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from siamese_search import images
from siamese_search.catalog import Catalog
from siamese_search.database import sync_folder
from siamese_search.encoder import Encoder
from siamese_search.errors import ImageError, StorageError, UsageError
from siamese_search.pipeline import AHEAD, embed_batches, parallel_map, thread_pool
from siamese_search.records import ImageFile, NewItem, Progress, Rejection, printable

COMMIT_SECONDS = 1.0
COPIES = "images"
LENGTH_TOLERANCE = 1e-3

FloatArray = npt.NDArray[np.float32]
PixelArray = npt.NDArray[np.uint8]
Watcher = Callable[[Progress], None]
Files = Iterable[ImageFile | Rejection]


def normalised(label: str) -> str:
    """An identity's name in one spelling: Unicode NFC, no space around it.

    Raises UsageError for a name that is empty, has control characters or is not text.
    """
    if not isinstance(label, str):
        raise UsageError(f"{label!r} cannot be an identity's name: it needs to be text")
    name = unicodedata.normalize("NFC", label).strip()
    if not name or any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise UsageError(f"{label!r} cannot be an identity's name: it needs printable characters")
    return name


def find(paths: Iterable[str], label: str | None = None) -> Iterator[ImageFile | Rejection]:
    """The images of files and folders, labelled by their place, or all by ``label``.

    Raises UsageError, before the first image, for a path that does not exist.
    """
    roots = [os.fspath(path) for path in paths]
    for root in roots:
        if not os.path.lexists(root):
            raise UsageError(f"{printable(root)}: no such file or folder")
    name = None if label is None else normalised(label)
    for root in roots:
        for found in images.find_images(root):
            if name is not None and isinstance(found, ImageFile):
                found = replace(found, identity=name)
            yield found


def not_empty(files: Files, places: Iterable[str]) -> Files:
    """The same stream; UsageError, naming the places searched, where nothing is in it."""
    iterator = iter(files)
    first = next(iterator, None)
    if first is None:
        where = ", ".join(printable(place) for place in places)
        raise UsageError(f"no images in {where}")
    return chain([first], iterator)


def read_manifest(path: str) -> Iterator[ImageFile | Rejection]:
    """The images that a CSV with the columns ``path`` and ``label`` lists.

    Relative paths are relative to the CSV's folder; further columns become metadata. Raises
    UsageError for a file that is no such CSV.
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or []
            if not {"path", "label"} <= set(columns):
                raise UsageError(
                    f"{path}: the first row must name the columns path and label, not "
                    f"{', '.join(columns) or 'nothing'}"
                )
            for row in rows:
                yield _manifest_entry(row, folder, f"{path}, line {rows.line_num}")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is not a CSV file in UTF-8: {error}") from error


def _manifest_entry(row: dict[str, str], folder: str, place: str) -> ImageFile | Rejection:
    if not row["path"]:
        return Rejection(place, "no path in this row")
    image = os.path.abspath(os.path.join(folder, row["path"]))
    try:
        identity = normalised(row["label"] or "")
    except UsageError as error:
        return Rejection(image, f"{place}: {error}")
    # DictReader collects surplus fields under None and fills missing ones with None.
    metadata = {
        key: value
        for key, value in row.items()
        if key and key not in ("path", "label") and isinstance(value, str) and value
    }
    return ImageFile(image, identity, metadata)


def read_answers(lines: Iterable[bytes], place: str, label: str) -> list[ImageFile]:
    """The images that lines printed by ``siasearch query --json`` are about, labelled ``label``.

    ``place`` names where the lines are from. Raises UsageError where they are anything else, or
    none.
    """
    name = normalised(label)
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            answer = json.loads(line)
            path, _, _ = (answer[key] for key in ("image", "identity", "matches"))
            path.encode()  # as every name that is enrolled
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"{place}, line {number}, is not what `siasearch query IMAGE --json` prints"
            ) from error
        found.append(ImageFile(os.path.abspath(path), name))
    if not found:
        raise UsageError(f"{place} is empty: `siasearch query IMAGE --json` prints what it takes")
    return found


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


def as_embeddings(embeddings: npt.ArrayLike, dimension: int) -> FloatArray:
    """Float32 (n, dimension), one vector counting as n = 1.

    Raises UsageError for another dimension, values that are not finite, or rows that are not of
    unit length.
    """
    try:
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            vectors = np.atleast_2d(np.asarray(embeddings, np.float32))
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"embeddings must be numbers of shape (n, {dimension}): {error}"
        ) from error
    if np.ma.is_masked(embeddings):
        raise UsageError("embeddings must be whole: some values are masked")
    if vectors.shape == (1, 0):
        vectors = vectors.reshape(0, dimension)
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise UsageError(f"embeddings of shape {vectors.shape}: the gallery has (n, {dimension})")
    # Written so that NaN counts as wrong.
    with np.errstate(over="ignore", invalid="ignore"):
        wrong = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < LENGTH_TOLERANCE)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UsageError(f"embedding {row} is not finite and of unit length: normalise it first")
    return vectors


def file_fault(path: str | os.PathLike[str], content: str) -> str | None:
    """What is wrong with a file that had this content, None where it still has."""
    try:
        same = images.content_hash(images.read_file(os.fspath(path))) == content
    except ImageError as error:
        return str(error)
    return None if same else "has other content than before"


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
            data = images.read_file(file.path)
        except ImageError as error:
            return Rejection(printable(file.path), str(error))
        return _Read(file, data, images.content_hash(data))

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
