"""No accident is final: the last changes can be taken back, one after the other, and done again."""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import picture
from shell import Shell
from terminal import answered

from siamese_search import Encoder, Gallery
from siamese_search.errors import StorageError, UsageError
from siamese_search.gallery import copies as stored
from siamese_search.gallery import enrolment
from siamese_search.records import ImageFile, NewItem
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
    assert gallery.redo().items == 80
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
    change = gallery.undo()
    assert (change.what, change.items) == ("annotate", 1)
    assert facts(gallery) == before


def test_changes_are_taken_back_one_after_the_other(gallery: Gallery, pictures: Pictures) -> None:
    enrolled = facts(gallery), answers(gallery)
    gallery.relabel("b", "bee")
    renamed = facts(gallery)
    gallery.remove("bee")
    more = pictures({"b": 2, "d": 1}, "again", first_seed=3)  # b as it was, d is new
    assert gallery.enroll([more], copy=True).added == 3
    assert gallery.enroll([more]).skipped == 3  # nothing was done: no change
    with_more = facts(gallery), copies(gallery)
    assert gallery.check() == []
    assert [gallery.undo().what for _ in range(3)] == ["add", "remove", "relabel"]
    assert (facts(gallery), answers(gallery)) == enrolled
    assert gallery.check() == []
    for _ in range(2):
        gallery.redo()
        gallery.undo()
        gallery.redo()
    assert gallery.last_change(undone=True) is not None
    gallery.redo()
    assert (facts(gallery), copies(gallery)) == with_more
    gallery.undo()
    gallery.undo()
    assert facts(gallery) == renamed
    assert [gallery.undo().what for _ in range(3)] == ["relabel", "add", "add"]
    assert len(gallery) == 0
    with pytest.raises(UsageError, match=r"nothing more to take back .* `redo`"):
        gallery.undo()
    for _ in range(2):
        gallery.redo()
    assert (facts(gallery), answers(gallery)) == enrolled
    gallery.remove("c")
    with pytest.raises(UsageError, match=r"nothing to do again .* next change"):
        gallery.redo()


def test_copies_outlive_what_was_removed_and_enrolled_again(
    gallery: Gallery, tmp_path: Path
) -> None:
    folder, before = tmp_path / "pictures", (facts(gallery), copies(gallery))
    for _ in range(2):
        gallery.remove("a")
        assert sum(name.startswith(".") for name in copies(gallery)) == 3
        gallery.enroll([folder], copy=True)
        assert copies(gallery) == before[1]  # none is there twice
    gallery.remove("a")
    for _ in range(5):
        gallery.undo()
        assert gallery.check() == []
    items = gallery.items("a")
    assert [gallery.image(item) for item in items] == [
        Path(item.source or "").read_bytes() for item in items
    ]
    assert facts(gallery) == before[0]
    gallery.compact()
    assert copies(gallery) == before[1]


def test_only_copies_that_are_not_hidden_yet_are_looked_at(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, own_copy, looked = facts(gallery), stored.own_copy, list[str]()

    def look(folder: Path, copy: str, content: str) -> Path:
        looked.append(copy)
        return own_copy(folder, copy, content)

    first, second = gallery.items("b")
    gallery.remove("a")
    monkeypatch.setattr(stored, "own_copy", look)
    gallery.remove(item=first.number)
    assert looked == [first.copy]  # thousands may be hidden since earlier changes
    shown = gallery.folder / str(first.copy)
    shown.with_name(f".{shown.name}.{stored.HIDDEN}").rename(shown)  # as if it had been killed
    gallery.remove(item=second.number)
    assert [name for name in copies(gallery) if not name.startswith(".")] == []
    new = stored.NewCopies(gallery.folder)
    new.write(str(first.copy), b"a copy that belongs to none")
    new.publish({str(first.copy): False})
    new.close()
    for _ in range(3):
        gallery.undo()
    assert facts(gallery) == before
    assert gallery.check() == []


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_what_was_removed_is_back_with_its_copies_or_not_at_all(
    failing: int, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = facts(gallery)
    gallery.remove("a")
    without = facts(gallery)
    replace, calls = Path.replace, list[Path]()

    def fail_once(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == failing:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail_once)
    with pytest.raises(StorageError, match=r"Input/output error; nothing was put back"):
        gallery.undo()
    assert facts(gallery) == without
    assert gallery.check() == []
    gallery.undo()
    assert facts(gallery) == before
    assert gallery.check() == []


def test_only_so_many_changes_and_items_are_kept(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "STEPS", 2)
    for name in ("x", "y", "z"):
        gallery.relabel(gallery.identities()[0][0], name)
    assert [gallery.undo().new for _ in range(2)] == ["z", "y"]
    with pytest.raises(UsageError, match="nothing more"):
        gallery.undo()
    gallery.compact()
    monkeypatch.setattr(history, "UNDOABLE", 4)
    gallery.remove("c")
    gallery.remove("x")
    assert gallery.undo().identity == "x"
    gallery.remove("x")
    gallery.remove("b")
    assert gallery.undo().identity == "b"
    with pytest.raises(UsageError, match="nothing more"):  # 3 items and 2 were too many
        gallery.undo()


def test_what_changes_nothing_is_no_change(gallery: Gallery) -> None:
    gallery.remove("c")
    assert gallery.relabel("a", "a") == 0
    item = gallery.items("a")[0]
    gallery.enroll([ImageFile(item.source or "", "a", {"shop": "north"})])
    change = gallery.last_change()
    assert change is not None
    assert (change.what, change.identity) == ("remove", "c")
    gallery.relabel("a", "b", item=None)
    assert gallery.relabel(None, "b", item=[one.number for one in gallery.items("b")]) == 0


def test_an_add_that_others_came_between_is_taken_back_in_parts(gallery: Gallery) -> None:
    before = facts(gallery)
    catalog, encoder = gallery._catalog, gallery.encoder
    vectors = encoder.embed([picture(seed) for seed in (95, 96)])
    for number, name in enumerate(("one", "two")):
        new = [NewItem(name, f"{number:064x}", f"/{name}")]
        catalog.add(new, vectors[number : number + 1], encoder.fingerprint, run="one run")
        if name == "one":
            gallery.remove("one")
            catalog.annotate({}, {gallery.items("b")[0].number: {"by": "run"}}, "one run")
    said = [(change.what, change.items) for change in (gallery.undo() for _ in range(3))]
    assert said == [("add", 1), ("remove", 1), ("add", 1)]
    assert facts(gallery) == before


def test_items_that_are_back_are_noted_by_ranges(gallery: Gallery) -> None:
    before, catalog = facts(gallery), gallery._catalog
    vectors = gallery.encoder.embed([picture(seed) for seed in range(100, 140)])
    numbers = gallery.enroll_embeddings(vectors, ["x", "y"] * 20)
    added = facts(gallery)
    gallery.remove(item=numbers[::2])
    gallery.remove(item=numbers[1::2])
    for turn in (gallery.undo, gallery.undo, gallery.redo, gallery.redo, gallery.undo):
        turn()
    gallery.undo()
    assert facts(gallery) == added
    (rows,) = catalog._db.execute("SELECT count(*) FROM undo_added").fetchone()
    assert rows < 20  # not one for each item that was back: all were searched for each
    gallery.undo()
    assert facts(gallery) == before


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
    groups = gallery.unknowns()
    gallery.drop_unknowns(groups[0].number)
    gallery.drop_unknowns()
    assert [gallery.undo().what for _ in range(2)] == ["drop", "drop"]
    assert gallery.unknowns() == groups  # under their own numbers
    gallery.redo()
    assert gallery.unknowns() == groups[1:]
    gallery.undo()
    gallery.enroll_unknowns(groups[0].number, "new")
    gallery.undo()
    gallery.redo()
    assert gallery.count("new") == 1
    assert [group.members for group in gallery.unknowns()] == [groups[1].members]


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
    assert shell("redo").stdout == "done again: removed 3 items of a; 2 items now\n"
    (again,) = shell.json("undo")
    assert again == {"undone": "remove", "changed": 3, "items": 5}
    assert "'a' already" in shell("relabel", "a", "a").stdout
    said = shell("relabel", "a", "b").stdout
    assert "merged 3 items into 'b', which has 5 items now" in said
    (undone,) = shell.json("undo")
    assert undone == {"undone": "relabel", "changed": 3, "items": 5}
    assert shell("relabel", "a", "c").stdout == "3 items are now 'c'\n"
    result = shell("add", "pictures")
    assert "2 added" not in result.stdout
    assert result.stderr == "3 images of 'a' skipped: relabelled 'c' since\n"
    numbers = (
        str(shell.json("list", "b")[0]["item"]),
        "--item",
        str(shell.json("list", "c")[0]["item"]),
    )
    assert "removed b, c: 2 items, 3 left" in shell("remove", "--item", *numbers).stdout
    shell("remove", "--forever", "c")
    said = shell("undo", code=2).stderr
    assert "nothing to take back" in said
    assert "`remove --forever`" in said


def test_what_is_too_much_to_be_taken_back_is_said_before(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "UNDOABLE", 2)
    monkeypatch.setattr("siamese_search.cli.edit.UNDOABLE", 2)
    assert "say --yes to do what cannot" in shell("remove", "a", code=2).stderr  # nobody is asked
    result = shell("remove", "a", "--yes")
    assert "3 items are more than `undo` keeps (2): this cannot be taken back" in result.stderr
    assert "undo" not in result.stdout
    assert "cannot be taken back" in shell("undo", code=2).stderr


def test_steps_are_listed_with_what_they_were(shell: Shell) -> None:
    shell("remove", "a")
    shell("relabel", "b", "c")
    shell("undo", "--yes")
    listed = shell("undo", "--list").stdout.splitlines()
    assert [line.split("  ", 1)[1] for line in listed] == ["removed 3 items of a", "added 5 items"]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d  ", line) for line in listed)
    assert shell("redo", "--list").stdout.endswith("  relabelled 2 items of b as c\n")
    (found,) = shell.json("redo", "--list")
    assert [change["what"] for change in found["changes"]] == ["relabel"]
    shell("remove", "--item", "4")
    assert shell("redo", "--list").stdout == "nothing to do again\n"
    said = "note: what was changed before cannot be taken back any more\n"
    assert shell("compact").stderr == said
    assert shell("compact").stderr == ""
    assert shell("undo", "--list").stdout == "nothing to take back\n"


def test_what_was_added_is_named(
    gallery: Gallery, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "COMMIT_SECONDS", 0.0)  # several transactions are one change
    for names, identity in (({"d": 40}, "d"), ({"e": 40, "f": 40}, None)):
        gallery.enroll([pictures(names, f"{names}", first_seed=100 + 100 * len(names))])
        for undone in (False, True):
            change = gallery.last_change(undone=undone)
            assert change is not None
            assert (change.what, change.identity, change.items) == (
                "add", identity, sum(names.values())
            )  # fmt: skip
            if not undone:
                gallery.undo()
        gallery.redo()


def test_a_terminal_is_asked_before_much_changes(shell: Shell) -> None:
    for command, question in (
        (("remove", "a"), "Remove a: 3 items? [y/N]"),
        (("relabel", "a", "b"), "'b' exists, with 2 items: merge 3 items of 'a' into it? [y/N]"),
        (("undo",), "Take back: added 5 items, "),
        (("remove", "a", "--forever"), "a: 3 items, for good? No change before can be taken back"),
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


def test_pictures_of_a_name_that_was_taken_back_are_known_by_the_name_before(
    gallery: Gallery, tmp_path: Path
) -> None:
    gallery.relabel(None, "milk", item=gallery.items("a")[0].number)
    gallery.relabel("milk", "cream")
    gallery.undo()
    assert gallery.enroll([tmp_path / "pictures"]).rejected == ()
