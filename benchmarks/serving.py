"""How fast does the server answer, against the same pictures asked without it?

    python benchmarks/serving.py [--clients 64] [--seconds 20]

A gallery of grocery photos is served on this machine; clients ask about other photos, one each a
request, over connections of their own. *Offline* is ``Gallery.identify_each`` over the same photos
in the same run, before and after. *Beyond the encoder*: a single client's times less the median
time that decoding and embedding one photo takes here.
"""

from __future__ import annotations

import contextlib
import http.client
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import uvicorn
from common import grocery_split, parser, table, write_results

from siamese_search import Encoder, Gallery
from siamese_search.records import ImageFile
from siamese_search.serving.app import application

BOUNDARY = "a-boundary-that-no-photo-has"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[int]:
    """The port at which a gallery is served by a thread."""
    app = application([folder], ["127.0.0.1"])
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


def ask(port: int, gallery: str, bodies: list[bytes], until: float, first: int) -> list[float]:
    """Seconds that each request of a client took, until a time."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    taken, number = [], first
    while time.perf_counter() < until:
        begun = time.perf_counter()
        path = f"/api/v1/galleries/{gallery}/identify"
        connection.request("POST", path, bodies[number % len(bodies)], kind)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"status {answer.status}")
        taken.append(time.perf_counter() - begun)
        number += 1
    return taken


def load(port: int, name: str, bodies: list[bytes], clients: int, seconds: float) -> list[float]:
    """Seconds that every request took, of so many clients, in a process of their own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_load, port, name, bodies, clients, seconds).result()


def _load(port: int, name: str, bodies: list[bytes], clients: int, seconds: float) -> list[float]:
    until, taken = time.perf_counter() + seconds, list[float]()

    def run(first: int) -> None:
        taken.extend(ask(port, name, bodies, until, first))

    threads = [threading.Thread(target=run, args=(97 * n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def percentile(taken: list[float], share: float) -> float:
    return 1000 * sorted(taken)[min(len(taken) - 1, int(share * len(taken)))]


def main() -> None:
    arguments = parser(__doc__, repeats=1)
    arguments.add_argument("--clients", type=int, default=64)
    arguments.add_argument("--seconds", type=float, default=20.0)
    options = arguments.parse_args()
    encoder = Encoder.open(options.encoder)
    enrolled = [ImageFile(p.path, p.fine) for p in grocery_split("train")]
    asked = [Path(photo.path).read_bytes() for photo in grocery_split("test")[:800]]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "shop")
        with Gallery.open(folder, encoder) as gallery:
            gallery.enroll_found(enrolled)
            gallery.compact()

            def offline() -> float:
                begun = time.perf_counter()
                for _ in gallery.identify_each(asked):
                    pass
                return len(asked) / (time.perf_counter() - begun)

            offline()
            rates = [offline()]
            alone = []
            for data in asked[:100]:
                begun = time.perf_counter()
                encoder.describe([data])
                alone.append(time.perf_counter() - begun)
        bodies = [body_of(data) for data in asked]
        with served(folder) as port:
            load(port, "shop", bodies, 4, 2)  # warms up
            single = load(port, "shop", bodies, 1, options.seconds / 2)
            many = load(port, "shop", bodies, options.clients, options.seconds)
        with Gallery.open(folder, encoder) as gallery:
            rates.append(offline())
    rate = len(many) / options.seconds
    own = 1000 * statistics.median(alone)
    found = {
        "offline, photos a second": statistics.fmean(rates),
        f"{options.clients} clients, photos a second": rate,
        "ratio": rate / statistics.fmean(rates),
        "one client, ms beyond the encoder, median": percentile(single, 0.5) - own,
        "one client, ms beyond the encoder, 99 %": percentile(single, 0.99) - own,
        f"{options.clients} clients, ms, 99 %": percentile(many, 0.99),
    }
    table("Serving", ("what", "measured"), [(key, f"{value:.2f}") for key, value in found.items()])
    write_results("serving", options.encoder, found)


if __name__ == "__main__":
    main()
