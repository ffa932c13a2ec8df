"""Evaluate a gallery by labelled probes, or an encoder by splits of a folder."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from siamese_search.calibration import FEWEST
from siamese_search.encoder import Encoder
from siamese_search.enrolment import find, normalised
from siamese_search.errors import ImageError, UsageError
from siamese_search.evaluation import metrics
from siamese_search.gallery import Gallery
from siamese_search.records import Identification, ImageFile, Rejection, printable
from siamese_search.reference import evidence

FloatArray = npt.NDArray[np.float32]

KS = (1, 5, 10)
FPIRS = (0.001, 0.01, 0.1)
FMRS = (0.001, 0.01)
LARGEST_R = 1000  # items of an identity that mAP@R looks at


@dataclass(frozen=True)
class Mistake:
    """A probe that got a wrong name, or none; ``identity`` is None for a stranger."""

    path: str
    identity: str | None
    named: str | None
    score: float
    confidence: float
    nearest: str | None  # the best item's picture


@dataclass(frozen=True)
class Evaluation:
    """How well probes were identified.

    ``figures`` are shares between 0 and 1 (see ``metrics.py``), but for ``probes``, ``strangers``,
    ``identities``, ``items`` and ``probes per second``. NaN where there is nothing to measure.
    """

    figures: dict[str, float]
    per_identity: tuple[tuple[str, int, int, int], ...]  # name, probes, best right, named right
    confusions: tuple[tuple[str, str, int], ...]
    mistakes: tuple[Mistake, ...]  # the most confident ones first
    curves: dict[str, list[list[float]]]  # cmc: k, recall; det: FMR, FNMR
    genuine: tuple[float, ...] = ()
    impostor: tuple[float, ...] = ()  # the best wrong identity's score of each probe
    rejected: tuple[Rejection, ...] = ()


def evaluate(
    gallery: Gallery,
    probes: Iterable[ImageFile | str | os.PathLike[str]],
    rule: str | None = None,
) -> Evaluation:
    """Identify labelled probes; identities that are not enrolled make strangers.

    Probes are files with their identities, or folders, whose pictures are named as ``add`` names
    them. Pictures that cannot be read are left out and named. Raises UsageError where none is left.
    """
    given = list(probes)
    found = list(find([os.fspath(p) for p in given if not isinstance(p, ImageFile)]))
    begun = time.perf_counter()
    files, vectors, unread = _embedded(
        gallery.encoder, [file for file in [*given, *found] if isinstance(file, ImageFile)]
    )
    if not files:
        raise UsageError("none of the probes could be read: nothing is measured")
    answers = gallery.identify_embeddings(vectors, k=1, rule=rule)
    rate = len(files) / (time.perf_counter() - begun)
    truth, paths = [file.identity for file in files], [printable(file.path) for file in files]
    measured = evaluate_embeddings(gallery, vectors, truth, rule, answers, paths)
    measured.figures["probes per second"] = rate
    rejected = [file for file in found if isinstance(file, Rejection)]
    return replace(measured, rejected=(*rejected, *unread))


def _embedded(
    encoder: Encoder, files: Sequence[ImageFile]
) -> tuple[list[ImageFile], FloatArray, list[Rejection]]:
    """The files that can be read, named as they would be enrolled, with their embeddings
    (n, dimension); and the others.
    """
    readable, vectors, rejected = [], [], []
    for file, (_, result) in zip(
        files, encoder.embed_each([file.path for file in files]), strict=True
    ):
        if isinstance(result, ImageError):
            rejected.append(Rejection(printable(file.path), str(result)))
        else:
            readable.append(replace(file, identity=normalised(file.identity)))
            vectors.append(result)
    empty = np.empty((0, encoder.dimension), np.float32)
    return readable, np.stack(vectors) if vectors else empty, rejected


def evaluate_embeddings(
    gallery: Gallery,
    embeddings: FloatArray,
    truth: Sequence[str],
    rule: str | None = None,
    answers: Sequence[Identification] | None = None,
    paths: Sequence[str] | None = None,
) -> Evaluation:
    """As ``evaluate``, for embeddings (n, dimension) of probes and their identities."""
    if not len(gallery):
        raise UsageError(f"nothing is enrolled in {gallery.folder}: nothing is measured")
    answers = answers or gallery.identify_embeddings(embeddings, k=1, rule=rule)
    places = paths or [f"probe {number}" for number in range(len(truth))]
    names, scores = gallery.scores(embeddings, rule)
    if not names:
        raise UsageError(f"no item of {gallery.folder} can be found: run `siasearch rebuild`")
    columns = {name: column for column, name in enumerate(names)}
    # A distractor is not to be named, as a stranger is not.
    never = gallery.distractors()
    known = np.array([identity in columns and identity not in never for identity in truth])
    own = np.array([columns.get(identity, 0) for identity in truth], np.int64)
    best = [answer.matches[0].identity for answer in answers]
    right = np.array([a == b for a, b in zip(best, truth, strict=True)])
    named = np.array([answer.identity is not None for answer in answers])
    enrolled = np.flatnonzero(known)
    wanted = [truth[row] for row in enrolled.tolist()]
    ranks = metrics.ranks(scores[enrolled], own[enrolled])
    genuine = scores[enrolled, own[enrolled]].astype(float)
    others = scores.astype(float)
    others[enrolled, own[enrolled]] = -np.inf
    impostor = others[np.isfinite(others)]
    best_other = others.max(axis=1)
    figures: dict[str, float] = {
        "probes": len(truth),
        "strangers": int((~known).sum()),
        "identities": len(names),
        "items": len(gallery),
    }
    figures |= {f"recall@{k}": metrics.recall_at(ranks, k) for k in KS}
    figures["MRR"] = metrics.reciprocal_rank(ranks)
    figures |= _retrieval(gallery, embeddings[enrolled], wanted)
    figures["TPIR"] = float((named & right)[known].mean()) if known.any() else math.nan
    figures["FPIR"] = float(named[~known].mean()) if not known.all() else math.nan
    ranked = np.sort(scores, axis=1)[:, ::-1]
    second = ranked[:, 1] if len(names) > 1 else np.zeros(len(truth))
    shown = np.array([name not in never for name in best])
    strength = np.where(shown, evidence(ranked[:, 0], second), -np.inf)
    for fpir in FPIRS:
        tpir, _ = metrics.tpir_at_fpir(strength, right, known, fpir)
        figures[f"TPIR at FPIR {fpir:g}"] = tpir
    figures["EER"] = metrics.equal_error_rate(genuine, impostor)
    figures["AUC"] = metrics.area_under_curve(genuine, impostor)
    figures |= {f"FNMR at FMR {f:g}": metrics.fnmr_at_fmr(genuine, impostor, f) for f in FMRS}
    confidence = [answer.confidence for answer in answers]
    figures["calibration error"] = metrics.calibration_error(confidence, right)
    _, fmr, fnmr = metrics.error_rates(genuine, impostor)
    steps = np.unique(np.linspace(0, len(fmr) - 1, 200).astype(int))
    return Evaluation(
        figures=figures,
        per_identity=_per_identity(truth, known, right, named),
        confusions=tuple(metrics.confusions([best[row] for row in enrolled.tolist()], wanted)),
        mistakes=_mistakes(answers, truth, known, places),
        curves={
            "cmc": [[k, metrics.recall_at(ranks, k)] for k in range(1, min(50, len(names)) + 1)]
            if len(ranks)
            else [],
            "det": [[float(fmr[step]), float(fnmr[step])] for step in steps],
        },
        genuine=tuple(genuine.tolist()),
        impostor=tuple(best_other[np.isfinite(best_other)].tolist()),
    )


def _retrieval(gallery: Gallery, embeddings: FloatArray, truth: Sequence[str]) -> dict[str, float]:
    """precision@k and mAP@R over items."""
    sizes = dict(gallery.identities())
    if not len(truth):
        return {"precision@5": math.nan, "mAP@R": math.nan}
    counts = np.array([min(sizes[name], LARGEST_R) for name in truth])
    deepest = min(len(gallery), max(int(counts.max()), 5))
    found, _ = gallery.search(embeddings, deepest)
    owner = {
        item.number: item.identity
        for item in gallery.items_by_number(np.unique(found[found >= 0]).tolist())
    }
    relevant = np.array(
        [
            [owner.get(item) == name for item in row]
            for row, name in zip(found.tolist(), truth, strict=True)
        ]
    )
    return {
        "precision@5": metrics.precision_at(relevant, 5),
        "mAP@R": metrics.map_at_r(relevant, counts),
    }


def _per_identity(
    truth: Sequence[str],
    known: npt.NDArray[np.bool_],
    right: npt.NDArray[np.bool_],
    named: npt.NDArray[np.bool_],
) -> tuple[tuple[str, int, int, int], ...]:
    total: Counter[str] = Counter()
    nearest: Counter[str] = Counter()
    called: Counter[str] = Counter()
    for name, enrolled, hit, said in zip(truth, known, right, named, strict=True):
        if enrolled:
            total[name] += 1
            nearest[name] += bool(hit)
            called[name] += bool(hit and said)
    rows = [(name, count, nearest[name], called[name]) for name, count in total.items()]
    return tuple(sorted(rows, key=lambda row: (row[2] / row[1], row[0])))


def _mistakes(
    answers: Sequence[Identification],
    truth: Sequence[str],
    known: npt.NDArray[np.bool_],
    paths: Sequence[str],
    most: int = 50,
) -> tuple[Mistake, ...]:
    wrong = []
    for answer, name, enrolled, path in zip(answers, truth, known, paths, strict=True):
        if answer.identity == (name if enrolled else None):
            continue
        match = answer.matches[0]
        wrong.append(
            Mistake(
                path,
                name if enrolled else None,
                answer.identity,
                match.score,
                answer.confidence,
                match.path,
            )
        )
    # A wrong name is worse than none.
    wrong.sort(key=lambda one: (one.named is None, -one.confidence, one.path))
    return tuple(wrong[:most])


def evaluate_splits(
    encoder: Encoder,
    files: Sequence[ImageFile],
    shots: int = 1,
    strangers: float = 0.5,
    seeds: int = 5,
    fpir: float = 0.01,
    rule: str | None = None,
) -> tuple[list[Evaluation], list[Rejection]]:
    """Split a folder again and again: some classes are enrolled, the others are strangers.

    ``shots`` pictures of each enrolled class are enrolled, all other pictures are probes; the
    gallery is calibrated for ``fpir`` by what is enrolled. Classes with too few pictures are
    strangers. Raises UsageError where fewer than two classes have enough.
    """
    if not 0 <= strangers < 1:
        raise UsageError(f"strangers is {strangers}: a share of the classes, from 0 to below 1")
    readable, vectors, rejected = _embedded(encoder, files)
    seen: dict[bytes, str] = {}
    kept = []
    for position, file in enumerate(readable):
        path = printable(file.path)
        first = seen.setdefault(vectors[position].tobytes(), path)
        if first == path:
            kept.append(position)
        else:
            rejected.append(Rejection(path, f"the same picture as {first}"))
    stacked = vectors[kept]
    labels = [readable[position].identity for position in kept]
    places = [printable(readable[position].path) for position in kept]
    members = {name: np.flatnonzero(np.array(labels) == name) for name in sorted(set(labels))}
    enough = [name for name, own in members.items() if len(own) > shots]
    if len(enough) < 2:
        raise UsageError(
            f"{len(enough)} classes have more than {shots} pictures, which leaves one to enrol and"
            " one to ask about: two classes or more are needed"
        )
    made = []
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        order = random.permutation(enough).tolist()
        enrolled = order[: max(2, round((1 - strangers) * len(order)))]
        chosen = np.concatenate([random.permutation(members[n])[:shots] for n in enrolled])
        probes = np.setdiff1d(np.arange(len(labels)), chosen)
        with (
            tempfile.TemporaryDirectory() as folder,
            Gallery.open(folder, encoder) as gallery,
        ):
            gallery.enroll_embeddings(stacked[chosen], [labels[n] for n in chosen])
            if len(enrolled) >= FEWEST:
                gallery.calibrate(fpir, rule=rule)
            made.append(
                evaluate_embeddings(
                    gallery,
                    stacked[probes],
                    [labels[n] for n in probes],
                    rule,
                    paths=[places[n] for n in probes],
                )
            )
    return made, rejected
