"""Are the groups of `siasearch unknowns` each of one kind?

    python benchmarks/unknowns.py [--repeats 5] [--set grocery cub faces objects flowers]

A random half of the classes is enrolled, with up to five pictures each, then all other pictures are
asked about; what gets no name is kept and grouped. *pure*: the share of the pictures in groups of
two and more that are of their group's commonest class; *mixed*: the share of these groups that have
two classes or more; *together*: the share of the kept pictures that are in such groups. Without and
with a calibration, which also learns a metric where that helps. For comparison, average linkage
down to the encoder's threshold.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from common import cub_classes, data_folder, grocery_split, parser, table, write_results

from siamese_search import Encoder, Gallery
from siamese_search.arrays import FloatArray
from siamese_search.evaluation.protocols import Photo

SHOTS = 5
MOST = 2000  # kept probes of a draw
FPIR = 0.05


def domain(name: str) -> list[Photo]:
    """One of the small sets."""
    folder = data_folder() / "domains" / name
    return [Photo(str(path), path.parent.name) for path in sorted(folder.glob("*/*.*"))]


SETS: dict[str, Callable[[], list[Photo]]] = {
    "grocery": lambda: grocery_split("train") + grocery_split("test"),
    "cub": lambda: [photo for photos in cub_classes()[100:] for photo in photos],
    **{name: lambda name=name: domain(name) for name in ("faces", "objects", "flowers")},  # type: ignore[misc]
}


def measured(groups: Sequence[Sequence[int]], classes: np.ndarray) -> dict[str, float]:
    """Figures of groups of positions, with the class of each position."""
    large = [Counter(classes[list(group)].tolist()) for group in groups if len(group) > 1]
    pictures = sum(one.total() for one in large)
    return {
        "pure": sum(max(one.values()) for one in large) / max(1, pictures),
        "mixed": sum(len(one) > 1 for one in large) / max(1, len(large)),
        "together": pictures / max(1, len(classes)),
        "groups": float(len(groups)),
        "largest": float(max(map(len, groups), default=0)),
    }


def average_linked(vectors: FloatArray, threshold: float) -> list[list[int]]:
    """Groups whose mean cosines reach a threshold."""
    cosines = (vectors @ vectors.T).astype(np.float64)
    np.fill_diagonal(cosines, -np.inf)
    sizes, members = np.ones(len(vectors)), {n: [n] for n in range(len(vectors))}
    while len(members) > 1:
        first, second = sorted(divmod(int(cosines.argmax()), len(vectors)))
        if cosines[first, second] < threshold:
            break
        together = sizes[first] + sizes[second]
        mean = (sizes[first] * cosines[first] + sizes[second] * cosines[second]) / together
        cosines[first], cosines[:, first] = mean, mean
        cosines[first, first] = -np.inf
        cosines[second], cosines[:, second] = -np.inf, -np.inf
        sizes[first] = together
        members[first] += members.pop(second)
    return list(members.values())


def draw(
    encoder: Encoder, vectors: FloatArray, classes: np.ndarray, seed: int, calibrated: bool
) -> dict[str, dict[str, float]]:
    """The figures of one draw, by the way of grouping."""
    chance = np.random.default_rng(seed)
    names = np.unique(classes)
    known = chance.choice(names, len(names) // 2, replace=False)
    own = np.concatenate(
        [chance.permutation(np.flatnonzero(classes == name))[:SHOTS] for name in known]
    )
    probes = chance.permutation(np.setdiff1d(np.arange(len(classes)), own))
    with tempfile.TemporaryDirectory() as folder, Gallery.open(folder, encoder) as gallery:
        gallery.enroll_embeddings(vectors[own], [str(name) for name in classes[own]])
        if calibrated:
            gallery.calibrate(FPIR)
        answers = gallery.identify_embeddings(vectors[probes], k=1)
        kept = probes[[answer.strange for answer in answers]][:MOST]
        for position in kept.tolist():  # as `keep` does, but for the file
            content = f"{position:064x}"
            gallery._catalog.keep_unknown(
                content, str(position), encoder.fingerprint, vectors[position]
            )
        groups = [[int(path) for path in group.paths] for group in gallery.unknowns()]
    place = {position: row for row, position in enumerate(kept.tolist())}
    now = [[place[position] for position in group] for group in groups]
    before = average_linked(vectors[kept], encoder.threshold)
    return {
        "complete": measured(now, classes[kept]),
        "average": measured(before, classes[kept]),
    }


def main() -> None:
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument("--set", nargs="+", choices=SETS, default=list(SETS))
    options = arguments.parse_args()
    encoder = Encoder.open(options.encoder)
    rows, raw = [], {}
    for name in options.set:
        photos = SETS[name]()
        vectors = encoder.embed([photo.path for photo in photos])
        classes = np.array([photo.fine for photo in photos])
        for calibrated in (False, True):
            draws = [
                draw(encoder, vectors, classes, seed, calibrated) for seed in range(options.repeats)
            ]
            raw[f"{name}, {'calibrated' if calibrated else 'not calibrated'}"] = draws
            for way in ("average", "complete"):
                means = {
                    figure: statistics.mean(one[way][figure] for one in draws)
                    for figure in draws[0][way]
                }
                rows.append(
                    (
                        name,
                        "yes" if calibrated else "no",
                        way,
                        *(f"{100 * means[one]:.1f}" for one in ("pure", "mixed", "together")),
                        f"{means['groups']:.0f}",
                        f"{means['largest']:.0f}",
                    )
                )
        print(name, flush=True)
    header = ("set", "calibrated", "linkage", "pure", "mixed", "together", "groups", "largest")
    table(f"Groups of kept pictures, per cent, means of {options.repeats} draws", header, rows)
    write_results("unknowns", options.encoder, {"draws": options.repeats, "raw": raw})


if __name__ == "__main__":
    main()
