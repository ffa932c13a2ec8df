"""The frozen records that cross floors. They know nothing of files, SQL, FAISS or networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any

UNDOABLE = 10_000  # items whose removal, or new name, can be taken back
DUPLICATE = 0.98  # the cosine from which on an audit takes two items for the same picture


@dataclass(frozen=True)
class ImageFile:
    """An image that was asked for: where it lies and the identity that its place implies.

    A ``picture`` is one without a file (bytes, an open file, a PIL image or an array); ``path`` is
    what it is called in messages then.
    """

    path: str
    identity: str
    metadata: dict[str, str] = field(default_factory=dict)
    picture: Any = field(default=None, compare=False, repr=False)

    @property
    def source(self) -> str | None:
        """The path of its file, None where it has none."""
        return self.path if self.picture is None else None


@dataclass(frozen=True)
class Rejection:
    """A file that was not enrolled, and why. ``path`` is printable, whatever the name's bytes."""

    path: str
    reason: str


@dataclass(frozen=True)
class Misnamed(Rejection):
    """A file whose picture is enrolled under another name, and the ``item`` that it is."""

    item: int


@dataclass(frozen=True)
class ChangedPicture(Rejection):
    """The file of an enrolled ``item`` that is gone or has other content now, and which it is."""

    item: int


@dataclass(frozen=True)
class Generation:
    """The gallery's embeddings under one encoder. ``encoder`` is a shipped name or a folder."""

    number: int
    fingerprint: str
    encoder: str
    dimension: int


@dataclass(frozen=True)
class Snapshot:
    """An index file: which items it covers, and what it must look like to be trusted.

    It holds the embeddings of ``generation`` of all items up to number ``last_item`` that were
    enrolled and not removed up to number ``last_removal`` of the removals. ``recipe`` is a FAISS
    factory string, ``recall`` its measured recall@10, None where it is exact.
    """

    generation: int
    file: str
    sha256: str
    size: int
    mtime_ns: int
    inode: int
    items: int
    last_item: int
    last_removal: int
    recipe: str
    recall: float | None
    metric: int | None = None  # by which its vectors were projected, None where by none


@dataclass(frozen=True)
class Item:
    """One enrolled image. ``source`` is None where it had no file, or was only an embedding."""

    number: int
    identity: str
    source: str | None
    content: str
    added: str
    size: int = 0
    copy: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NewItem:
    """An item about to be enrolled. ``content`` is the SHA-256 (hex) of the file's bytes."""

    identity: str
    content: str
    source: str | None = None
    size: int = 0
    copy: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Copy:
    """The image that a gallery keeps of an item: its path in the gallery, as the database says."""

    item: int
    path: str
    content: str


@dataclass(frozen=True)
class RemovedCopy:
    """The copy of an image whose item was removed: its path in the gallery, as the database says,
    the SHA-256 of its content, and the mark of the change that removed it.
    """

    path: str
    content: str
    mark: str


@dataclass(frozen=True)
class Change:
    """A change of a gallery, which can be taken back if it is ``undoable``.

    ``what`` is add, remove, relabel, annotate (new metadata), or drop (of kept probes);
    ``identity`` the one that it concerned, None where it was several; ``new`` what that was
    relabelled to; ``items`` how many; ``at`` when, UTC.
    """

    number: int
    what: str
    identity: str | None
    new: str | None
    items: int
    at: str
    undoable: bool


@dataclass(frozen=True)
class EnrollmentReport:
    """What an enrolment did. ``identities`` and ``items`` are the gallery's totals after it;
    ``numbers`` are those of the items that were added.

    ``relabelled`` tells how many of those skipped were enrolled as one identity and have another
    since: (was, is, how many); ``copied`` of how many of those skipped a copy was made;
    ``replaced`` the items (number, file) from whose files others were added now; ``renamed`` the
    identities whose pictures were all rejected since they came under another name: (was, is, how
    many). ``calibrated`` is the FPIR that the gallery has calibrated itself for after it, None
    where it has not. ``unembedded`` counts the items of files that were skipped that have no
    embedding under the gallery's encoder, so that nothing finds them until ``rebuild``.
    """

    added: int
    skipped: int
    rejected: tuple[Rejection, ...]
    identities: int
    items: int
    relabelled: tuple[tuple[str, str, int], ...] = ()
    copied: int = 0
    replaced: tuple[tuple[int, str], ...] = ()
    renamed: tuple[tuple[str, str, int], ...] = ()
    numbers: tuple[int, ...] = field(default=(), repr=False)
    calibrated: float | None = None
    unembedded: int = 0


@dataclass(frozen=True)
class Match:
    """An identity and its best item for a probe. ``score`` is a cosine, higher is closer.

    A ``distractor`` is never named. ``closer`` is what a closer look adds to the score where
    identities are put in order; None where none was taken, or where the score has it already.
    """

    identity: str
    score: float
    item: int
    path: str | None
    distractor: bool = False
    closer: float | None = None


@dataclass(frozen=True)
class Identification:
    """The k best identities for a probe, best first. ``identity`` is None for *unknown*.

    ``threshold`` is None where none is known, so that nothing is named, and ``confidence`` where it
    was never fitted; ``p_value`` is how often a stranger shows as much evidence, None where no
    strangers are known.
    """

    identity: str | None
    score: float | None
    confidence: float | None
    threshold: float | None
    matches: tuple[Match, ...]
    p_value: float | None = None

    @property
    def distracted(self) -> bool:
        """Whether what fitted best is never named."""
        return bool(self.matches) and self.matches[0].distractor

    @property
    def strange(self) -> bool:
        """Whether nobody fits, nor what is never named."""
        return self.identity is None and not self.distracted


@dataclass(frozen=True)
class Verification:
    """Whether two images show the same identity; ``confidence`` is the probability that they do.

    All but the score are None where no threshold is known, or it was never fitted.
    """

    same: bool | None
    score: float
    confidence: float | None
    threshold: float | None


@dataclass(frozen=True)
class LeftOut:
    """An enrolled item as a probe for the rest of its gallery.

    ``own`` is the score of its identity's other items, None where there are none; ``others`` the
    two best other identities.
    """

    item: int
    identity: str
    path: str | None
    own: float | None
    others: tuple[Match, ...]

    @property
    def doubt(self) -> float:
        """By how much another identity fits better than its own; -inf where that cannot be told."""
        if self.own is None or not self.others:
            return -math.inf
        return self.others[0].score - self.own


@dataclass(frozen=True)
class Audit:
    """What in a gallery a person should look at.

    ``suspects`` are the items whose identity may be wrong, most doubtful first; ``duplicates``
    pairs of items that are nearly the same picture, with their cosines; ``confusable`` pairs of
    identities with how many of their items the other fits better, and how many items they have.
    """

    suspects: tuple[LeftOut, ...]
    duplicates: tuple[tuple[int, int, float], ...]
    confusable: tuple[tuple[str, str, int, int], ...]
    items: int

    def __repr__(self) -> str:  # there may be as many suspects as items
        return (
            f"Audit(of {self.items} items: {len(self.suspects)} with how doubtful they are,"
            f" {len(self.duplicates)} duplicates, {len(self.confusable)} confusable pairs)"
        )


@dataclass(frozen=True)
class Calibration:
    """How a gallery decides: what strangers' evidence is like (see ``calibration.py``).

    ``thresholds`` are what evidence must reach, by false positive identification rate (FPIR), from
    the least rate on that can be offered; ``fpir`` is the one that was asked for. The log-odds that
    the best identity is right are ``slope`` times the evidence, in ``scale``s from ``location``,
    plus ``offset``. ``lower`` and ``upper`` bound the true FPIR, eight times in ten or more.
    ``extrapolated`` tells that there were too few strangers for this rate, ``fitted`` that the
    confidence is the gallery's own. ``identities`` and ``items`` were the gallery's totals.

    What an earlier release did not note is None or empty: ``last_item`` is the last number that the
    gallery had given out; ``independent`` as how many strangers the ``strangers`` pictures count,
    since some show the same; ``evidence`` that of strangers, see ``conformal.py``; ``named`` the
    share of the gallery's ``genuine`` items that would get their own name; ``metric`` the number of
    the metric that scores are of, None for plain cosines; ``closer`` how much a vote of the closer
    look counts beside a score, 0 where none is taken, and ``closer_gain`` the share of held-out
    items that it names rightly beyond those that scores do, None where that could not be told;
    ``looked`` how probes are decided that were looked at closely, where votes are part of scores;
    ``turns`` in how many turns strangers were shown, and of how many ``things``; ``named_at`` the
    share of the genuine items that would get their own name, by rate.
    """

    fpir: float
    rule: str
    thresholds: dict[float, float] = field(repr=False)
    location: float
    scale: float
    slope: float
    offset: float
    lower: float
    upper: float
    strangers: int
    extrapolated: bool
    fitted: bool
    identities: int
    items: int
    source: str
    last_item: int | None = None
    independent: float | None = None
    evidence: tuple[float, ...] = field(default=(), repr=False)
    genuine: int | None = None
    named: float | None = None
    metric: int | None = None
    turns: int = 1
    closer: float = 0.0
    closer_gain: float | None = None
    looked: Calibration | None = field(default=None, repr=False)
    things: int | None = None
    named_at: dict[float, float] = field(default_factory=dict, repr=False)

    @property
    def deciding(self) -> Calibration:
        """How pictures are decided: by a closer look where that has a say."""
        return self if self.looked is None else self.looked

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Calibration:
        """From the fields that JSON kept. Raises TypeError, ValueError, KeyError or AttributeError
        for others.
        """
        if not isinstance(fields.get("metric"), int | None):
            raise TypeError("its metric is no number")
        if not 0 <= float(fields.get("closer", 0.0)) < math.inf:
            raise ValueError("the weight of its closer look is no number")
        if not isinstance(fields.get("turns", 1), int):
            raise TypeError("its turns are no number")
        by_rate = {
            name: {float(rate): float(value) for rate, value in fields.get(name, {}).items()}
            for name in ("thresholds", "named_at")
        }
        needed = by_rate["thresholds"].values()
        numbers = (fields[name] for name in ("fpir", "location", "scale", "slope", "offset"))
        if not needed or not all(map(math.isfinite, (*numbers, *needed))):
            raise ValueError("what it decides by are no numbers")
        if fields["scale"] <= 0:
            raise ValueError("its scale is not above 0")
        evidence = tuple(fields.get("evidence", ()))
        looked = fields.get("looked")
        made = None if looked is None else cls.of(looked)
        return cls(**fields | by_rate | {"evidence": evidence, "looked": made})


@dataclass(frozen=True)
class UnknownGroup:
    """Probes that nobody fitted and that resemble each other: perhaps one identity.

    ``number`` names the group as long as its first probe is kept; ``paths`` begin with the one most
    like the others; ``nearest`` is the best identity for the group, with its score.
    """

    number: int
    members: tuple[int, ...]
    paths: tuple[str, ...]
    nearest: Match | None


@dataclass(frozen=True)
class RebuildReport:
    """What a rebuild did: whether the gallery now answers under the encoder asked for.

    ``missing`` are the items whose image could not be read any more; ``calibration`` is what the
    gallery was calibrated to again.
    """

    switched: bool
    embedded: int
    missing: tuple[Rejection, ...]
    items: int
    calibration: Calibration | None = None


@dataclass(frozen=True)
class GalleryInfo:
    """What a gallery is: totals, encoder, how it decides, index and bytes on disk.

    ``threshold`` is the encoder's, None where the encoder or its threshold is not known;
    ``undecided`` says in words that nothing decides, and the way out; ``calibration`` how the
    gallery decides, None where it was not calibrated. ``indexed`` items are in ``index``, a file of
    the ``engine`` "faiss", or a collection of "milvus"; ``recall`` is None where it is exact.
    ``metric`` says what the gallery's own metric was learned from, None for plain cosines;
    ``closer`` what the closer look gains; ``places`` items have places for that, ``copies`` a copy.
    """

    gallery: str
    identities: int
    items: int
    encoder: str
    fingerprint: str
    dimension: int
    threshold: float | None
    calibration: str | None
    distractors: int
    index: str | None
    indexed: int
    recipe: str | None
    recall: float | None
    bytes: int
    metric: str | None = None
    closer: str | None = None
    places: int = 0
    copies: int = 0
    undecided: str | None = None
    engine: str = "faiss"


@dataclass(frozen=True)
class Progress:
    """How far a long operation is; ``total`` is None where it is not known."""

    stage: str
    done: int
    total: int | None = None


Watcher = Callable[[Progress], None]


def surplus_fields(record: type, names: Iterable[str]) -> list[str]:
    """Which of the stored names are no field of a record: a newer release has written them."""
    return sorted(set(names) - {one.name for one in fields(record)})


def unwatched(progress: Progress) -> None:
    """Nobody looks on: a watcher that does nothing."""
