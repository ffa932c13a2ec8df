"""Encoders of one's own: sounds, sentences, and what is wrong with one; offered by a package."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shell import Shell
from starlette.testclient import TestClient

from siamese_search import Encoder, EncoderProtocol, Gallery, Region
from siamese_search.errors import EncoderError, GalleryMismatch, ImageError, UsageError
from siamese_search.serving.app import application
from siamese_search.testing import EncoderSuite

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "encoders"))
from sentences_encoder import Sentences
from sounds_encoder import Sounds

KITS = Path("/usr/share/hydrogen/data/drumkits/ForzeeStereo")

TEXTS = {
    "cats": ["the cat sat on the mat", "a cat sat upon that mat", "the cats sit on their mats"],
    "rain": ["rain falls in autumn", "in autumn the rain is falling", "rainfall of the autumn"],
    "bread": ["flour, water, salt", "salt and flour and water", "water with flour, some salt"],
}


def tone(path: Path, pitch: float, seconds: float = 0.5) -> Path:
    """A fading tone, with a little noise."""
    rate = 22_050
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(int(pitch)).normal(0, 0.01, len(time))
    samples = (np.sin(2 * np.pi * pitch * time) + noise) * np.exp(-5 * time)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((20_000 * samples).astype("<i2").tobytes())
    return path


def test_the_page_shows_these_encoders() -> None:
    docs = Path(__file__).parents[1] / "docs"
    page = (docs / "howto" / "sounds-and-text.md").read_text()
    for module in ("sounds_encoder.py", "sentences_encoder.py"):
        assert f"```python\n{(docs / 'encoders' / module).read_text()}```" in page


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of sentences, with a picture and a table between them."""
    for name, sentences in TEXTS.items():
        folder = tmp_path / "texts" / name
        folder.mkdir(parents=True)
        for number, sentence in enumerate(sentences):
            (folder / f"{number}.txt").write_text(sentence)
    Image.new("RGB", (8, 8)).save(tmp_path / "texts" / "cats" / "cat.png")
    return tmp_path / "texts"


class TestSounds(EncoderSuite):
    broken = (b"no sound at all", b"RIFF\x04\0\0\0WAVE")

    @pytest.fixture(autouse=True)
    def _samples(self, tmp_path: Path) -> None:
        self.samples = [tone(tmp_path / f"{pitch}.wav", pitch) for pitch in (200, 700, 3000)]

    def encoder(self) -> EncoderProtocol:
        return Sounds()


class TestSentences(EncoderSuite):
    broken = (b"\xff\xfe\x00", b"...")

    @pytest.fixture(autouse=True)
    def _samples(self, texts: Path) -> None:
        self.samples = sorted(texts.glob("*/0.txt"))

    def encoder(self) -> EncoderProtocol:
        return Sentences()


class TestSentencesByTheMembersAlone(TestSentences):
    """Nothing need be inherited."""

    def encoder(self) -> EncoderProtocol:
        whole = Sentences()

        class Alone:
            name, fingerprint, suffixes = "alone", "1", {".TXT"}
            dimension, threshold, batch = whole.dimension, None, 2
            decode, embed = whole.decode, whole.embed

            def show(self, _: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
                return np.zeros((5, 9), np.uint8)

        return Alone()


@pytest.mark.skipif(
    not KITS.is_dir(), reason="there are no recordings: apt-get install hydrogen-drumkits"
)
def test_a_gallery_of_real_sounds_names_the_right_one(tmp_path: Path) -> None:
    strokes = sorted(KITS.glob("*-*.wav"))
    names = [path.stem.rpartition("-")[0] for path in strokes]
    probes = {name: path for name, path in zip(names, strokes, strict=True) if path.match("*-2*")}
    with Gallery.open(tmp_path / "gallery", encoder=Sounds()) as gallery:
        for name, path in zip(names, strokes, strict=True):
            if path not in probes.values():
                gallery.enroll([path], label=name)
        assert len(probes) > 20
        answers = gallery.identify([str(path) for path in probes.values()])
        right = [one.matches[0].identity == name for one, name in zip(answers, probes, strict=True)]
        assert np.mean(right) >= 0.9
        gallery.calibrate(0.2)
        audit = gallery.audit()
        assert audit.items == len(gallery)


def test_files_are_found_by_the_encoders_suffixes(texts: Path, tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "gallery", encoder=Sentences()) as gallery:
        assert gallery.enroll([texts]).added == 9
        (answer,) = gallery.identify(b"on the mat sat the cat")
        assert (answer.identity, answer.threshold) == ("cats", 0.5)
        with pytest.raises(UsageError, match=r"no files with the suffix .md or .txt in"):
            gallery.enroll([tmp_path / "gallery"], label="none")
        report = gallery.enroll([b"sandwiches", b"\xff"], label="lunch")
        assert (report.added, len(report.rejected)) == (1, 1)
        assert "the encoder sentences refuses it: 'utf-8'" in report.rejected[0].reason


def test_what_is_of_pictures_alone_is_refused(texts: Path, tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "gallery", encoder=Sentences()) as gallery:
        gallery.enroll([texts])
        file = str(texts / "cats" / "0.txt")
        refused = "are of pictures, and the encoder sentences takes"
        with pytest.raises(UsageError, match=f"turns {refused}"):
            gallery.identify(file, turns=4)
        with pytest.raises(UsageError, match=f"parts {refused}"):
            gallery.identify(Region(file, (0, 0, 5, 5)))
        with pytest.raises(ImageError, match="takes a path, bytes or an open file"):
            gallery.identify([np.zeros((4, 4, 3), np.uint8)])


def test_unknowns_are_kept_grouped_and_enrolled(texts: Path, tmp_path: Path) -> None:
    new = ["zebras cross the savannah", "the zebras are crossing the savannah"]
    with Gallery.open(tmp_path / "gallery", encoder=Sentences()) as gallery:
        gallery.enroll([texts])
        probes = [text.encode() for text in new]
        answers = [answer for _, answer in gallery.identify_each(probes, keep_unknown=True)]
        assert [getattr(answer, "identity", "") for answer in answers] == [None, None]
        (group,) = gallery.unknowns()
        assert gallery.enroll_unknowns(group.number, "zebras").added == 2
        assert gallery.identify(b"zebras cross a savannah")[0].identity == "zebras"


class Faulty(Sentences):
    """Sentences with something replaced."""

    def __init__(self, **changes: Any) -> None:
        vars(self).update(changes)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (object(), "is no encoder: .* it lacks name, dimension, fingerprint"),
        (Sentences, "Sentences is a class: give an object"),
        (Faulty(dimension=0), "dimension of the encoder Faulty is 0: it needs 1 to 65536"),
        (Faulty(suffixes=".txt"), "suffixes of the encoder Faulty is '.txt': it needs a tuple"),
        (Faulty(suffixes=("txt",)), r"it needs a tuple like \('.wav', '.flac'\)"),
        (Faulty(threshold=2), "it needs a cosine, or None"),
        (Faulty(name=""), "it needs a short text"),
        (Faulty(fingerprint=1), "it needs a version, as text"),
    ],
)
def test_an_encoder_that_lacks_something_is_named(own: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=words):
        Gallery.open(tmp_path / "gallery", encoder=own)
    assert not (tmp_path / "gallery").exists()


@pytest.mark.parametrize(
    ("embed", "words"),
    [
        (lambda texts: np.ones((1, 3)), r"gives the shape \(1, 3\), not \(1, 1024\)"),
        (lambda texts: 1 / 0, "the encoder sentences fails: ZeroDivisionError"),
    ],
)
def test_an_encoder_that_fails_is_named(embed: Callable[..., Any], words: str) -> None:
    with pytest.raises(EncoderError, match=words):
        Encoder.open(Faulty(embed=embed)).embed(b"a text")


def test_embeddings_that_are_none_reject_their_file_alone(tmp_path: Path) -> None:
    def embed(texts: list[str]) -> Any:
        vectors = Sentences().embed(texts)
        vectors[["bad" in text for text in texts]] = np.nan
        return vectors

    with Gallery.open(tmp_path / "gallery", encoder=Faulty(embed=embed)) as gallery:
        report = gallery.enroll([b"a good text", b"a bad text"], label="text")
        assert (report.added, len(report.rejected)) == (1, 1)


def test_a_gallery_notices_that_its_encoder_was_changed(texts: Path, tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "gallery", encoder=Sentences()) as gallery:
        gallery.enroll([texts])
    changed = Faulty(embed=lambda texts: -Sentences().embed(texts))
    with Gallery.open(tmp_path / "gallery", encoder=changed) as gallery:
        with pytest.raises(EncoderError, match="it was changed; get the encoder again"):
            gallery.enroll([b"another text"], label="more")
        assert any("it was changed" in fault for fault in gallery.check())
    with pytest.raises(GalleryMismatch, match="was made by the encoder"):
        Gallery.open(tmp_path / "gallery", encoder=Faulty(fingerprint="letters 2"))


def test_a_gallery_of_an_object_says_that_it_needs_it(texts: Path, tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "gallery", encoder=Sentences()) as gallery:
        gallery.enroll([texts])
    with Gallery.open(tmp_path / "gallery") as gallery:
        assert len(gallery) == 9  # what needs no encoder works
        with pytest.raises(EncoderError, match="sentences_encoder:Sentences is the class of an"):
            gallery.identify(b"the cat")


# Packages


def offer(folder: Path, package: str, name: str, maker: str) -> None:
    """An installed package, as far as Python can tell, that offers an encoder."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[siasearch.encoders]\n{name} = {maker}\n")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where packages lie."""
    place = tmp_path / "site"
    offer(place, "words-for-siasearch", "sentences", "sentences_encoder:Sentences")
    offer(place, "broken-for-siasearch", "broken", "no_such_module:Encoder")
    monkeypatch.syspath_prepend(str(place))
    importlib.invalidate_caches()
    yield place
    importlib.invalidate_caches()


def test_an_encoder_of_a_package_is_found_by_its_name(
    installed: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gallery.open(tmp_path / "gallery", encoder="sentences") as gallery:
        gallery.enroll([texts])
        assert gallery.info().encoder == "sentences@words-for-siasearch"
    with Gallery.open(tmp_path / "gallery", encoder=Sentences()) as gallery:
        assert gallery.info().encoder == "sentences@words-for-siasearch"  # found again
    with Gallery.open(tmp_path / "gallery") as gallery:
        assert gallery.identify(b"the cat sat on a mat")[0].identity == "cats"
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one != str(installed)])
    with (
        Gallery.open(tmp_path / "gallery") as gallery,
        pytest.raises(
            EncoderError, match="package 'words-for-siasearch', which is not installed here"
        ),
    ):
        gallery.identify(b"the cat")


def test_packages_are_loaded_by_their_names_alone(installed: Path) -> None:
    with pytest.raises(EncoderError, match="broken@broken-for-siasearch cannot be loaded: Module"):
        Encoder.open("broken")
    with pytest.raises(EncoderError, match=r"shipped encoders: .*; of packages: broken, sentences"):
        Encoder.open("other")
    assert "no_such_module" not in sys.modules
    offer(installed, "more-words", "sentences", "sentences_encoder:Sentences")
    importlib.invalidate_caches()
    with pytest.raises(EncoderError, match="choose one of sentences@"):
        Encoder.open("sentences")
    assert Encoder.open("sentences@more-words").location == "sentences@more-words"


@pytest.mark.usefixtures("installed")
def test_the_command_line_takes_it(texts: Path, shell: Shell) -> None:
    added = shell("add", str(texts), "--encoder", "sentences")
    assert "9 added" in added.stdout
    assert "1 file passed over, no files with the suffix .md or .txt by their" in added.stderr
    probe = str(texts / "cats" / "0.txt")
    answer = json.loads(shell("query", probe, "--json").stdout)
    assert answer["identity"] == "cats"
    for options in (["--crop", "0,0,5,5"], ["--grid", "2"], ["--turns", "4"], ["--every", "1s"]):
        refused = shell("query", str(texts), *options, code=2).stderr
        assert "are of pictures" in refused
        assert refused.count("\n") == 1  # nothing is advised before
    refused = shell("watch", str(texts), "--query", "--turns", "4", code=2).stderr
    assert "turns are of pictures" in refused
    assert "are of pictures" in shell("explain", probe, probe, code=2).stderr
    assert shell("verify", probe, probe).stdout.startswith("same")
    for kind in ("neighbours", "confusions", "map"):
        shell("plot", kind, *([probe] if kind == "neighbours" else []), "--out", f"{kind}.png")
        assert (shell.folder / f"{kind}.png").stat().st_size > 10_000
    split = shell("benchmark", "--split", str(texts), "--encoder", "sentences", "--seeds", "1")
    assert "TPIR" in split.stdout
    assert "0 pairs of nearly the same" in shell("audit").stdout
    assert "no faults" in shell("check", "--deep").stdout


def test_no_reference_is_advised_for_an_encoder_of_a_package(
    installed: Path, tmp_path: Path, shell: Shell
) -> None:
    offer(installed, "tones", "sounds", "sounds_encoder:Sounds")
    importlib.invalidate_caches()
    sounds = [str(tone(tmp_path / f"{pitch}.wav", pitch)) for pitch in (300, 600)]
    said = shell("verify", *sounds, "--encoder", "sounds@tones", code=1).stderr
    assert "give one by --threshold\n" in said


@pytest.mark.usefixtures("installed")
def test_encoders_of_packages_are_listed_unrun_and_told_of(shell: Shell) -> None:
    listed = [one["encoder"] for one in shell.json("encoder", "list") if one["source"] == "package"]
    assert listed == ["broken@broken-for-siasearch", "sentences@words-for-siasearch"]
    assert "offered by the package broken-for-siasearch" in shell("encoder", "list").stdout
    assert "no_such_module" not in sys.modules
    told = shell("encoder", "info", "sentences").stdout
    assert "offered by the package words-for-siasearch" in told
    assert "files with the suffix .md or .txt" in told
    assert "pixels" not in told
    (facts,) = shell.json("encoder", "info", "sentences")
    assert (facts["suffixes"], facts["preprocessing"]) == ([".md", ".txt"], None)
    assert facts["fingerprint"] == Encoder.open("sentences").fingerprint


@pytest.mark.usefixtures("installed")
def test_what_needs_pictures_or_a_network_says_so_in_one_line(texts: Path, shell: Shell) -> None:
    shell("add", str(texts), "--encoder", "sentences")
    for words in (
        ["encoder", "info", "sentences", "--measure"],
        ["encoder", "export", "sentences", "--out", "x.onnx"],
        ["benchmark", str(texts), "--attack", "natural"],
        ["benchmark", "--split", str(texts), "--encoder", "sentences", "--attack", "all"],
    ):
        *_, last = shell(*words, code=2).stderr.strip().splitlines()
        assert "are of pictures, and the encoder sentences takes files" in last
    said = shell("encoder", "calibrate", "sentences", "--reference", str(texts), code=2).stderr
    assert "is its own, in its package" in said
    said = shell("encoder", "compare", "sentences", "glyph", "--data", str(texts), code=2).stderr
    assert "name encoders of the same files" in said


def test_encoders_of_texts_are_compared(
    installed: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = Path(sys.modules["sentences_encoder"].__file__ or "").parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (installed, sources))))
    (installed / "words_encoder.py").write_text(
        "import sentences_encoder\n\n\nclass Words(sentences_encoder.Sentences):\n"
        "    fingerprint = 'letters 2'\n"
    )
    offer(installed, "more-words", "words", "words_encoder:Words")
    importlib.invalidate_caches()
    for number in range(10):
        folder = shell.folder / "said" / f"thing {number}"
        folder.mkdir(parents=True)
        for way in ("here", "there"):
            (folder / f"{way}.txt").write_text(f"{hash_of(number)} is {way}")
    (found,) = shell.json(
        "encoder", "compare", "sentences", "words", "--data", "said", "--seeds", "5"
    )
    assert found["pictures"] == 20
    assert [one["size"] for one in found["contestants"]] == [None, None]
    assert all(one["figures"]["recall@1"]["mean"] == 1 for one in found["contestants"])


def hash_of(number: int) -> str:
    """A word of its own for each number."""
    return hashlib.sha256(bytes([number])).hexdigest()


@pytest.mark.usefixtures("installed")
def test_the_server_takes_and_shows_it(texts: Path, tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "texts gallery", encoder="sentences") as gallery:
        gallery.enroll([texts])
    at = "/api/v1/galleries/texts gallery"
    with TestClient(application([tmp_path / "texts gallery"], ["testserver"])) as client:
        assert client.get(at).json()["takes"] == [".md", ".txt"]
        sent = [("image", ("1.txt", b"a cat sat on the mat")), ("image", ("2.txt", b"\xff"))]
        known, refused = client.post(f"{at}/identify", files=sent).json()["answers"]
        assert known["identity"] == "cats"
        assert "the encoder sentences refuses it" in refused["error"]
        added = client.post(f"{at}/enroll", files=sent[:1], data={"label": "cats"})
        assert added.json()["added"] == 1
        shown = client.get(f"{at}/items/{added.json()['numbers'][0]}/thumbnail")
        assert shown.headers["content-type"] == "image/jpeg"
        explained = client.post(f"{at}/explain?item=1", files=sent[:1])
        assert explained.status_code == 400
        assert "explanations are of pictures" in explained.json()["detail"]
