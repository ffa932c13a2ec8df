"""Plots of a gallery as it is, as files with what they show: how all of them begin, and the map of
where its items lie, to look at or to zoom into.

Knows nothing of how scores are distributed and which pictures are alike: see ``score_plots.py`` and
``likeness.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from siamese_search.errors import ImageError, UsageError
from siamese_search.evaluation import map_page, maps, plots
from siamese_search.gallery.gallery import Gallery
from siamese_search.records import Item, LeftOut, Progress, Watcher, unwatched
from siamese_search.words import counted

SIDE = 10  # inches of a map
MAPPED, MAPPED_ON_PAGE = 2000, 10_000  # items on a map, at most
FEWEST_MAPPED = 3


@dataclass(frozen=True)
class Facts:
    """What a plot shows, for JSON; each kind has its own."""


@dataclass(frozen=True)
class Extent(Facts):
    """How many items were looked at, ``of`` how many, and how many identities these have."""

    items: int
    of: int
    identities: int


Shown = TypeVar("Shown", bound=Facts, covariant=True)


@dataclass(frozen=True)
class Portrait(Generic[Shown]):
    """A PNG or a page of a gallery, with what it shows: in words, and as a record."""

    content: bytes
    said: str
    facts: Shown


def draw_map(gallery: Gallery) -> Portrait[Extent]:
    """The items in two dimensions as a PNG, 2,000 of them drawn at random where there are more.

    Raises UsageError for fewer than three.
    """
    items, layout = _mapped(gallery, MAPPED)
    labels = [item.identity for item in items]
    said = looked_at(gallery, labels)
    with plots.style(layout.names):
        figure = plots.figure(SIDE, SIDE)
        axes = figure.subplots()
        axes.set_title(f"{said}, by t-SNE")
        named = maps.embedding_map(axes, layout)
        if named < len(layout.names):
            axes.set_title(f"{axes.get_title()}; {named} of them named")
        return Portrait(plots.png(figure), said, extent(gallery, labels))


def draw_map_page(gallery: Gallery, watch: Watcher = unwatched) -> Portrait[Extent]:
    """The same as an HTML page with the items' pictures, of at most 10,000 items."""
    items, layout = _mapped(gallery, MAPPED_ON_PAGE)
    side = map_page.side_for(len(items))
    pictures = []
    for item in items:
        picture = None
        with suppress(ImageError):  # gone, or there was none
            picture = gallery.miniature(gallery.image(item), side)
        pictures.append(picture)
        watch(Progress("reading pictures", len(pictures), len(items)))
    labels = [item.identity for item in items]
    said = looked_at(gallery, labels)
    files = [_file(item) for item in items]
    page = map_page.page(f"{gallery.folder.name}: {said}", layout, files, pictures)
    return Portrait(page, said, extent(gallery, labels))


def _mapped(gallery: Gallery, most: int) -> tuple[list[Item], maps.Layout]:
    """The items to draw, and where."""
    items, embeddings = gallery.sample(most)
    if len(items) < FEWEST_MAPPED:
        raise UsageError(
            f"{counted(len(items), 'item')} in {gallery.folder}: a map needs {FEWEST_MAPPED} or"
            " more"
        )
    return items, maps.laid_out(embeddings, [item.identity for item in items])


def _file(item: Item) -> str:
    number = f"item {item.number}"
    return number if item.source is None else f"{Path(item.source).name}, {number}"


def searched(gallery: Gallery, left_out: Sequence[LeftOut]) -> str:
    """What was searched, in words."""
    return looked_at(gallery, [one.identity for one in left_out])


def looked_at(gallery: Gallery, labels: list[str]) -> str:
    """What was looked at, by the items' identities, and of how much where that is not all."""
    names = len(set(labels))
    sample = f"{len(labels)} of " if len(labels) < len(gallery) else ""
    items = counted(len(gallery), "item")
    return f"{sample}{items}, {counted(names, 'identity', 'identities')}"


def extent(gallery: Gallery, labels: Sequence[str]) -> Extent:
    """How much was looked at, by the items' identities."""
    return Extent(len(labels), len(gallery), len(set(labels)))
