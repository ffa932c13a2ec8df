"""How many images a second an encoder's network takes on this machine, without decoding."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.pipeline import parallel_map, thread_pool

ROUNDS = 5
SECONDS = 1.0  # of a round, about
MOST = 256  # batches of a round


@dataclass(frozen=True)
class Rate:
    """Images a second, the mean of several rounds with its standard error."""

    mean: float
    error: float
    device: str


def measured_rate(encoder: Encoder) -> Rate:
    """Have the network embed noise, in batches as it embeds pictures, for some seconds."""
    runtime, shown = encoder.runtime, encoder.record.preprocessing
    shape = (runtime.batch, shown.height, shown.width, shown.channels)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    runtime.embed(noise)  # the first run sets things up
    begun = time.perf_counter()
    runtime.embed(noise)
    once = max(time.perf_counter() - begun, 1e-6)
    several = min(MOST, max(runtime.parallel, round(SECONDS * runtime.parallel / once)))
    rates = []
    with thread_pool(runtime.parallel) as pool:
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            given = parallel_map(pool, runtime.embed, [noise] * several, ahead=runtime.parallel + 1)
            done = sum(len(one) for one in given)
            rates.append(done / (time.perf_counter() - begun))
    return Rate(statistics.fmean(rates), statistics.stdev(rates) / ROUNDS**0.5, runtime.device)
