"""Sharing: what is handed on of a gallery so that it leads back to no picture and nobody's name.

A database is made anew, so that nothing is left in it of what it was made from: items in a random
order, under numbers, contents and dates that say nothing, without paths, places and changes. What
the gallery has learned stays. What protection is worth: ``docs/howto/share.md``.
"""

from __future__ import annotations

import csv
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from siamese_search.arrays import DoubleArray
from siamese_search.decision.metric import Metric
from siamese_search.embedding.encoder import Encoder, ProtectedEncoder
from siamese_search.embedding.protection import Key, protected, rotated
from siamese_search.errors import StorageError, UsageError
from siamese_search.files import require_place, whole_file
from siamese_search.gallery.archive import copied_state
from siamese_search.gallery.opening import DATABASE
from siamese_search.records import Generation, Progress, Watcher
from siamese_search.storage.calibrations import ASKED
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.exchange import Block, Exchange
from siamese_search.storage.facts import Facts

ROWS = 1024
NEVER = "1970-01-01T00:00:00+00:00"  # when items were enrolled, as far as others know
COLUMNS = ("pseudonym", "identity")


@dataclass(frozen=True)
class Sharing:
    """How a gallery is shared: a table to keep random names of its identities in, a key file by
    which its embeddings are rotated, either made where it is not there, and the ``metadata`` that
    stay. With neither table nor key, names and embeddings stay, and nothing else.
    """

    pseudonyms: Path | None = None
    key: Path | None = None
    metadata: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class _Under:
    """The encoder that embeddings are handed on under, and the matrix that makes them its own."""

    fingerprint: str
    location: str
    matrix: DoubleArray | None


@contextmanager
def shared(
    catalog: Catalog, sharing: Sharing, out: Path, encoder: Callable[[], Encoder], watch: Watcher
) -> Iterator[tuple[Catalog, int]]:
    """A gallery's database as it is now, made anew as ``sharing`` says, to be exported from; and
    how many items are left out of it, since they have no embedding.

    ``encoder`` gives the gallery's own, which is needed where a key replaces another. Raises
    UsageError for a table or a key that is none, StorageError where one cannot be written.
    """
    require_place(out)
    own = [path for path in (sharing.pseudonyms, sharing.key) if path is not None]
    for path in own:
        require_place(path)
        if _same(path, out):
            raise UsageError(f"{path} is for you alone: give it another name than what is shared")
    if len(own) == 2 and _same(*own):
        raise UsageError(f"{own[0]} cannot be both the table of pseudonyms and the key")
    table = sharing.pseudonyms
    known = {} if table is None else _read(table)
    with copied_state(catalog, out) as state:
        generation = state.state().generation
        under = _under(generation, sharing.key, encoder)  # before the table is written
        names = None if table is None else _named(state, table, known)
        made = state.path.with_name("shared") / DATABASE
        made.parent.mkdir()
        Catalog.create(made, under.fingerprint, under.location, generation.dimension)
        with closing(Exchange(made)) as target:
            numbers = state.identity_numbers()[0].tolist()
            secrets.SystemRandom().shuffle(numbers)
            blocks = _blocks(state, generation, numbers, names, sharing.metadata, under, watch)
            target.take_in(lambda: blocks, under.fingerprint, state.path)
            target.make_portable()
            _hand_on_learned(state, target, generation, under.matrix)
            yield target, state.count_unembedded(generation)


def _same(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, which need not be there."""
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and a.samefile(b))


def _under(generation: Generation, path: Path | None, encoder: Callable[[], Encoder]) -> _Under:
    before = protected(generation.encoder)
    below = _unplaced(before.location if before else generation.encoder)
    if path is None:
        location = str(before._replace(location=below)) if before else below
        return _Under(generation.fingerprint, location, None)
    used = encoder() if before else None
    key = Key.read(path) if path.exists() else Key.made(path)
    matrix, fingerprint = key.rotation(generation.dimension), generation.fingerprint
    if isinstance(used, ProtectedEncoder):
        matrix, fingerprint = used.rotation.T @ matrix, used.below.fingerprint
    return _Under(key.fingerprint(fingerprint), key.location(below), matrix)


def _unplaced(location: str) -> str:
    """An encoder's location, of a folder no more than its name."""
    return re.split(r"[\\/]", location.rstrip("\\/"))[-1]


def _blocks(
    state: Exchange,
    generation: Generation,
    numbers: Sequence[int],
    names: dict[str, str] | None,
    metadata: frozenset[str],
    under: _Under,
    watch: Watcher,
) -> Iterator[Block]:
    """The items that have an embedding, in the order of the numbers."""
    never = state.distractors(None)
    for first in range(0, len(numbers), ROWS):
        some = numbers[first : first + ROWS]
        found, vectors = state.vectors(generation, np.sort(np.array(some, np.int64)))
        rows = {number: row for row, number in enumerate(found.tolist())}
        order = [number for number in some if number in rows]  # not as they were enrolled
        items = {item.number: item for item in state.items(order)}
        facts = [
            Facts(
                identity=names[items[one].identity] if names else items[one].identity,
                distractor=items[one].identity in never,
                content=secrets.token_bytes(32),
                source=None,
                copy=None,
                size=0,
                added=NEVER,
                was=None,
                metadata={k: v for k, v in items[one].metadata.items() if k in metadata},
            )
            for one in order
        ]
        vectors = vectors[[rows[one] for one in order]]
        if under.matrix is not None:
            vectors = rotated(vectors, under.matrix)
        yield Block(list(range(first, first + len(order))), facts, vectors)
        watch(Progress("sharing items", first + len(some), len(numbers)))


def _hand_on_learned(
    state: Exchange, target: Exchange, before: Generation, matrix: DoubleArray | None
) -> None:
    """Keep how the gallery decides, but for the closer look, which needs places."""
    _, metric = state.state_with_metric()
    found = state.calibration(before)
    if found is None:
        return
    now = target.state()
    plain = replace(
        found, closer=0.0, closer_gain=None, looked=None, metric=None, last_item=now.last_item
    )
    if metric is not None and matrix is not None:
        metric = _turned(metric, matrix)
    by = state.decided_by() or ASKED
    target.set_calibration(now.generation, plain, metric, state.wanted_metric(), by)


def _turned(metric: Metric, matrix: DoubleArray) -> Metric:
    """The metric that makes of rotated embeddings what it made of them before."""
    probes = metric.probe_mean
    return replace(
        metric,
        mean=rotated(metric.mean, matrix),
        projection=(matrix.T @ metric.projection.astype(np.float64)).astype(np.float32),
        probe_mean=None if probes is None else rotated(probes, matrix),
    )


# Names


def _named(state: Exchange, table: Path, known: dict[str, str]) -> dict[str, str]:
    """A random name for each identity, kept in a table; those that are ``known`` stay."""
    known = dict(known)
    taken = set(known.values())
    identities = [name for name, _ in state.identities() if name not in known]
    secrets.SystemRandom().shuffle(identities)
    for name in identities:
        while (made := secrets.token_hex(5)) in taken:
            pass
        taken.add(made)
        known[name] = made
    try:
        with whole_file(table) as file:
            file.write(_text(known).encode())
        table.chmod(0o600)
    except OSError as error:
        raise StorageError(f"{table} could not be written: {error.strerror}") from error
    return known


def _text(known: dict[str, str]) -> str:
    from io import StringIO

    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(sorted((made, name) for name, made in known.items()))
    return text.getvalue()


def _read(table: Path) -> dict[str, str]:
    """The pseudonyms of a table, by identity; none where there is no file, or an empty one.

    Raises UsageError for what is no such table: it would be overwritten.
    """
    if not table.exists() or not table.stat().st_size:
        return {}
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
        if sorted(reader.fieldnames or ()) != sorted(COLUMNS):  # there may be no rows to tell
            raise csv.Error("other columns")
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(
            f"{table} is no table of pseudonyms as `siasearch export --pseudonyms` writes it, with"
            f" the columns {' and '.join(COLUMNS)} alone: name another file"
        ) from error
    known = {row["identity"]: row["pseudonym"] for row in rows}
    if len(set(known.values())) < len(rows) or not all(known) or not all(known.values()):
        raise UsageError(f"{table} names an identity or a pseudonym twice, or not at all")
    return known
