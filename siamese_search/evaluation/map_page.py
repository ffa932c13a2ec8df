"""A map of embeddings as a page to zoom into and to search: one HTML file with all it needs.

Knows nothing of galleries and encoders.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from siamese_search.arrays import PixelArray
from siamese_search.evaluation import maps
from siamese_search.pictures.render import encode

COLUMNS = 16  # pictures across a sheet and down
SIDE, SMALL_SIDE = 96, 64  # pixels of a picture; multiples of a JPEG's blocks
MANY = 2000  # items from which on the small side serves


def side_for(items: int) -> int:
    """The side in pixels of each picture on a page of so many items."""
    return SIDE if items <= MANY else SMALL_SIDE


def page(
    title: str,
    layout: maps.Layout,
    files: Sequence[str],
    pictures: Sequence[PixelArray | None],
) -> bytes:
    """The page of a map of n items.

    ``files`` (n,) say where each comes from; ``pictures`` (n,) are uint8 (side, side, 3), None
    where there is none. Names are text wherever they stand, and the page loads nothing.
    """
    low = layout.points.min(axis=0)
    extent = float(np.ptp(layout.points, axis=0).max()) or 1.0
    points = (layout.points - low) / extent
    there = [number for number, one in enumerate(pictures) if one is not None]
    tiles = np.full(len(pictures), -1)
    tiles[there] = np.arange(len(there))
    shown = [one for one in pictures if one is not None]
    data = {
        "title": title,
        "names": layout.names,
        "short": [maps.shortened(name) for name in layout.names],
        "looks": layout.looks.tolist(),
        "colours": maps.COLOURS,
        "markers": maps.MARKERS,
        "member": layout.member.tolist(),
        "middles": layout.middles.tolist(),
        "x": points[:, 0].round(4).tolist(),
        "y": (1 - points[:, 1]).round(4).tolist(),  # screens count downwards
        "files": list(files),
        "side": len(shown[0]) if shown else SIDE,
        "columns": COLUMNS,
        "tile": tiles.tolist(),
        "sheets": _sheets(shown),
    }
    template = Path(__file__).with_name("map.html").read_text(encoding="utf-8")
    # A script tag could be closed by what a name says.
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"@POLICY@": _policy(template), "@TITLE@": html.escape(title), "@DATA@": written}
    filled = re.sub("|".join(parts), lambda found: parts[found.group()], template)
    return filled.encode("utf-8", "backslashreplace")


def _policy(template: str) -> str:
    """What a browser may load and run: what the page has, and of scripts only its own."""
    (script,) = re.findall(r"<script>(.*?)</script>", template, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src"
    return f"{allowed} 'sha256-{digest}'"


def _sheets(pictures: Sequence[PixelArray]) -> list[str]:
    """Pictures side by side on JPEG sheets, as data URLs: each alone would take half more."""
    sheets = []
    for start in range(0, len(pictures), COLUMNS**2):
        part = pictures[start : start + COLUMNS**2]
        side = len(part[0])
        columns, rows = min(COLUMNS, len(part)), -(-len(part) // COLUMNS)
        sheet = np.full((rows * side, columns * side, 3), 255, np.uint8)
        for number, picture in enumerate(part):
            top, left = (side * place for place in divmod(number, COLUMNS))
            sheet[top : top + side, left : left + side] = picture
        sheets.append("data:image/jpeg;base64," + base64.b64encode(encode(sheet, "JPEG")).decode())
    return sheets
