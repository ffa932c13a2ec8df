"""Decode thousands of bad pictures and look at what is made of each.

    python benchmarks/faults/pictures.py --count 10000 --seed 1

Drawn pictures in every format and kind, and real ones where there are any, come to harm in the ways
of ``tests/bad_pictures.py``. Each is decoded in a process that is watched: it may be refused, or
show what the file showed before (the harm was to metadata, or hardly visible), or something else.
That is compared with what an independent reader makes of the file: torchvision, or tifffile. Writes
``results/faults-pictures.json`` and prints a table.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import multiprocessing
import os
import random
import resource
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tifffile
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from bad_pictures import HARM, harmed, photo, pictures

from siamese_search import __version__
from siamese_search.errors import ImageError
from siamese_search.pictures import render
from siamese_search.pictures.preprocessing import Preprocessing

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 20.0  # seconds for a picture
SAME = 2.0  # the mean difference up to which two pictures are the same
HOW = Preprocessing(64, 64, resize="squash")
OUTCOMES = ("refused", "same", "as another reader", "otherwise", "traceback", "crash", "hang")


@dataclass(frozen=True)
class Case:
    """A file that comes to harm."""

    form: str
    kind: str
    data: bytes
    harm: str
    seed: int
    other: bytes

    @property
    def bad(self) -> bytes:
        return harmed(self.data, self.harm, self.seed, self.other)


def cases(count: int, seed: int) -> list[Case]:
    """As many of every format, kind and harm."""
    sources: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
    for image in (photo(seed=seed), photo(400, 300, seed=seed + 1), *_real(4)):
        for form, kinds in pictures(image).items():
            sources[form] += kinds.items()
    chance = random.Random(seed)
    forms = sorted(sources)
    made = []
    for number in range(count):
        form = forms[number % len(forms)]
        kind, data = chance.choice(sources[form])
        harm = HARM[number // len(forms) % len(HARM)]
        made.append(Case(form, kind, data, harm, seed + number, chance.choice(sources[form])[1]))
    return made


def _real(number: int) -> list[Image.Image]:
    folder = Path(os.environ.get("SIASEARCH_DATA") or ROOT.parent / "shared" / "data")
    found = sorted(folder.glob("grocery/**/*.jpg"))
    return [Image.open(path).convert("RGB") for path in found[:: max(1, len(found) // number)]][
        :number
    ]


def outcome(case: Case) -> tuple[str, str]:
    """What is made of a case, and what is said of it; "otherwise" is yet to be compared."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            shown = render.decode(case.bad, HOW).astype(int)
        except ImageError as error:
            return "refused", str(error)
        except Exception:
            return "traceback", traceback.format_exc(limit=-3)
    if caught:
        return "traceback", f"warning: {caught[0].message}"
    same = np.abs(shown - render.decode(case.data, HOW)).mean() <= SAME
    return ("same" if same else "otherwise"), ""


def comparison(case: Case) -> tuple[str, str]:
    """Whether an independent reader shows a case as it was shown here."""
    other = independent(case.form, case.bad)
    if other is None:
        return "otherwise", "the other reader refuses it, or there is none"
    shown = render.decode(case.bad, HOW).astype(int)
    if np.abs(shown - other).mean() <= 2 * SAME:
        return "as another reader", ""
    return "otherwise", "the other reader shows something else"


def independent(form: str, data: bytes) -> np.ndarray[Any, Any] | None:
    """What an independent reader shows, as ``HOW`` has it; None where it refuses."""
    # Loaded here: what it takes of memory is not to be counted where pictures are decoded.
    import torch
    from torchvision.io import ImageReadMode, decode_gif, decode_jpeg, decode_png, decode_webp

    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        if form == "TIFF":
            logging.getLogger("tifffile").disabled = True
            with tifffile.TiffFile(io.BytesIO(data)) as file:
                page: Any = file.pages[0]
                samples, photometric = page.asarray(), page.photometric.name
            if photometric not in ("RGB", "MINISBLACK", "MINISWHITE"):
                return None
            if samples.shape[0] in (3, 4) and samples.ndim == 3:
                samples = np.moveaxis(samples, 0, 2)
            top = {"u": 2.0 ** (8 * samples.itemsize) - 1, "b": 1.0}.get(samples.dtype.kind, 1.0)
            scaled = np.nan_to_num(samples / top * 255).clip(0, 255)
            pixels = (255 - scaled if photometric == "MINISWHITE" else scaled).astype(np.uint8)
        elif form in ("JPEG", "PNG"):
            decode = decode_jpeg if form == "JPEG" else decode_png
            if form == "PNG" and b"tRNS" in data:
                return None  # torchvision shows what is clear as whatever colour lies there
            clear = form == "PNG" and data[25] in (4, 6)
            mode = ImageReadMode.RGB_ALPHA if clear else ImageReadMode.RGB
            decoded = decode(raw, mode, apply_exif_orientation=True)
            pixels = decoded.permute(1, 2, 0).numpy()
        elif form == "WebP":
            pixels = decode_webp(raw, ImageReadMode.RGB_ALPHA).permute(1, 2, 0).numpy()
        elif form == "GIF":
            decoded = decode_gif(raw)
            pixels = (decoded[0] if decoded.ndim == 4 else decoded).permute(1, 2, 0).numpy()
        else:
            return None
        image = Image.fromarray(np.ascontiguousarray(pixels.squeeze()))
        return render.prepare(image, HOW).astype(int)
    except Exception:  # whatever it raises, it refuses
        return None


T = TypeVar("T")
Look = Callable[[T], tuple[str, str]]


def work(connection: Connection, todo: Sequence[T], look: Look[T]) -> None:
    """Answer numbers of cases with outcomes, seconds, and the peak of memory in bytes."""
    while (number := connection.recv()) is not None:
        begun = time.perf_counter()
        said = look(todo[number])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        connection.send((*said, time.perf_counter() - begun, peak))


def watched(todo: Sequence[T], look: Look[T]) -> tuple[list[tuple[str, str, float]], int]:
    """What is made of every case, in seconds, and the largest peak of memory."""
    results: list[tuple[str, str, float]] = []
    peak = 0
    context = multiprocessing.get_context("fork")
    ours: Connection | None = None
    process: Any = None
    for number in range(len(todo)):
        if ours is None:
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, todo, look), daemon=True)
            process.start()
            theirs.close()
        ours.send(number)
        try:
            if ours.poll(DEADLINE):
                kind, said, seconds, used = ours.recv()
                results.append((kind, said, seconds))
                peak = max(peak, used)
                continue
            kind = "hang"
        except EOFError:
            kind = "crash"
        results.append((kind, "", DEADLINE))
        process.kill()
        ours = None
    if ours is not None:
        ours.send(None)
        process.join()
    return results, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="name cases that are read otherwise")
    options = parser.parse_args()
    todo = cases(options.count, options.seed)
    begun = time.perf_counter()
    results, peak = watched(todo, outcome)
    slowest = max(seconds for _, _, seconds in results)
    other = [number for number, (kind, _, _) in enumerate(results) if kind == "otherwise"]
    compared, _ = watched([todo[number] for number in other], comparison)
    for number, found in zip(other, compared, strict=True):
        results[number] = found
    by_form: dict[str, Counter[str]] = defaultdict(Counter)
    by_harm: dict[str, Counter[str]] = defaultdict(Counter)
    for case, (kind, said, _) in zip(todo, results, strict=True):
        by_form[case.form][kind] += 1
        by_harm[case.harm][kind] += 1
        if kind in ("traceback", "crash", "hang") or (options.show and kind == "otherwise"):
            print(f"{kind}: {case.form} {case.kind}, {case.harm}, seed {case.seed}: {said}")
    for title, table in (("format", by_form), ("harm", by_harm)):
        print(f"| {title} | files | " + " | ".join(OUTCOMES) + " |")
        print("| --- |" + " --- |" * (len(OUTCOMES) + 1))
        for name, counts in sorted(table.items()):
            cells = [str(counts[kind]) for kind in OUTCOMES]
            print(f"| {name} | {counts.total()} | " + " | ".join(cells) + " |")
    print(f"peak of memory {peak / 2**20:.0f} MiB, slowest picture {slowest:.1f} s")
    record = {
        "version": __version__,
        "seed": options.seed,
        "count": options.count,
        "seconds": round(time.perf_counter() - begun, 1),
        "peak_bytes": peak,
        "slowest_seconds": round(slowest, 2),
        "by_format": {name: dict(counts) for name, counts in sorted(by_form.items())},
        "by_harm": {name: dict(counts) for name, counts in sorted(by_harm.items())},
    }
    path = ROOT / "benchmarks" / "results" / "faults-pictures.json"
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
