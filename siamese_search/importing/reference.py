"""Fitting an encoder's threshold on pictures of known identities: a reference.

As the shipped encoders' were: half of the identities are enrolled, the pictures of all are asked
about, many times over. What is written into its record is the threshold from which the best
identity is rather right than wrong, the confidence, and how strangers' evidence falls off.
Galleries of the encoder stay as they are.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np

from siamese_search.arrays import FloatArray
from siamese_search.decision.trained import View, trained_record
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.record import write_decision
from siamese_search.errors import EncoderError, ImageError, UsageError
from siamese_search.pictures.sources import find, nameable, not_empty, of_another, places_of
from siamese_search.records import ImageFile, Progress, Rejection, Watcher, unwatched
from siamese_search.words import counted, printable

FEWEST = 10  # identities with two pictures or more, by which a threshold is worth its name
IDENTITIES, EACH = 400, 20  # that are looked at, and pictures of each, drawn where there are more

Pictures = str | os.PathLike[str] | Iterable[str | os.PathLike[str] | ImageFile]


@dataclass(frozen=True)
class Fit:
    """What was fitted for the ``encoder`` (a folder), on how many pictures of how many identities.

    ``threshold`` is the cosine from which the best identity is rather right than wrong, ``before``
    the one that it replaced, None where there was none.
    """

    encoder: str
    threshold: float
    before: float | None
    pictures: int
    identities: int


def fit_reference(
    encoder_folder: str | os.PathLike[str],
    pictures: Pictures,
    *,
    device: str | None = None,
    reject: Callable[[Rejection], object] = lambda rejection: None,
    watch: Watcher | None = None,
) -> Fit:
    """Fit the threshold and confidence of an encoder on pictures, and rewrite its record.

    Pictures are folders, whose pictures are named as ``add`` names them, or files with their
    identities, ``ImageFile(path, identity)``. Of many, 400 identities are drawn, and 20 pictures of
    each. What cannot be read, or shows two identities, goes to ``reject``. Raises EncoderError for
    a shipped encoder, and one that cannot be opened or written; UsageError for fewer than ten
    identities with two pictures, and where these are not told apart.
    """
    encoder = Encoder.open(encoder_folder, device)
    if encoder.kind.suffixes is not None:
        raise EncoderError(
            f"the threshold of the encoder {encoder.name} is its own, in its package: calibrate"
            " the gallery (`siasearch calibrate`)"
        )
    if encoder.is_shipped:
        raise EncoderError(
            f"{encoder.location} comes with siasearch and is not changed: copy its folder"
            f" ({encoder.folder}), and name the copy"
        )
    by_identity = _drawn(_by_identity(pictures, reject))
    vectors, labels = _embedded(encoder, by_identity, reject, watch or unwatched)
    _require_enough(labels)
    names, classes = np.unique(np.array(labels), return_inverse=True)
    view = View(vectors, vectors[:0])
    threshold, fields = trained_record(
        view, classes, classes[:0], None, True, "pictures of a reference"
    )
    if threshold >= 1:  # the logistic does not rise
        raise UsageError(
            f"the encoder {encoder.name} does not tell these identities apart: is each folder one"
            " identity, with several pictures of it?"
        )
    before = encoder.threshold if encoder.calibrated else None
    write_decision(encoder.folder, threshold, fields)
    return Fit(str(encoder.folder), threshold, before, len(labels), len(names))


def _by_identity(
    pictures: Pictures, reject: Callable[[Rejection], object]
) -> dict[str, list[ImageFile]]:
    """The pictures of each identity; a file that is named again counts as what it was first."""
    given = places_of(pictures, "pictures")
    files = [one for one in given if isinstance(one, ImageFile)]
    folders = [os.fspath(one) for one in given if not isinstance(one, ImageFile)]
    found: dict[str, list[ImageFile]] = defaultdict(list)
    named: dict[str, ImageFile] = {}
    searched = not_empty(find(folders), folders) if folders or not files else ()
    for one in nameable(chain(files, searched)):
        if isinstance(one, Rejection):
            reject(one)
        elif (first := named.setdefault(one.path, one)) is one:
            found[one.identity].append(one)
        elif first.identity != one.identity:
            reject(of_another(one, first))
    return found


def _drawn(found: dict[str, list[ImageFile]]) -> dict[str, list[ImageFile]]:
    """The same, some at random where there are many."""
    chance = np.random.default_rng(0)
    names = sorted(found)
    kept = np.sort(chance.permutation(len(names))[:IDENTITIES]).tolist()
    drawn = {}
    for name in (names[place] for place in kept):
        files = sorted(found[name], key=lambda file: file.path)
        some = np.sort(chance.permutation(len(files))[:EACH]).tolist()
        drawn[name] = [files[place] for place in some]
    return drawn


def _embedded(
    encoder: Encoder,
    by_identity: dict[str, list[ImageFile]],
    reject: Callable[[Rejection], object],
    watch: Watcher,
) -> tuple[FloatArray, list[str]]:
    """Embeddings (n, dimension) of the pictures, each once, and their identities (n).

    One that shows two identities, by where its copies lie, counts for the first.
    """
    files = [file for own in by_identity.values() for file in own]
    vectors: list[FloatArray] = []
    labels: list[str] = []
    first: dict[bytes, ImageFile] = {}
    each = encoder.embed_each([file.path for file in files])
    for number, (file, (_, result)) in enumerate(zip(files, each, strict=True), start=1):
        watch(Progress("embedding", number, len(files)))
        if isinstance(result, ImageError):
            reject(Rejection(printable(file.path), str(result)))
            continue
        earlier = first.setdefault(result.tobytes(), file)
        if earlier is file:
            vectors.append(result)
            labels.append(file.identity)
        elif earlier.identity != file.identity:
            reject(of_another(file, earlier))
    empty = np.empty((0, encoder.dimension), np.float32)
    return (np.stack(vectors) if vectors else empty), labels


def _require_enough(labels: list[str]) -> None:
    counts = np.unique(np.array(labels, str), return_counts=True)[1]
    several = int((counts >= 2).sum())
    if several < FEWEST:
        raise UsageError(
            f"{counted(several, 'identity has', 'identities have')} two pictures or more: a"
            f" threshold is fitted on {FEWEST} or more, each in a folder of its own"
        )
