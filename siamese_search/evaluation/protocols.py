"""The published protocols: data sets with fixed splits, so that figures stay comparable.

Grocery Store (Klasson et al. 2019), Caltech-UCSD Birds 2010 and Omniglot (Lake et al. 2015), in a
folder that has ``grocery/``, ``cub-2010/images/`` and ``omniglot/``. Every picture is embedded
once; every figure comes from a gallery that is enrolled and asked through its public interface.

Open set: TPIR is the share of enrolled classes' probes whose best identity is right and scores at
the threshold or above, FPIR the share of other probes whose best score reaches it (ISO/IEC
19795-1). *Chosen* thresholds are set without any probe and without any picture of the impostors'
classes: each training photo of the enrolled classes is searched with its own class left out, and
the threshold is the score that the wanted share of them reaches; both rates that are given are
counted there, whatever it was chosen for. *At best* is the threshold that the probes themselves
would have chosen; it is left out at rates that too few of them tell (``metrics.tells``).

Knows nothing of terminals, pages and training.
"""

from __future__ import annotations

import csv
import random
import statistics
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from siamese_search.arrays import FloatArray
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import UsageError
from siamese_search.evaluation.metrics import reached_by, tells
from siamese_search.gallery.gallery import Gallery
from siamese_search.records import Identification

FPIRS = (0.01, 0.001)


class Photo(NamedTuple):
    """A picture of a protocol, with its labels."""

    path: str
    fine: str
    coarse: str = ""


def _there(path: Path) -> Path:
    """The same path. Raises UsageError where there is nothing."""
    if not path.exists():
        raise UsageError(
            f"there is no {path}: name the folder that has grocery/, cub-2010/ and omniglot/"
        )
    return path


def grocery_split(data: Path, split: str) -> list[Photo]:
    """``train``, ``val`` or ``test`` of the Grocery Store Dataset, as its list says."""
    folder = data / "grocery"
    with open(_there(folder / f"{split}.txt"), encoding="utf-8") as file:
        rows = [[field.strip() for field in line.split(",")] for line in file if line.strip()]
    return [Photo(str(folder / path), fine, coarse) for path, fine, coarse in rows]


def grocery_iconic(data: Path) -> list[Photo]:
    """The catalogue picture of each of the 81 fine classes."""
    folder = data / "grocery"
    with open(_there(folder / "classes.csv"), newline="", encoding="utf-8") as file:
        return [
            Photo(str(folder / path.lstrip("/")), fine, coarse)
            for _, fine, _, coarse, path, _ in list(csv.reader(file))[1:]
        ]


def cub_classes(data: Path) -> list[list[Photo]]:
    """The photos of each bird, birds in name order."""
    folders = sorted(_there(data / "cub-2010" / "images").iterdir())
    return [
        [Photo(str(path), folder.name) for path in sorted(folder.glob("*.jpg"))]
        for folder in folders
    ]


class Pictures:
    """Embeds every photo once."""

    def __init__(self, encoder: Encoder, rule: str | None = None) -> None:
        self.encoder = encoder
        self.rule = rule
        self._known: dict[str, FloatArray] = {}

    def __call__(self, photos: Sequence[Photo]) -> FloatArray:
        new = list(dict.fromkeys(p.path for p in photos if p.path not in self._known))
        self._known.update(zip(new, self.encoder.embed(new), strict=True))
        return np.stack([self._known[photo.path] for photo in photos])

    @contextmanager
    def enrolled(self, photos: Sequence[Photo]) -> Iterator[Gallery]:
        """A gallery of photos, identities being fine labels."""
        with (
            tempfile.TemporaryDirectory() as folder,
            Gallery.open(folder, self.encoder) as gallery,
        ):
            gallery.uncalibrate()  # nor does it calibrate itself: plain cosines are measured
            gallery.enroll_embeddings(distinct(self(photos)), fine(photos))
            yield gallery

    def answers(self, enrolled: Sequence[Photo], probes: Sequence[Photo]) -> list[Identification]:
        """The five best identities of each probe."""
        with self.enrolled(enrolled) as gallery:
            return gallery.identify_embeddings(self(probes), k=5, rule=self.rule)


def per_cent(right: Iterable[bool]) -> float:
    return 100 * statistics.fmean(right)


def top(answers: Sequence[Identification], labels: Sequence[str], k: int = 1) -> float:
    """How often the right identity is among the first k, whatever the threshold."""
    pairs = zip(answers, labels, strict=True)
    return per_cent(label in [match.identity for match in a.matches[:k]] for a, label in pairs)


def fine(photos: Sequence[Photo]) -> list[str]:
    return [photo.fine for photo in photos]


def draw(photos: Sequence[Photo], each: int, seed: int) -> list[Photo]:
    """``each`` photos of every class, drawn by a seed."""
    chance = random.Random(seed)
    classes = defaultdict(list)
    for photo in photos:
        classes[photo.fine].append(photo)
    return [photo for label in sorted(classes) for photo in chance.sample(classes[label], each)]


def distinct(vectors: FloatArray) -> FloatArray:
    """The same, equal ones (of two pictures with the same pixels) in the last bit different."""
    changed, seen = vectors.copy(), set()
    for row in changed:
        while row.tobytes() in seen:
            row[0] = np.nextafter(row[0], np.float32(1))
        seen.add(row.tobytes())
    return changed


class LeaveOneOut(NamedTuple):
    """Each item searched without itself, per cent: whether the nearest other item is of its class,
    and whether its class is the best by the gallery's scoring rule.
    """

    recall: float
    identified: float


def leave_one_out(encoder: Encoder, vectors: FloatArray, labels: Sequence[str]) -> LeaveOneOut:
    """Enrol n items with their classes, and search each without itself."""
    with tempfile.TemporaryDirectory() as folder, Gallery.open(folder, encoder) as gallery:
        gallery.uncalibrate()  # see above
        nearest = _nearest_are_own(gallery, vectors, labels)
        doubts = [one.doubt > 0 for one in gallery.audit().suspects]
    return LeaveOneOut(per_cent(nearest), 100 - per_cent(doubts))


def nearest_are_own(encoder: Encoder, vectors: FloatArray, labels: Sequence[str]) -> list[bool]:
    """Of n items, each searched without itself: whether the nearest other one is of its class."""
    with tempfile.TemporaryDirectory() as folder, Gallery.open(folder, encoder) as gallery:
        return _nearest_are_own(gallery, vectors, labels)


def _nearest_are_own(gallery: Gallery, vectors: FloatArray, labels: Sequence[str]) -> list[bool]:
    """The same, of an empty gallery, in which they are enrolled."""
    numbers = gallery.enroll_embeddings(distinct(vectors), labels)
    label_of = dict(zip(numbers, labels, strict=True))
    found, _ = gallery.search(vectors, 2)
    nearest = [a if a != own else b for own, (a, b) in zip(numbers, found.tolist(), strict=True)]
    return [label_of[a] == b for a, b in zip(nearest, labels, strict=True)]


# Suites; each returns figures by name, several where there were draws.

Figures = dict[str, list[float]]


def grocery(pictures: Pictures, data: Path, draws: int) -> Figures:
    train, test = grocery_split(data, "train"), grocery_split(data, "test")
    iconic = grocery_iconic(data)
    figures: Figures = {}
    answers = pictures.answers(iconic, test)
    figures["grocery-iconic top-1"] = [top(answers, fine(test))]
    figures["grocery-iconic top-5"] = [top(answers, fine(test), 5)]
    answers = pictures.answers(train, test)
    coarse = {photo.fine: photo.coarse for photo in iconic}
    pairs = list(zip(answers, test, strict=True))
    figures["grocery-gallery top-1 fine"] = [top(answers, fine(test))]
    figures["grocery-gallery top-1 coarse"] = [
        per_cent(coarse[a.matches[0].identity] == photo.coarse for a, photo in pairs)
    ]

    def of(photos: Sequence[Photo], odd: int) -> list[Photo]:
        return [photo for photo in photos if int(photo.fine) % 2 == odd]

    probes = of(test, 1)

    def unseen(enrolled: Sequence[Photo]) -> float:
        return top(pictures.answers(enrolled, probes), fine(probes))

    figures["grocery-unseen iconic 1-shot"] = [unseen(of(iconic, 1))]
    for each in (1, 5):
        figures[f"grocery-unseen natural {each}-shot"] = [
            unseen(draw(of(train, 1), each, seed)) for seed in range(draws)
        ]
    figures["grocery-unseen full gallery"] = [unseen(of(train, 1))]

    figures |= openset(pictures, of(iconic, 0), of(train, 0), test, "iconic")
    several: Figures = defaultdict(list)
    for seed in range(draws):
        enrolled = draw(of(train, 0), 5, seed)
        others = list(set(of(train, 0)) - set(enrolled))
        for name, values in openset(pictures, enrolled, others, test, "5 photos").items():
            several[name] += values
    return figures | several


def openset(
    pictures: Pictures,
    enrolled: Sequence[Photo],
    tuning: Sequence[Photo],
    probes: Sequence[Photo],
    title: str,
) -> Figures:
    """TPIR and FPIR; thresholds come from ``tuning``, photos of enrolled classes."""
    classes = set(fine(enrolled))
    answers = list(zip(pictures.answers(enrolled, probes), probes, strict=True))
    genuine = np.array([
        a.matches[0].score if a.matches[0].identity == photo.fine else -np.inf
        for a, photo in answers if photo.fine in classes
    ])  # fmt: skip
    impostor = np.array([a.matches[0].score for a, photo in answers if photo.fine not in classes])
    left_out = np.array([
        next(match.score for match in a.matches if match.identity != photo.fine)
        for a, photo in zip(pictures.answers(enrolled, tuning), tuning, strict=True)
    ])  # fmt: skip
    figures: Figures = {}

    def note(name: str, threshold: float) -> None:
        figures[f"grocery-openset {title}, TPIR at {name}"] = [per_cent(genuine >= threshold)]
        figures[f"grocery-openset {title}, FPIR at {name}"] = [per_cent(impostor >= threshold)]

    for fpir in FPIRS:
        note(f"FPIR {fpir:.1%}, threshold chosen", reached_by(left_out, fpir))
        if tells(fpir, len(impostor)):
            note(f"FPIR {fpir:.1%}, at best", reached_by(impostor, fpir))
    if pictures.encoder.calibrated:
        note("the encoder's threshold", pictures.encoder.threshold)
    return figures


def cub(pictures: Pictures, data: Path, draws: int) -> Figures:
    photos = [photo for birds in cub_classes(data)[-100:] for photo in birds]
    shots = []
    for seed in range(draws):
        enrolled = draw(photos, 1, seed)
        probes = [photo for photo in photos if photo not in set(enrolled)]
        shots.append(top(pictures.answers(enrolled, probes), fine(probes)))
    alone = leave_one_out(pictures.encoder, pictures(photos), fine(photos))
    return {
        "cub-unseen R@1": [alone.recall],
        "cub-unseen identified": [alone.identified],
        "cub-unseen 1-shot": shots,
    }


def drawings(data: Path) -> tuple[list[str], Iterator[Image.Image]]:
    """Names, alphabet/character/picture, and pictures of the evaluation alphabets."""
    archive = zipfile.ZipFile(_there(data / "omniglot" / "images_evaluation.zip"))
    names = sorted(name for name in archive.namelist() if name.endswith(".png"))
    return names, (Image.open(BytesIO(archive.read(name))) for name in names)


def omniglot(pictures: Pictures, data: Path, draws: int) -> Figures:  # noqa: ARG001
    names, drawn = drawings(data)
    vectors = pictures.encoder.embed(drawn)
    characters = [name.rpartition("/")[0] for name in names]
    alone = leave_one_out(pictures.encoder, vectors, characters)
    return {
        "omniglot-400 error": [one_shot_error(pictures.encoder, data)],
        "omniglot-unseen R@1": [alone.recall],
        "omniglot-unseen identified": [alone.identified],
    }


def one_shot_error(encoder: Encoder, data: Path) -> float:
    """omniglot-400: the error in per cent, nearest neighbour among the 20 training pictures."""
    wrong = trials = 0
    with zipfile.ZipFile(_there(data / "omniglot" / "all_runs.zip")) as archive:

        def embedded(names: Sequence[str]) -> FloatArray:
            return encoder.embed(Image.open(BytesIO(archive.read(name))) for name in names)

        for listed in sorted(n for n in archive.namelist() if n.endswith("class_labels.txt")):
            root = listed.split("/")[:-2]
            pairs = [line.split() for line in archive.read(listed).decode().splitlines()]
            shown = sorted({second for _, second in pairs})
            probes = embedded(["/".join([*root, first]) for first, _ in pairs])
            enrolled = embedded(["/".join([*root, name]) for name in shown])
            nearest = (probes @ enrolled.T).argmax(axis=1)
            wrong += sum(shown[n] != own for n, (_, own) in zip(nearest, pairs, strict=True))
            trials += len(pairs)
    return 100 * wrong / trials


SUITES: dict[str, Callable[[Pictures, Path, int], Figures]] = {
    "grocery": grocery,
    "cub": cub,
    "omniglot": omniglot,
}
