"""Evaluate a gallery by labelled probes, or an encoder by splits of a folder."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import FloatArray
from siamese_search.decision.calibration import FEWEST, FPIR, require_rate
from siamese_search.decision.evidence import evidence
from siamese_search.decision.rules import DEFAULT_RULE
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import ImageError, UsageError
from siamese_search.evaluation import metrics
from siamese_search.evaluation.curves import (
    Curve,
    Growth,
    over_shots,
    shot_steps,
)
from siamese_search.evaluation.summary import paired_probes, summarised
from siamese_search.gallery.gallery import Gallery
from siamese_search.pictures.sources import find, normalised
from siamese_search.records import Identification, ImageFile, Rejection, printable

log = logging.getLogger("siasearch")


KS = (1, 5, 10)
FPIRS = (0.001, 0.01, 0.1)
FMRS = (0.001, 0.01)
LARGEST_R = 1000  # items of an identity that mAP@R looks at
BLOCK = 256  # probes whose nearest items are held at a time
DRAWS = 5


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
    growth: tuple[Curve, ...] = ()  # over the number of identities and, of a split, of shots


def evaluate(
    gallery: Gallery,
    probes: Iterable[ImageFile | str | os.PathLike[str]],
    rule: str | None = None,
    fpir: float | None = None,
    seeds: Sequence[int] = range(DRAWS),
) -> Evaluation:
    """Identify labelled probes; identities that are not enrolled make strangers.

    Probes are files with their identities, or folders, whose pictures are named as ``add`` names
    them. Pictures that cannot be read are left out and named. ``fpir`` is that of the curves, by
    default what the gallery is calibrated for; ``seeds`` draw the identities for them. Raises
    UsageError where no picture is left.
    """
    if fpir is not None:
        require_rate(fpir)
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
    _question(gallery, files, answers)
    truth, paths = [file.identity for file in files], [printable(file.path) for file in files]
    measured = evaluate_embeddings(gallery, vectors, truth, rule, answers, paths, fpir, seeds)
    measured.figures["probes per second"] = rate
    rejected = [file for file in found if isinstance(file, Rejection)]
    return replace(measured, rejected=(*rejected, *unread))


def _question(
    gallery: Gallery, files: Sequence[ImageFile], answers: Sequence[Identification]
) -> None:
    """Warn where figures would mean something else than they seem to."""
    names = [name for name, _ in gallery.identities()]
    asked = {file.identity for file in files}
    if names and not asked & set(names):
        log.warning(
            "no probe is named as an identity that is enrolled, so all count as strangers: the"
            " gallery has names such as %r, the probes such as %r",
            names[0],
            min(asked),
        )
    pairs = zip(files, answers, strict=True)
    same = sum(bool(a.matches) and a.matches[0].path == file.path for file, a in pairs)
    if same:
        log.warning(
            "%d of %d probes are enrolled themselves, and found of course", same, len(files)
        )


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
    fpir: float | None = None,
    seeds: Sequence[int] = range(DRAWS),
) -> Evaluation:
    """As ``evaluate``, for embeddings (n, dimension) of probes and their identities."""
    if not len(gallery):
        raise UsageError(f"nothing is enrolled in {gallery.folder}: nothing is measured")
    answers = answers or gallery.identify_embeddings(embeddings, k=1, rule=rule)
    places = paths or [f"probe {number}" for number in range(len(truth))]
    names, blocks = gallery.score_blocks(embeddings, rule)
    if not names:
        raise UsageError(f"no item of {gallery.folder} can be found: run `siasearch rebuild`")
    # A distractor is not to be named, as a stranger is not.
    never = gallery.distractors()
    columns = {name: column for column, name in enumerate(names) if name not in never}
    own = np.array([columns.get(identity, -1) for identity in truth], np.int64)
    known = own >= 0
    best = [answer.matches[0].identity for answer in answers]
    right = np.array([a == b for a, b in zip(best, truth, strict=True)])
    named = np.array([answer.identity is not None for answer in answers])
    enrolled = np.flatnonzero(known)
    wanted = [truth[row] for row in enrolled.tolist()]
    growth = Growth(np.array([name in never for name in names]), seeds)
    scored = summarised(blocks, own, growth, paired_probes(len(truth), len(names)))
    ranks, genuine, impostor = scored.ranks, scored.genuine, scored.impostor
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
    shown = np.array([name not in never for name in best])
    strength = np.where(shown, evidence(scored.best, scored.second), -np.inf)
    for rate in FPIRS:
        tpir, _ = metrics.tpir_at_fpir(strength, right, known, rate)
        figures[f"TPIR at FPIR {rate:g}"] = tpir
    figures["EER"] = metrics.equal_error_rate(genuine, impostor)
    figures["AUC"] = metrics.area_under_curve(genuine, impostor)
    figures |= {f"FNMR at FMR {f:g}": metrics.fnmr_at_fmr(genuine, impostor, f) for f in FMRS}
    confidence = [answer.confidence for answer in answers]
    figures["calibration error"] = metrics.calibration_error(confidence, right)
    _, fmr, fnmr = metrics.error_rates(genuine, impostor)
    steps = np.unique(np.linspace(0, len(fmr) - 1, 200).astype(int))
    if fpir is None:
        fpir = gallery.calibration.fpir if gallery.calibration else FPIR
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
        impostor=tuple(scored.other[np.isfinite(scored.other)].tolist()),
        growth=(growth.curve(fpir),),
    )


def _retrieval(gallery: Gallery, embeddings: FloatArray, truth: Sequence[str]) -> dict[str, float]:
    """precision@k and mAP@R over items."""
    sizes = dict(gallery.identities())
    if not len(truth):
        return {"precision@5": math.nan, "mAP@R": math.nan}
    counts = np.array([min(sizes[name], LARGEST_R) for name in truth])
    deepest = min(len(gallery), max(int(counts.max()), 5))
    relevant = np.empty((len(truth), deepest), bool)
    for start in range(0, len(truth), BLOCK):
        part = slice(start, start + BLOCK)
        found, _ = gallery.search(embeddings[part], deepest)
        numbers = np.unique(found[found >= 0]).tolist()
        owner = {item.number: item.identity for item in gallery.items_by_number(numbers)}
        relevant[part] = [
            [owner.get(item) == name for item in row]
            for row, name in zip(found.tolist(), truth[part], strict=True)
        ]
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
    seeds: int = DRAWS,
    fpir: float = FPIR,
    rule: str | None = None,
) -> tuple[list[Evaluation], list[Rejection]]:
    """Split a folder again and again: some classes are enrolled, the others are strangers.

    ``shots`` pictures of each enrolled class are enrolled, all other pictures are probes; the
    gallery is calibrated for ``fpir`` by what is enrolled. Classes with too few pictures are
    strangers. Raises UsageError where fewer than two classes have enough.
    """
    require_rate(fpir)
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
    steps = shot_steps([len(members[name]) for name in enough], shots)
    made = []
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        order = random.permutation(enough).tolist()
        enrolled = order[: max(2, round((1 - strangers) * len(order)))]
        drawn = [random.permutation(members[name]) for name in enrolled]
        chosen = np.concatenate([own[:shots] for own in drawn])
        probes = np.setdiff1d(np.arange(len(labels)), chosen)
        others = np.setdiff1d(np.arange(len(labels)), np.concatenate(drawn))
        with (
            tempfile.TemporaryDirectory() as folder,
            Gallery.open(folder, encoder) as gallery,
        ):
            gallery.enroll_embeddings(stacked[chosen], [labels[n] for n in chosen])
            if len(enrolled) >= FEWEST:
                gallery.calibrate(fpir, rule=rule)
            measured = evaluate_embeddings(
                gallery,
                stacked[probes],
                [labels[n] for n in probes],
                rule,
                paths=[places[n] for n in probes],
                fpir=fpir,
                seeds=[seed],
            )
        deeper = over_shots(stacked, drawn, others, steps, fpir, rule or DEFAULT_RULE)
        made.append(replace(measured, growth=(*measured.growth, deeper)))
    return made, rejected
