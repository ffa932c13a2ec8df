"""Plots for a person to look at: how they look, and those of scores and error rates.

Needs ``pip install 'siamese-search[plot]'``. Knows nothing of galleries and encoders.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from siamese_search.arrays import DoubleArray
from siamese_search.evaluation import fonts, metrics
from siamese_search.pictures.drawings import METADATA

DPI = 120
FEWEST_BINS, BINS = 15, 60
CURVE = 500  # points of a curve that are drawn
SMALL = 8  # points: the text of maps and grids


@contextmanager
def style(names: Iterable[str] = ()) -> Iterator[None]:
    """How plots look that are drawn within. The names in them are shown as they are, by installed
    fonts that have their characters.
    """
    settings: dict[Any, Any] = {
        "text.parse_math": False,  # a name may have dollars
        "font.family": fonts.families(names),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "legend.fontsize": "small",
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # ``families`` has warned
        yield


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, whose axes keep clear of each other."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def png(figure: Figure) -> bytes:
    """A figure as a PNG file's bytes."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=DPI, metadata=METADATA)
    return content.getvalue()


def figure_of(axes: Axes) -> Figure:
    """The figure that axes are part of."""
    assert isinstance(axes.figure, Figure)
    return axes.figure


def histogram(
    axes: Axes,
    groups: Mapping[str, npt.ArrayLike],
    threshold: tuple[float, str] | None = None,
) -> None:
    """How groups of scores (n,) are distributed, by name; the threshold has a name as well."""
    found = {name: np.asarray(scores, float) for name, scores in groups.items()}
    extent = np.concatenate([*found.values(), [] if threshold is None else [threshold[0]]])
    number = round(min(BINS, max(FEWEST_BINS, 2 * len(extent) ** 0.5)))
    low, high = extent.min(initial=1.0), extent.max(initial=-1.0) + 1e-6
    bins = np.linspace(low, high, number + 1).tolist()
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
    drawn = metrics.spread(
        rates[0], rates[1], CURVE
    )  # points are left out where they would lie close
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
