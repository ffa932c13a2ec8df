"""The parts of a page in HTML: one file, with its pictures inside. All words are text.

Knows nothing of what the page says.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from siamese_search.errors import ImageError
from siamese_search.files import write_whole
from siamese_search.pictures.render import thumbnail

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:64em;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;text-align:left;
vertical-align:top;border-bottom:1px solid #ddd;overflow-wrap:anywhere}
td:nth-child(2){white-space:nowrap}img{max-width:100%}img.t{height:7em;margin-right:2px}
.plots,.cards{display:grid;gap:1em;margin:1em 0}
.plots{grid-template-columns:repeat(auto-fill,minmax(26em,1fr))}
.cards{grid-template-columns:repeat(auto-fill,minmax(18em,1fr))}
.cards>div{border:1px solid #ddd;padding:.6em;font-size:13px;overflow-wrap:anywhere}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:.6em}figure{margin:0;min-width:0}
figcaption{color:#555}.pair img,.none{width:100%;height:auto;aspect-ratio:1}
.none{display:grid;place-items:center;background:#f4f4f4;color:#555}"""
SIDE = 160  # pixels of a thumbnail


def write_page(path: Path, title: str, parts: Iterable[str]) -> None:
    """Write a page of HTML parts, below its title. Raises StorageError."""
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style><body><h1>{html.escape(title)}</h1>{''.join(parts)}</body></html>"
    )
    write_whole(path, page.encode("utf-8", "backslashreplace"))


def heading(words: str, level: int = 2) -> str:
    return f"<h{level}>{html.escape(words)}</h{level}>"


def paragraph(words: str) -> str:
    return f"<p>{html.escape(words)}</p>"


def bullets(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; nothing where it has no rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def plot(png: bytes, caption: str) -> str:
    """A plot and how to read it."""
    encoded = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="" src="data:image/png;base64,{encoded}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def card(words: str, pictures: Sequence[tuple[str | None, str]]) -> str:
    """Pictures by their paths, each with a caption and the file's name, and words below."""
    figures = "".join(
        f'<figure title="{html.escape(place or "")}">{_framed(place)}<figcaption><b>'
        f"{html.escape(caption)}</b><br>{html.escape(Path(place or '').name)}</figcaption></figure>"
        for place, caption in pictures
    )
    return f"<div><div class=pair>{figures}</div>{paragraph(words)}</div>"


def _framed(place: str | None) -> str:
    shown = picture(place) if place else ""
    return shown or "<div class=none>no picture</div>"


def picture(place: str) -> str:
    """The picture in a file, small; nothing where it cannot be read."""
    try:
        data = thumbnail(place, SIDE)
    except ImageError:
        return ""
    return f'<img class=t alt="" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
