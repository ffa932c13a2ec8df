"""How fast an encoder is on this machine, and what memory it takes: measured in a process of its
own, which has nothing else in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.pipeline import parallel_map, thread_pool
from siamese_search.errors import EncoderError
from siamese_search.machine import peak_memory
from siamese_search.processes import command, environment

SECONDS = 3.0  # about
MOST = 200  # batches


@dataclass(frozen=True)
class Measured:
    """Images a second without decoding, and bytes of main memory, None where nobody counts them."""

    images_per_second: float
    memory: int | None
    device: str


def measured(folder: Path, device: str | None = None) -> Measured:
    """Measure the encoder of a folder. Raises EncoderError where it cannot be run."""
    process = subprocess.run(
        [*command(__name__), str(folder), *([device] if device else [])],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(),
    )
    if process.returncode:
        said = (process.stderr.strip().splitlines() or [f"ended with {process.returncode}"])[-1]
        raise EncoderError(f"{folder} cannot be run: {said}")
    return Measured(**json.loads(process.stdout))


def main() -> None:
    """Measure here the encoder that the first argument names, on the device of the second."""
    encoder = Encoder.open(sys.argv[1], *sys.argv[2:3])
    runtime, shown = encoder.runtime, encoder.record.preprocessing
    shape = (runtime.batch, shown.height, shown.width, shown.channels)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with thread_pool(runtime.parallel) as pool:

        def seconds(batches: int) -> float:
            begun = time.perf_counter()
            for _ in parallel_map(
                pool, runtime.embed, [noise] * batches, ahead=runtime.parallel + 1
            ):
                pass
            return time.perf_counter() - begun

        seconds(runtime.parallel)  # sets things up
        once = seconds(runtime.parallel)
        rounds = max(1, min(MOST // runtime.parallel, round(SECONDS / once)))
        took = seconds(rounds * runtime.parallel) if once < SECONDS else once
    done = runtime.batch * runtime.parallel * (rounds if once < SECONDS else 1)
    print(json.dumps(asdict(Measured(done / took, peak_memory(), runtime.device))))


if __name__ == "__main__":
    main()
