"""How fast is search among 10,000 to 1,000,000 items, against what people would use instead?

    python benchmarks/search.py [--encoder general] [--repeats 5] [--sizes 10000,100000,1000000]
                                [--only NAME,...] [--rebuild NAME,...] [--work DIR]

Real embeddings extended to scale (``embeddings.py`` says how) are enrolled and compacted, and
searched for the 10 nearest of probes that are further items of enrolled identities: one at a time,
and 100 at a time. Compared, at each size and in turn:

- ``ours``: ``Gallery.search`` in an open gallery, with the recipe that it chose by itself;
- ``exact``: FAISS's IndexFlatIP in float32, the reference of the recall;
- ``fp16``: FAISS's IndexScalarQuantizer in half precision, where our recipe is exact;
- ``same``: where it is not, FAISS alone (IndexRefine) with the same index, effort and number of
  candidates scored again; it copies ours rather than building its own;
- ``hnswlib-16`` and ``-32`` (M; efConstruction 100), ``usearch-f32`` and ``-f16``: where installed
  (``pip install hnswlib usearch``), searching as far as it takes for a recall of 0.99.

Recall is the share of found items whose cosine, computed anew, is at least that of the exact tenth.
Each contender is built in a process of its own and opened in another, all of which stay open at
once and of which one works at a time; every one may use all cores. Memory is what the second
process holds beyond the imported packages, after all its searches: pages of its own, and pages
mapped from files, which the system may take back and other processes share. At 1,000,000 items of
512 values all of them together take about 14 GB.

Limits of the machine: reading the half-precision embeddings once from memory with a thread a core,
for one probe; the matrix product of a hundred probes and the float32 embeddings in cached blocks.

What has been built is kept in the work folder, at 1,000,000 items about 18 GB, so an interrupted
run goes on where it was; ``--rebuild`` builds again, and forgets all figures where it is ours.
``--only`` builds and measures some, always beside ``ours`` and ``exact``, and leaves the others'
last figures. Ratios are always within one run.
"""

from __future__ import annotations

import importlib
import json
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from common import (
    Bars,
    curves,
    interleaved,
    median_ratio,
    parser,
    percentiles,
    seconds,
    table,
    write_results,
)
from contenders import (
    HALF,
    KINDS,
    OURS,
    REFERENCE,
    SAME,
    THREADS,
    contender,
    our_recipe,
)
from desk import BATCH, MODES, TARGET, Record, Turns, build, fresh, tune
from embeddings import NOISE, Sized, Work, work_argument

from siamese_search import Encoder

READ_AT_MOST = 256 << 20
PRODUCT_ROWS = 8192
LARGE, LARGEST_EXACT = 1_000_000, 100_000  # what the bars are about


# What is kept from run to run


class Kept:
    """The records of one size: what was built, how it was tuned, what was measured last."""

    def __init__(self, sized: Sized) -> None:
        self._path = sized.folder / "records.json"
        self.records: dict[str, Record] = {}
        if self._path.exists():
            self.records = json.loads(self._path.read_text())

    def of(self, name: str) -> Record:
        return self.records.setdefault(name, {})

    def save(self) -> None:
        temporary = self._path.with_suffix(".unfinished")
        temporary.write_text(json.dumps(self.records))
        temporary.replace(self._path)


def prepare(sized: Sized, name: str, kept: Kept, again: bool) -> None:
    """Build and tune a contender unless that is done."""
    known = kept.records.get(name)
    if known and (again or known["built"]["stamp"] != contender(sized, name).stamp):
        del kept.records[name]
        kept.save()
    record = kept.of(name)
    if "built" not in record:
        print(f"{sized.size} items: building {name}", file=sys.stderr)
        folder = sized.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        record["built"] = fresh(build, sized, name)
        kept.save()
    if KINDS[name].tuned and "effort" not in record:
        print(f"{sized.size} items: tuning {name}", file=sys.stderr)
        record["effort"] = fresh(tune, sized, name)
        kept.save()


# In turn


class Limits:
    """What the machine's memory and arithmetic allow for exact search."""

    def __init__(self, size: int, dimension: int) -> None:
        stored = 2 * size * dimension
        values = np.arange(min(stored, READ_AT_MOST) // 8)
        self._strips = np.array_split(values, THREADS)
        self._read_times = stored / values.nbytes
        chance = np.random.default_rng(1)
        self._probes = chance.standard_normal((BATCH, dimension), np.float32)
        self._block = chance.standard_normal((PRODUCT_ROWS, dimension), np.float32).T
        self._product_times = size / PRODUCT_ROWS
        self._pool = ThreadPoolExecutor(THREADS)

    def read(self) -> float:
        """Seconds to read the half-precision embeddings from memory once."""

        def once() -> None:
            for _ in self._pool.map(np.sum, self._strips):
                pass

        return self._read_times * statistics.median(seconds(once) for _ in range(10))

    def product(self) -> float:
        """Seconds for the products of a batch of probes and the embeddings."""
        took = (seconds(lambda: self._probes @ self._block) for _ in range(10))
        return self._product_times * statistics.median(took)


def measure(sized: Sized, names: Sequence[str], kept: Kept, repeats: int) -> None:
    """Search by all these in turn, and keep their figures."""
    limits = Limits(sized.size, sized.dimension)
    turns: dict[str, Turns] = {}
    try:
        for name in names:
            turns[name] = Turns(sized, name, kept.of(name).get("effort"))
        tasks: dict[str, Callable[[], float]] = {}
        for mode in MODES:
            for name, turn in turns.items():
                tasks[f"{name} {mode}"] = partial(turn.take, mode)
        tasks |= {"read": limits.read, "product": limits.product}
        raw = interleaved(tasks, repeats, warmups=1)
        for name, turn in turns.items():
            measured = turn.facts()
            for mode in MODES:
                rates, took = raw[f"{name} {mode}"], turn.took[mode][1:]  # the first warmed up
                p50, p95 = percentiles([one for some in took for one in some])
                measured[mode] = {
                    "rates": rates,
                    "p50 ms": p50,
                    "p95 ms": p95,
                    "turns' p50 ms": [1000 * statistics.median(some) for some in took],
                    "ours to it": median_ratio(raw[f"{OURS} {mode}"], rates),
                }
            kept.of(name)["measured"] = measured
    finally:
        for turn in turns.values():
            turn.close()
    ours = kept.of(OURS)["measured"]
    ours["limits"] = {
        "read": raw["read"],
        "product": raw["product"],
        "p50 to read": median_ratio(ours["single"]["turns' p50 ms"], raw["read"]) / 1000,
        "batch to product": median_ratio(ours["batch"]["turns' p50 ms"], raw["product"]) / 1000,
    }
    kept.save()


# Reporting


def show(size: int, records: Mapping[str, Record]) -> None:
    """The table of one size, and the limits."""
    rows = []
    for name, record in records.items():
        built, found = record["built"], record["measured"]
        single = found["single"]
        rows.append(
            (
                name,
                f"{single['p50 ms']:.3f}",
                f"{single['p95 ms']:.3f}",
                *(f"{statistics.median(found[mode]['rates']):.0f}" for mode in MODES),
                *(f"{found[mode]['ours to it']:.2f}" for mode in MODES),
                f"{found['recall']:.4f}",
                record.get("effort", "-"),
                f"{built['seconds']:.1f}",
                f"{built['peak bytes'] / 1e9:.2f}",
                f"{found['own bytes'] / size:.0f}",
                f"{found['mapped bytes'] / size:.0f}",
            )
        )
    header = (
        *("", "p50 ms", "p95 ms", "1/s by 1", f"1/s by {BATCH}", "ours/it by 1"),
        *(f"ours/it by {BATCH}", "recall", "effort", "build s", "peak GB", "B/item", "mapped"),
    )
    table(f"{size} items: {records[OURS]['measured']['settings']}", header, rows)
    limits = records[OURS]["measured"]["limits"]
    read, product = statistics.median(limits["read"]), statistics.median(limits["product"])
    print(
        f"  reading the half-precision embeddings once: {1000 * read:.2f} ms, one probe of ours"
        f" {limits['p50 to read']:.2f} ×; the product with {BATCH} probes in float32:"
        f" {1000 * product:.1f} ms, ours {limits['batch to product']:.2f} ×"
    )


def judge(bars: Bars, size: int, records: Mapping[str, Record]) -> None:
    """The bars of one size."""
    ours = records[OURS]["measured"]

    def rate(name: str, bar: float) -> None:
        for mode, probes in MODES.items():
            ratio = records[name]["measured"][mode]["ours to it"]
            bars.at_least(f"{size}: ours / {name}, {probes}", ratio, bar, "×")

    same = (SAME,) if SAME in records else (HALF, REFERENCE)
    for name in same:
        if name in records:
            rate(name, 0.95)
    if size == LARGEST_EXACT:
        bars.at_most(f"{size}: ours, 1 probe / reading", ours["limits"]["p50 to read"], 1.3, "×")
    if size < LARGE:
        return
    rate(REFERENCE, 20)
    bars.at_most(f"{size}: ours, 1 probe, p50", ours["single"]["p50 ms"], 2, " ms")
    bars.at_least(f"{size}: ours, recall", ours["recall"], TARGET)
    for name in records:
        if KINDS[name].tuned:
            compete(bars, size, name, records[name]["measured"], ours)
    bars.at_most(f"{size}: ours, beyond the mapped file", ours["own bytes"] / size, 600, " B/item")
    built = records[OURS]["built"]
    bars.at_most(f"{size}: ours, compacting", built["seconds"], 600, " s")
    bars.at_most(f"{size}: ours, peak while built", built["peak bytes"] / 1e9, 4, " GB")


def compete(bars: Bars, size: int, name: str, theirs: Record, ours: Record) -> None:
    """At least their rate; or half their memory at 0.8 of it, files that are mapped apart."""
    lean = ours["own bytes"] <= theirs["own bytes"] / 2
    for mode, probes in MODES.items():
        what = f"{size}: ours / {name}, {probes}"
        if lean:
            share = ours["own bytes"] / theirs["own bytes"]
            what += f", at {share:.2f} × its memory"
        bars.at_least(what, theirs[mode]["ours to it"], 0.8 if lean else 1, "×")


def plot(kept: Mapping[int, Mapping[str, Record]]) -> None:
    panels: dict[str, dict[str, dict[int, float]]] = {title: {} for title in MODES.values()}
    for size, records in kept.items():
        for name, record in records.items():
            for mode, title in MODES.items():
                rates = record["measured"][mode]["rates"]
                panels[title].setdefault(name, {})[size] = statistics.median(rates)
    curves("search", panels, across="items", up="probes a second")


# The script


def importable(names: Sequence[str]) -> list[str]:
    """Those whose packages are there; says which are not."""
    found = []
    for name in names:
        try:
            importlib.import_module(KINDS[name].package)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
        else:
            found.append(name)
    return found


def names_of(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = set(names) - set(KINDS)
    if unknown:
        sys.exit(f"no contender {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    return names


def compare(sized: Sized, names: Sequence[str], rebuild: Sequence[str], repeats: int) -> Kept:
    """Build what is missing and measure at one size."""
    kept = Kept(sized)
    if OURS in rebuild:  # what the others were compared with is gone
        for record in kept.records.values():
            record.pop("measured", None)
    prepare(sized, OURS, kept, OURS in rebuild)
    left_out = SAME if our_recipe(sized).exact else HALF
    chosen = [name for name in names if name != left_out]
    kept.records.pop(left_out, None)
    for name in chosen:
        if name != OURS:
            prepare(sized, name, kept, name in rebuild)
    measure(sized, chosen, kept, repeats)
    return kept


def main() -> None:
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument("--sizes", default="10000,100000,1000000")
    arguments.add_argument("--only", default="", metavar="NAME,...", help=", ".join(KINDS))
    arguments.add_argument("--rebuild", default="", metavar="NAME,...", help="build these again")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--noise", type=float, default=NOISE, help=f"default {NOISE}")
    work_argument(arguments)
    options = arguments.parse_args()
    only, rebuild = names_of(options.only), names_of(options.rebuild)
    wanted = {OURS, REFERENCE, *(only or KINDS)}
    names = importable([name for name in KINDS if name in wanted])
    work = Work(options.work, Encoder.open(options.encoder), options.seed, options.noise)
    neighbourhoods = dict(work.facts)
    bars, measured = Bars(), {}
    for size in map(int, options.sizes.split(",")):
        sized, neighbourhood = work.sized(size)
        neighbourhoods[f"extended, {size}"] = neighbourhood
        records = compare(sized, names, rebuild, options.repeats).records
        measured[size] = {
            name: records[name] for name in KINDS if "measured" in records.get(name, {})
        }
    table(
        f"How near the embeddings are to each other, noise {options.noise:g}",
        ("embeddings", *neighbourhoods["real"]),
        [
            (name, *(f"{value:.4g}" for value in facts.values()))
            for name, facts in neighbourhoods.items()
        ],
    )
    for size, records in measured.items():
        show(size, records)
        judge(bars, size, records)
    bars.show()
    plot(measured)
    settings = {
        "repeats": options.repeats,
        "seed": options.seed,
        "noise": options.noise,
        "threads": THREADS,
    }
    facts = {"neighbourhoods": neighbourhoods, "sizes": measured, "bars": bars.rows}
    write_results("search", options.encoder, {**settings, **facts})


if __name__ == "__main__":
    main()
