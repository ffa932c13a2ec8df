"""Reranking: the best candidates of a probe are put in order by a closer look.

Who is named is decided by scores as before: the look tells candidates apart, and says nothing of
strangers. Knows nothing of pictures and encoders, nor of how places vote.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from siamese_search.arrays import FloatArray
from siamese_search.decision import closer
from siamese_search.gallery.ranking import Ranked
from siamese_search.records import Generation, Match
from siamese_search.storage.catalog import Catalog


class CloserLook:
    """Looks closely at the candidates in one gallery."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def reordered(
        self, generation: Generation, places: FloatArray | None, ranked: Ranked, weight: float
    ) -> tuple[Match, ...]:
        """The identities of a probe with these ``places``, best first by scores and votes.

        Where nothing is known of places, they stay as they are.
        """
        votes = {} if places is None else self.votes(generation, places, ranked)
        if not votes:
            return ranked.matches
        scores = np.array([match.score for match in ranked.matches], np.float32)
        given = np.array([votes.get(match.identity, 0.0) for match in ranked.matches], np.float32)
        together = closer.fused(scores, given, weight)
        added = (together - scores).tolist()
        return tuple(
            dataclasses.replace(ranked.matches[place], closer=added[place])
            for place in np.argsort(-together, kind="stable").tolist()
        )

    def votes(
        self, generation: Generation, places: FloatArray, ranked: Ranked, without: int | None = None
    ) -> dict[str, float]:
        """The votes of a probe's places (count, dimension) for the identities of its nearest items,
        nan where these have no places; none at all where no item has.

        The probe may be an item itself, which is looked at ``without`` it.
        """
        near = [
            pair for pair in zip(ranked.items, ranked.owners, strict=True) if pair[0] != without
        ]
        owner = dict(near[: closer.CANDIDATES])
        items, known = self._catalog.places(generation.number, owner)
        if not len(items):
            return {}
        names, owners = np.unique([owner[item] for item in items.tolist()], return_inverse=True)
        found = closer.votes(closer.units(places), known, owners)
        votes = dict.fromkeys(owner.values(), float("nan"))
        return votes | dict(zip(names.tolist(), found.tolist(), strict=True))
