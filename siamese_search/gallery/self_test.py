"""A gallery's own items as probes: each searched without itself, and what that says.

Knows nothing of encoders and decisions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.decision import rules
from siamese_search.decision.closer import CANDIDATES, Look
from siamese_search.gallery.ranking import Ranking
from siamese_search.gallery.reranking import CloserLook, together
from siamese_search.gallery.snapshots import Searched, View
from siamese_search.index import Index
from siamese_search.records import (
    Audit,
    Generation,
    Item,
    LeftOut,
    Match,
)
from siamese_search.storage.catalog import Catalog

BLOCK = 256  # items that are searched in one read of the database


class SelfTest:
    """Asks one gallery about its own items."""

    def __init__(self, catalog: Catalog, snapshots: Searched, ranking: Ranking) -> None:
        self._catalog = catalog
        self._snapshots = snapshots
        self._ranking = ranking

    def left_out(self, rule: str, limit: int | None = None, seed: int = 0) -> Iterator[LeftOut]:
        """The gallery's own items, each searched without itself.

        With a ``limit``, about as many of them, identities having as many each where they can. What
        others change meanwhile may be seen in one item and not in another.
        """
        return self.asked(self.probes(limit, seed), rule)

    def asked(self, items: IntArray, rule: str) -> Iterator[LeftOut]:
        """These items, ascending, each searched without itself; those that are gone left out."""
        for start in range(0, len(items), BLOCK):
            with self._snapshots.searching() as view:
                found = list(self._left_out(view.index, items[start : start + BLOCK], rule))
            yield from found

    def looks(self, items: IntArray, rule: str) -> Iterator[Look]:
        """These items, ascending, each looked at closely without itself; those that are gone or
        have no places left out.
        """
        for _, (own, _), scores, votes in self._looked(items, rule, strange=False):
            names = [name for name in votes if name in scores]
            yield Look(
                own,
                np.array([scores[name].score for name in names], np.float32),
                np.array([votes[name] for name in names], np.float32),
                names.index(own) if own in names else None,
            )

    def looked(self, items: IntArray, rule: str, weight: float, strange: bool) -> Iterator[LeftOut]:
        """As ``asked``, by scores to which votes are added by a weight; items without places are
        left out then. As a stranger, an item is asked without all of its identity.
        """
        if not weight:
            yield from self.asked(items, rule)
            return
        for item, (own, path), scores, votes in self._looked(items, rule, strange):
            plain = np.array([match.score for match in scores.values()], np.float32)
            total = together(list(scores), plain, votes, weight).tolist()
            found = {
                match.identity: replace(match, score=score)
                for match, score in zip(scores.values(), total, strict=True)
            }
            mine = found.pop(own, None)
            others = sorted(found.values(), key=lambda match: -match.score)[:2]
            yield LeftOut(item, own, path, None if mine is None else mine.score, tuple(others))

    def _looked(
        self, items: IntArray, rule: str, strange: bool
    ) -> Iterator[tuple[int, tuple[str, str | None], dict[str, Match], dict[str, float]]]:
        """Items with their identities and paths, and everybody's matches and votes without them."""
        for start in range(0, len(items), BLOCK):
            with self._snapshots.searching() as view:
                found = list(self._looked_in(view, items[start : start + BLOCK], rule, strange))
            yield from found

    def _looked_in(
        self, view: View, items: IntArray, rule: str, strange: bool
    ) -> Iterator[tuple[int, tuple[str, str | None], dict[str, Match], dict[str, float]]]:
        index, generation = view.index, view.generation
        items, known = self._catalog.places(generation.number, items[index.holds(items)].tolist())
        vectors = index.vectors(items)
        owners = self._catalog.owners(items.tolist())
        ranked = self._ranking.ranked(index, vectors, 3, None, rule)
        members = self._ranking.members(index)
        members.load({owner for owner, _ in owners.values()})
        look = CloserLook(self._catalog)
        for item, vector, places, one in zip(items.tolist(), vectors, known, ranked, strict=True):
            own = owners[item][0]
            scores = {match.identity: match for match in self._ranking.marked([one.matches])[0]}
            scores.pop(own, None)
            score = without_item(members[own], item, vector, rules.RULES[rule])
            if score is not None and not strange:
                scores[own] = Match(own, score, item, None)
            near = [
                (number, owner)
                for number, owner in one.near
                if number != item and not (strange and owner == own)
            ]
            if strange and len(near) < min(CANDIDATES, len(index) - len(members[own].numbers)):
                near = self._near_others(index, vector, members[own].numbers)
            yield item, owners[item], scores, look.votes(generation, places, near)

    def _near_others(
        self, index: Index, vector: FloatArray, own: IntArray
    ) -> list[tuple[int, str]]:
        """The nearest items that are not of an identity, with theirs: as many as a stranger has."""
        others = np.setdiff1d(index.items, own, assume_unique=True)
        found, _ = index.search(vector[None], CANDIDATES, others)
        numbers = [number for number in found[0].tolist() if number >= 0]
        owners = self._catalog.owners(numbers)
        return [(number, owners[number][0]) for number in numbers if number in owners]

    def probes(self, limit: int | None, seed: int = 0) -> IntArray:
        """The items that can be found, about ``limit`` of them where there are more, ascending."""
        with self._snapshots.searching() as view:
            items = view.index.items
            if limit is not None and len(items) > limit:
                items = self._drawn(limit, seed)
        return items

    def _drawn(self, limit: int, seed: int) -> IntArray:
        """About ``limit`` items, of every identity as many where they can, ascending."""
        random = np.random.default_rng(seed)
        names = [name for name, _ in self._catalog.identities()]
        if len(names) > limit:
            names = random.choice(names, limit, replace=False).tolist()
        each = max(1, limit // len(names))
        members = self._catalog.members(names)
        chosen = [random.permutation(members[name])[:each] for name in sorted(members)]
        return np.sort(np.concatenate(chosen))

    def _left_out(self, index: Index, items: IntArray, rule: str) -> Iterator[LeftOut]:
        items = items[index.holds(items)]
        vectors = index.vectors(items)
        owners = self._catalog.owners(items.tolist())
        ranked = self._ranking.rank(index, vectors, 3, None, rule)
        members = self._ranking.members(index)
        members.load({owner for owner, _ in owners.values()})
        for row, item in enumerate(items.tolist()):
            own, path = owners[item]
            others = [match for match in ranked[row] if match.identity != own][:2]
            score = without_item(members[own], item, vectors[row], rules.RULES[rule])
            yield LeftOut(item, own, path, score, tuple(others))

    def alike(self, cosine: float) -> set[tuple[int, int, float]]:
        """Pairs of items (lower number first) where one is the other's nearest, at that cosine or
        above, which is given with them. It is that of the embeddings, whatever the metric.
        """
        items = self.probes(None)
        pairs = {}
        for start in range(0, len(items), BLOCK):
            with self._snapshots.searching() as view:
                index, block = view.index, items[start : start + BLOCK]
                block = block[index.holds(block)]
                found, scores = index.search(index.vectors(block), 2)
                places = (found[:, 0] == block).astype(int)[:, None]  # or an equal one before it
                near = np.take_along_axis(found, places, axis=1)[:, 0]
                cosines = np.take_along_axis(scores, places, axis=1)[:, 0]
                if view.metric is not None:
                    cosines = self._cosines(view.generation, block, near)
            for item, other, value in zip(
                block.tolist(), near.tolist(), cosines.tolist(), strict=True
            ):
                if other >= 0 and value >= cosine:
                    pairs[min(item, other), max(item, other)] = value
        return {(first, second, score) for (first, second), score in pairs.items()}

    def _cosines(self, generation: Generation, items: IntArray, others: IntArray) -> FloatArray:
        """Of the embeddings of items (n,) and others (n,), -inf where there is no other."""
        numbers, vectors = self._catalog.vectors(generation, np.union1d(items, others))
        first = np.searchsorted(numbers, items)
        second = np.searchsorted(numbers, np.where(others < 0, items, others))
        cosines = np.einsum("ij,ij->i", vectors[first], vectors[second])
        return np.where(others < 0, np.float32(-np.inf), cosines)

    def sample(self, limit: int, seed: int = 0) -> tuple[list[Item], FloatArray]:
        """Items drawn at random, or all where there are no more than ``limit``, by number.

        Returns them with their embeddings, float32 (n, dimension), and never holds more of these.
        """
        generation = self._catalog.state().generation
        random = np.random.default_rng(seed)
        keys, numbers = np.empty(0), np.empty(0, np.int64)
        vectors = np.empty((0, generation.dimension), np.float32)
        for items, block in self._catalog.embeddings(generation):
            keys = np.concatenate([keys, random.random(len(items))])
            least = np.sort(np.argsort(keys)[:limit])
            keys = keys[least]
            numbers = np.concatenate([numbers, items])[least]
            vectors = np.concatenate([vectors, block])[least]
        found = self._catalog.items(numbers.tolist())
        here = np.isin(numbers, [item.number for item in found])  # not removed meanwhile
        return found, vectors[here]


def audited(left_out: Sequence[LeftOut], duplicates: Iterable[tuple[int, int, float]]) -> Audit:
    """From every item searched without itself, and pairs of items with their cosines."""
    suspects = sorted((one for one in left_out if one.own is not None), key=lambda one: -one.doubt)
    sizes = Counter(one.identity for one in left_out)
    mistaken = Counter(
        tuple(sorted((one.identity, one.others[0].identity))) for one in left_out if one.doubt > 0
    )
    confusable = [(a, b, count, sizes[a] + sizes[b]) for (a, b), count in mistaken.items()]
    return Audit(
        tuple(suspects),
        tuple(sorted(duplicates, key=lambda pair: (-pair[2], pair))),
        tuple(sorted(confusable, key=lambda pair: (-pair[2] / pair[3], pair))),
        len(left_out),
    )


def without_item(
    members: rules.Members, item: int, vector: FloatArray, rule: rules.Rule
) -> float | None:
    """An identity's score for one of its items by the others, None where there are none."""
    others = members.without(item)
    if others is None:
        return None
    best = np.array([(others.vectors @ vector).max()], np.float32)
    return float(rule(vector, best, [others])[0])
