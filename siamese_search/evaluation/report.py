"""The report of an evaluation: a page in HTML, with its plots and pictures inside.

Knows nothing of galleries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from siamese_search.evaluation import page
from siamese_search.evaluation.curves import Curve
from siamese_search.evaluation.glossary import meaning
from siamese_search.evaluation.results import Decided, Evaluation, Mistake, StrangerResult
from siamese_search.evaluation.verdict import facts
from siamese_search.evaluation.words import (
    RANK_1,
    curve_rows,
    enrolled_lines,
    figure_rows,
    left_out_lines,
    stranger_lines,
    stranger_rows,
    unmatched_lines,
)
from siamese_search.words import counted

IDENTITIES = 200
STRANGERS_SHOWN = 50  # by a picture each
NO_STRANGERS = "No probe is a stranger, so it cannot be told how many of them would get a name."
NO_PLOTS = "For plots: pip install 'siamese-search[plot]'"


def write_report(
    path: Path, title: str, evaluation: Evaluation, curves: Sequence[Curve] | None = None
) -> None:
    """Write the report to a file, replacing it. Raises StorageError.

    ``curves`` are those of several draws, by default the evaluation's own.
    """
    curves = evaluation.growth if curves is None else curves
    parts = [
        *_unmatched(evaluation),
        _figures(evaluation),
        *(page.paragraph(line) for line in _notes(evaluation)),
        *_decided(evaluation.decided),
        *_plots(evaluation),
        *_growth(curves),
        *_strangers(evaluation.per_stranger),
        *_mistakes(evaluation.mistakes),
    ]
    if evaluation.confusions:
        rows = [(one.own, one.named, str(one.times)) for one in evaluation.confusions]
        parts += [
            page.heading("Taken for each other"),
            page.paragraph("Whose best identity was another one, whether that was named or not."),
            page.table(("what it was", "taken for", "times"), rows),
        ]
    parts += _identities(evaluation)
    if evaluation.rejected:
        files = [(one.path, one.reason) for one in evaluation.rejected]
        parts += [page.heading("Not read"), page.table(("file", "why"), files)]
    page.write_page(path, title, parts)


def _unmatched(evaluation: Evaluation) -> list[str]:
    """What counts as a stranger because its label is not enrolled: it comes first."""
    heading, *labels = unmatched_lines(evaluation.unmatched) or [""]
    return [page.paragraph(heading), page.bullets(labels)] if heading else []


def _figures(evaluation: Evaluation) -> str:
    """The figures with what they mean, without those that are not known."""
    known = {name: one for name, one in evaluation.figures.items() if not math.isnan(one)}
    rows = [
        (row.name, row.mean, meaning(name))
        for name, row in zip(known, figure_rows([known]), strict=True)
    ]
    return page.table(("figure", "value", "what it means"), rows)


def _notes(evaluation: Evaluation) -> list[str]:
    strangers = stranger_lines(evaluation.stranger_rate) or [NO_STRANGERS]
    enrolled = enrolled_lines(evaluation.enrolled_probes, evaluation.figures["probes"])
    return [*enrolled, RANK_1, *strangers, *left_out_lines(evaluation.left_out)]


def _decided(decided: Decided | None) -> list[str]:
    if decided is None:
        return []
    what = "score"
    if decided.by == "evidence":
        what = "evidence, its score less half of the runner-up's,"
    said = f"The best identity is named where its {what} is {decided.threshold:.3f} or more."
    return [page.paragraph(said)]


def _plots(evaluation: Evaluation) -> list[str]:
    """Where matplotlib is installed."""
    try:
        from siamese_search.evaluation import plots, report_plots
    except ImportError:
        return [page.paragraph(NO_PLOTS)]
    with plots.style():
        shown = [page.plot(plots.png(d.figure), d.caption) for d in report_plots.drawn(evaluation)]
    return _grid("plots", shown)


def _growth(curves: Sequence[Curve]) -> list[str]:
    """The curves over identities and shots, as tables and, with matplotlib, as plots."""
    tables = [_curve(curve) for curve in curves if len(curve.at) > 1]
    if not any(tables):
        return []
    try:
        from siamese_search.evaluation import plots, report_plots
    except ImportError:
        shown = []
    else:
        with plots.style():
            shown = [page.plot(plots.png(d.figure), d.caption) for d in report_plots.growth(curves)]
    draws = counted(len(curves[0].recall), "draw")
    return [
        page.heading("As more is enrolled"),
        page.paragraph(f"The same probes at every point; mean ± standard deviation over {draws}."),
        *_grid("plots", shown),
        *tables,
    ]


def _curve(curve: Curve) -> str:
    """A curve as a table, without columns that nothing is known of."""
    header, *rows = curve_rows(curve)
    kept = [place for place in range(len(header)) if any(row[place] != "-" for row in rows)]
    if len(kept) < 2:
        return ""
    return page.table(
        [header[place] for place in kept], [[row[place] for place in kept] for row in rows]
    )


def _strangers(results: Sequence[StrangerResult]) -> list[str]:
    """The strangers that got a name, as whom and how often, with pictures of the first."""
    named = [one for one in results if one.named]
    if not named:
        return []
    cards = [_mistake(one.worst) for one in named[:STRANGERS_SHOWN] if one.worst]
    others = len(results) - len(named)
    hidden = max(0, len(named) - IDENTITIES)
    return [
        page.heading("Strangers that got a name"),
        page.table(
            ("stranger", "pictures named", "named as, times"), stranger_rows(named, IDENTITIES)
        ),
        page.paragraph(f"{hidden} more, which were named more seldom.") if hidden else "",
        page.paragraph(f"{counted(others, 'other stranger')} never got a name.") if others else "",
        page.paragraph("Of each the surest mistake, and the nearest item of its best identity."),
        *_grid("cards", cards),
    ]


def _mistakes(mistakes: Sequence[Mistake]) -> list[str]:
    """What went wrong with probes that are enrolled, the worst kind first; each beside its nearest
    item.
    """
    if not mistakes:
        return [page.heading("Mistakes"), page.paragraph("None.")]
    if all(one.identity is None for one in mistakes):
        return []
    parts = [
        page.heading("Worst mistakes"),
        page.paragraph("The probe, and the nearest item of its best identity."),
    ]
    kinds = {
        "Got a wrong name": [one for one in mistakes if one.identity and one.named],
        "Enrolled, but unknown": [one for one in mistakes if not one.named],
    }
    for kind, some in kinds.items():
        if some:
            parts.append(page.heading(f"{kind}: {len(some)} shown", level=3))
            parts += _grid("cards", [_mistake(one) for one in some])
    return parts


def _mistake(mistake: Mistake) -> str:
    truth = "a stranger" if mistake.identity is None else mistake.identity
    called = f"called {mistake.named}" if mistake.named else f"unknown; nearest: {mistake.best}"
    said = ", ".join([called, *facts(mistake.confidence)]) + f"; score {mistake.score:.3f}"
    return page.card(said, [(mistake.path, truth), (mistake.nearest, mistake.best)])


def _identities(evaluation: Evaluation) -> list[str]:
    results = evaluation.per_identity
    if not results:
        return []
    rows = [
        (
            one.name,
            str(one.probes),
            f"{one.best / one.probes:.0%}",
            f"{one.named / one.probes:.0%}",
        )
        for one in results[:IDENTITIES]
    ]
    hidden = len(results) - IDENTITIES
    return [
        page.heading("Identities"),
        page.table(("identity", "probes", "best is right", "got its name"), rows),
        page.paragraph(f"{hidden} more, which did better.") if hidden > 0 else "",
    ]


def _grid(kind: str, parts: Sequence[str]) -> list[str]:
    return [f"<div class={kind}>{''.join(parts)}</div>"] if parts else []
