"""What was trained against the encoder that one would use otherwise, on what was held out.

Knows nothing of how weights are trained, nor of how a gallery works: that is ``as_gallery.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from siamese_search.decision.learning import adapted
from siamese_search.embedding.encoder import Encoder
from siamese_search.training.as_gallery import AsGallery, Described, compare
from siamese_search.training.data import Pictures
from siamese_search.training.loop import Trainer
from siamese_search.training.selection import Weights
from siamese_search.training.settings import Settings
from siamese_search.training.starting import Start

LEAST = 10  # pictures of a class that are compared, if it has them


def otherwise(settings: Settings) -> str:
    """The shipped encoder that one would use for such pictures as these settings are for."""
    return "glyph" if settings.augmentation == "glyph" else "general-2"


@dataclass(frozen=True)
class Kept:
    """What weights make of the held-out pictures. ``adapted`` is what a gallery gains by the prior
    that was learned from the training pictures, None where the start's serves better.
    """

    described: Described
    adapted: AsGallery | None


def seen(trainer: Trainer, start: Start, held: Pictures, weights: Weights, unseen: bool) -> Kept:
    """What weights make of the held-out pictures, with the prior that serves galleries best: the
    start's, or that adapted to the pictures that were trained on.
    """
    shown, enrolled = held.some(LEAST), trainer.training.some()
    view = trainer.view(weights, shown, enrolled)
    own = Described("the start's prior", view.held, start.prior)
    prior = adapted(start.prior, view.enrolled, enrolled.labels)
    gain = None
    if prior is not start.prior:
        gain = compare(Described("trained", view.held, prior), own, shown.labels, unseen)
    if gain is None or not gain.is_better:
        prior, gain = start.prior, None
    return Kept(Described("trained", view.held, prior), gain)


def judged(
    trainer: Trainer, start: Start, held: Pictures, trained: Described, unseen: bool
) -> AsGallery | None:
    """Compare what was trained with the encoder that it was trained from; or with a shipped one
    where that was no encoder. None where too little was held out.
    """
    shown = held.some(LEAST)
    encoder = start.encoder or Encoder.open(otherwise(trainer.settings), "cpu")
    if start.is_encoder:
        before = trainer.view(trainer.selection.start, shown, None).held
    else:  # it sees pictures in its own way
        before = encoder.embed([one.path for one in shown.contents])
    other = Described(encoder.name, before, encoder.prior)
    return compare(trained, other, shown.labels, unseen)
