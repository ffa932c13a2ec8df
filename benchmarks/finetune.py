"""How much does training on photos help with classes that it has not seen?

    python benchmarks/finetune.py [--protocol cub-unseen grocery-unseen] [--seeds 0 1 2 3 4]

Trains on the protocol's training classes, each seed anew, and measures the encoder before and after
by ``protocols.py``'s figures of that protocol. What is kept is chosen on classes that are held out
of the training classes; the protocol's probes are looked at once a seed, at its end.
``results/finetune.json`` says which seeds are done; ``--work`` keeps the runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from common import RESULTS, Bars, Photo, cub_classes, grocery_split, machine, table
from protocols import SUITES, Pictures

from siamese_search.encoder import Encoder
from siamese_search.records import ImageFile
from siamese_search.training.checkpoint import NAME
from siamese_search.training.run import train
from siamese_search.training.settings import Settings

COMMON: dict[str, Any] = {
    "start": "general",
    "augmentation": "photo",
    "loss": "multi-similarity",
    "dimension": 512,
    "steps": 300,
    "epoch_steps": 50,
    "classes": 16,
    "images": 4,
    "rate": 3e-4,
    "patience": 4,
}
# The suite of protocols.py, its figures that have a bar, and what is trained on.
PROTOCOLS: dict[str, tuple[str, dict[str, float], dict[str, Any]]] = {
    "cub-unseen": ("cub", {"cub-unseen R@1": 65.0}, {}),
    "grocery-unseen": (
        "grocery",
        {"grocery-unseen iconic 1-shot": 48.0, "grocery-unseen full gallery": 85.0},
        {},
    ),
    "grocery-gallery": ("grocery", {"grocery-gallery top-1 fine": 89.0}, {}),
}


def training_photos(protocol: str) -> list[Photo]:
    """What the protocol lets an encoder see."""
    if protocol == "cub-unseen":
        return [photo for birds in cub_classes()[:100] for photo in birds]
    photos = grocery_split("train")
    if protocol == "grocery-unseen":
        return [photo for photo in photos if int(photo.fine) % 2 == 0]
    return photos


def measure(folder: str, suite: str, wanted: set[str], draws: int) -> dict[str, float]:
    """The wanted figures of an encoder, in per cent."""
    figures = SUITES[suite](Pictures(Encoder.open(folder, "cpu")), draws)
    return {name: statistics.mean(values) for name, values in figures.items() if name in wanted}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--protocol", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--work", type=Path, default=Path("runs") / "finetune")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="try settings")
    options = parser.parse_args()
    changed = {key: json.loads(value) for key, _, value in (o.partition("=") for o in options.set)}
    options.work.mkdir(parents=True, exist_ok=True)
    path = (options.work if changed else RESULTS) / "finetune.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    bars, rows = Bars(), []
    for protocol in options.protocol:
        suite, wanted, own = PROTOCOLS[protocol]
        settings = COMMON | own | changed
        files = [ImageFile(photo.path, photo.fine) for photo in training_photos(protocol)]
        done = results.get(protocol)
        if not done or done["settings"] != settings:
            before = measure(settings["start"], suite, set(wanted), options.draws)
            done = {"settings": settings, "machine": machine(), "before": before, "seeds": {}}
            results[protocol] = done
        for seed in options.seeds:
            if str(seed) in done["seeds"]:
                continue
            folder = options.work / f"{protocol}-{seed}"
            begun = time.perf_counter()
            report = train(
                files,
                folder,
                Settings(**settings, seed=seed),
                resume=(folder / NAME).exists(),
                tell=lambda epoch: print(epoch, file=sys.stderr, flush=True),
            )
            done["seeds"][str(seed)] = {
                **measure(str(folder), suite, set(wanted), options.draws),
                "held-out R@1": [report.recall_before, report.recall],
                "minutes": round((time.perf_counter() - begun) / 60, 1),
            }
            path.write_text(json.dumps(results, indent=1) + "\n")
            print(protocol, seed, done["seeds"][str(seed)], flush=True)
        for name, bar in wanted.items():
            values = [one[name] for one in done["seeds"].values()]
            spread = f"{statistics.stdev(values):.1f}" if len(values) > 1 else ""
            mean = statistics.mean(values)
            rows.append((name, f"{done['before'][name]:.1f}", f"{mean:.1f}", spread, len(values)))
            bars.at_least(name, mean, bar, " %")
    table("Trained, per cent", ("protocol", "before", "mean", "s.d.", "seeds"), rows)
    bars.show()


if __name__ == "__main__":
    main()
