"""Views of a probe for ``closer.py``: its centre, its turns, and centring on probes' own mean."""

from __future__ import annotations

import statistics

import numpy as np
from closer_features import DOMAINS, FloatArray, IntArray, features, unit
from common import table

VIEWS = ("1", "0.75", "0.5")
TURNED = ("signs",)
STEPS = range(0, 360, 45)
ASKEW = 10  # degrees that the nearest of eight turns is off
SOME = 100  # probes that their mean is learned from

Figures = dict[str, float]


def measured(draws: int) -> dict[str, dict[str, Figures]]:
    """Per cent named rightly, by table, set and way; printed as tables, too."""
    tables = {
        "one picture each, probes by their centre, too": {
            name: averaged([centres(name, 1, seed) for seed in range(draws)]) for name in DOMAINS
        },
        "four pictures each, probes by their centre, too": {
            name: averaged([centres(name, 4, seed) for seed in range(draws)]) for name in DOMAINS
        },
        "catalogue pictures enrolled, shop photos as probes": {
            split: averaged([catalogue(split, seed) for seed in range(draws)])
            for split in ("grocery-val", "grocery-test")
        },
        "one picture each, probes turned": {
            name: averaged([turns(name, 1, seed) for seed in range(draws)]) for name in TURNED
        },
    }
    for title, rows in tables.items():
        ways = list(next(iter(rows.values())))
        body = [(name, *(f"{row[way]:.1f}" for way in ways)) for name, row in rows.items()]
        if len(rows) == len(DOMAINS):
            means = [statistics.fmean(row[way] for row in rows.values()) for way in ways]
            body.append(("mean", *(f"{mean:.1f}" for mean in means)))
        table(title, ("set", *ways), body)
    return tables


def averaged(figures: list[Figures]) -> Figures:
    """Means by way."""
    return {way: statistics.fmean(one[way] for one in figures) for way in figures[0]}


def enrol(labels: IntArray, shots: int, seed: int) -> tuple[IntArray, IntArray]:
    """Positions of what is enrolled, so many of each class, and of the others."""
    chance = np.random.default_rng(seed)
    classes = range(int(labels.max()) + 1)
    picked = [chance.permutation(np.flatnonzero(labels == c))[:shots] for c in classes]
    enrolled = np.concatenate(picked)
    return enrolled, np.setdiff1d(np.arange(len(labels)), enrolled)


def scored(probes: FloatArray, items: FloatArray, labels: IntArray) -> FloatArray:
    """Scores of identities for probes by the balanced rule, (n, identities)."""
    cosines = probes @ items.T
    own = [labels == number for number in range(int(labels.max()) + 1)]
    best = np.stack([cosines[:, which].max(axis=1) for which in own], axis=1)
    prototypes = unit(np.stack([items[which].mean(axis=0) for which in own]))
    return np.asarray((best + probes @ prototypes.T) / 2, np.float32)


def centres(name: str, shots: int, seed: int) -> Figures:
    """Probes of the same kind as what is enrolled; all centred on the enrolled mean."""
    labels = features(name).labels
    enrolled, probes = enrol(labels, shots, seed)
    mean = features(name).descriptors[enrolled].mean(axis=0)
    whole, middle, inner = (unit(features(name, view).descriptors - mean) for view in VIEWS)
    own = labels[enrolled]

    def share(seen: FloatArray, items: FloatArray = whole) -> float:
        found = scored(seen[probes], items[enrolled], own).argmax(axis=1)
        return 100 * float((found == labels[probes]).mean())

    each = [scored(view[probes], whole[enrolled], own) for view in (whole, middle, inner)]
    both = unit(whole + middle)
    return {
        "whole": share(whole),
        "75 % alone": share(middle),
        "whole + 75 %": share(both),
        "whole + 75 % + 50 %": share(unit(whole + middle + inner)),
        "best of three": 100
        * float((np.max(each, axis=0).argmax(axis=1) == labels[probes]).mean()),
        "whole + 75 %, enrolled, too": share(both, both),
    }


def catalogue(split: str, seed: int) -> Figures:
    """Probes of another kind than what is enrolled."""
    shop = [features(split, view) for view in VIEWS]
    truth = shop[0].names[shop[0].labels]
    icons = features("iconic")
    shown = icons.names[icons.labels]
    mean = icons.descriptors.mean(axis=0)
    some = np.random.default_rng(seed).permutation(len(truth))[:SOME]

    def share(probes: FloatArray, items: FloatArray) -> float:
        return 100 * float((shown[(probes @ items.T).argmax(axis=1)] == truth).mean())

    plain = [view.descriptors for view in shop]
    centred = [unit(view - view[some].mean(axis=0)) for view in plain]
    items = unit(icons.descriptors - mean)
    return {
        "whole": share(plain[0], icons.descriptors),
        "three views": share(unit(np.sum(plain, axis=0)), icons.descriptors),
        "gallery's mean off both": share(unit(plain[0] - mean), items),
        f"own means ({SOME} probes)": share(centred[0], items),
        "own means, whole + 75 %": share(unit(centred[0] + centred[1]), items),
        "own means, three views": share(unit(np.sum(centred, axis=0)), items),
    }


def turns(name: str, shots: int, seed: int) -> Figures:
    """Probes upright and turned, each as it is and by the best of four or eight turns of it."""
    upright = features(name)
    labels = upright.labels
    enrolled, probes = enrol(labels, shots, seed)
    mean, own = upright.descriptors[enrolled].mean(axis=0), labels[enrolled]
    items = unit(upright.descriptors[enrolled] - mean)

    def scores(turn: int) -> FloatArray:
        view = features(name, f"turn{turn}") if turn else upright
        return scored(unit(view.descriptors[probes] - mean), items, own)

    def share(found: FloatArray) -> float:
        return 100 * float((found.argmax(axis=1) == labels[probes]).mean())

    straight = [scores(turn) for turn in STEPS]
    askew = [scores(ASKEW + turn) for turn in STEPS]
    # Four turns: those a quarter apart, on average over which of the eight the probe is.
    quarters = [askew[0::2], askew[1::2]]
    return {
        "upright": share(straight[0]),
        "upright, eight turns": share(np.max(straight, axis=0)),
        "turned": statistics.fmean(share(one) for one in askew),
        "turned, four turns": statistics.fmean(share(np.max(one, axis=0)) for one in quarters),
        "turned, eight turns": share(np.max(askew, axis=0)),
    }
