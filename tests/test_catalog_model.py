"""The catalog against a plain model, by operations in any order."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from siamese_search.arrays import FloatArray
from siamese_search.errors import GalleryMismatch, UsageError
from siamese_search.records import NewItem
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.history import STEPS

DIMENSION = 3
ENCODERS = ("a" * 64, "b" * 64, "c" * 64)
names = st.sampled_from(["ann", "bob", "cid"])
contents = st.sampled_from("pqrstu")
chosen_contents = st.lists(contents, max_size=4, unique=True)
encoders = st.sampled_from(ENCODERS)


@dataclass
class Known:
    """An item as the model has it."""

    identity: str
    source: str
    metadata: dict[str, str]


@dataclass
class Step:
    """What taking back a change goes back to: items by content, distractors, and which kept probes
    are dropped and put back by that.
    """

    items: dict[str, Known]
    distractor: dict[str, bool]
    drops: set[str]
    brings: set[str]


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def embedding(content: str, encoder: str) -> FloatArray:
    seed = int(digest(content + encoder)[:8], 16)
    return np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)


@cache
def empty() -> bytes:
    """A database with nothing in it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery.db"
        Catalog.create(path, ENCODERS[0], "toy", DIMENSION)
        return path.read_bytes()


class CatalogModel(RuleBasedStateMachine):
    """The same done to a catalog and to a dictionary of items."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "gallery.db"
        path.write_bytes(empty())
        self.catalog = Catalog(path)
        self.catalog._db.execute("PRAGMA synchronous = OFF")  # no disk is waited for
        self.active = ENCODERS[0]
        self.items: dict[str, Known] = {}  # by content
        self.numbers: dict[int, str] = {}  # every number that was given out, and its content
        self.distractor: dict[str, bool] = {}
        self.probes: dict[str, int] = {}  # kept probes, by content, with their numbers
        self.dropped: dict[str, int] = {}  # the numbers of those that were dropped
        self.done: list[Step] = []
        self.undone: list[Step] = []

    def now(self, drops: Iterable[str] = (), brings: Iterable[str] = ()) -> Step:
        """What an undo of what comes next goes back to."""
        return Step(deepcopy(self.items), dict(self.distractor), set(drops), set(brings))

    def changed(self, before: Step) -> None:
        self.done = [*self.done, before][-STEPS:]
        self.undone = []

    def number(self, content: str) -> int:
        """An item's number; one that nothing has where it is not there."""
        found = self.catalog.known([digest(content)])
        return found[digest(content)].number if found else 1000

    def teardown(self) -> None:
        self.catalog.close()
        self.folder.cleanup()

    def forget_empty(self) -> None:
        used = {item.identity for item in self.items.values()}
        self.distractor = {name: kind for name, kind in self.distractor.items() if name in used}

    @rule(
        pairs=st.lists(st.tuples(names, contents), min_size=1, max_size=4),
        encoder=encoders,
        distractor=st.booleans(),
    )
    def add(self, pairs: list[tuple[str, str]], encoder: str, distractor: bool) -> None:
        new = [NewItem(name, digest(c), f"/{c}", metadata={"by": name}) for name, c in pairs]
        vectors = np.stack([embedding(content, encoder) for _, content in pairs])
        if encoder != self.active:
            with pytest.raises(GalleryMismatch):
                self.catalog.add(new, vectors, encoder, distractor=distractor)
            return
        before, last = self.now(), max(self.numbers, default=0)
        gone = set[str]()  # kept probes that are enrolled now
        expected: list[int | None] = []
        for name, content in pairs:
            if content in self.items or self.distractor.get(name, distractor) != distractor:
                expected.append(None)
                continue
            last += 1
            self.distractor[name] = distractor
            self.items[content] = Known(name, f"/{content}", {"by": name})
            self.numbers[last] = content
            expected.append(last)
            gone |= {content} & self.probes.keys()
        assert self.catalog.add(new, vectors, encoder, distractor=distractor) == expected
        self.dropped |= {content: self.probes.pop(content) for content in gone}
        before.brings |= gone
        if any(expected):
            self.changed(before)

    @rule(chosen=chosen_contents)
    def remove(self, chosen: list[str]) -> None:
        present, before = self.items.keys() & set(chosen), self.now()
        removed = self.catalog.remove([self.number(content) for content in chosen])
        assert {self.numbers[number] for number in removed} == present
        for content in present:
            del self.items[content]
        self.forget_empty()
        if present:
            self.changed(before)

    @rule(chosen=chosen_contents, new=names)
    def relabel(self, chosen: list[str], new: str) -> None:
        present, before = self.items.keys() & set(chosen), self.now()
        present = {content for content in present if self.items[content].identity != new}
        kinds = {self.distractor[self.items[content].identity] for content in present}
        numbers = [self.number(content) for content in chosen]
        assert self.catalog.relabel(numbers, new) == len(present)
        if present:
            self.distractor.setdefault(new, kinds == {True})
            self.changed(before)
        for content in present:
            self.items[content].identity = new
        self.forget_empty()

    @rule(content=contents, source=contents, key=names, value=names)
    def annotate(self, content: str, source: str, key: str, value: str) -> None:
        number = self.number(content)
        if content in self.items:
            self.items[content].source = f"/moved/{source}"  # which no undo takes back
            before = self.now()
            self.items[content].metadata[key] = value
            if self.items != before.items:
                self.changed(before)
        self.catalog.annotate({number: f"/moved/{source}"}, {number: {key: value}})

    # Kept probes

    @rule(content=contents)
    def keep(self, content: str) -> None:
        vector = embedding(content, self.active)
        self.catalog.keep_unknown(digest(content), f"/{content}", self.active, vector)
        numbers = [
            probe.number for probe in self.catalog.unknowns() if probe.content == digest(content)
        ]
        if content not in self.items:
            (self.probes[content],) = {*numbers, self.probes.get(content, *numbers)}
        assert numbers == [number for c, number in self.probes.items() if c == content]

    @rule(chosen=chosen_contents)
    def drop(self, chosen: list[str]) -> None:
        gone = self.probes.keys() & set(chosen)
        numbers = [self.probes[content] for content in gone]
        assert self.catalog.drop_unknowns(numbers) == len(gone)
        self.dropped |= {content: self.probes.pop(content) for content in gone}
        if gone:
            self.changed(self.now(brings=gone))

    @rule(content=contents, name=names)
    def enroll_kept(self, content: str, name: str) -> None:
        number = self.probes.get(content)
        if number is None or content in self.items or self.distractor.get(name):
            return
        before = self.now(brings={content})
        new = [NewItem(name, digest(content), f"/{content}")]
        vectors = embedding(content, self.active)[None]
        (item,) = self.catalog.add(new, vectors, self.active, run=f"run {len(self.numbers)}")
        assert item is not None
        self.catalog.drop_unknowns([number], f"run {len(self.numbers)}")
        self.items[content] = Known(name, f"/{content}", {})
        self.distractor[name] = False
        self.numbers[item] = content
        self.dropped[content] = self.probes.pop(content)
        self.changed(before)

    @rule(encoder=encoders, whole=st.booleans())
    def rebuild(self, encoder: str, whole: bool) -> None:
        target = self.catalog.generation(encoder, "toy", DIMENSION)
        lacking = self.catalog.unembedded(target)
        chosen = lacking if whole else lacking[:-1]
        if chosen:
            vectors = [embedding(self.numbers[number], encoder) for number in chosen]
            self.catalog.store(target, chosen, np.stack(vectors))
        switched = self.catalog.switch(target)
        assert switched == (chosen == lacking)
        if switched:
            self.active = encoder
            self.catalog.prune()
            self.catalog.forget_changes()
            self.done, self.undone = [], []

    @rule()
    def undo(self) -> None:
        self.turn(self.done, self.undone, self.catalog.undo)

    @rule()
    def redo(self) -> None:
        self.turn(self.undone, self.done, self.catalog.redo)

    def turn(self, stack: list[Step], other: list[Step], do: Callable[[], object]) -> None:
        """Go back by one step of a stack; what leads back from there is put on the other one."""
        if not stack:
            with pytest.raises(UsageError):
                do()
            return
        step = stack.pop()
        other.append(self.now(drops=step.brings, brings=step.drops & self.probes.keys()))
        do()
        for content in step.items.keys() & self.items.keys():
            step.items[content].source = self.items[content].source  # where it lies now stays
        self.items, self.distractor = step.items, step.distractor
        for content in step.drops & self.probes.keys():
            self.dropped[content] = self.probes.pop(content)
        for content in step.brings - self.probes.keys():
            self.probes[content] = self.dropped[content]
        for number, item in ((one.number, one) for one in self.catalog.items(range(1, 1000))):
            if number not in self.numbers:  # it is back, by a new number
                (self.numbers[number],) = (c for c in self.items if digest(c) == item.content)

    @invariant()
    def they_agree(self) -> None:
        stored = self.catalog.items(range(1, 1000))
        assert len(stored) == len(self.items)
        for item in stored:
            content = self.numbers[item.number]
            known = self.items[content]
            assert (item.identity, item.content) == (known.identity, digest(content))
            assert (item.source, item.metadata) == (known.source, known.metadata)
        kept = {probe.content: probe.number for probe in self.catalog.unknowns()}
        assert kept == {digest(content): number for content, number in self.probes.items()}
        assert [bool(self.catalog.last_change(undone=way)) for way in (False, True)] == [
            bool(self.done), bool(self.undone),
        ]  # fmt: skip
        counts: dict[str, int] = {}
        for known in self.items.values():
            counts[known.identity] = counts.get(known.identity, 0) + 1
        assert self.catalog.identities() == sorted(counts.items())
        assert self.catalog.totals() == (len(counts), len(self.items))
        assert self.catalog.distractors(None) == {n for n, kind in self.distractor.items() if kind}
        generation = self.catalog.state().generation
        assert generation.fingerprint == self.active
        vectors = {
            int(number): vector
            for block, rows in self.catalog.embeddings(generation)
            for number, vector in zip(block, rows, strict=True)
        }
        assert vectors.keys() == {item.number for item in stored}
        for number, vector in vectors.items():
            assert np.array_equal(vector, embedding(self.numbers[number], self.active))
        assert list(self.catalog.faults()) == []


CatalogModel.TestCase.settings = settings(
    max_examples=50, stateful_step_count=30, deadline=None, derandomize=True
)
TestCatalogModel = CatalogModel.TestCase
