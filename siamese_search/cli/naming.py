"""What ``add`` and ``embed`` say, and ask, of identities: where each picture becomes one of its own
by its file, and where one has a single picture.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from siamese_search.cli.common import confirmed, note
from siamese_search.cli.program import program
from siamese_search.errors import UsageError
from siamese_search.pictures.choosing import NOTHING, Exclusion
from siamese_search.pictures.find import directly_in
from siamese_search.pictures.naming import (
    Loose,
    clash,
    folder_above,
    folders_in,
    loose,
    name_of,
)
from siamese_search.pictures.sources import Files
from siamese_search.records import ImageFile
from siamese_search.words import counted, printable

if TYPE_CHECKING:
    from siamese_search.gallery.gallery import Gallery
    from siamese_search.pictures.kind import Kind

SHOWN = 3  # names, or commands
UNKNOWN = "unknown"  # what answers say where there is no identity


def settle_names(
    paths: Sequence[str], gallery: Path | None, yes: bool, kind: Kind, exclude: Exclusion = NOTHING
) -> bool:
    """Say which pictures will be called by their files, and what to type where something else is
    meant; ask before that on a terminal, unless ``yes``. Returns whether anything was said.

    Pictures that are enrolled so already, where there is a gallery, are not spoken of. Raises
    UsageError where nobody can be asked, typer.Exit where the answer is no.
    """
    given = loose(paths, kind, exclude)
    sources = _sources(given, gallery)
    found = _not_enrolled(given, sources)
    pictures = sum(len(one.files) for one in found)
    mixed_up = clash(given) if found else None
    joined = _joined(found, sources)
    if joined:
        note(
            f"note: {counted(len(joined), 'of these names is', 'of these names are')} enrolled"
            f" already, from elsewhere ({_some(joined)}): what is new is added to them"
        )
    if pictures == 1 and found[0].mixed:
        (name,) = found[0].names
        note(
            f"note: {printable(found[0].files[0])} lies beside the folders: it becomes the identity"
            f" {name!r}"
        )
        return True
    if pictures < 2:
        return bool(joined)
    note(f"note: {_what(found, paths, pictures)}")
    commands = _commands(found, paths)
    for arguments in commands[:SHOWN]:
        note(f"      {_command(arguments, paths)}")
    if len(commands) > SHOWN:
        note(f"      and so on, for each of {len(commands)} folders")
    question = "Take every picture as an identity of its own?"
    if mixed_up:
        unasked = f"{mixed_up}: say which of these you mean, or --yes to take them so"
        if yes or sys.stdin.isatty():
            note(f"note: {mixed_up}")
        else:
            raise UsageError(unasked)
    elif all(one.mixed for one in found):  # folders and single pictures, as documented
        return True
    unasked = (
        "nothing was done: name one identity by --label, or say --yes where every picture is"
        " an identity of its own"
    )
    if not confirmed(question, yes, unasked):
        note("nothing was done")
        raise typer.Exit(1)
    return True


def settle_label(paths: Sequence[str], label: str, yes: bool) -> None:
    """Say where one ``label`` is given to the pictures of several folders; ask before that on a
    terminal, unless ``yes``. Raises typer.Exit where the answer is no.
    """
    folders = folders_in(paths)
    if folders < 2:
        return
    note(f"note: the pictures of {folders} folders become one identity, {label!r}")
    if not confirmed("Go on?", yes):
        note("nothing was done")
        raise typer.Exit(1)


def noting(files: Files, names: set[str]) -> Files:
    """The same files; their identities are noted in ``names``."""
    for file in files:
        if isinstance(file, ImageFile):
            names.add(file.identity)
        yield file


def warn_of_unknown(identities: Iterable[str]) -> None:
    """Say where an identity is called as what gets no name."""
    for name in identities:
        if name.strip().casefold() == UNKNOWN:
            note(f"note: an identity called {name!r} is easily taken for no answer: rename it")


def warn_of_unknown_in(gallery: Gallery) -> None:
    """The same of what is enrolled."""
    warn_of_unknown(name for name in (UNKNOWN, "Unknown", "UNKNOWN") if gallery.count(name))


def single_pictures(gallery: Gallery, identities: Iterable[str]) -> str | None:
    """In words, how many of these identities have one picture only; None where none or all that
    there is. They are the hardest to recognise.
    """
    every = sorted(set(identities))
    single = [name for name in every if gallery.count(name) == 1]
    if len(every) < 2 or not single:
        return None
    has = "has" if len(single) == 1 else "have"
    return (
        f"note: {len(single)} of {len(every)} identities {has} one picture ({_some(single)}):"
        " with a few of each, more is recognised"
    )


def _what(found: Sequence[Loose], paths: Sequence[str], pictures: int) -> str:
    """How many are called by their files, where they are, and what that would mean."""
    names = _some(sorted(set.union(*(one.names for one in found))))
    own = f"becomes an identity of its own, named by its file ({names})."
    whole = [one for one in found if one.whole]
    if len(whole) < len(found) and folder_above(found, paths) is None:
        return f"each of {pictures} pictures {own} If they show one thing, name it by --label:"
    several = len(whole) > 1
    every = len(whole) == sum(map(os.path.isdir, paths))
    some = f"the {len(whole)} folders" if every else f"{len(whole)} of the folders"
    place = f"{some} that you named" if several else printable(whole[0].folder)
    pictures = sum(len(one.files) for one in whole)
    there = f"{pictures} pictures lie directly in {place}"
    if all(one.mixed for one in whole):
        return f"{there}, beside folders: each {own} If they show one thing, give them a folder."
    return f"{there}: each {own} If {'each folder is' if several else 'they show'} one thing:"


def _commands(found: Sequence[Loose], paths: Sequence[str]) -> list[list[str]]:
    """The arguments of the commands to type where each folder is one thing."""
    above = folder_above(found, paths)
    if above is not None:
        return [[above]]
    if all(one.whole for one in found):
        named = {os.path.realpath(one.folder) for one in found}
        others = [path for path in paths if os.path.realpath(path) not in named]
        others = [path for path in others if os.path.isdir(path) and directly_in(path).folders]
        return [others] * bool(others) + [
            [one.folder, "--label", one.name] for one in found if not one.mixed
        ]
    if len(found) > 1:
        return []
    more = ["..."] * (len(paths) > SHOWN)
    return [[*paths[:SHOWN], *more, "--label", found[0].name]]


def _command(arguments: Sequence[str], paths: Sequence[str]) -> str:
    """This command with other arguments than the paths that were given, and the same options."""
    given = set(paths)
    options = [one for one in sys.argv[2:] if one not in given]
    words = [one if one == "..." else shlex.quote(printable(one)) for one in [*arguments, *options]]
    return " ".join([program(), *sys.argv[1:2], *words])


def _sources(found: Sequence[Loose], gallery: Path | None) -> dict[str, set[str]]:
    """Where the items lie of those of these names that are enrolled."""
    from siamese_search.gallery.gallery import Gallery

    names = set().union(*(one.names for one in found))
    if not names or gallery is None or not Gallery.exists(gallery):
        return {}
    with Gallery.open(gallery) as target:
        known = names & {name for name, _ in target.identities()}
        return {name: {item.source or "" for item in target.items(name)} for name in known}


def _not_enrolled(found: Sequence[Loose], sources: Mapping[str, set[str]]) -> list[Loose]:
    """What is left of pictures without those that are enrolled under the name of their file."""
    left = []
    for one in found:
        here = os.path.abspath(one.folder)
        new = [
            file
            for file in one.files
            if os.path.join(here, file) not in sources.get(name_of(file), ())
        ]
        if new:
            left.append(replace(one, files=tuple(new)))
    return left


def _joined(found: Sequence[Loose], sources: Mapping[str, set[str]]) -> list[str]:
    """Which of these names are enrolled already, with pictures from other folders alone."""
    folders = {
        name: {os.path.dirname(source) for source in known} for name, known in sources.items()
    }
    return sorted(
        name
        for one in found
        for name in folders.keys() & one.names
        if os.path.abspath(one.folder) not in folders[name]
    )


def _some(names: Sequence[str]) -> str:
    """The first of some names."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
