"""What ``add`` says, and asks, where pictures become identities of their own by their files."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from siamese_search.cli.common import confirmed, note
from siamese_search.errors import UsageError
from siamese_search.pictures.naming import Loose, clash, folder_above, loose
from siamese_search.records import counted, printable

SHOWN = 3  # names, or commands


def settle_names(paths: Sequence[str], gallery: Path, yes: bool) -> None:
    """Say which pictures will be called by their files, and what to type where something else is
    meant; ask before that on a terminal, unless ``yes``.

    Raises UsageError where they would be mixed up with each other and nobody can be asked,
    typer.Exit where the answer is no.
    """
    found = loose(paths)
    pictures = sum(len(one.files) for one in found)
    mixed_up = clash(found)
    joined = _joined(found, gallery)
    if joined:
        note(
            f"note: {counted(len(joined), 'of these names is', 'of these names are')} enrolled"
            f" already, from elsewhere ({_some(joined)}): what is new is added to them"
        )
    if pictures < 2:
        return
    note(f"note: {_what(found, pictures)}")
    commands = _commands(found, paths)
    for command in commands[:SHOWN]:
        note(f"      {command}")
    if len(commands) > SHOWN:
        note(f"      and so on, for each of {len(commands)} folders")
    if mixed_up and not yes and not sys.stdin.isatty():
        raise UsageError(f"{mixed_up}: say which of these you mean, or --yes to enrol them so")
    if mixed_up:
        note(f"note: {mixed_up}")
    if all(one.mixed for one in found):  # folders and single pictures, as documented
        return
    if not confirmed("Enrol every picture as an identity of its own?", yes):
        note("nothing was enrolled")
        raise typer.Exit(1)


def _what(found: Sequence[Loose], pictures: int) -> str:
    """How many are called by their files, where they are, and what that would mean."""
    names = _some(sorted(set.union(*(one.names for one in found))))
    own = f"becomes an identity of its own, named by its file ({names})."
    whole = [one for one in found if one.whole]
    if len(whole) < len(found):
        return f"each of {pictures} pictures {own} If they show one thing, name it by --label:"
    several = len(found) > 1
    place = f"the {len(found)} folders that you named" if several else printable(found[0].folder)
    there = f"{pictures} pictures lie directly in {place}"
    if all(one.mixed for one in found):
        return f"{there}, beside folders: each {own} If they show one thing, give them a folder."
    return f"{there}: each {own} If {'each folder is' if several else 'they show'} one thing:"


def _commands(found: Sequence[Loose], paths: Sequence[str]) -> list[str]:
    """What to type where each folder is one thing."""
    above = folder_above(found)
    if above is not None:
        return [_command([above], paths)]
    if all(one.whole for one in found):
        return [
            _command([one.folder, "--label", one.name], paths) for one in found if not one.mixed
        ]
    if len(found) > 1:
        return []
    more = ["..."] * (len(paths) > SHOWN)
    return [_command([*paths[:SHOWN], *more, "--label", found[0].name], paths)]


def _command(arguments: Sequence[str], paths: Sequence[str]) -> str:
    """This command with other arguments than the paths that were given, and the same options."""
    options = [one for one in sys.argv[2:] if one not in paths]
    words = [one if one == "..." else shlex.quote(printable(one)) for one in [*arguments, *options]]
    return " ".join(["siasearch add", *words])


def _joined(found: Sequence[Loose], gallery: Path) -> list[str]:
    """Which of these names are enrolled already, with pictures from other folders alone."""
    from siamese_search.gallery.gallery import Gallery

    names = set().union(*(one.names for one in found))
    if not names or not Gallery.exists(gallery):
        return []
    with Gallery.open(gallery) as target:
        known = names & {name for name, _ in target.identities()}
        sources = {name: {item.source or "" for item in target.items(name)} for name in known}
    return sorted(
        name
        for one in found
        for name in known & one.names
        if not any(Path(source).parent == Path(one.folder).absolute() for source in sources[name])
    )


def _some(names: Sequence[str]) -> str:
    """The first of some names."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
