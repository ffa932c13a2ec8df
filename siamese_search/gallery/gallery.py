"""The gallery: enrol, identify, verify, edit, rebuild and check.

The face of the room: a method here says what it does, and the file named by its task does it. A
gallery is a folder with ``gallery.db`` (the truth) and index files (a cache). Knows nothing of
pixels, SQL and FAISS.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search.arrays import FloatArray, IntArray
from siamese_search.decision import rules
from siamese_search.embedding.contract import EncoderProtocol
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.vectors import Description, as_embeddings
from siamese_search.errors import (
    ImageError,
    SiaSearchError,
    UsageError,
    require_between,
    require_type,
    require_whole,
)
from siamese_search.files import as_path
from siamese_search.gallery import checking, editing
from siamese_search.gallery.active import ActiveEncoder
from siamese_search.gallery.answering import Answering
from siamese_search.gallery.calibrating import Calibrating, warn_of
from siamese_search.gallery.compaction import Compaction
from siamese_search.gallery.contents import Contents
from siamese_search.gallery.copies import enrolled_bytes
from siamese_search.gallery.identification import Identifier, Question
from siamese_search.gallery.maintained import Maintained
from siamese_search.gallery.opening import exists, opened_catalog, opened_encoder
from siamese_search.gallery.ranking import Ranking
from siamese_search.gallery.rebuilding import rebuild
from siamese_search.gallery.self_test import SelfTest, audited
from siamese_search.gallery.snapshots import Snapshots
from siamese_search.gallery.strangers import Places
from siamese_search.gallery.unasked import Unasked
from siamese_search.gallery.unknowns import Unknowns
from siamese_search.gallery.upkeep import Upkeep
from siamese_search.gallery.viewing import identify_turns
from siamese_search.records import (
    DUPLICATE,
    Audit,
    Calibration,
    GalleryInfo,
    Identification,
    Item,
    LeftOut,
    Progress,
    RebuildReport,
    Rejection,
    Verification,
    Watcher,
    unwatched,
)
from siamese_search.storage.catalog import Catalog
from siamese_search.words import counted

K_AT_MOST = 100_000  # items that may be asked for of fewer


class Gallery(Contents, Maintained):
    """An open gallery. ``with Gallery.open("coins", "general-2") as gallery: ...``

    Threads may share it; every process opens its own.
    """

    def __init__(
        self,
        folder: Path,
        catalog: Catalog,
        encoder: Encoder | None,
        device: str | None = None,
        background: bool = False,
    ) -> None:
        self.folder = folder
        self._catalog = catalog
        self._active = ActiveEncoder(folder, catalog, encoder, device)
        self._snapshots = Snapshots(folder, catalog)
        self._compaction = Compaction(folder, catalog, self._snapshots, background)
        ranking = Ranking(catalog)
        self._identifier = Identifier(catalog, self._snapshots, ranking)
        self._self_test = SelfTest(catalog, self._snapshots, ranking)
        self._calibrating = Calibrating(catalog, self._active, self._snapshots, self._compaction)
        unasked = Unasked(catalog, self._active, self._calibrating)
        self._upkeep = Upkeep(self._compaction, self._calibrating, unasked)
        self._unknowns = Unknowns(
            catalog, self._active, self._snapshots, self._identifier, self._self_test
        )
        self._answering = Answering(self._active, self._identifier, self._unknowns)

    def __repr__(self) -> str:
        if self._catalog.closed:
            return f"<Gallery {self.folder}, closed>"
        try:
            identities, items = self._catalog.totals()
        except SiaSearchError as error:  # to be printed it need not be sound
            return f"<Gallery {self.folder}: {error}>"
        counts = f"{counted(identities, 'identity', 'identities')}, {counted(items, 'item')}"
        return f"<Gallery {self.folder}, {counts}{self._calibrating.in_brief()}>"

    @staticmethod
    def exists(folder: str | os.PathLike[str]) -> bool:
        """Whether there is a gallery in a folder. Raises StorageError if that cannot be told."""
        return exists(as_path(folder))

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        encoder: Encoder | EncoderProtocol | str | os.PathLike[str] | None = None,
        device: str | None = None,
        *,
        background: bool = False,
    ) -> Gallery:
        """Open a gallery; make it where an encoder is given and none is there.

        ``encoder`` is an opened encoder, a name (shipped, or offered by a package), a folder, or an
        ``EncoderProtocol``; None takes the one that the gallery was made with. Raises
        GalleryMissing, GalleryMismatch (made by another encoder), GalleryFormatError,
        GalleryDamaged, StorageError or EncoderError.

        From 50,000 items on, writing an index file takes long. With ``background``, as the command
        line has it, a process of its own does that where few items have changed; it may outlive
        this one. Without, the call that enrols or removes does it, once a quarter as much has
        changed as the file holds. Until then what has changed is found all the same, more slowly.
        """
        folder = as_path(folder)
        used = opened_encoder(encoder, device)
        catalog = opened_catalog(folder, used)
        # Absolute, as that of the database: the current folder may change.
        gallery = cls(folder.absolute(), catalog, used, device, background)
        try:
            gallery._active.adopt(used)
        except BaseException:
            gallery.close()
            raise
        return gallery

    @property
    def encoder(self) -> Encoder:
        """The encoder of the active generation."""
        return self._active.now().encoder

    def close(self) -> None:
        """Let go of the database and the index file; waits for what other threads read or write
        just now. Whatever is asked later, or goes on meanwhile, raises UsageError; what it has
        committed stays. Closing again does nothing.
        """
        self._catalog.close()  # first: no search opens the index again after that
        self._snapshots.close()

    def __enter__(self) -> Gallery:
        self._catalog.require_open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def reading(self) -> Iterator[str]:
        """All that this thread asks inside is answered from one state of the gallery; gives its
        ``version``. Keep it short, and change nothing inside: nobody else can change anything.
        """
        with self._snapshots.searching():
            yield self.version

    # Identification

    def identify(
        self,
        images: Any,
        k: int = 5,
        threshold: float | None = None,
        where: Mapping[str, str] | None = None,
        rule: str | None = None,
        fpir: float | None = None,
        turns: int = 1,
    ) -> list[Identification]:
        """Identify paths, bytes, open files, PIL images, uint8 (H, W, 3) arrays, or a ``Region`` of
        one of these, one or many: a list of answers.

        See ``Question`` for the others. Raises ImageError, naming the file, at the first image that
        cannot be read (``identify_each`` goes on), UsageError for arguments that make no sense.
        """
        return self._answering.identify(images, Question(k, threshold, where, rule, fpir, turns))

    def identify_each(
        self,
        images: Any,
        k: int = 5,
        threshold: float | None = None,
        where: Mapping[str, str] | None = None,
        rule: str | None = None,
        fpir: float | None = None,
        turns: int = 1,
        *,
        keep_unknown: bool = False,
    ) -> Iterator[tuple[Any, Identification | ImageError]]:
        """Stream (image, identification) in the order given, or (image, its ImageError).

        So one image that cannot be read loses no other's answer. Arguments as ``identify``;
        ``keep_unknown`` keeps the pictures that nobody fits, see ``unknowns``: where their files
        lie, or, where they have none, a copy in the gallery.
        """
        if keep_unknown:
            self._catalog.require_writable()  # before anything is asked
        question = Question(k, threshold, where, rule, fpir, turns)
        return self._answering.identify_each(images, question, keep_unknown)

    def identify_embeddings(
        self,
        embeddings: FloatArray,
        k: int = 5,
        threshold: float | None = None,
        where: Mapping[str, str] | None = None,
        rule: str | None = None,
        fpir: float | None = None,
        places: Sequence[FloatArray | None] | None = None,
        encoder: Encoder | None = None,
        turns: int = 1,
    ) -> list[Identification]:
        """Identify by the encoder's embeddings, float32 (n, dimension) of unit length.

        ``places`` (n) are those that ``Encoder.describe`` gave with them, for a closer look.
        ``encoder`` is the one that made them: raises GalleryMismatch where it is the gallery's no
        more. Without it they are taken for those of the encoder of now. With ``turns``, so many
        rows after each other are of one probe: the answer is that of the row with most evidence.
        """
        question = Question(k, threshold, where, rule, fpir, turns)
        used = encoder or self.encoder
        require_type("encoder", used, Encoder, "the opened one that made the embeddings")
        if turns == 1:
            return self._identifier.identify(used, embeddings, question, places)
        vectors = as_embeddings(embeddings, used.dimension)
        seen = [None] * len(vectors) if places is None else list(places)
        if len(vectors) % turns or len(seen) != len(vectors):
            raise UsageError(f"{counted(len(vectors), 'embedding')}, not of {turns} turns each")
        looks = [Description(*pair) for pair in zip(vectors, seen, strict=True)]
        return identify_turns(self._identifier, used, looks, question)

    def search(self, embeddings: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
        """The k nearest items of embeddings, float32 (n, dimension): items int64 (n, k) and
        cosines float32 (n, k), best first; padded with -1 and -inf where there are fewer.
        """
        require_whole("k", k, 1)
        if k > K_AT_MOST and k > len(self):
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
        """As ``scores``, some embeddings at a time; whoever goes meanwhile scores -inf then."""
        return self._identifier.scores(self.encoder, embeddings, self._calibrating.rule(rule))

    def verify(self, a: Any, b: Any, threshold: float | None = None) -> Verification:
        """Whether two images show the same identity."""
        return self.encoder.verify(a, b, threshold)

    # Calibration

    def calibrate(
        self,
        fpir: float | None = None,
        *,
        rule: str | None = None,
        strangers: Places | None = None,
        reject: Callable[[Rejection], None] = warn_of,
        metric: str | None = None,
        closer: str | None = None,
        turns: int = 1,
    ) -> Calibration:
        """Choose the threshold at which a share ``fpir`` of strangers' probes gets an identity.

        Without ``fpir`` it is the one that was chosen before, else 0.01. Strangers are the
        gallery's own items, each without its identity; or pictures of things that are not enrolled,
        files or folders, which is better where probes look unlike what is enrolled, and needed
        where they are asked about in ``turns``. Those that cannot be read go to ``reject``. By
        ``metric`` "auto" the gallery learns how items are compared, and by ``closer`` "auto" how
        much a closer look counts, as far as held-out items are named better, and of a metric a
        little where next to all have one picture; by "none" not; None is what was chosen before,
        else "auto". Raises UsageError where there are too few to tell.
        """
        return self._calibrating.calibrate(fpir, rule, strangers, reject, metric, closer, turns)

    def uncalibrate(self) -> bool:
        """Decide by the encoder's threshold again, and compare by plain cosines; whether the
        gallery was calibrated. It does not calibrate itself any more, either.
        """
        return self._calibrating.forget()

    @property
    def calibration(self) -> Calibration | None:
        """How the gallery decides, None where it has not been calibrated."""
        return self._calibrating.now()

    @property
    def choices(self) -> dict[str, str]:
        """The ``metric`` and ``closer`` that ``calibrate`` keeps to: "auto" or "none" each."""
        return self._calibrating.learning.choices

    @property
    def undecided(self) -> str | None:
        """Why nothing is named, and the way out, where no threshold is known; else None."""
        return self._calibrating.undecided()

    @property
    def deciding(self) -> Calibration | None:
        """What of the calibration decides now: where votes of a closer look are part of scores,
        that of these (``Calibration.looked``), while the gallery is about as it was calibrated.
        """
        return self._calibrating.deciding()

    def is_stale(self, found: Calibration) -> bool:
        """Whether the gallery has changed so much since that it should be calibrated again."""
        return self._calibrating.is_stale(found)

    # The gallery's own items

    def audit(
        self,
        *,
        duplicate: float = DUPLICATE,
        rule: str = rules.DEFAULT_RULE,
        watch: Watcher | None = None,
    ) -> Audit:
        """Search every item without itself: what is likely wrong, double, or not told apart.

        ``duplicate`` is the cosine from which on two items count as the same picture.
        """
        require_between("duplicate", duplicate, -1, 2, "a cosine from -1 to 1, or 2 for none")
        watch, found = watch or unwatched, []
        for one in self.left_out(rule=rules.known_rule(rule)):
            found.append(one)
            watch(Progress("auditing", len(found), len(self)))
        return audited(found, self._self_test.alike(duplicate))

    def left_out(
        self,
        limit: int | None = None,
        rule: str | None = None,
        *,
        items: editing.Items | None = None,
        strange: bool = False,
        closely: bool = False,
    ) -> Iterator[LeftOut]:
        """The gallery's own items in any order, each searched without itself: about ``limit`` of
        them, or certain ``items``, themselves or their numbers.

        ``rule`` is one of ``rules.RULES``, by default that of the calibration. A metric that the
        gallery has learned is learned again for it without a part of the items at a time, of which
        these are asked: it would know them too well. For ``strange`` ones, who are asked for what
        the others score, it is learned without all items of their identities. ``closely``,
        votes of a closer look are part of scores, where the gallery takes one; items without places
        are left out then.
        """
        rule = self._calibrating.rule(rule)
        if items is not None:
            given = editing.item_numbers(items, "items")
            asked = np.unique(np.array([one for one in given if abs(one) < 1 << 63], np.int64))
        else:
            if limit is not None:
                require_whole("limit", limit, 1)
            asked = self._self_test.probes(limit)
        return self._calibrating.left_out(self._self_test, asked, rule, strange, closely)

    @property
    def has_learned(self) -> bool:
        """Whether scores are those of a metric that the gallery has learned from its items."""
        return self._calibrating.learning.learned

    def sample(self, limit: int, seed: int = 0) -> tuple[list[Item], FloatArray]:
        """Items drawn at random, or all where there are no more than ``limit``, by number.

        Returns them with their embeddings, float32 (n, dimension), and never holds more of these.
        """
        require_whole("limit", limit, 1)
        require_whole("seed", seed)
        return self._self_test.sample(limit, seed)

    def image(self, item: Item) -> bytes:
        """The image file that was enrolled as an item: the gallery's copy, else the source.

        Raises ImageError where it is gone or has changed.
        """
        require_type("item", item, Item, "an Item, as `items` and `items_by_number` give it")
        return enrolled_bytes(item, self.folder)

    # Maintenance

    def rebuild(
        self,
        encoder: Encoder | EncoderProtocol | str | os.PathLike[str] | None = None,
        *,
        skip_missing: bool = False,
        watch: Watcher | None = None,
    ) -> RebuildReport:
        """Re-embed all items under another encoder; without one, embed what lacks an embedding and
        write the index anew.

        Until the switch, which is one transaction, the old generation answers. Items whose image
        cannot be read, or that had no file and have no copy, stop the switch, unless
        ``skip_missing``: then they stay enrolled, but cannot be found until ``rebuild`` is run with
        their images back. Running it again resumes. A calibrated gallery is calibrated again; of
        another, a warning says what decides now. The last change is forgotten, see ``undo``.
        """
        before, generation = self.calibration, self._catalog.state().generation
        report = rebuild(
            self._catalog, self._compaction, self._active, encoder, skip_missing, watch or unwatched
        )
        if report.switched:
            editing.forget(self._catalog, self.folder)
        return self._upkeep.renewed(report, before, generation)

    def info(self) -> GalleryInfo:
        """What the gallery is: totals, encoder, index and bytes on disk."""
        return checking.info(self._catalog, self._active, self._calibrating)
