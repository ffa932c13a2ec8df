"""Plots of a gallery as it is, as PNG files with what they show: how all of them begin, and the map
of where its items lie.

Knows nothing of how scores are distributed and which pictures are alike: see ``own_scores.py`` and
``likeness.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from siamese_search.errors import UsageError
from siamese_search.evaluation import plots
from siamese_search.gallery.gallery import Gallery
from siamese_search.records import LeftOut, Progress, Watcher, counted

MAPPED = 2000  # items on a map, at most
SEARCHED = 4000  # items that are searched without themselves, about
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
    """A PNG of a gallery, with what it shows: in words, and as a record."""

    png: bytes
    said: str
    facts: Shown


def draw_map(gallery: Gallery) -> Portrait[Extent]:
    """The items in two dimensions, 2,000 of them drawn at random where there are more.

    Raises UsageError for fewer than three.
    """
    items, embeddings = gallery.sample(MAPPED)
    if len(items) < FEWEST_MAPPED:
        raise UsageError(
            f"{counted(len(items), 'item')} in {gallery.folder}: a map needs {FEWEST_MAPPED} or"
            " more"
        )
    labels = [item.identity for item in items]
    said = looked_at(gallery, labels)
    with plots.style():
        figure = plots.figure(8, 8)
        axes = figure.subplots()
        axes.set_title(f"{said}, by t-SNE")
        plots.embedding_map(axes, embeddings, labels)
        return Portrait(plots.png(figure), said, extent(gallery, labels))


def left_out(gallery: Gallery, watch: Watcher) -> list[LeftOut]:
    """The items, each searched without itself; UsageError for fewer than two identities."""
    if len(gallery.identities()) < 2:
        raise UsageError(
            f"{gallery.folder} has fewer than two identities: enrol more, to compare them"
        )
    found, total = [], min(SEARCHED, len(gallery))
    for one in gallery.left_out(SEARCHED):
        found.append(one)
        watch(Progress("searching", len(found), total))
    if not any(one.others for one in found):  # they have no embeddings
        raise UsageError(
            f"fewer than two identities of {gallery.folder} can be found: run `siasearch rebuild`"
        )
    return found


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
