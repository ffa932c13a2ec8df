"""What is removed is gone from the disk once nothing can be taken back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import picture

from siamese_search import Encoder, Gallery, cli
from siamese_search.gallery import unknowns
from siamese_search.gallery.copies import keep_picture

SECRET, NOTE, PLACE = "Rosa Parks", "born in Tuskegee", "private folder"


@pytest.fixture
def traces(tmp_path: Path, placing: Encoder) -> list[bytes]:
    """A gallery in ``gallery`` with a secret in it, and all that would tell of it."""
    place = tmp_path / PLACE
    place.mkdir()
    for number in range(3):
        picture(number).save(place / f"{number}.png")
    with Gallery.open(tmp_path / "gallery", placing) as gallery:
        for number in range(100, 150):
            gallery.enroll([picture(number)], f"somebody {number % 9}", metadata={"shelf": "1"})
        gallery.enroll(place, SECRET, metadata={"note": NOTE}, copy=True)
        gallery.compact()
        items = gallery.items(SECRET)
        catalog = gallery._catalog
        generation = catalog.state().generation
        numbers = [item.number for item in items]
        rows = catalog._db.execute(
            "SELECT content FROM places WHERE item IN (?, ?, ?)", numbers
        ).fetchall()
        (vector,) = catalog._db.execute(
            "SELECT vector FROM embeddings WHERE item = ? AND generation = ?",
            (numbers[0], generation.number),
        ).fetchone()
        pictures = [gallery.image(item) for item in items]
    words = [text.encode() for text in (SECRET, NOTE, PLACE)]
    hashes = [bytes.fromhex(item.content) for item in items]
    return [*words, *hashes, *(item.content.encode() for item in items), vector, *pictures,
            *(content for (content,) in rows)]  # fmt: skip


def found(folder: Path, traces: list[bytes]) -> list[bytes]:
    """Those that some file has, in its content or its name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    content = b"".join(path.name.encode() + path.read_bytes() for path in files)
    return [trace for trace in traces if trace in content]


def test_what_was_removed_is_gone_with_the_next_compaction(
    tmp_path: Path, traces: list[bytes], placing: Encoder
) -> None:
    folder = tmp_path / "gallery"
    assert found(folder, traces) == traces
    with Gallery.open(folder, placing) as gallery:
        gallery.remove(SECRET)
        assert found(folder, traces) == traces  # it can be taken back
        gallery.compact()
        assert gallery.last_change() is None
    assert found(folder, traces) == []


def test_remove_for_ever(
    tmp_path: Path,
    traces: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "gallery"
    command = ["siasearch", "remove", SECRET, "--forever", "--yes", "--gallery", str(folder)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    assert "undo" not in capsys.readouterr().out
    assert found(folder, traces) == []


def test_a_picture_that_was_kept_as_unknown_goes_as_well(tmp_path: Path, placing: Encoder) -> None:
    with Gallery.open(tmp_path / "gallery", placing) as gallery:
        gallery.enroll(picture(0), "a")
        list(gallery.identify_each([picture(seed) for seed in (50, 60)], keep_unknown=True))
        kept = {Path(group.paths[0]) for group in gallery.unknowns()}
        secret, other = sorted(gallery.unknowns(), key=lambda group: group.number)
        gallery.enroll_unknowns(secret.number, SECRET)
        gallery.remove(SECRET)
        gallery.compact()
        assert len(kept) == 2
        assert set((gallery.folder / "unknowns").iterdir()) == {Path(other.paths[0])}


def test_nobody_sweeps_a_picture_that_is_being_kept(
    tmp_path: Path, placing: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gallery.open(tmp_path / "gallery", placing) as gallery:

        def keep(path: Path, data: bytes) -> None:
            assert gallery._catalog._db.in_transaction  # so whoever sweeps waits
            keep_picture(path, data)

        monkeypatch.setattr(unknowns, "keep_picture", keep)
        gallery.enroll(picture(0), "a")
        list(gallery.identify_each([picture(50)], keep_unknown=True))
        gallery.compact()
        assert gallery.unknown(gallery.unknowns()[0].number)
