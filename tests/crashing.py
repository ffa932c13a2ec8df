"""A small gallery whose operations get killed, and the model of what must be there afterwards.

Shared by ``benchmarks/faults/`` and tests. Everything runs in forks of one warm
process, which OpenVINO does not survive, so the toy encoders are computed by numpy here.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import typer
from conftest import picture, write_toy_encoder

import siamese_search.cli
from siamese_search.arrays import FloatArray
from siamese_search.embedding import encoder as encoders
from siamese_search.embedding import pipeline
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.record import EncoderRecord
from siamese_search.gallery import compaction, enrolment, rebuilding
from siamese_search.gallery.gallery import Gallery
from siamese_search.pictures.read import content_hash
from siamese_search.records import ImageFile

PICTURES = 160
IDENTITIES = 12
ROUNDING = 1e-6  # of a float32 sum


class NumpyRuntime:
    """The toy graph of ``conftest.py``, summed in integers so that batches make no difference."""

    device = "cpu"
    batch = 16
    parallel = 1

    def __init__(self, pool: int) -> None:
        self._pool = pool

    def embed(self, pixels: npt.NDArray[np.uint8]) -> FloatArray:
        return self.describe(pixels)[0]

    def describe(self, pixels: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        n, height, width, channels = pixels.shape
        pool = self._pool
        blocks = pixels.astype(np.int64).reshape(
            n, height // pool, pool, width // pool, pool, channels
        )
        planes = (blocks.sum(axis=(2, 4)) / pool**2 - 127).transpose(0, 3, 1, 2)
        features = np.concatenate([planes.reshape(n, -1), np.ones((n, 1))], axis=1)
        unit: FloatArray = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype("f4")
        return unit, planes.reshape(n, channels, -1).transpose(0, 2, 1).astype(np.float32)


def numpy_runtime(folder: Path, record: EncoderRecord, device: str | None = None) -> NumpyRuntime:
    """In place of ``open_runtime``."""
    del folder, device
    return NumpyRuntime(record.architecture["toy"])


# What operations load when they need it, loaded before the forks.
LAZY = ("filelock", "numpy.polynomial", "siamese_search.evaluation.curves", "sqlite_utils")


def prepare_process() -> None:
    """Make this process and its forks commit and compact every few items, without OpenVINO."""
    for name in LAZY:
        importlib.import_module(name)
    commands: Any = typer.main.get_command(siamese_search.cli.app)
    commands.commands["list"].make_context("list", ["name"])  # loads what reads arguments
    changes: list[tuple[Any, str, Any]] = [
        (encoders, "open_runtime", numpy_runtime),
        (enrolment, "COMMIT_SECONDS", 0.0),
        (compaction, "PENDING_AT_LEAST", 12),
        (rebuilding, "COMMIT_ITEMS", 8),
        (pipeline.describe_batches, "__defaults__", (5,)),
    ]
    for owner, name, value in changes:
        getattr(owner, name)  # a renamed setting must not go unnoticed
        setattr(owner, name, value)


@dataclass(frozen=True)
class Action:
    """One operation on the gallery, of the pictures whose state it changes."""

    kind: str  # create, add, copy, remove, relabel, undo, compact, reindex or rebuild
    pictures: tuple[int, ...] = ()
    identity: str = ""
    new: str = ""
    encoder: str = ""
    undone: tuple[tuple[int, str], ...] = ()  # pictures and identities after an undo

    def apply(self, model: dict[int, str]) -> dict[int, str]:
        """The identities of the enrolled pictures once it is done."""
        after = dict(model)
        for number in self.pictures:
            if self.kind in ("create", "add", "copy"):
                after.setdefault(number, identity_of(number))
            elif self.kind == "remove":
                after.pop(number, None)
            elif self.kind == "relabel" and number in after:
                after[number] = self.new
        return dict(self.undone) if self.kind == "undo" else after


def identity_of(number: int) -> str:
    """The identity under which a picture is enrolled."""
    return f"identity {number % IDENTITIES}"


@dataclass
class Told:
    """What a killed process had said through its pipe."""

    begun: bool = False
    done: bool = False
    error: str = ""
    tried: list[frozenset[int]] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)


class World:
    """Pictures, two encoders and one gallery in a folder, with the model of the gallery."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "gallery"
        self.pictures = [root / "pictures" / f"{n:03}.png" for n in range(PICTURES)]
        (root / "pictures").mkdir(parents=True)
        for number, path in enumerate(self.pictures):
            picture(number).save(path)
        self.encoders = {
            "fine": Encoder.open(write_toy_encoder(root / "fine", pool=4)),
            "coarse": Encoder.open(write_toy_encoder(root / "coarse", pool=8)),
        }
        self._expected = {
            encoder.fingerprint: encoder.embed(self.pictures) for encoder in self.encoders.values()
        }
        self._names = {
            content_hash(path.read_bytes()): number for number, path in enumerate(self.pictures)
        }
        self.model: dict[int, str] = {}
        self.numbers: dict[int, int] = {}  # every item number ever seen, and its picture

    def content(self, digest: str) -> int:
        """Which picture has this content."""
        return self._names[digest]

    def vectors(self, fingerprint: str) -> FloatArray:
        """The embeddings of all pictures by an encoder, made anew."""
        return self._expected[fingerprint]

    def perform(self, action: Action) -> None:
        """Do it by way of the library."""
        first = self.encoders["fine"] if action.kind == "create" else None
        with Gallery.open(self.folder, first) as gallery:
            if action.kind in ("create", "add", "copy"):
                files = [
                    ImageFile(str(self.pictures[number]), identity_of(number))
                    for number in action.pictures
                ]
                gallery.enroll(files, copy=action.kind == "copy")
            elif action.kind == "remove":
                gallery.remove(action.identity)
            elif action.kind == "relabel":
                gallery.relabel(action.identity, action.new)
            elif action.kind == "undo":
                gallery.undo()
            elif action.kind == "compact":
                gallery.compact()
            else:
                gallery.rebuild(self.encoders[action.encoder] if action.encoder else None)

    def arguments(self, action: Action) -> list[str]:
        """The same as arguments of the command line."""
        common = ["--gallery", str(self.folder), "--json"]
        if action.kind in ("create", "add", "copy"):
            manifest = self.root / f"manifest-{os.getpid()}.csv"
            rows = [f"{self.pictures[n]},{identity_of(n)}" for n in action.pictures]
            manifest.write_text("\n".join(["path,label", *rows]) + "\n")
            more = {"create": ["--encoder", str(self.root / "fine")], "copy": ["--copy"]}
            return ["add", "--manifest", str(manifest), *more.get(action.kind, []), *common]
        return {
            "remove": ["remove", action.identity],
            "relabel": ["relabel", action.identity, action.new],
            "undo": ["undo"],
            "compact": ["compact"],
            "reindex": ["rebuild"],
            "rebuild": ["rebuild", "--encoder", str(self.root / action.encoder)],
        }[action.kind] + common

    def plan(self, kind: str, random: np.random.Generator) -> tuple[Action, ...]:
        """An operation that makes sense now; several actions are done at once."""
        if kind == "two at once":
            first = self.plan("copy" if random.random() < 0.3 else "bulk", random)[0]
            other = random.choice(["bulk", "copy", "remove", "relabel", "compact"])
            if other in ("bulk", "copy"):
                shift = int(random.integers(1, 10))
                kinds = {"bulk": "add", "copy": "copy"}
                overlapping = tuple((n + shift) % PICTURES for n in first.pictures)
                return first, Action(kinds[other], overlapping)
            (second,) = self.plan(other, random)
            apart = tuple(n for n in first.pictures if n not in second.pictures)
            # Enrolling what is being removed or relabelled could end either way.
            names = {second.identity, second.new}
            apart = tuple(n for n in apart if identity_of(n) not in names)
            return (Action(first.kind, apart), second) if apart else (second,)
        start = int(random.integers(PICTURES))
        many = tuple((start + n) % PICTURES for n in range(int(random.integers(8, 24))))
        if kind == "add":
            absent = [n for n in range(PICTURES) if n not in self.model] or [start]
            return (Action("add", (int(random.choice(absent)),)),)
        if kind == "create":
            return (Action("create", many[:3]),)
        if kind in ("bulk", "copy"):
            return (Action("add" if kind == "bulk" else kind, many),)
        if kind in ("remove", "relabel") and self.model:
            name = str(random.choice(sorted(set(self.model.values()))))
            whose = tuple(number for number in self.model if self.model[number] == name)
            new = str(random.choice([f"renamed {start % 5}", identity_of(start)]))
            return (Action(kind, whose, name, new if kind == "relabel" else ""),)
        if kind == "undo" and (undone := self._undone()):
            after = dict(undone)
            both = {*after, *self.model}
            changed = tuple(n for n in sorted(both) if after.get(n) != self.model.get(n))
            return (Action("undo", changed, undone=undone),)
        if kind == "rebuild":
            active = self.active()
            return (Action("rebuild", encoder="coarse" if active == "fine" else "fine"),)
        return (Action(kind if kind in ("compact", "reindex") else "compact"),)

    def _undone(self) -> tuple[tuple[int, str], ...]:
        """What an undo leads to, found out in a copy; nothing where there is none to take back."""
        trial = self.root / "trial"
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(self.folder, trial)
        with Gallery.open(trial) as gallery:
            if gallery.last_change() is None:
                return ()
            gallery.undo()
            names = [name for name, _ in gallery.identities()]
            items = [item for name in names for item in gallery.items(name)]
        return tuple((self.content(item.content), item.identity) for item in items)

    def active(self) -> str:
        """The name of the encoder that the gallery answers with."""
        with Gallery.open(self.folder) as gallery:
            return Path(gallery.info().encoder).name

    # What must hold after a kill

    def faults(self, actions: Iterable[Action], told: Iterable[Told]) -> list[str]:
        """Where the gallery is not what it must be after actions that told this, then died.

        Takes what is there as the model from then on.
        """
        actions, told = list(actions), list(told)
        faults = [f"{who.error}" for who in told if who.error]
        if not Gallery.exists(self.folder):
            if any(who.acknowledged or who.done for who in told) or self.model:
                faults.append("the gallery is gone")
            return faults
        with Gallery.open(self.folder) as gallery:
            faults += [f"check: {fault}" for fault in gallery.check()]
            found = [item for name, _ in gallery.identities() for item in gallery.items(name)]
            there = {self.content(item.content): item.identity for item in found}
            faults += self._history_faults(there, actions, told)
            numbers = {item.number: self.content(item.content) for item in found}
            for number, pictured in numbers.items():
                if self.numbers.setdefault(number, pictured) != pictured:
                    faults.append(f"item number {number} was given out twice")
            if not len(gallery) == len(found) == len(there):
                faults.append(f"{len(gallery)} items counted, {len(found)} listed")
            faults += self._answer_faults(gallery, numbers, there)
        self.model = there
        return faults

    def _history_faults(
        self, there: dict[int, str], actions: list[Action], told: list[Told]
    ) -> list[str]:
        after = self.model
        for action in actions:
            after = action.apply(after)
        certain = {n for who in told for n in who.acknowledged}
        certain |= {n for a, who in zip(actions, told, strict=True) if who.done for n in a.pictures}
        faults = []
        for number in sorted({*self.model, *after, *there}):
            allowed = {after.get(number)} | (
                set() if number in certain else {self.model.get(number)}
            )
            if there.get(number) not in allowed:
                faults.append(f"picture {number} is {there.get(number)!r}, not of {allowed}")
        for action, who in zip(actions, told, strict=True):
            at_once = action.kind in ("remove", "relabel", "undo")
            whole = [frozenset(action.pictures)] if at_once else []
            for step in [*whole, *who.tried]:
                mine = step.difference(*(a.pictures for a in actions if a is not action))
                changing = {n for n in mine if self.model.get(n) != after.get(n)}
                changed = {n for n in changing if there.get(n) == after.get(n)}
                if changed and changed != changing:
                    faults.append(f"{action.kind}: half a step, {len(changed)}/{len(changing)}")
        return faults

    def _answer_faults(
        self, gallery: Gallery, numbers: dict[int, int], there: dict[int, str]
    ) -> list[str]:
        """Where answers differ from a brute-force search over embeddings made anew."""
        vectors = self.vectors(gallery.info().fingerprint)
        items = np.array(sorted(numbers), np.int64)
        enrolled = [numbers[item] for item in items.tolist()]
        probes = vectors[:: PICTURES // 8]
        exact = probes.astype(np.float64)[:, None] * vectors[enrolled].astype(np.float64)
        scores = exact.sum(axis=2)
        found, cosines = gallery.search(probes, max(len(items), 1))
        faults = []
        for row, answer in enumerate(gallery.identify_embeddings(probes, k=3, rule="best")):
            answered = found[row][: len(items)]
            order = np.searchsorted(items, answered)
            if sorted(answered.tolist()) != items.tolist():
                faults.append(f"probe {row}: other items than by brute force")
                continue
            if np.abs(cosines[row][: len(items)] - scores[row][order]).max(initial=0) > ROUNDING:
                faults.append(f"probe {row}: other scores than by brute force")
            ranked = list(
                zip((-cosines[row][: len(items)]).tolist(), answered.tolist(), strict=True)
            )
            if ranked != sorted(ranked):
                faults.append(f"probe {row}: not the best first")
            best = list(dict.fromkeys(there[enrolled[position]] for position in order))[:3]
            if [match.identity for match in answer.matches] != best:
                faults.append(f"probe {row}: {answer.matches}, not {best}")
        return faults

    def leftovers(self) -> list[str]:
        """What is there after a compaction although neither database nor design names it."""
        with Gallery.open(self.folder) as gallery:
            gallery.compact()
            names = [name for name, _ in gallery.identities()]
            copies = {item.copy for name in names for item in gallery.items(name)}
            named = {gallery.info().index, "gallery.db", "gallery.db-journal", *copies}
        there = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*.*")}
        return sorted(there - named - {".maintenance.lock"})

    def save(self) -> None:
        """Remember the gallery and its model."""
        shutil.rmtree(self.root / "saved", ignore_errors=True)
        if self.folder.exists():
            shutil.copytree(self.folder, self.root / "saved")
        self._saved = dict(self.model), dict(self.numbers)

    def restore(self) -> None:
        """Go back to what was saved."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if (self.root / "saved").exists():
            shutil.copytree(self.root / "saved", self.folder)
        model, numbers = self._saved
        self.model, self.numbers = dict(model), dict(numbers)
