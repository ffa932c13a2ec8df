"""Sources: where the images to enrol come from: folders, manifests, answers of a query.

Knows nothing of encoders and galleries.
"""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from itertools import chain, repeat
from numbers import Real
from typing import Any, Final

from siamese_search.errors import UsageError
from siamese_search.files import as_path, take_long_cells
from siamese_search.pictures.choosing import NOTHING, Exclusion, Naming
from siamese_search.pictures.drawings import is_drawing
from siamese_search.pictures.find import DRAWING, Passed, find_images
from siamese_search.pictures.kind import PICTURES, Kind
from siamese_search.pictures.read import is_path, several
from siamese_search.records import ImageFile, Rejection
from siamese_search.words import printable

Files = Iterable[ImageFile | Rejection]
SEPARATORS = ",;\t"  # of a manifest's columns; spreadsheets write the one that is usual there

METADATA_BYTES: Final = 1 << 16  # names and texts of an item together, in UTF-8
MISSING: Final = "no such file or folder"


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


def nameable(files: Files) -> Iterator[ImageFile | Rejection]:
    """The same files, their identities' names in one spelling; rejected where there is none."""
    for file in files:
        if isinstance(file, ImageFile):
            try:
                yield replace(file, identity=normalised(file.identity))
            except UsageError as error:
                yield Rejection(printable(file.path), str(error))
        else:
            yield file


def of_another(file: ImageFile, first: ImageFile) -> Rejection:
    """The rejection of a picture that is there already, as another identity."""
    other = f"the same picture is taken as {first.identity!r} already, by {printable(first.path)}"
    return Rejection(printable(file.path), f"{other}: leave out one of the two")


def find(
    paths: Iterable[str],
    label: str | None = None,
    passed: Passed = lambda path, why: None,
    kind: Kind = PICTURES,
    exclude: Exclusion = NOTHING,
    naming: Naming | None = None,
) -> Iterator[ImageFile | Rejection]:
    """The images of files and folders, labelled by their place, all by ``label``, or by ``naming``.

    ``passed`` is told of what ``find_images`` passes over, and of drawings of siasearch that were
    not named themselves. Raises UsageError, before anything is found, for a path that does not
    exist.
    """
    roots = [os.fspath(path) for path in paths]
    for root in roots:
        if not os.path.lexists(root):
            raise UsageError(f"{printable(root) or repr(root)}: {MISSING}")
    name = None if label is None else normalised(label)

    def each() -> Iterator[ImageFile | Rejection]:
        for root in roots:
            named = os.path.abspath(root)
            for found in find_images(root, passed, kind, exclude):
                if isinstance(found, Rejection):
                    yield found
                elif found.path != named and is_drawing(found.path):
                    passed(found.path, DRAWING)
                elif naming is not None:
                    yield renamed(found, named, naming)
                else:
                    yield found if name is None else replace(found, identity=name)

    return each()


def renamed(found: ImageFile, root: str, naming: Naming) -> ImageFile | Rejection:
    """A file found in a ``root``, with the identity that a naming gives it; rejected where that is
    none.
    """
    identity = naming(root, found.path)
    if not identity:
        return Rejection(found.path, "no identity is found in its path: see --identity-from")
    return replace(found, identity=identity)


def given(
    images: Any,
    label: str | None = None,
    metadata: Mapping[str, object] | Iterable[Mapping[str, object]] | None = None,
    labels: Iterable[str] | None = None,
    kind: Kind = PICTURES,
) -> Files:
    """The images of records, files and folders, as ``find``, and pictures without files, as
    ``label`` or each as its own of ``labels``; one or many. ``metadata`` are added to those of
    each, or one of several to those of each. A path that does not exist is a rejection.

    With one label and metadata for all, a generator is read as it is needed. Raises UsageError
    where there is no image, for a picture without a file and a label, and where labels or metadata
    are not as many as images.
    """
    if label is not None and labels is not None:
        raise UsageError("label and labels both name identities: use one")
    each: Iterable[Any] = several(images)
    facts = {} if metadata is None else metadata
    places = ["the images given"]
    names: Iterable[str | None] = repeat(None if label is None else normalised(label))
    if label is None or not isinstance(facts, Mapping) or isinstance(images, Sequence):
        each = listed = list(each)
        places = [str(as_path(one)) for one in listed if is_path(one)] or ["an empty list"]
        if labels is not None:
            names = [normalised(one) for one in _one_each(labels, len(listed), "labels")]
        _require_found(listed, named=label is not None or labels is not None)
    texts: Iterable[dict[str, str]]
    if isinstance(facts, Mapping):
        texts = repeat(texts_of(facts, "metadata"))
    else:
        several_of = _one_each(facts, len(listed), "metadata")
        texts = [texts_of(one, f"metadata[{n}]") for n, one in enumerate(several_of)]
    triples = zip(each, names, texts, strict=False)
    files = (
        replace(file, metadata=file.metadata | own) if own and isinstance(file, ImageFile) else file
        for place, (one, name, own) in enumerate(triples)
        for file in _files_of(one, name, place, kind)
    )
    return not_empty(files, places, kind)


def _one_each(values: Any, count: int, what: str) -> list[Any]:
    """Values of which there is one for each image."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UsageError(f"{what} is {values!r}: it needs a list, with one for each image")
    found = list(values)
    if len(found) != count:
        raise UsageError(f"{len(found)} {what}, but {count} images: give one for each")
    return found


def _require_found(images: Sequence[Any], named: bool) -> None:
    """Raise UsageError where all are paths that do not exist, and, unless they are ``named``, for a
    picture that has no file to be named by.
    """
    paths = [os.fspath(one) for one in images if is_path(one)]
    if paths and len(paths) == len(images) and not any(map(os.path.lexists, paths)):
        raise UsageError(f"{printable(paths[0]) or repr(paths[0])}: {MISSING}")
    for place, one in enumerate(images):
        if not named and not isinstance(one, ImageFile) and not is_path(one):
            raise UsageError(f"images[{place}] has no file to be named by: give a label")


def _files_of(
    image: Any, name: str | None, place: int, kind: Kind
) -> Iterable[ImageFile | Rejection]:
    """What is to be enrolled of one that was given at a place, as an identity of that name."""
    if isinstance(image, ImageFile):
        return [image]
    if not is_path(image):
        return [ImageFile(f"images[{place}]", name or "", picture=image)]
    path = os.fspath(image)
    if not os.path.lexists(path):
        return [Rejection(printable(os.path.abspath(path)), MISSING)]
    return find([path], name, kind=kind)


def places_of(places: Any, what: str) -> list[Any]:
    """Records, and paths of files and folders, one or many, as a list. Raises UsageError, saying of
    ``what``, for anything else.
    """
    one = is_path(places) or not isinstance(places, Iterable)
    found = [places] if one else list(places)
    for number, place in enumerate(found):
        if not is_path(place) and not isinstance(place, ImageFile | Rejection):
            name = what if one else f"{what}[{number}]"
            raise UsageError(
                f"{name} is of type {type(place).__name__}: give paths of files and folders, or"
                " siamese_search.records.ImageFile(path, identity)"
            )
        if is_path(place):
            as_path(place)
    return found


def texts_of(pairs: Mapping[str, object], what: str) -> dict[str, str]:
    """Metadata as texts; UsageError, saying of ``what``, for names that are none, for values that
    are neither text, number nor date, for half characters (surrogates), which no file can keep, and
    for more than 64 KiB of UTF-8 together.
    """
    if not isinstance(pairs, Mapping) or not all(
        key and isinstance(key, str) and isinstance(value, str | Real | date)
        for key, value in pairs.items()
    ):
        raise UsageError(f"{what} is {pairs!r}: it needs names and texts, numbers or dates")
    texts = {key: str(value) for key, value in pairs.items()}
    try:
        size = len("".join((*texts, *texts.values())).encode())
    except UnicodeEncodeError:
        raise UsageError(f"{what} is {pairs!r}: it has characters that are none") from None
    if size > METADATA_BYTES:  # tables bound their rows
        raise UsageError(f"{what} has {size} bytes: an item takes {METADATA_BYTES}")
    return texts


def not_empty(files: Files, places: Iterable[str], kind: Kind = PICTURES) -> Files:
    """The same stream; UsageError, naming the places searched, where nothing is in it."""
    iterator = iter(files)
    first = next(iterator, None)
    if first is None:
        where = ", ".join(printable(place) for place in places)
        raise UsageError(f"no {'images' if kind == PICTURES else kind} in {where}")
    return chain([first], iterator)


def read_manifest(path: str) -> Iterator[ImageFile | Rejection]:
    """The images that a CSV with the columns ``path`` and ``label`` lists; semicolons or tabs may
    part them, too.

    Relative paths are relative to the CSV's folder; further columns become metadata. Raises
    UsageError for a file that is no such CSV.
    """
    folder = os.path.dirname(os.path.abspath(path))
    take_long_cells()
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()  # once: it may be a pipe
            by = max(SEPARATORS, key=lambda by: _names_columns(first, by))
            rows = csv.DictReader(chain([first], file), delimiter=by)
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
        raise UsageError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error


def _names_columns(line: str, separator: str) -> bool:
    """Whether a first line names the columns that a manifest has."""
    return {"path", "label"} <= set(next(csv.reader([line], delimiter=separator), ()))


def _manifest_entry(row: dict[str, str], folder: str, place: str) -> ImageFile | Rejection:
    if not row["path"]:
        return Rejection(place, "no path in this row")
    image = os.path.abspath(os.path.join(folder, row["path"]))
    # DictReader collects surplus fields under None and fills missing ones with None.
    metadata = {
        key: value
        for key, value in row.items()
        if key and key not in ("path", "label") and isinstance(value, str) and value
    }
    try:
        return ImageFile(image, normalised(row["label"] or ""), texts_of(metadata, "its metadata"))
    except UsageError as error:
        return Rejection(image, f"{place}: {error}")


def read_answers(lines: Iterable[bytes], place: str, label: str) -> list[ImageFile]:
    """The images that lines printed by ``siasearch query --json`` are about, labelled ``label``.

    ``place`` names where the lines are from. Raises UsageError where they are anything else, are
    about a part of a picture, or none.
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
        if answer.get("crop") is not None:
            raise UsageError(
                f"{place}, line {number}, is about a part of {printable(path)}, and an item is a"
                " whole file: cut that part out and add it"
            )
        if answer.get("time") is not None:
            raise UsageError(
                f"{place}, line {number}, is about a frame of {printable(path)}, which is no file"
            )
        found.append(ImageFile(os.path.abspath(path), name))
    if not found:
        raise UsageError(f"{place} is empty: `siasearch query IMAGE --json` prints what it takes")
    return found
