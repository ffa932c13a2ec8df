"""The report of an evaluation: a page in HTML, with its plots and pictures inside.

Knows nothing of galleries.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from siamese_search.errors import ImageError
from siamese_search.evaluation.curves import Curve
from siamese_search.evaluation.results import Evaluation, Mistake
from siamese_search.evaluation.words import (
    RANK_1,
    curve_rows,
    figure_rows,
    left_out_lines,
    titled,
    unmatched_lines,
)
from siamese_search.files import write_whole
from siamese_search.pictures.render import thumbnail
from siamese_search.records import counted

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;text-align:left;
border-bottom:1px solid #ddd}figure{display:inline-block;margin:.5em;
vertical-align:top;width:12em;font-size:13px}img.t{height:7em;margin-right:2px}img{max-width:100%}"""
SIDE = 160  # pixels of a thumbnail
IDENTITIES = 200


def write_report(
    path: Path, title: str, evaluation: Evaluation, curves: Sequence[Curve] | None = None
) -> None:
    """Write the report to a file, replacing it. Raises StorageError.

    ``curves`` are those of several draws, by default the evaluation's own.
    """
    curves = evaluation.growth if curves is None else curves
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        *_unmatched(evaluation),
        _table(
            ("figure", "value"), [(row.name, row.mean) for row in figure_rows([evaluation.figures])]
        ),
        *(_paragraph(line) for line in (RANK_1, *left_out_lines(evaluation.left_out))),
        *_plots(evaluation),
        *_growth(curves),
        "<h2>Worst mistakes</h2><p>The probe, and what it was taken for.</p>",
        *(_mistake(mistake) for mistake in evaluation.mistakes),
        "<h2>Taken for each other</h2>",
        _table(
            ("what it was", "taken for", "times"),
            [(one.own, one.named, str(one.times)) for one in evaluation.confusions],
        ),
        "<h2>Identities</h2>",
        _table(
            ("identity", "probes", "best right", "named right"),
            [
                (
                    one.name,
                    str(one.probes),
                    f"{one.best / one.probes:.0%}",
                    f"{one.named / one.probes:.0%}",
                )
                for one in evaluation.per_identity[:IDENTITIES]
            ],
        ),
    ]
    hidden = len(evaluation.per_identity) - IDENTITIES
    if hidden > 0:
        parts.append(f"<p>{hidden} more, which did better.</p>")
    if evaluation.rejected:
        rows = [(one.path, one.reason) for one in evaluation.rejected]
        parts += ["<h2>Not read</h2>", _table(("file", "why"), rows)]
    _write(path, title, parts)


def _write(path: Path, title: str, parts: Sequence[str]) -> None:
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>"
    )
    write_whole(path, page.encode("utf-8", "backslashreplace"))


def _unmatched(evaluation: Evaluation) -> list[str]:
    """What counts as a stranger because its label is not enrolled: it comes first."""
    heading, *labels = unmatched_lines(evaluation.unmatched) or [""]
    rows = "".join(f"<li>{html.escape(label)}</li>" for label in labels)
    return [_paragraph(heading), f"<ul>{rows}</ul>"] if heading else []


def _paragraph(words: str) -> str:
    return f"<p>{html.escape(words)}</p>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _mistake(mistake: Mistake) -> str:
    pictures = "".join(_picture(place) for place in (mistake.path, mistake.nearest) if place)
    truth = "a stranger" if mistake.identity is None else mistake.identity
    named = "unknown" if mistake.named is None else mistake.named
    said = (
        f"{truth}, called {named} (score {mistake.score:.3f}, confidence {mistake.confidence:.0%})"
    )
    return f"<figure>{pictures}<figcaption>{html.escape(said)}</figcaption></figure>"


def _picture(place: str) -> str:
    try:
        data = thumbnail(place, SIDE)
    except ImageError:
        return ""
    encoded = base64.b64encode(data).decode()
    return f'<img class=t alt="" src="data:image/jpeg;base64,{encoded}">'


def _plots(evaluation: Evaluation) -> list[str]:
    """CMC, DET and scores, where matplotlib is installed."""
    try:
        from siamese_search.evaluation import plots
    except ImportError:
        return ["<p>For plots: pip install 'siamese-search[plot]'</p>"]
    with plots.style():
        figure = plots.figure(12, 3.6)
        cmc, det, scores = figure.subplots(1, 3)
        cmc.plot([point.k for point in evaluation.cmc], [point.recall for point in evaluation.cmc])
        cmc.set(xlabel="k", ylabel="recall@k", title="identified among the k best", ylim=(0, 1.02))
        if evaluation.genuine and evaluation.impostor:
            fmr, fnmr = zip(*evaluation.det, strict=True)
            plots.trade_off(det, fmr, fnmr, evaluation.figures["EER"])
        det.set_title("detection error trade-off")
        groups = {"own identity": evaluation.genuine, "best other": evaluation.impostor}
        plots.histogram(scores, groups)
        scores.set(xlabel="score", title="scores")
        encoded = base64.b64encode(plots.png(figure)).decode()
    return [f'<img alt="CMC, DET and score plots" src="data:image/png;base64,{encoded}">']


def _growth(curves: Sequence[Curve]) -> list[str]:
    """The curves over identities and shots, as tables and, with matplotlib, as a plot."""
    if not curves:
        return []
    draws = len(curves[0].recall)
    parts = [
        "<h2>As more is enrolled</h2>",
        f"<p>The same probes at every point; mean ± standard deviation over"
        f" {counted(draws, 'draw')}.</p>",
    ]
    try:
        from siamese_search.evaluation import plots
    except ImportError:
        pass
    else:
        with plots.style():
            figure = plots.figure(5.5 * len(curves), 3.6)
            row = figure.subplots(1, len(curves), squeeze=False)[0]
            for axes, curve in zip(row, curves, strict=True):
                lines = {"recall@1": curve.recall, titled(curve.rate): curve.tpir}
                plots.growth(axes, curve.at, lines)
                axes.set(xlabel=f"{curve.what} enrolled", title=f"over {curve.what}")
            encoded = base64.b64encode(plots.png(figure)).decode()
        parts.append(f'<img alt="curves" src="data:image/png;base64,{encoded}">')
    for curve in curves:
        header, *rows = curve_rows(curve)
        parts.append(_table(header, rows))
    return parts
