"""Identification: from a probe's embedding to the k best identities, or *unknown*.

Knows nothing of pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.decision import rules
from siamese_search.decision.calibration import threshold_at
from siamese_search.decision.evidence import RUNNER_UP
from siamese_search.decision.judge import CalibratedJudge, FixedJudge, Judge
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.vectors import as_embeddings
from siamese_search.errors import UsageError
from siamese_search.gallery.active import require
from siamese_search.gallery.members import MembersOf
from siamese_search.gallery.ranking import Ranking
from siamese_search.gallery.snapshots import Searched, View
from siamese_search.index import Index
from siamese_search.pictures.regions import require_turns
from siamese_search.records import Calibration, Identification, Match
from siamese_search.storage.catalog import Catalog

BLOCK = 256  # queries that are searched in one read of the database
SCORES = 1 << 22  # held at a time where every identity's is asked for


@dataclass(frozen=True)
class Question:
    """What is asked of each probe: the ``k`` best identities, and how to decide.

    ``threshold`` is for all probes; without one, a calibrated gallery decides at ``fpir`` or the
    rate it was calibrated for, any other by the encoder's threshold. ``where`` searches only items
    whose metadata equal it; ``rule`` is one of ``rules.RULES``. Pictures are looked at in so many
    ``turns``, see ``viewing.py``. Raises UsageError for what makes no sense.
    """

    k: int = 5
    threshold: float | None = None
    where: Mapping[str, str] | None = None
    rule: str | None = None
    fpir: float | None = None
    turns: int = 1

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k is {self.k}: ask for at least one identity")
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise UsageError(f"the threshold is {self.threshold}: a cosine lies between -1 and 1")
        if self.rule is not None:
            rules.known_rule(self.rule)
        require_turns(self.turns)


class Identifier:
    """Identifies embeddings in one gallery."""

    def __init__(self, catalog: Catalog, snapshots: Searched, ranking: Ranking) -> None:
        self._catalog = catalog
        self._snapshots = snapshots
        self._ranking = ranking

    def identify(
        self, encoder: Encoder, embeddings: FloatArray, question: Question
    ) -> list[Identification]:
        """Identify by embeddings of ``encoder``, float32 (n, dimension) of unit length.

        Raises GalleryMismatch where it is not the active encoder, UsageError for bad input.
        """
        queries = as_embeddings(embeddings, encoder.dimension)
        answers: list[Identification] = []
        # Block by block, since others cannot commit while one is searched.
        for start in range(0, max(1, len(queries)), BLOCK):
            with self._snapshots.searching() as view:
                require(encoder, view.generation, self._catalog.path.parent)
                block = view.projected(queries[start : start + BLOCK])
                answers += self._answers(view, encoder, block, question)
        return answers

    def ranked(
        self, encoder: Encoder, embeddings: FloatArray, k: int, rule: str
    ) -> list[tuple[Match, ...]]:
        """The k best identities of embeddings (n, dimension), undecided; errors as ``identify``."""
        queries = as_embeddings(embeddings, encoder.dimension)
        with self._snapshots.searching() as view:
            require(encoder, view.generation, self._catalog.path.parent)
            return self._ranking.rank(view.index, view.projected(queries), k, None, rule)

    def _answers(
        self, view: View, encoder: Encoder, queries: FloatArray, question: Question
    ) -> list[Identification]:
        index = view.index
        where, k = question.where, question.k
        allowed = None if where is None else self._catalog.where(where)
        calibration = self._catalog.calibration(view.generation)
        rule = question.rule or (calibration.rule if calibration else rules.DEFAULT_RULE)
        judge = _judge(calibration, encoder, question, rule)
        ranked = self._ranking.rank(index, queries, max(k, 2), allowed, rule)
        # A filter leaves out rivals that the rate was calibrated with.
        filtered = allowed is not None and calibration is not None
        rivals = self._ranking.rank(index, queries, 3, None, rule) if filtered else ranked
        return [
            judge.decide(matches, k, others) for matches, others in zip(ranked, rivals, strict=True)
        ]

    def search(self, embeddings: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
        """The k nearest items of embeddings (n, dimension), all under one encoder, and cosines."""
        seen: tuple[int, object] | None = None
        queries = np.empty((0, 0), np.float32)
        found: list[tuple[IntArray, FloatArray]] = []
        while not found or BLOCK * len(found) < len(queries):
            with self._snapshots.searching() as view:
                now = view.generation.number, view.metric
                # At the start, or where others have switched encoders or calibrated.
                if seen is None or now[0] != seen[0] or now[1] is not seen[1]:
                    seen, found = now, []
                    queries = as_embeddings(embeddings, view.generation.dimension)
                start = BLOCK * len(found)
                block = view.projected(queries[start : start + BLOCK])
                found.append(view.index.search(block, k))
        items, scores = zip(*found, strict=True)
        return np.concatenate(items), np.concatenate(scores)

    def scores(
        self, encoder: Encoder, embeddings: FloatArray, rule: str
    ) -> tuple[list[str], Iterator[FloatArray]]:
        """Every identity's score: names (m,), and float32 (b, m) for b embeddings at a time.

        Whoever others remove meanwhile scores -inf from then on; whom they enrol is left out.
        """
        queries = as_embeddings(embeddings, encoder.dimension)
        with self._snapshots.searching() as view:
            require(encoder, view.generation, self._catalog.path.parent)
            names = list(self._everybody(view.index))
        return names, self._scores(encoder, queries, names, rules.RULES[rule])

    def _scores(
        self, encoder: Encoder, queries: FloatArray, names: list[str], rule: rules.Rule
    ) -> Iterator[FloatArray]:
        members: dict[str, rules.Members] = {}
        seen = None
        rows = max(1, min(BLOCK, SCORES // max(1, len(names))))
        for start in range(0, len(queries), rows):
            block = queries[start : start + rows]
            scores = np.full((len(block), len(names)), -np.inf, np.float32)
            with self._snapshots.searching() as view:
                require(encoder, view.generation, self._catalog.path.parent)
                now = view.index, self._catalog.version()
                if now != seen:
                    members, seen = self._everybody(view.index), now
                here = [column for column, name in enumerate(names) if name in members]
                owned = [members[names[column]] for column in here]
                scores[:, here] = rules.scored(view.projected(block), owned, rule)
            yield scores

    def _everybody(self, index: Index) -> dict[str, rules.Members]:
        """All identities by name, but for those of whom no item can be found under the encoder."""
        members = MembersOf(self._catalog, index)
        names = [name for name, _ in self._catalog.identities()]
        members.load(set(names))
        return {name: members[name] for name in names if len(members[name].numbers)}


def _judge(
    calibration: Calibration | None, encoder: Encoder, question: Question, rule: str
) -> Judge:
    """How probes are decided. Raises UsageError for a rate where nothing is calibrated for it."""
    threshold, fpir = question.threshold, question.fpir
    own_metric = calibration is not None and calibration.metric is not None
    # The encoder's threshold is one for plain cosines: under another metric, a rule that was not
    # calibrated is decided by the one that was, which is nearer than nothing.
    if calibration is not None and (calibration.rule == rule or (own_metric and fpir is None)):
        alone = encoder.threshold
        if own_metric:  # what a stranger scores whose runner-up scores the same
            rate = calibration.fpir if fpir is None else fpir
            alone = threshold_at(rate, calibration.thresholds) / (1 - RUNNER_UP)
        return CalibratedJudge(calibration, alone, fpir, threshold)
    if fpir is not None:
        raise UsageError(
            f"the gallery is not calibrated for the rule {rule}: run `siasearch calibrate`"
        )
    return FixedJudge(encoder.threshold if threshold is None else threshold, encoder.confidence)
