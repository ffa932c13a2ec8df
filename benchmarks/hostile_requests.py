"""What gets through to a server that nobody protects, and what it costs those who mean well?

    python benchmarks/hostile_requests.py [--requests 4000] [--seed 1]

``siasearch serve`` runs as a process of its own on a small gallery. It gets hostile requests of all
kinds in ``tests/hostile.py``: half of them labels and filters, 500 that come a byte at a time, all
at once, and the others. Meanwhile a client in another process asks about a picture ten times a
second. *Through* is what is answered otherwise than it must be: with success, with an error of the
server's own, with a path of the server's, or not within a minute.
"""

from __future__ import annotations

import http.client
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from common import ROOT, Bars, parser, table, write_results

sys.path.insert(0, str(ROOT / "tests"))

from conftest import picture
from hostile import API, Attacks, picture_bytes
from wire import BOUNDARY, CLOSED, END, Answer, Attack, part, send, slowly

from siamese_search import Encoder, Gallery

TOKEN = "a-token-that-nobody-guesses"
SLOW, KEPT = 500, 75  # sockets, and seconds after which none may be left
IDENTITIES = 50
THREADS = 4


@contextmanager
def served(folder: Path, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The server's process and its port."""
    token = folder.parent / "token"
    token.write_text(TOKEN)
    arguments = ["serve", "-g", str(folder), "--port", "0", "--token-file", str(token)]
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "siamese_search", *arguments], stderr=said, cwd=folder.parent
        )
    try:
        while (found := re.search(r"127\.0\.0\.1:(\d+)/", log.read_text())) is None:
            if process.poll() is not None:
                sys.exit(log.read_text())
            time.sleep(0.05)
        yield process, int(found[1])
    finally:
        process.terminate()
        process.wait()


def memory(process: subprocess.Popen[bytes], field: str) -> int:
    """Bytes of a process, by a field of its status; -1 once it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return 1024 * int(line.split()[1])
    return -1


def healthy(port: int, stop: str) -> list[tuple[float, bool]]:
    """Seconds of each answer to a client that means well, and whether it was right."""
    body = part(picture_bytes()) + END
    headers = {
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
    }
    found = []
    while not Path(stop).exists():
        begun, right = time.perf_counter(), False
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with suppress(OSError, http.client.HTTPException, KeyError, IndexError):
            connection.request("POST", f"{API}/identify?k=1", body, headers)
            (answer,) = json.load(connection.getresponse())["answers"]
            right = answer["matches"][0]["item"] == 1
        connection.close()
        found.append((time.perf_counter() - begun, right))
        time.sleep(0.1)
    return found


def warmed(port: int, stop: Path) -> float:
    """Ask from several threads, so that all of the server's have begun; then seconds of one."""
    for clients, seconds in ((8, 3), (1, 5)):
        with ThreadPoolExecutor(clients) as pool:
            asked = [pool.submit(healthy, port, str(stop)) for _ in range(clients)]
            time.sleep(seconds)
            stop.touch()
        stop.unlink()
    return statistics.median(took for took, _ in asked[0].result())


class Campaign:
    """What was sent, and what became of it."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.seed = seed
        self.statuses: dict[str, Counter[str]] = {}
        self.through: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def note(self, attack: Attack, answer: Answer | None) -> None:
        """Note an answer; None where there was none in time."""
        with self._lock:
            status = "none" if answer is None else str(answer.status or "closed")
            self.statuses.setdefault(attack.kind, Counter())[status] += 1
            if answer is None or attack.failed(answer):
                said = "" if answer is None else answer.body[:300].decode("utf-8", "replace")
                request = attack.data[:200].decode("latin-1")
                self.through.append(
                    {"kind": attack.kind, "request": request, "status": status, "answer": said}
                )

    def run(self, attacks: Iterator[Attack], count: int) -> None:
        """Send so many, one after the other; what only reads back is not counted."""
        left = count
        while left > 0:
            attack = next(attacks)
            try:
                answer = send(self.port, attack)
            except TimeoutError:
                answer = None
            self.note(attack, answer)
            left -= attack.kind != "label read"

    def slow(self, attacks: Attacks) -> None:
        """Headers and bodies that come a byte at a time, all at once."""
        form = f"multipart/form-data; boundary={BOUNDARY}"
        head = attacks.request("GET", API, b"", "Padding: " + "x" * 1000)
        whole = part(b"x" * 1000)
        body = attacks.request("POST", f"{API}/identify", whole, Content_Type=form)
        cut = len(body) - len(whole)
        kinds = [Attack("slow headers", head), Attack("slow body", body)]
        sent = [(0, head), (cut, body)]
        answers = slowly(self.port, list(itertools.islice(itertools.cycle(sent), SLOW)), 1.0, KEPT)
        right = frozenset({CLOSED, 408})
        for attack, answer in zip(itertools.cycle(kinds), answers):
            self.note(Attack(attack.kind, attack.data, right), answer)


def attack(port: int, count: int, seed: int) -> Campaign:
    """Send everything, with some threads beside the slow sockets."""
    found = Campaign(port, seed)
    known = {path: fetched(port, path) for path in ("/page/app.js", f"{API}/items/1/thumbnail")}
    kinds: list[Callable[[Attacks], Iterator[Attack]]] = [
        Attacks.tokens,
        Attacks.hosts,
        Attacks.lengths,
        Attacks.chunks,
        Attacks.parts,
        Attacks.paths,
        lambda one: one.ranges(known),
        Attacks.messages,
        Attacks.bodies,
        Attacks.pictures,
    ]
    rest = count - count // 2 - SLOW
    work = [(kind, rest // len(kinds) + (n < rest % len(kinds))) for n, kind in enumerate(kinds)]
    work += [(lambda one: one.labels(2, "p0"), count // 4), (Attacks.filters, count // 4)]
    with ThreadPoolExecutor(THREADS + 1) as pool:
        tasks = [pool.submit(found.slow, Attacks(port, TOKEN, seed))]
        for number, (kind, many) in enumerate(work):
            made = kind(Attacks(port, TOKEN, seed + number))
            tasks.append(pool.submit(found.run, made, many))
        for task in tasks:
            task.result()
    return found


def fetched(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
    return connection.getresponse().read()


def main() -> None:
    arguments = parser(__doc__, repeats=1)
    arguments.add_argument("--requests", type=int, default=4000)
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, log, stop = (Path(place, name) for name in ("shop", "log", "stop"))
        with Gallery.open(folder, Encoder.open(options.encoder)) as gallery:
            for number in range(2 * IDENTITIES):
                gallery.enroll([picture(number)], label=f"p{number // 2}", copy=True)
        with (
            served(folder, log) as (process, port),
            ProcessPoolExecutor(1, get_context("spawn")) as pool,
        ):
            before = warmed(port, stop)
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak begins anew
            memories = {"before": memory(process, "VmRSS")}
            asked, begun = pool.submit(healthy, port, str(stop)), time.perf_counter()
            found = attack(port, options.requests, options.seed)
            seconds = time.perf_counter() - begun
            stop.touch()
            answers = asked.result()
            time.sleep(2)
            memories |= {"after": memory(process, "VmRSS"), "peak": memory(process, "VmHWM")}
            alive = process.poll() is None
        said = log.read_text("utf-8", "replace")
        with Gallery.open(folder) as gallery:
            faults = list(gallery.check())
    report(options, found, answers, before, memories, seconds)
    wrong = {
        "answers of the client that were wrong": sum(not right for _, right in answers),
        "tracebacks in the log": said.count("Traceback"),
        "tokens in the log": said.count(TOKEN),
        "control characters in the log": sum(not c.isprintable() and c != "\n" for c in said),
        "server ended": int(not alive),
        "faults of the gallery": len(faults),
    }
    table("Afterwards", ("what", "count"), wrong.items())
    bars = Bars()
    sent = sum(map(sum, (c.values() for k, c in found.statuses.items() if k != "label read")))
    bars.at_least("hostile requests", sent, options.requests)
    bars.at_most("through", len(found.through) + sum(wrong.values()), 0)
    bars.at_most("p99 of the client, s", percentile(answers, 0.99), 1)
    bars.at_most("memory at its peak, more, MB", (memories["peak"] - memories["before"]) / 1e6, 50)
    bars.show()
    for one in found.through[:20]:
        print(json.dumps(one), file=sys.stderr)
    if "Traceback" in said:
        print(said[-5000:], file=sys.stderr)
    write_results(
        "hostile_requests",
        options.encoder,
        {
            "seed": options.seed,
            "statuses": found.statuses,
            "through": found.through,
            "client seconds": [round(took, 4) for took, _ in answers],
            "memory bytes": memories,
            "afterwards": wrong,
            "bars": bars.rows,
        },
    )


def percentile(answers: list[tuple[float, bool]], share: float) -> float:
    taken = sorted(took for took, _ in answers)
    return taken[min(len(taken) - 1, int(share * len(taken)))]


def report(
    options: Any,
    found: Campaign,
    answers: list[tuple[float, bool]],
    before: float,
    memories: dict[str, int],
    seconds: float,
) -> None:
    rows = []
    for kind, counts in sorted(found.statuses.items()):
        through = sum(one["kind"] == kind for one in found.through)
        statuses = ", ".join(f"{status}: {many}" for status, many in counts.most_common())
        rows.append((kind, sum(counts.values()), through, statuses))
    title = f"Hostile requests, seed {options.seed}, in {seconds:.0f} s"
    table(title, ("kind", "sent", "through", "answers"), rows)
    measured = [
        ("the client's median before, ms", f"{1000 * before:.0f}"),
        ("median meanwhile, ms", f"{1000 * percentile(answers, 0.5):.0f}"),
        ("99 %, ms", f"{1000 * percentile(answers, 0.99):.0f}"),
        ("answers", len(answers)),
        *((f"memory {name}, MB", f"{size / 1e6:.0f}") for name, size in memories.items()),
    ]
    table("A client that means well, and memory", ("what", "measured"), measured)


if __name__ == "__main__":
    main()
