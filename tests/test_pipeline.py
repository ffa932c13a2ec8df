from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from siamese_search.embedding.pipeline import (
    batches,
    decoded,
    describe_batches,
    described,
    parallel_map,
    thread_pool,
)
from siamese_search.errors import ImageError


class Mean:
    """A runtime whose embedding is the mean pixel, as an angle."""

    device = "cpu"
    batch = 16
    parallel = 2

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return self.describe(pixels)[0]

    def describe(self, pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], None]:
        self.sizes.append(len(pixels))
        means = pixels.mean(axis=(1, 2, 3), dtype=np.float32) / 100
        return np.stack([np.cos(means), np.sin(means)], axis=1), None


def test_parallel_map_keeps_order_and_uses_threads() -> None:
    def slow_square(number: int) -> tuple[int, str]:
        time.sleep(0.001 * (number % 7))
        return number * number, threading.current_thread().name

    with thread_pool(4) as pool:
        results = list(parallel_map(pool, slow_square, range(100), ahead=16))
    assert [square for square, _ in results] == [number * number for number in range(100)]
    assert len({name for _, name in results}) > 1


def test_parallel_map_never_runs_far_ahead_of_its_consumer() -> None:
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    with thread_pool(2) as pool:
        consumed = parallel_map(pool, lambda number: number, source(), ahead=10)
        for number in consumed:
            assert taken <= number + 11
            if number == 300:
                break


def test_parallel_map_keeps_to_its_budget() -> None:
    lock, held, most = threading.Lock(), 0, 0

    def source() -> Iterator[int]:
        nonlocal held, most
        for _ in range(50):
            with lock:
                held += 1
                most = max(most, held)
            yield 30

    with thread_pool(2) as pool:
        for _ in parallel_map(
            pool, lambda cost: cost, source(), ahead=40, cost=lambda cost: cost, budget=100
        ):
            with lock:
                held -= 1
    assert most <= 5


def test_an_error_in_a_task_comes_out_and_the_rest_is_dropped() -> None:
    done = []

    def task(number: int) -> int:
        if number == 5:
            raise ValueError("five")
        done.append(number)
        return number

    with thread_pool(1) as pool, pytest.raises(ValueError, match="five"):
        list(parallel_map(pool, task, range(1000), ahead=4))
    assert len(done) < 12


def test_batches_are_embedded_in_order_and_errors_pass_through() -> None:
    runtime = Mean()
    error = ImageError("cut")

    def pixels() -> Iterator[tuple[int, npt.NDArray[np.uint8] | ImageError]]:
        for number in range(70):
            yield number, error if number % 10 == 3 else np.full((2, 2, 3), number, np.uint8)

    results = [
        pair for batch in describe_batches(pixels(), lambda: runtime, batch=32) for pair in batch
    ]
    assert [key for key, _ in results] == list(range(70))
    for key, result in results:
        if key % 10 == 3:
            assert result is error
        else:
            assert not isinstance(result, ImageError)
            assert np.arctan2(*result.embedding[::-1]) * 100 == pytest.approx(key, abs=1e-3)
    assert sorted(runtime.sizes) == [6, 28, 29]


def test_a_batch_of_errors_alone_needs_no_runtime() -> None:
    runtime = Mean()
    assert len(next(describe_batches([(1, ImageError("cut"))], lambda: runtime))) == 1
    assert runtime.sizes == []


def test_batches_of_nothing_are_none() -> None:
    assert list(batches([], 3)) == []
    assert list(batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_nothing_to_embed_opens_no_runtime() -> None:
    assert list(describe_batches([], lambda: pytest.fail("opened"))) == []


def load(number: int) -> npt.NDArray[np.uint8]:
    if number % 10 == 3:
        raise ImageError("cut")
    return np.full((2, 2, 3), number, np.uint8)


def test_sources_become_pixels_in_order_and_errors_stay_with_their_keys() -> None:
    with thread_pool(3) as pool:
        stream = list(decoded(pool, ((str(n), n) for n in range(30)), load))
    assert [key for key, _ in stream] == [str(number) for number in range(30)]
    for key, pixels in stream:
        if int(key) % 10 == 3:
            assert isinstance(pixels, ImageError)
        else:
            assert not isinstance(pixels, ImageError)
            assert (pixels == int(key)).all()


def test_leaving_the_stream_waits_for_its_loaders_and_drops_the_rest() -> None:
    begun, ended = [], []

    def slow(number: int) -> npt.NDArray[np.uint8]:
        begun.append(number)
        time.sleep(0.01)
        ended.append(number)
        return load(0)

    def interrupted() -> None:
        with described(((n, n) for n in range(10_000)), slow, Mean) as stream:
            next(stream)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(begun) < 10_000
    assert sorted(begun) == sorted(ended)
