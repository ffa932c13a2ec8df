"""Pages in HTML that show groups of unknowns, with their pictures inside.

Knows nothing of galleries and evaluations.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from siamese_search.embedding.pipeline import parallel_map, thread_pool
from siamese_search.errors import ImageError
from siamese_search.files import require_place, write_whole
from siamese_search.pictures.render import thumbnail
from siamese_search.records import Progress, UnknownGroup, Watcher, unwatched
from siamese_search.words import counted

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:64em;margin:2em auto;padding:0 1em}
figure{display:inline-block;margin:.4em;vertical-align:top;width:8em;font-size:13px;
overflow-wrap:anywhere}img{max-height:7em;max-width:100%;vertical-align:middle}"""
SIDE = 112  # pixels of a picture
GROUPS = 100  # on a page
SHOWN = 30  # pictures of a group


def write_groups(
    path: Path, title: str, groups: Sequence[UnknownGroup], watch: Watcher = unwatched
) -> list[Path]:
    """Write pages with the pictures of groups of unknowns: to a file, and of many also to others
    beside it, NAME-2.html and so on.

    Returns the files. Raises StorageError.
    """
    require_place(path)
    starts = range(0, max(1, len(groups)), GROUPS)
    pages = [path, *(path.with_name(f"{path.stem}-{n}{path.suffix}")
                     for n in range(2, len(starts) + 1))]  # fmt: skip
    total = sum(min(len(group.paths), SHOWN) for group in groups)
    done = 0
    with thread_pool() as pool:
        for number, (start, page) in enumerate(zip(starts, pages, strict=True)):
            links = _links(pages, number)
            parts = [f"<h1>{html.escape(title)}</h1>", links]
            for group in groups[start : start + GROUPS]:
                shown = list(zip(group.members, group.paths, strict=True))[:SHOWN]
                parts += [_heading(group), *parallel_map(pool, _figure, shown, ahead=16)]
                if len(group.paths) > SHOWN:
                    more = len(group.paths) - SHOWN
                    parts.append(f"<p>and {more} more: --show {group.number}</p>")
                done += len(shown)
                watch(Progress("drawing", done, total))
            _write(page, title, [*parts, links])
    return pages


def _heading(group: UnknownGroup) -> str:
    like, nearest = "", ""
    if group.nearest is not None:
        like = f", most like {group.nearest.identity} ({group.nearest.score:.3f})"
        nearest = f" {_picture(group.nearest.path)}" if group.nearest.path else ""
    counts = counted(len(group.paths), "image")
    return f"<h2>Group {group.number}: {counts}{html.escape(like)}{nearest}</h2>"


def _figure(image: tuple[int, str]) -> str:
    """A picture with its number and its file's name; the path shows where one points."""
    number, place = image
    words = f"{number} {Path(place).name}"
    return (
        f'<figure title="{html.escape(place)}">{_picture(place)}'
        f"<figcaption>{html.escape(words)}</figcaption></figure>"
    )


def _links(pages: Sequence[Path], here: int) -> str:
    """Links to all pages, where there are several."""
    if len(pages) == 1:
        return ""
    each = [
        f"<b>{n + 1}</b>" if n == here else f'<a href="{html.escape(page.name)}">{n + 1}</a>'
        for n, page in enumerate(pages)
    ]
    return f"<p>Page {' '.join(each)}</p>"


def _picture(place: str) -> str:
    """A file's picture, nothing where it cannot be read."""
    try:
        data = thumbnail(place, SIDE)
    except ImageError:
        return ""
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'


def _write(path: Path, title: str, parts: Sequence[str]) -> None:
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>"
    )
    write_whole(path, page.encode("utf-8", "backslashreplace"))
