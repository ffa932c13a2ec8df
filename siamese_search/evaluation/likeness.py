"""Which of a gallery's pictures are alike: identities taken for each other, and a probe's nearest
items, as grids of pictures.

Knows nothing of error rates.
"""

from __future__ import annotations

import dataclasses
import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from siamese_search.arrays import PixelArray
from siamese_search.errors import ImageError, UsageError
from siamese_search.evaluation import grids, plots, portrait
from siamese_search.evaluation.derivation import Derivation, derived
from siamese_search.evaluation.own_scores import left_out_of
from siamese_search.evaluation.portrait import Extent, Facts, Portrait
from siamese_search.evaluation.verdict import verdict
from siamese_search.gallery.gallery import Gallery
from siamese_search.gallery.self_test import audited
from siamese_search.pictures.read import read_file
from siamese_search.records import Item, Watcher
from siamese_search.words import printable

COLUMNS = {1: 5, 2: 3}  # of cells with so many pictures each
ALIKE = "The number is what one of the two items scores for the other identity."
NAMED, UNKNOWN = "tab:green", "tab:orange"


@dataclass(frozen=True)
class AlikePair:
    """Two identities, the score of their items most alike, and how many are mistaken."""

    identities: tuple[str, str]
    score: float
    mistaken: int


@dataclass(frozen=True)
class ConfusionFacts(Extent):
    """The pairs of identities that are shown."""

    pairs: tuple[AlikePair, ...]


@dataclass(frozen=True)
class Neighbour:
    """An item near to a probe, with its cosine."""

    identity: str
    score: float
    item: int
    path: str | None


@dataclass(frozen=True)
class NeighbourFacts(Facts):
    """A probe, what was made of it, and the items nearest to it."""

    image: str
    identity: str | None
    score: float
    confidence: float | None
    threshold: float | None
    derivation: Derivation
    neighbours: tuple[Neighbour, ...]


class _Names(NamedTuple):
    """A pair of identities, by name."""

    first: str
    second: str


class _Alike(NamedTuple):
    """Two items, of the first and of the second identity of a pair, and the score of one of them
    for the other identity.
    """

    score: float
    first: int
    second: int


class _Taken(NamedTuple):
    """How many items of a pair are taken for the other identity, and of how many."""

    items: int
    of: int


def draw_confusions(
    gallery: Gallery, k: int = 9, watch: Watcher = lambda progress: None
) -> Portrait[ConfusionFacts]:
    """The k pairs of identities that are most taken for each other, then those most alike.

    A pair is shown by the item that scores best for the other identity, beside its nearest there.
    Raises UsageError for fewer than two identities.
    """
    left_out = left_out_of(gallery, watch)
    closest: dict[_Names, _Alike] = {}
    for one in left_out:
        for other in one.others[:1]:
            first, second = sorted([(one.identity, one.item), (other.identity, other.item)])
            pair, alike = _Names(first[0], second[0]), _Alike(other.score, first[1], second[1])
            closest[pair] = max(alike, closest.get(pair, alike))
    confused = {
        _Names(a, b): _Taken(count, of) for a, b, count, of in audited(left_out, ()).confusable
    }
    nobody = _Taken(0, 1)

    def rank(pair: _Names) -> tuple[float, float, _Names]:
        taken = confused.get(pair, nobody)
        return -taken.items / taken.of, -closest[pair].score, pair

    pairs = sorted(closest, key=rank)[:k]
    numbers = [number for pair in pairs for number in closest[pair][1:]]
    items = {item.number: item for item in gallery.items_by_number(numbers)}
    cells, facts = [], []
    for pair in pairs:
        alike, taken = closest[pair], confused.get(pair, nobody)
        mistaken = f", {taken.items} of {taken.of} items taken for the other" * bool(taken.items)
        tiles = [
            _tile(gallery, items[number]) if number in items else grids.Tile("just removed", name)
            for number, name in ((alike.first, pair.first), (alike.second, pair.second))
        ]
        cells.append(grids.Cell(tuple(tiles), f"{alike.score:.3f}{mistaken}"))
        facts.append(AlikePair((pair.first, pair.second), alike.score, taken.items))
    searched = portrait.searched(gallery, left_out)
    said = f"{searched}: most alike are {pairs[0].first} and {pairs[0].second}"
    extent = portrait.extent(gallery, [one.identity for one in left_out])
    return Portrait(
        _grid(f"Identities most alike ({searched})", [ALIKE], cells),
        f"{said} ({closest[pairs[0]].score:.3f})",
        ConfusionFacts(**dataclasses.asdict(extent), pairs=tuple(facts)),
    )


def draw_neighbours(
    gallery: Gallery, image: str | os.PathLike[str], k: int = 9
) -> Portrait[NeighbourFacts]:
    """A picture, what it is identified as and why, and the k nearest items with their cosines.

    Items of the identity that is named are framed. Raises ImageError, naming the file, and
    UsageError where nothing is enrolled.
    """
    (described,) = gallery.encoder.describe([image])
    vectors = described.embedding[None]
    (answer,) = gallery.identify_embeddings(vectors, places=[described.places])
    if answer.score is None:
        raise UsageError(f"nothing is enrolled in {gallery.folder}: there are no neighbours")
    numbers, cosines = (row[0].tolist() for row in gallery.search(vectors, k))
    items = {item.number: item for item in gallery.items_by_number(numbers)}
    near = [(items[n], cosine) for n, cosine in zip(numbers, cosines, strict=True) if n in items]
    name = answer.identity
    said = verdict(answer)
    place = printable(image)
    asked = _picture(gallery, lambda: read_file(os.fspath(image)), Path(place).name)
    colour = UNKNOWN if name is None else NAMED
    cells = [grids.Cell((grids.Tile(asked, Path(place).name),), "asked about", colour)]
    for item, cosine in near:
        frame = NAMED if item.identity == name else None
        caption = f"{cosine:.3f}, item {item.number}"
        cells.append(grids.Cell((_tile(gallery, item),), caption, frame))
    derivation = derived(gallery, vectors, answer)
    facts = NeighbourFacts(
        image=place,
        identity=name,
        score=answer.score,
        confidence=answer.confidence,
        threshold=answer.threshold,
        derivation=derivation,
        neighbours=tuple(
            Neighbour(item.identity, cosine, item.number, item.source) for item, cosine in near
        ),
    )
    title = said if name is None else f"identified as {said}"
    return Portrait(_grid(title, derivation.lines(), cells), said, facts)


def _grid(title: str, notes: list[str], cells: list[grids.Cell]) -> bytes:
    with plots.style([title, *notes, *(tile.name for cell in cells for tile in cell.tiles)]):
        return plots.png(grids.grid(title, cells, COLUMNS[len(cells[0].tiles)], notes))


def _tile(gallery: Gallery, item: Item) -> grids.Tile:
    file = f"item {item.number}" if item.source is None else Path(item.source).name
    return grids.Tile(_picture(gallery, lambda: gallery.image(item), file), item.identity)


def _picture(gallery: Gallery, read: Callable[[], bytes], file: str) -> PixelArray | str:
    """The picture in a file, or words that say why there is none."""
    try:
        return gallery.miniature(read(), grids.SIDE)
    except ImageError as error:
        return "\n".join(textwrap.wrap(f"{file}: {error}", 22, max_lines=7, placeholder=" …"))
