"""Exchange: a gallery's items as tables, items of tables and of other galleries into it.

Knows nothing of how a table is written and of SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from siamese_search.decision import closer
from siamese_search.errors import GalleryMismatch, StorageError, UsageError
from siamese_search.files import require_place, whole_file, whole_folder
from siamese_search.gallery.archive import Archived, copied_state
from siamese_search.gallery.copies import NewCopies, copied_bytes, settle_copies
from siamese_search.gallery.opening import DATABASE
from siamese_search.gallery.parquet import read_parquet, write_parquet
from siamese_search.gallery.tables import (
    Blocks,
    Table,
    read_csv,
    read_npz,
    refused,
    write_csv,
    write_npz,
)
from siamese_search.records import Generation, Progress, Rejection, Watcher
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.exchange import CONFLICTS, ERROR, REPLACE, Block, Exchange, TakenIn

READERS: dict[str, Callable[[Path], Table]] = {
    ".npz": read_npz,
    ".parquet": read_parquet,
    ".csv": read_csv,
}
# A table with more takes so long to import that others have to wait, since it would fill the
# memory if it stayed there until it is committed.
IN_MEMORY = 256 << 20


@dataclass(frozen=True)
class Exported:
    """A table: how many items are in it, and how many were ``left_out``, since they have no
    embedding.
    """

    items: int
    left_out: int


def is_table(path: Path) -> bool:
    """Whether a file is called as a table."""
    return path.suffix.lower() in READERS


def export_table(
    catalog: Catalog,
    out: Path,
    embeddings: bool | None,
    watch: Watcher,
    places: bool = False,
    rejected: Sequence[Rejection] = (),
) -> Exported:
    """Write a gallery's items as a table, as they are at one moment.

    CSV has ``embeddings`` only where they are asked for, others always; Parquet has ``places``
    where these are asked for, others never. All but CSV say what was ``rejected``.
    """
    require_place(out)
    suffix = out.suffix.lower()
    if embeddings is False and suffix != ".csv":
        raise UsageError(f"{out}: only CSV is written without embeddings")
    embedded = suffix != ".csv" or bool(embeddings)
    with copied_state(catalog, out) as state:
        generation = state.state().generation
        left_out = state.count_unembedded(generation) if embedded else 0
        count = state.totals()[1] - left_out
        places = places and suffix == ".parquet"
        blocks = _watched(state, generation, embedded, places, count, watch)
        with whole_file(out) as file:
            if suffix == ".npz":
                write_npz(file, generation, count, blocks, rejected)
            elif suffix == ".parquet":
                write_parquet(file, generation, blocks, rejected, places=places)
            else:
                write_csv(file, generation, blocks, embedded=embedded)
    return Exported(count, left_out)


def _watched(
    state: Exchange,
    generation: Generation,
    embedded: bool,
    places: bool,
    count: int,
    watch: Watcher,
) -> Blocks:
    def blocks() -> Iterator[Block]:
        done = 0
        for block in state.exported(generation, embedded=embedded, places=places):
            yield block
            done += len(block.numbers)
            watch(Progress("writing items", done, count))

    return blocks


def opened_table(path: Path) -> Table:
    """A table that can be imported. Raises UsageError where there is none."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if not is_table(path):
        raise UsageError(f"{path} is no table: its name ends in none of {', '.join(READERS)}")
    return READERS[path.suffix.lower()](path)


def import_table(
    catalog: Catalog, path: Path, table: Table, conflict: str, watch: Watcher
) -> TakenIn:
    """Enrol a table's items, all or none; see ``Exchange.take_in``.

    Raises GalleryMismatch where its embeddings are of another encoder than the gallery's.
    """
    if conflict not in CONFLICTS:
        raise UsageError(f"on_conflict is {conflict!r}: choose {', '.join(CONFLICTS)}")
    _require_same(catalog, table.fingerprint, table.encoder, path)
    if table.dimension != catalog.state().generation.dimension:
        raise refused(path, f"its embeddings have {table.dimension} values")

    shape = _places_kept(catalog)

    def blocks() -> Iterator[Block]:
        nonlocal shape
        done = 0
        for block in table.blocks():
            found = closer.shape_of([*block.places.values()][:1]) or shape
            if found != (shape or found):
                raise refused(path, "its places are of another shape than those of other items")
            shape = found
            yield block
            done += len(block.numbers)
            watch(Progress("importing items", done))

    small = path.stat().st_size <= IN_MEMORY
    with closing(Exchange(catalog.path, spill=not small)) as writer:
        taken = writer.take_in(blocks, table.fingerprint, path, conflict)
        settle_copies(writer, catalog.path.parent)
    return taken


def _places_kept(catalog: Catalog) -> tuple[int, int] | None:
    """The shape of the places of a gallery's items, None where none has any."""
    generation = catalog.state().generation.number
    some = catalog.some_places(generation)
    return None if some is None else closer.shape_of([some])


def new_gallery(path: Path, folder: Path, watch: Watcher) -> Archived:
    """Make a gallery of a table in a new folder: whole, or not at all."""
    table = opened_table(path)
    with whole_folder(folder) as place:
        database = place / DATABASE
        Catalog.create(database, table.fingerprint, table.encoder, table.dimension)
        with closing(Catalog(database)) as catalog:
            import_table(catalog, path, table, ERROR, watch)
            return Archived(*catalog.totals(), 0)


def merge(catalog: Catalog, other: Catalog, conflict: str, watch: Watcher) -> TakenIn:
    """Enrol another gallery's items, as they are at one moment, with their copies and places: all
    that have an embedding, or none. See ``Exchange.take_in``.
    """
    if conflict not in CONFLICTS:
        raise UsageError(f"on_conflict is {conflict!r}: choose {', '.join(CONFLICTS)}")
    folder, source = catalog.path.parent, other.path.parent
    if catalog.path.samefile(other.path):
        raise UsageError(f"{folder} cannot be merged with itself")
    catalog.require_writable()
    with copied_state(other, folder) as state, closing(NewCopies(folder)) as copies:
        generation = state.state().generation
        _require_same(catalog, generation.fingerprint, generation.encoder, source)
        written = _written(catalog, state, source, copies, conflict)
        left_out = state.count_unembedded(generation)
        count = state.totals()[1] - left_out

        def blocks() -> Iterator[Block]:
            done = 0
            for block in state.exported(generation, places=True):
                yield block
                done += len(block.numbers)
                watch(Progress("merging", done, count))

        def publish(added: set[str]) -> None:
            if any(not (folder / copy).exists() for copy in added - written):
                raise StorageError(f"{folder} was changed meanwhile: try again")
            copies.publish({copy: copy in added for copy in written})

        small = 4 * generation.dimension * count <= IN_MEMORY
        with closing(Exchange(catalog.path, spill=not small)) as writer:
            taken = writer.take_in(blocks, generation.fingerprint, source, conflict, publish)
            settle_copies(writer, folder)
    return replace(taken, left_out=left_out)


def _written(
    catalog: Catalog, state: Exchange, source: Path, copies: NewCopies, conflict: str
) -> set[str]:
    """Write the copies that the gallery may need under temporary names; returns their paths. What
    is missing in the other gallery is noted as no copy there.
    """
    written: set[str] = set()
    missing = []
    for copy in state.copies_by_number():
        known = catalog.known([copy.content]).get(copy.content)
        if known and (known.copied or conflict != REPLACE):
            continue
        data = copied_bytes(source, copy)
        if data is None:
            missing.append(copy.item)
        else:
            copies.write(copy.path, data)
            written.add(copy.path)
    state.forget_copies(missing)
    return written


def _require_same(catalog: Catalog, fingerprint: str, encoder: str, path: Path) -> None:
    generation = catalog.state().generation
    if generation.fingerprint != fingerprint:
        raise GalleryMismatch(
            f"{path} has embeddings of the encoder {encoder!r} ({fingerprint[:12]}),"
            f" {catalog.path.parent} those of {generation.encoder!r}"
            f" ({generation.fingerprint[:12]}): they cannot be compared; import them into a"
            " new gallery, or enrol the pictures"
        )
