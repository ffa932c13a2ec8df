"""How was the shipped encoder ``general`` chosen, and its threshold?

    python benchmarks/encoder_choice.py

First compares ways to show pictures to EfficientNet-Lite0 (ImageNet weights, not trained further)
and to pool its feature maps, by the untuned rows of the protocols; nothing is fitted to Grocery or
CUB pictures. Then chooses the default threshold and fits the confidence of the winner on Grocery
``train.txt`` and the first 100 CUB classes, and tries both on grocery-openset and on altered views.
One-shot rows are means of 20 seeded draws. Writes ``results/encoder_choice.json`` and ``.md``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import openvino
import torch
from build_general import CALIBRATION, PREPROCESSING, THRESHOLD, build_network, published_weights
from common import (
    RESULTS,
    cub_classes,
    grocery_iconic,
    grocery_split,
    machine,
    parser,
)
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor, nn

from siamese_search.arrays import FloatArray
from siamese_search.embedding.network import EmbeddingNetwork, WindowedPool
from siamese_search.embedding.pipeline import batches, parallel_map, thread_pool
from siamese_search.evaluation.protocols import Photo
from siamese_search.pictures import render
from siamese_search.pictures.preprocessing import Preprocessing

Labels = npt.NDArray[np.int64]
Parts = Mapping[str, FloatArray]
# What is compared: the embeddings of each picture set, by the set's name.
Embeddings = dict[str, FloatArray]

BATCH = 32
COLUMNS = (
    "iconic top-1", "iconic top-5", "gallery top-1", "cub R@1", "cub 1-shot", "unseen iconic",
    "unseen gallery",
)  # fmt: skip
REFERENCE = (30.1, 68.1, 63.5, 58.7, 27.2, 41.7, 80.1)


# What the network is asked for: source (see network.py), power, spread. "head" has 1280 numbers,
# "block" (the last block's output, stage 4) 320, "stage 3" 112.
POOLS: dict[str, tuple[str | int, float, float | None]] = {
    "head mean": ("features", 1.0, None),
    "head GeM2": ("features", 2.0, None),
    "head GeM3": ("features", 3.0, None),
    "head centred mean": ("features", 1.0, 1.0),
    "head centred GeM2": ("features", 2.0, 1.0),
    "head centred GeM3": ("features", 3.0, 1.0),
    "block mean": (4, 1.0, None),
    "block centred mean": (4, 1.0, 1.0),
    "stage 3 mean": (3, 1.0, None),
}
WIDTHS: dict[str | int, int] = {"features": 1280, 4: 320, 3: 112}
WINNER = (("head centred GeM2", 1.0), ("block centred mean", 0.5))


class Descriptors(nn.Module):
    """All of ``POOLS`` side by side, before any normalisation."""

    def __init__(self, network: EmbeddingNetwork) -> None:
        super().__init__()
        self.network = network
        self.pools = nn.ModuleList(
            WindowedPool(power, spread) for _, power, spread in POOLS.values()
        )

    def forward(self, pixels: Tensor) -> Tensor:
        scaled = (pixels.permute(0, 3, 1, 2).float() - self.network.mean) / self.network.std
        backbone: Any = self.network.backbone
        head, (stage3, stage4) = backbone.forward_intermediates(scaled, indices=[3, 4])
        maps = {"features": head, 3: stage3, 4: stage4}
        pooled = [
            pool(maps[source])
            for pool, (source, _, _) in zip(self.pools, POOLS.values(), strict=True)
        ]
        return torch.cat(pooled, dim=1)


class Describer:
    """Runs ``Descriptors`` on OpenVINO for one way of showing pictures."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self.shape = (BATCH, preprocessing.height, preprocessing.width, 3)
        example = torch.zeros(self.shape, dtype=torch.uint8)
        module = Descriptors(build_network()).eval()
        program = torch.onnx.export(module, (example,), dynamo=True, verbose=False)
        assert program is not None
        core = openvino.Core()
        model = core.read_model(program.model_proto.SerializeToString())
        self.compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def __call__(
        self, photos: Sequence[Photo], alter: Callable[[Image.Image], Image.Image] | None = None
    ) -> dict[str, FloatArray]:
        """The parts of each photo, float32 (n, width) by the part's name."""

        def prepare(photo: Photo) -> npt.NDArray[np.uint8]:
            if alter is None:
                return render.decode(Path(photo.path).read_bytes(), self.preprocessing)
            with Image.open(photo.path) as image:
                return render.prepare(alter(image.convert("RGB")), self.preprocessing)

        rows = []
        with thread_pool(1) as pool:
            pixels = parallel_map(pool, prepare, photos, ahead=2 * BATCH)
            for batch in batches(pixels, BATCH):
                padded = np.zeros(self.shape, np.uint8)
                padded[: len(batch)] = batch
                rows.append(np.array(self.compiled([padded])[0])[: len(batch)])
        widths = [WIDTHS[source] for source, _, _ in POOLS.values()]
        columns = np.split(np.concatenate(rows), np.cumsum(widths)[:-1], axis=1)
        return dict(zip(POOLS, columns, strict=True))


def unit(vectors: npt.NDArray[Any]) -> FloatArray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def joined(parts: Parts, weights: Sequence[tuple[str, float]]) -> FloatArray:
    """Parts of unit length, weighted and side by side, of unit length again."""
    return unit(np.concatenate([weight * unit(parts[name]) for name, weight in weights], axis=1))


# Protocols


class Protocols:
    """The untuned rows; all figures are per cent, in the order of ``COLUMNS``."""

    def __init__(self, draws: int) -> None:
        birds = cub_classes()
        self.photos = {
            "iconic": grocery_iconic(),
            "train": grocery_split("train"),
            "test": grocery_split("test"),
            "cub": [photo for bird in birds[-100:] for photo in bird],
        }
        self.first_birds = [photo for bird in birds[:100] for photo in bird]
        self.labels = {name: labels_of(photos) for name, photos in self.photos.items()}
        self.draws = draws

    def __call__(self, e: Embeddings) -> list[float]:
        iconic, train, test = (self.labels[name] for name in ("iconic", "train", "test"))
        to_iconic, to_train = e["test"] @ e["iconic"].T, e["test"] @ e["train"].T
        five = iconic[np.argsort(-to_iconic, axis=1)[:, :5]] == test[:, None]
        odd = test % 2 == 1
        shown, enrolled = np.flatnonzero(iconic % 2), np.flatnonzero(train % 2)
        birds = self.labels["cub"]
        among = e["cub"] @ e["cub"].T
        others = among - 3 * np.eye(len(among), dtype=np.float32)
        return [
            hits(iconic, to_iconic, test),
            100 * float(five.any(axis=1).mean()),
            hits(train, to_train, test),
            hits(birds, others, birds),
            float(np.mean([self._one_shot(among, birds, seed) for seed in range(self.draws)])),
            hits(iconic[shown], to_iconic[odd][:, shown], test[odd]),
            hits(train[enrolled], to_train[odd][:, enrolled], test[odd]),
        ]

    @staticmethod
    def _one_shot(among: FloatArray, labels: Labels, seed: int) -> float:
        chance = np.random.default_rng(seed)
        drawn = np.array([chance.choice(np.flatnonzero(labels == c)) for c in np.unique(labels)])
        probes = np.setdiff1d(np.arange(len(labels)), drawn)
        return hits(labels[drawn], among[np.ix_(probes, drawn)], labels[probes])


def labels_of(photos: Sequence[Photo]) -> Labels:
    """Numbers for the fine labels: those of Grocery as they are, birds in name order."""
    names = [photo.fine for photo in photos]
    if names[0].isdigit():
        return np.array(names, dtype=np.int64)
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def hits(enrolled: Labels, scores: FloatArray, wanted: Labels) -> float:
    return 100 * float((enrolled[scores.argmax(axis=1)] == wanted).mean())


# Configurations


class Head:
    """What ImageNet training left behind that may weight or project features without any data."""

    def __init__(self) -> None:
        tensors = published_weights()
        named = {
            name: tensors[name].double().numpy()
            for name in ("_fc.weight", "_bn1.weight", "_bn1.bias")
        }
        self.classifier = named["_fc.weight"] - named["_fc.weight"].mean(axis=0)
        # If what enters the last ReLU6 is normal, as batch normalisation says, what leaves it has:
        draws = np.random.default_rng(0).standard_normal((1, 4000))
        after = named["_bn1.bias"][:, None] + named["_bn1.weight"][:, None] * draws
        self.mean, self.spread = np.clip(after, 0, 6).mean(1), np.clip(after, 0, 6).std(1)

    def projection(self, dimension: int) -> npt.NDArray[Any]:
        """(1280, dimension): the directions that the classifier tells most classes apart by."""
        weighted = self.classifier * self.spread
        return np.asarray(np.linalg.svd(weighted, full_matrices=False)[2][:dimension].T)


def configurations(head: Head) -> dict[str, Callable[[Parts], FloatArray]]:
    """Ways to make an embedding of the parts, by description; the pictures shown as shipped."""
    orthogonal = np.linalg.qr(np.random.default_rng(0).standard_normal((1600, 512)))[0]
    projection = head.projection(512)

    def parts(*weights: tuple[str, float]) -> Callable[[Parts], FloatArray]:
        return lambda p: joined(p, weights)

    def of_mean(change: Callable[[FloatArray], npt.NDArray[Any]]) -> Callable[[Parts], FloatArray]:
        return lambda p: unit(change(p["head mean"]))

    def short_winner(p: Parts) -> FloatArray:
        projected = unit(p[WINNER[0][0]]) @ projection[:, :384]
        return unit(np.concatenate([projected, 0.5 * unit(p[WINNER[1][0]]) @ short_block], axis=1))

    short_block = np.linalg.qr(np.random.default_rng(1).standard_normal((320, 128)))[0]
    return {
        "head mean": parts(("head mean", 1)),
        "head GeM2": parts(("head GeM2", 1)),
        "head GeM3": parts(("head GeM3", 1)),
        "head mean, square root": of_mean(np.sqrt),
        "head mean, centred by batch statistics": of_mean(lambda x: x - head.mean),
        "head mean, standardised by them": of_mean(lambda x: (x - head.mean) / head.spread),
        "classifier's logits": of_mean(lambda x: x @ head.classifier.T),
        "block mean (320)": parts(("block mean", 1)),
        "stage 3 mean (112)": parts(("stage 3 mean", 1)),
        "head mean + 0.7 block mean": parts(("head mean", 1), ("block mean", 0.7)),
        "head mean, window": parts(("head centred mean", 1)),
        "head GeM2, window": parts(("head centred GeM2", 1)),
        "head GeM2 + 0.5 block mean": parts(("head GeM2", 1), ("block mean", 0.5)),
        "head GeM3 + 0.5 block mean, window": parts(
            ("head centred GeM3", 1), ("block centred mean", 0.5)
        ),
        "head GeM2 + 0.5 block mean, window (shipped)": parts(*WINNER),
        "shipped, to 512 by random directions": lambda p: unit(joined(p, WINNER) @ orthogonal),
        "shipped, to 384 + 128 by the classifier": short_winner,
        "head GeM2, window, to 512 by the classifier": lambda p: unit(
            unit(p["head centred GeM2"]) @ projection
        ),
    }


VIEWS = {
    "224 px, crop 0.875": PREPROCESSING,
    "224 px, squash": Preprocessing(width=224, height=224, resize="squash"),
    "224 px, crop 1.0": Preprocessing(width=224, height=224, crop_fraction=1.0),
    "224 px, crop 0.75": Preprocessing(width=224, height=224, crop_fraction=0.75),
    "256 px, crop 0.875": Preprocessing(width=256, height=256),
}


def compare(
    protocols: Protocols, views: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, dict[str, FloatArray]]]:
    """A row per configuration and view; and the parts of every set as shipped."""
    rows: list[dict[str, Any]] = []
    ways = configurations(Head())
    shipped: dict[str, dict[str, FloatArray]] = {}

    def note(view: str, name: str, embeddings: Embeddings) -> None:
        figures = [round(figure, 1) for figure in protocols(embeddings)]
        rows.append({"view": view, "features": name, "dimension": embeddings["test"].shape[1],
                     "figures": figures})  # fmt: skip
        print(f"{view:20} {name:46}", *(f"{figure:5.1f}" for figure in figures), flush=True)

    for view in views:
        describer = Describer(VIEWS[view])
        sets = {name: describer(photos) for name, photos in protocols.photos.items()}
        if not shipped:
            shipped = sets
        few = ("head mean", "head GeM2 + 0.5 block mean, window (shipped)")
        for name in ways if view == views[0] else few:
            note(view, name, {key: ways[name](parts) for key, parts in sets.items()})
    flipped = Describer(PREPROCESSING)
    mirrored = {n: flipped(photos, ImageOps.mirror) for n, photos in protocols.photos.items()}
    for name in ("head mean", "head GeM2 + 0.5 block mean, window (shipped)"):
        both = {n: unit(ways[name](shipped[n]) + ways[name](mirrored[n])) for n in shipped}
        note(views[0], f"{name}, with its mirror image", both)
    return rows, shipped


# Threshold and confidence


class Trials(NamedTuple):
    """Probes searched in a gallery: the best score, whether it named the right identity, and
    whether the probe's identity was enrolled.
    """

    scores: FloatArray
    right: npt.NDArray[np.bool_]
    enrolled: npt.NDArray[np.bool_]

    def rates(self, threshold: float) -> dict[str, float]:
        """TPIR and FPIR (ISO/IEC 19795-1), per cent."""
        named = self.scores >= threshold
        return {
            "TPIR": round(100 * float((named & self.right)[self.enrolled].mean()), 1),
            "FPIR": round(100 * float(named[~self.enrolled].mean()), 1),
        }


def pair_scores(vectors: FloatArray, labels: Labels) -> tuple[FloatArray, FloatArray]:
    """Cosines of all genuine and of all impostor pairs."""
    upper = np.triu_indices(len(labels), 1)
    scores = (vectors @ vectors.T)[upper]
    same = labels[upper[0]] == labels[upper[1]]
    return scores[same], scores[~same]


def identify(
    enrolled: FloatArray, identities: Labels, probes: FloatArray, labels: Labels
) -> Trials:
    scores = probes @ enrolled.T
    best = scores.argmax(axis=1)
    return Trials(
        scores.max(axis=1), identities[best] == labels, np.isin(labels, np.unique(identities))
    )


def trials_of(vectors: FloatArray, labels: Labels, draws: int) -> Trials:
    """Half of the classes, drawn, enrolled with 1 to 5 pictures; all other pictures probe."""
    drawn = []
    for seed in range(draws):
        chance = np.random.default_rng(seed)
        classes = chance.permutation(np.unique(labels))[: len(np.unique(labels)) // 2]
        shots = 1 + seed % 5
        gallery = np.concatenate(
            [chance.permutation(np.flatnonzero(labels == c))[:shots] for c in classes]
        )
        probes = np.setdiff1d(np.arange(len(labels)), gallery)
        drawn.append(identify(vectors[gallery], labels[gallery], vectors[probes], labels[probes]))
    return Trials(*(np.concatenate(columns) for columns in zip(*drawn, strict=True)))


def platt(sets: Sequence[Trials]) -> tuple[float, float]:
    """Slope and offset of the logistic that fits best, each set weighing the same (Platt 1999)."""
    scores = np.concatenate([trials.scores for trials in sets]).astype(np.float64)
    right = np.concatenate([trials.right for trials in sets]).astype(np.float64)
    weights = np.concatenate([np.full(len(t.scores), 1 / len(t.scores)) for t in sets])
    inputs = np.stack([scores, np.ones_like(scores)], axis=1)
    parameters = np.zeros(2)
    for _ in range(50):  # Newton's method
        chances = 1 / (1 + np.exp(-inputs @ parameters))
        gradient = inputs.T @ (weights * (right - chances))
        curvature = (inputs * (weights * chances * (1 - chances))[:, None]).T @ inputs
        parameters += np.linalg.solve(curvature, gradient)
    return round(float(parameters[0]), 2), round(float(parameters[1]), 2)


def calibration_error(trials: Trials, slope: float, offset: float) -> float:
    """Expected calibration error over ten equal bins of confidence."""
    chances = 1 / (1 + np.exp(-(slope * trials.scores + offset)))
    bins = np.minimum((10 * chances).astype(int), 9)
    gaps = [
        abs(float(chances[bins == b].mean() - trials.right[bins == b].mean())) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    return round(float(sum(gaps)), 3)


def cut(image: Image.Image) -> Image.Image:
    """70 % of the sides, off centre."""
    width, height = image.size
    left, top = int(0.1 * width), int(0.1 * height)
    return image.crop((left, top, left + int(0.7 * width), top + int(0.7 * height)))


ALTERATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "turned by 15 degrees": lambda image: image.rotate(15, Image.Resampling.BILINEAR),
    "darkened by 40 %": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "cut to 70 %, off centre": cut,
    "shrunk to 64 px": lambda image: image.resize((64, 64), Image.Resampling.BILINEAR),
}


def choose_threshold(
    protocols: Protocols, shipped: Mapping[str, Parts], draws: int
) -> dict[str, Any]:
    describer = Describer(PREPROCESSING)
    e = {name: joined(parts, WINNER) for name, parts in shipped.items()}
    train, test, iconic = (protocols.labels[name] for name in ("train", "test", "iconic"))
    birds = joined(describer(protocols.first_birds), WINNER)
    calibrating = {
        "Grocery train.txt": (e["train"], train),
        "CUB first 100 classes": (birds, labels_of(protocols.first_birds)),
    }
    pairs = {name: pair_scores(*one) for name, one in calibrating.items()}
    trials = [trials_of(*one, draws) for one in calibrating.values()]
    slope, offset = platt(trials)
    threshold = round(-offset / slope, 2)

    even = train % 2 == 0
    five = np.concatenate(
        [np.random.default_rng(0).permutation(np.flatnonzero(train == c))[:5]
         for c in np.unique(train[even])]
    )  # fmt: skip
    shown = iconic % 2 == 0
    openset = {
        "iconic": identify(e["iconic"][shown], iconic[shown], e["test"], test),
        "5 photos": identify(e["train"][five], train[five], e["test"], test),
    }
    every = np.arange(0, len(train), 10)
    views = {}
    for name, alter in ALTERATIONS.items():
        seen = joined(describer([protocols.photos["train"][i] for i in every], alter), WINNER)
        scores = seen @ e["train"].T
        found = (scores.argmax(axis=1) == every) & (scores.max(axis=1) >= threshold)
        views[name] = {
            "found": round(100 * float(found.mean()), 1),
            "cosine at or above threshold": round(
                100 * float((scores[np.arange(len(every)), every] >= threshold).mean()), 1
            ),
        }
    strangers = birds @ e["train"].T
    return {
        "rule": "the cosine from which the best identity is more likely right than not",
        "threshold": threshold,
        "pairs": {
            name: {"FMR": round(100 * float((impostor >= threshold).mean()), 2),
                   "FNMR": round(100 * float((genuine < threshold).mean()), 1)}
            for name, (genuine, impostor) in pairs.items()
        },
        "calibration": {"slope": slope, "offset": offset, "draws": draws},
        "calibration error": {
            name: calibration_error(one, slope, offset)
            for name, one in [*zip(calibrating, trials, strict=True), *openset.items()]
        },
        "identification": {
            name: one.rates(threshold) for name, one in zip(calibrating, trials, strict=True)
        },
        "grocery-openset": {name: one.rates(threshold) for name, one in openset.items()},
        "altered views of 264 enrolled photos": views,
        "birds probing a grocery gallery, FPIR": round(
            100 * float((strangers.max(axis=1) >= threshold).mean()), 2
        ),
    }  # fmt: skip


# Report


def markdown(rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any], draws: int) -> str:
    header = ("pictures", "features", "dimension", *COLUMNS)
    lines = [
        "# The choice of the encoder `general`",
        "",
        "Written by `python benchmarks/encoder_choice.py`. EfficientNet-Lite0 with ImageNet"
        " weights, untrained on anything here; per cent, cosine; 1-shot: mean of"
        f" {draws} draws. *Window* is a centred Gaussian over the feature map (standard deviation"
        " half its width), GeM*p* the generalised mean. Parts are of unit length before they are"
        " weighted and joined.",
        "",
        f"| {' | '.join(header)} |",
        f"|{' --- |' * 3}{' ---: |' * len(COLUMNS)}",
        f"| reference | head mean | 1280 | {' | '.join(f'{r:.1f}' for r in REFERENCE)} |",
    ]
    lines += [
        f"| {row['view']} | {row['features']} | {row['dimension']} |"
        f" {' | '.join(f'{figure:.1f}' for figure in row['figures'])} |"
        for row in rows
    ]
    lines += ["", "## Threshold and confidence", "", "```json", json.dumps(chosen, indent=1), "```"]
    return "\n".join(lines) + "\n"


def main() -> None:
    arguments = parser(__doc__, repeats=20)
    arguments.add_argument("--views", nargs="+", choices=VIEWS, default=list(VIEWS))
    options = arguments.parse_args()
    protocols = Protocols(options.repeats)
    rows, shipped = compare(protocols, options.views)
    chosen = choose_threshold(protocols, shipped, options.repeats)
    print(json.dumps(chosen, indent=1))
    calibration = chosen["calibration"]
    if chosen["threshold"] != THRESHOLD or not all(
        math.isclose(calibration[name], CALIBRATION[name], abs_tol=0.05)
        for name in ("slope", "offset")
    ):
        print("build_general.py has another threshold or calibration: copy these there")
    facts = {"machine": machine(), "columns": COLUMNS, "draws": options.repeats, "rows": rows}
    facts["reference"] = REFERENCE
    facts["threshold"] = chosen
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "encoder_choice.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    (RESULTS / "encoder_choice.md").write_text(markdown(rows, chosen, options.repeats), "utf-8")


if __name__ == "__main__":
    main()
