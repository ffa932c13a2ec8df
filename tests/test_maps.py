"""Maps of embeddings: names that keep clear of each other, looks that tell identities apart, and
the page to zoom into.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from matplotlib.text import Text
from PIL import Image
from test_plots import clustered

from siamese_search import Encoder, Gallery
from siamese_search.errors import UsageError
from siamese_search.evaluation import map_page, maps, plots, portrait
from siamese_search.records import Progress

Pictures = Callable[..., Path]
HOSTILE = "</script><script>document.title = 'taken'</script><img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the text in them by id or tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id") or tag

    def handle_data(self, data: str) -> None:
        self.texts[self.inside] = self.texts.get(self.inside, "") + data

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self.inside = ""


def read(page: bytes) -> tuple[Tags, dict[str, Any]]:
    tags = Tags(page.decode())
    return tags, json.loads(tags.texts["data"])


@pytest.fixture(scope="module")
def many() -> maps.Layout:
    """Eighty identities of six embeddings each, with names of several lengths."""
    names = [f"shelf {n % 7}/kind of thing number {n}" if n % 3 else f"kind {n}" for n in range(80)]
    return maps.laid_out(clustered(80, 6, 0.4), [names[n // 6] for n in range(480)])


@pytest.mark.parametrize(("side", "least"), [(10, 70), (6, 45)])
def test_names_lie_inside_and_clear_of_each_other_and_hide_no_point(
    many: maps.Layout, side: int, least: int
) -> None:
    with plots.style(many.names):
        axes = plots.figure(side, side).subplots()
        named = maps.embedding_map(axes, many)
        names = {maps.shortened(name) for name in many.names}
        plots.png(plots.figure_of(axes))
        boxes = [Text.get_window_extent(text) for text in axes.texts]  # without lines to points
        dots = axes.transData.transform(many.points)
    assert named == len(boxes) >= least
    for number, box in enumerate(boxes):
        assert axes.bbox.count_contains(box.corners()) == 4
        assert not any(box.overlaps(other) for other in boxes[:number])
    words = [text.get_text() for text in axes.texts]
    assert not any(
        box.count_contains(dots) for box, word in zip(boxes, words, strict=True) if word in names
    )
    # Where a name would hide points there is a number, which a key below explains.
    numbers = [int(word) for word in words if word not in names]
    assert (len(numbers) == 0) == (side == 10)
    if not numbers:
        return
    key = re.split(r"\s{2,}|\n", axes.get_xlabel().strip())
    explained = {int(number): name for number, name in (one.split(" ", 1) for one in key)}
    assert sorted(explained) == sorted(numbers) == list(range(1, len(numbers) + 1))
    assert {*explained.values()} <= names - {*words}


def test_names_without_room_are_left_out_and_long_ones_shortened() -> None:
    labels = ["a rather long label of a thing, number " + str(n // 2) for n in range(60)]
    layout = maps.laid_out(clustered(30, 2, 0.2), labels)
    with plots.style():
        axes = plots.figure(3, 3).subplots()
        named = maps.embedding_map(axes, layout)
    assert 1 < named < 30
    assert len(axes.texts) == named
    assert {len(text.get_text()) for text in axes.texts} <= {1, 2, maps.LONGEST}


def test_a_name_stands_beside_what_it_would_hide() -> None:
    size, anchor, frame = np.array([[40.0, 10.0]]), np.array([[100.0, 100.0]]), (200.0, 200.0)
    ((x, y),) = maps.placed(size, anchor, np.empty((0, 2)), frame)
    assert (round(x), y) == (0, 5 + maps.REACHES[0])  # above
    crowd = np.array([[90.0, 110], [100, 112], [110, 110]])
    ((x, y),) = maps.placed(size, anchor, crowd, frame)
    assert not any(abs(100 + x - left) < 20 and abs(100 + y - top) < 5 for left, top in crowd)
    assert np.isnan(maps.placed(np.array([[300.0, 10.0]]), anchor, crowd, frame)).all()
    everywhere = np.stack(np.meshgrid(np.arange(0.0, 200, 5), np.arange(0.0, 200, 5)), axis=2)
    dots = everywhere.reshape(-1, 2)
    assert np.isnan(maps.placed(size, anchor, dots, frame, hide=False)).all()
    assert np.isfinite(maps.placed(size, anchor, dots, frame)).all()
    whole = np.array([[0.0, 0, 200, 200]])
    assert np.isnan(maps.placed(size, anchor, crowd, frame, whole)).all()


def test_eighty_identities_look_different_and_neighbours_have_other_colours() -> None:
    colours, others = len(maps.COLOURS), np.where(np.eye(80), np.inf, 0)
    alike = []
    for seed in range(40):  # over many maps, as on one of them 5 in 80 may be alike
        middles = np.random.default_rng(seed).random((80, 2), np.float32)
        looks = maps.looks_of(middles)
        assert len(set(looks.tolist())) == 80
        apart = np.linalg.norm(middles[:, None] - middles, axis=2) + others
        nearest = looks[apart.argmin(axis=1)]
        alike.append((looks % colours == nearest % colours).mean())
    assert np.mean(alike) < 0.02  # by chance it would be a tenth
    assert len({*maps.COLOURS}) * len({*maps.MARKERS}) == 80


def test_a_page_has_every_item_with_its_picture_and_loads_nothing(
    tmp_path: Path, toy: Encoder, pictures: Pictures
) -> None:
    folder = pictures({"a": 2, "b": 2})
    picture(0, 9).save(tmp_path / "copied.png")
    seen: list[Progress] = []
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([folder])
        (folder / "b" / "1.png").unlink()
        gallery.enroll_embeddings(clustered(1, 1, 0), ["漢字"])
        drawn = portrait.draw_map_page(gallery, seen.append)
    tags, data = read(drawn.content)
    assert (drawn.facts.items, drawn.facts.identities) == (5, 3)
    assert (seen[-1].done, seen[-1].total) == (5, 5)
    assert [data["names"][one] for one in data["member"]] == ["a", "a", "b", "b", "漢字"]
    assert data["files"] == [
        "0.png, item 1", "1.png, item 2", "0.png, item 3", "1.png, item 4", "item 5"
    ]  # fmt: skip
    assert data["tile"] == [0, 1, 2, -1, -1]
    (sheet,) = data["sheets"]
    with Image.open(BytesIO(base64.b64decode(sheet.partition(",")[2]))) as image:
        shown = np.asarray(image.convert("RGB"), float)
    side = data["side"]
    for item, path in ((0, folder / "a" / "0.png"), (2, folder / "b" / "0.png")):
        with Image.open(path) as source:
            expected = np.asarray(source.resize((side, side)), float)
        tile = shown[:side, item * side : (item + 1) * side]
        assert np.abs(tile - expected).mean() < 12

    links = [value for _, one in tags.found for key, value in one.items() if key in ("src", "href")]
    assert links == []
    assert b"http://" not in drawn.content
    assert b"https://" not in drawn.content


def test_names_are_text_wherever_they_stand_on_a_page(tmp_path: Path, toy: Encoder) -> None:
    with Gallery.open(tmp_path / HOSTILE.replace("/", ""), toy) as gallery:
        gallery.enroll_embeddings(clustered(4, 1, 0), [HOSTILE, "@DATA@", "b</b>", "@TITLE@"])
        page = portrait.draw_map_page(gallery).content
    tags, data = read(page)
    assert {*data["names"]} == {HOSTILE, "@DATA@", "b</b>", "@TITLE@"}
    assert [tag for tag, _ in tags.found].count("script") == 2
    assert "img" not in [tag for tag, _ in tags.found]
    script = tags.texts["script"]
    assert not any(way in script for way in ("innerHTML", "outerHTML", "insertAdjacent", "write("))
    # And were one to slip through, browsers run the page's own script alone.
    (policy,) = [one["content"] or "" for _, one in tags.found if "http-equiv" in one]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert policy.endswith(f"script-src 'sha256-{digest}'")


def test_a_page_of_many_items_has_sheets_of_smaller_pictures() -> None:
    layout = maps.laid_out(clustered(20, 20, 0.5), [f"id{n // 20}" for n in range(400)])
    tile = np.zeros((16, 16, 3), np.uint8)
    _, data = read(map_page.page("t", layout, [""] * 400, [tile] * 400))
    sizes = []
    for sheet in data["sheets"]:
        with Image.open(BytesIO(base64.b64decode(sheet.partition(",")[2]))) as image:
            sizes.append(image.size)
    assert sizes == [(256, 256), (256, 144)]
    assert {0.0, 1.0} <= {*data["x"], *data["y"]}
    assert map_page.side_for(10_000) < map_page.side_for(500)


def test_too_little_for_a_page_is_an_error(tmp_path: Path, toy: Encoder) -> None:
    with (
        Gallery.open(tmp_path / "gallery", toy) as gallery,
        pytest.raises(UsageError, match="3 or more"),
    ):
        portrait.draw_map_page(gallery)
