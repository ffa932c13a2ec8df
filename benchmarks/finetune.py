"""How much does training on photos help with classes that it has not seen?

    python benchmarks/finetune.py [--protocol cub-unseen grocery-unseen] [--seeds 0 1 2 3 4]

Trains on the protocol's training classes, each seed anew: birds from the untuned encoder, groceries
from ``general-2``, which has seen the training birds. Measures the encoder before and after by
``protocols.py``'s figures of that data set, and of the other, of which this training saw nothing;
and by those of ``metric.py`` under the metric that a gallery learns from what is enrolled
(*metric*), since what that gives by itself training need not give. Catalogue pictures and shop
photos are each taken about their own mean there.
What is kept is chosen on classes that are held out of the training classes; the protocol's probes
are looked at once a seed, at its end. grocery-gallery, whose classes are all enrolled, trains on
all of them for a fixed number of steps. ``results/finetune.json`` says which seeds are done;
``--work`` keeps the runs, from which a stopped one goes on. Several processes may share both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import metric
import torch
from build_general import COMMON, write_untuned
from common import (
    RESULTS,
    Bars,
    cub_classes,
    data_folder,
    grocery_iconic,
    grocery_split,
    machine,
    table,
)

from siamese_search.embedding.encoder import Encoder
from siamese_search.evaluation.protocols import SUITES, Photo, Pictures
from siamese_search.records import ImageFile
from siamese_search.training.checkpoint import NAME
from siamese_search.training.run import train
from siamese_search.training.settings import Settings

# The suite of protocols.py, its figures that have a bar and an aim, and settings of its own.
PROTOCOLS: dict[str, tuple[str, dict[str, tuple[float, float]], dict[str, Any]]] = {
    "cub-unseen": (
        "cub",
        {"cub-unseen R@1": (65.0, 70.0), "metric: cub-unseen R@1": (68.0, 72.0)},
        {},
    ),
    "grocery-unseen": (
        "grocery",
        {
            "grocery-unseen iconic 1-shot": (48.0, 55.0),
            "grocery-unseen full gallery": (85.0, 88.0),
            "metric: 40 unseen groceries, catalogue, own means": (62.0, 66.0),
            "metric: 40 unseen groceries, all photos": (95.0, 96.0),
        },
        {"start": "general-2", "crop": 0.75, "steps": 75, "epoch_steps": 15},
    ),
    "grocery-gallery": (
        "grocery",
        {
            "grocery-gallery top-1 fine": (89.0, 92.0),
            "metric: 81 groceries, all photos": (91.0, 93.0),
        },
        {
            "start": "general-2",
            "crop": 0.75,
            "holdout": 0.0,
            "loss": "proxy-anchor",
            "steps": 250,
            "rate": 1.2e-3,
            "epoch_steps": 50,
        },
    ),
}
# What an encoder makes of a domain that it has not seen, to be compared with the starting point.
ELSEWHERE = {
    "cub-unseen": ("grocery", ("grocery-iconic top-1", "grocery-gallery top-1 fine")),
    "grocery-unseen": ("cub", ("cub-unseen R@1", "cub-unseen 1-shot")),
}


def training_photos(protocol: str) -> list[Photo]:
    """What the protocol lets an encoder see."""
    if protocol == "cub-unseen":
        return [photo for birds in cub_classes()[:100] for photo in birds]
    photos = grocery_split("train")
    if protocol == "grocery-unseen":
        return [photo for photo in photos if int(photo.fine) % 2 == 0]
    return photos


def under_metric(pictures: Pictures, protocol: str, draws: int) -> dict[str, float]:
    """An encoder's figures by the metric of a gallery, in per cent."""
    prior = pictures.encoder.prior
    if PROTOCOLS[protocol][0] == "cub":
        photos = [photo for bird in cub_classes()[-100:] for photo in bird]
        birds = metric.Pictures.of(photos, pictures)
        pairs = {"cub-unseen R@1": [metric.recall(birds, prior)]}
    else:
        icons, train, test = (
            metric.Pictures.of(photos, pictures)
            for photos in (grocery_iconic(), grocery_split("train"), grocery_split("test"))
        )
        pairs = metric.unseen_groceries(icons, train, test, prior, draws)
    return {
        f"metric: {name}": statistics.mean(learned for _, learned in drawn)
        for name, drawn in pairs.items()
    }


def measure(folder: str, protocol: str, draws: int) -> dict[str, float]:
    """An encoder's figures in its own domain and in another, in per cent."""
    pictures = Pictures(Encoder.open(folder, "cpu"))
    figures = SUITES[PROTOCOLS[protocol][0]](pictures, data_folder(), draws)
    if protocol in ELSEWHERE:
        other, wanted = ELSEWHERE[protocol]
        elsewhere = SUITES[other](pictures, data_folder(), draws)
        figures |= {f"elsewhere: {name}": elsewhere[name] for name in wanted}
    plain = {
        name: statistics.mean(values) for name, values in figures.items() if "openset" not in name
    }
    return plain | under_metric(pictures, protocol, draws)


def so_far(path: Path) -> dict[str, Any]:
    """The results file."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--protocol", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("runs") / "finetune")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument(
        "--again", action="store_true", help="measure what is trained already anew, too"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="try settings")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    changed = {key: json.loads(value) for key, _, value in (o.partition("=") for o in options.set)}
    options.work.mkdir(parents=True, exist_ok=True)
    path = (options.work if changed else RESULTS) / "finetune.json"
    bars, rows = Bars(), []
    for protocol in options.protocol:
        _, wanted, own = PROTOCOLS[protocol]
        settings = COMMON | own | changed
        start = settings["start"]
        if start == "untuned":
            start = str(options.work / "untuned")
            if not (Path(start) / "encoder.json").exists():
                write_untuned(Path(start))
        files = [ImageFile(photo.path, photo.fine) for photo in training_photos(protocol)]
        done = so_far(path).get(protocol, {})
        if done.get("settings") != settings:
            before = measure(start, protocol, options.draws)
            done = {"settings": settings, "machine": machine(), "before": before, "seeds": {}}
        if options.again:
            done["before"] = measure(start, protocol, options.draws)
        for seed in options.seeds:
            folder = options.work / f"{protocol}-{seed}"
            if str(seed) in done["seeds"]:
                if options.again and (folder / "encoder.json").exists():
                    done["seeds"][str(seed)] |= measure(str(folder), protocol, options.draws)
                    path.write_text(json.dumps(so_far(path) | {protocol: done}, indent=1) + "\n")
                    print(protocol, seed, done["seeds"][str(seed)], flush=True)
                continue
            report = train(
                files,
                folder,
                Settings(**settings | {"start": start}, seed=seed),
                resume=(folder / NAME).exists(),
                tell=lambda epoch: print(epoch, file=sys.stderr, flush=True),
            )
            done["seeds"][str(seed)] = {
                **measure(str(folder), protocol, options.draws),
                "held-out R@1": [report.recall_before, report.recall],
                "minutes": round(report.seconds / 60, 1),
            }
            others = so_far(path)  # another process may have added seeds
            if others.get(protocol, {}).get("settings") == settings:
                done["seeds"] = others[protocol]["seeds"] | done["seeds"]
            results = others | {protocol: done}
            path.write_text(json.dumps(results, indent=1) + "\n")
            print(protocol, seed, done["seeds"][str(seed)], flush=True)
        for name, before in done["before"].items():
            values = [one[name] for one in done["seeds"].values()]
            spread = f"{statistics.stdev(values):.1f}" if len(values) > 1 else ""
            mean = statistics.mean(values)
            rows.append((protocol, name, f"{before:.1f}", f"{mean:.1f}", spread, len(values)))
            if name in wanted:
                bars.at_least(name, mean, wanted[name][0], " %")
                bars.at_least(f"{name} (aim)", mean, wanted[name][1], " %")
    table("Per cent", ("trained for", "figure", "before", "mean", "s.d.", "seeds"), rows)
    bars.show()


if __name__ == "__main__":
    main()
