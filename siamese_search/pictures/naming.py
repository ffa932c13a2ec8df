"""Naming: which pictures are identities of their own because of how they were given.

Pictures that lie directly in a folder that is named, or are named themselves, are called by their
files. Who types ``shop/*`` or ``shop/Milk`` seldom means that. Knows nothing of what is enrolled.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from siamese_search.pictures.choosing import NOTHING, Exclusion, stem
from siamese_search.pictures.drawings import is_drawing
from siamese_search.pictures.find import directly_in
from siamese_search.pictures.kind import PICTURES, Kind
from siamese_search.words import counted, printable


@dataclass(frozen=True)
class Loose:
    """Pictures of one ``folder`` that are called by their ``files``.

    ``whole`` tells that the folder was named rather than these files, ``mixed`` that it has folders
    beside them.
    """

    folder: str
    files: tuple[str, ...]
    whole: bool
    mixed: bool = False

    @property
    def name(self) -> str:
        """The folder's own name."""
        return os.path.basename(os.path.abspath(self.folder))

    @property
    def names(self) -> set[str]:
        """What its pictures are called, as identities are spelt."""
        return {name_of(file) for file in self.files}


def loose(paths: Iterable[str], kind: Kind = PICTURES, exclude: Exclusion = NOTHING) -> list[Loose]:
    """The pictures among files and folders that are called by their files, folder by folder."""
    found: dict[str, Loose] = {}
    files_in: dict[str, dict[str, None]] = {}  # in order, without those that are named twice
    for path in paths:
        if os.path.isdir(path):
            here = directly_in(path, kind, exclude)
            files = tuple(file for file in here.files if not is_drawing(os.path.join(path, file)))
            one = Loose(path, files, whole=True, mixed=bool(here.folders))
        elif os.path.isfile(path) and kind.takes(path):
            one = Loose(os.path.dirname(path) or ".", (os.path.basename(path),), whole=False)
        else:  # whatever it is, no picture
            continue
        if not one.files:
            continue
        place = os.path.realpath(one.folder)
        known = found.setdefault(place, one)
        found[place] = replace(
            known, whole=known.whole or one.whole, mixed=known.mixed or one.mixed
        )
        files_in.setdefault(place, {}).update(dict.fromkeys(one.files))
    return [replace(one, files=tuple(files_in[place])) for place, one in found.items()]


def folder_above(found: Sequence[Loose], paths: Iterable[str]) -> str | None:
    """The folder whose folders these ``paths`` are, all of them, perhaps with files of its own that
    were ``found`` loose; None where there is none.
    """
    folders = [os.path.normpath(path) for path in paths if os.path.isdir(path)]
    above = {os.path.dirname(path) or "." for path in folders}
    if len(folders) < 2 or len(above) > 1 or not any(one.whole for one in found):
        return None
    (folder,) = above
    if any(os.path.normpath(one.folder) != folder for one in found if not one.whole):
        return None
    every = set(directly_in(folder).folders)
    return (
        folder if {os.path.basename(os.path.abspath(path)) for path in folders} >= every else None
    )


def folders_in(paths: Iterable[str]) -> int:
    """How many folders these are: those directly in the folders named, and these themselves where
    they have none.
    """
    return sum(len(directly_in(path).folders) or 1 for path in paths if os.path.isdir(path))


def clash(found: Sequence[Loose]) -> str | None:
    """In words, that pictures of several folders are called the same; None where none are.

    They would become one identity, though nothing but their files' names says so.
    """
    first: dict[str, tuple[Loose, str]] = {}
    words: list[str] = []
    for one in found:
        for file in one.files:
            before, its_file = first.setdefault(name_of(file), (one, file))
            if before is not one:
                pair = (os.path.join(a.folder, b) for a, b in ((before, its_file), (one, file)))
                both = " and ".join(printable(path) for path in pair)
                words.append(f"{both} would both be the identity {name_of(file)!r}")
    if not words:
        return None
    more = f" (and {counted(len(words) - 1, 'more picture')} so)" if len(words) > 1 else ""
    return words[0] + more


def name_of(file: str) -> str:
    """The identity that a picture has by its file, as identities are spelt."""
    return unicodedata.normalize("NFC", stem(file)).strip()
