"""A comparison of encoders in words and numbers for people, and as a plot.

The plot needs ``pip install 'siamese-search[plot]'``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from siamese_search.evaluation.comparison import Comparison, Contestant, Difference, Figure
from siamese_search.evaluation.words import titled

MEGABYTE = 1e6


def table(found: Comparison) -> list[list[str]]:
    """Rows of cells: a header with the encoders, then a row for each figure."""
    figures = list(found.contestants[0].figures)
    rows = [["", *(one.encoder for one in found.contestants)]]
    rows += [
        [titled(name), *(_share(one.figures[name]) for one in found.contestants)]
        for name in figures
    ]
    rows.append(["images/s", *(_rate(one.rate) for one in found.contestants)])
    rows.append(["MB on disk", *(f"{one.size / MEGABYTE:.1f}" for one in found.contestants)])
    rows.append(["MB of memory", *(_memory(one) for one in found.contestants)])
    rows.append(["dimension", *(str(one.dimension) for one in found.contestants)])
    return rows


def _share(figure: Figure) -> str:
    return f"{100 * figure.mean:.1f} ± {100 * figure.error:.1f} %"


def _rate(rate: Figure) -> str:
    return f"{rate.mean:.0f} ± {rate.error:.0f}"


def _memory(one: Contestant) -> str:
    return "-" if one.memory is None else f"{one.memory / MEGABYTE:.0f}"


def verdict(found: Comparison) -> Iterator[str]:
    """Which encoder is better, and by how much; a heading without a space before it, then lines."""
    others = dict.fromkeys(one.other for one in found.differences)
    for other in others:
        about = [one for one in found.differences if one.other == other]
        yield f"{about[0].better} against {other}, on the same pictures:"
        shares = [one for one in about if one.figure != "images/s"]
        for word, group in (
            ("better", [one for one in shares if one.told and one.mean > 0]),
            ("worse", [one for one in shares if one.told and one.mean < 0]),
            ("within noise", [one for one in shares if not one.told]),
        ):
            if group:
                yield f"  {word}: {', '.join(_points(one) for one in group)}"
        yield from (f"  {_speed(one)}" for one in about if one.figure == "images/s")


def _points(one: Difference) -> str:
    return f"{titled(one.figure)} {100 * one.mean:+.1f} ± {100 * one.error:.1f}"


def _speed(one: Difference) -> str:
    error = f" ± {one.error:.2f}" if math.isfinite(one.error) else ""
    times = f"{one.mean:.2f}{error} times as many images/s"
    return times if one.told else f"as fast, within noise: {times}"


def plot(found: Comparison, title: str) -> bytes:
    """Accuracy against images/s, as a PNG: a panel for each of the figures that count most."""
    from siamese_search.evaluation import plots

    shown = _panels(found)
    names = [one.encoder for one in found.contestants]
    with plots.style([*names, title]):
        figure = plots.figure(4.2 * len(shown) + 0.6, 4.6)
        every = figure.subplots(1, len(shown), squeeze=False)[0]
        fastest, slowest = (end(one.rate.mean for one in found.contestants) for end in (max, min))
        for axes, name in zip(every, shown, strict=True):
            for number, one in enumerate(found.contestants):
                value = one.figures[name]
                axes.errorbar(
                    one.rate.mean,
                    100 * value.mean,
                    xerr=one.rate.error,
                    yerr=100 * value.error,
                    fmt="o",
                    capsize=3,
                    color=f"C{number}",
                    label=f"{one.encoder}, {one.size / MEGABYTE:.0f} MB",
                )
            if fastest > 3 * slowest:
                axes.set_xscale("log")
            axes.margins(0.15)
            axes.set(title=titled(name), xlabel="images/s, decoded and embedded", ylabel="%")
            axes.grid(alpha=0.3)
        handles, labels = every[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(names)))
        figure.suptitle(title)
        return plots.png(figure)


def _panels(found: Comparison) -> Sequence[str]:
    """One shot, the figure that decides, and its TPIR, as far as there are any."""
    figures = found.contestants[0].figures
    tpir = [name for name in figures if name.startswith(f"{found.main}: ")]
    return list(dict.fromkeys(["one shot", found.main, *tpir]))
