"""A process that embeds for a comparison: ``python -m siamese_search.evaluation.embedder``.

Each encoder has one of its own, so that its memory can be told. A line of standard input has the
numbers of the first picture and of the one after the last; a line of standard output says what that
took. In the end, what was found is written into the folder of the comparison.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import SiaSearchError
from siamese_search.evaluation.probes import Probes, embedded
from siamese_search.machine import forget_peak_memory, give_back_memory, peak_memory
from siamese_search.records import ImageFile

FILES = "files.json"  # [path, identity] of every picture
WARM_UP = 16  # pictures


def main(name: str, device: str, folder: str, number: str) -> None:
    """Embed what is asked for, until nothing more is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is meant for the process that asks
    # Whatever libraries print is no answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**facts: Any) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    files = [ImageFile(*one) for one in json.loads(Path(folder, FILES).read_text("utf-8"))]
    try:
        encoder = Encoder.open(name, device or None)
        embedded(encoder, files[:WARM_UP])
        # What compiling took is taken once, and not at all where it was kept.
        give_back_memory()
        forget_peak_memory()
        answer(device=encoder.runtime.device)
        found: list[tuple[int, Probes]] = []
        for line in sys.stdin:
            first, after = json.loads(line)
            begun = time.perf_counter()
            probes = embedded(encoder, files[first:after])
            answer(seconds=time.perf_counter() - begun, memory=peak_memory())
            found.append((first, probes))
        _write(Path(folder, f"{number}.npz"), files, found)
    except SiaSearchError as error:
        answer(error=str(error))


def _write(path: Path, files: list[ImageFile], found: list[tuple[int, Probes]]) -> None:
    """What was found, as arrays: ``rows`` are the numbers of the pictures that could be read."""
    rows: list[int] = []
    for first, probes in found:
        number = first
        for one in probes.files:  # in the order of the files
            while files[number].path != one.path:
                number += 1
            rows.append(number)
            number += 1
    arrays: dict[str, Any] = {"rows": np.array(rows, np.int64)}
    arrays["embeddings"] = np.concatenate([probes.embeddings for _, probes in found])
    places = [one for _, probes in found for one in probes.places or () if one is not None]
    if places:
        arrays["places"] = np.stack(places)
    rejected = [[one.path, one.reason] for _, probes in found for one in probes.rejected]
    np.savez(path, rejected=np.array(json.dumps(rejected)), **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
