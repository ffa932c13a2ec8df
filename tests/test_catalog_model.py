"""The catalog against a plain model, by operations in any order."""

from __future__ import annotations

import hashlib
import tempfile
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

DIMENSION = 3
ENCODERS = ("a" * 64, "b" * 64, "c" * 64)
names = st.sampled_from(["ann", "bob", "cid"])
contents = st.sampled_from("pqrstu")
numbers = st.lists(st.integers(1, 12), max_size=4, unique=True)
encoders = st.sampled_from(ENCODERS)


@dataclass
class Known:
    """An item as the model has it."""

    identity: str
    content: str
    source: str
    metadata: dict[str, str]


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
        self.items: dict[int, Known] = {}
        self.distractor: dict[str, bool] = {}
        self.last = 0
        # The items and distractors before the last change, None where it is forgotten.
        self.before: tuple[dict[int, Known], dict[str, bool]] | None = None

    def remember(self) -> tuple[dict[int, Known], dict[str, bool]]:
        """What an undo of what comes next goes back to."""
        return deepcopy(self.items), dict(self.distractor)

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
        before, last = self.remember(), self.last
        expected: list[int | None] = []
        for name, content in pairs:
            enrolled = any(item.content == content for item in self.items.values())
            if enrolled or self.distractor.get(name, distractor) != distractor:
                expected.append(None)
                continue
            self.last += 1
            self.distractor[name] = distractor
            self.items[self.last] = Known(name, content, f"/{content}", {"by": name})
            expected.append(self.last)
        assert self.catalog.add(new, vectors, encoder, distractor=distractor) == expected
        self.before = before if self.last > last else self.before

    @rule(chosen=numbers)
    def remove(self, chosen: list[int]) -> None:
        present = sorted(self.items.keys() & set(chosen))
        self.before = self.remember() if present else self.before
        assert sorted(self.catalog.remove(chosen)) == present
        for number in present:
            del self.items[number]
        self.forget_empty()

    @rule(chosen=numbers, new=names)
    def relabel(self, chosen: list[int], new: str) -> None:
        present = self.items.keys() & set(chosen)
        self.before = self.remember() if present else self.before
        kinds = {self.distractor[self.items[number].identity] for number in present}
        assert self.catalog.relabel(chosen, new) == len(present)
        if present:
            self.distractor.setdefault(new, kinds == {True})
        for number in present:
            self.items[number].identity = new
        self.forget_empty()

    @rule(number=st.integers(1, 12), source=contents, key=names, value=names)
    def annotate(self, number: int, source: str, key: str, value: str) -> None:
        self.before = self.remember()
        if number in self.before[0]:  # where it lies now stays
            self.before[0][number].source = f"/moved/{source}"
        self.catalog.annotate({number: f"/moved/{source}"}, {number: {key: value}})
        if number in self.items:
            self.items[number].source = f"/moved/{source}"
            self.items[number].metadata[key] = value

    @rule(encoder=encoders, whole=st.booleans())
    def rebuild(self, encoder: str, whole: bool) -> None:
        target = self.catalog.generation(encoder, "toy", DIMENSION)
        lacking = self.catalog.unembedded(target)
        chosen = lacking if whole else lacking[:-1]
        if chosen:
            vectors = [embedding(self.items[number].content, encoder) for number in chosen]
            self.catalog.store(target, chosen, np.stack(vectors))
        switched = self.catalog.switch(target)
        assert switched == (chosen == lacking)
        if switched:
            self.active = encoder
            self.catalog.prune()
            self.catalog.forget_change()
            self.before = None

    @rule()
    def undo(self) -> None:
        if self.before is None:
            with pytest.raises(UsageError):
                self.catalog.undo()
            return
        after, (items, self.distractor) = self.remember(), self.before
        self.catalog.undo()
        gone = sorted(items.keys() - self.items.keys())  # they get new numbers
        self.items = {number: items[number] for number in sorted(items.keys() - set(gone))}
        for number in gone:
            self.last += 1
            self.items[self.last] = items[number]
        self.before = after

    @invariant()
    def they_agree(self) -> None:
        stored = self.catalog.items(range(1, self.last + 1))
        assert {item.number for item in stored} == self.items.keys()
        for item in stored:
            known = self.items[item.number]
            assert (item.identity, item.content) == (known.identity, digest(known.content))
            assert (item.source, item.metadata) == (known.source, known.metadata)
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
        assert vectors.keys() == self.items.keys()
        for number, vector in vectors.items():
            assert np.array_equal(vector, embedding(self.items[number].content, self.active))
        assert list(self.catalog.faults()) == []


CatalogModel.TestCase.settings = settings(
    max_examples=25, stateful_step_count=12, deadline=None, derandomize=True
)
TestCatalogModel = CatalogModel.TestCase
