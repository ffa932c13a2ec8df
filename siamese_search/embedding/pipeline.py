"""Decode threads → batches → descriptions, as chained generators with bounded memory.

Each stage pulls from the one before and keeps a few tasks in flight, so the consumer's own work
(hashing look-ups, transactions) overlaps with decoding and encoding. Order is kept throughout.
It knows neither files nor encoders: a loader makes the pixels, a runtime the embeddings and places.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import chain, islice
from typing import TypeVar

import numpy as np

from siamese_search.arrays import PixelArray
from siamese_search.embedding.runtimes import Runtime
from siamese_search.embedding.vectors import Description, are_unit
from siamese_search.errors import ImageError
from siamese_search.machine import cores

T = TypeVar("T")
R = TypeVar("R")
Key = TypeVar("Key")
Source = TypeVar("Source")

AHEAD = 64  # decoded images that wait to be gathered


@contextmanager
def thread_pool(workers: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool with a thread a core. Leaving it drops what has not begun, as on Ctrl-C."""
    pool = ThreadPoolExecutor(workers or cores())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def parallel_map(
    pool: ThreadPoolExecutor,
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    ahead: int,
    cost: Callable[[T], int] = lambda item: 0,
    budget: int = 64 << 20,
) -> Iterator[R]:
    """``map`` in threads, in order, lazily: at most ``ahead`` results wait to be consumed.

    ``cost`` gives the bytes that an item holds while it waits; their sum stays within ``budget``
    (a single item may exceed it).
    """
    waiting: deque[tuple[Future[R], int]] = deque()
    held = 0
    for item in items:
        weight = cost(item)
        while waiting and (len(waiting) >= ahead or held + weight > budget):
            future, freed = waiting.popleft()
            held -= freed
            yield future.result()
        waiting.append((pool.submit(function, item), weight))
        held += weight
    while waiting:
        yield waiting.popleft()[0].result()


def decoded(
    pool: ThreadPoolExecutor,
    sources: Iterable[tuple[Key, Source]],
    load: Callable[[Source], PixelArray],
    *,
    cost: Callable[[Source], int] = lambda source: 0,
) -> Iterator[tuple[Key, PixelArray | ImageError]]:
    """Load the pixels (height, width, channels) of each (key, source), or the error of that image.

    ``cost`` gives the bytes that a source holds while it waits; see ``parallel_map``.
    """

    def loaded(pair: tuple[Key, Source]) -> tuple[Key, PixelArray | ImageError]:
        key, source = pair
        try:
            return key, load(source)
        except ImageError as error:
            return key, error

    return parallel_map(pool, loaded, sources, ahead=AHEAD, cost=lambda pair: cost(pair[1]))


@contextmanager
def described(
    sources: Iterable[tuple[Key, Source]],
    load: Callable[[Source], PixelArray],
    open_runtime: Callable[[], Runtime],
    *,
    cost: Callable[[Source], int] = lambda source: 0,
) -> Iterator[Iterator[list[tuple[Key, Description | ImageError]]]]:
    """Give batches of (key, description) for each (key, source), as a stream.

    Leaving it waits for what runs, so that no loader is left that reads or writes.
    """
    with (
        thread_pool() as pool,
        closing(describe_batches(decoded(pool, sources, load, cost=cost), open_runtime)) as stream,
    ):
        yield stream


def describe_batches(
    pixels: Iterable[tuple[T, PixelArray | ImageError]],
    open_runtime: Callable[[], Runtime],
    batch: int | None = None,
) -> Generator[list[tuple[T, Description | ImageError]], None, None]:
    """Describe (key, uint8 (H, W, C)) pairs, in order and batch by batch.

    Yields (key, description) pairs; an error in place of pixels comes out as it went in.
    The runtime is opened once there is something to describe; it says how large a ``batch`` suits.
    """
    iterator = iter(pixels)
    first = next(iterator, None)
    if first is None:
        return
    runtime = open_runtime()
    gathered = batches(chain([first], iterator), batch or runtime.batch)

    def describe(
        pairs: list[tuple[T, PixelArray | ImageError]],
    ) -> list[tuple[T, Description | ImageError]]:
        readable = [image for _, image in pairs if not isinstance(image, ImageError)]
        found = described_by(runtime, np.stack(readable)) if readable else iter(())
        return [
            (key, image if isinstance(image, ImageError) else next(found)) for key, image in pairs
        ]

    # While these are encoded, the next is gathered.
    with thread_pool(runtime.parallel) as pool:
        yield from parallel_map(pool, describe, gathered, ahead=runtime.parallel + 1)


def described_by(runtime: Runtime, pixels: PixelArray) -> Iterator[Description | ImageError]:
    """What a runtime gives for pixels (n, height, width, channels), each one's, or its error: no
    picture may become what cannot be compared.
    """
    embeddings, places = runtime.describe(pixels)
    for row, unit in enumerate(are_unit(embeddings).tolist()):
        if unit:
            yield Description(embeddings[row], None if places is None else places[row])
        else:
            yield ImageError("the encoder gives no finite embedding of unit length for it")


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
