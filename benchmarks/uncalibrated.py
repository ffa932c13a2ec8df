"""What does an encoder name whose threshold was never fitted?

    python benchmarks/uncalibrated.py [--repeats 10] [--encoder general-2]

The encoder is written anew without its threshold, its confidence and the prior of its metrics. Of
groceries (photos of train.txt) and birds (the last hundred kinds), 12 photos each, some classes are
enrolled by three photos, and all other photos are asked about: those of other classes are
strangers. What decides is what the gallery chooses by itself, for 1 %; what `calibrate` makes of
that; the same with a threshold and a tail that were fitted on the other kind of things, by
`encoder calibrate --reference`; that threshold alone, without calibrating; and the encoder as it is
shipped, calibrated.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import cub_classes, grocery_split, parser, table, write_results

from siamese_search import Encoder, Gallery
from siamese_search.embedding.record import verified_graph, verified_weights, write_encoder
from siamese_search.embedding.vectors import Description
from siamese_search.errors import UsageError
from siamese_search.importing.reference import fit_reference
from siamese_search.records import ImageFile

ASKED = 0.01
ENROLLED = (10, 20, 40)  # classes
PHOTOS, SHOTS = 12, 3  # of a class, and enrolled of them
BY_ITSELF, CALIBRATED, REFERENCE, ALONE, SHIPPED = (
    "by itself", "calibrated", "by a reference, calibrated", "by a reference alone",
    "as shipped, calibrated",
)  # fmt: skip


class Rates(NamedTuple):
    """Of one draw: shares of strangers' and of enrolled classes' photos, None where the rate that
    was asked is refused.
    """

    set: str
    enrolled: int
    way: str
    seed: int
    fpir: float | None
    tpir: float | None


def classes_of(name: str) -> dict[str, list[str]]:
    """Photos of each class of a set, those that have enough."""
    groceries = grocery_split("train")
    photos = groceries if name == "groceries" else [p for kind in cub_classes()[100:] for p in kind]
    found = defaultdict(list)
    for photo in photos:
        found[photo.fine].append(photo.path)
    chance = random.Random(0)
    return {
        label: chance.sample(paths, PHOTOS)
        for label, paths in found.items()
        if len(paths) >= PHOTOS
    }


def stripped(encoder: Encoder, folder: Path) -> Path:
    """The same network as an encoder of which nothing is known."""
    record = encoder.record
    write_encoder(
        folder,
        name="stripped",
        architecture=record.architecture,
        preprocessing=record.preprocessing,
        dimension=record.dimension,
        onnx=verified_graph(encoder.folder, record),
        weights=verified_weights(encoder.folder, record),
        training={},
    )
    return folder


def rates(
    encoder: Encoder, pictures: dict[str, list[Description]], enrolled: int, way: str, seed: int
) -> tuple[float | None, float | None]:
    """The FPIR and the TPIR of one draw."""
    order = np.random.default_rng(seed).permutation(sorted(pictures)).tolist()
    with tempfile.TemporaryDirectory() as place, Gallery.open(place, encoder) as gallery:
        own = [(label, one) for label in order[:enrolled] for one in pictures[label][:SHOTS]]
        gallery.enroll_embeddings(
            np.stack([one.embedding for _, one in own]),
            [label for label, _ in own],
            places=[one.places for _, one in own],
        )
        if way in (CALIBRATED, REFERENCE, SHIPPED):
            try:
                gallery.calibrate(ASKED)
            except UsageError:
                return None, None
        if gallery.undecided:
            return None, None
        asked = [
            (label, one)
            for place, label in enumerate(order)
            for one in pictures[label][SHOTS if place < enrolled else 0 :]
        ]
        answers = gallery.identify_embeddings(
            np.stack([one.embedding for _, one in asked]),
            k=2,
            places=[one.places for _, one in asked],
        )
    known = set(order[:enrolled])
    pairs = [(label, answer.identity) for (label, _), answer in zip(asked, answers, strict=True)]
    strange = [name is not None for label, name in pairs if label not in known]
    right = [name == label for label, name in pairs if label in known]
    return statistics.fmean(strange), statistics.fmean(right)


def main() -> None:
    options = parser(__doc__, repeats=10)
    options.set_defaults(encoder="general-2")
    chosen = options.parse_args()
    shipped = Encoder.open(chosen.encoder, "cpu")
    photos = {name: classes_of(name) for name in ("groceries", "birds")}
    found: list[Rates] = []
    with tempfile.TemporaryDirectory() as place:
        for name, other in (("groceries", "birds"), ("birds", "groceries")):
            bare = Encoder.open(stripped(shipped, Path(place, name)), "cpu")
            fitted = stripped(shipped, Path(place, f"{name}-fitted"))
            labelled = [ImageFile(p, label) for label, own in photos[other].items() for p in own]
            print(f"fitted on {other}: {fit_reference(fitted, labelled)}", flush=True)
            known = Encoder.open(fitted, "cpu")
            each = {label: shipped.describe(paths) for label, paths in photos[name].items()}
            for enrolled in ENROLLED:
                for way, encoder in (
                    (BY_ITSELF, bare), (CALIBRATED, bare), (REFERENCE, known), (ALONE, known),
                    (SHIPPED, shipped),
                ):  # fmt: skip
                    found += [
                        Rates(name, enrolled, way, seed, *rates(encoder, each, enrolled, way, seed))
                        for seed in range(chosen.repeats)
                    ]
                print(f"{name}, {enrolled} enrolled", flush=True)
    rows = []
    for one in dict.fromkeys((r.set, r.enrolled, r.way) for r in found):
        own = [r for r in found if (r.set, r.enrolled, r.way) == one]
        told = [r for r in own if r.fpir is not None]
        rows.append((
            one[0], str(one[1]), one[2], f"{len(own) - len(told)}",
            *(mean([getattr(r, rate) for r in told]) for rate in ("fpir", "tpir")),
        ))  # fmt: skip
    header = ("set", "enrolled", "decided", "refused", "FPIR", "TPIR")
    table("Per cent, mean ± standard deviation over draws; 1 % was asked", header, rows)
    raw = [one._asdict() for one in found]
    write_results("uncalibrated", chosen.encoder, {"asked": ASKED, "raw": raw})


def mean(values: list[float]) -> str:
    """In per cent, with the standard deviation."""
    if not values:
        return "-"
    return f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.pstdev(values):.1f}"


if __name__ == "__main__":
    main()
