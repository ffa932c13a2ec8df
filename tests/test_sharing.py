"""What is shared leads back to no picture and no name, and answers as before who has the key."""

from __future__ import annotations

import csv
import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from shell import Shell
from test_own_encoders import TEXTS

from siamese_search import Encoder, Gallery
from siamese_search.embedding.protection import VARIABLE, Key
from siamese_search.errors import GalleryMismatch, KeyMissing, StorageError, UsageError

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "encoders"))
from sentences_encoder import Sentences

Pictures = Callable[..., Path]
NAMES = [f"Rosa Parks {number}" for number in range(12)]
FENCE = "fence of Montgomery"
PROBES = [picture(7, noise=20), picture(20, noise=20), picture(31, noise=40), picture(99)]


@pytest.fixture
def gallery(tmp_path: Path, placing: Encoder, pictures: Pictures) -> Iterator[Gallery]:
    """A gallery with whatever may be told of pictures."""
    folder = pictures(dict.fromkeys(NAMES, 3))
    with Gallery.open(tmp_path / "old", placing) as made:
        made.enroll(folder, metadata={"note": "born in Tuskegee", "shelf": "A7"}, copy=True)
        made.enroll([picture(80)], label=FENCE, distractor=True)
        yield made


@pytest.fixture
def pseudonyms(tmp_path: Path) -> Callable[[], dict[str, str]]:
    def read() -> dict[str, str]:
        rows = csv.DictReader(io.StringIO((tmp_path / "names.csv").read_text()))
        return {row["pseudonym"]: row["identity"] for row in rows}

    return read


def content(path: Path) -> bytes:
    """Of a file, with what its members hold."""
    found = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found += b"".join(archive.read(name) for name in archive.namelist())
    return found


@pytest.mark.parametrize("name", ["shared.zip", "shared.npz", "shared.csv", "shared.parquet"])
def test_nothing_that_is_shared_leads_back(gallery: Gallery, tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    made = gallery.share(
        tmp_path / name,
        pseudonyms=tmp_path / "names.csv",
        key=tmp_path / "my.key",
        metadata=["shelf"],
    )
    assert made.items == len(gallery) == 37
    found = content(tmp_path / name)
    items = [item for one in NAMES for item in gallery.items(one)]
    _, vectors = gallery.sample(100)
    for trace in (
        *(b"Rosa", b"Parks", b"Montgomery", b"Tuskegee", b"note", b".png", b"/pictures"),
        *(str(tmp_path).encode(), str(gallery.folder).encode(), (tmp_path / "my.key").read_bytes()),
        bytes.fromhex((tmp_path / "my.key").read_text().split()[1]),
        *(item.content.encode() for item in items),
        *(bytes.fromhex(item.content) for item in items),
        *{item.added.encode() for item in items},
        *(vector.tobytes() for vector in vectors),
    ):
        assert trace not in found
    assert b"A7" in found or name.endswith("parquet")  # that was asked for; packed there
    assert (tmp_path / "my.key").stat().st_mode & 0o77 == 0


def test_the_order_tells_nothing_of_who_was_enrolled_first(
    gallery: Gallery, tmp_path: Path, pseudonyms: Callable[[], dict[str, str]]
) -> None:
    gallery.share(tmp_path / "a.npz", pseudonyms=tmp_path / "names.csv")
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        rows = [json.loads(line) for line in archive.read("items.jsonl").splitlines()]
    names = pseudonyms()
    order = [NAMES.index(names[row["identity"]]) for row in rows if names[row["identity"]] in NAMES]
    assert len(order) == 36
    assert abs(np.corrcoef(order, range(36))[0, 1]) < 0.75  # by chance: one in a million


def test_who_has_the_key_gets_the_same_answers(
    gallery: Gallery,
    placing: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pseudonyms: Callable[[], dict[str, str]],
) -> None:
    key = tmp_path / "my.key"
    gallery.calibrate(0.05)
    gallery.share(tmp_path / "a.zip", pseudonyms=tmp_path / "names.csv", key=key)
    Gallery.restore(tmp_path / "a.zip", tmp_path / "new")
    names, plain = pseudonyms(), gallery.calibration
    assert sorted(names.values()) == sorted(name for name, _ in gallery.identities())
    monkeypatch.setenv(VARIABLE, str(key))
    with Gallery.open(tmp_path / "new", placing) as new:  # where the encoder lies is not in it
        assert new.check() == []
        assert new.distractors() == {one for one, name in names.items() if name == FENCE}
        assert new.info().places == 0
        made = new.calibration
        assert made is not None
        assert plain is not None
        assert (made.thresholds, made.rule, made.closer) == (plain.thresholds, plain.rule, 0.0)
        assert not new.is_stale(made)
        asked, theirs = placing.embed(PROBES), gallery.identify_embeddings(placing.embed(PROBES))
        ours = new.identify(PROBES)
        for one, other in zip(ours, theirs, strict=True):
            assert (one.identity and names[one.identity]) == other.identity
            assert [names[m.identity] for m in one.matches] == [m.identity for m in other.matches]
            scores = [[match.score for match in each.matches] for each in (one, other)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-5)
        assert (new.encoder.embed(PROBES) @ new.encoder.embed(PROBES).T) == pytest.approx(
            asked @ asked.T, abs=1e-5
        )
        # It goes on as any other.
        new.enroll([picture(200)], label="somebody")
        assert new.identify(picture(200))[0].matches[0].identity == "somebody"
        new.calibrate(0.05)
        assert new.identify(PROBES[0])[0].matches[0].identity == ours[0].matches[0].identity
    with Gallery.open(tmp_path / "new") as new:  # it knows where the encoder lies from now on
        assert new.encoder.is_protected


def test_without_the_key_nothing_is_asked(
    gallery: Gallery, placing: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.share(tmp_path / "a.zip", key=tmp_path / "my.key")
    Gallery.restore(tmp_path / "a.zip", tmp_path / "new")
    with Gallery.open(tmp_path / "new") as new:
        assert len(new.identities()) == 13  # what needs no encoder goes on
        with pytest.raises(KeyMissing, match=r"protected: give its key, by --key FILE"):
            new.identify(picture(1))
    other = Key.made(tmp_path / "other.key")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "other.key"))
    with pytest.raises(KeyMissing, match=r"other\.key is not the key"):
        Gallery.open(tmp_path / "new", placing)
    with pytest.raises(GalleryMismatch):
        Gallery.open(tmp_path / "new", placing.protected(other))
    with Gallery.open(tmp_path / "new", placing.protected(tmp_path / "my.key")) as new:
        assert new.identify(picture(1))[0].matches[0].identity == NAMES[0]


def test_galleries_under_two_keys_cannot_be_compared_or_merged(
    gallery: Gallery, tmp_path: Path
) -> None:
    galleries = []
    for name in ("a", "b"):
        gallery.share(tmp_path / f"{name}.zip", key=tmp_path / f"{name}.key")
        Gallery.restore(tmp_path / f"{name}.zip", tmp_path / name)
        galleries.append(Gallery.open(tmp_path / name))
    a, b = galleries
    with a, b:
        with pytest.raises(GalleryMismatch):
            a.merge(b)
        vectors = {
            one: {item.identity: row for item, row in zip(*one.sample(100), strict=True)}
            for one in galleries
        }
        cosines = [float(vectors[a][name] @ vectors[b][name]) for name in vectors[a]]
        assert abs(np.mean(cosines)) < 0.2
        assert np.max(np.abs(cosines)) < 0.7


def test_a_key_is_replaced_by_who_has_it(
    gallery: Gallery, placing: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.share(tmp_path / "a.zip", key=tmp_path / "a.key")
    Gallery.restore(tmp_path / "a.zip", tmp_path / "a")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "a.key"))
    with Gallery.open(tmp_path / "a", placing) as old:
        old.share(tmp_path / "b.npz", key=tmp_path / "b.key")
        old.share(tmp_path / "same.npz")
    Gallery.restore(tmp_path / "b.npz", tmp_path / "b")
    with Gallery.open(tmp_path / "b", placing.protected(tmp_path / "b.key")) as new:
        answer = new.identify(picture(80))[0].matches[0]
        assert answer.identity == FENCE
        assert answer.score == pytest.approx(1, abs=1e-5)
    with Gallery.open(tmp_path / "a", placing) as old:
        assert old.import_items(tmp_path / "same.npz").added == 37  # under the same key


def test_a_key_always_gives_the_same_rotation() -> None:
    key = Key(bytes(range(32)))
    rotation = key.rotation(49)
    assert rotation[0, :4] == pytest.approx([-0.13001377, 0.08178797, -0.10951955, -0.20184065])
    assert rotation @ rotation.T == pytest.approx(np.eye(49), abs=1e-12)
    assert key.check == "80012b87dbe5a694"
    assert bytes(range(32)).hex() not in repr(key)


def test_encoders_of_anything_are_protected(tmp_path: Path) -> None:
    Key.made(tmp_path / "my.key")

    class Short(Sentences):
        dimension = 64

    plain = Encoder.open(Short())
    encoder = plain.protected(tmp_path / "my.key")
    sentences = [text.encode() for texts in TEXTS.values() for text in texts]
    ours, theirs = encoder.embed(sentences), plain.embed(sentences)
    assert ours @ ours.T == pytest.approx(theirs @ theirs.T, abs=1e-5)
    assert np.abs(ours - theirs).max() > 0.1
    with Gallery.open(tmp_path / "new", encoder) as gallery:
        gallery.enroll([sentences[0]], label="cats")
        assert gallery.identify(sentences[0])[0].matches[0].score == pytest.approx(1, abs=1e-5)


def test_names_that_a_table_has_stay(
    gallery: Gallery, tmp_path: Path, pseudonyms: Callable[[], dict[str, str]]
) -> None:
    table = tmp_path / "names.csv"
    gallery.share(tmp_path / "a.zip", pseudonyms=table)
    before = pseudonyms()
    gallery.enroll([picture(300)], label='new, "one"')
    gallery.share(tmp_path / "b.zip", pseudonyms=table)
    assert pseudonyms().items() >= before.items()
    assert 'new, "one"' in pseudonyms().values()
    for text in (
        *("a,b\n1,2\n", "one line\n", "pseudonym,identity\nx,a\nx,b\n", "\xff"),
        "pseudonym,identity,note\nx,a,mine\n",  # the note would be lost
    ):
        table.write_bytes(text.encode("latin-1"))
        with pytest.raises(UsageError, match=r"names\.csv"):
            gallery.share(tmp_path / "c.zip", pseudonyms=table)
        assert not (tmp_path / "c.zip").exists()
        assert table.read_bytes() == text.encode("latin-1")


def test_no_table_is_written_over_a_key(
    gallery: Gallery, tmp_path: Path, pseudonyms: Callable[[], dict[str, str]]
) -> None:
    key, table = tmp_path / "my.key", tmp_path / "names.csv"
    gallery.share(tmp_path / "a.zip", pseudonyms=table, key=key)
    before = key.read_bytes(), pseudonyms()
    (tmp_path / "also.key").hardlink_to(key)
    for names, secret, said in (
        (key, None, r"my\.key is no table of pseudonyms"),
        (key, table, r"my\.key is no table of pseudonyms"),
        (table, table, r"names\.csv cannot be both"),
        (key, tmp_path / "also.key", r"my\.key cannot be both"),
    ):
        with pytest.raises(UsageError, match=said):
            gallery.share(tmp_path / "b.zip", pseudonyms=names, key=secret)
    gallery.enroll([picture(300)], label="new")
    with pytest.raises(UsageError, match=r"gallery\.db cannot be read"):
        gallery.share(tmp_path / "b.zip", pseudonyms=table, key=gallery.folder / "gallery.db")
    assert (key.read_bytes(), pseudonyms()) == before


def test_the_command_says_what_is_for_nobody_else(
    gallery: Gallery, tmp_path: Path, placing: Encoder
) -> None:
    gallery.close()
    shell = Shell(tmp_path)
    told = shell("export", "a.zip", "-g", "old", "--pseudonyms", "n.csv", "--protect", "my.key")
    assert "a.zip: 37 items" in told.stdout
    assert "n.csv says whose names these are" in told.stderr
    assert "my.key is a new key" in told.stderr
    shell("import", "a.zip", "-g", "new")
    picture(80).save(tmp_path / "probe.png")
    ask = ("query", "probe.png", "-g", "new", "--encoder", placing.location)
    assert "give its key" in shell(*ask, code=2).stderr
    (tmp_path / "bad.key").write_text("secret\n")
    assert "bad.key is no key as" in shell(*ask, "--key", "bad.key", code=2).stderr
    (answer,) = shell.json(*ask, "--key", "my.key")
    for folder in ("old", "none"):
        add = ("add", "probe.png", "-g", folder, "--encoder", placing.location)
        refused = shell(*add, "--key", "my.key", code=2).stderr
        assert f"there is no protected gallery in {folder}" in refused
    assert not (tmp_path / "none").exists()
    assert "cannot be read" in shell("list", "-g", "old", "--key", "gone.key", code=2).stderr
    shell("import", "a.zip", "-g", "third", "--key", "my.key")
    assert answer["matches"][0]["score"] == pytest.approx(1, abs=1e-5)
    said = shell("export", "b.zip", "-g", "old", "--keep-metadata", "shelf", code=2).stderr
    assert "--keep-metadata is for" in said
    assert (
        "for you alone"
        in shell("export", "b.zip", "-g", "old", "--protect", "b.zip", code=2).stderr
    )


def test_a_table_says_that_the_calibration_is_not_in_it(gallery: Gallery, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    tables = (("export", "a.npz"), ("export", "b.npz", "--pseudonyms", "n.csv"))
    for table in tables:
        assert "calibrate" not in shell(*table, "-g", "old").stderr
    gallery.calibrate(0.3, rule="best", closer="none")
    gallery.close()
    for table in tables:
        said = shell(*table, "-g", "old").stderr
        assert "`siasearch calibrate --fpir 0.3 --rule best --closer none`" in said
    for whole in (("export", "a.csv"), ("export", "a.zip")):
        assert "calibrate" not in shell(*whole, "-g", "old").stderr


def test_a_table_that_cannot_be_written_stops_the_export(gallery: Gallery, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is no folder"):
        gallery.share(tmp_path / "a.zip", pseudonyms=tmp_path / "none" / "names.csv")
    assert not (tmp_path / "a.zip").exists()
