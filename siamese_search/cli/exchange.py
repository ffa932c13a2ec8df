"""``export`` and ``import``: a gallery as a file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.common import (
    DEFAULT_GALLERY,
    GalleryOption,
    JsonOption,
    note,
    open_gallery,
    print_json,
    progress_bar,
    say,
)
from siamese_search.errors import UsageError
from siamese_search.records import counted

if TYPE_CHECKING:
    from siamese_search.gallery.archive import Archived

ARCHIVES = (".zip", ".siasearch")
SHOWN = 5  # items without their pictures


def export(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The file to write: .zip or .siasearch.")
    ],
    gallery: GalleryOption = DEFAULT_GALLERY,
    without_pictures: Annotated[
        bool,
        typer.Option("--without-pictures", help="Leave out the gallery's copies of pictures."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the whole gallery as one file, to back it up, move it or hand it on.

    Others may go on adding: the file holds the gallery as it was at one moment, with the pictures
    that `add --copy` has kept. `import` makes a gallery of it.
    """
    _require_archive(out)
    with open_gallery(gallery) as source, progress_bar("writing pictures") as watch:
        made = source.export(out, pictures=not without_pictures, watch=watch)
    if as_json:
        print_json({"file": str(out), **_facts(made), "missing": list(made.missing)})
    else:
        say(f"{out}: {_in_words(made)}, {out.stat().st_size / 1e6:.1f} MB")
    for number in made.missing[:SHOWN]:
        note(f"item {number}: its copy in the gallery is gone or damaged, and stays out")
    if len(made.missing) > SHOWN:
        note(f"and {len(made.missing) - SHOWN} more: `siasearch check` names all")
    if made.missing:
        raise typer.Exit(1)


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote.")],
    gallery: GalleryOption = DEFAULT_GALLERY,
    as_json: JsonOption = False,
) -> None:
    """Make a gallery of a file that `export` wrote: all of it, or nothing.

    The gallery's folder must be new or empty. The file may come from anybody: it is verified before
    there is a gallery.
    """
    from siamese_search.gallery.gallery import Gallery

    _require_archive(file)
    with progress_bar("restoring pictures") as watch:
        made = Gallery.restore(file, gallery, watch=watch)
    if as_json:
        print_json({"gallery": str(gallery), **_facts(made)})
    else:
        say(f"{gallery}: {_in_words(made)}")


def _require_archive(file: Path) -> None:
    if file.suffix.lower() not in ARCHIVES:
        raise UsageError(f"{file}: name a file that ends in {' or '.join(ARCHIVES)}")


def _facts(made: Archived) -> dict[str, int]:
    return {"identities": made.identities, "items": made.items, "pictures": made.pictures}


def _in_words(made: Archived) -> str:
    return (
        f"{counted(made.identities, 'identity', 'identities')}, {counted(made.items, 'item')},"
        f" {counted(made.pictures, 'picture')} of its own"
    )


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(export)
    app.command("import")(import_)
