"""Viewing: a probe at several turns, and a picture window by window.

Knows nothing of pixels, and of how a view is decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from siamese_search.decision.evidence import most_evident
from siamese_search.embedding.encoder import Encoder, named_error
from siamese_search.embedding.turning import Looks, describe_turns_each
from siamese_search.embedding.vectors import Description
from siamese_search.errors import ImageError, UsageError
from siamese_search.gallery.identification import Identifier, Question
from siamese_search.pictures.regions import Region, windows
from siamese_search.pictures.render import upright
from siamese_search.records import Identification

MOST_WINDOWS = 8  # along each side


def describe_turns(encoder: Encoder, images: Iterable[Any], turns: int) -> Looks:
    """Descriptions of all turns of each image, one image after the other.

    Raises ImageError, naming the file, at the first image that cannot be read.
    """
    looks: Looks = []
    for image, result in describe_turns_each(encoder, images, turns):
        if isinstance(result, ImageError):
            raise named_error(image, result, len(looks) // turns) from result
        looks += result
    return looks


def identify_turns(
    identifier: Identifier, encoder: Encoder, looks: Sequence[Description], question: Question
) -> list[Identification]:
    """Identify probes by ``question.turns`` looks at each, one after the other.

    The turn whose best identity stands out most gives the whole answer. Errors as
    ``Identifier.identify``.
    """
    empty = np.empty((0, encoder.dimension), np.float32)
    vectors = np.stack([look.embedding for look in looks]) if looks else empty
    places = [look.places for look in looks]
    turns, k = question.turns, question.k
    if turns == 1:
        return identifier.identify(encoder, vectors, question, places)
    # What stands out is told by the runner-up, too.
    answers = identifier.identify(encoder, vectors, replace(question, k=max(2, k)), places)
    best = []
    for start in range(0, len(answers), turns):
        each = answers[start : start + turns]
        answer = each[most_evident([one.matches for one in each])]
        best.append(replace(answer, matches=answer.matches[:k]))
    return best


def in_windows(image: Any, along: int) -> list[Any]:
    """The image itself, then its windows, ``along`` of them in each direction, as regions.

    The picture, a path, PIL image or array, is decoded here and held by them. Raises ImageError
    where it cannot be read, UsageError for a number out of range.
    """
    if not 2 <= along <= MOST_WINDOWS:
        raise UsageError(f"{along} windows along each side: ask for 2 to {MOST_WINDOWS}")
    picture = upright(image)
    boxes = windows(picture.width, picture.height, along)
    return [image, *(Region(picture, box) for box in boxes)]


Answer = tuple[Any, Identification | ImageError]


def what_is_where(answers: Iterable[Answer]) -> list[Answer]:
    """What is in a picture, from answers to ``in_windows``: its own, then windows that name.

    Of the windows in which the same identity is named, the one with the most confidence, or the
    highest score where that is equal, stands for all; these are best first. Errors come last.
    """
    whole, *others = answers
    best: dict[str, tuple[Any, Identification]] = {}
    errors: list[Answer] = []
    for probe, answer in others:
        if isinstance(answer, ImageError):
            errors.append((probe, answer))
        elif answer.identity is not None:
            known = best.get(answer.identity)
            if known is None or _how_sure(answer) > _how_sure(known[1]):
                best[answer.identity] = probe, answer
    named = sorted(best.values(), key=lambda pair: _how_sure(pair[1]), reverse=True)
    return [whole, *named, *errors]


def _how_sure(answer: Identification) -> tuple[float, float]:
    return answer.confidence or 0.0, answer.score or 0.0
