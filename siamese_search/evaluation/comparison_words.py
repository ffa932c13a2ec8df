"""A comparison of encoders in words and numbers for people, and as a plot.

The plot needs ``pip install 'siamese-search[plot]'``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from siamese_search.evaluation.comparison import (
    ONE_SHOT,
    RATE,
    Comparison,
    Figure,
)
from siamese_search.evaluation.words import titled

MEGABYTE = 1e6
WIDE = 5  # between the slowest and the fastest, from which on a scale is logarithmic


def table(found: Comparison) -> list[list[str]]:
    """Rows of cells: a header with the encoders, then a row for each figure."""
    every = found.contestants
    return [
        ["", *(one.encoder for one in every)],
        *(
            [_row_of(name), *(_share(one.figures[name]) for one in every)]
            for name in every[0].figures
        ),
        [RATE, *(f"{one.rate.mean:.0f} ± {one.rate.error:.0f}" for one in every)],
        ["MB on disk", *(_megabytes(one.size, 1) for one in every)],
        ["MB of memory", *(_megabytes(one.memory) for one in every)],
        ["dimension", *(str(one.dimension) for one in every)],
    ]


def differences(found: Comparison, other: str) -> list[list[str]]:
    """Rows of cells: what the best has over another encoder, and whether that is within noise."""
    rows = []
    for one in found.differences:
        if one.other != other:
            continue
        if one.figure == RATE:
            cells = [RATE, f"{one.mean:.2f} ± {one.error:.2f} times"]
            ahead = one.mean > 1
        else:
            cells = [_row_of(one.figure), f"{100 * one.mean:+.1f} ± {100 * one.error:.1f} points"]
            ahead = one.mean > 0
        words = ("faster", "slower") if one.figure == RATE else ("better", "worse")
        rows.append([*cells, words[not ahead] if one.told else "within noise"])
    return rows


def verdict(found: Comparison) -> Iterator[str]:
    """Which encoder is better, by the figure that says most, and by how much; a line for each
    other one.
    """
    for one in found.differences:
        if one.figure != found.main:
            continue
        apart = f"{100 * one.mean:.1f} ± {100 * one.error:.1f} points ({found.main})"
        if one.told:
            yield f"{one.better} is better than {one.other} by {apart}"
        else:
            yield (
                f"{one.better} and {one.other} are within noise of each other: {apart};"
                f" more than {found.identities} things might tell them apart"
            )


def _row_of(figure: str) -> str:
    """A figure's name in a table; a TPIR stands below the figure that it belongs to."""
    below, _, rate = figure.partition(": ")
    return f"  {titled(rate)}" if rate else below


def _share(figure: Figure) -> str:
    return f"{100 * figure.mean:.1f} ± {100 * figure.error:4.1f} %"


def _megabytes(count: int | None, digits: int = 0) -> str:
    return "-" if count is None else f"{count / MEGABYTE:.{digits}f}"


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
                    label=f"{one.encoder}, {_megabytes(one.size)} MB" if one.size else one.encoder,
                )
            axes.margins(0.15)
            if fastest > WIDE * slowest:
                axes.set_xscale("log")
            else:
                axes.set_xlim(0, 1.2 * fastest)
            axes.set(xlabel="images/s, decoded and embedded", ylabel="%")
            axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
            axes.set_title(titled(name).replace(": ", ":\n"))
            axes.grid(alpha=0.3)
        handles, labels = every[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(names)))
        figure.suptitle(title)
        return plots.png(figure)


def _panels(found: Comparison) -> Sequence[str]:
    """One shot, the figure that decides, and its TPIR, as far as there are any."""
    figures = found.contestants[0].figures
    tpir = [name for name in figures if name.startswith(f"{found.main}: ")]
    return list(dict.fromkeys([ONE_SHOT, found.main, *tpir]))
