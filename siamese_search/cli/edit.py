"""``info``, ``remove``, ``relabel``, ``undo`` and ``redo``: see and edit the gallery."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.common import (
    DEFAULT_GALLERY,
    GalleryOption,
    JsonOption,
    YesOption,
    confirmed,
    note,
    open_gallery,
    print_json,
    say,
)
from siamese_search.cli.naming import warn_of_unknown
from siamese_search.cli.program import command
from siamese_search.errors import EncoderError, GalleryError, UsageError
from siamese_search.pictures.sources import normalised
from siamese_search.records import UNDOABLE
from siamese_search.words import counted

if TYPE_CHECKING:
    from siamese_search.gallery.gallery import Gallery
    from siamese_search.records import Change

SHOWN = 3  # names of identities
ABSENT = {  # what it means for people that a fact of `info` is None
    "threshold": "not known: the encoder, or its key, cannot be found",
    "calibration": "none yet: `siasearch calibrate` chooses the threshold by the error rate",
    "index": "none yet",
    "recall": "exact",
    "metric": "none: plain cosines",
    "closer": "none",
}

ItemsOption = Annotated[
    list[int] | None,
    typer.Option("--item", metavar="N", help="One item, by its number; repeatable."),
]

ListOption = Annotated[
    bool, typer.Option("--list", help="Only list the changes, the last one first.")
]


def info(gallery: GalleryOption = DEFAULT_GALLERY, as_json: JsonOption = False) -> None:
    """Show what the gallery is: totals, encoder, index, size on disk."""
    with open_gallery(gallery) as source:
        facts = dataclasses.asdict(source.info()) | {"gallery": str(gallery)}  # as it was given
        looks = source.choices["closer"] != "none"
        unfitted = facts["threshold"] is None and _is_unfitted(source)
    if as_json:
        print_json(facts)
    else:
        undecided = facts.pop("undecided")
        facts["bytes"] = f"{facts['bytes']:,}"
        calibrated = facts["calibration"] is not None
        if calibrated and facts["threshold"] is not None:
            facts["threshold"] = f"{facts['threshold']} (of `verify`; queries: see calibration)"
        if unfitted:
            facts["threshold"] = "not known: the encoder's was never fitted"
        if not looks:
            facts["closer"] = "none, as chosen"
        elif facts["closer"] is None and facts["places"]:
            facts["closer"] = "none: no help here" if calibrated else "none before `calibrate`"
        for key, value in facts.items():
            say(f"{key:<12} {ABSENT.get(key, '-') if value is None else value}")
        if undecided is not None:
            note(undecided)


def _is_unfitted(source: Gallery) -> bool:
    """Whether the gallery's encoder is there, and has no threshold."""
    with suppress(EncoderError):
        return not source.encoder.calibrated
    return False


def remove(
    identity: Annotated[str | None, typer.Argument(help="The identity to remove.")] = None,
    item: ItemsOption = None,
    gallery: GalleryOption = DEFAULT_GALLERY,
    forever: Annotated[
        bool,
        typer.Option(
            "--forever",
            help="For good, without a trace in the gallery: `undo` can take back neither this nor"
            " any change before it.",
        ),
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove an identity with all its items, or single items; `undo` puts them back.

    The image files stay. On a terminal it asks before it removes more than one item, or --forever.
    """
    with open_gallery(gallery) as target:
        if identity is not None:
            owners, goes = [identity], target.count(identity)
        else:
            found = target.items_by_number(item or [])
            owners, goes = sorted({one.identity for one in found}), len(found)
        names = ", ".join(owners[:SHOWN]) + ", ..." * (len(owners) > SHOWN)
        said = f"{names}: {counted(goes, 'item')}"
        may_undo = not forever and _warn_of_many(goes)
        unasked = None if forever else _unasked(may_undo, "removed")
        question = f"Remove {said}?"
        if forever:
            question = f"Remove {said}, for good? No change before can be taken back then, either."
        if (goes > 1 or forever) and not confirmed(question, yes, unasked):
            note("nothing was removed")
            raise typer.Exit(1)
        removed = target.remove(identity, item or None)
        if forever:
            target.compact()
        left = len(target)
    if as_json:
        print_json({"removed": removed, "items": left})
    else:
        undo = command("undo", gallery, DEFAULT_GALLERY)
        back = f"; `{undo}` puts {'it' if removed == 1 else 'them'} back" * may_undo
        say(f"removed {said}, {left} left{back}")


def relabel(
    names: Annotated[
        list[str], typer.Argument(metavar="OLD NEW", help="With --item, only the new name.")
    ],
    item: ItemsOption = None,
    gallery: GalleryOption = DEFAULT_GALLERY,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Rename an identity, or give single items another identity; merges where NEW exists.

    On a terminal it asks before it merges two identities. `undo` takes it back.
    """
    if len(names) != (1 if item else 2):
        raise UsageError("write `relabel OLD NEW`, or `relabel --item N NEW`")
    old, new = (None if item else names[0]), names[-1]
    with open_gallery(gallery) as target:
        there = target.count(new)
        whole = 0 if old is None else target.count(old)
        may_undo = _warn_of_many(whole)
        never = target.distractors()
        silences = normalised(new) in never and (old is None or normalised(old) not in never)
        merges = there > 0 and old is not None and normalised(old) != normalised(new) and whole
        question = (
            f"{new!r} exists, with {counted(there, 'item')}: merge"
            f" {counted(whole, 'item')} of {old!r} into it?"
        )
        if silences:
            note(f"{new!r} is a distractor: whatever is like its items gets no name")
        if merges and not confirmed(question, yes, _unasked(may_undo, "relabelled")):
            note("nothing was relabelled")
            raise typer.Exit(1)
        relabelled = target.relabel(old, new, item or None)
        warn_of_unknown([new])
        total = target.count(new)
    if as_json:
        print_json({"relabelled": relabelled})
    elif not relabelled:
        say(f"nothing to do: {'they are' if total > 1 else 'it is'} {new!r} already")
    elif total > relabelled:
        undo = command("undo", gallery, DEFAULT_GALLERY)
        say(
            f"merged {counted(relabelled, 'item')} into {new!r}, which has"
            f" {counted(total, 'item')} now; `{undo}` parts them"
        )
    else:
        verb = "is" if relabelled == 1 else "are"
        say(f"{counted(relabelled, 'item')} {verb} now {new!r}")


def undo(
    listed: ListOption = False,
    gallery: GalleryOption = DEFAULT_GALLERY,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take back the last change; again, the one before it.

    Changes are what `add`, `remove`, `relabel` and `unknowns` do. What was removed is there again,
    with new item numbers. Ten changes are kept, of up to 10,000 items removed or renamed together,
    until `compact`, `rebuild` or `remove --forever`. `redo` does again what was taken back. A
    calibration is not taken back: see `calibrate --off`.
    """
    if listed:
        _print_changes(gallery, as_json, undone=False)
    else:
        _turn(gallery, yes, as_json, again=False)


def redo(
    listed: ListOption = False,
    gallery: GalleryOption = DEFAULT_GALLERY,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Do again what `undo` took back last; again: what it took back before that.

    The next change of the gallery forgets what was taken back.
    """
    if listed:
        _print_changes(gallery, as_json, undone=True)
    else:
        _turn(gallery, yes, as_json, again=True)


def _print_changes(gallery: Path, as_json: bool, *, undone: bool) -> None:
    with open_gallery(gallery) as source:
        changes = source.changes(undone=undone)
    if as_json:
        print_json({"changes": [dataclasses.asdict(change) for change in changes]})
        return
    for change in changes:
        say(f"{_when(change)}  {_in_words(change)}" + "  (too much)" * (not change.undoable))
    if not changes:
        say("nothing to do again" if undone else "nothing to take back")


def _turn(gallery: Path, yes: bool, as_json: bool, *, again: bool) -> None:
    """Take the last change back, or do ``again`` what was."""
    done = "done again" if again else "taken back"
    with open_gallery(gallery) as target:
        turn = target.redo if again else target.undo
        change = target.last_change(undone=again)
        if change is not None and change.undoable:
            question = (
                f"{'Do again' if again else 'Take back'}: {_in_words(change)}, {_when(change)}?"
            )
            for_good = change.what == "add" and not again and change.items > UNDOABLE
            if for_good:
                note(f"{change.items} items are more than `redo` can do again ({UNDOABLE})")
            if not confirmed(question, yes, _unasked(not for_good, done)):
                note(f"nothing was {done}")
                raise typer.Exit(1)
            change = turn(change.number)
        else:
            change = turn()  # raises, with the reason
        left = len(target)
        calibrated = False
        with suppress(GalleryError):  # damaged
            calibrated = target.calibration is not None
    if as_json:
        key = "redone" if again else "undone"
        print_json({key: change.what, "changed": change.items, "items": left})
    else:
        say(f"{done}: {_in_words(change)}; {counted(left, 'item')} now")
        if change.what == "add" and not again and change.items <= UNDOABLE:
            note(f"note: `{command('redo', gallery, DEFAULT_GALLERY)}` enrols them again")
    if calibrated:
        note("note: calibrating is no such change, and is not taken back")


def _warn_of_many(items: int) -> bool:
    """Whether a change of so many items can be taken back; says so where it cannot."""
    if items > UNDOABLE:
        note(f"{items} items are more than `undo` keeps ({UNDOABLE}): this cannot be taken back")
    return items <= UNDOABLE


def _unasked(may_undo: bool, done: str) -> str | None:
    """Why nothing is ``done`` where nobody can be asked; None where it can be taken back."""
    return None if may_undo else f"nothing was {done}: say --yes to do what cannot be taken back"


def _when(change: Change) -> str:
    """When it was made, by the clock here."""
    return datetime.fromisoformat(change.at).astimezone().strftime("%Y-%m-%d %H:%M")


def _in_words(change: Change) -> str:
    """A change for people, as ``removed 12 items of Milk``."""
    which = "" if change.identity is None else f" of {change.identity}"
    items = counted(change.items, "item")
    return {
        "add": f"added {items}{which}",
        "remove": f"removed {items}{which}",
        "relabel": f"relabelled {items}{which} as {change.new}",
        "annotate": f"changed the metadata of {items}",
        "drop": f"dropped {counted(change.items, 'kept image')}",
    }[change.what]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(info)
    app.command()(remove)
    app.command()(relabel)
    app.command()(undo)
    app.command()(redo)
