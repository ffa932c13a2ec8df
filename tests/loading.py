"""A server in a process of its own, and clients that ask it while it is killed, stopped or changed.

Shared by ``test_serving_load.py``, ``test_serving_workers.py``, ``benchmarks/serving_kills.py`` and
``benchmarks/serving_switches.py``.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from conftest import picture

from siamese_search.gallery.gallery import Gallery

BOUNDARY = "a-boundary-that-no-picture-has"
PATIENCE = 60.0  # seconds at most for an answer, and for the end of a server
KINDS = ("compact", "calibrate", "rebuild")  # of jobs that change the index file
COMMAND = (sys.executable, "-m", "siamese_search")


class Server:
    """``siasearch serve`` on a gallery."""

    def __init__(self, gallery: Path, *options: str, command: Sequence[str] = COMMAND) -> None:
        self.gallery = gallery
        self.log = log = gallery.with_name(f"{gallery.name}.log")
        with log.open("wb") as said:
            self.process = subprocess.Popen(
                [*command, "serve", "-g", str(gallery), "--port", "0", *options], stderr=said
            )
        while not (found := re.search(r"serving on http://127\.0\.0\.1:(\d+)/", log.read_text())):
            if self.process.poll() is not None:
                raise RuntimeError(f"the server did not start: {log.read_text()}")
            time.sleep(0.02)
        self.port = int(found[1])

    def client(self) -> Client:
        """Somebody with a connection of their own."""
        return Client(self.port, self.gallery.name)

    def done(self, kind: str) -> str:
        """How a job has ended: done, or what went wrong."""
        with self.client() as client:
            return client.done(kind)

    def kill(self) -> None:
        """End it at once, as ``kill -9`` does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to end; returns its exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE)


@contextmanager
def serving(gallery: Path, *options: str, command: Sequence[str] = COMMAND) -> Iterator[Server]:
    """A server that is stopped when it is left."""
    server = Server(gallery, *options, command=command)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


class Client:
    """Somebody who asks a server about one gallery."""

    def __init__(self, port: int, gallery: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._at = f"/api/v1/galleries/{gallery}"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> tuple[int, Any]:
        """The status and what is said."""
        at = path if path.startswith("/api") else self._at + path
        self._connection.request(method, at, body, {"Content-Type": kind})
        answer = self._connection.getresponse()
        said = answer.read()
        return answer.status, json.loads(said) if said else None

    def send(self, path: str, images: Sequence[bytes], **fields: str) -> tuple[int, Any]:
        """The answer to a form with pictures."""
        parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
        parts += [b'name="image"; filename="a.png"\r\n\r\n' + data for data in images]
        head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; ".encode()
        body = b"".join(head + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()
        return self.ask("POST", path, body, f"multipart/form-data; boundary={BOUNDARY}")

    def done(self, kind: str) -> str:
        """How a job has ended: done, or what went wrong."""
        status, job = self.ask("POST", "/jobs", json.dumps({"kind": kind}).encode())
        assert status == 202, job
        while job["state"] in ("queued", "running"):
            time.sleep(0.05)
            _, job = self.ask("GET", f"/api/v1/jobs/{job['id']}")
        return str(job["error"] or job["state"])


def workers_of(server: int) -> list[int]:
    """The processes of a server's workers, by the server's."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == server and b"serving.worker" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    return found


def drawn(seed: int) -> bytes:
    """The file of a picture of its own for every seed."""
    kept = io.BytesIO()
    picture(seed).save(kept, "PNG")
    return kept.getvalue()


# Killed


@dataclass(frozen=True)
class Acknowledged:
    """An item whose enrolment a server has acknowledged: its picture by seed, number, identity."""

    seed: int
    number: int
    identity: str


def killed(gallery: Path, seed: int, clients: int = 3) -> list[Acknowledged]:
    """Enrol pictures by a server until it is killed at some moment; returns what it acknowledged.

    The pictures of two seeds are the same only where the same clients have got as far.
    """
    rng = random.Random(seed)
    found: list[Acknowledged] = []
    begun = threading.Event()

    def enrol(own: int, client: Client) -> None:
        for turn in range(10_000):
            first = (seed * 10 + own) * 10_000 + turn * 2
            seeds = [first, first + 1][: 1 + turn % 2]
            label = f"thing {first}"
            try:
                status, said = client.send("/enroll", [drawn(one) for one in seeds], label=label)
            except (OSError, http.client.HTTPException):
                return  # killed
            assert status == 201, said
            begun.set()
            numbers = sorted(said["numbers"])
            found.extend(Acknowledged(one, n, label) for one, n in zip(seeds, numbers, strict=True))

    server = Server(gallery)
    with ThreadPoolExecutor(clients) as pool, ExitStack() as stack:
        asking = [stack.enter_context(server.client()) for _ in range(clients)]
        running = [pool.submit(enrol, own, client) for own, client in enumerate(asking)]
        begun.wait(PATIENCE)
        time.sleep(rng.uniform(0, 0.5))
        server.kill()
        for one in running:
            one.result()
    return found


def lost(gallery: Gallery, known: Sequence[Acknowledged]) -> list[str]:
    """What a gallery lacks of what was acknowledged, one line each."""
    faults = []
    items = {item.number: item for item in gallery.items_by_number(one.number for one in known)}
    for one in known:
        item, data = items.get(one.number), drawn(one.seed)
        if item is None:
            faults.append(f"{one}: it is gone")
        elif (item.identity, item.content) != (one.identity, hashlib.sha256(data).hexdigest()):
            faults.append(f"{one}: it is {item}")
        elif gallery.image(item) != data:
            faults.append(f"{one}: its copy is another picture")
    probes = [drawn(one.seed) for one in known if one.number in items]
    # By the nearest item: to an encoder of photos, mosaics look alike.
    answers = gallery.identify(probes, k=1, rule="best")
    for one, answer in zip((one for one in known if one.number in items), answers, strict=True):
        if not answer.matches or answer.matches[0].identity != one.identity:
            faults.append(f"{one}: it is taken for {answer.matches}")
    return faults


# Switched


@dataclass
class Watched:
    """What clients got while a gallery was changed."""

    answers: int = 0
    versions: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def states(
    gallery: Path, encoders: Sequence[str], probes: Sequence[bytes], scratch: Path
) -> list[list[Any]]:
    """Answers to probes in every state that ``switched`` may show: under each encoder, calibrated
    and before that.
    """
    found: list[list[Any]] = []
    for name, calibrated in ((n, c) for n in encoders for c in (False, True)):
        folder = scratch / "state"
        shutil.copytree(gallery, folder)
        with Gallery.open(folder) as copy:
            copy.rebuild(name)
            if calibrated:
                copy.calibrate(0.1)
            found.append([_shape(vars(one)) for one in _one_by_one(copy, probes)])
        shutil.rmtree(folder)
    return found


def _one_by_one(gallery: Gallery, probes: Sequence[bytes]) -> Iterator[Any]:
    for data in probes:  # a picture alone, since batches may round otherwise
        yield from gallery.identify([data], k=3)


def _shape(answer: Mapping[str, Any]) -> list[tuple[str, float]]:
    """What tells by which generation, and how, an answer was found."""
    matches = [one if isinstance(one, Mapping) else vars(one) for one in answer["matches"]]
    return [
        (str(answer["identity"]), float(answer["threshold"])),
        *((f"{one['identity']} {one['item']}", float(one["score"])) for one in matches),
    ]


def _same(a: Sequence[tuple[str, float]], b: Sequence[tuple[str, float]], within: float) -> bool:
    return [name for name, _ in a] == [name for name, _ in b] and all(
        abs(x - y) <= within for (_, x), (_, y) in zip(a, b, strict=True)
    )


def switched(
    gallery: Path,
    encoders: Sequence[str],
    probes: Sequence[bytes],
    scratch: Path,
    times: int,
    clients: int = 4,
    within: float = 1e-5,
    tell: Callable[[str], None] = lambda what: None,
    options: Sequence[str] = (),
) -> Watched:
    """Change a served gallery so many times while clients identify; every answer must be that of
    one of its states, up to rounding ``within``. It is calibrated, under the first encoder.
    ``options`` are those of the server.
    """
    allowed = states(gallery, encoders, probes, scratch)
    with Gallery.open(gallery) as opened:
        opened.calibrate(0.1)
    found, done = Watched(), threading.Event()

    def identify(client: Client, first: int) -> None:
        number = first
        while not done.is_set():
            number = (number + 1) % len(probes)
            begun = time.perf_counter()
            status, said = client.send("/identify?k=3", [probes[number]])
            found.seconds.append(time.perf_counter() - begun)
            found.answers += 1
            if status != 200:
                found.errors.append(f"{status}: {said}")
                continue
            found.versions.add(said["version"])
            shape = _shape(said["answers"][0])
            if not any(_same(shape, state[number], within) for state in allowed):
                found.mixed.append(f"probe {number}: {shape}")

    def rebuilt(encoder: str) -> str:
        command = [*COMMAND, "rebuild", "--encoder", encoder, "-g", str(gallery)]
        ended = subprocess.run(command, capture_output=True, text=True)
        return "done" if ended.returncode == 0 else ended.stderr

    with (
        serving(gallery, *options) as server,
        ThreadPoolExecutor(clients) as pool,
        ExitStack() as stack,
    ):
        changes: list[tuple[str, Callable[[], str]]] = [
            *((f"job {kind}", partial(server.done, kind)) for kind in KINDS),
            *(
                (f"`rebuild --encoder {one}`", partial(rebuilt, one))
                for one in (*encoders[1:], encoders[0])
            ),
        ]
        asking = [stack.enter_context(server.client()) for _ in range(clients)]
        running = [pool.submit(identify, client, 7 * n) for n, client in enumerate(asking)]
        try:
            while found.answers < clients:
                time.sleep(0.01)
            for turn in range(times):
                what, change = changes[turn % len(changes)]
                result = change()
                tell(f"{turn + 1}/{times} {what}: {result}, {found.answers} answers")
                if result != "done":
                    found.errors.append(f"{what}: {result}")
        finally:
            done.set()
        for one in running:
            one.result()
    return found
