"""Plots for a person to look at: scores, error rates, maps of embeddings, grids of pictures.

Needs ``pip install 'siamese-search[plot]'``. Knows nothing of galleries and encoders.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib import font_manager, patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from siamese_search.arrays import DoubleArray, FloatArray, PixelArray

DPI = 120
BINS = 60
CURVE = 500  # points of a curve that are drawn
COLOURS = 20  # more nobody tells apart: on a map they recur
NAMES = 60  # more would hide a map's points
SMALL = 8  # points: the text of maps and grids

# matplotlib's own font has no Chinese, Japanese and Korean characters.
FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Hiragino Sans", "Microsoft YaHei", "MS Gothic")

# Inches in a grid: a picture, the space between two of a cell, that between cells, a line of text.
PICTURE, CLOSE, GAP, LINE = 1.5, 0.1, 0.25, 0.175
SIDE = round(PICTURE * DPI)  # pixels of a picture
BREAKS = "/ -_"  # where a name may go on in the next line


@contextmanager
def style() -> Iterator[None]:
    """How plots look that are drawn within; names are shown as they are."""
    known = set(font_manager.get_font_names())
    settings: dict[Any, Any] = {
        "text.parse_math": False,  # a name may have dollars
        "font.family": ["DejaVu Sans", *(font for font in FONTS if font in known)],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "legend.fontsize": "small",
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, whose axes keep clear of each other."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def png(figure: Figure) -> bytes:
    """A figure as a PNG file's bytes."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    return content.getvalue()


# ------------------------------------------------------------------------ scores and error rates


def histogram(
    axes: Axes,
    groups: Mapping[str, npt.ArrayLike],
    threshold: tuple[float, str] | None = None,
) -> None:
    """How groups of scores (n,) are distributed, by name; the threshold has a name as well."""
    found = {name: np.asarray(scores, float) for name, scores in groups.items()}
    extent = np.concatenate([*found.values(), [] if threshold is None else [threshold[0]]])
    bins = np.linspace(extent.min(initial=1.0), extent.max(initial=-1.0) + 1e-6, BINS + 1).tolist()
    for colour, (name, scores) in enumerate(found.items()):
        if len(scores):  # in shares, since groups differ much in size
            shares = np.full(len(scores), 100 / len(scores))
            axes.hist(scores, bins, weights=shares, alpha=0.6, color=f"C{colour}", label=name)
    if threshold is not None:
        axes.axvline(threshold[0], color="black", linestyle="--", label=threshold[1])
    axes.set_ylabel("share, %")
    if len(extent):
        axes.legend()


def trade_off(
    axes: Axes,
    matched: npt.ArrayLike,
    refused: npt.ArrayLike,
    equal: float | None = None,
    working: tuple[float, float, str] | None = None,
    names: tuple[str, str] = ("FMR", "FNMR"),
) -> None:
    """The DET curve: the shares (n,) of impostors that match and of genuine ones that do not.

    ``equal`` is the EER, ``working`` a point with its name. The scales are logarithmic; nought is
    drawn at their ends, at half of the least share that is not.
    """
    rates = [np.asarray(values, float) for values in (matched, refused)]
    ends = [values[values > 0].min(initial=1.0) / 2 for values in rates]

    def place(*shares: npt.ArrayLike) -> list[DoubleArray]:
        return [
            100 * np.maximum(np.atleast_1d(share), end)
            for share, end in zip(shares, ends, strict=True)
        ]

    across, up = place(*rates)
    turns = [np.abs(np.diff(np.log(v), prepend=np.log(v[:1]))) for v in (across, up)]
    way = np.sum(turns, axis=0).cumsum()  # points are left out where they would lie close
    drawn = np.unique(np.searchsorted(way, np.linspace(0, way[-1], CURVE)))
    axes.plot(across[drawn], up[drawn], clip_on=False)
    if equal is not None:
        label = f"EER {100 * equal:.1f} %"
        looks: dict[str, Any] = {"color": "C1", "markersize": 10, "fillstyle": "none"}
        axes.plot(*place(equal, equal), "o", **looks, clip_on=False, label=label)
    if working is not None:
        shown = ", ".join(f"{n} {100 * v:.1f} %" for n, v in zip(names, working[:2], strict=True))
        label = f"{working[2]}: {shown}"
        axes.plot(*place(*working[:2]), "D", color="black", clip_on=False, label=label)
    axes.set(xscale="log", yscale="log", xlabel=f"{names[0]}, %", ylabel=f"{names[1]}, %")
    axes.set(xlim=(100 * ends[0], 100), ylim=(100 * ends[1], 100))
    for axis, end in zip((axes.xaxis, axes.yaxis), ends, strict=True):
        axis.set_major_locator(FixedLocator(_ticks(100 * end)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    if equal is not None or working is not None:
        axes.legend(loc="lower left")  # where a curve seldom is


def growth(axes: Axes, at: Sequence[int], lines: Mapping[str, DoubleArray]) -> None:
    """Shares (draws, points) by name over growing numbers: their means, and in a paler band their
    standard deviations. What is not known is not drawn.
    """
    for number, (name, drawn) in enumerate(lines.items()):
        mean = 100 * drawn.mean(axis=0)
        if np.isnan(mean).all():
            continue
        axes.plot(at, mean, "o-", markersize=4, color=f"C{number}", label=name)
        if len(drawn) > 1:
            spread = 100 * drawn.std(axis=0, ddof=1)
            band: dict[str, Any] = {"color": f"C{number}", "alpha": 0.2, "linewidth": 0}
            low, high = np.maximum(mean - spread, 0), np.minimum(mean + spread, 100)
            axes.fill_between(at, low, high, **band)
    axes.set(xscale="log", ylim=(0, 102), ylabel="%")
    axes.xaxis.set_major_locator(FixedLocator(_apart(at)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(loc="best")


def _apart(numbers: Sequence[int]) -> list[float]:
    """Those of ascending numbers whose labels have room on a logarithmic scale, the last among
    them.
    """
    least = (numbers[-1] / numbers[0]) ** (1 / 12)
    kept = [float(numbers[-1])]
    for number in reversed(numbers[:-1]):
        if number * least <= kept[-1]:
            kept.append(float(number))
    return kept[::-1]


def _ticks(least: float) -> list[float]:
    """Round percentages from the least to a hundred: 1, 2, 5 of each power of ten, or 1 alone."""
    powers = [10.0**power for power in range(-6, 3) if 10.0 ** (power + 1) >= least]
    finer = (1, 2, 5) if len(powers) <= 4 else (1,)
    return [step * power for power in powers for step in finer if least <= step * power <= 100]


# ------------------------------------------------------------------------------------------ maps


def flattened(embeddings: FloatArray) -> FloatArray:
    """Two dimensions in which neighbours stay neighbours: t-SNE (van der Maaten 2008)."""
    from sklearn.manifold import TSNE

    perplexity = max(1.0, min(30.0, (len(embeddings) - 1) / 3))
    method = TSNE(perplexity=perplexity, metric="cosine", init="random", random_state=0)
    flat: FloatArray = method.fit_transform(embeddings)
    return flat


def embedding_map(
    axes: Axes, embeddings: FloatArray, labels: Sequence[str], named: bool = True
) -> None:
    """Embeddings (n, dimension) in two dimensions, coloured by their labels.

    Labels stand at their middle points, those with most points first, as long as there is room.
    """
    flat = flattened(embeddings)
    classes, member, counts = np.unique(
        np.array(labels, str), return_inverse=True, return_counts=True
    )
    # The palette's strong colours before their pale twins, which follow each.
    colour = 2 * member % COLOURS + member % COLOURS // (COLOURS // 2)
    size = 25 if len(flat) < 1000 else 9
    axes.scatter(flat[:, 0], flat[:, 1], c=colour, cmap="tab20", vmin=0, vmax=COLOURS - 1, s=size)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    if not named:
        return
    # Where the axes will lie is known once all else is laid out.
    _figure(axes).draw_without_rendering()
    taken: list[Bbox] = []
    for place in np.argsort(-counts, kind="stable").tolist():
        if len(taken) == NAMES:
            break
        own = flat[member == place]
        middle = own[((own - np.median(own, axis=0)) ** 2).sum(axis=1).argmin()]
        text = axes.annotate(
            str(classes[place]),
            middle.tolist(),
            (0, 5),
            textcoords="offset points",
            fontsize=SMALL,
            path_effects=[patheffects.withStroke(linewidth=2, foreground="white")],
        )
        text.set_in_layout(False)
        for side in ("center", "left", "right"):  # near the frame only one may fit
            text.set(ha=side)
            box = text.get_window_extent().padded(3)
            inside = axes.bbox.count_contains(box.corners()) == 4
            if inside:
                break
        if inside and not any(box.overlaps(other) for other in taken):
            taken.append(box)
        else:
            text.remove()


# ----------------------------------------------------------------------------------------- grids


@dataclass(frozen=True)
class Tile:
    """A picture, uint8 (SIDE, SIDE, 3), or why there is none, with its name."""

    picture: PixelArray | str
    name: str


@dataclass(frozen=True)
class Cell:
    """Tiles side by side with what is said of them; a colour frames them."""

    tiles: tuple[Tile, ...]
    caption: str
    colour: str | None = None


def grid(title: str, cells: Sequence[Cell], columns: int) -> Figure:
    """Cells row by row, with a title above."""
    columns = min(columns, len(cells))
    tiles = max(len(cell.tiles) for cell in cells)
    across = tiles * (PICTURE + CLOSE) - CLOSE + GAP
    down = PICTURE + 4 * LINE + GAP
    width = max(GAP + columns * across, 5.0)
    height = GAP + 2 * LINE + -(-len(cells) // columns) * down
    figure = Figure(figsize=(width, height), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))  # inches, downwards
    axes.axis("off")
    _write(axes, width / 2, GAP, title, width - 2 * GAP, lines=1, fontsize=10, weight="bold")
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        left, top = GAP + column * across, GAP + 2 * LINE + row * down
        for place, tile in enumerate(cell.tiles):
            _draw_tile(axes, left + place * (PICTURE + CLOSE), top, tile)
        span = across - GAP
        if cell.colour is not None:
            frame = Rectangle((left, top), span, PICTURE, fill=False)
            frame.set(edgecolor=cell.colour, linewidth=3)
            axes.add_patch(frame)
        looks = {"fontsize": SMALL, "color": "dimgray"}
        _write(axes, left + span / 2, top + PICTURE + LINE / 2, cell.caption, span, 1, **looks)
    return figure


def _draw_tile(axes: Axes, left: float, top: float, tile: Tile) -> None:
    middle, bottom = left + PICTURE / 2, top + PICTURE
    if isinstance(tile.picture, str):
        axes.add_patch(Rectangle((left, top), PICTURE, PICTURE, color="whitesmoke"))
        text = axes.text(middle, top + PICTURE / 2, tile.picture, fontsize=SMALL, color="dimgray")
        text.set(ha="center", va="center")
    else:
        axes.imshow(tile.picture, extent=(left, left + PICTURE, bottom, top), aspect="auto")
    _write(axes, middle, bottom + 1.6 * LINE, tile.name, PICTURE, 2, fontsize=SMALL)


def _write(
    axes: Axes, x: float, y: float, words: str, width: float, lines: int, **looks: Any
) -> None:
    """Text in a line or two, centred below a point; what is too wide in inches is left out."""
    text = axes.text(x, y, words, ha="center", va="top", **looks)
    figure = _figure(axes)

    def fits(line: str) -> bool:
        text.set_text(line)
        return bool(text.get_window_extent().width <= width * figure.dpi)

    def shortened(line: str) -> str:
        def cut(kept: int) -> str:
            return f"{line[: -(-kept // 2)]}…{line[len(line) - kept // 2 :]}"

        if fits(line):
            return line
        return cut(bisect_left(range(len(line)), True, key=lambda kept: not fits(cut(kept))) - 1)

    whole = lines == 1 or fits(words)
    text.set_text("\n".join(map(shortened, [words] if whole else _halves(words))))


def _halves(words: str) -> tuple[str, str]:
    """A name in two lines, broken as near to its middle as it may be."""
    middle = len(words) / 2
    places = [n + 1 for n, letter in enumerate(words[:-1]) if letter in BREAKS] or [round(middle)]
    place = min(places, key=lambda place: abs(place - middle))
    return words[:place], words[place:]


def _figure(axes: Axes) -> Figure:
    assert isinstance(axes.figure, Figure)
    return axes.figure
