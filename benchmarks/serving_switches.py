"""Switch what a served gallery is searched by, while clients ask: errors, or mixed answers?

    python benchmarks/serving_switches.py [--switches 20] [--photos 300]

A gallery of grocery photos is served, and clients identify without a pause. Meanwhile it is
compacted, calibrated and rebuilt by jobs, and moved to the other shipped encoder and back by
``siasearch rebuild --encoder`` in another process. Every answer must be one that the gallery gives
in one of its states (under either encoder, calibrated or not yet again), as asked without a server:
who, in which order, the scores and the threshold.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from common import grocery_split, parser, percentiles, table, write_results

from siamese_search import Gallery
from siamese_search.records import ImageFile

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from loading import switched

ENCODERS = ("general-2", "general")
PROBES = 40
ROUNDING = 2e-3  # of scores in bfloat16, where pictures share a batch


def main() -> None:
    arguments = parser(__doc__, repeats=1)
    arguments.add_argument("--switches", type=int, default=20)
    arguments.add_argument("--photos", type=int, default=300)
    options = arguments.parse_args()
    train, test = grocery_split("train"), grocery_split("test")
    step = len(train) // options.photos
    asked = [Path(photo.path).read_bytes() for photo in test[:: len(test) // PROBES][:PROBES]]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "shop")
        with Gallery.open(folder, ENCODERS[0]) as gallery:
            gallery.enroll_found([ImageFile(p.path, p.fine) for p in train[::step]])
        seen = switched(
            folder, ENCODERS, asked, Path(scratch), options.switches, within=ROUNDING,
            tell=lambda what: print(what, file=sys.stderr),
        )  # fmt: skip
    median, late = percentiles(seen.seconds)
    found = {
        "switches": options.switches,
        "answers": seen.answers,
        "versions": len(seen.versions),
        "errors": len(seen.errors),
        "mixed": len(seen.mixed),
        "ms, median": round(median, 1),
        "ms, 95 %": round(late, 1),
    }
    table("Switches", ("what", "measured"), list(found.items()))
    for fault in [*seen.errors, *seen.mixed][:20]:
        print(fault)
    write_results("serving_switches", ENCODERS[0], found)
    sys.exit(bool(seen.errors or seen.mixed))


if __name__ == "__main__":
    main()
