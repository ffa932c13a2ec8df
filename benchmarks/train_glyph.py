"""Trains the shipped encoder ``glyph`` on Omniglot's background alphabets, and measures it.

    python benchmarks/train_glyph.py [--seeds 0 1 2 3 4] [--work DIR] [--threads N] [--ship]

Every seed is trained, exported and then measured by what the exported encoder embeds: the error
in the 400 trials of Lake et al. (2015), recall@1 over the evaluation alphabets, and how often the
gallery's scoring rule, which looks beyond the nearest item, identifies these pictures. Validation
(which epoch is kept) uses background characters that are held out; the evaluation alphabets are
looked at once a seed, at its end. ``--work`` keeps the runs, from which a stopped one goes on;
``results/glyph.json`` says which seeds are done, and two processes with a thread each may share it,
which is faster than one with two. ``--ship`` puts the first seed into the package.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, Bars, data_folder, machine, table
from PIL import Image

from siamese_search.decision import reference
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.record import SHIPPED
from siamese_search.evaluation.protocols import SUITES, Pictures
from siamese_search.pictures.find import find_images
from siamese_search.records import ImageFile
from siamese_search.training.checkpoint import NAME
from siamese_search.training.data import split
from siamese_search.training.run import train
from siamese_search.training.settings import Settings

SETTINGS: dict[str, Any] = {
    "start": "scratch",
    "size": 48,
    "loss": "multi-similarity",
    "augmentation": "glyph",
    "steps": 1800,
    "epoch_steps": 200,
    "classes": 64,
    "images": 4,
    "rate": 4e-3,
    "average": 0.998,
    "weight_decay": 0.02,
    "dimension": 256,
    "holdout": 0.04,
    "patience": 100,
}


def background_alphabets(work: Path) -> Path:
    """The folder of the background alphabets, unpacked."""
    folder = work / "images_background"
    if not folder.is_dir():
        with zipfile.ZipFile(data_folder() / "omniglot" / "images_background.zip") as archive:
            archive.extractall(folder)
    return folder / "images_background"


def so_far(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The results file, without seeds of other settings."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if results.get("settings") != settings:
        results = {"settings": settings, "machine": machine(), "seeds": {}}
    return results


def recalibrated(folder: Path, background: Path, seed: int) -> dict[str, Any]:
    """The encoder's description, its threshold and confidence from the characters that were held
    out, those turned by quarters being further ones, as in training.
    """
    files = [file for file in find_images(str(background)) if isinstance(file, ImageFile)]
    held = split(files, SETTINGS["holdout"], seed).validation
    encoder = Encoder.open(folder, "cpu")
    vectors, labels = [], []
    for turn in range(4):
        turned = (Image.open(file.path).convert("L").rotate(90 * turn) for file in held)
        vectors.append(encoder.embed(turned))
        labels += [f"{file.identity} {turn}" for file in held]
    classes = np.unique(labels, return_inverse=True)[1]
    threshold, fitted = reference.record(np.concatenate(vectors), classes)
    description: dict[str, Any] = json.loads((folder / "encoder.json").read_text())
    return description | {"threshold": threshold, "calibration": fitted}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--work", type=Path, default=Path("runs") / "glyph")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--ship", action="store_true", help="put the first seed into the package")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="try settings")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    changed = {key: json.loads(value) for key, _, value in (o.partition("=") for o in options.set)}
    settings = SETTINGS | changed
    options.work.mkdir(parents=True, exist_ok=True)
    background = background_alphabets(options.work)
    path = options.work / "seeds.json" if changed else RESULTS / "glyph.json"
    results = so_far(path, settings)
    for seed in options.seeds:
        folder = options.work / f"seed-{seed}"
        if str(seed) in results["seeds"]:
            continue
        if not (folder / "encoder.json").exists():
            train(
                [background],
                folder,
                Settings(**settings, seed=seed),
                name="glyph",
                resume=(folder / NAME).exists(),
                tell=lambda epoch: print(epoch, file=sys.stderr, flush=True),
            )
        encoder = Encoder.open(folder, "cpu")
        trained = encoder.record.training
        if asdict(Settings(**settings, seed=seed).resolved()) != trained["settings"]:
            sys.exit(f"{folder} holds a run with other settings: remove it, or take another --work")
        figures = SUITES["omniglot"](Pictures(encoder), data_folder(), 1)
        measured = {name: value for name, (value,) in figures.items()} | {
            "held-out R@1": 100 * trained["recall@1"],
            "kept": trained["kept"],
            "minutes": round(trained["seconds"] / 60, 1),
            "threads": torch.get_num_threads(),
            "fingerprint": encoder.fingerprint,
        }
        results = so_far(path, settings)  # another process may have added a seed
        results["seeds"][str(seed)] = measured
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(seed, results["seeds"][str(seed)], flush=True)
    bars = Bars()
    rows = []
    for what in ("omniglot-400 error", "omniglot-unseen R@1", "omniglot-unseen identified"):
        values = [one[what] for one in results["seeds"].values()]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        rows.append((what, f"{statistics.mean(values):.2f}", f"{spread:.2f}", len(values)))
        if what.endswith("error"):
            bars.at_most(what, statistics.mean(values), 2.0, " %")
            bars.at_most(f"{what} (aim)", statistics.mean(values), 1.0, " %")
        elif what.endswith("R@1"):
            bars.at_least(what, statistics.mean(values), 92.5, " %")
            bars.at_least(f"{what} (aim)", statistics.mean(values), 95, " %")
    table("glyph, per cent", ("protocol", "mean", "s.d.", "seeds"), rows)
    bars.show()
    if options.ship:
        source = options.work / f"seed-{options.seeds[0]}"
        target = SHIPPED / "glyph"
        target.mkdir(exist_ok=True)
        for file in ("encoder.onnx", "weights.safetensors"):
            (target / file).write_bytes((source / file).read_bytes())
        description = recalibrated(source, background, options.seeds[0])
        (target / "encoder.json").write_text(json.dumps(description, indent=2) + "\n")


if __name__ == "__main__":
    main()
