"""The items of identities in one state of a gallery."""

from __future__ import annotations

import numpy as np

from siamese_search.arrays import IntArray
from siamese_search.decision import rules
from siamese_search.index import SearchIndex
from siamese_search.storage.catalog import Catalog

KEPT = 8192  # identities whose prototypes are kept


class MembersOf:
    """The items of identities in one state of a gallery, loaded when they are asked for."""

    def __init__(
        self, catalog: Catalog, index: SearchIndex, allowed: IntArray | None = None
    ) -> None:
        self.index = index
        self._catalog = catalog
        self._allowed = allowed
        self._members: dict[str, rules.Members] = {}

    def load(self, identities: set[str]) -> None:
        """Make sure that these are here; forgets others where there are too many."""
        if len(self._members) > KEPT:
            self._members.clear()
        missing = self._catalog.members(identities - self._members.keys())
        numbers = np.concatenate([np.empty(0, np.int64), *missing.values()])
        held = self.index.holds(numbers)
        if self._allowed is not None:
            place = np.searchsorted(self._allowed, numbers)
            place[place == len(self._allowed)] = 0  # beyond the last: compared in vain
            held &= self._allowed[place] == numbers
        whole, end = bool(held.all()), 0
        for identity, own in missing.items():
            end += len(own)
            kept = own if whole else own[held[end - len(own) : end]]
            self._members[identity] = rules.Members(kept, self.index.vectors)

    def __getitem__(self, identity: str) -> rules.Members:
        return self._members[identity]
