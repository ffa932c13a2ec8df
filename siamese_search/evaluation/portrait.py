"""Plots of a gallery as it is: where its items lie, how they score, which look alike.

Scores are those of its own items, each searched without itself, as for calibration.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from siamese_search.arrays import BoolArray, DoubleArray, PixelArray
from siamese_search.decision.calibration import threshold_at
from siamese_search.decision.evidence import evidence
from siamese_search.errors import ImageError, UsageError
from siamese_search.evaluation import metrics, plots
from siamese_search.gallery.gallery import Gallery
from siamese_search.gallery.self_test import audited
from siamese_search.pictures.read import read_file
from siamese_search.pictures.render import miniature
from siamese_search.records import Item, LeftOut, Progress, Watcher, printable

MAPPED = 2000  # items on a map, at most
SEARCHED = 4000  # items that are searched without themselves, about
FEWEST_MAPPED = 3
COLUMNS = {1: 5, 2: 3}  # of cells with so many pictures each
NAMED, UNKNOWN = "tab:green", "tab:orange"


@dataclass(frozen=True)
class Portrait:
    """A PNG of a gallery, with what it shows: in words, and as values for JSON."""

    png: bytes
    said: str
    facts: dict[str, Any]


def draw_map(gallery: Gallery) -> Portrait:
    """The items in two dimensions, 2,000 of them drawn at random where there are more.

    Raises UsageError for fewer than three.
    """
    items, embeddings = gallery.sample(MAPPED)
    if len(items) < FEWEST_MAPPED:
        raise UsageError(
            f"{_items(len(items))} in {gallery.folder}: a map needs {FEWEST_MAPPED} or more"
        )
    labels = [item.identity for item in items]
    said = _looked_at(gallery, labels)
    with plots.style():
        figure = plots.figure(8, 8)
        axes = figure.subplots()
        axes.set_title(f"{said}, by t-SNE")
        plots.embedding_map(axes, embeddings, labels)
        return Portrait(plots.png(figure), said, _extent(gallery, labels))


# ---------------------------------------------------------------------------------------- scores


@dataclass(frozen=True)
class OwnScores:
    """What decides, for a gallery's own items: scores, or evidence where it is calibrated.

    ``genuine`` (m,) is that of each item's own identity, where it has other items; ``right`` (m,)
    tells whether no other identity was better; ``impostor`` (n,) is that of the best other
    identity. ``standard`` says where the threshold comes from.
    """

    genuine: DoubleArray
    right: BoolArray
    impostor: DoubleArray
    calibrated: bool
    threshold: float
    standard: str

    @property
    def found(self) -> DoubleArray:
        """The genuine ones as identification sees them (m,): what gets another name is lost."""
        return np.where(self.right, self.genuine, -math.inf)

    @property
    def fpir(self) -> float:
        """The share of items that get a name once their own identity is left out."""
        return float((self.impostor >= self.threshold).mean())

    @property
    def fnir(self) -> float | None:
        """The share of items that do not get their own name, None where that cannot be told."""
        return float((self.found < self.threshold).mean()) if len(self.genuine) else None

    @property
    def eer(self) -> float | None:
        """Where FPIR and FNIR are the same, None where that cannot be told."""
        return metrics.equal_error_rate(self.found, self.impostor) if len(self.genuine) else None


def own_scores(gallery: Gallery, left_out: list[LeftOut]) -> OwnScores:
    """What decides, of items that were each searched without themselves."""
    calibration = gallery.calibration
    genuine, right, impostor = [], [], []
    for one in left_out:
        first, second = ([match.score for match in one.others] + [0.0, 0.0])[:2]
        impostor.append((first, second))
        if one.own is not None:
            genuine.append((one.own, first))
            right.append(one.own >= first)

    def decides(pairs: list[tuple[float, float]]) -> DoubleArray:
        best, runner_up = np.array(pairs, float).reshape(-1, 2).T
        return best if calibration is None else evidence(best, runner_up)

    if calibration is None:
        threshold, standard = gallery.encoder.threshold, "the encoder's"
    else:
        threshold = threshold_at(calibration.fpir, calibration.thresholds)
        standard = f"FPIR {calibration.fpir:.3g} asked"
    return OwnScores(
        decides(genuine),
        np.array(right, bool),
        decides(impostor),
        calibration is not None,
        threshold,
        standard,
    )


def draw_scores(gallery: Gallery, watch: Watcher = lambda progress: None) -> Portrait:
    """Histograms of what decides, for own and for other identities, with the threshold.

    Raises UsageError for fewer than two identities.
    """
    left_out = _left_out(gallery, watch)
    scores = own_scores(gallery, left_out)
    with plots.style():
        figure = plots.figure(8, 4.5)
        axes = figure.subplots()
        groups = {
            f"genuine: own identity ({len(scores.genuine)} items)": scores.genuine,
            f"impostor: best other identity ({len(scores.impostor)} items)": scores.impostor,
        }
        label = f"threshold {scores.threshold:.3f} ({scores.standard})"
        plots.histogram(axes, groups, (scores.threshold, label))
        axes.set_title(f"{_searched(gallery, left_out)}, each item searched without itself")
        meaning = "evidence (score less half of the runner-up's)" if scores.calibrated else "score"
        axes.set_xlabel(meaning)
        return _scored(gallery, figure, left_out, scores)


def draw_trade_off(gallery: Gallery, watch: Watcher = lambda progress: None) -> Portrait:
    """The DET curve of the same scores, with the EER and the threshold's working point.

    Raises UsageError for fewer than two identities, and where none has two items.
    """
    left_out = _left_out(gallery, watch)
    scores = own_scores(gallery, left_out)
    if scores.fnir is None:
        raise UsageError(
            f"no identity in {gallery.folder} has two items, to see whether one finds the other:"
            " enrol more pictures of some"
        )
    _, fpir, fnir = metrics.error_rates(scores.found, scores.impostor)
    with plots.style():
        figure = plots.figure(6.5, 6.5)
        axes = figure.subplots()
        working = scores.fpir, scores.fnir, f"threshold {scores.threshold:.3f}"
        plots.trade_off(axes, fpir, fnir, scores.eer, working, ("FPIR", "FNIR"))
        axes.set(xlabel="FPIR: strangers that get a name, %", ylabel="FNIR: not found as itself, %")
        axes.set_title(f"{_searched(gallery, left_out)}, each item searched without itself")
        return _scored(gallery, figure, left_out, scores)


def _scored(
    gallery: Gallery, figure: Figure, left_out: list[LeftOut], scores: OwnScores
) -> Portrait:
    said = f"{_searched(gallery, left_out)}: FPIR {scores.fpir:.1%}"
    if scores.fnir is not None and scores.eer is not None:
        said += f", FNIR {scores.fnir:.1%}, EER {scores.eer:.1%}"
    facts = {
        "decides": "evidence" if scores.calibrated else "score",
        "threshold": scores.threshold,
        "genuine": len(scores.genuine),
        "impostor": len(scores.impostor),
        "fpir": scores.fpir,
        "fnir": scores.fnir,
        "eer": scores.eer,
    }
    extent = _extent(gallery, [one.identity for one in left_out])
    return Portrait(plots.png(figure), said, extent | facts)


# -------------------------------------------------------------------------------------- pictures


def draw_confusions(
    gallery: Gallery, k: int = 9, watch: Watcher = lambda progress: None
) -> Portrait:
    """The k pairs of identities that are most taken for each other, then those most alike.

    A pair is shown by the item that scores best for the other identity, beside its nearest there.
    Raises UsageError for fewer than two identities.
    """
    left_out = _left_out(gallery, watch)
    closest: dict[tuple[str, str], tuple[float, int, int]] = {}
    for one in left_out:
        for other in one.others[:1]:
            first, second = sorted([(one.identity, one.item), (other.identity, other.item)])
            pair, alike = (first[0], second[0]), (other.score, first[1], second[1])
            closest[pair] = max(alike, closest.get(pair, alike))
    confused = {(a, b): (count, of) for a, b, count, of in audited(left_out, ()).confusable}

    def rank(pair: tuple[str, str]) -> tuple[float, float, tuple[str, str]]:
        count, of = confused.get(pair, (0, 1))
        return -count / of, -closest[pair][0], pair

    pairs = sorted(closest, key=rank)[:k]
    numbers = [number for pair in pairs for number in closest[pair][1:]]
    items = {item.number: item for item in gallery.items_by_number(numbers)}
    cells, facts = [], []
    for pair in pairs:
        score, *own = closest[pair]
        count, of = confused.get(pair, (0, 0))
        caption = f"{score:.3f}" + (f", {count} of {of} items taken for the other" if count else "")
        tiles = [
            _tile(gallery, items[number]) if number in items else plots.Tile("just removed", name)
            for number, name in zip(own, pair, strict=True)
        ]
        cells.append(plots.Cell(tuple(tiles), caption))
        facts.append({"identities": list(pair), "score": score, "mistaken": count})
    searched = _searched(gallery, left_out)
    said = (
        f"{searched}: most alike are {pairs[0][0]} and {pairs[0][1]} ({closest[pairs[0]][0]:.3f})"
    )
    extent = _extent(gallery, [one.identity for one in left_out])
    return Portrait(
        _grid(f"Identities most alike ({searched})", cells), said, extent | {"pairs": facts}
    )


def draw_neighbours(gallery: Gallery, image: str | os.PathLike[str], k: int = 9) -> Portrait:
    """A picture, what it is identified as, and the k nearest items with their cosines.

    Items of the identity that is named are framed. Raises ImageError, naming the file, and
    UsageError where nothing is enrolled.
    """
    vectors = gallery.encoder.embed([image])
    (answer,) = gallery.identify_embeddings(vectors, k=1)
    if answer.score is None:
        raise UsageError(f"nothing is enrolled in {gallery.folder}: there are no neighbours")
    numbers, cosines = (row[0].tolist() for row in gallery.search(vectors, k))
    items = {item.number: item for item in gallery.items_by_number(numbers)}
    near = [(items[n], cosine) for n, cosine in zip(numbers, cosines, strict=True) if n in items]
    name = answer.identity
    nobody = "unknown, like a distractor" if answer.distracted else "unknown"
    said = (
        f"{name or nobody} (score {answer.score:.3f}, threshold {answer.threshold:.3f},"
        f" confidence {answer.confidence:.0%})"
    )
    place = printable(image)
    asked = _picture(lambda: read_file(os.fspath(image)), Path(place).name)
    colour = UNKNOWN if name is None else NAMED
    cells = [plots.Cell((plots.Tile(asked, Path(place).name),), "asked about", colour)]
    for item, cosine in near:
        frame = NAMED if item.identity == name else None
        cells.append(plots.Cell((_tile(gallery, item),), f"{cosine:.3f}", frame))
    facts = {
        "image": place,
        "identity": name,
        "score": answer.score,
        "confidence": answer.confidence,
        "threshold": answer.threshold,
        "neighbours": [
            {"identity": item.identity, "score": cosine, "item": item.number, "path": item.source}
            for item, cosine in near
        ],
    }
    return Portrait(_grid(said if name is None else f"identified as {said}", cells), said, facts)


def _grid(title: str, cells: list[plots.Cell]) -> bytes:
    with plots.style():
        return plots.png(plots.grid(title, cells, COLUMNS[len(cells[0].tiles)]))


def _tile(gallery: Gallery, item: Item) -> plots.Tile:
    file = f"item {item.number}" if item.source is None else Path(item.source).name
    return plots.Tile(_picture(lambda: gallery.image(item), file), item.identity)


def _picture(read: Callable[[], bytes], file: str) -> PixelArray | str:
    """The picture in a file, or words that say why there is none."""
    try:
        return miniature(read(), plots.SIDE)
    except ImageError as error:
        return "\n".join(textwrap.wrap(f"{file}: {error}", 22, max_lines=7, placeholder=" …"))


# ----------------------------------------------------------------------------------------- words


def _left_out(gallery: Gallery, watch: Watcher) -> list[LeftOut]:
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


def _searched(gallery: Gallery, left_out: list[LeftOut]) -> str:
    return _looked_at(gallery, [one.identity for one in left_out])


def _looked_at(gallery: Gallery, labels: list[str]) -> str:
    """What was looked at, by the items' identities, and of how much where that is not all."""
    names = len(set(labels))
    sample = f"{len(labels)} of " if len(labels) < len(gallery) else ""
    return f"{sample}{_items(len(gallery))}, {names} {'identity' if names == 1 else 'identities'}"


def _extent(gallery: Gallery, labels: list[str]) -> dict[str, int]:
    return {"items": len(labels), "of": len(gallery), "identities": len(set(labels))}


def _items(count: int) -> str:
    return f"{count} item{'' if count == 1 else 's'}"
