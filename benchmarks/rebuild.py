"""What does a gallery gain from being rebuilt under an encoder trained on its pictures?

    python benchmarks/rebuild.py --trained runs/finetune/grocery-gallery-0

Everything by the command: the 2,640 Grocery training photos are enrolled under ``--encoder``, the
2,485 test photos are asked, the gallery is rebuilt under the trained encoder, and the same photos
are asked again. Top-1 and top-5 are of the k best identities, whatever the threshold; *named* and
*named right* are what ``query`` says with each encoder's own threshold. Labels must come through
unchanged. One run.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from pathlib import Path

from common import grocery_split, parser, run, siasearch, table, write_results

from siamese_search import Encoder
from siamese_search.evaluation.protocols import Photo


def enrolled(gallery: Path, photos: list[Photo], encoder: str) -> float:
    """Enrol by a manifest; gives seconds."""
    manifest = gallery.with_suffix(".csv")
    with open(manifest, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows((photo.path, photo.fine) for photo in photos)
    where = ["-g", str(gallery), "--encoder", encoder]
    command = ("-m", "siamese_search", "add", "--manifest", str(manifest), *where, "--json")
    return run(*command, done=(0, 1))[0]  # 1: a photo that is there under another identity


def asked(gallery: Path, photos: list[Photo]) -> dict[str, float]:
    """What ``query`` answers, in per cent of all photos."""
    paths = [photo.path for photo in photos]
    _, lines = siasearch("query", *paths, "--k", "5", "-g", str(gallery), "--json")
    first = five = named = right = 0
    for line, photo in zip(lines.splitlines(), photos, strict=True):
        answer = json.loads(line)
        order = [match["identity"] for match in answer["matches"]]
        first += order[0] == photo.fine
        five += photo.fine in order
        named += answer["identity"] is not None
        right += answer["identity"] == photo.fine
    counts = {"top-1": first, "top-5": five, "named": named, "named right": right}
    return {name: 100 * count / len(photos) for name, count in counts.items()}


def labels(gallery: Path) -> dict[str, int]:
    """Identities and how many items each has."""
    rows = map(json.loads, siasearch("list", "-g", str(gallery), "--json")[1].splitlines())
    return {row["identity"]: row["items"] for row in rows}


def main() -> None:
    arguments = parser(__doc__, repeats=1)
    arguments.add_argument("--trained", required=True, help="the encoder to rebuild under")
    options = arguments.parse_args()
    train, test = grocery_split("train"), grocery_split("test")
    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder) / "gallery"
        seconds = {"add": enrolled(gallery, train, options.encoder)}
        before, had = asked(gallery, test), labels(gallery)
        seconds["rebuild"], _ = siasearch(
            "rebuild", "-g", str(gallery), "--encoder", options.trained, "--json"
        )
        after = asked(gallery, test)
        if labels(gallery) != had:
            sys.exit("the rebuilt gallery has other labels")
        siasearch("check", "-g", str(gallery), "--json")
    rows = [(name, f"{value:.1f}", f"{after[name]:.1f}") for name, value in before.items()]
    table(
        f"{len(test)} photos asked of {len(train)}, per cent",
        ("", options.encoder, Path(options.trained).name),
        rows,
    )
    rate = len(train) / seconds["rebuild"]
    print(f"  rebuilt in {seconds['rebuild']:.1f} s, {rate:.0f} images/s; labels unchanged")
    trained = Encoder.open(options.trained)
    write_results(
        "rebuild",
        options.encoder,
        {
            "trained": {
                "name": trained.name,
                "fingerprint": trained.fingerprint,
                "dimension": trained.dimension,
            },
            "items": len(train),
            "probes": len(test),
            "seconds": seconds,
            "before": before,
            "after": after,
        },
    )


if __name__ == "__main__":
    main()
