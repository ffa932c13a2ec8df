"""What does it cost to enrol many embeddings in blocks rather than at once?

    python benchmarks/bulk.py [--encoder general] [--size 1000000] [--blocks 20] [--repeats 1]
                              [--work DIR]

Real embeddings extended to scale (``embeddings.py`` says how) are enrolled by
``Gallery.enroll_embeddings``, in one block and in many, in processes of their own and in turn; then
``compact`` folds in what is pending. Index files are written whenever the gallery finds that one is
due. Seconds are of the clock; *processor* seconds are of all threads, and are what to compare on a
machine that others use. *Written* is how many items all index files together held, in galleries of
the final size: what is quadratic shows there first. The bar: many blocks take at most twice the
time of one.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common import Bars, interleaved, median_ratio, medians, parser, table, write_results
from desk import fresh
from embeddings import ITEMS, Sized, Work, work_argument

from siamese_search import Encoder, Gallery
from siamese_search.index import FaissEngine, Written

MOST = 2.0  # times that many blocks may take of one


@contextmanager
def counted() -> Iterator[list[int]]:
    """How many items each index file holds that is written meanwhile."""
    sizes: list[int] = []
    write = FaissEngine.write

    def counting(*arguments: Any, **named: Any) -> Written:
        written = write(*arguments, **named)
        sizes.append(written.items)
        return written

    with patch.object(FaissEngine, "write", counting):
        yield sizes


def load(sized: Sized, blocks: int, folder: Path) -> dict[str, float]:
    """Enrol all embeddings in so many blocks into a new gallery, then compact."""
    vectors = sized.vectors
    rows = -(-sized.size // blocks)
    begun, used = time.perf_counter(), time.process_time()
    with (
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        Gallery.open(scratch, sized.encoder) as gallery,
        counted() as sizes,
    ):
        for start in range(0, sized.size, rows):
            block = vectors[start : start + rows]
            names = [f"identity {row // ITEMS}" for row in range(start, start + len(block))]
            gallery.enroll_embeddings(block, names)
            said = f"  {start + len(block)} after {time.perf_counter() - begun:.0f} s"
            print(f"{said}, {time.process_time() - used:.0f} of the processor", file=sys.stderr)
        loaded, spent = time.perf_counter(), time.process_time()
        written, files = sum(sizes), len(sizes)
        pending = len(gallery) - gallery.info().indexed
        if pending:
            gallery.compact()
        return {
            "seconds": loaded - begun,
            "processor": spent - used,
            "compacted seconds": time.perf_counter() - begun,
            "compacted processor": time.process_time() - used,
            "written": written / sized.size,
            "files": files,
            "pending": pending / sized.size,
        }


def main() -> None:
    arguments = parser(__doc__, repeats=1)
    arguments.add_argument("--size", type=int, default=1_000_000)
    arguments.add_argument("--blocks", type=int, default=20)
    arguments.add_argument("--seed", type=int, default=1)
    work_argument(arguments)
    options = arguments.parse_args()
    encoder = Encoder.open(options.encoder)
    sized, _ = Work(options.work, encoder, options.seed).sized(options.size)
    runs: dict[int, list[dict[str, float]]] = {1: [], options.blocks: []}

    def turn(blocks: int) -> Callable[[], float]:
        def take() -> float:
            runs[blocks].append(fresh(load, sized, blocks, options.work))
            return runs[blocks][-1]["seconds"]

        return take

    interleaved({str(blocks): turn(blocks) for blocks in runs}, options.repeats)
    raw = {
        str(blocks): {name: [run[name] for run in found] for name in found[0]}
        for blocks, found in runs.items()
    }
    rows = {blocks: medians(figures) for blocks, figures in raw.items()}
    first = next(iter(rows.values()))
    table(
        f"{options.size} embeddings of {encoder.dimension}, medians of {options.repeats}",
        ("blocks", *first),
        [(blocks, *(f"{value:.4g}" for value in row.values())) for blocks, row in rows.items()],
    )
    bars = Bars()
    for measure in ("seconds", "processor", "compacted seconds", "compacted processor"):
        ratio = median_ratio(raw[str(options.blocks)][measure], raw["1"][measure])
        bars.at_most(f"{options.blocks} blocks / 1, {measure}", ratio, MOST, "×")
    bars.show()
    settings = {"size": options.size, "blocks": options.blocks, "seed": options.seed}
    write_results("bulk", options.encoder, {**settings, "raw": raw, "bars": bars.rows})


if __name__ == "__main__":
    main()
