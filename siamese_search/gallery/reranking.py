"""Reranking: the best candidates of a probe are put in order by a closer look.

Unless it helps much, who is named is decided by scores as before. Knows nothing of pictures and
encoders, nor of how places vote.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from siamese_search.arrays import FloatArray
from siamese_search.decision import closer
from siamese_search.gallery.ranking import Ranked
from siamese_search.records import Generation, Match
from siamese_search.storage.catalog import Catalog


class Looked(NamedTuple):
    """Identities in the order of a closer look, and whether their scores have its votes."""

    matches: tuple[Match, ...]
    decides: bool


class CloserLook:
    """Looks closely at the candidates in one gallery."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def reordered(
        self,
        generation: Generation,
        places: FloatArray,
        ranked: Ranked,
        weight: float,
        decides: bool,
    ) -> Looked | None:
        """The identities of a probe with these ``places``, best first by scores and votes; None
        where nothing is known of its candidates' places.

        Votes become part of the scores where the look ``decides``, else they stand beside these.
        It decides only among two candidates or more that all have places: a vote is as large as
        the lead over the others, so with fewer of them it would mean something else.
        """
        votes = self.votes(generation, places, ranked.near)
        if not votes:
            return None
        decides = decides and len(votes) > 1 and all(map(math.isfinite, votes.values()))
        matches = ranked.matches
        scores = np.array([match.score for match in matches], np.float32)
        total = together([match.identity for match in matches], scores, votes, weight)
        added = (total - scores).tolist()
        found = [
            dataclasses.replace(match, score=float(whole))
            if decides
            else dataclasses.replace(match, closer=more)
            for match, whole, more in zip(matches, total, added, strict=True)
        ]
        order = np.argsort(-total, kind="stable").tolist()
        return Looked(tuple(found[place] for place in order), decides)

    def votes(
        self, generation: Generation, places: FloatArray, near: Iterable[tuple[int, str]]
    ) -> dict[str, float]:
        """The votes of a probe's places (count, dimension) for the identities of its nearest items,
        given best first with these; nan where an identity has no places, none at all where none
        has.
        """
        owner = dict(itertools.islice(near, closer.CANDIDATES))
        items, known = self._catalog.places(generation.number, owner)
        if not len(items):
            return {}
        names, owners = np.unique([owner[item] for item in items.tolist()], return_inverse=True)
        found = closer.votes(closer.units(places), known, owners)
        votes = dict.fromkeys(owner.values(), float("nan"))
        return votes | dict(zip(names.tolist(), found.tolist(), strict=True))


def together(
    names: Sequence[str], scores: FloatArray, votes: Mapping[str, float], weight: float
) -> FloatArray:
    """Scores (n,) of identities with their votes; those that are no candidates have none."""
    given = np.array([votes.get(name, 0.0) for name in names], np.float32)
    return closer.fused(scores, given, weight)
