"""Does training on four kinds of things help with things of a fifth kind?

    python benchmarks/domains.py [--sets cars faces flowers objects signs] [--seeds 0]

For each of the five small sets an encoder is trained on the other four, as ``siasearch train``
chooses by itself, and measured on the set that is left out, beside the encoder that it started
from: one shot and four shots under the metric that the gallery learns from what is enrolled,
identities scored by the balanced rule, as in ``metric.py``. The pictures that are left out choose
nothing: what is kept is chosen on classes that are held out of the other four.
``results/domains.json`` says what is done; ``--work`` keeps the runs, from which a stopped one goes
on. Several processes may share both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, Bars, data_folder, machine, table
from metric import DOMAINS, compared, domain

from siamese_search.embedding.encoder import Encoder
from siamese_search.records import ImageFile
from siamese_search.training.checkpoint import NAME
from siamese_search.training.plan import planned
from siamese_search.training.resuming import resumed
from siamese_search.training.run import train
from siamese_search.training.survey import survey

SHOTS = {"one shot": 1, "four shots": 4}
BAR, AIM = 2.0, 5.0  # points gained by one shot, mean of the sets


def measure(encoder: Encoder, name: str, draws: int) -> dict[str, float]:
    """Per cent named rightly of a set, by plain cosine and under the gallery's metric."""
    pictures = domain(encoder, name)
    figures = {}
    for title, shots in SHOTS.items():
        pairs = compared((pictures.some_of_each(shots, n) for n in range(draws)), encoder.prior)
        plain, learned = zip(*pairs, strict=True)
        figures[f"{title}, plain"] = statistics.mean(plain)
        figures[title] = statistics.mean(learned)
    return figures


def trained(name: str, seed: int, given: dict[str, Any], work: Path) -> dict[str, Any]:
    """Train on all sets but one; what the run says of itself."""
    files = [
        ImageFile(str(file), f"{other}/{file.parent.name}")  # classes of two sets may share a name
        for other in DOMAINS
        if other != name
        for file in sorted((data_folder() / "domains" / other).glob("*/*"))
    ]
    folder = work / f"{name}-{seed}"
    given = given | {"seed": seed}
    resume = (folder / NAME).exists()
    plan = resumed(folder, given) if resume else planned(survey(files), given)
    report = train(
        files,
        folder,
        plan,
        resume=resume,
        tell=lambda epoch: print(name, epoch, file=sys.stderr, flush=True),
    )
    compared_as = report.as_gallery
    return {
        "held out, as a gallery": compared_as.main.gained if compared_as else None,
        "verdict": report.verdict,
        "kept step": report.kept,
        "minutes": round(report.seconds / 60, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--start", default="general-2", help="a shipped name or a folder")
    parser.add_argument("--work", type=Path, default=Path("runs") / "domains")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="try settings")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    changed = {key: json.loads(value) for key, _, value in (o.partition("=") for o in options.set)}
    options.work.mkdir(parents=True, exist_ok=True)
    path = (options.work if changed else RESULTS) / "domains.json"

    def so_far() -> dict[str, Any]:
        results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        same = results.get("settings") == changed and results.get("start") == options.start
        fresh = {"start": options.start, "settings": changed, "draws": options.draws, "sets": {}}
        return results if same else fresh | {"machine": machine()}

    for name in options.sets:
        for seed in options.seeds:
            if str(seed) in so_far()["sets"].get(name, {}).get("seeds", {}):
                continue
            before = measure(Encoder.open(options.start, "cpu"), name, options.draws)
            given = {"start": options.start} | changed
            facts = trained(name, seed, given, options.work)
            encoder = Encoder.open(options.work / f"{name}-{seed}", "cpu")
            facts |= measure(encoder, name, options.draws)
            results = so_far()  # another process may have added some
            one = results["sets"].setdefault(name, {"before": before, "seeds": {}})
            one["seeds"][str(seed)] = facts
            path.write_text(json.dumps(results, indent=1) + "\n")
            print(name, seed, before, facts, flush=True)
    rows, gains = [], []
    for name, one in so_far()["sets"].items():
        for title in SHOTS:
            before = one["before"][title]
            values = [facts[title] for facts in one["seeds"].values()]
            gain = statistics.mean(values) - before
            rows.append((name, title, f"{before:.1f}", f"{before + gain:.1f}", f"{gain:+.1f}"))
            if title == "one shot":
                gains.append(gain)
    table(
        "Trained on the other four, per cent",
        ("set", "enrolled", "start", "trained", "gain"),
        rows,
    )
    bars = Bars()
    bars.at_least("one shot, mean gain", statistics.mean(gains), BAR, " points")
    bars.at_least("one shot, mean gain (aim)", statistics.mean(gains), AIM, " points")
    bars.show()


if __name__ == "__main__":
    main()
