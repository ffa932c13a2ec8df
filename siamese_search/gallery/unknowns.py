"""Unknowns: probes that nobody fitted, kept until a person gives them a name.

They are grouped under the gallery's metric, if it has one; see ``grouping.py``. After a rebuild
they are embedded again from their files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.errors import GalleryMismatch, ImageError, UsageError
from siamese_search.gallery.active import Active, ActiveEncoder, require
from siamese_search.gallery.copies import keep_picture, kept_path
from siamese_search.gallery.editing import numbers_in
from siamese_search.gallery.grouping import linked, separating, separating_unseen
from siamese_search.gallery.identification import Identifier, Question
from siamese_search.gallery.self_test import SelfTest
from siamese_search.gallery.snapshots import Searched, View
from siamese_search.pictures.memory import contents
from siamese_search.pictures.read import content_hash, file_fault, is_path, read_file
from siamese_search.records import DUPLICATE, ImageFile, Rejection, UnknownGroup
from siamese_search.storage.catalog import Catalog
from siamese_search.storage.facts import KeptProbe
from siamese_search.words import printable

Without = int | str | os.PathLike[str] | Iterable[int | str | os.PathLike[str]]

MOST = 5000  # that are grouped, the latest ones: linkage takes their square in memory
OWN = 2000  # of the gallery's items that tell how close different things are


class Unknowns:
    """The kept probes of one gallery."""

    def __init__(
        self,
        catalog: Catalog,
        active: ActiveEncoder,
        snapshots: Searched,
        identifier: Identifier,
        self_test: SelfTest,
    ) -> None:
        self._catalog = catalog
        self._active = active
        self._snapshots = snapshots
        self._identifier = identifier
        self._self_test = self_test

    def keep(self, image: Any, vector: FloatArray, fingerprint: str) -> None:
        """Keep a probe with its embedding (dimension,) by the encoder of a fingerprint: where its
        file lies, or, where it has none, the picture in the gallery's folder.

        Raises ImageError where the file is gone, GalleryMismatch where the encoder is not active.
        """
        data = contents(image)
        folder = self._catalog.path.parent
        if is_path(image):
            self._catalog.keep_unknown(
                content_hash(data), os.path.abspath(image), fingerprint, vector
            )
            return
        path = kept_path(folder, data)
        self._catalog.keep_unknown(
            content_hash(data), str(path), fingerprint, vector, lambda: keep_picture(path, data)
        )

    def count(self) -> int:
        """How many are kept."""
        return self._catalog.count_unknowns()

    def picture(self, number: int) -> bytes:
        """See ``Gallery.unknown``."""
        source = self._catalog.unknown_source(number)
        if source is None:
            raise UsageError(f"no kept picture {number} in {self._catalog.path.parent}")
        return read_file(source)

    def groups(self) -> list[UnknownGroup]:
        """The kept probes in groups, the largest first; of very many the latest ones."""
        while True:
            with suppress(GalleryMismatch):  # another process has switched encoders just now
                return self._groups(self._active.now())

    def _groups(self, active: Active) -> list[UnknownGroup]:
        probes, vectors = self._embedded(active, self._catalog.unknowns(MOST))
        if not probes:
            return []
        members, centres = [], []
        for group in self._linked(active, vectors):
            own = vectors[group]
            centre = own.mean(axis=0)
            centre /= max(float(np.linalg.norm(centre)), 1e-6)
            # Two pictures are as near to their mean as each other: rounding must not order them.
            close = np.argsort(-(own @ centre).round(4), kind="stable")
            members.append([probes[group[place]] for place in close.tolist()])
            centres.append(centre)
        question = Question(k=1, threshold=1.0)
        answers = self._identifier.identify(active.encoder, np.stack(centres), question)
        found = [
            UnknownGroup(
                number=min(probe.number for probe in group),
                members=tuple(probe.number for probe in group),
                paths=tuple(probe.source for probe in group),
                nearest=answer.matches[0] if answer.matches else None,
            )
            for group, answer in zip(members, answers, strict=True)
        ]
        return sorted(found, key=lambda group: (-len(group.members), group.number))

    def _embedded(
        self, active: Active, probes: Sequence[KeptProbe]
    ) -> tuple[list[KeptProbe], FloatArray]:
        """Probes with their embeddings (n, dimension) by the active encoder."""
        vectors: dict[int, FloatArray] = {}
        stale: list[KeptProbe] = []
        for probe in probes:
            if probe.generation == active.generation.number:
                vectors[probe.number] = probe.vector
            elif not file_fault(probe.source, probe.content):
                stale.append(probe)  # it cannot be compared, nor enrolled, while its file is gone
        again = active.encoder.embed_each([probe.source for probe in stale])
        for probe, (_, vector) in zip(stale, again, strict=True):
            if isinstance(vector, ImageError):
                continue
            vectors[probe.number] = vector
            if self._catalog.writable:
                made_by = active.encoder.fingerprint
                self._catalog.keep_unknown(probe.content, probe.source, made_by, vector)
        here = [probe for probe in probes if probe.number in vectors]
        empty = np.empty((0, active.encoder.dimension), np.float32)
        stacked = [vectors[probe.number] for probe in here]
        return here, np.stack(stacked).astype(np.float32) if stacked else empty

    def _linked(self, active: Active, vectors: FloatArray) -> list[list[int]]:
        """Positions of embeddings (n, dimension) in groups of what is likely the same."""
        items = self._self_test.probes(OWN)
        with self._snapshots.searching() as view:
            require(active.encoder, view.generation, self._catalog.path.parent)
            items = items[view.index.holds(items)]
            own = view.index.vectors(items)
            owners = [name for name, _ in self._catalog.owners(items.tolist()).values()]
            shown = view.projected(vectors)
        least = self._separating_unseen(active, view, items)
        if least is None:
            least = separating(own, owners)
        if not active.encoder.calibrated:
            least = DUPLICATE if least is None else least
        elif view.metric is None or least is None:  # the encoder's threshold is for plain cosines
            least = max(active.encoder.threshold, least or -1)
        return linked(shown, least)

    def _separating_unseen(self, active: Active, view: View, items: IntArray) -> float | None:
        """See ``separating_unseen``; None as well where nothing was fitted on the items, or on so
        many that one hardly matters.
        """
        metric = view.metric
        if metric is None or metric.kind == "plain" or len(view.index) > OWN:
            return None
        numbers, owners = self._catalog.identity_numbers()
        telling = np.intersect1d(items, numbers[owners >= 0])  # nothing is learned from distractors
        telling, vectors = self._catalog.vectors(view.generation, telling)
        names = owners[np.searchsorted(numbers, telling)]
        return separating_unseen(vectors, names, active.encoder.prior, metric)

    def chosen(
        self,
        numbers: int | Iterable[int] | None,
        without: Without,
        members: Iterable[int] | None = None,
    ) -> UnknownGroup:
        """The groups of these numbers as one, but for some images, by their numbers or paths; or
        just these ``members``, whatever the groups are now.

        Raises UsageError where one of these is not there, or nothing is left.
        """
        wanted = set(numbers_in(numbers, "number"))
        left = self._members(wanted) if members is None else self._kept(members)
        for one in [without] if isinstance(without, int | str | os.PathLike) else without:
            path = None if isinstance(one, int) else os.path.abspath(one)
            out = [number for number in left if number == one or left[number] == path]
            if not out:
                raise UsageError(f"{one} is in none of these groups: see `siasearch unknowns`")
            for number in out:
                del left[number]
        if not left:
            raise UsageError("nothing is left of these groups")
        return UnknownGroup(min(wanted), tuple(left), tuple(left.values()), None)

    def _members(self, wanted: set[int]) -> dict[int, str]:
        """The numbers and sources of the pictures in groups."""
        groups = [group for group in self.groups() if group.number in wanted]
        for number in wanted - {group.number for group in groups}:
            raise UsageError(f"no group {number} of unknowns in {self._catalog.path.parent}")
        return dict(
            pair for group in groups for pair in zip(group.members, group.paths, strict=True)
        )

    def _kept(self, members: Iterable[int]) -> dict[int, str]:
        """The numbers and sources of kept pictures."""
        kept = {probe.number: probe.source for probe in self._catalog.unknowns()}
        wanted = numbers_in(members, "members")
        for number in wanted:
            if number not in kept:
                raise UsageError(
                    f"picture {number} is not kept any more in {self._catalog.path.parent}: nothing"
                    " was changed; look at the groups again"
                )
        return {number: kept[number] for number in wanted}

    def files(self, group: UnknownGroup, label: str) -> list[ImageFile | Rejection]:
        """A group's pictures, to be enrolled as ``label``, but for those that have changed."""
        contents = {probe.number: probe.content for probe in self._catalog.unknowns()}
        files: list[ImageFile | Rejection] = []
        for member, path in zip(group.members, group.paths, strict=True):
            fault = file_fault(path, contents.get(member, ""))
            files.append(Rejection(printable(path), fault) if fault else ImageFile(path, label))
        return files

    def settle(self, group: UnknownGroup, rejected: Iterable[Rejection], change: str) -> None:
        """Forget the probes of a group that was enrolled by a ``change``, but for those that were
        rejected.
        """
        refused = {rejection.path for rejection in rejected}
        enrolled = (
            member
            for member, path in zip(group.members, group.paths, strict=True)
            if printable(path) not in refused
        )
        self._catalog.drop_unknowns(enrolled, change)

    def drop(
        self,
        numbers: int | Iterable[int] | None,
        without: Without = (),
        members: Iterable[int] | None = None,
    ) -> int:
        """Forget the groups of these numbers, or all kept probes; returns how many there were."""
        if numbers is None and members is None:
            return self._catalog.drop_unknowns(probe.number for probe in self._catalog.unknowns())
        return self._catalog.drop_unknowns(self.chosen(numbers, without, members).members)
