"""What evaluation keeps of every identity's scores for many probes.

The scores come in blocks, so that only those are held that are needed together. Knows nothing of
galleries and names.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from siamese_search.arrays import BoolArray, FloatArray, IntArray
from siamese_search.decision.evidence import best_two
from siamese_search.evaluation import metrics
from siamese_search.evaluation.curves import Growth

log = logging.getLogger("siasearch")


PAIRS = 1 << 24  # impostor scores held


@dataclass(frozen=True)
class Scores:
    """What is kept of every identity's scores for n probes, k of them enrolled to be named."""

    ranks: IntArray  # (k,), of the own identity
    genuine: FloatArray  # (k,), its scores
    best: FloatArray  # (n,)
    second: FloatArray  # (n,)
    other: FloatArray  # (n,), the best identity's that is not the own
    impostor: FloatArray  # those of all identities that are not, of the paired probes


def summarised(
    blocks: Iterable[FloatArray],
    own: IntArray,
    known: BoolArray,
    growth: Growth,
    paired: BoolArray,
) -> Scores:
    """Go once through the scores, blocks (b, m) that nobody else needs; ``own`` (n,) is -1 for what
    is not enrolled. ``known`` (n,) tells which of the others are to be named: who is enrolled as a
    distractor is a stranger, but no impostor to itself.
    """
    parts, start = [], 0
    for scores in blocks:
        part = slice(start, start + len(scores))
        start += len(scores)
        mine = own[part]
        growth.add(scores, np.where(known[part], mine, -1))
        best, second = best_two(scores)
        rows = np.flatnonzero(known[part])
        ranks = metrics.ranks(scores[rows], mine[rows])
        genuine = scores[rows, mine[rows]]
        enrolled = np.flatnonzero(mine >= 0)
        scores[enrolled, mine[enrolled]] = -np.inf
        impostor = scores[paired[part]]
        impostor = impostor[np.isfinite(impostor)]
        parts.append((ranks, genuine, best, second, scores.max(axis=1), impostor))
    return Scores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def paired_probes(probes: int, identities: int) -> BoolArray:
    """The probes whose scores for all other identities are compared: all, where these fit."""
    paired = np.ones(probes, bool)
    if probes * identities > PAIRS:
        most = max(1, PAIRS // identities)
        log.warning(
            "%d probes have %d scores with %d identities, too many to hold: EER, AUC, FNMR and DET"
            " are measured by %d of the probes, drawn at random, all else by all of them",
            *(probes, probes * identities, identities, most),
        )
        paired[np.random.default_rng(0).permutation(probes)[most:]] = False
    return paired
