"""Does a gallery answer the same from FAISS, milvus-lite and a server of Milvus, how fast, and what
do kills cost?

    python benchmarks/engines.py [--encoder general-2] [--size 10000] [--server PYTHON]
                                 [--skip-lite] [--recipes FLAT,HNSW] [--work DIR]
                                 [--kills 50 [--engine-kills 2] | --labels 2000 | --move]

Real embeddings extended to scale (``embeddings.py`` says how) are enrolled, and the gallery moves
from FAISS to each engine and in the end back. For each: seconds to move, the median and the 95th
percentile of single searches, searches a second of a thousand at once, recall@10 against comparing
with every vector, and the share of probes whose ten items and scores are those of FAISS, rank for
rank. With ``--kills``,
instead, a process that enrols and removes is killed at random moments, and the server likewise;
after each kill the gallery is repaired, and what is lost of what was acknowledged is counted. With
``--labels``, instead, so many hostile texts (``tests/hostile.py``) are metadata and, where they may
be, names of five items each, and each engine is asked for the items that have each text. With
``--move``, instead, a gallery of random embeddings, which are made soon, moves to each engine and
back, and what it answers to 100 probes is compared.

``--server`` is the Python of an environment that has the package ``milvus`` (2.3.5). It binds ports
on all interfaces, so the script goes on in a network namespace of its own that has loopback alone
(``unshare -n``, as root).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from common import Bars, parser, percentiles, table, write_results
from embeddings import PROBES, K, Sized, Work, enrol, nearest, work_argument

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray, IntArray
from siamese_search.decision.metric import unit as normalised
from siamese_search.errors import EngineUnavailable, UsageError
from siamese_search.gallery.compaction import Compaction
from siamese_search.gallery.remote import Place

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from hostile import hostile_text

ADDRESS = "http://127.0.0.1:19530"
EXACT = "SQfp16"  # FAISS's recipe that compares with every vector
MADE = 20_000  # random embeddings at a time
MOVED = 100  # probes that are asked before and after moving
EACH = 5  # items of each hostile text
ALONE = 200  # probes that are searched one by one
APART = "SIASEARCH_BENCHMARK_APART"
SERVER = """
import signal, sys
from milvus import default_server as server
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
server.set_base_dir(sys.argv[1])
server.start()
print(server.server_proc.pid, flush=True)
signal.sigwait([signal.SIGTERM])
server.server_proc.kill()
"""
CLIENT = """
import sys
import numpy as np
from siamese_search import Gallery
random = np.random.default_rng(int(sys.argv[2]))
with Gallery.open(sys.argv[1]) as gallery:
    gallery.search(np.eye(1, gallery.info().dimension, dtype="f4"), 1)
    print("ready", flush=True)
    for turn in range(1000):
        made = random.normal(size=(50, gallery.info().dimension)).astype("f4")
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        numbers = gallery.enroll_embeddings(made, [f"{sys.argv[2]}-{turn}-{n}" for n in range(50)])
        print("added", *numbers, flush=True)
        gallery.remove(item=numbers[0])
        print("removed", numbers[0], flush=True)
"""


class Server:
    """A server of Milvus in this network namespace."""

    def __init__(self, python: str, folder: Path) -> None:
        self._command = [python, "-c", SERVER, str(folder)]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        begun = time.perf_counter()
        self._keeper = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._keeper.stdout is not None
        said = ""
        while not said.strip().isdigit():
            said = self._keeper.stdout.readline()
            if not said:
                sys.exit("the server of Milvus did not start")
        self.process = int(said)
        print(f"the server answers after {time.perf_counter() - begun:.0f} s", file=sys.stderr)

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        os.kill(self.process, signal.SIGKILL)
        self._keeper.kill()
        self._keeper.wait()


@contextmanager
def serving(python: str | None, folder: Path) -> Iterator[Server | None]:
    """A server, if one is asked for."""
    if python is None:
        yield None
        return
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    server = Server(python, folder)
    try:
        yield server
    finally:
        server.kill()


def measured(gallery: Gallery, probes: FloatArray, tenth: FloatArray) -> dict[str, Any]:
    """Rates and recall of the gallery as it is; what it answers is under ``answer``."""
    gallery.search(probes[:2], K)
    times = []
    for probe in probes[:ALONE]:
        begun = time.perf_counter()
        gallery.search(probe[None], K)
        times.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    items, scores = gallery.search(probes, K)
    spent = time.perf_counter() - begun
    found = (scores >= tenth[:, None] - 1e-6).mean()
    low, high = percentiles(times)
    return {
        "ms": low,
        "ms p95": high,
        "searches/s": len(probes) / spent,
        "recall@10": float(found),
        "answer": (items, scores),
    }


def same(one: tuple[IntArray, FloatArray], other: tuple[IntArray, FloatArray]) -> float:
    """The share of probes with the same items and scores, rank for rank."""
    equal = (one[0] == other[0]).all(axis=1) & (one[1] == other[1]).all(axis=1)
    return float(equal.mean())


def compared(gallery: Gallery, sized: Sized, engines: list[tuple[str, str, str]]) -> list[Any]:
    """Each engine's figures: (name, address, recipe), after FAISS's own; back to FAISS at last."""
    probes = sized.probes
    tenth = nearest(probes, sized.vectors, K)[:, -1]
    first = measured(gallery, probes, tenth)
    rows = [{"engine": f"FAISS {gallery.info().recipe}", "move s": 0.0, **first, "same": 1.0}]
    for name, address, recipe in [*engines, ("FAISS again", "", "")]:
        begun = time.perf_counter()
        if address:
            gallery.compact(recipe, engine="milvus", uri=address)
        else:
            gallery.compact(engine="faiss")
        spent = time.perf_counter() - begun
        print(f"{name}: moved in {spent:.1f} s", file=sys.stderr)
        row = measured(gallery, probes, tenth)
        facts = gallery.info()
        label = f"{name} {facts.recipe}"
        rows.append(
            {"engine": label, "move s": spent, **row, "same": same(row["answer"], first["answer"])}
        )
        print({key: value for key, value in rows[-1].items() if key != "answer"}, file=sys.stderr)
    return [{key: value for key, value in row.items() if key != "answer"} for row in rows]


def killed(folder: Path, kills: int, server: Server | None, engine_kills: int) -> dict[str, int]:
    """Kill whoever enrols, and the server, and count what is lost after a repair."""
    chance = random.Random(1)
    counts = {"kills": 0, "of the engine": 0, "acknowledged": 0, "waiting": 0, "lost": 0}
    counts |= {"back": 0, "apart": 0}
    for turn in range(kills):
        of_engine = server is not None and turn < engine_kills
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(folder), str(turn + 1000 * (server is not None))],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if of_engine else None,
            text=True,
        )
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, 2.0))
        if of_engine and server is not None:
            server.kill()
            time.sleep(1)
        client.kill()
        added: set[int] = set()
        removed: set[int] = set()
        unsaid: set[int] = set()  # a removal may be committed and not yet said
        for line in client.stdout.read().splitlines():
            what, *numbers = line.split()
            (added if what == "added" else removed).update(map(int, numbers))
            unsaid = {int(numbers[0])} if what == "added" else set()
        client.wait()
        if of_engine and server is not None:
            server.start()
            counts["of the engine"] += 1
        counts["kills"] += 1
        with Gallery.open(folder) as gallery:
            counts["waiting"] += len(gallery) != gallery.info().indexed
            for _ in range(60):  # a server that was just started loads its collections
                try:
                    gallery.repair()
                    break
                except EngineUnavailable:
                    time.sleep(1)
            faults = gallery.check()
            snapshot = gallery._catalog.state().snapshot
            assert snapshot is not None
            place = Place.of(snapshot.file)
            engine = gallery._snapshots.remote.engine(place.address)
            there = set(engine.items(place.collection, 1, snapshot.last_item + 1000).tolist())
            stored = set(gallery._catalog.embedded(gallery._catalog.state().generation).tolist())
        counts["acknowledged"] += len(added) + len(removed)
        counts["lost"] += len(added - removed - unsaid - stored)
        counts["back"] += len(removed & stored)
        counts["apart"] += len(there ^ stored) + len(faults)
        print(f"kill {turn + 1}: {counts}", file=sys.stderr)
    return counts


def labelled(folder: Path, encoder: Encoder, wanted: int) -> list[str]:
    """A new gallery, in which each of so many hostile texts is of five items; gives the texts."""
    chance, vectors = random.Random(1), np.random.default_rng(1)
    texts: list[str] = []
    with Gallery.open(folder, encoder) as gallery:
        while len(texts) < wanted:
            text = hostile_text(chance)
            if text in texts:
                continue
            names = [f"{len(texts)}-{item}" for item in range(EACH)]
            # Not every text may be a name, or metadata.
            for first in (text, names[0]):
                with suppress(UsageError):
                    made = unit(vectors, EACH, encoder.dimension)
                    gallery.enroll_embeddings(made, [first, *names[1:]], [{"note": text}] * EACH)
                    texts.append(text)
                    break
    return texts


def permitted(gallery: Gallery, texts: list[str]) -> list[list[tuple[int, float]]]:
    """The items, and their scores, that the gallery finds among those of each text."""
    found = []
    probes = unit(np.random.default_rng(2), len(texts), gallery.info().dimension)
    with patch("siamese_search.index.remote.FEW", 0):  # else so few are never asked of an engine
        for probe, text in zip(probes, texts, strict=True):
            (answer,) = gallery.identify_embeddings(probe[None], 2 * EACH, where={"note": text})
            found.append([(match.item, match.score) for match in answer.matches])
    return found


def unit(chance: np.random.Generator, count: int, dimension: int) -> FloatArray:
    """Random embeddings of unit length, float32 (count, dimension)."""
    return normalised(chance.normal(size=(count, dimension)).astype(np.float32))


def filtered(
    folder: Path, encoder: Encoder, wanted: int, targets: dict[str, str]
) -> dict[str, dict[str, int]]:
    """Of so many hostile texts, those for which an engine finds other items than have them."""
    counts = {}
    texts = labelled(folder, encoder, wanted)
    with Gallery.open(folder) as gallery:
        right = [set(gallery._catalog.where({"note": text}).tolist()) for text in texts]
        first = permitted(gallery, texts)
        for name, address in {"FAISS": "", **targets}.items():
            if address:
                gallery.compact("FLAT", engine="milvus", uri=address)
            answers = permitted(gallery, texts)
            counts[name] = {
                "texts": len(texts),
                "other items": sum(
                    {item for item, _ in answer} != items
                    for answer, items in zip(answers, right, strict=True)
                ),
                "other answers": sum(a != b for a, b in zip(answers, first, strict=True)),
            }
            print(f"{name}: {counts[name]}", file=sys.stderr)
    return counts


def answers(gallery: Gallery) -> list[list[tuple[int, float]]]:
    """The ten best, and their scores, for some random probes."""
    probes = unit(np.random.default_rng(3), MOVED, gallery.info().dimension)
    found = gallery.identify_embeddings(probes, K)
    return [[(match.item, match.score) for match in answer.matches] for answer in found]


def moved(folder: Path, encoder: Encoder, size: int, targets: dict[str, str]) -> list[Any]:
    """Seconds that so many items take to each engine and back, and probes with other answers."""
    vectors, rows = np.random.default_rng(1), []
    with Gallery.open(folder, encoder) as gallery:
        with patch.object(Compaction, "is_due", return_value=False):
            for first in range(0, size, MADE):
                count = min(MADE, size - first)
                names = [f"identity {(first + item) // 10}" for item in range(count)]
                gallery.enroll_embeddings(unit(vectors, count, encoder.dimension), names)
        gallery.compact(EXACT)
        before = answers(gallery)
        for name, address in targets.items():
            there = {"recipe": "FLAT", "engine": "milvus", "uri": address}
            ways: dict[str, dict[str, Any]] = {
                f"to {name}": there,
                "back": {"recipe": EXACT, "engine": "faiss"},
            }
            for way, choice in ways.items():
                begun = time.perf_counter()
                gallery.compact(**choice)
                spent = time.perf_counter() - begun
                print(f"{way}: {spent:.0f} s", file=sys.stderr)
                begun = time.perf_counter()
                other = sum(a != b for a, b in zip(answers(gallery), before, strict=True))
                asked = time.perf_counter() - begun
                rows.append({"move": way, "s": spent, "answers s": asked, "other answers": other})
                print(rows[-1], file=sys.stderr)
        faults = gallery.check()
        rows.append({"move": "check", "s": 0.0, "answers s": 0.0, "other answers": len(faults)})
    return rows


def main() -> None:
    arguments = parser(__doc__, repeats=1)
    arguments.set_defaults(encoder="general-2")
    arguments.add_argument("--size", type=int, default=10_000)
    arguments.add_argument("--server", metavar="PYTHON")
    arguments.add_argument("--kills", type=int, default=0)
    arguments.add_argument("--engine-kills", type=int, default=0)
    arguments.add_argument("--labels", type=int, default=0)
    arguments.add_argument("--move", action="store_true")
    arguments.add_argument("--skip-lite", action="store_true")
    arguments.add_argument("--recipes", default="FLAT,HNSW", help="of the server")
    arguments.add_argument("--seed", type=int, default=1)
    work_argument(arguments)
    options = arguments.parse_args()
    if options.server and APART not in os.environ:
        os.environ[APART] = "1"
        os.execvp("unshare", ["unshare", "-n", sys.executable, *sys.argv])
    encoder = Encoder.open(options.encoder)
    options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work) as scratch:
        folder = Path(scratch)
        with serving(options.server, folder / "server") as server:
            engines = []
            if not options.skip_lite:
                engines.append(("milvus-lite", str(folder / "lite.db"), "FLAT"))
            if server is not None:
                engines += [("Milvus", ADDRESS, recipe) for recipe in options.recipes.split(",")]
            rows: list[Any] = []
            losses: dict[str, dict[str, int]] = {}
            texts: dict[str, dict[str, int]] = {}
            targets = {name: address for name, address, _ in engines}
            moves: list[Any] = []
            if options.move:
                moves = moved(folder / "gallery", encoder, options.size, targets)
            elif options.labels:
                texts = filtered(folder / "gallery", encoder, options.labels, targets)
            else:
                sized, _ = Work(options.work, encoder, options.seed).sized(options.size)
                enrol(folder / "gallery", sized.encoder, sized.chunks())
                if not options.kills:
                    with Gallery.open(folder / "gallery") as gallery:
                        rows = compared(gallery, sized, engines)
            for name, address in targets.items() if options.kills else ():
                with Gallery.open(folder / "gallery") as gallery:
                    gallery.compact("FLAT", engine="milvus", uri=address)
                used = server if "://" in address else None
                kills = options.kills // len(targets)
                losses[name] = killed(folder / "gallery", kills, used, options.engine_kills)
                with Gallery.open(folder / "gallery") as gallery:
                    gallery.compact(engine="faiss")
    name = f"engines-{'moved-' if moves else ''}{options.size}"
    if options.kills or options.labels:
        name = "engines-kills" if options.kills else "engines-labels"
    header = ("engine", "move s", "ms", "ms p95", "searches/s", "recall@10", "same")
    if rows:
        table(
            f"{options.size} embeddings of {encoder.dimension}, {PROBES} probes",
            header,
            [[row["engine"], *(f"{row[key]:.4g}" for key in header[1:])] for row in rows],
        )
    bars = Bars()
    for row in rows:
        bars.at_least(f"{row['engine']}, recall@10", row["recall@10"], 0.99)
        if "HNSW" not in row["engine"]:
            bars.at_least(f"{row['engine']}, the same rank for rank", row["same"], 1.0)
    for engine, counts in losses.items():
        print(f"{engine}: {counts}")
        bars.at_most(f"{engine}, lost of {counts['acknowledged']}", counts["lost"], 0)
        bars.at_most(f"{engine}, apart from the database", counts["apart"], 0)
    for row in moves:
        print(row)
        bars.at_most(f"{row['move']}: other answers, or faults", row["other answers"], 0)
    for engine, counts in texts.items():
        for what in ("other items", "other answers"):
            bars.at_most(f"{engine}, {what} of {counts['texts']} texts", counts[what], 0)
    bars.show()
    facts = {"size": options.size, "seed": options.seed, "rows": rows, "kills": losses}
    facts |= {"labels": texts} if texts else {}
    facts |= {"moves": moves} if moves else {}
    write_results(name, options.encoder, {**facts, "bars": bars.rows})


if __name__ == "__main__":
    main()
