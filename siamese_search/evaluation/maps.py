"""Maps of embeddings in two dimensions: where they lie, how identities look there, and where their
names have room.

Needs ``pip install 'siamese-search[plot]'``. Knows nothing of galleries and encoders.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text

from siamese_search.arrays import DoubleArray, FloatArray, IntArray
from siamese_search.evaluation.plots import SMALL, figure_of

COLOURS: Final = (  # dark enough to be read as text on white
    "#1f5fbf", "#c8500a", "#1a7f37", "#c0182b", "#7a3fc0",
    "#8a4b2a", "#c2298f", "#5a5a5a", "#7d7a00", "#007a8a",
)  # fmt: skip
MARKERS: Final = "os^DvPX*"  # with each colour: 80 looks, then they recur
NAMES: Final = 120  # more would hide a map's points
NUMBERED: Final = 60  # at most, of those without room
LONGEST: Final = 32  # letters of a name on a map
KEY: Final = 0.2  # of a map's height, at most, for what the numbers mean
LINE: Final = 1.5  # how high a line is about, in heights of its font
LETTER: Final = 0.62  # how wide a letter is about, in heights of its font

# Where a name may stand: how far from its point, in pixels, and in which directions. Every few
# pixels away cost as much as a point that is hidden.
REACHES: Final = (4, 12, 24, 40, 60)
DIRECTIONS: Final = 16
COST: Final = 15.0
CLEAR: Final = 3.0  # pixels between names
DOT: Final = 6.0  # pixels from the middle of a point to its end
LED: Final = 10  # pixels from which on a line leads from the point to its name


@dataclass(frozen=True)
class Layout:
    """Embeddings on a map: ``points`` float (n, 2), and of each the number of its identity among
    the m ``names``. These have ``middles`` (m,), the embedding in the middle of each one's, and
    ``looks`` (m,), see ``looks_of``.
    """

    points: FloatArray
    member: IntArray
    names: tuple[str, ...]
    middles: IntArray
    looks: IntArray

    @property
    def by_size(self) -> list[int]:
        """The numbers of the identities, those with most points first."""
        counts = np.bincount(self.member, minlength=len(self.names))
        order: list[int] = np.argsort(-counts, kind="stable").tolist()
        return order


def laid_out(embeddings: FloatArray, labels: Sequence[str]) -> Layout:
    """Where embeddings (n, dimension) lie on a map, and how their identities look."""
    points = flattened(embeddings)
    names, member = np.unique(np.array(labels, str), return_inverse=True)
    order = np.argsort(member, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(member))[:-1])
    middles = np.array([own[_middle(points[own])] for own in groups])
    return Layout(points, member, tuple(names.tolist()), middles, looks_of(points[middles]))


def flattened(embeddings: FloatArray) -> FloatArray:
    """Two dimensions in which neighbours stay neighbours: t-SNE (van der Maaten 2008)."""
    from sklearn.manifold import TSNE

    perplexity = max(1.0, min(30.0, (len(embeddings) - 1) / 3))
    method = TSNE(perplexity=perplexity, metric="cosine", init="random", random_state=0)
    flat: FloatArray = method.fit_transform(embeddings)
    return flat


def _middle(points: FloatArray) -> int:
    """Which of several points (n, 2) is nearest to their median."""
    return int(((points - np.median(points, axis=0)) ** 2).sum(axis=1).argmin())


def looks_of(middles: FloatArray) -> IntArray:
    """A colour and a marker for each identity (m,), by where they are (m, 2).

    A look is the marker's number times the number of colours, plus the colour's. Identities that
    are near to each other get different colours; looks recur once all have been given.
    """
    colours = len(COLOURS)
    looks = np.zeros(len(middles), np.int64)
    for number, middle in enumerate(middles):
        free = np.full(colours, np.inf)  # how far the nearest of each colour is
        apart = ((middles[:number] - middle) ** 2).sum(axis=1)
        np.minimum.at(free, looks[:number] % colours, apart)
        given = looks[number - number % colours : number] % colours  # every colour once a round
        free[given] = -1
        looks[number] = free.argmax() + colours * (number // colours % len(MARKERS))
    return looks


def embedding_map(axes: Axes, layout: Layout, named: bool = True) -> int:
    """Draw a map, with names where they have room, those with most points first.

    A name stands near the middle of its points, clear of other names and of all points. Where it
    cannot, a number stands there, and a key below the map has its name. Returns how many are named.
    """
    points, looks = layout.points, layout.looks[layout.member]
    size = 30 if len(points) < 1000 else 14  # square points
    for look in np.unique(looks).tolist():
        own = points[looks == look]
        marker, colour = divmod(look, len(COLOURS))
        style: dict[str, Any] = {
            "marker": MARKERS[marker],
            "color": COLOURS[colour],
            "linewidth": 0.4,
        }
        wide = 2 * size if MARKERS[marker] == "*" else size  # of a star there is little to see
        axes.scatter(own[:, 0], own[:, 1], s=wide, edgecolor="white", **style)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    return _write_names(axes, layout) if named else 0


def _write_names(axes: Axes, layout: Layout) -> int:
    names = {one: shortened(layout.names[one]) for one in layout.by_size[:NAMES]}
    without, boxes = _written(axes, layout, names)
    # A key takes room from the map: once more, with as many lines as it needs now.
    most = int(KEY * axes.bbox.height / (LINE * SMALL / 72 * figure_of(axes).dpi))
    lines = min(most, len(_key(axes, _numbered(without, names), names)))
    if lines:
        axes.set_xlabel("\n" * (lines - 1), fontsize=SMALL)
        for text in tuple(axes.texts):
            text.remove()
        without, boxes = _written(axes, layout, names)
        numbered = _numbered(without, names)
        while len(key := _key(axes, numbered, names)) > lines:
            numbered.popitem()
        _written(axes, layout, numbered, boxes)
        axes.set_xlabel("\n".join(key + [""] * (lines - len(key))), fontsize=SMALL)
    return len(axes.texts)


def _numbered(identities: Sequence[int], names: Mapping[int, str]) -> dict[int, str]:
    """Numbers for identities, in the order of their names."""
    kept = sorted(identities[:NUMBERED], key=lambda one: names[one])
    return {one: str(number) for number, one in enumerate(kept, start=1)}


def _key(axes: Axes, numbered: Mapping[int, str], names: Mapping[int, str]) -> list[str]:
    """What the numbers mean, in lines as wide as the map."""
    letters = int(axes.bbox.width / (LETTER * SMALL / 72 * figure_of(axes).dpi))
    glued = [f"{number} {names[one]}".replace(" ", "\xa0") for one, number in numbered.items()]
    lines = textwrap.wrap("   ".join(glued), letters, break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in lines]


def _written(
    axes: Axes,
    layout: Layout,
    words: Mapping[int, str],
    taken: DoubleArray | None = None,
) -> tuple[list[int], DoubleArray]:
    """Write words for identities clear of what is ``taken`` (m, 4), if that is None also of points.

    Returns the identities without room, and what is taken then.
    """
    # Where the axes will lie is known once all else is laid out.
    figure_of(axes).draw_without_rendering()
    order = list(words)
    texts: list[Annotation] = []
    sizes: list[DoubleArray] = []
    for one in order:
        text = axes.annotate(
            words[one],
            layout.points[layout.middles[one]].tolist(),
            (0, 0),
            textcoords="offset pixels",
            ha="center",
            va="center",
            fontsize=SMALL,
            fontweight="normal" if taken is None else "bold",
            color=COLOURS[layout.looks[one] % len(COLOURS)],
            path_effects=[patheffects.withStroke(linewidth=2, foreground="white")],
            arrowprops={"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
        )
        text.set_in_layout(False)
        sizes.append(np.array(Text.get_window_extent(text).size))  # without the line
        texts.append(text)
    frame = axes.bbox
    anchors, dots = (
        axes.transData.transform(points) - frame.min
        for points in (layout.points[layout.middles[order]], layout.points)
    )
    before = np.empty((0, 4)) if taken is None else taken
    room = frame.width, frame.height
    offsets = placed(np.array(sizes), anchors, dots, room, before, hide=taken is not None)
    without, boxes = [], [before]
    for one, text, size, anchor, offset in zip(order, texts, sizes, anchors, offsets, strict=True):
        if np.isnan(offset).any():
            text.remove()
            without.append(one)
            continue
        text.set_position(offset.tolist())
        line = text.arrow_patch
        assert line is not None
        line.set_color(text.get_color())
        line.set_visible(bool(np.max(np.abs(offset) - size / 2) >= LED))
        middle = anchor + offset
        boxes.append(np.concatenate([middle - size / 2, middle + size / 2])[None])
    return without, np.concatenate(boxes)


def placed(
    sizes: DoubleArray,
    anchors: DoubleArray,
    points: DoubleArray,
    frame: tuple[float, float],
    taken: DoubleArray | None = None,
    *,
    hide: bool = True,
) -> DoubleArray:
    """Where names of certain sizes (m, 2) stand, as offsets (m, 2) of their middles from
    ``anchors`` (m, 2), NaN where there is no room. Pixels from the lower left corner of a frame.

    They lie inside the frame and clear of each other and of boxes that are ``taken`` (b, 4), by
    their lower left and upper right corners; of such places, where few ``points`` (n, 2) are
    hidden, none unless they may ``hide`` some, and the way is short. Earlier names have the first
    choice.
    """
    turns = np.pi * (0.5 + 2 * np.arange(DIRECTIONS) / DIRECTIONS)  # first above
    ways = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    reaches = np.repeat(REACHES, DIRECTIONS)
    found = np.full(sizes.shape, np.nan)
    if taken is None:
        taken = np.empty((0, 4))
    for number, (size, anchor) in enumerate(zip(sizes, anchors, strict=True)):
        half = size / 2
        offsets = np.concatenate([ways * (half + reach) for reach in REACHES])
        low, high = anchor + offsets - half, anchor + offsets + half
        inside = (low >= CLEAR).all(axis=1) & (high <= np.array(frame) - CLEAR).all(axis=1)
        clear = ~(
            (low[:, None] < taken[:, 2:] + CLEAR) & (high[:, None] > taken[:, :2] - CLEAR)
        ).all(axis=2).any(axis=1)
        covered = (points > low[:, None] - DOT) & (points < high[:, None] + DOT)
        hidden = covered.all(axis=2).sum(axis=1)
        fits = inside & clear & (hide | (hidden == 0))
        costs = np.where(fits, hidden + reaches / COST, np.inf)
        best = int(costs.argmin())
        if np.isinf(costs[best]):
            continue
        found[number] = offsets[best]
        taken = np.vstack([taken, [*low[best], *high[best]]])
    return found


def shortened(name: str, longest: int = LONGEST) -> str:
    """A name of at most so many letters, the middle of a longer one left out."""
    if len(name) <= longest:
        return name
    kept = longest - 1
    return f"{name[: -(-kept // 2)]}…{name[len(name) - kept // 2 :]}"
