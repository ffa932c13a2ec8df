"""What was trained against the encoder that one would use otherwise, on what was held out.

Knows nothing of how weights are trained, nor of how a gallery works: that is ``as_gallery.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from siamese_search.arrays import IntArray
from siamese_search.decision.learning import Prior, adapted
from siamese_search.decision.trained import View
from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import ImageError
from siamese_search.training.as_gallery import AsGallery, Described, compare
from siamese_search.training.data import Pictures
from siamese_search.training.loop import Trainer
from siamese_search.training.settings import Settings
from siamese_search.training.starting import Start
from siamese_search.words import counted

DRAWS_OF_PRIORS = 5  # each learns metrics, which takes seconds
LEAST = 10  # pictures of a class that are compared, if it has them


def otherwise(settings: Settings) -> str:
    """The shipped encoder that one would use for such pictures as these settings are for."""
    return "glyph" if settings.augmentation == "glyph" else "general-2"


def judged(
    trainer: Trainer,
    start: Start,
    held: Pictures | None,
    unseen: bool,
    warn: Callable[[str], None] = lambda message: None,
) -> AsGallery | None:
    """Compare what was trained with the encoder that it was trained from; or with a shipped one
    where that was no encoder. None where nothing was held out, or too little.

    A shipped one reads the files again; those that it cannot are left out, and ``warn`` told.
    """
    trained = trainer.selection.trained
    if held is None or trained is None or trainer.step == 0:
        return None
    shown = held.some(LEAST)
    vectors = trainer.view(trained.weights, shown, None).held
    encoder = start.encoder or Encoder.open(otherwise(trainer.settings), "cpu")
    if start.is_encoder:
        before = trainer.view(trainer.selection.start, shown, None).held
    else:  # it sees pictures in its own way
        read = [one for _, one in encoder.embed_each([one.path for one in shown.contents])]
        found = {row: one for row, one in enumerate(read) if not isinstance(one, ImageError)}
        if gone := len(read) - len(found):
            left = counted(gone, "held-out picture")
            warn(f"{left} cannot be read any more: {encoder.name} is compared by the others")
        there = np.array(list(found), np.int64)
        vectors, shown = vectors[there], shown.take(there)
        before = np.array(list(found.values()), np.float32)
    return compare(
        Described("trained", vectors, start.prior),
        Described(encoder.name, before, encoder.prior),
        shown.labels,
        unseen,
        chosen_of=max(1, trainer.selection.epochs),
    )


def prior_of(
    known: Prior | None, view: View, held: IntArray, enrolled: IntArray, unseen: bool
) -> tuple[Prior | None, AsGallery | None]:
    """The prior that serves galleries best, ``known`` or that adapted to what was trained on, and
    what they gain by the latter, None where it is not taken.

    It is taken unless galleries lose by it, which classes judge that were not trained on: so they
    must be ``unseen``. Few of them say little, and it is of many more things than these (what it
    gave: dev/experiments.md). ``held`` and ``enrolled`` are the classes of a view's pictures.
    """
    prior = adapted(known, view.enrolled, enrolled) if unseen else known
    if prior is known:
        return known, None
    new, old = Described("adapted", view.held, prior), Described("known", view.held, known)
    gain = compare(new, old, held, unseen, DRAWS_OF_PRIORS)
    return (known, None) if gain is None or gain.main.gained < 0 else (prior, gain)
