"""The items of identities in one state of a gallery, and the prototypes of those with several.

Knows nothing of encoders and decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.decision import rules
from siamese_search.errors import GalleryDamaged
from siamese_search.index import Index
from siamese_search.storage.catalog import Catalog

KEPT = 8192  # identities whose items are kept at hand


class Prototypes(NamedTuple):
    """The identities with several items (m,), their prototypes (m, dimension), and what tells
    whether their items are the same as before (m,).
    """

    names: list[str]
    vectors: FloatArray
    marks: list[int]


class MembersOf:
    """The items of identities in one state of a gallery, loaded when they are asked for."""

    def __init__(
        self,
        catalog: Catalog,
        index: Index,
        allowed: IntArray | None = None,
        before: MembersOf | None = None,
    ) -> None:
        """``allowed`` are the items that count, all if None; ``before`` is an earlier state over
        the same index, from which prototypes are taken over where nothing has changed.
        """
        self.index = index
        self._catalog = catalog
        self.allowed = allowed
        self._members: dict[str, rules.Members] = {}
        self._before = before.__dict__.get("prototypes") if before else None

    def load(self, identities: set[str]) -> None:
        """Make sure that these are here; forgets others where there are too many."""
        if len(self._members) > KEPT:
            self._members.clear()
        # By `-`, all that are here would be gone through.
        missing = {identity for identity in identities if identity not in self._members}
        if missing:
            self._keep(self._catalog.members(missing))

    def _keep(self, missing: Mapping[str, IntArray]) -> None:
        numbers = np.concatenate([np.empty(0, np.int64), *missing.values()])
        held = self.index.holds(numbers)
        if self.allowed is not None:
            place = np.searchsorted(self.allowed, numbers)
            place[place == len(self.allowed)] = 0  # beyond the last: compared in vain
            held &= self.allowed[place] == numbers
        whole, end = bool(held.all()), 0
        for identity, own in missing.items():
            end += len(own)
            kept = own if whole else own[held[end - len(own) : end]]
            self._members[identity] = rules.Members(kept, self.index.vectors)

    def __getitem__(self, identity: str) -> rules.Members:
        try:
            return self._members[identity]
        except KeyError:
            raise GalleryDamaged(
                f"{self._catalog.path} says two things of {identity!r}: `siasearch check` says what"
                " is wrong"
            ) from None

    @cached_property
    def prototypes(self) -> Prototypes:
        """Of every identity with several items that count. Reads those that are not known yet."""
        marks = self._catalog.several(self.allowed)
        known: dict[tuple[str, int], FloatArray] = {}
        if self._before is not None:
            earlier = zip(self._before.names, self._before.marks, strict=True)
            known = dict(zip(earlier, self._before.vectors, strict=True))
            self._before = None
        names, found, new = [], [], []
        for name, mark in marks.items():
            vector = known.get((name, mark))
            names.append(name)
            found.append(vector)
            if vector is None:
                new.append(len(names) - 1)
        for start in range(0, len(new), KEPT):
            part = new[start : start + KEPT]
            self.load({names[place] for place in part})
            present = [place for place in part if len(self[names[place]].numbers)]
            vectors = rules.prototypes([self[names[place]] for place in present])
            for place, vector in zip(present, vectors, strict=True):
                found[place] = vector
        # Items may be enrolled that have no embedding under this encoder.
        here = [place for place, vector in enumerate(found) if vector is not None]
        stacked = [vector for vector in found if vector is not None]
        empty = np.empty((0, self.index.dimension), np.float32)
        return Prototypes(
            [names[place] for place in here],
            np.stack(stacked) if stacked else empty,
            [marks[names[place]] for place in here],
        )
