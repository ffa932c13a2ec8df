"""Galleries and encoders of every stored format open and answer as on the day they were stored.

``golden/format-N.zip`` holds an encoder, ``toy/``, and a gallery, ``gallery/``: six pictures in
turn of identities a and b, the last two with copies and not in the index file; then item 1
removed and item 2 relabelled. Those from format 4 on answer under a metric of their own. In those
from format 5 on an identity c was enrolled with a copy and removed, which can be taken back; from
format 6 on Ångström was relabelled, which was taken back and can be done again; from
format 7 on all that is known of items has checksums.
``golden/encoder-N.zip`` holds an encoder alone.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from conftest import picture
from test_encoder import slow_embedding

from siamese_search import Encoder, Gallery
from siamese_search.embedding.record import FORMAT
from siamese_search.storage import database

GOLDEN = sorted((Path(__file__).parent / "golden").glob("format-*.zip"))


@pytest.mark.parametrize("stored", GOLDEN, ids=lambda path: path.stem)
def test_a_stored_gallery_opens_and_answers(stored: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(stored) as archive:
        archive.extractall(tmp_path)
    with Gallery.open(tmp_path / "gallery", tmp_path / "toy", "cpu") as gallery:
        assert gallery.check() == []
        assert gallery.identities() == [("a", 2), ("b", 2), ("Ångström", 1)]
        answers = gallery.identify([picture(seed) for seed in range(6)], rule="best")
        assert [answer.identity for answer in answers] == [None, "Ångström", "a", "b", "a", "b"]
        assert [answer.matches[0].item for answer in answers[1:]] == [2, 3, 4, 5, 6]
        (north,) = gallery.identify([picture(5)], where={"shop": "north"})
        assert {match.item for match in north.matches} == {2, 3}
        assert gallery.items("Ångström")[0].source == "/pictures/1.png"
        metric = gallery.info().metric
        learned = "learned from 4 items of 2 identities: 25.0 more in 100 held-out items are named"
        assert metric == (f"{learned} rightly" if stored.stem >= "format-4" else None)
        if stored.stem >= "format-6":
            assert gallery.redo().new == "Oersted"
            assert gallery.undo().identity == "Ångström"
        if stored.stem >= "format-5":
            assert gallery.undo().identity == "c"
            (item,) = gallery.items("c")
            assert gallery.image(item)
            assert gallery.identify([picture(90)])[0].matches[0].item == item.number
            assert item.metadata == {"shop": "south"}
            assert gallery.check() == []


def test_every_gallery_format_has_a_stored_one() -> None:
    assert [path.stem for path in GOLDEN] == [f"format-{n + 1}" for n in range(database.FORMAT)]


def test_the_fingerprint_of_a_stored_encoder_never_changes(tmp_path: Path) -> None:
    with zipfile.ZipFile(GOLDEN[0]) as archive:
        archive.extractall(tmp_path)
    assert Encoder.open(tmp_path / "toy").fingerprint == (
        "e2a7371c565a4446b698321c8e13872c9e831f8ee5541dca89800d1eee01b7b5"
    )


ENCODERS = {
    "encoder-1": "e2a7371c565a4446b698321c8e13872c9e831f8ee5541dca89800d1eee01b7b5",
    "encoder-2": "8fcb02e8f29b87bbddfc6e5e1e329d98e536493a7c64a7d9f563efb71943c827",
}


@pytest.mark.parametrize("stored", ENCODERS)
def test_a_stored_encoder_opens_and_embeds_as_ever(stored: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(Path(__file__).parent / "golden" / f"{stored}.zip") as archive:
        archive.extractall(tmp_path)
    encoder = Encoder.open(tmp_path / "toy", "cpu")
    assert encoder.fingerprint == ENCODERS[stored]
    assert (encoder.name, encoder.dimension, encoder.threshold) == ("toy", 49, 0.9)
    encoder.verify_files()
    image = picture(3)
    assert encoder.embed([image])[0].tolist() == pytest.approx(slow_embedding(image), abs=2e-3)


def test_every_encoder_format_has_a_stored_one() -> None:
    assert len(ENCODERS) == FORMAT
