"""No accident is final: the last change can be taken back, and is forgotten by the next one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import picture
from terminal import answered
from test_cli import Shell

from siamese_search import Encoder, Gallery
from siamese_search.errors import UsageError
from siamese_search.gallery import enrolment
from siamese_search.records import ImageFile
from siamese_search.storage import history

Pictures = Callable[..., Path]
UNDO = ("changes", "undo_added", "undo_items", "undo_embeddings", "undo_places", "undo_unknowns")


@pytest.fixture
def gallery(tmp_path: Path, toy: Encoder, pictures: Pictures) -> Gallery:
    """Identities a (3 items) and b (2), with copies; metadata of a; a distractor, c."""
    made = Gallery.open(tmp_path / "gallery", toy)
    folder = pictures({"a": 3, "b": 2})
    files = [
        ImageFile(str(folder / name / f"{number}.png"), name, metadata)
        for name, count, metadata in (("a", 3, {"shop": "north"}), ("b", 2, {}))
        for number in range(count)
    ]
    made.enroll(files, copy=True)
    made.enroll([pictures({"c": 1}, "strange", first_seed=40)], distractor=True)
    return made


def facts(gallery: Gallery) -> list[tuple[object, ...]]:
    """All that is known of the items, but their numbers."""
    names = [name for name, _ in gallery.identities()]
    return sorted(
        (item.identity, item.content, item.source, item.copy, item.size, item.added,
         tuple(item.metadata.items()), item.identity in gallery.distractors())
        for name in names for item in gallery.items(name)
    )  # fmt: skip


def answers(gallery: Gallery) -> list[tuple[str | None, float | None, list[str]]]:
    """What it says of some probes."""
    probes = [picture(seed, noise=5) for seed in (0, 3, 40, 60)]
    return [
        (found.identity, found.score, [match.identity for match in found.matches])
        for found in gallery.identify(probes, k=3)
    ]


def copies(gallery: Gallery) -> list[str]:
    files = (gallery.folder / "images").rglob("*")
    return sorted(path.name for path in files if path.is_file())


def kept_rows(gallery: Gallery) -> int:
    with closing(sqlite3.connect(gallery.folder / "gallery.db")) as db:
        return sum(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in UNDO)


def test_what_was_removed_is_back_as_it_was(gallery: Gallery) -> None:
    before = facts(gallery), answers(gallery), copies(gallery)
    for name in ("a", "c"):
        gallery.remove(name)
        assert facts(gallery) != before[0]
        change = gallery.undo()
        assert (change.what, change.identity) == ("remove", name)
        assert (facts(gallery), answers(gallery), copies(gallery)) == before
        assert gallery.check() == []
    numbers = [item.number for item in gallery.items("a")]
    assert gallery.remove(item=numbers[:2]) == 2
    gallery.undo()
    assert facts(gallery) == before[0]


def test_what_was_enrolled_is_gone_and_may_come_back(
    gallery: Gallery, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "COMMIT_SECONDS", 0.0)  # several transactions are one change
    before = facts(gallery), answers(gallery), copies(gallery)
    gallery.enroll([pictures({"a": 40, "d": 40}, "more", first_seed=100)], copy=True)
    after = facts(gallery), copies(gallery)
    change = gallery.last_change()
    assert change is not None
    assert (change.what, change.items, change.undoable) == ("add", 80, True)
    gallery.undo()
    assert (facts(gallery), answers(gallery)) == before[:2]
    gallery.undo()
    assert (facts(gallery), copies(gallery)) == after
    gallery.undo()
    gallery.compact()
    assert (facts(gallery), copies(gallery)) == (before[0], before[2])
    assert gallery.check() == []


def test_a_merge_is_parted_again(gallery: Gallery) -> None:
    before, numbers = facts(gallery), [item.number for item in gallery.items("a")]
    gallery.relabel("a", "b")
    assert gallery.identities() == [("b", 5), ("c", 1)]
    change = gallery.undo()
    assert (change.what, change.identity, change.new, change.items) == ("relabel", "a", "b", 3)
    assert facts(gallery) == before
    assert [item.number for item in gallery.items("a")] == numbers
    gallery.relabel("c", "a")  # a distractor among what may be named
    gallery.undo()
    assert facts(gallery) == before


def test_metadata_that_a_manifest_has_changed_are_as_before(gallery: Gallery) -> None:
    before = facts(gallery)
    item = gallery.items("a")[0]
    gallery.enroll([ImageFile(item.source or "", "a", {"shop": "south", "year": "1"})])
    assert gallery.items("a")[0].metadata == {"shop": "south", "year": "1"}
    gallery.undo()
    assert facts(gallery) == before


def test_only_the_last_change_is_kept(gallery: Gallery, pictures: Pictures) -> None:
    gallery.remove("a")
    hidden = [name for name in copies(gallery) if name.startswith(".")]
    assert len(hidden) == 3
    gallery.relabel("b", "bee")
    assert not any(name.startswith(".") for name in copies(gallery))
    gallery.undo()
    assert gallery.identities() == [("b", 2), ("c", 1)]
    gallery.remove("b")
    again = pictures({"b": 2}, "again", first_seed=3)
    assert gallery.enroll([again], copy=True).added == 2
    assert len(copies(gallery)) == 2  # as enrolled again
    assert gallery.check() == []
    assert gallery.enroll([again]).skipped == 2  # nothing: no change
    assert gallery.undo().what == "add"


def test_nothing_of_what_is_forgotten_stays_in_the_file(gallery: Gallery) -> None:
    gallery.enroll(picture(90), label="Somebody's own name", metadata={"where": "at home"})
    database = gallery.folder / "gallery.db"
    gallery.remove("Somebody's own name")
    assert b"Somebody's own name" in database.read_bytes()
    gallery.compact()
    for word in (b"Somebody's own name", b"at home"):
        assert word not in database.read_bytes()


@pytest.mark.parametrize("way", ["compact", "rebuild", "reindex"])
def test_it_is_forgotten_for_good(gallery: Gallery, coarse: Encoder, way: str) -> None:
    gallery.remove("a")
    if way == "compact":
        gallery.compact()
    else:
        gallery.rebuild(coarse if way == "rebuild" else None, skip_missing=True)
    assert kept_rows(gallery) == 0
    assert len(copies(gallery)) == 2
    assert gallery.last_change() is None
    with pytest.raises(UsageError, match="nothing to take back"):
        gallery.undo()


def test_too_much_is_not_kept(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "UNDOABLE", 2)
    gallery.remove("a")
    assert len(copies(gallery)) == 2
    with pytest.raises(UsageError, match="was of 3 items: it cannot be taken back"):
        gallery.undo()
    gallery.remove("b")
    gallery.undo()
    assert gallery.identities() == [("b", 2), ("c", 1)]


def test_another_change_meanwhile_is_not_taken_back_instead(gallery: Gallery) -> None:
    gallery.remove("a")
    seen = gallery.last_change()
    assert seen is not None
    with Gallery.open(gallery.folder) as other:
        other.relabel("b", "bee")
    with pytest.raises(UsageError, match="changed meanwhile"):
        gallery.undo(seen.number)
    assert gallery.identities() == [("bee", 2), ("c", 1)]


def test_kept_probes_are_back(gallery: Gallery, tmp_path: Path) -> None:
    for seed in (70, 80):
        picture(seed).save(tmp_path / f"{seed}.png")
    paths = sorted(tmp_path.glob("*.png"))
    list(gallery.identify_each(paths, keep_unknown=True))
    before = facts(gallery), [group.paths for group in gallery.unknowns()]
    gallery.enroll_unknowns(gallery.unknowns()[0].number, "new")
    assert len(gallery.unknowns()) == 1
    gallery.undo()
    assert facts(gallery) == before[0]
    assert sorted(group.paths for group in gallery.unknowns()) == sorted(before[1])
    gallery.drop_unknowns()
    assert gallery.undo().what == "drop"
    assert sorted(group.paths for group in gallery.unknowns()) == sorted(before[1])


def test_a_correction_stays_when_its_folder_is_added_again(
    gallery: Gallery, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    wrong = gallery.items("a")[0]
    gallery.relabel(None, "b", item=wrong.number)
    gallery.relabel("a", "milk")
    report = gallery.enroll([folder])
    assert (report.added, report.skipped, report.rejected) == (0, 5, ())
    assert sorted(report.relabelled) == [("a", "b", 1), ("a", "milk", 2)]
    gallery.relabel("milk", "cream")
    assert gallery.enroll([folder]).rejected == ()
    # What was never enrolled as that is reported as ever.
    (rejected,) = gallery.enroll([folder / "b" / "0.png"], label="x").rejected
    assert "is enrolled as 'b'" in rejected.reason


@pytest.fixture
def shell(tmp_path: Path, toy_folder: Path, pictures: Pictures) -> Shell:
    shell = Shell(tmp_path, toy_folder)
    shell("add", pictures({"a": 3, "b": 2}), "--encoder", shell.encoder)
    return shell


def test_commands_say_what_goes_and_take_it_back(shell: Shell) -> None:
    said = shell("remove", "a").stdout
    assert said == "removed a: 3 items, 2 left; `siasearch undo` puts them back\n"
    assert shell("undo").stdout == "taken back: removed 3 items of a; 5 items now\n"
    said = shell("relabel", "a", "b").stdout
    assert "merged 3 items into 'b', which has 5 items now" in said
    (undone,) = shell.json("undo")
    assert undone == {"undone": "relabel", "changed": 3, "items": 5}
    assert shell("relabel", "a", "c").stdout == "3 items are now 'c'\n"
    result = shell("add", "pictures")
    assert "2 added" not in result.stdout
    assert result.stderr == "3 images of 'a' skipped: relabelled 'c' since\n"
    assert "removed b, c: 2 items, 3 left" in shell("remove", "--item", "4", "--item", "6").stdout
    shell("compact")
    assert "nothing to take back" in shell("undo", code=2).stderr


def test_what_is_too_much_to_be_taken_back_is_said_before(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "UNDOABLE", 2)
    monkeypatch.setattr("siamese_search.cli.edit.UNDOABLE", 2)
    result = shell("remove", "a")
    assert "3 items are more than `undo` keeps (2): this cannot be taken back" in result.stderr
    assert "undo" not in result.stdout
    assert "cannot be taken back" in shell("undo", code=2).stderr


def test_a_terminal_is_asked_before_much_changes(shell: Shell) -> None:
    for command, question in (
        (("remove", "a"), "Remove a: 3 items? [y/N]"),
        (("relabel", "a", "b"), "'b' exists, with 2 items: merge 3 items of 'a' into it? [y/N]"),
        (("undo",), "Take back: added 5 items, "),
    ):
        code, printed, shown = answered("n", shell.folder, *command)
        assert (code, printed) == (1, "")
        assert question in shown
    assert shell.json("info")[0]["identities"] == 2
    code, printed, shown = answered("", shell.folder, "relabel", "a", "b", "--yes")
    assert (code, "[y/N]" in shown) == (0, False)
    assert "merged 3 items" in printed


def test_a_rebuild_killed_right_after_its_switch_has_forgotten_it(
    gallery: Gallery, coarse: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    gallery.remove(gallery.identities()[0][0])
    monkeypatch.setattr("siamese_search.gallery.editing.forget", killed)
    with pytest.raises(KeyboardInterrupt):
        gallery.rebuild(coarse)
    assert gallery.last_change() is None
    with pytest.raises(UsageError, match="nothing to take back"):
        gallery.undo()
    assert gallery.check() == []
