"""``check``, ``prune``, ``compact`` and ``rebuild``: keep the gallery sound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.common import (
    DEFAULT_GALLERY,
    DeviceOption,
    EncoderOption,
    GalleryOption,
    JsonOption,
    name_rejections,
    note,
    open_gallery,
    print_json,
    progress_bar,
    say,
)
from siamese_search.cli.program import command
from siamese_search.errors import UsageError
from siamese_search.pictures.read import OTHER_CONTENT
from siamese_search.records import UNDOABLE
from siamese_search.words import counted

if TYPE_CHECKING:
    from siamese_search.gallery.gallery import Gallery
    from siamese_search.records import Change, Rejection

SHOWN = 20  # changed pictures


def check(
    gallery: GalleryOption = DEFAULT_GALLERY,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="Also read every enrolled picture, and embed a sample of them again."
        ),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="First make the index what the database says."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare files, database and index; name every fault. Changes nothing without --repair.

    Enrolled pictures that are gone or were overwritten since are named, too. That is no fault of
    the gallery, so the exit code is 0 where there is no other.
    """
    from siamese_search.errors import GalleryDamaged

    changed: list[Rejection] = []
    mended: list[str] = []
    try:
        with open_gallery(gallery) as source:
            mended = source.repair() if repair else []
            faults = source.check(deep=deep)
            if not faults:
                changed = list(source.changed_pictures(deep=deep))
    except GalleryDamaged as error:  # so damaged that it does not even open
        faults = [str(error)]
    if as_json:
        pictures = [{"path": one.path, "reason": one.reason} for one in changed]
        said = {"ok": not faults, "faults": faults, "changed": pictures}
        print_json(said | ({"mended": mended} if repair else {}))
    else:
        for fault in mended[:SHOWN]:
            say(f"mended: {fault}")
        if len(mended) > SHOWN:
            say(f"and {len(mended) - SHOWN} more: --json names all")
        for fault in faults:
            say(fault)
        for one in changed[:SHOWN]:
            say(f"{one.path}: {one.reason}")
        if len(changed) > SHOWN:
            say(f"and {len(changed) - SHOWN} more: --json names all")
        typer.echo(counted(len(faults), "fault") if faults else "no faults")
    altered = [one for one in changed if one.reason.endswith(OTHER_CONTENT)]
    if altered:
        note(
            f"{counted(len(altered), 'picture')} changed since enrolment, and answers are still by"
            f" what was there: `{command('prune --overwritten', gallery, DEFAULT_GALLERY)}` drops"
            " these items; then add the pictures again"
        )
    if len(changed) > len(altered):
        lost = counted(len(changed) - len(altered), "picture is", "pictures are")
        again = command("add FOLDER", gallery, DEFAULT_GALLERY)
        note(
            f"{lost} not where they were; answers do not need them. If they were moved, `{again}`"
            " finds them by their content, and all names stay"
        )
    if faults:
        raise typer.Exit(1)


def prune(
    gallery: GalleryOption = DEFAULT_GALLERY,
    gone: Annotated[
        bool, typer.Option("--gone", help="Only items whose picture is gone, without a copy.")
    ] = False,
    overwritten: Annotated[
        bool, typer.Option("--overwritten", help="Only items whose picture has other content now.")
    ] = False,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Read every picture, not only those of another size or time."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Drop them.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Drop the items whose pictures were deleted or overwritten since they were enrolled; without
    --yes it only says which. `undo` puts them back.

    Where pictures were moved, or a disk is not there, do not: `add` finds moved ones by their
    content, and all names stay.
    """
    with open_gallery(gallery) as target:
        every = list(target.changed_pictures(deep=deep))
        chosen = [
            one
            for one in every
            if gone == overwritten or overwritten == one.reason.endswith(OTHER_CONTENT)
        ]
        total = len(target)
        if chosen and yes:
            if len(chosen) > UNDOABLE:
                note(f"more items than `undo` keeps ({UNDOABLE}): this cannot be taken back")
            target.remove(item=[one.item for one in chosen])
        left = len(target)
    if as_json:
        pictures = [{"item": one.item, "path": one.path, "reason": one.reason} for one in chosen]
        print_json({"pruned": total - left, "chosen": pictures, "items": left})
        return
    for one in chosen[:SHOWN]:
        say(f"{one.path}: {one.reason}")
    if len(chosen) > SHOWN:
        say(f"and {len(chosen) - SHOWN} more: --json names all")
    items = counted(len(chosen), "item")
    if not chosen:
        say("nothing to drop: every picture is as it was")
    elif yes:
        back = "" if len(chosen) > UNDOABLE else "; `undo` puts them back"
        back = back.replace("`undo`", f"`{command('undo', gallery, DEFAULT_GALLERY)}`")
        say(f"dropped {items}, {left} left{back}")
    else:
        say(f"{items} of {total} would be dropped: say --yes")
    if chosen and len(chosen) == total and not yes:
        note("these are all: is a disk not there, or were the pictures moved?")


def compact(
    gallery: GalleryOption = DEFAULT_GALLERY,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="auto|FAISS",
            help="How the index is built, now and later: auto (exact up to 100,000 items), or a"
            " FAISS factory string, as HNSW32 or IVF4096,PQ64x4fs, from 1,000 items on; FLAT or"
            " HNSW with milvus.",
        ),
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(
            "--recall",
            metavar="SHARE",
            help="The least recall@10 that an index which is not exact is tuned to (0.99).",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            metavar="faiss|milvus",
            help="Where the index is, now and later: in a file of the gallery (faiss), or in a"
            " collection of Milvus.",
        ),
    ] = None,
    uri: Annotated[
        str | None,
        typer.Option(
            "--uri",
            metavar="ADDRESS",
            help="Where Milvus is: http://HOST:19530, or a milvus-lite file, as milvus.db"
            " (SIASEARCH_MILVUS_URI).",
        ),
    ] = None,
    if_due: Annotated[
        bool,
        typer.Option(
            "--if-due", help="Only if enough has changed, and no other process is doing it."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a new index with all recent changes; --recipe chooses another kind, --engine where.

    What was changed before cannot be taken back by `undo` any more, except with --if-due.
    """
    if if_due and any(one is not None for one in (recipe, recall, engine, uri)):
        raise UsageError(
            "--if-due takes what was chosen last: leave out --recipe, --recall, --engine and --uri"
        )
    with open_gallery(gallery) as target:
        done = True
        before = target.last_change()
        if if_due:
            done = target.compact_if_due()
        else:
            target.compact(recipe, recall, engine, uri)
        facts = target.info()
        _note_forgotten(target, before)
    if as_json:
        keys = ("engine", "index", "indexed", "recipe", "recall")
        print_json({key: getattr(facts, key) for key in keys})
    else:
        found = "exact" if facts.recall is None else f"recall@10 {facts.recall:.3f}"
        items = counted(facts.indexed, "item")
        typer.echo(f"{facts.index} holds {items} ({facts.recipe}, {found})")
    if not done:
        note("nothing to do yet, or another process is doing it")
    if recipe not in (None, "auto", facts.recipe) and facts.engine == "faiss":
        note(f"fewer than 1,000 items are searched exactly; {recipe} is used from 1,000 on")


def rebuild(
    gallery: GalleryOption = DEFAULT_GALLERY,
    encoder: EncoderOption = None,
    skip_missing: Annotated[
        bool,
        typer.Option(
            "--skip-missing",
            help="Switch even if some images can't be read; they stay enrolled, but not findable.",
        ),
    ] = False,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Embed all images again by another encoder; without one, embed what is not yet embedded, and
    write the index anew.

    The gallery answers as before until the new embeddings are complete. After an interruption,
    run the same command again: it goes on where it was. What was changed before cannot be taken
    back by `undo` any more.
    """
    with open_gallery(gallery, device=device) as target:
        before = target.last_change()
        try:
            with progress_bar("embedding") as watch:
                report = target.rebuild(encoder, skip_missing=skip_missing, watch=watch)
        except KeyboardInterrupt:
            note("interrupted: the gallery answers as before; run the same command again to go on")
            raise typer.Exit(1) from None
        _note_forgotten(target, before)
    name_rejections(report.missing)
    if as_json:
        print_json(
            {
                "switched": report.switched,
                "embedded": report.embedded,
                "missing": [{"path": r.path, "reason": r.reason} for r in report.missing],
                "items": report.items,
            }
        )
    elif report.switched:
        typer.echo(
            f"rebuilt: {counted(report.embedded, 'image')} embedded,"
            f" {counted(report.items, 'item')}"
        )
    else:
        typer.echo(
            f"not switched: {counted(len(report.missing), 'image')} cannot be read; bring them back"
            " (`add` finds moved ones), remove them, or use --skip-missing, and run this again"
        )
    if report.calibration is not None:
        rate = report.calibration.fpir
        note(f"calibrated for an FPIR of {rate:.3g}, by the gallery's own items")
    if report.missing:
        raise typer.Exit(1)


def _note_forgotten(gallery: Gallery, before: Change | None) -> None:
    """Say that the changes up to that one were forgotten, if they were."""
    if before is not None and gallery.last_change() is None:
        note("note: what was changed before cannot be taken back any more")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(check)
    app.command()(prune)
    app.command()(compact)
    app.command()(rebuild)
