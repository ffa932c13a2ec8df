"""Unknowns: probes that nobody fitted, kept until a person gives them a name.

They are grouped by average linkage (Sokal and Michener 1958) of their cosines, down to the
encoder's threshold. After a rebuild they are embedded again from their files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

import numpy as np

from siamese_search.arrays import FloatArray
from siamese_search.errors import GalleryMismatch, ImageError, UsageError
from siamese_search.gallery.active import Active, ActiveEncoder
from siamese_search.gallery.identification import Identifier, Question
from siamese_search.pictures.read import content_hash, file_fault, read_file
from siamese_search.records import ImageFile, Rejection, UnknownGroup, printable
from siamese_search.storage.catalog import Catalog

MOST = 2000  # that are grouped, the latest ones: linkage takes their square in memory


class Unknowns:
    """The kept probes of one gallery."""

    def __init__(self, catalog: Catalog, active: ActiveEncoder, identifier: Identifier) -> None:
        self._catalog = catalog
        self._active = active
        self._identifier = identifier

    def keep(self, path: str, vector: FloatArray, fingerprint: str) -> None:
        """Keep a probe, a file, with its embedding (dimension,) by the encoder of a fingerprint.

        Raises ImageError where the file is gone, GalleryMismatch where the encoder is not active.
        """
        content = content_hash(read_file(path))
        self._catalog.keep_unknown(content, os.path.abspath(path), fingerprint, vector)

    def groups(self) -> list[UnknownGroup]:
        """The kept probes in groups, the largest first."""
        while True:
            with suppress(GalleryMismatch):  # another process has switched encoders just now
                return self._groups(self._active.now())

    def _groups(self, active: Active) -> list[UnknownGroup]:
        numbers, paths, vectors = [], [], []
        for probe in self._catalog.unknowns()[-MOST:]:
            vector = probe.vector
            if probe.generation != active.generation.number:
                # It cannot be compared, nor enrolled, while its file is gone.
                if file_fault(probe.source, probe.content):
                    continue
                try:
                    (vector,) = active.encoder.embed([probe.source])
                except ImageError:
                    continue
                if self._catalog.writable:
                    made_by = active.encoder.fingerprint
                    self._catalog.keep_unknown(probe.content, probe.source, made_by, vector)
            numbers.append(probe.number)
            paths.append(probe.source)
            vectors.append(vector)
        if not numbers:
            return []
        stacked = np.stack(vectors).astype(np.float32)
        found = []
        for members in linked(stacked, active.encoder.threshold):
            own = stacked[members]
            centre = own.mean(axis=0)
            centre /= max(float(np.linalg.norm(centre)), 1e-6)
            close = np.argsort(-(own @ centre), kind="stable")
            order = [members[place] for place in close.tolist()]
            question = Question(k=1, threshold=1.0)
            (answer,) = self._identifier.identify(active.encoder, centre[None], question)
            found.append(
                UnknownGroup(
                    number=min(numbers[member] for member in members),
                    members=tuple(numbers[member] for member in order),
                    paths=tuple(paths[member] for member in order),
                    nearest=answer.matches[0] if answer.matches else None,
                )
            )
        return sorted(found, key=lambda group: (-len(group.members), group.number))

    def group(self, number: int) -> UnknownGroup:
        """The group of that number. Raises UsageError where there is none."""
        for group in self.groups():
            if group.number == number:
                return group
        raise UsageError(f"no group {number} of unknowns in {self._catalog.path.parent}")

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

    def drop(self, number: int | None) -> int:
        """Forget the group of that number, or all kept probes; returns how many there were."""
        if number is not None:
            return self._catalog.drop_unknowns(self.group(number).members)
        return self._catalog.drop_unknowns(probe.number for probe in self._catalog.unknowns())


def linked(vectors: FloatArray, threshold: float) -> list[list[int]]:
    """Positions of unit vectors (n, dimension) in groups whose mean cosines reach a threshold."""
    count = len(vectors)
    cosines = (vectors @ vectors.T).astype(np.float64)
    np.fill_diagonal(cosines, -np.inf)
    sizes = np.ones(count)
    members = {position: [position] for position in range(count)}
    while count > 1:
        place = int(cosines.argmax())
        first, second = sorted(divmod(place, count))
        if cosines[first, second] < threshold:
            break
        # Lance and Williams 1967: the mean over all pairs of the two groups and each other one.
        together = sizes[first] + sizes[second]
        mean = (sizes[first] * cosines[first] + sizes[second] * cosines[second]) / together
        cosines[first], cosines[:, first] = mean, mean
        cosines[first, first] = -np.inf
        cosines[second], cosines[:, second] = -np.inf, -np.inf
        sizes[first] = together
        members[first] += members.pop(second)
    return list(members.values())
