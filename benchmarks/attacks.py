"""How answers hold when pictures are changed: `siasearch benchmark --attack` on real pictures.

    python benchmarks/attacks.py --limit 20

Galleries are calibrated for an FPIR of 5 %, so that enough probes are named to be attacked: faces
(UMIST), four pictures of half of the people; groceries (photos taken in shops), the even classes'
training photos, asked about test photos.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from common import data_folder, grocery_split, parser, write_results

from siamese_search.embedding.encoder import Encoder
from siamese_search.evaluation.campaign import Campaign
from siamese_search.evaluation.probes import embedded
from siamese_search.evaluation.robustness import KINDS, Plan
from siamese_search.evaluation.robustness_words import (
    outcome_rows,
    robustness_lines,
)
from siamese_search.evaluation.splits import Split, split_gallery
from siamese_search.gallery.gallery import Gallery
from siamese_search.pictures.sources import find
from siamese_search.records import ImageFile, Progress
from siamese_search.words import duration

FPIR = 0.05


@contextmanager
def faces(encoder: Encoder, seed: int) -> Iterator[tuple[Gallery, list[ImageFile]]]:
    folder = data_folder() / "domains" / "faces"
    files = [one for one in find([str(folder)]) if isinstance(one, ImageFile)]
    wanted = Split(shots=4, draws=1, fpir=FPIR)
    with split_gallery(encoder, files, wanted, seed) as (gallery, left, _):
        yield gallery, left


@contextmanager
def grocery(encoder: Encoder, seed: int) -> Iterator[tuple[Gallery, list[ImageFile]]]:
    del seed
    train = grocery_split("train")
    even = set(sorted({photo.fine for photo in train})[::2])
    enrolled = embedded(encoder, [ImageFile(p.path, p.fine) for p in train if p.fine in even])
    with tempfile.TemporaryDirectory() as folder, Gallery.open(folder, encoder) as gallery:
        gallery.enroll_embeddings(enrolled.embeddings, enrolled.labels, places=enrolled.places)
        gallery.calibrate(FPIR)
        yield gallery, [ImageFile(photo.path, photo.fine) for photo in grocery_split("test")]


SETS = {"faces": faces, "grocery": grocery}


def main() -> None:
    arguments = parser(__doc__, 1)
    arguments.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    arguments.add_argument("--attack", default="all", choices=KINDS)
    arguments.add_argument("--limit", type=int, default=20)
    arguments.add_argument("--steps", type=int, default=10)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--save", help="the name of the results; nothing is kept if absent")
    arguments.set_defaults(encoder="general-2")
    given = arguments.parse_args()
    encoder = Encoder.open(given.encoder, "cpu")
    plan = Plan(given.attack, given.limit, given.steps, given.seed)
    found = {}
    for name in given.sets:
        with SETS[name](encoder, given.seed) as (gallery, files):
            campaign = Campaign(gallery, files, plan)
            print(f"{name}: about {duration(campaign.seconds())}", flush=True)
            begun = time.perf_counter()
            measured = campaign.measured(_said)
            for line in robustness_lines(measured):
                print(line)
            for row in outcome_rows(measured):
                print("  " + " | ".join(row), flush=True)
            took = time.perf_counter() - begun
            found[name] = dataclasses.asdict(measured) | {"took": took, "rejected": []}
    if given.save:
        facts = {"fpir": FPIR, "plan": dataclasses.asdict(plan)}
        write_results(given.save, given.encoder, facts | found)


def _said(progress: Progress) -> None:
    if progress.done == progress.total:
        print(f"  done: {progress.stage}", flush=True)


if __name__ == "__main__":
    main()
