"""How long do export and import of a large gallery take, and how much memory?

    python benchmarks/exchange.py [--encoder general-2] [--size 1000000] [--kinds npz,parquet,zip]
                                  [--work DIR]

A gallery of random embeddings of unit length, ten for each identity, with a path and metadata each,
is exported and imported again into a new one, by each kind of file, by ``siasearch`` in processes
of their own. Memory is the most that a process held, pages of files not counted apart. Then all
embeddings, identities, paths and metadata are compared, bit by bit, and the ten best for so many
random probes with their scores. Processor seconds are of all threads.
The bars are on export and import together, and on memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import Bars, parser, table, write_results

from siamese_search import Encoder, Gallery
from siamese_search.storage.exchange import Block, Exchange
from siamese_search.storage.facts import Facts

MINUTES, GIGABYTE = 180.0, 1e9
ROWS = 1024
ITEMS = 10  # of an identity
PROBES = 200


class Cost(NamedTuple):
    """What a command took: seconds of the clock and of the processor, and bytes of memory."""

    seconds: float
    processor: float
    memory: int


def blocks(size: int, dimension: int) -> Iterator[Block]:
    """Items as if their pictures had been enrolled."""
    random = np.random.default_rng(1)
    for first in range(0, size, ROWS):
        numbers = list(range(first, min(first + ROWS, size)))
        vectors = random.normal(size=(len(numbers), dimension)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        yield Block(numbers, [facts(number) for number in numbers], vectors)


def facts(number: int) -> Facts:
    """What is known of an item."""
    return Facts(
        f"identity {number // ITEMS}",
        False,
        hashlib.sha256(str(number).encode()).digest(),
        f"/pictures/shelf-{number // ITEMS}/photo-{number}.jpg",
        None,
        100_000 + number,
        "2026-01-01T00:00:00+00:00",
        None,
        {"shelf": str(number % 97)},
    )


def digest(folder: Path) -> str:
    """Of all embeddings, identities and metadata of a gallery, in order."""
    found = hashlib.sha256()
    with closing(Exchange(folder / "gallery.db")) as source:
        for block in source.exported(source.state().generation):
            assert block.embeddings is not None
            found.update(block.embeddings.tobytes())
            for one in block.facts:
                found.update(json.dumps([one.identity, one.source, dict(one.metadata)]).encode())
    return found.hexdigest()


def answers(folder: Path) -> list[list[tuple[str, float]]]:
    """The ten best, and their scores, for each of some probes."""
    random = np.random.default_rng(2)
    with Gallery.open(folder) as gallery:
        probes = random.normal(size=(PROBES, gallery.info().dimension)).astype(np.float32)
        probes /= np.linalg.norm(probes, axis=1, keepdims=True)
        found = gallery.identify_embeddings(probes, 10)
    return [[(match.identity, match.score) for match in one.matches] for one in found]


def measured(*arguments: str) -> Cost:
    """Run ``siasearch``. Ends the script where it fails."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "siamese_search", *arguments])
    _, code, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        sys.exit(f"siasearch {' '.join(arguments)} failed")
    unit = 1 if sys.platform == "darwin" else 1024
    seconds = time.perf_counter() - begun
    return Cost(seconds, used.ru_utime + used.ru_stime, unit * used.ru_maxrss)


def main() -> None:
    arguments = parser(__doc__, repeats=1)
    arguments.set_defaults(encoder="general-2")
    arguments.add_argument("--size", type=int, default=1_000_000)
    arguments.add_argument("--kinds", default="npz,parquet,zip")
    arguments.add_argument("--work", type=Path, help="where the galleries go; default: temporary")
    chosen = arguments.parse_args()
    encoder = Encoder.open(chosen.encoder, "cpu")
    bars, results, rows = Bars(), dict[str, Any](), []
    with tempfile.TemporaryDirectory(dir=chosen.work, ignore_cleanup_errors=True) as scratch:
        old = Path(scratch, "old")
        Gallery.open(old, encoder).close()
        with closing(Exchange(old / "gallery.db")) as target:
            target.take_in(lambda: blocks(chosen.size, encoder.dimension), encoder.fingerprint, old)
        before, said = digest(old), answers(old)
        for kind in chosen.kinds.split(","):
            out, new = Path(scratch, f"out.{kind}"), Path(scratch, f"new {kind}")
            embedded = ("--embeddings",) if kind == "csv" else ()
            costs = (
                measured("export", str(out), "-g", str(old), *embedded),
                measured("import", str(out), "-g", str(new)),
            )
            if digest(new) != before:
                sys.exit(f"{kind}: what came back is not what went out")
            if answers(new) != said:
                sys.exit(f"{kind}: what came back answers otherwise")
            size = out.stat().st_size
            results[kind] = {"bytes": size} | {
                name: cost._asdict() for name, cost in zip(("export", "import"), costs, strict=True)
            }
            for name, cost in zip(("export", "import"), costs, strict=True):
                rows.append(
                    [kind, name, f"{cost.seconds:.1f}", f"{cost.processor:.1f}",
                     f"{cost.memory / 1e6:.0f}", f"{size / 1e6:.0f}"]
                )  # fmt: skip
            both = sum(cost.seconds for cost in costs)
            bars.at_most(f"{kind}: export and import", both, MINUTES, "s")
            most = max(cost.memory for cost in costs)
            bars.at_most(f"{kind}: memory", most / 1e6, GIGABYTE / 1e6, "MB")
            out.unlink()
            # A process in the background may be writing its index file.
            shutil.rmtree(new, ignore_errors=True)
    table(
        f"{chosen.size} items of {encoder.dimension} values",
        ["kind", "what", "s", "processor s", "memory MB", "file MB"],
        rows,
    )
    bars.show()
    facts_of_run = {"size": chosen.size, "kinds": results, "bars": bars.rows}
    write_results(f"exchange-{chosen.size}", chosen.encoder, facts_of_run)


if __name__ == "__main__":
    main()
