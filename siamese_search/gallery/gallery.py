"""The gallery: enrol, identify, verify, edit, rebuild and check.

A folder with ``gallery.db`` (the truth) and index files (a cache). It knows how identities are
found and kept; not how pixels become vectors, nor SQL, nor FAISS.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.decision import calibration, rules
from siamese_search.decision.evidence import evidence
from siamese_search.decision.reference import Reference
from siamese_search.embedding.encoder import Encoder, several
from siamese_search.embedding.vectors import LENGTH_TOLERANCE, as_embeddings
from siamese_search.errors import (
    EncoderError,
    GalleryDamaged,
    GalleryMismatch,
    GalleryMissing,
    ImageError,
    SiaSearchError,
    StorageError,
    UsageError,
)
from siamese_search.gallery import enrolment, unknowns
from siamese_search.gallery.active import require
from siamese_search.gallery.calibrating import CHANGED, SAMPLE
from siamese_search.gallery.checking import bytes_below
from siamese_search.gallery.copies import enrolled_bytes
from siamese_search.gallery.identification import Identifier
from siamese_search.gallery.rebuilding import reembed
from siamese_search.gallery.self_test import audited
from siamese_search.gallery.snapshots import Snapshots
from siamese_search.index import Wanted
from siamese_search.pictures.read import content_hash, file_fault, read_file
from siamese_search.pictures.sources import Files, find, normalised, not_empty
from siamese_search.records import (
    DUPLICATE,
    Audit,
    Calibration,
    EnrollmentReport,
    Identification,
    ImageFile,
    Item,
    LeftOut,
    Progress,
    RebuildReport,
    Rejection,
    UnknownGroup,
    Verification,
    Watcher,
    printable,
)
from siamese_search.storage.catalog import Catalog

log = logging.getLogger("siasearch")

DATABASE = "gallery.db"
K_AT_MOST = 100_000  # items that may be asked for of fewer
MANY = 1000  # items that take so long to write that others should not wait


class Gallery:
    """An open gallery. ``with Gallery.open("coins", "general") as gallery: ...``

    Threads may share it; every process opens its own.
    """

    def __init__(
        self, folder: Path, catalog: Catalog, encoder: Encoder | None, device: str | None = None
    ) -> None:
        self.folder = folder
        self._catalog = catalog
        self._encoder = encoder
        self._encoder_version: tuple[int, int] | None = None
        self._device = device
        self._snapshots = Snapshots(folder, catalog)
        self._identifier = Identifier(catalog, self._snapshots)
        self._lock = threading.RLock()

    @staticmethod
    def exists(folder: str | os.PathLike[str]) -> bool:
        """Whether there is a gallery in a folder. Raises StorageError if that cannot be told."""
        database = Path(folder) / DATABASE
        try:
            return stat.S_ISREG(database.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise StorageError(f"{database}: {error.strerror}") from error

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        encoder: Encoder | str | os.PathLike[str] | None = None,
        device: str | None = None,
    ) -> Gallery:
        """Open a gallery; make it where an encoder is given and none is there.

        ``encoder`` is an opened encoder, a shipped name or a folder; None takes the one that the
        gallery was made with. Raises GalleryMissing, GalleryMismatch (made by another encoder),
        GalleryFormatError, GalleryDamaged, StorageError or EncoderError.
        """
        folder = Path(folder)
        if encoder is not None and not isinstance(encoder, Encoder):
            encoder = Encoder.open(encoder, device)
        database = folder / DATABASE
        if not cls.exists(folder):
            if encoder is None:
                raise GalleryMissing(
                    f"no gallery in {folder}: enrol images with `siasearch add`, or name one"
                    " with --gallery"
                )
            Catalog.create(database, encoder.fingerprint, encoder.location, encoder.dimension)
        gallery = cls(folder, Catalog(database), encoder, device)
        try:
            if encoder is not None:
                gallery._adopt(encoder)
        except BaseException:
            gallery.close()
            raise
        return gallery

    def _adopt(self, encoder: Encoder) -> None:
        """Make sure that an encoder is the gallery's, and remember where it lies now."""
        generation = self._catalog.state().generation
        require(encoder, generation, self.folder)
        if encoder.location != generation.encoder and self._catalog.writable:
            self._catalog.generation(encoder.fingerprint, encoder.location, encoder.dimension)

    @property
    def encoder(self) -> Encoder:
        """The encoder of the active generation."""
        with self._lock:
            version = self._catalog.version()
            if self._encoder is None or version != self._encoder_version:
                self._encoder = self._matching(self._encoder)
                self._encoder_version = version
            return self._encoder

    def _matching(self, encoder: Encoder | None) -> Encoder:
        """The given encoder where it is the active one, else that which the database names."""
        generation = self._catalog.state().generation
        if encoder is None or encoder.fingerprint != generation.fingerprint:
            try:
                encoder = Encoder.open(generation.encoder, self._device)
            except EncoderError as error:
                raise EncoderError(
                    f"{error}; this gallery needs it: name its folder with --encoder"
                ) from error
            require(encoder, generation, self.folder)
        return encoder

    def close(self) -> None:
        """Let go of the database."""
        self._catalog.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._catalog.totals()[1]

    # Enrolment

    def enroll(
        self,
        paths: Iterable[str | os.PathLike[str] | ImageFile],
        label: str | None = None,
        *,
        copy: bool = False,
        distractor: bool = False,
        watch: Watcher = lambda progress: None,
    ) -> EnrollmentReport:
        """Enrol files and folders of images; see ``add`` for how places become identities.

        ``copy`` keeps the images in the gallery; a ``distractor`` is never named. Returns what was
        added, skipped (enrolled already) and rejected, with reasons. Raises UsageError where there
        is no image at all.
        """
        paths = list(paths) if not isinstance(paths, (str, os.PathLike)) else [paths]
        records = [path for path in paths if isinstance(path, ImageFile)]
        named = [os.fspath(path) for path in paths if not isinstance(path, ImageFile)]
        files = not_empty(itertools.chain(records, find(named, label)), named or ["an empty list"])
        return self.enroll_found(files, copy=copy, distractor=distractor, watch=watch)

    def enroll_found(
        self,
        files: Files,
        *,
        copy: bool = False,
        distractor: bool = False,
        watch: Watcher = lambda progress: None,
    ) -> EnrollmentReport:
        """Enrol a stream of images found before; rejections pass through to the report."""
        run = enrolment.Enrolment(
            self._catalog,
            self.encoder,
            self._catalog.state().generation.number,
            copies=self.folder if copy else None,
            distractor=distractor,
            after_commit=lambda: self._snapshots.compact_if_due(underway=True),
            watch=watch,
        )
        try:
            run.run(files)
        finally:
            self._snapshots.compact_if_due(changed=run.added)
        identities, items = self._catalog.totals()
        return EnrollmentReport(run.added, run.skipped, tuple(run.rejected), identities, items)

    def enroll_embeddings(
        self,
        embeddings: FloatArray,
        identities: Sequence[str],
        metadata: Sequence[Mapping[str, str]] | None = None,
    ) -> list[int]:
        """Enrol embeddings made elsewhere by the gallery's encoder, all or none.

        ``embeddings`` is float32 (n, dimension), finite and of unit length. Returns the item
        numbers. Raises UsageError for anything else, and for an embedding that is there already.
        """
        generation = self._catalog.state().generation
        vectors = as_embeddings(embeddings, generation.dimension)
        items = enrolment.embedded_items(vectors, identities, metadata)
        added: list[int] = []

        def whole(numbers: Sequence[int | None]) -> None:
            for row, number in enumerate(numbers):
                if number is None:
                    raise UsageError(
                        f"embedding {row} ({items[row].identity}) is enrolled already, or given"
                        " twice: none was enrolled"
                    )
                added.append(number)
            never = catalog.distractors({item.identity for item in items})
            if never:
                raise UsageError(
                    f"{min(never)!r} is enrolled as a distractor: use another name; none was"
                    " enrolled"
                )

        with self._writing(len(items)) as catalog:
            catalog.add(items, vectors, generation.number, before_commit=whole)
        self._snapshots.compact_if_due(changed=len(added))
        return added

    def _writing(self, count: int) -> AbstractContextManager[Catalog]:
        """What writes so many items: where they are many, a connection of its own, so that others
        can ask meanwhile.
        """
        if count < MANY:
            return nullcontext(self._catalog)
        return closing(Catalog(self._catalog.path, spill=False))

    # Identification

    def identify(
        self,
        images: Iterable[Any],
        k: int = 5,
        threshold: float | None = None,
        where: Mapping[str, str] | None = None,
        rule: str | None = None,
        fpir: float | None = None,
    ) -> list[Identification]:
        """Identify paths, PIL images or uint8 (H, W, 3) arrays: the k best identities of each.

        ``threshold`` is for all probes; without one, a calibrated gallery decides at ``fpir`` or
        the rate it was calibrated for, any other by the encoder's threshold. ``where`` searches
        only items whose metadata equal it; ``rule`` is one of ``rules.RULES``. Raises ImageError,
        naming the file, at the first image that cannot be read.
        """
        images = list(several(images))
        while True:
            encoder = self.encoder
            with suppress(GalleryMismatch):  # another process has switched encoders just now
                return self._identifier.identify(
                    encoder, encoder.embed(images), k, threshold, where, rule, fpir
                )

    def identify_each(
        self,
        images: Iterable[Any],
        k: int = 5,
        threshold: float | None = None,
        where: Mapping[str, str] | None = None,
        rule: str | None = None,
        fpir: float | None = None,
        *,
        keep_unknown: bool = False,
    ) -> Iterator[tuple[Any, Identification | ImageError]]:
        """Stream (image, identification) in the order given, or the error of that image.

        ``keep_unknown`` keeps the files that nobody fits, see ``unknowns``.
        """
        if keep_unknown:
            self._catalog.require_writable()  # before anything is asked
        encoder = self.encoder
        generation = self._catalog.state().generation
        for image, result in encoder.embed_each(images):
            if isinstance(result, ImageError):
                yield image, result
                continue
            try:
                (answer,) = self._identifier.identify(
                    encoder, result[None], k, threshold, where, rule, fpir
                )
                if keep_unknown and answer.strange and isinstance(image, (str, os.PathLike)):
                    unknowns.keep(self._catalog, os.fspath(image), result, generation)
            except GalleryMismatch:  # another process has switched encoders meanwhile
                answer = self.identify([image], k, threshold, where, rule, fpir)[0]
            except ImageError as error:  # gone before it could be kept
                yield image, error
                continue
            yield image, answer

    def identify_embeddings(
        self,
        embeddings: FloatArray,
        k: int = 5,
        threshold: float | None = None,
        where: Mapping[str, str] | None = None,
        rule: str | None = None,
        fpir: float | None = None,
    ) -> list[Identification]:
        """Identify by embeddings, float32 (n, dimension) of unit length."""
        return self._identifier.identify(self.encoder, embeddings, k, threshold, where, rule, fpir)

    def search(self, embeddings: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
        """The k nearest items of embeddings, float32 (n, dimension).

        Returns items int64 (n, k) and cosines float32 (n, k), best first; padded with -1 and
        -inf where the gallery has fewer.
        """
        if k < 1 or (k > K_AT_MOST and k > len(self)):
            raise UsageError(f"k is {k}: ask for at least one item, and for no more than there are")
        return self._identifier.search(embeddings, k)

    def scores(
        self, embeddings: FloatArray, rule: str | None = None
    ) -> tuple[list[str], FloatArray]:
        """The score of every identity for embeddings, float32 (n, dimension).

        Returns the identities (m,) and the scores float32 (n, m). It reads every embedding: to
        measure, not to identify.
        """
        names, blocks = self.score_blocks(embeddings, rule)
        return names, np.concatenate([np.empty((0, len(names)), np.float32), *blocks])

    def score_blocks(
        self, embeddings: FloatArray, rule: str | None = None
    ) -> tuple[list[str], Iterator[FloatArray]]:
        """As ``scores``, some embeddings at a time, so that any number of them fits in memory.

        Others may change the gallery between blocks: whoever is gone scores -inf from then on.
        """
        chosen = rules.known_rule(rule or self._rule)
        return self._identifier.scores(self.encoder, embeddings, chosen)

    def verify(self, a: Any, b: Any, threshold: float | None = None) -> Verification:
        """Whether two images show the same identity."""
        return self.encoder.verify(a, b, threshold)

    # Calibration

    def calibrate(
        self,
        fpir: float | None = None,
        *,
        rule: str | None = None,
        strangers: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
        reject: Callable[[Rejection], None] = lambda rejection: log.warning(
            "%s: %s", rejection.path, rejection.reason
        ),
    ) -> Calibration:
        """Choose the threshold at which a share ``fpir`` of strangers' probes gets an identity.

        Without ``fpir`` it is the one that was chosen before, else 0.01.
        By the gallery's own items, each as a stranger to the other identities; or by pictures of
        things that are not enrolled, files or folders, which is better where probes look unlike
        what is enrolled. Those that cannot be read go to ``reject``. Raises UsageError where there
        are too few to tell.
        """
        rule = rules.known_rule(rule or rules.DEFAULT_RULE)
        fpir = self._rate_before() if fpir is None else fpir
        calibration.require_rate(fpir)
        encoder, state = self.encoder, self._catalog.state()
        generation = state.generation
        require(encoder, generation, self.folder)
        if not len(self):
            raise UsageError(f"nothing is enrolled in {self.folder}: enrol first, then calibrate")
        seen = calibration.self_test(list(self._identifier.left_out(rule, SAMPLE)))
        if strangers is not None:
            values, shown = self._evidence_of(strangers, rule, reject)
            seen = dataclasses.replace(seen, strangers=values, shown=shown)
        found = calibration.fit(
            seen,
            Reference.of(encoder.record.calibration),
            fpir,
            rule,
            self._catalog.totals(),
            "gallery" if strangers is None else "strangers",
        )
        found = dataclasses.replace(found, last_item=state.last_item)
        self._catalog.set_calibration(generation, found)
        return found

    def _rate_before(self) -> float:
        """The FPIR that the gallery is calibrated for, else the default."""
        with suppress(GalleryDamaged):  # which calibrating mends
            found = self.calibration
            if found is not None:
                return found.fpir
        return calibration.FPIR

    def _evidence_of(
        self,
        places: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        rule: str,
        reject: Callable[[Rejection], None],
    ) -> tuple[npt.NDArray[np.float64], list[str]]:
        """Evidence of pictures of things that are not enrolled, with what they show."""
        places = [places] if isinstance(places, (str, os.PathLike)) else places
        named = [os.fspath(place) for place in places]
        pictures = []
        for file in not_empty(find(named), named):
            if isinstance(file, Rejection):
                reject(file)
            elif self._is_enrolled(file.path):
                log.warning("%s is enrolled, and so no stranger: left out", file.path)
            else:
                pictures.append(file)
        enrolled = {name for name, _ in self.identities()} - self.distractors()
        named_so = sorted({file.identity for file in pictures if file.identity in enrolled})
        if named_so:
            left = [file for file in pictures if file.identity not in enrolled]
            log.warning(
                "%d of %d pictures are no strangers, but named as what is enrolled (%s): left out",
                len(pictures) - len(left),
                len(pictures),
                ", ".join(named_so[:5]) + (" and others" if len(named_so) > 5 else ""),
            )
            pictures = left
        values, groups = [], []
        answers = self.identify_each([file.path for file in pictures], 2, rule=rule)
        for file, (_, answer) in zip(pictures, answers, strict=True):
            if isinstance(answer, ImageError):
                reject(Rejection(printable(file.path), str(answer)))
                continue
            scores = [match.score for match in answer.matches] + [0.0, 0.0]
            values.append(float(evidence(scores[0], scores[1])))
            groups.append(file.identity)
        return np.array(values), groups

    def audit(
        self,
        *,
        duplicate: float = DUPLICATE,
        rule: str = rules.DEFAULT_RULE,
        watch: Watcher = lambda progress: None,
    ) -> Audit:
        """Search every item without itself: what is likely wrong, double, or not told apart.

        ``duplicate`` is the cosine from which on two items count as the same picture.
        """
        found, total = [], len(self)
        for one in self._identifier.left_out(rule):
            found.append(one)
            watch(Progress("auditing", len(found), total))
        return audited(found, self._identifier.alike(duplicate))

    def left_out(self, limit: int | None = None, rule: str | None = None) -> Iterator[LeftOut]:
        """The gallery's own items, each searched without itself; about ``limit`` of them.

        ``rule`` is one of ``rules.RULES``, by default that of the calibration.
        """
        return self._identifier.left_out(rules.known_rule(rule or self._rule), limit)

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

    def image(self, item: Item) -> bytes:
        """The image file that was enrolled as an item: the gallery's copy, else the source.

        Raises ImageError where it is gone or has changed.
        """
        return enrolled_bytes(item, self.folder)

    @property
    def _rule(self) -> str:
        """How identities are scored unless another rule is asked for."""
        found = self.calibration
        return found.rule if found else rules.DEFAULT_RULE

    def _is_enrolled(self, path: str) -> bool:
        try:
            content = content_hash(read_file(path))
        except ImageError:
            return False
        return bool(self._catalog.known([content]))

    @property
    def calibration(self) -> Calibration | None:
        """How the gallery decides, None where it has not been calibrated."""
        return self._catalog.calibration(self._catalog.state().generation)

    def is_stale(self, found: Calibration) -> bool:
        """Whether the gallery has changed so much since that it should be calibrated again."""
        identities, items = self._catalog.totals()
        new = max(0, items - found.items)
        if found.last_item is not None:
            new = self._catalog.count_after(found.last_item)
        gone = found.items + new - items
        return (
            abs(identities - found.identities) > CHANGED * found.identities
            or max(new, gone) > CHANGED * found.items
        )

    # Unknowns

    def unknowns(self) -> list[UnknownGroup]:
        """Probes that were kept because nobody fitted, grouped by resemblance, largest first."""
        return unknowns.groups(self._catalog, self.encoder, self._identifier)

    def enroll_unknowns(self, number: int, label: str) -> EnrollmentReport:
        """Enrol the group of that number as ``label``; what was enrolled is kept no more.

        Raises UsageError where there is no such group.
        """
        group = self._group(number)
        contents = {row[0]: row[1] for row in self._catalog.unknowns()}
        files: list[ImageFile | Rejection] = []
        for member, path in zip(group.members, group.paths, strict=True):
            fault = file_fault(path, contents.get(member, ""))
            files.append(Rejection(printable(path), fault) if fault else ImageFile(path, label))
        report = self.enroll_found(files)
        refused = {rejection.path for rejection in report.rejected}
        self._catalog.drop_unknowns(
            member
            for member, path in zip(group.members, group.paths, strict=True)
            if printable(path) not in refused
        )
        return report

    def drop_unknowns(self, number: int | None = None) -> int:
        """Forget the group of that number, or all kept probes; returns how many there were."""
        if number is not None:
            return self._catalog.drop_unknowns(self._group(number).members)
        return self._catalog.drop_unknowns(row[0] for row in self._catalog.unknowns())

    def _group(self, number: int) -> UnknownGroup:
        for group in self.unknowns():
            if group.number == number:
                return group
        raise UsageError(f"no group {number} of unknowns in {self.folder}")

    # Edits

    def identities(self) -> list[tuple[str, int]]:
        """Every identity with its number of items, by name."""
        return self._catalog.identities()

    def distractors(self) -> set[str]:
        """The identities that are never named."""
        return self._catalog.distractors(None)

    def items(self, identity: str) -> list[Item]:
        """The items of an identity. Raises UsageError where there is no such identity."""
        return self._catalog.items(self._numbers(identity, None))

    def items_by_number(self, numbers: Iterable[int]) -> list[Item]:
        """Items by their numbers; those that are not there are left out."""
        return self._catalog.items(numbers)

    def remove(self, identity: str | None = None, item: int | None = None) -> int:
        """Remove an identity or one item; returns how many items went.

        Raises UsageError where there is no such thing.
        """
        removed = self._catalog.remove(self._numbers(identity, item))
        copies = {item.content: item.copy for item in removed if item.copy}
        if copies:
            with self._catalog.writing():  # nobody enrols the same content again meanwhile
                for content in copies.keys() - self._catalog.known(copies).keys():
                    try:
                        (self.folder / copies[content]).unlink(missing_ok=True)
                    except OSError as error:
                        log.warning("%s was not deleted: %s", copies[content], error.strerror)
        self._snapshots.compact_if_due(changed=len(removed))
        return len(removed)

    def relabel(self, old: str | None, new: str, item: int | None = None) -> int:
        """Give an identity or one item the name ``new``, merging where it exists already.

        Returns how many items it concerned. Raises UsageError where there is no such thing.
        """
        numbers = self._numbers(old, item)
        return self._catalog.relabel(numbers, normalised(new))

    def _numbers(self, identity: str | None, item: int | None) -> list[int]:
        if (identity is None) == (item is None):
            raise UsageError("name either an identity or an item number")
        if item is not None:
            if not self._catalog.owners([item]):
                raise UsageError(f"no item {item} in {self.folder}")
            return [item]
        assert identity is not None
        name = normalised(identity)
        numbers = self._catalog.numbers(name)
        if not numbers:
            few = self._catalog.totals()[0] <= 10_000  # comparing with more takes too long
            names = [known for known, _ in self._catalog.identities()] if few else []
            close = difflib.get_close_matches(name, names, n=3)
            hint = f"; close to it: {', '.join(close)}" if close else ""
            raise UsageError(f"no identity {name!r} in {self.folder}{hint}")
        return numbers

    # Maintenance

    def compact(self, recipe: str | None = None, recall: float | None = None) -> None:
        """Fold what has changed since the last index file into a new one.

        ``recipe`` is ``auto`` or a FAISS factory string, which serves from 1,000 items on (fewer
        are searched exactly); ``recall`` is the least recall@10 against exact search that it is
        tuned to. Both hold for later index files too. Raises UsageError where FAISS has no such
        index or it does not work with these items.
        """
        wanted = None
        if recipe is not None or recall is not None:
            before = Wanted(*(self._catalog.wanted_index() or ()))
            wanted = Wanted(
                before.recipe if recipe is None else recipe,
                before.recall if recall is None else recall,
            )
        self._snapshots.compact(wanted=wanted)

    def compact_if_due(self) -> bool:
        """Compact where enough has changed and no other process does; returns whether it did."""
        return self._snapshots.compact_if_due()

    def rebuild(
        self,
        encoder: Encoder | str | os.PathLike[str] | None = None,
        *,
        skip_missing: bool = False,
        watch: Watcher = lambda progress: None,
    ) -> RebuildReport:
        """Re-embed all items under another encoder; without one, embed what lacks an embedding and
        write the index anew.

        Until the switch, which is one transaction, the old generation answers. Items whose image
        cannot be read any more stop the switch, unless ``skip_missing``: then they stay enrolled
        but cannot be found until their images are back and ``rebuild`` is run again. What has
        been embedded is kept in either case, so that running it again resumes.
        """
        if encoder is None and not self._catalog.count_unembedded(self._catalog.state().generation):
            self._snapshots.compact()
            return RebuildReport(True, 0, (), len(self))
        target = self.encoder if encoder is None else encoder
        if not isinstance(target, Encoder):
            target = Encoder.open(target, self._device)
        # What the active encoder could not embed cannot be found already: no reason to stop.
        skip_missing = skip_missing or encoder is None
        before = self.calibration
        with self._snapshots.maintenance(wait=False):
            report = reembed(
                self._catalog, self.folder, target, skip_missing=skip_missing, watch=watch
            )
            if report.switched:
                self._encoder = target
                self._snapshots.compact()
        if before is not None and self.calibration is None:
            report = dataclasses.replace(report, calibration=self._calibrate_again(before))
        return report

    def _calibrate_again(self, before: Calibration) -> Calibration | None:
        """As before, by the gallery's own items, which is all that is at hand."""
        if before.source == "strangers":
            log.warning(
                "the gallery was calibrated by strangers, and is now by its own items: run"
                " `siasearch calibrate --strangers` again"
            )
        try:
            return self.calibrate(before.fpir, rule=before.rule)
        except UsageError as error:
            log.warning("the gallery is not calibrated any more: %s", error)
            return None

    def check(self) -> list[str]:
        """Compare files, database and index; every fault in a line, none where all is well."""
        for _ in range(3):
            version = self._catalog.version()
            faults = list(self._catalog.faults())
            if not faults:
                faults = [*self._snapshots.differences(), *self._stored_faults()]
            # What others change while it looks can seem a fault.
            if not faults or self._catalog.version() == version:
                break
        return faults

    def _stored_faults(self) -> Iterator[str]:
        try:
            self.encoder.verify_files()
        except EncoderError as error:
            yield str(error)
        state = self._catalog.state()
        for number in self._catalog.unembedded(state.generation, limit=2**62):
            yield f"item {number} has no embedding under the encoder {state.generation.encoder!r}"
        for items, vectors in self._catalog.embeddings(state.generation):
            lengths = np.linalg.norm(vectors, axis=1)
            for item in items[~(np.abs(lengths - 1) < LENGTH_TOLERANCE)]:
                yield f"the embedding of item {item} is not of unit length"
        for item_number, copy, content in self._catalog.copies():
            fault = file_fault(self.folder / copy, content)
            if fault:
                yield f"the copy of item {item_number}: {fault}"

    def info(self) -> dict[str, Any]:
        """What the gallery is: totals, encoder, index and bytes on disk."""
        state = self._catalog.state()
        identities, items = self._catalog.totals()
        snapshot = state.snapshot
        return {
            "gallery": str(self.folder),
            "identities": identities,
            "items": items,
            "encoder": state.generation.encoder,
            "fingerprint": state.generation.fingerprint,
            "dimension": state.generation.dimension,
            "threshold": self._threshold(),
            "calibration": self._calibration_in_words(),
            "distractors": self._catalog.count_distractors(),
            "index": snapshot.file if snapshot else None,
            "indexed": snapshot.items if snapshot else 0,
            "recipe": snapshot.recipe if snapshot else None,
            "recall": snapshot.recall if snapshot else None,
            "bytes": bytes_below(self.folder),
        }

    def _calibration_in_words(self) -> str | None:
        found = self.calibration
        if found is None:
            return None
        stale = "; stale: run `siasearch calibrate`" if self.is_stale(found) else ""
        return f"FPIR {found.fpir:.3g}, rule {found.rule}{stale}"

    def _threshold(self) -> float | None:
        """The encoder's, None where the encoder cannot be found."""
        try:
            return self.encoder.threshold
        except SiaSearchError:
            return None
