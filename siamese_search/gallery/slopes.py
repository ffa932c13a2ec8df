"""Slopes: the evidence for an identity, and how it changes with a probe's embedding.

That is what somebody needs who knows the gallery and wants another answer; only measurements of
such attacks ask for it. A closer look's votes are not part of it. Knows nothing of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from siamese_search.arrays import DoubleArray, FloatArray
from siamese_search.decision import rules
from siamese_search.decision.evidence import RUNNER_UP
from siamese_search.decision.metric import Metric
from siamese_search.gallery.gallery import Gallery
from siamese_search.gallery.members import MembersOf
from siamese_search.gallery.ranking import Ranking


class EvidenceSlopes:
    """The evidence for identities in one gallery, as if each were a probe's best.

    Where the rule is none of best, prototype and balanced, slopes are those of balanced.
    """

    def __init__(self, gallery: Gallery) -> None:
        self._snapshots, self._catalog = gallery._snapshots, gallery._catalog
        self._ranking = Ranking(gallery._catalog)
        found = gallery.calibration
        self._rule = found.rule if found else rules.DEFAULT_RULE

    def of(
        self, embeddings: FloatArray, identities: Sequence[str]
    ) -> tuple[DoubleArray, FloatArray]:
        """For embeddings (n, dimension) and an identity for each: its score less half of the best
        other's (n,), and the slopes of that, float32 (n, dimension).
        """
        with self._snapshots.searching() as view:
            queries = view.projected(embeddings)
            ranked = self._ranking.ranked(view.index, queries, 2, None, self._rule)
            rivals = [
                next((match.identity for match in one.matches if match.identity != name), None)
                for one, name in zip(ranked, identities, strict=True)
            ]
            members = MembersOf(self._catalog, view.index)
            members.load({*identities, *(name for name in rivals if name is not None)})
            towards = np.zeros_like(queries)
            for row, (query, name, rival) in enumerate(
                zip(queries, identities, rivals, strict=True)
            ):
                towards[row] = self._towards(query, members[name])
                if rival is not None:
                    against = self._towards(query, members[rival])
                    towards[row] -= RUNNER_UP * against * (against @ query > 0)
            values = (towards * queries).sum(axis=1, dtype=np.float64)
            return values, _before(view.metric, embeddings, towards)

    def _towards(self, query: FloatArray, own: rules.Members) -> FloatArray:
        """The vector (p,) whose product with the query is an identity's score."""
        vectors = own.vectors
        nearest: FloatArray = vectors[int((vectors @ query).argmax())]
        if self._rule == "best":
            return nearest
        prototype: FloatArray = rules.prototypes([own])[0]
        return prototype if self._rule == "prototype" else np.float32(0.5) * (nearest + prototype)


def _before(metric: Metric | None, embeddings: FloatArray, towards: FloatArray) -> FloatArray:
    """Slopes by embeddings (n, dimension) from those by what a metric makes of them (n, p)."""
    if metric is None:
        return towards
    mean = metric.mean if metric.probe_mean is None else metric.probe_mean
    moved = (embeddings - mean) @ metric.projection
    length = np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-6)
    unit = moved / length
    along = (towards * unit).sum(axis=1, keepdims=True)
    slopes: FloatArray = ((towards - along * unit) / length) @ metric.projection.T
    return slopes.astype(np.float32)
