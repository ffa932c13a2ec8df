"""Names in any script: drawn by an installed font that has them, or a word of advice."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from siamese_search.evaluation import fonts, plots

NAMES = {
    "Chinese": "漢字", "Japanese": "ひらがな", "Korean": "한국어", "Cyrillic": "Молоко",
    "Arabic": "حليب", "Devanagari": "दूध", "Thai": "นม", "Greek": "Γάλα",
}  # fmt: skip


@pytest.fixture
def _only_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No fonts but those that come with matplotlib."""
    own = [font for font in font_manager.fontManager.ttflist if "mpl-data" in font.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    yield
    font_manager.fontManager._findfont_cached.cache_clear()  # type: ignore[attr-defined]


def new_font(path: Path, characters: str) -> Path:
    """A font file with a square for each character."""
    names = [".notdef", *(f"c{n}" for n in range(len(characters)))]
    pen = TTGlyphPen(None)
    for number, corner in enumerate([(0, 0), (0, 700), (700, 700), (700, 0)]):
        (pen.lineTo if number else pen.moveTo)(corner)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"c{n}" for n, c in enumerate(characters)})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def missing(name: str) -> list[str]:
    """What matplotlib warns of where it draws a name."""
    with plots.style([name]), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure = plots.figure(2, 1)
        figure.text(0.1, 0.5, name)
        plots.png(figure)
    return [str(one.message) for one in caught]


@pytest.mark.parametrize("script", NAMES)
def test_a_name_is_drawn_where_a_font_has_its_script(
    script: str, caplog: pytest.LogCaptureFixture
) -> None:
    fonts.families([NAMES[script]])
    if caplog.records:
        pytest.skip(caplog.messages[0])
    assert missing(NAMES[script]) == []
    assert not any("Last" in family for family in fonts.families([NAMES[script]]))


@pytest.mark.usefixtures("_only_own")
def test_a_font_that_was_just_installed_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    paths = [tmp_path / "broken.ttf", new_font(tmp_path / "Squares.ttf", "漢字")]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(path) for path in paths])
    assert fonts.families(["Milk", "漢", "字"]) == ["DejaVu Sans", "Squares"]
    assert missing("漢字 and Milk") == []


@pytest.mark.usefixtures("_only_own")
def test_where_no_font_has_it_one_warning_says_what_to_install(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with plots.style([*NAMES.values(), "\t\u200d \ufe0f"]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = plots.figure(2, 1)
        for number, name in enumerate(NAMES.values()):
            figure.text(0.1, number / 10, name)
        plots.png(figure)
    (record,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
    said = record.getMessage()
    assert "apt install fonts-noto-cjk fonts-noto-core)" in said
    assert "М" not in said  # matplotlib's own has these


@pytest.mark.usefixtures("_only_own")
def test_names_that_need_no_other_font_look_for_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: pytest.fail("looked"))
    assert fonts.families(["Milk", "Молоко", "حليب", "$5_x", ""]) == ["DejaVu Sans"]
    assert fonts.families([]) == ["DejaVu Sans"]
    assert not caplog.records
