"""Which installed fonts a plot needs for the characters of its names.

matplotlib's own font has the Latin, Greek, Cyrillic and Arabic ones, not the Chinese, Japanese,
Korean, Indian ones and others. Knows nothing of what is drawn.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable
from contextlib import suppress

from matplotlib import font_manager
from matplotlib.font_manager import FontEntry
from matplotlib.ft2font import FT2Font

log = logging.getLogger("siasearch")

OWN = "DejaVu Sans"  # which comes with matplotlib
BOXES = "LastResort"  # a font that has a box for every character: matplotlib's, and macOS's
REGULAR = 400  # the weight of a font that is neither light nor bold
# Of fonts that serve alike. The first has Japanese and Korean characters, too.
PREFERRED = ("Noto Sans CJK SC", "Noto Sans", "Noto")
SHOWN = 8  # characters that a warning names
BLANK = ("C", "Z")  # Unicode categories of what is not drawn: control characters and spaces

# Debian's packages, by the first word of a character's Unicode name.
EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "HALFWIDTH")
PACKAGES = dict.fromkeys(EAST_ASIAN, "fonts-noto-cjk")
OTHER_LETTERS, SYMBOLS = "fonts-noto-core", "fonts-symbola"


def families(names: Iterable[str]) -> list[str]:
    """Fonts that names are drawn with, each for what those before it lack.

    Where no installed font has a character, a warning says what to install.
    """
    found = [OWN]
    lacking = _drawn(names)
    lacking -= _had(_installed(OWN)[0], lacking)
    if not lacking:
        return found
    _look_for_new_fonts()
    had = {font: _had(font, lacking) for font in _installed()}
    while lacking:
        best = max(had, key=lambda font: (len(lacking & had[font]), _liking(font)))
        if not lacking & had[best]:
            _warn(lacking)
            break
        found.append(best.name)
        lacking -= had[best]
    return found


def _drawn(names: Iterable[str]) -> set[str]:
    return {
        character
        for character in set().union(*names)
        if unicodedata.category(character)[0] not in BLANK
        and "VARIATION SELECTOR" not in unicodedata.name(character, "")
    }


def _installed(family: str | None = None) -> list[FontEntry]:
    """The upright regular fonts that matplotlib knows."""
    return [
        font
        for font in font_manager.fontManager.ttflist
        if font.style == "normal"
        and font.weight == REGULAR
        and family in (None, font.name)
        and BOXES not in font.name.replace(" ", "")
    ]


def _had(font: FontEntry, characters: set[str]) -> set[str]:
    """Those of some characters that a font has."""
    with suppress(OSError, RuntimeError):  # deleted since matplotlib listed it, or damaged
        there = FT2Font(font.fname, face_index=font.index).get_charmap()
        return {character for character in characters if ord(character) in there}
    return set()


def _look_for_new_fonts() -> None:
    """Have matplotlib know fonts that were installed since it made its list, once for all."""
    known = {font.fname for font in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            with suppress(OSError, RuntimeError, NotImplementedError, ValueError):
                font_manager.fontManager.addfont(path)


def _liking(font: FontEntry) -> tuple[int, str]:
    places = [n for n, name in enumerate(PREFERRED) if font.name.startswith(name)]
    return -min(places, default=len(PREFERRED)), font.name


def _warn(lacking: set[str]) -> None:
    some = " ".join(sorted(lacking)[:SHOWN])
    packages = " ".join(sorted({_package(character) for character in lacking}))
    log.warning(
        "no installed font has %d of the characters of names, which are drawn as boxes: %s. Install"
        " one that has them (on Debian and Ubuntu: apt install %s)",
        *(len(lacking), some, packages),
    )


def _package(character: str) -> str:
    script = unicodedata.name(character, "").split("-")[0].split(" ")[0]
    other = OTHER_LETTERS if unicodedata.category(character)[0] in "LM" else SYMBOLS
    return PACKAGES.get(script, other)
