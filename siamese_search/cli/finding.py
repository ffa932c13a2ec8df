"""How commands find files: what is left out, how identities are named, what was passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from siamese_search.cli.common import note
from siamese_search.errors import UsageError
from siamese_search.pictures.archives import is_archive
from siamese_search.pictures.choosing import Naming, flat, naming
from siamese_search.pictures.find import DRAWING, EXCLUDED, NO_KIND, SYSTEM
from siamese_search.pictures.kind import Kind
from siamese_search.words import counted

LabelOption = Annotated[
    str | None, typer.Option("--label", "-l", help="The identity of all these images.")
]
ManifestOption = Annotated[
    Path | None,
    typer.Option(metavar="CSV", help="A list with the columns path,label; others are metadata."),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Leave out files and folders in PATH that are called so, as '*.gif' or thumbs; with a"
        " slash it is about the path below PATH, as 'old/*'. Repeatable.",
    ),
]
FlatOption = Annotated[
    bool,
    typer.Option(
        "--flat",
        help="Each PATH is one identity, called by its own name, with all that is in its folders.",
    ),
]
IdentityFromOption = Annotated[
    str | None,
    typer.Option(
        metavar="parent|stem|REGEX",
        help="Where an image's identity is: parent, the name of the folder that holds it; stem, its"
        " own name without the suffix; or what a regular expression finds in its path below PATH"
        " (the group called identity, else the first group, else all that it matches).",
    ),
]


def naming_by(label: str | None, flatly: bool, way: str | None) -> Naming | None:
    """How identities are named where their folders do not say. Raises UsageError for two ways."""
    ways = {"--label": label is not None, "--flat": flatly, "--identity-from": way is not None}
    given = [option for option, chosen in ways.items() if chosen]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} name identities: use one")
    if flatly:
        return flat
    return None if way is None else naming(way)


def require_paths(
    paths: Sequence[str] | None, naming: Naming | None, exclude: Sequence[str] | None
) -> None:
    """Raise UsageError for options that would do nothing, since no paths are named."""
    if naming is not None and not paths:
        raise UsageError("--flat and --identity-from are about images in PATH: name a folder")
    require_inside(paths or (), exclude)


def require_inside(paths: Sequence[str], exclude: Sequence[str] | None) -> None:
    """Raise UsageError for what is to be excluded where only files are named: these are taken."""
    if exclude and all(os.path.isfile(path) and not is_archive(path) for path in paths):
        raise UsageError(
            "--exclude is about files and folders in a folder: name a folder, or leave it out"
        )


class PassedOver:
    """Counts what was passed over, and says so."""

    def __init__(self) -> None:
        self._names: dict[str, Counter[str]] = {
            why: Counter() for why in (DRAWING, NO_KIND, SYSTEM, EXCLUDED)
        }

    def __call__(self, path: str, why: str) -> None:
        name = os.path.basename(path)
        if why == NO_KIND:
            name = os.path.splitext(name)[1].lower()
        self._names[why][name] += 1

    def tell(self, kind: Kind) -> None:
        """Say what it was, a line for each reason."""
        drawings, files, system, excluded = self._names.values()
        if drawings:
            note(f"{counted(drawings.total(), 'drawing')} of siasearch passed over")
        if files:
            what = f"{counted(files.total(), 'file')} passed over, no {kind} by their names"
            note(f"{what}: {_listed(files)}")
        if system:
            what = counted(system.total(), "system or hidden folder")
            note(f"{what} passed over: {_listed(system)}")
        if excluded:
            note(f"{counted(excluded.total(), 'file or folder', 'files and folders')} excluded")


def _listed(names: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(names.items()))
