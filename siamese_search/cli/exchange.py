"""``export``, ``import`` and ``merge``: a gallery as a file, and back, or into another."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, astuple
from operator import add
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
from siamese_search.cli.naming import warn_of_unknown_in
from siamese_search.cli.program import command, program
from siamese_search.errors import GalleryDamaged, GalleryFormatError, UsageError
from siamese_search.words import counted

if TYPE_CHECKING:
    from siamese_search.gallery.archive import Archived
    from siamese_search.gallery.gallery import Gallery
    from siamese_search.storage.exchange import TakenIn

ARCHIVES = (".zip", ".siasearch")
TABLES = (".parquet", ".npz", ".csv")
SHOWN = 5  # items without their pictures

ConflictOption = Annotated[
    str,
    typer.Option(
        "--on-conflict",
        metavar="skip|replace|error",
        help="What is done with items whose picture is enrolled already.",
    ),
]


def export(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="The file to write: .zip or .siasearch for the whole gallery; .parquet, .npz or"
            " .csv for a table of its items.",
        ),
    ],
    gallery: GalleryOption = DEFAULT_GALLERY,
    without_pictures: Annotated[
        bool,
        typer.Option("--without-pictures", help="Leave out the gallery's copies of pictures."),
    ] = False,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="With the embeddings, in CSV, too.")
    ] = False,
    pseudonyms: Annotated[
        Path | None,
        typer.Option(
            "--pseudonyms",
            metavar="TABLE",
            help="Share it without pictures, paths and names: a random name stands for each"
            " identity, and this CSV file, for you alone, says whose it is.",
        ),
    ] = None,
    protect: Annotated[
        Path | None,
        typer.Option(
            "--protect",
            metavar="KEYFILE",
            help="Share it without pictures and paths, its embeddings rotated by the key in this"
            " file, which is made where it is not there. Whoever asks it needs --key KEYFILE.",
        ),
    ] = None,
    keep_metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-metadata",
            metavar="KEY",
            help="Metadata to share, with --pseudonyms or --protect; repeatable.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the whole gallery as one file, to back it up, move it or hand it on; or its items as a
    table for other programs.

    Others may go on adding: the file holds the gallery as it was at one moment, with the pictures
    that `add --copy` has kept. Tables have what is known of each item, and its embedding.
    `import` takes all of them back. With --pseudonyms or --protect nothing in the file leads back
    to a picture: no paths, hashes, dates and metadata, in a random order.
    """
    table = _is_table(out)
    if pseudonyms is not None or protect is not None:
        _share(out, gallery, pseudonyms, protect, keep_metadata or [], as_json)
        return
    if keep_metadata:
        raise UsageError("--keep-metadata is for --pseudonyms and --protect: all stay otherwise")
    if table and without_pictures:
        raise UsageError(f"--without-pictures: {out.suffix} files have no pictures")
    if embeddings and not table:
        raise UsageError("--embeddings is for tables: a whole gallery has them anyway")
    with open_gallery(gallery) as source, progress_bar("writing") as watch:
        if table:
            written = source.export_items(out, embeddings=embeddings or None, watch=watch)
        else:
            made = source.export(out, pictures=not without_pictures, watch=watch)
        calibrated = _calibrated_by(source)
    size = _size(out)
    if table:
        if as_json:
            print_json({"file": str(out), "items": written.items, "left_out": written.left_out})
        else:
            say(f"{out}: {counted(written.items, 'item')}, {size}")
        if embeddings or out.suffix.lower() != ".csv":  # it can be imported
            _tell_uncalibrated(calibrated)
        _tell_left_out(written.left_out, gallery)
        return
    if as_json:
        print_json({"file": str(out), **_facts(made), "missing": list(made.missing)})
    else:
        say(f"{out}: {_in_words(made)}, {size}")
    for number in made.missing[:SHOWN]:
        note(f"item {number}: its copy in the gallery is gone or damaged, and stays out")
    if len(made.missing) > SHOWN:
        note(f"and {len(made.missing) - SHOWN} more: `siasearch check` names all")
    if made.missing:
        raise typer.Exit(1)


def _share(
    out: Path,
    gallery: Path,
    pseudonyms: Path | None,
    protect: Path | None,
    metadata: list[str],
    as_json: bool,
) -> None:
    """Write what leads back to no picture; say which files are for nobody else."""
    new = protect is not None and not protect.exists()
    with open_gallery(gallery) as source, progress_bar("sharing") as watch:
        made = source.share(out, pseudonyms=pseudonyms, key=protect, metadata=metadata, watch=watch)
        calibrated = _calibrated_by(source)
    if as_json:
        print_json({"file": str(out), "items": made.items, "left_out": made.left_out})
    else:
        say(f"{out}: {counted(made.items, 'item')}, {_size(out)}")
    if pseudonyms is not None:
        note(f"{pseudonyms} says whose names these are: keep it, and hand it to nobody")
    if protect is not None:
        what = "a new key" if new else "the key"
        note(f"{protect} is {what}: only who has it can ask {out.name}; keep it apart from that")
    if _is_table(out):
        _tell_uncalibrated(calibrated)
    _tell_left_out(made.left_out, gallery)


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="What `export` or `embed` wrote; tables may be several."
        ),
    ],
    gallery: GalleryOption = DEFAULT_GALLERY,
    on_conflict: ConflictOption = "skip",
    as_json: JsonOption = False,
) -> None:
    """Make a gallery of a file that `export` wrote, or enrol the items of tables: of each file all,
    or nothing.

    A whole gallery goes into a new or empty folder. A table goes there, too, or into a gallery of
    the same encoder; `undo` takes that back. The file may come from anybody: it is verified before
    anything is kept.
    """
    from siamese_search.gallery.gallery import Gallery
    from siamese_search.storage.exchange import TakenIn

    _require_conflict(on_conflict)
    if len(files) > 1 and not all(map(_is_table, files)):
        raise UsageError("a whole gallery is imported alone: name one file, or several tables")
    for file in files:  # before any is imported
        if not file.is_file():
            raise UsageError(f"there is no file {file}")
    with progress_bar("importing") as watch:
        made = None
        if not (_is_table(files[0]) and Gallery.exists(gallery)):
            made = Gallery.restore(files[0], gallery, background=True, watch=watch)
        others = files if made is None else files[1:]
        taken = TakenIn(made.items if made else 0, 0, 0, 0)
        left = taken.added
        if others:
            with open_gallery(gallery) as target:
                for place, file in enumerate(others, len(files) - len(others)):
                    try:
                        found = target.import_items(file, on_conflict=on_conflict, watch=watch)
                    except BaseException:
                        if place:
                            before = ", ".join(map(str, files[:place]))
                            note(f"imported before: {before}, {counted(taken.added, 'item')}")
                        raise
                    taken = TakenIn(*map(add, astuple(taken), astuple(found)))
                left = len(target)
                warn_of_unknown_in(target)
    if made is None or others:
        _tell(taken, gallery, left, as_json)
    elif as_json:
        print_json({"gallery": str(gallery), **_facts(made)})
    else:
        say(f"{gallery}: {_in_words(made)}")


def merge(
    gallery: Annotated[Path, typer.Argument(metavar="A", help="The gallery that grows.")],
    other: Annotated[Path, typer.Argument(metavar="B", help="The gallery whose items it gets.")],
    on_conflict: ConflictOption = "skip",
    as_json: JsonOption = False,
) -> None:
    """Enrol all items of gallery B in gallery A, of the same encoder, with the copies of pictures
    that B has: all, or nothing. Items without an embedding are left out.

    B stays as it is. `undo -g A` takes it back. To merge two identities, see `relabel`.
    """
    _require_conflict(on_conflict)
    with open_gallery(gallery) as target, open_gallery(other) as source:
        with progress_bar("merging") as watch:
            taken = target.merge(source, on_conflict=on_conflict, watch=watch)
        left = len(target)
        warn_of_unknown_in(target)
    _tell(taken, gallery, left, as_json)
    _tell_left_out(taken.left_out, other)


def _require_conflict(chosen: str) -> None:
    from siamese_search.storage.exchange import CONFLICTS

    if chosen not in CONFLICTS:
        raise UsageError(f"--on-conflict is {chosen!r}: choose {', '.join(CONFLICTS)}")


def _tell(taken: TakenIn, gallery: Path, left: int, as_json: bool) -> None:
    """Say what became of the items that came; the gallery has so many now."""
    if as_json:
        print_json({**asdict(taken), "items": left})
        return
    replaced = f" ({taken.replaced} in place of others)" if taken.replaced else ""
    say(f"{taken.added} added{replaced}, {taken.skipped} skipped (enrolled already)")
    say(f"{gallery} has {counted(left, 'item')}")
    if taken.renamed:
        who = counted(taken.renamed, "item is", "items are")
        note(f"{who} enrolled as another identity: --on-conflict replace takes the file's")


def _calibrated_by(source: Gallery) -> str | None:
    """What calibrates a gallery as this one, None where it is not calibrated."""
    from siamese_search.gallery.staleness import again

    with suppress(GalleryDamaged, GalleryFormatError):
        found = source.calibration
        if found is not None:
            others = ((name, one) for name, one in source.choices.items() if one != "auto")
            return again(found) + "".join(f" --{name} {one}" for name, one in others)
    return None


def _tell_uncalibrated(words: str | None) -> None:
    if words is not None:
        note(
            "a table does not say how the gallery decides: after `import`, run"
            f" `{program()} {words}`, or export to .zip"
        )


def _tell_left_out(items: int, gallery: Path) -> None:
    """Say how many items of a gallery did not go along; raises Exit where there are some."""
    if items:
        rebuild = command("rebuild", gallery, DEFAULT_GALLERY)
        which = "1 item without an embedding is" if items == 1 else f"{items} items without one are"
        note(f"{which} left out: `{rebuild}` embeds what it has the pictures of")
        raise typer.Exit(1)


def _is_table(file: Path) -> bool:
    """Whether a file is called as a table; UsageError where it is called as nothing of ours."""
    suffix = file.suffix.lower()
    if suffix not in (*ARCHIVES, *TABLES):
        known = ", ".join((*ARCHIVES, *TABLES))
        raise UsageError(f"{file}: name a file that ends in one of {known}")
    return suffix in TABLES


def _size(file: Path) -> str:
    size = file.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} KB"


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
    app.command()(merge)
