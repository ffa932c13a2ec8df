"""Evaluate an encoder by splits of a folder: some classes are enrolled, the others are strangers.

Needs no gallery: every draw makes one of its own, in a temporary folder. Knows nothing of pages
and terminals.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from siamese_search.arrays import IntArray
from siamese_search.decision.calibration import FEWEST_STRANGE, FPIR, require_rate
from siamese_search.decision.rules import DEFAULT_RULE
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import UsageError
from siamese_search.evaluation.curves import over_shots, shot_steps
from siamese_search.evaluation.evaluate import DRAWS, evaluate_embeddings
from siamese_search.evaluation.probes import Probes, embedded, unusable
from siamese_search.evaluation.results import Evaluation
from siamese_search.gallery.gallery import Gallery
from siamese_search.records import ImageFile, Rejection
from siamese_search.words import counted

log = logging.getLogger("siasearch")


@dataclass(frozen=True)
class Split:
    """How a folder is split: ``shots`` pictures are enrolled of each class, but for the share
    ``strangers`` of the classes; all other pictures are probes. ``draws`` times, calibrated for
    ``fpir`` by what is enrolled, or not ``calibrated``: then plain cosines decide.
    """

    shots: int = 1
    strangers: float = 0.5
    draws: int = DRAWS
    fpir: float = FPIR
    rule: str | None = None
    calibrated: bool = True


@dataclass(frozen=True)
class SplitEvaluation:
    """An evaluation of every draw, and the pictures that could not be used."""

    draws: tuple[Evaluation, ...]
    rejected: tuple[Rejection, ...]


@dataclass(frozen=True)
class _Draw:
    """The rows of the enrolled classes' pictures, each in the order in which they are enrolled,
    and of the strangers'.
    """

    classes: list[IntArray]
    strangers: IntArray


def evaluate_splits(
    encoder: Encoder, files: Sequence[ImageFile], split: Split | None = None
) -> SplitEvaluation:
    """Split labelled files again and again.

    Classes with too few pictures are strangers. Raises UsageError where fewer than two classes
    have enough.
    """
    split = split or Split()
    _require_possible(split)  # before they are embedded
    pictures = embedded(encoder, files).distinct()
    return SplitEvaluation(tuple(each_draw(encoder, pictures, split)), pictures.rejected)


def each_draw(encoder: Encoder, pictures: Probes, split: Split) -> Iterator[Evaluation]:
    """The evaluations of pictures that are embedded, no two alike, one draw after the other."""
    members = _members(pictures, split)
    steps = shot_steps([len(own) for own in members.values()], split.shots)
    refused: list[UsageError] = []
    for seed in range(split.draws):
        draw = _draw(members, len(pictures.files), split, seed)
        yield _evaluated(encoder, pictures, draw, split, seed, steps, refused)
    _warn(encoder, split, refused)


@contextmanager
def split_gallery(
    encoder: Encoder, files: Sequence[ImageFile], split: Split, seed: int
) -> Iterator[tuple[Gallery, list[ImageFile], tuple[Rejection, ...]]]:
    """One draw's gallery, the files that are left to ask about, and what could not be used."""
    _require_possible(split)
    pictures = embedded(encoder, files).distinct()
    draw = _draw(_members(pictures, split), len(pictures.files), split, seed)
    refused: list[UsageError] = []
    with _enrolled(encoder, pictures, draw, split, refused) as (gallery, probes):
        _warn(encoder, split, refused)
        yield gallery, list(probes.files), pictures.rejected


def enrolled_classes(classes: int, strangers: float) -> int:
    """How many of the classes are enrolled where a share of them are strangers."""
    return max(2, round((1 - strangers) * classes))


def _require_possible(split: Split) -> None:
    require_rate(split.fpir)
    if not 0 <= split.strangers < 1:
        raise UsageError(
            f"strangers is {split.strangers}: a share of the classes, from 0 to below 1"
        )


def _members(pictures: Probes, split: Split) -> dict[str, IntArray]:
    """The rows of each class that has enough pictures; UsageError for fewer than two of these."""
    _require_possible(split)
    labels = np.array(pictures.labels, str)
    members = {name: np.flatnonzero(labels == name) for name in np.unique(labels).tolist()}
    enough = {name: own for name, own in members.items() if len(own) > split.shots}
    if len(enough) < 2:
        others = f"; {unusable(pictures.rejected)}" if pictures.rejected else ""
        raise UsageError(
            f"{counted(len(enough), 'class has', 'classes have')} more than"
            f" {counted(split.shots, 'picture')}, so that one is left to ask about: two classes or"
            f" more are needed{others}"
        )
    return enough


def _draw(members: Mapping[str, IntArray], count: int, split: Split, seed: int) -> _Draw:
    """Which classes are enrolled, of ``count`` pictures in all."""
    random = np.random.default_rng(seed)
    order = random.permutation(list(members)).tolist()
    enrolled = order[: enrolled_classes(len(order), split.strangers)]
    drawn = [random.permutation(members[name]) for name in enrolled]
    return _Draw(drawn, np.setdiff1d(np.arange(count), np.concatenate(drawn)))


def _warn(encoder: Encoder, split: Split, refused: Sequence[UsageError]) -> None:
    if refused:
        log.warning(
            "%d of %d draws with the encoder %s are not calibrated%s, since %s",
            len(refused),
            split.draws,
            encoder.name,
            "" if encoder.calibrated else " and give no names",
            refused[0],
        )


@contextmanager
def _enrolled(
    encoder: Encoder, pictures: Probes, draw: _Draw, split: Split, refused: list[UsageError]
) -> Iterator[tuple[Gallery, Probes]]:
    """Enrol what a draw has chosen; all else are probes. Why it cannot be calibrated is added to
    ``refused``, and the encoder's threshold decides, if it has one.
    """
    chosen = np.concatenate([own[: split.shots] for own in draw.classes])
    enrolled = pictures.of(chosen)
    probes = pictures.of(np.setdiff1d(np.arange(len(pictures.files)), chosen))
    with (
        tempfile.TemporaryDirectory() as folder,
        Gallery.open(folder, encoder) as gallery,
    ):
        gallery.uncalibrate()  # nor does it calibrate itself: only for what is asked
        gallery.enroll_embeddings(enrolled.embeddings, enrolled.labels, places=enrolled.places)
        few = len(draw.classes) < FEWEST_STRANGE
        if few and not encoder.calibrated:
            refused.append(UsageError("fewer than five classes are enrolled"))
        if split.calibrated and not few:
            try:
                gallery.calibrate(split.fpir, rule=split.rule)
            except UsageError as error:  # too few for this rate
                refused.append(error)
        yield gallery, probes


def _evaluated(
    encoder: Encoder,
    pictures: Probes,
    draw: _Draw,
    split: Split,
    seed: int,
    steps: Sequence[int],
    refused: list[UsageError],
) -> Evaluation:
    """What a draw's gallery says."""
    with _enrolled(encoder, pictures, draw, split, refused) as (gallery, probes):
        measured = evaluate_embeddings(
            gallery,
            probes.embeddings,
            probes.labels,
            rule=split.rule,
            places=probes.places,
            paths=probes.paths,
            fpir=split.fpir,
            seeds=[seed],
        )
    deeper = over_shots(
        pictures.embeddings,
        draw.classes,
        draw.strangers,
        steps,
        split.fpir,
        split.rule or DEFAULT_RULE,
    )
    return replace(measured, growth=(*measured.growth, deeper))
