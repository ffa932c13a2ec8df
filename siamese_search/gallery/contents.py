"""A gallery's contents: the part of its face that enrols, lists, removes, renames and takes back.

A method here says what it does, and the file named by its task does it. Knows nothing of how items
are found, and of pixels and SQL.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search.arrays import FloatArray, PixelArray
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.vectors import as_embeddings
from siamese_search.errors import EncoderError, GalleryMismatch, require_type, require_whole
from siamese_search.gallery import editing, enrolment
from siamese_search.gallery.naming import require_own_names
from siamese_search.gallery.travel import Travel
from siamese_search.gallery.unknowns import Unknowns, Without
from siamese_search.pictures.read import is_path, several
from siamese_search.pictures.render import miniature
from siamese_search.pictures.sources import Files, given, normalised, texts_of
from siamese_search.records import (
    Change,
    EnrollmentReport,
    Item,
    UnknownGroup,
    Watcher,
    unwatched,
)
from siamese_search.storage.listing import Listed


class Contents(Travel):
    """What a ``Gallery`` holds, and how that is changed."""

    folder: Path
    _unknowns: Unknowns

    def __len__(self) -> int:
        return self._catalog.totals()[1]

    @property
    def version(self) -> str:
        """What tells the gallery as it is now from all that it has been.

        It changes with whatever is changed, by any process: items, names, metadata, kept probes,
        encoder, calibration, index.
        """
        return self._catalog.stamp()

    # Enrolment

    def enroll(
        self,
        paths: Any,
        label: str | None = None,
        *,
        labels: Iterable[str] | None = None,
        metadata: Mapping[str, object] | Iterable[Mapping[str, object]] | None = None,
        copy: bool = False,
        distractor: bool = False,
        change: int | None = None,
        watch: Watcher | None = None,
    ) -> EnrollmentReport:
        """Enrol files and folders of images, one or many; see ``add`` for how places become
        identities. With a ``label``, or ``labels``, one for each, also bytes, open files, PIL
        images and uint8 (H, W, 3) arrays.

        ``metadata``, names and texts or numbers, are of all of them, or there is one for each.
        ``copy`` keeps the images in the gallery; a ``distractor`` is never named. A picture without
        a file has no source: only a copy lets ``rebuild`` embed it under another encoder, and plots
        show it. With the number of a ``change`` that has enrolled, this one goes on with that:
        ``undo`` takes both back at once, where no other came between. Under one ``label``, a
        generator is read as it goes, and what is enrolled is committed about once a second; so
        Ctrl-C loses little.

        Returns what was added, skipped (enrolled already: the same file contents, or pixels given
        without a file) and rejected, with reasons. Raises UsageError where there is no image at
        all, or one without a file and without a label, and where files would be named otherwise
        than can be meant: a folder of nothing but pictures, or a file called as an identity that is
        enrolled from another folder.
        """
        encoder = self.encoder
        if label is None and labels is None:
            paths = list(several(paths))
            named = [os.fspath(one) for one in paths if is_path(one)]
            require_own_names(self._catalog, named, encoder.kind)
        files = given(paths, label, metadata, labels, encoder.kind)
        self._require_change(change)
        return self._enrolled(files, copy, distractor, watch, encoder, change).report()

    def enroll_found(
        self,
        files: Files,
        *,
        copy: bool = False,
        distractor: bool = False,
        watch: Watcher | None = None,
    ) -> EnrollmentReport:
        """Enrol a stream of images found before; rejections pass through to the report."""
        return self._enrolled(files, copy, distractor, watch).report()

    def _enrolled(
        self,
        files: Files,
        copy: bool,
        distractor: bool,
        watch: Watcher | None,
        encoder: Encoder | None = None,
        change: int | None = None,
    ) -> enrolment.Enrolment:
        """A run of enrolment that is done."""
        run = enrolment.Enrolment(
            self._catalog,
            encoder or self.encoder,
            copies=self.folder if copy else None,
            distractor=distractor,
            change=change,
            after_commit=lambda: self._compaction.compact_if_due(underway=True),
            watch=watch or unwatched,
        )
        with self._compaction.making_room():
            run.run(files)
        made = self._upkeep.after(run.added)
        run.calibrated = None if made is None else made.fpir
        return run

    def enroll_embeddings(
        self,
        embeddings: FloatArray,
        identities: Sequence[str],
        metadata: Sequence[Mapping[str, str]] | None = None,
        places: Sequence[FloatArray | None] | None = None,
    ) -> list[int]:
        """Enrol embeddings made elsewhere by the gallery's encoder, all or none.

        ``embeddings`` is float32 (n, dimension), finite and of unit length; ``places`` (n) what
        ``Encoder.describe`` gave with them. Returns the item numbers. Raises UsageError for
        anything else, and for one that is there already.
        """
        if places is not None:
            self.encoder.require_places(places, len(np.atleast_2d(embeddings)))
        added = enrolment.enroll_embeddings(self._catalog, embeddings, identities, metadata, places)
        self._upkeep.after(len(added), in_blocks=True)
        return added

    # Unknowns

    def unknowns(self) -> list[UnknownGroup]:
        """Probes that were kept because nobody fitted, grouped by resemblance, largest first.

        Of more than 5,000 the latest ones: what is enrolled or dropped makes room for others.
        """
        return self._unknowns.groups()

    def keep_unknown(self, image: Any, embedding: FloatArray, fingerprint: str) -> None:
        """Keep a probe that nobody fits, as ``identify_each`` does: a picture with its embedding,
        float32 (dimension,), by the encoder of a ``fingerprint``.

        Raises GalleryMismatch where the gallery's encoder is another, ImageError where the picture
        is gone.
        """
        encoder = self.encoder
        if fingerprint != encoder.fingerprint:
            raise GalleryMismatch(f"{self.folder} has another encoder now: embed the picture again")
        self._unknowns.keep(image, as_embeddings(embedding, encoder.dimension)[0], fingerprint)

    def unknown(self, number: int) -> bytes:
        """The picture of a kept probe. Raises UsageError where there is no such probe, ImageError
        where the picture is gone.
        """
        require_whole("number", number)
        return self._unknowns.picture(int(number))

    def count_unknowns(self) -> int:
        """How many probes are kept."""
        return self._unknowns.count()

    def enroll_unknowns(
        self,
        number: int | Iterable[int],
        label: str,
        *,
        without: Without = (),
        members: Iterable[int] | None = None,
    ) -> EnrollmentReport:
        """Enrol the group of that number, or several groups that are one, as ``label``; what was
        enrolled is kept no more.

        Images that do not belong are left out ``without`` their numbers or paths, and stay kept.
        Whoever has looked at a group gives its ``members``: it may have grown since, and only these
        are enrolled. Raises UsageError where there is no such group or image.
        """
        group = self._unknowns.chosen(number, without, members)
        run = self._enrolled(self._unknowns.files(group, label), False, False, None)
        self._unknowns.settle(group, run.rejected, run.change)
        return run.report()

    def drop_unknowns(
        self,
        number: int | Iterable[int] | None = None,
        *,
        without: Without = (),
        members: Iterable[int] | None = None,
    ) -> int:
        """Forget the groups of these numbers, or all kept probes; returns how many there were.

        Images that do not belong are left out ``without`` their numbers or paths; ``members`` as
        with ``enroll_unknowns``.
        """
        return self._unknowns.drop(number, without, members)

    # Edits

    def identities(self) -> list[tuple[str, int]]:
        """Every identity with its number of items, by name."""
        return self._catalog.identities()

    def is_distractor(self, identity: str) -> bool:
        """Whether an identity is never named; False where there is no such identity."""
        return bool(self._catalog.is_distractor(normalised(identity)))

    def distractors(self) -> set[str]:
        """The identities that are never named."""
        return self._catalog.distractors(None)

    def list_identities(
        self, search: str = "", *, after: str = "", offset: int = 0, limit: int = 100
    ) -> list[Listed]:
        """A page of the identities by name: (name, items, distractor, cover), see ``Listed``.

        They are those whose name contains ``search``, in any case, and comes ``after`` a name; the
        first ``offset`` of them are left out.
        """
        require_type("search", search, str, "text")
        require_type("after", after, str, "an identity's name")
        require_whole("offset", offset)
        require_whole("limit", limit)
        return self._catalog.listed(search, after, int(offset), int(limit))

    def count_identities(self, search: str = "") -> int:
        """How many identities there are whose name contains ``search``, in any case."""
        require_type("search", search, str, "text")
        return self._catalog.count_listed(search)

    def items(
        self, identity: str, *, after: int = 0, offset: int = 0, limit: int | None = None
    ) -> list[Item]:
        """The items of an identity by number; or, at most ``limit`` of them, those ``after`` a
        number, without the first ``offset``. Raises UsageError where there is no such identity.
        """
        name = normalised(identity)
        require_whole("after", after)
        require_whole("offset", offset)
        if limit is not None:
            require_whole("limit", limit, 1)
        numbers = self._catalog.numbers(name, int(after), int(offset), limit and int(limit))
        if not numbers:
            editing.numbers_of(self._catalog, name, None)
        return self._catalog.items(numbers)

    def items_by_number(self, numbers: editing.Items) -> list[Item]:
        """Items by their numbers, one or many, in their order; those that are not there are left
        out.
        """
        return self._catalog.items(editing.item_numbers(numbers, "numbers"))

    def miniature(self, data: bytes, side: int) -> PixelArray:
        """How people see a file, by its contents: uint8 (side, side, 3). Raises ImageError."""
        try:
            return self.encoder.miniature(data, side)
        except EncoderError:  # it is gone: pictures can be seen without
            return miniature(data, side)

    def covers(self, identities: str | Iterable[str]) -> dict[str, int]:
        """The first item of each identity, by name; those that are not there are left out."""
        names = [identities] if isinstance(identities, str) else identities
        found = self._catalog.members(names)
        return {name: int(numbers[0]) for name, numbers in found.items()}

    def items_where(self, where: Mapping[str, str]) -> list[Item]:
        """The items whose metadata equal all of these. Raises UsageError where none are given."""
        return self._catalog.items(self._catalog.where(texts_of(where, "where")))

    def count(self, identity: str) -> int:
        """How many items an identity has; 0 where there is no such identity."""
        return self._catalog.count_items(normalised(identity))

    def remove(self, identity: str | None = None, item: editing.Items | None = None) -> int:
        """Remove an identity, or one item or several, themselves or their numbers; returns how many
        items went.

        Raises UsageError where there is no such thing; then nothing goes. ``undo`` puts them back.
        """
        numbers = editing.numbers_of(self._catalog, identity, item)
        with self._compaction.making_room():
            removed = editing.remove(self._catalog, self.folder, numbers)
        self._upkeep.after(removed)
        return removed

    def relabel(
        self,
        old: str | None,
        new: str,
        item: editing.Items | None = None,
        *,
        merge: bool = True,
    ) -> int:
        """Give an identity, or items (see ``remove``), the name ``new``, merging where it exists.

        Returns how many items had another name. Raises UsageError where there is no such thing, and
        without ``merge`` where ``new`` exists. ``undo`` gives them their names again.
        """
        numbers = editing.numbers_of(self._catalog, old, item)
        with self._compaction.making_room():
            return editing.relabel(self._catalog, self.folder, numbers, normalised(new), merge)

    def last_change(self, *, undone: bool = False) -> Change | None:
        """The last change by enrolling, removing, relabelling or dropping, which ``undo`` takes
        back; or what was ``undone`` last, which ``redo`` does again.

        None where there is none, and where it is forgotten: by ``compact``, and by ``rebuild``.
        """
        return self._catalog.last_change(undone=undone)

    def changes(self, *, undone: bool = False) -> list[Change]:
        """All changes that ``undo`` would take back, or ``redo`` do again; the last one first."""
        return self._catalog.changes(undone=undone)

    @contextmanager
    def noting_changes(self) -> Iterator[list[int]]:
        """Gives the numbers of the changes that this thread makes inside, the last one last: what
        others change at the same time is not among them.
        """
        with self._catalog.noting() as numbers:
            yield numbers

    def undo(self, number: int | None = None) -> Change:
        """Take back the last change, then the one before, ten in all; returns what it was.

        What was enrolled is removed; what was removed is enrolled again, with its embeddings, its
        metadata and the gallery's copies of its images, under new item numbers; what was relabelled
        has its name again; what was dropped is kept again. With the ``number`` of a ``Change`` only
        that one is taken back. Raises UsageError where there is nothing to take back, where another
        change has been made, or where it was of more than 10,000 items, which are not kept.
        """
        self._require_change(number)
        change = editing.undo(self._catalog, self.folder, number)
        self._upkeep.after(change.items)
        return change

    def redo(self, number: int | None = None) -> Change:
        """Do again what ``undo`` took back last; returns what it was.

        Another change forgets what was taken back. ``number`` and errors as with ``undo``.
        """
        self._require_change(number)
        change = editing.undo(self._catalog, self.folder, number, again=True)
        self._upkeep.after(change.items)
        return change

    @staticmethod
    def _require_change(number: int | None) -> None:
        if number is not None:
            require_whole("number", number, 1)
