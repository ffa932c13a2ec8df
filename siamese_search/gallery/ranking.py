"""Ranking: the best identities for an embedding, by a rule over their items.

What an exact index ranks here is what ranking every identity would give, whatever k is asked for;
see ``Ranking.rank``. Knows nothing of encoders, thresholds and pictures.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.decision import rules
from siamese_search.decision.rules import Best
from siamese_search.gallery.members import MembersOf
from siamese_search.index import Index
from siamese_search.records import Match
from siamese_search.storage.catalog import Catalog

CANDIDATES = 64  # items looked at first, where it is certain who else belongs to the best
MANY_CANDIDATES = 256  # where it is not: so many that a small k hardly changes anything
DEEP = 4096  # items looked at before identities are sought one after the other
FEWEST = 5  # identities that are compared at least
PROTOTYPES_AT_MOST = 100_000  # items of a gallery whose prototypes are all compared
FILTERS = 4  # whose members are kept at hand
OWNERS = 1 << 16  # items whose owners are kept at hand
FURTHER = 4  # identities that are scored at first, when more may be among the best
ROUNDING = np.float32(1e-5)  # of sums of products in another order


class Ranked(NamedTuple):
    """The identities that were scored for a query, best first, and its nearest items, best first:
    ``CANDIDATES`` or more where there are so many.
    """

    found: tuple[Best, ...]
    nearest: Sequence[int]
    owned: Mapping[int, tuple[str, str | None]]  # these and other items: identities and paths

    @property
    def matches(self) -> tuple[Match, ...]:
        """All that were scored."""
        return self.first(len(self.found))

    def first(self, k: int) -> tuple[Match, ...]:
        """The k best."""
        return tuple(best.match for best in self.found[:k])

    @property
    def near(self) -> list[tuple[int, str]]:
        """The nearest items with their identities, without those that are gone."""
        return [(item, self.owned[item][0]) for item in self.nearest if item in self.owned]


class Ranking:
    """Ranks the identities of one gallery. Its index is given with each question."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[bytes | None, MembersOf] = {}
        self._seen: tuple[Index, tuple[int, int]] | None = None
        self._owners: tuple[tuple[int, int], dict[int, tuple[str, str | None]]] | None = None

    def rank(
        self,
        index: Index,
        queries: FloatArray,
        k: int,
        allowed: IntArray | None,
        rule: str,
    ) -> list[tuple[Match, ...]]:
        """The k best identities of each query (q, dimension), or as many as there are."""
        ranked = self.ranked(index, queries, k, allowed, rule)
        return self.marked([one.first(k) for one in ranked])

    def ranked(
        self,
        index: Index,
        queries: FloatArray,
        k: int,
        allowed: IntArray | None,
        rule: str,
    ) -> list[Ranked]:
        """The k best identities of each query (q, dimension), with others that were scored.

        The identities of the nearest items are scored by the rule, and so is whoever else could
        be among the k best by its prototype. That is exact with an exact index and the rules best,
        balanced and prototype; other rules, and galleries with more than ``PROTOTYPES_AT_MOST``
        items, rank the identities of the nearest items alone.
        """
        identities, items = self._catalog.totals()
        k = min(k, identities)
        available = len(index) if allowed is None else len(allowed)
        if not k or not available:
            return [Ranked((), (), {})] * len(queries)
        plain = rule == "best" or identities == items
        bounded = rule in rules.BOUNDS and available <= PROTOTYPES_AT_MOST
        wanted = max(4 * k, CANDIDATES if plain or bounded else MANY_CANDIDATES)
        found, floors, nearest, owned = self._nearest(index, queries, wanted, allowed)
        least = min(max(k, FEWEST), identities)
        if wanted < available:
            for row, matches in enumerate(found):
                if len(matches) < least:  # several items are of one identity
                    query = queries[row : row + 1]
                    floors[row] = self._complete(index, query, least, wanted, allowed, matches)
        if not plain:
            members = self.members(index, allowed)
            members.load({identity for one in found for identity in one})
            found = [
                rescored(query, list(one.values()), rule, members)
                for query, one in zip(queries, found, strict=True)
            ]
            if bounded:
                names, vectors, _ = members.prototypes
                # Whom no prototype stands for has a single item.
                alone = wanted if allowed is not None or identities > len(names) else None
                rows = zip(queries, queries @ vectors.T, found, floors.tolist(), strict=True)
                found = [
                    self._with_further(members, query, close, k, rule, one, floor, alone)
                    for query, close, one, floor in rows
                ]
        return [
            Ranked(tuple(one.values()), row, owned) for one, row in zip(found, nearest, strict=True)
        ]

    def members(self, index: Index, allowed: IntArray | None = None) -> MembersOf:
        """The items of identities; what is known of them is kept until the gallery changes."""
        now = index, self._catalog.version()
        key = None if allowed is None else allowed.tobytes()
        before = None
        if self._seen != now:
            if self._seen is not None and self._seen[0] is index:
                before = self._known.get(None)
            self._known.clear()
            self._seen = now
        if len(self._known) > FILTERS:
            self._known.clear()
        if key not in self._known:
            self._known[key] = MembersOf(self._catalog, index, allowed, before)
        return self._known[key]

    def marked(self, ranked: list[tuple[Match, ...]]) -> list[tuple[Match, ...]]:
        """The same, with those marked that are never named.

        Raises GalleryDamaged, naming an item, where what is known of one is not as it was stored.
        """
        never = self._catalog.never_named({m.item for found in ranked for m in found})
        if not never:
            return ranked
        return [
            tuple(dataclasses.replace(m, distractor=m.item in never) for m in found)
            for found in ranked
        ]

    def _nearest(
        self, index: Index, queries: FloatArray, wanted: int, allowed: IntArray | None
    ) -> tuple[
        list[dict[str, Best]], FloatArray, list[list[int]], dict[int, tuple[str, str | None]]
    ]:
        """The identities of the ``wanted`` nearest items of each query, best first, what no other
        item scores more than, -inf where there are no others, these items, and their owners.
        """
        found, scores = index.search(queries, wanted, allowed)
        owners = self._owned(set(found[found >= 0].tolist()))
        rows = found.tolist()
        best = [
            rules.best_items(zip(row, cosines, strict=True), owners)
            for row, cosines in zip(rows, scores.tolist(), strict=True)
        ]
        return best, scores[:, -1].copy(), rows, owners

    def _owned(self, numbers: set[int]) -> dict[int, tuple[str, str | None]]:
        """As ``Catalog.owners`` for these numbers, and more; what is read is kept until the gallery
        changes.
        """
        version, kept = self._catalog.version(), self._owners
        if kept is None or kept[0] != version or len(kept[1]) > OWNERS:
            kept = self._owners = version, {}
        known = kept[1]
        # By `-`, all that are known would be gone through.
        new = {number for number in numbers if number not in known}
        if new:
            known.update(self._catalog.owners(new))
        return known

    def _complete(
        self,
        index: Index,
        query: FloatArray,
        least: int,
        wanted: int,
        allowed: IntArray | None,
        found: dict[str, Best],
    ) -> float:
        """Add further identities for a query: sought farther away, then among the items of those
        not found yet. Returns what no item of yet another scores more than.
        """
        reach, floor = wanted, np.inf
        while len(found) < least and reach < DEEP:
            reach *= 8
            (new,), (floor,), *_ = self._nearest(index, query, reach, allowed)
            found.update(new)
        others, members, new = allowed, self.members(index, allowed), dict(found)
        while new and len(found) < least:
            members.load(set(new))
            numbers = np.concatenate([members[identity].numbers for identity in new])
            others = np.setdiff1d(index.items if others is None else others, numbers, True)
            (new,), (floor,), *_ = self._nearest(index, query, wanted, others)
            found.update(new)
        return float(floor)

    def _with_further(
        self,
        members: MembersOf,
        query: FloatArray,
        close: FloatArray,
        k: int,
        rule: str,
        found: dict[str, Best],
        floor: float,
        reach: int | None,
    ) -> dict[str, Best]:
        """The ranked identities of a query, and those that belong before the k-th.

        ``close`` (m,) are the prototypes' cosines. No item of another identity has a higher cosine
        than ``floor``: that is what lies beyond the ``reach`` nearest, None where a prototype
        stands for every identity.
        """
        names = members.prototypes.names
        while floor > -np.inf:
            bounds = rules.BOUNDS[rule](np.float32(floor), close) + ROUNDING
            places = np.flatnonzero(bounds > _kth(found, k))
            order = places[np.argsort(-bounds[places], kind="stable")].tolist()
            others = [place for place in order if names[place] not in found]
            start, size = 0, FURTHER
            while start < len(others) and bounds[others[start]] > _kth(found, k):
                chosen = [names[place] for place in others[start : start + size]]
                further = self._best_items(query, chosen, members)
                found = _joined(found, query, further, rule, members)
                start, size = start + size, 2 * size  # so that many take few rounds
            if reach is None or _kth(found, k) >= floor + ROUNDING:
                break
            # An identity with a single item scores its cosine.
            reach *= 4
            nearest = self._nearest(members.index, query[None], reach, members.allowed)
            (near,), (beyond,), *_ = nearest
            floor = min(floor, beyond)
            new = [best for name, best in near.items() if name not in found]
            members.load({one.identity for one in new})
            found = _joined(found, query, new, rule, members)
        return found

    def _best_items(self, query: FloatArray, names: list[str], members: MembersOf) -> list[Best]:
        """The item of each identity that is nearest to a query; without those gone meanwhile."""
        members.load(set(names))
        owned = [members[name].numbers for name in names]
        numbers = np.concatenate(owned)
        order = np.argsort(numbers)
        cosines = np.empty(len(numbers), np.float32)
        cosines[order] = np.minimum(members.index.vectors(numbers[order]) @ query, np.float32(1))
        ends = np.cumsum([len(own) for own in owned]).tolist()
        places = [end - len(own) for own, end in zip(owned, ends, strict=True)]
        best = [
            place + int(cosines[place:end].argmax())
            for place, end in zip(places, ends, strict=True)
        ]
        owners = self._owned(set(numbers[best].tolist()))
        return [
            Best(name, float(cosines[place]), item, owners[item][1])
            for name, place, item in zip(names, best, numbers[best].tolist(), strict=True)
            if item in owners
        ]


def rescored(
    query: FloatArray, found: list[Best], rule: str, members: MembersOf
) -> dict[str, Best]:
    """Identities, given with their best items, by the rule's scores, best first."""
    if not found:
        return {}
    best = np.array([one.score for one in found], np.float32)
    scores = rules.RULES[rule](query, best, [members[one.identity] for one in found])
    scores = np.minimum(scores, np.float32(1))  # rounding may add a little
    return _in_order(
        Best(identity, score, item, path)
        for (identity, _, item, path), score in zip(found, scores.tolist(), strict=True)
    )


def _joined(
    ranked: dict[str, Best],
    query: FloatArray,
    new: list[Best],
    rule: str,
    members: MembersOf,
) -> dict[str, Best]:
    """Ranked identities and further ones, given with their best items, best first."""
    return _in_order((ranked | rescored(query, new, rule, members)).values())


def _in_order(found: Iterable[Best]) -> dict[str, Best]:
    """By identity, best first."""
    ranked = sorted(found, key=lambda one: (-one.score, one.item))
    return {one.identity: one for one in ranked}


def _kth(ranked: dict[str, Best], k: int) -> float:
    """The score of the k-th identity, -inf where there are fewer."""
    found = next(itertools.islice(ranked.values(), k - 1, None), None)
    return -np.inf if found is None else found.score
