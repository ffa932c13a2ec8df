"""Grids of pictures with captions, for a person to look at.

Needs ``pip install 'siamese-search[plot]'``. Knows nothing of galleries and encoders.
"""

from __future__ import annotations

import textwrap
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from siamese_search.arrays import PixelArray
from siamese_search.evaluation.plots import DPI, SMALL, figure_of

# Inches: a picture, the space between two of a cell, that between cells, a line of text.
PICTURE, CLOSE, GAP, LINE = 1.5, 0.1, 0.25, 0.175
SIDE = round(PICTURE * DPI)  # pixels of a picture
LEAST = 6.0  # inches: so wide that a title has room
LETTERS = 15  # of small text, in an inch of a line
BREAKS = "/ -_"  # where a name may go on in the next line


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


def grid(title: str, cells: Sequence[Cell], columns: int, notes: Sequence[str] = ()) -> Figure:
    """Cells row by row, with a title above, and what there is to note below it."""
    columns = min(columns, len(cells))
    tiles = max(len(cell.tiles) for cell in cells)
    across = tiles * (PICTURE + CLOSE) - CLOSE + GAP
    down = PICTURE + 4 * LINE + GAP
    width = max(GAP + columns * across, LEAST)
    lines = [line for note in notes for line in textwrap.wrap(note, round(width * LETTERS))]
    head = GAP + (2 + 1.1 * len(lines)) * LINE
    height = head + -(-len(cells) // columns) * down
    figure = Figure(figsize=(width, height), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))  # inches, downwards
    axes.axis("off")
    _write(axes, width / 2, GAP, title, width - 2 * GAP, lines=1, fontsize=10, weight="bold")
    for number, line in enumerate(lines):
        top = GAP + (1.6 + 1.1 * number) * LINE
        _write(axes, width / 2, top, line, width - 2 * GAP, lines=1, fontsize=SMALL)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        left, top = GAP + column * across, head + row * down
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
    figure = figure_of(axes)

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
