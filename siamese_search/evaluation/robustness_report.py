"""The report of attacks: a page in HTML, with a plot of each kind of change."""

from __future__ import annotations

from pathlib import Path

from siamese_search.evaluation import page
from siamese_search.evaluation.report import NO_PLOTS
from siamese_search.evaluation.robustness import Outcome, Robustness
from siamese_search.evaluation.robustness_words import (
    GOALS,
    outcome_rows,
    robustness_lines,
)


def write_robustness(path: Path, title: str, found: Robustness) -> None:
    """Write the report to a file, replacing it. Raises StorageError."""
    header, *rows = outcome_rows(found)
    kept = [place for place in range(len(header)) if any(row[place] for row in rows)]
    table = page.table(
        [header[place] for place in kept], [[row[place] for place in kept] for row in rows]
    )
    parts = [*map(page.paragraph, robustness_lines(found)), *_plots(found), table]
    if found.rejected:
        files = [(one.path, one.reason) for one in found.rejected]
        parts += [page.heading("Not read"), page.table(("file", "why"), files)]
    page.write_page(path, title, parts)


def _plots(found: Robustness) -> list[str]:
    """Where matplotlib is installed: the shares over the strength, kind by kind."""
    kinds: dict[tuple[str, str], list[Outcome]] = {}
    for one in found.outcomes:
        if one.strength is not None:
            kinds.setdefault((one.change, one.goal), []).append(one)
    try:
        from siamese_search.evaluation import plots, robustness_plots
    except ImportError:
        return [page.paragraph(NO_PLOTS)]
    with plots.style():
        shown = [
            page.plot(plots.png(robustness_plots.strengths(some)), change + GOALS[goal])
            for (change, goal), some in kinds.items()
        ]
    return [f"<div class=plots>{''.join(shown)}</div>"]
