"""Shared by the measurement scripts: data, interleaved repetitions, tables, results."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from siamese_search import EncoderProtocol, __version__
from siamese_search.evaluation import protocols
from siamese_search.evaluation.protocols import Photo

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# What the figures depend on; those that are not installed are left out.
PACKAGES = (
    "faiss-cpu",
    "hnswlib",
    "milvus-lite",
    "numpy",
    "onnxruntime",
    "openvino",
    "pillow",
    "pymilvus",
    "timm",
    "torch",
    "torchvision",
    "usearch",
)


def parser(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """Arguments that every script takes."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--encoder", default="general", help="a shipped name or a folder")
    result.add_argument("--repeats", type=int, default=repeats, help=f"default {repeats}")
    return result


# Data


def data_folder() -> Path:
    """The folder of the data sets; ends the script where it is absent."""
    folder = Path(os.environ.get("SIASEARCH_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "grocery").is_dir():
        sys.exit(f"no data sets in {folder}: set SIASEARCH_DATA to the folder that has grocery/")
    return folder


def grocery_split(split: str) -> list[Photo]:
    """``train``, ``val`` or ``test`` of the Grocery Store Dataset."""
    return protocols.grocery_split(data_folder(), split)


def grocery_iconic() -> list[Photo]:
    """The catalogue picture of each of the 81 fine classes."""
    return protocols.grocery_iconic(data_folder())


def cub_classes() -> list[list[Photo]]:
    """The photos of each bird, birds in name order."""
    return protocols.cub_classes(data_folder())


# Measuring


def seconds(task: Callable[[], object]) -> float:
    """How long a call takes."""
    begun = time.perf_counter()
    task()
    return time.perf_counter() - begun


def interleaved(
    tasks: Mapping[str, Callable[[], float]], repeats: int, warmups: int = 0
) -> dict[str, list[float]]:
    """Each task's measurements, the tasks taking turns, so that a busy spell hits all of them."""
    for _ in range(warmups):
        for task in tasks.values():
            task()
    raw: dict[str, list[float]] = {name: [] for name in tasks}
    for repetition in range(repeats):
        for name, task in tasks.items():
            raw[name].append(task())
            print(f"  {repetition + 1}/{repeats} {name}: {raw[name][-1]:.4g}", file=sys.stderr)
    return raw


def medians(raw: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each series."""
    return {name: statistics.median(series) for name, series in raw.items()}


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios within each repetition."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The 50th and 95th of seconds, in milliseconds."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return 1000 * cuts[49], 1000 * cuts[94]


def status(field: str) -> int:
    """Bytes in a field of /proc/self/status, such as VmHWM; -1 where nobody counts them."""
    path = Path("/proc/self/status")
    if path.is_file():
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return 1024 * int(value.split()[0])
    return -1


def run(*arguments: str, done: tuple[int, ...] = (0,)) -> tuple[float, str]:
    """Run a Python process: its seconds and standard output. Ends the script if it fails."""
    begun = time.perf_counter()
    process = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    took = time.perf_counter() - begun
    if process.returncode not in done:
        sys.exit(f"python {' '.join(arguments[:4])} ... failed:\n{process.stderr}")
    return took, process.stdout


def siasearch(*arguments: str) -> tuple[float, str]:
    """Run the command as a process of its own."""
    return run("-m", "siamese_search", *arguments)


# Reporting


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, columns aligned."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}")
    for number, row in enumerate(cells):
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))


def curves(
    name: str,
    panels: Mapping[str, Mapping[str, Mapping[int, float]]],
    across: str,
    up: str,
) -> None:
    """Write ``results/NAME.png``: in each panel a curve for each series, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, row = pyplot.subplots(
        1, len(panels), figsize=(5 * len(panels), 4), squeeze=False, sharey=True
    )
    for axes, (title, series) in zip(row[0], panels.items(), strict=True):
        for label, points in series.items():
            axes.loglog([*points], [*points.values()], marker="o", label=label)
        axes.set(title=title, xlabel=across)
        axes.grid(color="0.9")
    row[0][0].set_ylabel(up)
    row[0][-1].legend(fontsize="small")
    figure.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)


def lengths(name: str, panels: Mapping[str, Mapping[str, float]], across: str) -> None:
    """Write ``results/NAME.png``: in each panel a bar for each figure, the first on top."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, row = pyplot.subplots(1, len(panels), figsize=(6 * len(panels), 3.5), squeeze=False)
    for axes, (title, figures) in zip(row[0], panels.items(), strict=True):
        drawn = axes.barh([*figures], [*figures.values()])
        texts = [f"{value:,.0f}" if value > 100 else f"{value:.3g}" for value in figures.values()]
        axes.bar_label(drawn, texts, padding=3)
        axes.margins(x=0.15)
        axes.invert_yaxis()
        axes.set(title=title, xlabel=across)
    figure.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)


class Bars:
    """Figures that have a bar to reach."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def at_least(self, what: str, value: float, bar: float, unit: str = "") -> None:
        self._add(what, value, bar, unit, "≥", value >= bar)

    def at_most(self, what: str, value: float, bar: float, unit: str = "") -> None:
        self._add(what, value, bar, unit, "≤", value <= bar)

    def _add(self, what: str, value: float, bar: float, unit: str, side: str, met: bool) -> None:
        limit = f"{side} {bar:g}{unit}"
        self.rows.append(
            {"what": what, "value": value, "unit": unit, "bar": limit, "met": bool(met)}
        )

    def show(self) -> None:
        if not self.rows:
            return
        rows = []
        for row in self.rows:
            value = f"{row['value']:.3g}{row['unit']}"
            rows.append((row["what"], value, row["bar"], "yes" if row["met"] else "NO"))
        table("Bars", ("what", "measured", "bar", "met"), rows)


def machine() -> dict[str, Any]:
    """What the figures were measured on; no host name, no date."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    versions = {"siasearch": __version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": versions,
    }


def write_results(name: str, encoder: str | EncoderProtocol, results: Mapping[str, Any]) -> None:
    """Write ``results/NAME.json``: the raw figures, and what they were measured on."""
    from siamese_search import Encoder

    opened = Encoder.open(encoder)
    facts = {
        "encoder": {"name": opened.name, "fingerprint": opened.fingerprint},
        "machine": machine(),
        **results,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"\nwrote {path.relative_to(ROOT)}", file=sys.stderr)
