"""Decode every file of public collections of odd pictures, and look at what is made of each.

    python benchmarks/faults/corpora.py FOLDER…

Such collections are, for example, `Tests/images` of python-pillow/Pillow and the picture folders of
dvyukov/go-fuzz-corpus: files that once broke a reader. Each file is decoded in a process that is
watched. It may be refused by a reason, or show a picture; that is compared with what an independent
reader makes of the file (torchvision or tifffile), where there is one. Writes
``results/corpora.json`` and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import traceback
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from pictures import DEADLINE, HOW, SAME, independent, watched

from siamese_search import __version__
from siamese_search.errors import ImageError
from siamese_search.pictures import render
from siamese_search.pictures.containers import recognise

RESULTS = Path(__file__).parent / "results"
OUTCOMES = (
    "refused", "as another reader", "unlike another reader", "no other reader",
    "traceback", "crash", "hang",
)  # fmt: skip


def outcome(path: Path) -> tuple[str, str]:
    """What is made of a file, and what is said of it."""
    data = path.read_bytes()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            render.decode(data, HOW)
        except ImageError as error:
            return "refused", str(error)
        except Exception:
            return "traceback", traceback.format_exc(limit=-3)
    return ("traceback", f"warning: {caught[0].message}") if caught else ("shown", "")


def comparison(path: Path) -> tuple[str, str]:
    """Whether an independent reader shows a file as it is shown here."""
    data = path.read_bytes()
    other = independent(recognise(data), data)
    if other is None:
        return "no other reader", ""
    apart = np.abs(render.decode(data, HOW).astype(int) - other).mean()
    same = apart <= 2 * SAME
    return ("as another reader" if same else "unlike another reader"), f"by {apart:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--show", action="store_true", help="name what is unlike another reader")
    options = parser.parse_args()
    begun = time.perf_counter()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    slowest, peak = 0.0, 0
    for folder in options.folders:
        todo = sorted(path for path in folder.rglob("*") if path.is_file())
        results, used = watched(todo, outcome)
        shown = [number for number, (kind, _, _) in enumerate(results) if kind == "shown"]
        compared, _ = watched([todo[number] for number in shown], comparison)
        slowest = max([slowest, *(seconds for _, _, seconds in results)])
        peak = max(peak, used)
        for number, made in zip(shown, compared, strict=True):
            # What the other reader does with a file is no fault of ours.
            died = made[0] in ("crash", "hang", "traceback")
            results[number] = ("no other reader", "", 0.0) if died else made
        for path, (kind, said, _) in zip(todo, results, strict=True):
            counts[folder.name][kind] += 1
            if kind in ("traceback", "crash", "hang") or (options.show and "unlike" in kind):
                print(f"{kind}: {os.path.relpath(path, folder)}: {said}")
    print("| collection | files | " + " | ".join(OUTCOMES) + " |")
    print("| --- |" + " --- |" * (len(OUTCOMES) + 1))
    for name, found in counts.items():
        print(f"| {name} | {found.total()} | " + " | ".join(str(found[k]) for k in OUTCOMES) + " |")
    print(f"peak of memory {peak / 2**20:.0f} MiB, slowest {slowest:.1f} s (at most {DEADLINE:g})")
    record = {
        "version": __version__,
        "seconds": round(time.perf_counter() - begun, 1),
        "peak_bytes": peak,
        "slowest_seconds": round(slowest, 2),
        "by_collection": {name: dict(found) for name, found in counts.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "corpora.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
