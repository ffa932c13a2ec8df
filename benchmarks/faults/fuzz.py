"""Search for files that decoding does not expect, led by what code they reach (coverage).

    pip install atheris
    python benchmarks/faults/fuzz.py --seconds 60 --seed 1

For each format, libFuzzer changes small pictures of it, and keeps what reaches new lines of
``siamese_search.pictures`` or Pillow. A file may show a picture or be refused by ImageError;
anything else is a fault: another error, a crash, more than 10 seconds, more than 2 GB. Faults are
kept as files in ``results/fuzz-faults/``. Writes ``results/fuzz.json`` and prints a table.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"
SECONDS, MEGABYTES, LONGEST = 10, 2048, 8192  # for a file, of memory, bytes of a file
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WebP")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=int, default=60, help="for each format")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--formats", nargs="*", default=FORMATS, choices=FORMATS)
    given = options.parse_args()
    rows = []
    for form in given.formats:
        rows.append(searched(form, given.seconds, given.seed))
        print("{format:6} {files:>9,} files, {kept:>5,} kept, {peak_mb:>5,} MB, {faults} faults"
              .format(**rows[-1]), flush=True)  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fuzz.json").write_text(json.dumps(vars(given) | {"rows": rows}, indent=1) + "\n")
    total = sum(row["files"] for row in rows)
    print(f"{total:,} files, {sum(row['faults'] for row in rows)} faults")


def searched(form: str, seconds: int, seed: int) -> dict[str, Any]:
    """Let a process of its own search one format; what came of it."""
    faults = RESULTS / "fuzz-faults"
    faults.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(small(form)):
            Path(folder, str(number)).write_bytes(data)
        command = [sys.executable, __file__, form, folder, f"-seed={seed}"]
        command += [f"-max_total_time={seconds}", f"-timeout={SECONDS}", f"-max_len={LONGEST}"]
        command += [f"-rss_limit_mb={MEGABYTES}", "-print_final_stats=1"]
        command += [f"-artifact_prefix={faults}/{form}-"]
        # Its errors end the search: it is one fault, and what follows needs it mended first.
        run = subprocess.run(
            command, capture_output=True, text=True, errors="replace",
            env=os.environ | {"SIASEARCH_FUZZ": "1", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        kept = len(os.listdir(folder))
    counted = {key: int(value) for key, value in re.findall(r"stat::(\w+):\s+(\d+)", run.stderr)}
    if run.returncode:
        print(run.stderr[-3000:], file=sys.stderr)
    return {
        "format": form,
        "files": counted.get("number_of_executed_units", 0),
        "kept": kept,
        "peak_mb": counted.get("peak_rss_mb", 0),
        "faults": int(run.returncode != 0),
    }


def small(form: str) -> list[bytes]:
    """Small pictures of a format, of every kind."""
    sys.path.insert(0, str(ROOT / "tests"))
    from bad_pictures import photo, pictures

    found = pictures(photo(24, 18))
    name = next(name for name in found if name.lower() == form.lower())
    return [data for data in found[name].values() if len(data) <= LONGEST]


def search(arguments: list[str]) -> None:
    """Search in this process, by libFuzzer's arguments."""
    atheris = importlib.import_module("atheris")

    with atheris.instrument_imports(include=["siamese_search.pictures", "PIL"]):
        from siamese_search.errors import ImageError
        from siamese_search.pictures import render
        from siamese_search.pictures.preprocessing import Preprocessing

    how = Preprocessing(32, 32, resize="squash")

    def one(data: bytes) -> None:
        try:
            pixels = render.decode(data, how)
        except ImageError:
            return
        assert pixels.shape == (32, 32, 3), pixels.shape

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


if __name__ == "__main__":
    if os.environ.get("SIASEARCH_FUZZ"):
        search(sys.argv[2:])
    else:
        main()
