"""Naming: whether pictures that are called by their files, from Python, can be meant so.

The command line asks the same of a person. Knows nothing of pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from siamese_search.errors import UsageError
from siamese_search.pictures.kind import Kind
from siamese_search.pictures.naming import clash, loose, name_of
from siamese_search.storage.catalog import Catalog
from siamese_search.words import printable


def require_own_names(catalog: Catalog, paths: Iterable[str], kind: Kind) -> None:
    """Raise UsageError where pictures that lie directly in a folder that was named, or are named
    themselves, would by their files' names alone be one identity with pictures of another folder,
    or where a folder has nothing but such pictures, and so is likely one identity.

    What is enrolled so already is not spoken of.
    """
    found = loose(paths, kind)
    words = clash(found)
    if words:
        raise UsageError(f"{words}: give a label, or the folder above them")
    sources = _sources(catalog, set().union(*(one.names for one in found)))
    for one in found:
        here = os.path.join(os.path.abspath(one.folder), "")
        new = [file for file in one.files if here + file not in sources.get(name_of(file), ())]
        for file in new:
            elsewhere = _elsewhere(sources.get(name_of(file), ()), here)
            if elsewhere is not None:
                raise UsageError(
                    f"{printable(here + file)} would be added to {name_of(file)!r}, which is"
                    f" enrolled from {elsewhere}, only because of its file's name: give a label,"
                    f" label={name_of(file)!r} if they show the same"
                )
        if one.whole and not one.mixed and len(new) > 1:
            raise UsageError(
                f"{printable(one.folder)} has {len(new)} pictures and no folders: each would be an"
                f" identity of its own, named by its file ({name_of(new[0])!r}). If they show one"
                f" thing, give label={one.name!r}; if not, give a list of the files"
            )


def _sources(catalog: Catalog, names: set[str]) -> dict[str, set[str | None]]:
    """The files that the identities of these names were enrolled from, None for those without."""
    return {
        name: {item.source for item in catalog.items(numbers.tolist())}
        for name, numbers in catalog.members(names).items()
    }


def _elsewhere(sources: Iterable[str | None], here: str) -> str | None:
    """In words, where pictures of an identity are from; None where all are from this folder, or
    below, or were moved.
    """
    for source in sources:
        if source is None:
            return "no file"
        if not source.startswith(here) and os.path.exists(source):
            return printable(source)
    return None
