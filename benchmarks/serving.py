"""How fast does the server answer, against the same pictures asked without it?

    python benchmarks/serving.py [--clients 64] [--seconds 20] [--decoding | --workers 1 2]

A gallery of grocery photos is served on this machine; clients ask about other photos, one each a
request, over connections of their own. *Offline* is ``Gallery.identify_each`` over the same photos
in the same run, in turns with the others. *Beyond the encoder*: a single client's times less those
that decoding and embedding one photo takes here. *At half the rate*: requests arrive at random
(Poisson) at half the rate that all clients together have reached, whether or not earlier ones are
answered, and their times count from when they were due.

The server decodes in processes of their own, as by default. With ``--decoding`` something else is
measured: what that costs, against decoding in the server's process, in turns; also for enrolment.

With ``--workers``, servers with so many workers, and one without any, answer in turns instead, each
on its own. The memory of a worker is what it has to itself, and its part of what it shares with
others (PSS).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import uvicorn
from common import grocery_split, interleaved, parser, seconds, table, write_results

from siamese_search import Encoder, Gallery
from siamese_search.pictures.apart import DECODING, WAYS
from siamese_search.records import ImageFile
from siamese_search.serving.app import application

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from loading import workers_of

BOUNDARY = "a-boundary-that-no-photo-has"


@contextlib.contextmanager
def served(folder: Path, workers: int = 0) -> Iterator[int]:
    """The port at which a gallery is served by a thread, and by workers."""
    app = application([folder], ["127.0.0.1"], workers=workers)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield int(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


def body_of(data: bytes) -> bytes:
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


class Client:
    """One that asks who is on photos, over a connection of its own."""

    def __init__(self, port: int, gallery: str) -> None:
        # Not ``http.client``: clients have the same cores as the server.
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._answers = self._socket.makefile("rb")
        self._head = (
            f"POST /api/v1/galleries/{gallery}/identify HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: "
        )

    def ask(self, body: bytes) -> bytes:
        """The answer to a request; ends the script where there is none."""
        self._socket.sendall(f"{self._head}{len(body)}\r\n\r\n".encode() + body)
        status, length = self._answers.readline(), 0
        while (line := self._answers.readline().lower()).strip():
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        said = self._answers.read(length)
        if b" 200 " not in status:
            raise SystemExit(f"{status.decode()}: {said.decode()}")
        return said


def load(port: int, name: str, bodies: list[bytes], clients: int, seconds: float) -> list[float]:
    """Seconds that every request took, of so many clients, in a process of their own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_load, port, name, bodies, clients, seconds).result()


def _load(port: int, name: str, bodies: list[bytes], clients: int, seconds: float) -> list[float]:
    until, taken = time.perf_counter() + seconds, list[float]()

    def run(first: int) -> None:
        client = Client(port, name)
        for number in itertools.count(first):
            begun = time.perf_counter()
            if begun >= until:
                break
            client.ask(bodies[number % len(bodies)])
            taken.append(time.perf_counter() - begun)

    in_threads([partial(run, 97 * n) for n in range(clients)])
    return taken


def arrivals(
    port: int, name: str, bodies: list[bytes], clients: int, seconds: float, rate: float, seed: int
) -> list[float]:
    """Seconds from when each request was due, of so many a second, in a process of their own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        due = pool.submit(_arrivals, port, name, bodies, clients, seconds, rate, seed)
        return due.result()


def _arrivals(
    port: int, name: str, bodies: list[bytes], clients: int, seconds: float, rate: float, seed: int
) -> list[float]:
    rng = random.Random(seed)
    times = list(itertools.accumulate(rng.expovariate(rate) for _ in range(int(rate * seconds))))
    waiting, taken = iter(enumerate(times)), list[float]()
    begun = time.perf_counter() + 0.2

    def run() -> None:
        client = Client(port, name)
        for number, due in waiting:
            time.sleep(max(0.0, begun + due - time.perf_counter()))
            client.ask(bodies[number % len(bodies)])
            taken.append(time.perf_counter() - begun - due)

    in_threads([run] * clients)
    return taken


def in_threads(tasks: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def percentile(taken: list[float], share: float) -> float:
    return 1000 * sorted(taken)[min(len(taken) - 1, int(share * len(taken)))]


def compare_decoding(encoder: Encoder, options: argparse.Namespace) -> None:
    """Print and note what decoding apart costs."""
    photos = [ImageFile(p.path, p.fine) for p in grocery_split("train")[: options.photos]]
    bodies = [body_of(Path(p.path).read_bytes()) for p in grocery_split("test")[:800]]
    each: float = options.seconds / options.repeats

    def enroll(decoding: str) -> float:
        os.environ[DECODING] = decoding
        with tempfile.TemporaryDirectory() as place, Gallery.open(place, encoder) as gallery:
            return len(photos) / seconds(lambda: gallery.enroll_found(photos))

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "shop")
        with Gallery.open(folder, encoder) as gallery:
            gallery.enroll_found(photos)
        with served(folder) as port:

            def ask(decoding: str, clients: int) -> list[float]:
                os.environ[DECODING] = decoding
                return load(port, "shop", bodies, clients, each)

            def throughput(decoding: str) -> float:
                return len(ask(decoding, options.clients)) / each

            def latency(decoding: str) -> float:
                return percentile(ask(decoding, 1), 0.5)

            whats = {"enrolled": enroll, "all clients": throughput, "one client": latency}
            tasks: dict[str, Callable[[], float]] = {
                f"{what} {way}": partial(task, way) for what, task in whats.items() for way in WAYS
            }
            raw = interleaved(tasks, options.repeats, warmups=1)
    rows = []
    for what, unit in (
        ("enrolled", "photos a second"),
        ("all clients", "photos a second"),
        ("one client", "ms, median"),
    ):
        here, there = (raw[f"{what} {way}"] for way in WAYS)
        pairs = [b / a for a, b in zip(here, there, strict=True)]
        middle = [f"{statistics.median(series):.1f}" for series in (here, there, pairs)]
        middle[2] = f"{statistics.median(pairs):.3f} ({min(pairs):.2f} to {max(pairs):.2f})"
        rows.append((f"{what}, {unit}", *middle))
    table("Decoding apart", ("what", "here", "apart", "apart / here"), rows)
    write_results("serving_decoding", options.encoder, {"clients": options.clients, "raw": raw})


def memory_of(process: int) -> float:
    """MB that a process has to itself, and its part of what it shares with others."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


@dataclass
class Seen:
    """What clients got of a server with so many workers, in all turns."""

    rates: list[float] = field(default_factory=list)  # photos a second with many clients
    many: list[float] = field(default_factory=list)  # seconds
    single: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)  # MB of each worker


def compared(
    folder: Path, bodies: list[bytes], clients: int, seconds: float, turns: int, counts: list[int]
) -> dict[int, Seen]:
    """What clients get with each number of workers, in turns of so many seconds."""
    found = {count: Seen() for count in counts}
    for turn in range(turns):
        # Not always in the same order: what runs first may find the machine cooler.
        for count in counts if turn % 2 == 0 else reversed(counts):
            seen = found[count]
            with served(folder, count) as port:
                load(port, folder.name, bodies, 4, 1)  # warms up
                seen.single += load(port, folder.name, bodies, 1, seconds)
                answered = load(port, folder.name, bodies, clients, seconds)
                seen.rates.append(len(answered) / seconds)
                seen.many += answered
                seen.memory += map(memory_of, workers_of(os.getpid()))
    return found


def compare(options: argparse.Namespace, folder: Path, bodies: list[bytes]) -> None:
    """Print and write what workers change."""
    counts = [0, *options.workers]
    each = options.seconds / options.repeats / len(counts)
    seen = compared(folder, bodies, options.clients, each, options.repeats, counts)
    alone = seen[0].rates
    results = {
        str(count): {
            "photos a second": statistics.fmean(one.rates),
            "against none": statistics.fmean(a / b for a, b in zip(one.rates, alone, strict=True)),
            "one client, ms, median": percentile(one.single, 0.5),
            "one client, ms, 99 %": percentile(one.single, 0.99),
            f"{options.clients} clients, ms, 99 %": percentile(one.many, 0.99),
            "a worker, MB": statistics.fmean(one.memory) if one.memory else 0.0,
        }
        for count, one in seen.items()
    }
    rows = [[key, *(f"{value:.2f}" for value in row.values())] for key, row in results.items()]
    table("Workers", ("workers", *results["0"]), rows)
    write_results("serving_workers", options.encoder, {"workers": results})


def main() -> None:
    arguments = parser(__doc__, repeats=4)
    arguments.add_argument("--clients", type=int, default=64)
    arguments.add_argument("--seconds", type=float, default=20.0, help="of load, in all")
    arguments.add_argument("--seed", type=int, default=1, help="of the arrivals")
    arguments.add_argument("--decoding", action="store_true", help="what decoding apart costs")
    arguments.add_argument("--photos", type=int, default=600, help="that are enrolled for that")
    arguments.add_argument("--workers", type=int, nargs="+", help="compare servers with so many")
    options = arguments.parse_args()
    encoder = Encoder.open(options.encoder)
    if options.decoding:
        compare_decoding(encoder, options)
        return
    enrolled = [ImageFile(p.path, p.fine) for p in grocery_split("train")]
    asked = [Path(photo.path).read_bytes() for photo in grocery_split("test")[:800]]
    bodies = [body_of(data) for data in asked]
    clients, each = options.clients, options.seconds / options.repeats
    offline: list[float] = []
    alone: list[float] = []
    single: list[float] = []
    many: list[float] = []
    half: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "shop")
        with Gallery.open(folder, encoder) as gallery:
            gallery.enroll_found(enrolled)
            gallery.compact()
            if options.workers:
                compare(options, folder, bodies)
                return
            with served(folder) as port:
                load(port, "shop", bodies, 4, 2)  # warms up
                # In turns, since a busy spell of the machine should hit all of them.
                for turn in range(options.repeats + 1):
                    os.environ[DECODING] = "here"
                    begun = time.perf_counter()
                    for _ in gallery.identify_each(asked):
                        pass
                    if not turn:  # that, too
                        continue
                    offline.append(len(asked) / (time.perf_counter() - begun))
                    for data in asked[:100]:
                        begun = time.perf_counter()
                        encoder.describe([data])
                        alone.append(time.perf_counter() - begun)
                    os.environ[DECODING] = "apart"
                    single += load(port, "shop", bodies, 1, each)
                    answered = load(port, "shop", bodies, clients, each)
                    many += answered
                    rate, seed = len(answered) / each / 2, options.seed + turn
                    half += arrivals(port, "shop", bodies, clients, each, rate, seed)
    rate = len(many) / options.seconds
    found = {
        "offline, photos a second": statistics.fmean(offline),
        f"{clients} clients, photos a second": rate,
        "ratio": rate / statistics.fmean(offline),
        "one client, ms, median": percentile(single, 0.5),
        "one client, ms, 99 %": percentile(single, 0.99),
        "one photo in the encoder, ms, median": percentile(alone, 0.5),
        "one photo in the encoder, ms, 99 %": percentile(alone, 0.99),
        "one client, ms beyond the encoder, median": percentile(single, 0.5)
        - percentile(alone, 0.5),
        "one client, ms beyond the encoder's median, 99 %": percentile(single, 0.99)
        - percentile(alone, 0.5),
        "one client, ms beyond the encoder's 99 %, 99 %": percentile(single, 0.99)
        - percentile(alone, 0.99),
        f"{clients} clients, ms, 99 %": percentile(many, 0.99),
        "at half the rate, ms, median": percentile(half, 0.5),
        "at half the rate, ms, 99 %": percentile(half, 0.99),
        "at half the rate, 99 %, against one client": percentile(half, 0.99)
        / percentile(single, 0.99),
    }
    table("Serving", ("what", "measured"), [(key, f"{value:.2f}") for key, value in found.items()])
    write_results("serving", options.encoder, found)


if __name__ == "__main__":
    main()
