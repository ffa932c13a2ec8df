"""What do turns of a probe gain where things lie anyhow, and what do they do to the error rate?

    python benchmarks/turns.py [--repeats 5] [--encoder general]

Probes are asked about as they are and turned by random angles, in one and in eight turns, with
pictures enrolled as they are. Top-1: objects and signs of the small sets with four pictures each;
groceries with five photos of train.txt, of 41 classes, probed with test.txt. The error rate, on
groceries: strangers are test.txt photos of 20 other classes, and the gallery is calibrated for 1 %
by its own items, or by train.txt photos of 20 more classes (which are turned as the probes are) in
one turn or eight. 500 probes of either sort at most. FPIR: the share of strangers that got a name.
TPIR: the share of the others that got the right one. Corners that turn in from outside have the
median colour of the border.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import data_folder, grocery_split, parser, table, write_results
from PIL import Image

from siamese_search import Encoder, Gallery, Identification
from siamese_search.decision.calibration import threshold_at
from siamese_search.decision.evidence import evidence_of
from siamese_search.records import Calibration
from siamese_search.words import counted

RATE = 0.01
TURNS = (1, 8)
KINDS = ("as they are", "turned")
SMALL = {"objects": 4, "signs": 4}
ENROLLED, SHOTS = 41, 5  # classes, photos of each
OTHERS, SHOWN = 20, 15  # classes of strangers, photos of each to calibrate by
PROBES = 500  # at most, of those who are enrolled and of strangers

Figures = dict[str, float]


class Picture(NamedTuple):
    """A file and what it shows."""

    path: str
    shown: str


class Folder:
    """Pictures as they are and turned, each by an angle of its own, below a folder.

    Pictures of two sets may have the same names: each set has a folder of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, pictures: Sequence[Picture], kind: str) -> list[Picture]:
        """The same pictures, in folders named by what they show."""
        found = []
        for picture in pictures:
            source = Path(picture.path)
            path = self._folder / kind / picture.shown / f"{source.parent.name}-{source.stem}.png"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == KINDS[0]:
                    path.symlink_to(source)
                else:
                    turned(source).save(path, compress_level=1)
            found.append(Picture(str(path), picture.shown))
        return found


def turned(path: Path) -> Image.Image:
    """A picture turned by an angle that follows from its name."""
    name = f"{path.parent.name}/{path.stem}"
    angle = np.random.default_rng(list(name.encode())).uniform(0, 360)
    image = Image.open(path).convert("RGB")
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    fill = tuple(np.median(border, axis=0).astype(int).tolist())
    return image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=fill)


def enrol(gallery: Gallery, pictures: Sequence[Picture]) -> None:
    """Enrol pictures under what they show."""
    vectors = gallery.encoder.embed([picture.path for picture in pictures])
    gallery.enroll_embeddings(vectors, [picture.shown for picture in pictures])


def asked(gallery: Gallery, pictures: Sequence[Picture], turns: int) -> list[Identification]:
    return gallery.identify([picture.path for picture in pictures], k=2, turns=turns)


def top(answers: Sequence[Identification], pictures: Sequence[Picture]) -> float:
    """Per cent whose best identity is the right one."""
    pairs = zip(answers, pictures, strict=True)
    return 100 * statistics.fmean(one.matches[0].identity == two.shown for one, two in pairs)


def small(encoder: Encoder, name: str, shots: int, seed: int, folder: Folder) -> Figures:
    """Top-1 on one of the small sets."""
    files = sorted(p for p in (data_folder() / "domains" / name).rglob("*") if p.is_file())
    pictures = [Picture(str(path), path.parent.name) for path in files]
    enrolled, probes = drawn(pictures, shots, np.random.default_rng(seed))
    with tempfile.TemporaryDirectory() as place, Gallery.open(place, encoder) as gallery:
        enrol(gallery, enrolled)
        return {
            f"{kind}, {turns}": top(asked(gallery, shown, turns), shown)
            for kind in KINDS
            for shown in [folder.of(probes, kind)]
            for turns in TURNS
        }


def drawn(
    pictures: Sequence[Picture], shots: int, chance: np.random.Generator
) -> tuple[list[Picture], list[Picture]]:
    """So many of each, drawn at random, and the others."""
    first: list[Picture] = []
    for shown in sorted({picture.shown for picture in pictures}):
        own = [picture for picture in pictures if picture.shown == shown]
        first += [own[place] for place in chance.permutation(len(own))[:shots]]
    return first, [picture for picture in pictures if picture not in set(first)]


def groceries(encoder: Encoder, seed: int, folder: Folder) -> dict[str, Figures]:
    """Top-1, FPIR and TPIR on groceries, by how probes lie, turns, and how it was calibrated."""
    chance = np.random.default_rng(seed)
    train, test = (
        [Picture(photo.path, photo.fine) for photo in grocery_split(split)]
        for split in ("train", "test")
    )
    order = chance.permutation(sorted({picture.shown for picture in train})).tolist()
    known, shown, asking = np.split(order, [ENROLLED, ENROLLED + OTHERS])
    enrolled = drawn([p for p in train if p.shown in known], SHOTS, chance)[0]
    strangers = drawn([p for p in train if p.shown in shown], SHOWN, chance)[0]
    genuine, impostors = (
        [own[place] for place in chance.permutation(len(own))[:PROBES]]
        for own in ([p for p in test if p.shown in group] for group in (known, asking))
    )
    found: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as place, Gallery.open(place, encoder) as gallery:
        enrol(gallery, enrolled)
        for kind in KINDS:
            own = gallery.calibrate(RATE)
            named = [picture.path for picture in folder.of(strangers, kind)]
            by_turns = {
                turns: gallery.calibrate(RATE, strangers=named, turns=turns) for turns in TURNS
            }
            for turns in TURNS:
                right, wrong = (folder.of(pictures, kind) for pictures in (genuine, impostors))
                answers = asked(gallery, right, turns), asked(gallery, wrong, turns)
                ways = {"own items": own, "strangers, 1 turn": by_turns[1]}
                if turns > 1:
                    ways["strangers, 8 turns"] = by_turns[turns]
                for way, calibration in ways.items():
                    found[f"{kind} | {turns} | {way}"] = {
                        "top-1": top(answers[0], right),
                        "TPIR": reached(answers[0], right, calibration),
                        "FPIR": reached(answers[1], None, calibration),
                    }
    return found


def reached(
    answers: Sequence[Identification], truth: Sequence[Picture] | None, calibration: Calibration
) -> float:
    """Per cent that get a name under a calibration, the right one where there is one."""
    needed = threshold_at(RATE, calibration.thresholds)
    named = [evidence_of(answer.matches) >= needed for answer in answers]
    if truth is not None:
        pairs = zip(named, answers, truth, strict=True)
        named = [name and one.matches[0].identity == two.shown for name, one, two in pairs]
    return 100 * statistics.fmean(named)


def averaged(draws: Sequence[Figures]) -> Figures:
    """Means, and standard deviations over draws."""
    means = {key: statistics.fmean(draw[key] for draw in draws) for key in draws[0]}
    return means | {
        f"{key} s.d.": statistics.stdev(draw[key] for draw in draws) if len(draws) > 1 else 0.0
        for key in draws[0]
    }


def main() -> None:
    options = parser(__doc__, repeats=5).parse_args()
    encoder = Encoder.open(options.encoder)
    draws: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as place:
        folders = {name: Folder(Path(place, name)) for name in (*SMALL, "grocery")}
        for seed in range(options.repeats):
            for name, shots in SMALL.items():
                draws.setdefault(name, []).append(small(encoder, name, shots, seed, folders[name]))
            for setting, figures in groceries(encoder, seed, folders["grocery"]).items():
                draws.setdefault(f"grocery | {setting}", []).append(figures)
            print(f"draw {seed + 1} of {options.repeats}", flush=True)
    summary = {setting: averaged(several) for setting, several in draws.items()}
    header = ("set", *(f"{kind}, {counted(turns, 'turn')}" for kind in KINDS for turns in TURNS))
    ways = [f"{kind}, {turns}" for kind in KINDS for turns in TURNS]
    rows = [(name, *(f"{summary[name][way]:.1f}" for way in ways)) for name in SMALL]
    table(f"Top-1, per cent, four pictures each, {options.repeats} draws", header, rows)
    rows = [
        (*setting.split(" | ")[1:], *(both(figures, key) for key in ("top-1", "TPIR", "FPIR")))
        for setting, figures in summary.items()
        if "|" in setting
    ]
    header = ("probes", "turns", "calibrated by", "top-1", "TPIR", "FPIR")
    table(f"Groceries, per cent, 1 % asked, {options.repeats} draws", header, rows)
    write_results("turns", options.encoder, {"draws": options.repeats, "raw": summary})


def both(figures: Figures, key: str) -> str:
    return f"{figures[key]:.1f} ± {figures[f'{key} s.d.']:.1f}"


if __name__ == "__main__":
    main()
