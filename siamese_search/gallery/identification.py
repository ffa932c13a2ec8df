"""Identification: from a probe's embedding to the k best identities, or *unknown*.

Knows nothing of pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.decision import rules
from siamese_search.decision.calibration import require_rate, threshold_at
from siamese_search.decision.evidence import RUNNER_UP
from siamese_search.decision.judge import CalibratedJudge, FixedJudge, Judge
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.vectors import as_embeddings
from siamese_search.errors import UsageError, require_between, require_type
from siamese_search.gallery.active import require
from siamese_search.gallery.members import MembersOf
from siamese_search.gallery.ranking import Ranking
from siamese_search.gallery.reranking import CloserLook, Looked
from siamese_search.gallery.snapshots import Searched, View
from siamese_search.gallery.staleness import is_stale
from siamese_search.index import Index
from siamese_search.pictures.regions import require_turns
from siamese_search.pictures.sources import texts_of
from siamese_search.records import Calibration, Identification, Match
from siamese_search.storage.catalog import Catalog

BLOCK = 256  # queries that are searched in one read of the database
SCORES = 1 << 22  # held at a time where every identity's is asked for


@dataclass(frozen=True)
class Question:
    """What is asked of each probe: the ``k`` best identities, and how to decide.

    ``threshold`` is for all probes; without one, a calibrated gallery decides at ``fpir`` or the
    rate it was calibrated for, any other by the encoder's threshold, or, where that is not known,
    by none, which names nothing. ``where`` searches only items
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
        require_type("k", self.k, Integral, "a whole number")
        require_type("turns", self.turns, Integral, "a whole number")
        if self.threshold is not None:
            require_type("threshold", self.threshold, Real, "a number")
        if self.where is not None:
            require_type("where", self.where, Mapping, "names and texts, as {'shop': 'north'}")
        if self.k < 1:
            raise UsageError(f"k is {self.k}: ask for at least one identity")
        if self.threshold is not None:
            require_between("threshold", self.threshold, -1, 1, "a cosine from -1 to 1")
            object.__setattr__(self, "threshold", float(self.threshold))  # it is in answers
        if self.where is not None:
            object.__setattr__(self, "where", texts_of(self.where, "where"))
        if self.fpir is not None:
            require_rate(self.fpir)
        if self.rule is not None:
            rules.known_rule(self.rule)
        require_turns(self.turns)


class Identifier:
    """Identifies embeddings in one gallery."""

    def __init__(self, catalog: Catalog, snapshots: Searched, ranking: Ranking) -> None:
        self._catalog = catalog
        self._snapshots = snapshots
        self._ranking = ranking
        self._look = CloserLook(catalog)
        self._held: tuple[tuple[int, int], Calibration, bool] | None = None

    def identify(
        self,
        encoder: Encoder,
        embeddings: FloatArray,
        question: Question,
        places: Sequence[FloatArray | None] | None = None,
    ) -> list[Identification]:
        """Identify by embeddings of ``encoder``, float32 (n, dimension) of unit length.

        With ``places`` (n) of the same pictures, where the encoder gave any, candidates are looked
        at closely. Raises GalleryMismatch where it is not the active encoder, UsageError for bad
        input.
        """
        queries = as_embeddings(embeddings, encoder.dimension)
        seen = [None] * len(queries) if places is None else list(places)
        encoder.require_places(seen, len(queries))
        answers: list[Identification] = []
        # Block by block, since others cannot commit while one is searched.
        for start in range(0, max(1, len(queries)), BLOCK):
            with self._snapshots.searching() as view:
                require(encoder, view.generation, self._catalog.path.parent)
                part = slice(start, start + BLOCK)
                block = view.projected(queries[part])
                answers += self._answers(view, encoder, block, seen[part], question)
        return answers

    def prepare(self) -> None:
        """Open the index: what is verified while it is in use is verified while pictures are
        embedded.
        """
        with self._snapshots.searching():
            pass

    def ranked(
        self,
        encoder: Encoder,
        embedding: FloatArray,
        k: int,
        rule: str,
        places: FloatArray | None = None,
        weight: float = 0.0,
    ) -> tuple[Match, ...]:
        """The k best identities of an embedding (dimension,), undecided, by scores to which votes
        of its ``places`` are added by a weight; errors as ``identify``.
        """
        queries = as_embeddings(embedding, encoder.dimension)
        with self._snapshots.searching() as view:
            require(encoder, view.generation, self._catalog.path.parent)
            projected = view.projected(queries)
            (ranked,) = self._ranking.ranked(view.index, projected, k, None, rule)
            found = None
            if weight and places is not None:
                found = self._look.reordered(view.generation, places, ranked, weight, True)
            shown = ranked.first(k)
            if found is not None and found.decides:
                shown = found.matches[:k]
            return self._ranking.marked([shown])[0]

    def _answers(
        self,
        view: View,
        encoder: Encoder,
        queries: FloatArray,
        places: Sequence[FloatArray | None],
        question: Question,
    ) -> list[Identification]:
        index = view.index
        where, k = question.where, question.k
        allowed = None if where is None else self._allowed(index, where)
        calibration = self._catalog.calibration(view.generation)
        rule = question.rule or (calibration.rule if calibration else rules.DEFAULT_RULE)
        judge = _judge(calibration, encoder, question, rule)
        shown = max(k, 2)
        ranked = self._ranking.ranked(index, queries, shown, allowed, rule)
        looked: list[Looked | None] = [None] * len(ranked)
        closer_judge = None
        if calibration is not None and calibration.closer and calibration.rule == rule:
            # A filter leaves out rivals that the rate was calibrated with, and so does a gallery
            # that has shrunk: votes, which are leads over others, would mean something else.
            if calibration.looked is not None and allowed is None and self._holds(calibration):
                closer_judge = _judge(calibration.looked, encoder, question, rule, looked=True)
            decides = closer_judge is not None
            looked = [
                None
                if seen is None
                else self._look.reordered(view.generation, seen, one, calibration.closer, decides)
                for seen, one in zip(places, ranked, strict=True)
            ]
        rivals = [one.first(3) for one in ranked]
        if allowed is not None and calibration is not None:
            rivals = self._ranking.rank(index, queries, 3, None, rule)
        found = [
            one.first(shown) if look is None else look.matches[:shown]
            for look, one in zip(looked, ranked, strict=True)
        ]
        marked = self._ranking.marked(found)
        return [
            judge.decide(matches, k, others)
            if look is None or closer_judge is None or not look.decides
            else closer_judge.decide(matches, k)
            for look, matches, others in zip(looked, marked, rivals, strict=True)
        ]

    def _allowed(self, index: Index, where: Mapping[str, str]) -> IntArray | None:
        """The items that a filter leaves; None where these are all that can be found."""
        allowed, all_items = self._catalog.where(where), len(index)
        # Most filters leave fewer, so what can be found is looked up for few.
        every = len(allowed) >= all_items and index.holds(allowed).sum() == all_items
        return None if every else allowed

    def _holds(self, calibration: Calibration) -> bool:
        """Whether the gallery is about as it was calibrated; looked up once for each state."""
        now = self._catalog.version()
        if self._held is None or self._held[0] != now or self._held[1] is not calibration:
            self._held = now, calibration, not is_stale(self._catalog, calibration)
        return self._held[2]

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
    calibration: Calibration | None,
    encoder: Encoder,
    question: Question,
    rule: str,
    looked: bool = False,
) -> Judge:
    """How probes are decided, by scores to which votes are added where they are ``looked`` at.

    Raises UsageError for a rate where nothing is calibrated for it.
    """
    threshold, fpir = question.threshold, question.fpir
    own_metric = calibration is not None and (looked or calibration.metric is not None)
    # The encoder's threshold, if it has one, is for plain cosines: under another metric, a rule
    # that was not calibrated is decided by the one that was, which is nearer than nothing.
    useless = own_metric or not encoder.calibrated
    if calibration is not None and (calibration.rule == rule or (useless and fpir is None)):
        alone = encoder.threshold
        if useless:  # what a stranger scores whose runner-up scores the same
            rate = calibration.fpir if fpir is None else fpir
            alone = threshold_at(rate, calibration.thresholds) / (1 - RUNNER_UP)
        sure = calibration.fitted or encoder.calibrated
        return CalibratedJudge(calibration, alone, fpir, threshold, sure)
    if fpir is not None:
        which = "" if calibration is None else f" for the rule {rule}, but {calibration.rule}"
        raise UsageError(
            f"the gallery is not calibrated{which}: run `siasearch calibrate` first, or ask without"
            " a rate (fpir)"
        )
    if threshold is None and encoder.calibrated:
        threshold = encoder.threshold
    return FixedJudge(threshold, encoder.confidence)
