"""Learning: the metric that a gallery's own items suggest, and how the gallery would answer by it.

A metric is used only together with a calibration that was made under it, since what strangers score
is another thing under each. Knows nothing of pictures, and of how a metric follows from items.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.decision import calibration
from siamese_search.decision.calibration import Evidence
from siamese_search.decision.closer import Learned, Look, learn_weight
from siamese_search.decision.kinds import of_another_kind
from siamese_search.decision.learning import Prior, cross_fitted, learned, sample
from siamese_search.decision.metric import Metric, plain
from siamese_search.embedding.vectors import Description
from siamese_search.errors import GalleryDamaged, UsageError
from siamese_search.files import delete
from siamese_search.gallery.guarded import is_unit
from siamese_search.gallery.ranking import Ranking
from siamese_search.gallery.self_test import SelfTest
from siamese_search.gallery.snapshots import Searched, Snapshots, View
from siamese_search.gallery.stored import dimension_of
from siamese_search.index import Engine, Index
from siamese_search.records import Generation, LeftOut
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.generations import State
from siamese_search.words import counted

SAMPLE = 4000  # items that calibration looks at
LOOKED = 400  # of them closely
HELD = 100_000  # items that are held in memory, and cross-fitted
FOLDS = 5
# Of strangers, while a gallery is small: rivals in a stranger's own fold are not fitted either, and
# score higher than they will. By five folds half as many strangers were named as were asked for.
STRANGE_FOLDS = 25
AUTO = "auto"
CHOICES = (AUTO, "none")
LEAST_GAIN = 0.05  # in 100 items, of which it is worth speaking
OWN_MEANS = (
    "pictures asked look unlike those enrolled (catalogue against shop, say): each side is"
    " compared about its own mean"
)


@dataclass(frozen=True)
class Held:
    """Items (n,), ascending, with their embeddings (n, dimension) and identities' numbers (n,),
    -1 for distractors, from which nothing is learned: one may be many things.
    """

    items: IntArray
    vectors: FloatArray
    owners: IntArray


@dataclass(frozen=True)
class Asked:
    """Pictures (m) such as are asked about, each in one turn or several, the upright first, and
    what they show; embeddings have so many dimensions.
    """

    looks: list[list[Description]]
    shown: list[str]
    dimension: int

    @property
    def vectors(self) -> FloatArray:
        """The upright ones' embeddings (m, dimension)."""
        found = [looks[0].embedding for looks in self.looks]
        return np.array(found, np.float32).reshape(-1, self.dimension)


class Trial:
    """A gallery's items as they were, under a metric that is not in use, or under none."""

    def __init__(
        self, catalog: Catalog, generation: Generation, metric: Metric | None, index: Index
    ) -> None:
        self._catalog = catalog
        self._view = View(index, generation, metric)
        self._version: tuple[int, int] | None = None

    @contextmanager
    def searching(self) -> Iterator[View]:
        """Without what was removed meanwhile; see ``Snapshots.searching``."""
        with self._catalog.reading():
            version = self._catalog.version()
            if version != self._version:
                items = self._view.index.items
                there = self._catalog.identity_numbers()[0]
                self._view.index.remove(items[~np.isin(items, there)])
                self._version = version
            yield self._view

    def close(self) -> None:
        """Let go of the index."""
        self._view.index.close()


class Candidate:
    """How a gallery would answer under a metric, or under none; to be closed in the end."""

    def __init__(
        self,
        metric: Metric | None,
        searched: Searched,
        trials: Trials | None = None,
        path: Path | None = None,
    ) -> None:
        """``trials`` are for cross-fitting, None where that is left out; ``path`` is deleted."""
        self.metric = metric
        self.searched = searched
        self._trials = trials
        self._path = path

    def close(self) -> None:
        """Let go of what was made to try it."""
        if isinstance(self.searched, Trial):
            self.searched.close()
        if self._path is not None:
            delete(self._path)

    def evidence(
        self, catalog: Catalog, rule: str, weight: float = 0.0, most: int = SAMPLE
    ) -> Evidence:
        """What the items say of it, each searched without itself, about so many of them; by scores
        to which votes of a closer look are added by a weight.

        Items that helped to fit a metric stand out too well under it. So as a stranger, each is
        asked under a metric that was fitted without its identity, and as a genuine probe under one
        that was fitted without it. Beyond ``HELD`` items that hardly matters, and is left out, as
        it is where nothing but means is fitted, see ``cross_fitted``.
        """
        asked = SelfTest(catalog, self.searched, Ranking(catalog))
        never = catalog.distractors(None)
        crossed = self._crossed
        if crossed is None and not weight:
            return calibration.self_test(list(asked.left_out(rule, most)), never)
        probes = asked.probes(most)
        strangers, genuine = (
            calibration.self_test(
                list(asked.looked(probes, rule, weight, strange))
                if crossed is None
                else crossed.left_out(self.metric, probes, rule, strange, weight),
                never,
            )
            for strange in (True, False)
        )
        return replace(genuine, strangers=strangers.strangers, shown=strangers.shown)

    @property
    def _crossed(self) -> Trials | None:
        """What cross-fits the metric; None where nothing is fitted, or too much is held."""
        fitted = self.metric is not None and self.metric.kind != "plain"
        return self._trials if fitted else None

    def closer_look(self, catalog: Catalog, rule: str) -> Learned:
        """How much a closer look at candidates shall count, by about ``LOOKED`` of the items, each
        under a metric that was fitted without it.
        """
        asked = SelfTest(catalog, self.searched, Ranking(catalog))
        probes = asked.probes(LOOKED)
        if self._crossed is None:
            return learn_weight(list(asked.looks(probes, rule)))
        return learn_weight(self._crossed.looks(self.metric, probes, rule))


@dataclass(frozen=True)
class Trials:
    """What it takes to try metrics on items that are held in memory."""

    catalog: Catalog
    engine: Engine
    generation: Generation
    held: Held
    prior: Prior | None

    def of(self, metric: Metric | None) -> Trial:
        """The items under a metric."""
        width = self.generation.dimension if metric is None else metric.dimension
        index, vectors = self.engine.empty(width), self.held.vectors
        index.add(self.held.items, vectors if metric is None else metric.apply(vectors))
        return Trial(self.catalog, self.generation, metric, index)

    def left_out(
        self, like: Metric | None, probes: IntArray, rule: str, strange: bool, weight: float = 0.0
    ) -> list[LeftOut]:
        """Probes, ascending, each searched without itself under a metric that is fitted ``like``
        another, but without its identity if it is asked as a stranger, else without it alone.
        """
        return list(self.each_left_out(like, probes, rule, strange, weight))

    def each_left_out(
        self, like: Metric | None, probes: IntArray, rule: str, strange: bool, weight: float = 0.0
    ) -> Iterator[LeftOut]:
        """The same one by one."""
        for test, asked in self._folds(like, probes, by_item=not strange):
            yield from test.looked(asked, rule, weight, strange)

    def looks(self, like: Metric | None, probes: IntArray, rule: str) -> list[Look]:
        """As ``left_out`` without the probe alone, each looked at closely."""
        folds = self._folds(like, probes, by_item=True)
        return [one for test, asked in folds for one in test.looks(asked, rule)]

    def _folds(
        self, like: Metric | None, probes: IntArray, by_item: bool
    ) -> Iterator[tuple[SelfTest, IntArray]]:
        """Parts of the probes with what asks about them."""
        held = self.held
        parts = FOLDS if by_item or len(held.items) > SAMPLE else STRANGE_FOLDS
        telling = np.flatnonzero(held.owners >= 0)
        others = held.items[held.owners < 0]  # from which nothing is learned: in any fold
        folds = cross_fitted(
            held.vectors[telling], held.owners[telling], self.prior, like, parts, by_item=by_item
        )
        for metric, out in folds:
            asked = np.intersect1d(probes, np.union1d(held.items[telling[out]], others))
            others = others[:0]
            if len(asked):
                trial = self.of(metric)
                yield SelfTest(self.catalog, trial, Ranking(self.catalog)), asked
                trial.close()


class Learning:
    """Learns the metric of one gallery."""

    def __init__(self, catalog: Catalog, snapshots: Snapshots) -> None:
        self._catalog = catalog
        self._snapshots = snapshots

    def candidate(
        self, wanted: str, prior: Prior | None = None, asked: Asked | None = None
    ) -> Candidate:
        """What a gallery would best be calibrated under, where ``wanted`` is ``auto``; by ``none``
        under none. ``prior`` is what the encoder knows; ``asked`` tells what probes look like.
        """
        state = self._catalog.state()
        items, owners = self._catalog.identity_numbers()
        if len(items) <= HELD:
            held = self._held(state.generation, items, owners)
            trials = Trials(self._catalog, self._snapshots.engine, state.generation, held, prior)
            metric = _suggested(held, prior, asked) if wanted == AUTO else None
            if metric is None and state.metric is None:
                return Candidate(None, self._snapshots)
            return Candidate(metric, trials.of(metric), trials)
        metric = None
        if wanted == AUTO:
            telling = np.flatnonzero(owners >= 0)
            read = telling[sample(owners[telling])]
            held = self._held(state.generation, items[read], owners[read])
            metric = _suggested(held, prior, asked)
        if metric is None and state.metric is None:
            return Candidate(None, self._snapshots)
        return self._on_disk(state, metric)

    @property
    def choices(self) -> dict[str, str]:
        """See ``Gallery.choices``."""
        keeps_places = self._catalog.keeps_places()
        return {
            "metric": self._catalog.wanted_metric() or AUTO,
            "closer": AUTO if keeps_places else "none",
        }

    @property
    def learned(self) -> bool:
        """Whether the metric in use was fitted on the gallery's items.

        Raises GalleryDamaged where it is not as it was stored.
        """
        _, metric = self._catalog.state_with_metric()
        return metric is not None and metric.kind != "plain"

    def left_out(
        self, prior: Prior | None, probes: IntArray, rule: str, strange: bool, weight: float
    ) -> Iterator[LeftOut] | None:
        """Probes, in any order, each searched without itself under a metric that is fitted like the
        one in use, but without it, or as a stranger without its identity. None for more items than
        are held in memory: there one item hardly matters. Votes are added by a ``weight``.
        """
        state, metric = self._catalog.state_with_metric()
        items, owners = self._catalog.identity_numbers()
        if len(items) > HELD:
            return None
        held = self._held(state.generation, items, owners)
        trials = Trials(self._catalog, self._snapshots.engine, state.generation, held, prior)
        return trials.each_left_out(metric, probes, rule, strange, weight)

    def _held(self, generation: Generation, items: IntArray, owners: IntArray) -> Held:
        numbers, vectors = self._catalog.vectors(generation, items)
        sound = is_unit(vectors)
        numbers, vectors = numbers[sound], vectors[sound]
        return Held(numbers, vectors, owners[np.searchsorted(items, numbers)])

    def _on_disk(self, state: State, metric: Metric | None) -> Candidate:
        """The same of more items than are held in memory, by an index file of their own."""
        name = f"index-{state.generation.number}-{secrets.token_hex(6)}.faiss"
        path = self._catalog.path.parent / name  # left behind, it is swept as any other
        width = dimension_of(state, metric)
        engine = self._snapshots.engine
        engine.write(path, width, self._snapshots.projected(state, metric))
        trial = Trial(self._catalog, state.generation, metric, engine.read(path, width))
        return Candidate(metric, trial, path=path)

    def in_words(self) -> str | None:
        """What the metric in use was learned from and what it gained, and whether probes have a
        mean of their own; None where there is none.
        """
        try:
            _, metric = self._catalog.state_with_metric()
        except GalleryDamaged:
            return "damaged: run `siasearch calibrate`"
        if metric is None:
            return None
        said = "plain cosines"
        if metric.kind != "plain":
            items = counted(metric.items, "item")
            identities = counted(metric.identities, "identity", "identities")
            said = f"learned from {items} of {identities}"
            if metric.gain is None:
                said += ", and next to plain cosines, since nothing can be held out to judge it"
        if metric.gain is not None and 100 * metric.gain >= LEAST_GAIN:
            said += f": {100 * metric.gain:.1f} more in 100 held-out items are named rightly"
        return said if metric.probe_mean is None else f"{said}; {OWN_MEANS}"


def known_choice(wanted: str, of: str = "metric") -> str:
    """The same. Raises UsageError for what is neither ``auto`` nor ``none``."""
    if wanted not in CHOICES:
        raise UsageError(f"unknown {of} {wanted!r}: choose one of {', '.join(CHOICES)}")
    return wanted


def _suggested(held: Held, prior: Prior | None, asked: Asked | None) -> Metric | None:
    """The metric that items suggest, or None, about either side's own mean where what is ``asked``
    is of another kind.
    """
    telling = np.flatnonzero(held.owners >= 0)
    metric = learned(held.vectors[telling], held.owners[telling], prior)
    if asked is None:
        return metric
    kept = telling[sample(held.owners[telling])]
    vectors, owners = held.vectors[kept], held.owners[kept]
    if not of_another_kind(vectors, asked.vectors, owners, asked.shown):
        return metric
    if metric is None or metric.gain is None:  # what nothing has judged gains nothing there
        identities = len(np.unique(held.owners[telling]))
        metric = plain(held.vectors.shape[1], len(telling), identities)
    return metric.centred_on(vectors, asked.vectors)
