"""Evaluate a gallery by labelled probes.

Who is named, and with what confidence, comes from identification itself, as ``query`` does it, and
so do ranks where that looks closely at candidates; other ranks, error rates and curves come from
the scores of every identity. These agree where identification ranks exactly (see
``gallery/ranking.py``); where they do not, a warning says so.
Knows nothing of pages and terminals.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from siamese_search.arrays import BoolArray, DoubleArray, FloatArray, IntArray
from siamese_search.decision.calibration import FPIR, require_rate
from siamese_search.decision.evidence import evidence, evidence_of
from siamese_search.errors import UsageError, require_type
from siamese_search.evaluation import metrics
from siamese_search.evaluation.cautions import enrolled_probes, warn
from siamese_search.evaluation.curves import Curve, Growth
from siamese_search.evaluation.probes import embedded
from siamese_search.evaluation.results import (
    CmcPoint,
    Decided,
    DetPoint,
    Evaluation,
    Figures,
    IdentityResult,
    LeftOutFigure,
    Mistake,
)
from siamese_search.evaluation.strangers import how_sure, mistaken, stranger_rate, stranger_results
from siamese_search.evaluation.summary import Scores, paired_probes, summarised
from siamese_search.evaluation.unmatched import unmatched_labels
from siamese_search.gallery.gallery import Gallery
from siamese_search.pictures.sources import places_of
from siamese_search.records import Identification, ImageFile

log = logging.getLogger("siasearch")

KS = (1, 5, 10)
FPIRS = (0.001, 0.01, 0.1)
FMRS = (0.001, 0.01)
LARGEST_R = 1000  # items of an identity that mAP@R looks at
BLOCK = 256  # probes whose nearest items are held at a time
CMC = 50  # ranks of the CMC curve
DET = 200  # points of the DET curve
MISTAKES = 50
ROUNDING = 1e-4  # of scores that are summed in another order
DRAWS = 5


def evaluate(
    gallery: Gallery,
    probes: str | os.PathLike[str] | ImageFile | Iterable[ImageFile | str | os.PathLike[str]],
    rule: str | None = None,
    fpir: float | None = None,
    seeds: Sequence[int] = range(DRAWS),
) -> Evaluation:
    """Identify labelled probes; identities that are not enrolled make strangers.

    Probes are folders, whose pictures are named as ``add`` names them, or files with their
    identities, ``ImageFile(path, identity)``; one or many. Pictures that cannot be read, or are the
    same as others, are left out and named. ``fpir`` is that of the curves, by default what the
    gallery is calibrated for; ``seeds`` draw the identities for them. Raises UsageError where no
    picture is left.
    """
    require_type("gallery", gallery, Gallery, "an open Gallery")
    if fpir is not None:
        require_rate(fpir)
    given = places_of(probes, "probes")
    begun = time.perf_counter()
    asked = embedded(gallery.encoder, given).distinct()
    if not asked.files:
        raise UsageError("none of the probes could be read: nothing is measured")
    answers = _answers(gallery, asked.embeddings, rule, asked.places)
    rate = len(asked.files) / (time.perf_counter() - begun)
    measured = evaluate_embeddings(
        gallery,
        asked.embeddings,
        asked.labels,
        rule=rule,
        answers=answers,
        paths=asked.paths,
        fpir=fpir,
        seeds=seeds,
    )
    figures = measured.figures | {"probes per second": rate}
    unmatched = unmatched_labels(asked.labels, (name for name, _ in gallery.identities()))
    same = enrolled_probes(gallery, asked.files, answers)
    warn(gallery, asked, unmatched, same)
    return replace(
        measured,
        figures=figures,
        unmatched=unmatched,
        rejected=asked.rejected,
        enrolled_probes=same,
    )


def _warn_of_missed(answers: Sequence[Identification], scored: Scores) -> None:
    """Warn where a query finds somebody else than the best of all identities."""
    found = np.array([_best_score(answer) for answer in answers], np.float32)
    missed = int((scored.best > found + ROUNDING).sum())
    if missed:
        log.warning(
            "of %d of %d probes a query does not find the best identity, since it does not compare"
            " all: TPIR, FPIR and mistakes say what queries do; recall, MRR and curves are those"
            " of comparing all",
            missed,
            len(answers),
        )


def _best_score(answer: Identification) -> float:
    """Of those shown: a closer look may put another first."""
    return max(match.score for match in answer.matches)


@dataclass(frozen=True)
class _Asked:
    """What n probes are and what identification made of them.

    ``known`` (n,) tells whether they are enrolled to be named, and no strangers; ``best`` are the
    best identities; ``right`` (n,) tells whether these are theirs, ``named`` (n,) whether they were
    named.
    """

    truth: Sequence[str]
    known: BoolArray
    answers: Sequence[Identification]
    best: list[str]
    right: BoolArray
    named: BoolArray

    @property
    def strangers(self) -> int:
        return int((~self.known).sum())


def evaluate_embeddings(
    gallery: Gallery,
    embeddings: FloatArray,
    truth: Sequence[str],
    *,
    rule: str | None = None,
    places: Sequence[FloatArray | None] | None = None,
    answers: Sequence[Identification] | None = None,
    paths: Sequence[str] | None = None,
    fpir: float | None = None,
    seeds: Sequence[int] = range(DRAWS),
) -> Evaluation:
    """As ``evaluate``, for embeddings (n, dimension) of probes and their identities.

    ``places`` (n) are what the encoder gave with them, if anything; ``answers`` are what
    identification has said of them already, ``paths`` where they lie.
    """
    require_type("gallery", gallery, Gallery, "an open Gallery")
    if not len(gallery):
        raise UsageError(f"nothing is enrolled in {gallery.folder}: nothing is measured")
    answers = answers or _answers(gallery, embeddings, rule, places)
    named = paths or [f"probe {number}" for number in range(len(truth))]
    names, blocks = gallery.score_blocks(embeddings, rule)
    if not names:
        raise UsageError(f"no item of {gallery.folder} can be found: run `siasearch rebuild`")
    # A distractor is not to be named, as a stranger is not.
    never = gallery.distractors()
    columns = {name: column for column, name in enumerate(names)}
    own = np.array([columns.get(identity, -1) for identity in truth], np.int64)
    known = (own >= 0) & np.array([identity not in never for identity in truth], bool)
    best = [answer.matches[0].identity for answer in answers]
    asked = _Asked(
        truth,
        known,
        answers,
        best,
        np.array([a == b for a, b in zip(best, truth, strict=True)]),
        np.array([answer.identity is not None for answer in answers]),
    )
    enrolled = np.flatnonzero(known)
    wanted = [truth[row] for row in enrolled.tolist()]
    growth = Growth(np.array([name in never for name in names]), seeds)
    paired = paired_probes(len(truth), len(names))
    scored = summarised(blocks, own, known, growth, paired)
    answered = [answers[row] for row in enrolled.tolist()]
    closely = _looks_closely(gallery, places)
    if closely:
        scored = replace(scored, ranks=_as_answered(scored.ranks, answered, wanted))
    wanted_rate = gallery.calibration.fpir if gallery.calibration else None
    curve = growth.curve(fpir or wanted_rate or FPIR)
    nameable = np.array([name not in never for name in best])
    strength = evidence(scored.best, scored.second, nameable)
    if closely:
        strength = np.array([evidence_of(answer.matches) for answer in answers])
    counts: Figures = {
        "probes": len(truth),
        "strangers": asked.strangers,
        "identities": len(names),
        "items": len(gallery),
    }
    _warn_of_missed(answers, scored)
    others = np.flatnonzero(~asked.known).tolist()
    strange = stranger_results(
        [truth[row] for row in others],
        [answers[row] for row in others],
        [named[row] for row in others],
    )
    retrieval = _retrieval(gallery, embeddings[enrolled], wanted)
    return Evaluation(
        figures=counts | _ranking(scored) | retrieval | _error_rates(asked, scored, strength),
        per_identity=_per_identity(asked),
        confusions=tuple(metrics.confusions([best[row] for row in enrolled.tolist()], wanted)),
        mistakes=_mistakes(asked, named),
        cmc=_cmc(scored, len(names)),
        det=_det(scored),
        genuine=tuple(scored.genuine.tolist()),
        impostor=tuple(scored.other[np.isfinite(scored.other)].tolist()),
        decided=_decided(asked, strength),
        left_out=_left_out(asked, scored, curve),
        growth=(curve,),
        per_stranger=strange,
        stranger_rate=stranger_rate(strange, wanted_rate),
    )


def _answers(
    gallery: Gallery,
    embeddings: FloatArray,
    rule: str | None,
    places: Sequence[FloatArray | None] | None,
) -> list[Identification]:
    """What identification says of probes; as many identities as the curves show where a closer look
    puts them in order.
    """
    k = CMC if _looks_closely(gallery, places) else 1
    return gallery.identify_embeddings(embeddings, k, rule=rule, places=places)


def _looks_closely(gallery: Gallery, places: Sequence[FloatArray | None] | None) -> bool:
    """Whether answers put candidates in another order than scores do."""
    found = gallery.calibration
    return places is not None and found is not None and found.closer > 0


def _as_answered(
    ranks: IntArray, answers: Sequence[Identification], truth: Sequence[str]
) -> IntArray:
    """Ranks (n,) by the answers, beyond what these show by the scores of all."""
    found = ranks.copy()
    for row, (answer, name) in enumerate(zip(answers, truth, strict=True)):
        order = [match.identity for match in answer.matches]
        # Whom a look has overtaken lies behind those that are shown.
        found[row] = order.index(name) + 1 if name in order else max(ranks[row], len(order) + 1)
    return found


def _ranking(scored: Scores) -> Figures:
    found = {f"recall@{k}": metrics.recall_at(scored.ranks, k) for k in KS}
    return found | {"MRR": metrics.reciprocal_rank(scored.ranks)}


def _error_rates(asked: _Asked, scored: Scores, strength: DoubleArray) -> Figures:
    """Rates of identification and verification; NaN at rates that too few samples tell."""
    known, right, named = asked.known, asked.right, asked.named
    found = {
        "TPIR": float((named & right)[known].mean()) if known.any() else math.nan,
        "FPIR": float(named[~known].mean()) if not known.all() else math.nan,
    }
    for rate in FPIRS:
        told = metrics.tells(rate, asked.strangers)
        point = metrics.tpir_at_fpir(strength, right, known, rate)
        found[_tpir(rate)] = point.tpir if told else math.nan
    found["EER"] = metrics.equal_error_rate(scored.genuine, scored.impostor)
    found["AUC"] = metrics.area_under_curve(scored.genuine, scored.impostor)
    for rate in FMRS:
        told = metrics.tells(rate, len(scored.impostor))
        refused = metrics.fnmr_at_fmr(scored.genuine, scored.impostor, rate)
        found[_fnmr(rate)] = refused if told else math.nan
    confidence = [answer.confidence for answer in asked.answers]
    sure = [one for one in confidence if one is not None]
    told = len(sure) == len(confidence)
    found["calibration error"] = metrics.calibration_error(sure, right, known) if told else math.nan
    return found


def _tpir(rate: float) -> str:
    return f"TPIR at FPIR {rate:g}"


def _fnmr(rate: float) -> str:
    return f"FNMR at FMR {rate:g}"


def _left_out(asked: _Asked, scored: Scores, curve: Curve) -> tuple[LeftOutFigure, ...]:
    """Which figures are not given because too few samples tell their rates."""
    if not asked.known.any():
        return ()
    rates = dict.fromkeys([*FPIRS, curve.fpir])
    pairs = len(scored.impostor)
    looked_at = [
        *((_tpir(rate), rate, asked.strangers, "strangers") for rate in rates),
        *((_fnmr(rate), rate, pairs, "pairs of different identities") for rate in FMRS),
    ]
    return tuple(
        LeftOutFigure(figure, count, metrics.samples_needed(rate), of)
        for figure, rate, count, of in looked_at
        if count and not metrics.tells(rate, count)
    )


def _decided(asked: _Asked, strength: DoubleArray) -> Decided | None:
    """What was compared with the threshold. That is one number for all probes: where the scores
    that were needed differ, it is one of evidence. None where nobody could be named.
    """
    nameable = np.isfinite(strength)
    given = [answer.threshold for answer in asked.answers]
    if not nameable.any() or None in given:  # no threshold is known
        return None
    needed = np.array(given, np.float64)
    by, values = "score", np.array([answer.matches[0].score for answer in asked.answers])
    if np.ptp(needed[nameable]) > ROUNDING:
        by, needed, values = "evidence", needed - (values - strength), strength
    groups = (asked.known & asked.right, asked.known & ~asked.right, ~asked.known)
    right, wrong, strangers = (tuple(values[one & nameable].tolist()) for one in groups)
    return Decided(by, float(np.median(needed[nameable])), right, wrong, strangers)


def _cmc(scored: Scores, identities: int) -> tuple[CmcPoint, ...]:
    if not len(scored.ranks):
        return ()
    ks = range(1, min(CMC, identities) + 1)
    return tuple(CmcPoint(k, metrics.recall_at(scored.ranks, k)) for k in ks)


def _det(scored: Scores) -> tuple[DetPoint, ...]:
    rates = metrics.error_rates(scored.genuine, scored.impostor)
    steps = np.unique(np.linspace(0, len(rates.fmr) - 1, DET).astype(int))
    pairs = zip(rates.fmr[steps].tolist(), rates.fnmr[steps].tolist(), strict=True)
    return tuple(DetPoint(fmr, fnmr) for fmr, fnmr in pairs)


def _retrieval(gallery: Gallery, embeddings: FloatArray, truth: Sequence[str]) -> Figures:
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


def _per_identity(asked: _Asked) -> tuple[IdentityResult, ...]:
    total: Counter[str] = Counter()
    nearest: Counter[str] = Counter()
    called: Counter[str] = Counter()
    rows = zip(asked.truth, asked.known, asked.right, asked.named, strict=True)
    for name, enrolled, hit, said in rows:
        if enrolled:
            total[name] += 1
            nearest[name] += bool(hit)
            called[name] += bool(hit and said)
    found = [
        IdentityResult(name, count, nearest[name], called[name]) for name, count in total.items()
    ]
    return tuple(sorted(found, key=lambda one: (one.best / one.probes, one.name)))


def _mistakes(asked: _Asked, paths: Sequence[str]) -> tuple[Mistake, ...]:
    wrong = []
    for answer, name, enrolled, path in zip(
        asked.answers, asked.truth, asked.known, paths, strict=True
    ):
        truth = name if enrolled else None
        if answer.identity == truth:
            continue
        wrong.append(mistaken(path, truth, answer))
    # A wrong name is worse than none.
    wrong.sort(key=lambda one: (one.named is None, *(-value for value in how_sure(one)), one.path))
    return tuple(wrong[:MISTAKES])
