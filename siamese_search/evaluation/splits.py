"""Evaluate an encoder by splits of a folder: some classes are enrolled, the others are strangers.

Needs no gallery: every draw makes one of its own, in a temporary folder. Knows nothing of pages
and terminals.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from siamese_search.arrays import IntArray
from siamese_search.decision.calibration import FEWEST_STRANGE, FPIR, require_rate
from siamese_search.decision.rules import DEFAULT_RULE
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import UsageError
from siamese_search.evaluation.curves import over_shots, shot_steps
from siamese_search.evaluation.evaluate import DRAWS, evaluate_embeddings
from siamese_search.evaluation.probes import Probes, embedded
from siamese_search.evaluation.results import Evaluation
from siamese_search.gallery.gallery import Gallery
from siamese_search.records import ImageFile, Rejection

log = logging.getLogger("siasearch")


@dataclass(frozen=True)
class Split:
    """How a folder is split: ``shots`` pictures are enrolled of each class, but for the share
    ``strangers`` of the classes; all other pictures are probes. ``draws`` times, calibrated for
    ``fpir`` by what is enrolled.
    """

    shots: int = 1
    strangers: float = 0.5
    draws: int = DRAWS
    fpir: float = FPIR
    rule: str | None = None


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
    require_rate(split.fpir)
    if not 0 <= split.strangers < 1:
        raise UsageError(
            f"strangers is {split.strangers}: a share of the classes, from 0 to below 1"
        )
    pictures = embedded(encoder, files).distinct()
    labels = np.array(pictures.labels, str)
    members = {name: np.flatnonzero(labels == name) for name in np.unique(labels).tolist()}
    enough = [name for name, own in members.items() if len(own) > split.shots]
    if len(enough) < 2:
        raise UsageError(
            f"{len(enough)} classes have more than {split.shots} pictures, which leaves one to"
            " enrol and one to ask about: two classes or more are needed"
        )
    steps = shot_steps([len(members[name]) for name in enough], split.shots)
    made = []
    for seed in range(split.draws):
        random = np.random.default_rng(seed)
        order = random.permutation(enough).tolist()
        enrolled = order[: max(2, round((1 - split.strangers) * len(order)))]
        drawn = [random.permutation(members[name]) for name in enrolled]
        others = np.setdiff1d(np.arange(len(labels)), np.concatenate(drawn))
        made.append(_evaluated(encoder, pictures, _Draw(drawn, others), split, seed, steps))
    return SplitEvaluation(tuple(made), pictures.rejected)


def _evaluated(
    encoder: Encoder, pictures: Probes, draw: _Draw, split: Split, seed: int, steps: Sequence[int]
) -> Evaluation:
    """Enrol what a draw has chosen, ask about all else."""
    chosen = np.concatenate([own[: split.shots] for own in draw.classes])
    enrolled = pictures.of(chosen)
    probes = pictures.of(np.setdiff1d(np.arange(len(pictures.files)), chosen))
    with (
        tempfile.TemporaryDirectory() as folder,
        Gallery.open(folder, encoder) as gallery,
    ):
        by = "by the encoder's threshold" if encoder.calibrated else "names nobody"
        gallery.uncalibrate()  # nor does it calibrate itself: only for what is asked
        gallery.enroll_embeddings(enrolled.embeddings, enrolled.labels, places=enrolled.places)
        if len(draw.classes) < FEWEST_STRANGE and not encoder.calibrated:
            log.warning("draw %d %s, since fewer than five classes are enrolled", seed, by)
        if len(draw.classes) >= FEWEST_STRANGE:
            try:
                gallery.calibrate(split.fpir, rule=split.rule)
            except UsageError as error:  # too few for this rate
                log.warning("draw %d %s, since %s", seed, by, error)
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
