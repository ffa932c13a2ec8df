"""Representation: records as JSON, as ``siasearch --json`` prints them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from siamese_search.errors import ImageError
from siamese_search.evaluation.own_scores import OwnScores
from siamese_search.gallery.gallery import Gallery
from siamese_search.records import Identification, UnknownGroup
from siamese_search.serving.jobs import without_evidence

POINTS = 60  # thresholds for which it is told what they cost


def of_answer(
    name: str, answer: Identification | ImageError, metadata: Mapping[int, Mapping[str, str]]
) -> dict[str, Any]:
    """An answer to a picture, with the metadata of its matches by item."""
    if isinstance(answer, ImageError):
        return {"image": name, "error": str(answer)}
    # Not ``asdict``, which copies deeply: an answer costs little else.
    matches = [vars(match) | {"metadata": metadata.get(match.item, {})} for match in answer.matches]
    return {"image": name, **vars(answer), "matches": matches}


def of_gallery(name: str, gallery: Gallery, read_only: bool) -> dict[str, Any]:
    """A gallery: what it is, how it decides, and its last change; no path of the server's."""
    facts = dataclasses.asdict(gallery.info())
    change = gallery.last_change()
    return facts | {
        "gallery": name,
        "decides": facts["calibration"],
        "calibration": without_evidence(gallery.calibration),
        "read_only": read_only,
        "change": None if change is None else dataclasses.asdict(change),
    }


def of_group(group: UnknownGroup) -> dict[str, Any]:
    """A group of kept probes."""
    nearest = None if group.nearest is None else dataclasses.asdict(group.nearest)
    return {
        "number": group.number,
        "count": len(group.members),
        "members": group.members,
        "nearest": nearest,
    }


def of_scores(scores: OwnScores) -> dict[str, Any]:
    """What decides for the gallery's own items, and what each threshold would cost: the share of
    strangers that it names, and of the own that it names rightly.
    """
    finite = scores.impostor[np.isfinite(scores.impostor)]
    every = np.concatenate([finite, scores.genuine])
    thresholds = np.linspace(every.min(), every.max(), POINTS) if len(every) else np.empty(0)
    points = [
        {
            "fpir": float((scores.impostor >= threshold).mean()),
            "threshold": float(threshold),
            "named": float((scores.found >= threshold).mean()) if len(scores.found) else None,
        }
        for threshold in thresholds
    ]
    return {
        "genuine": scores.genuine.tolist(),
        "impostor": [value if np.isfinite(value) else None for value in scores.impostor.tolist()],
        "threshold": scores.threshold,
        "standard": scores.standard,
        "points": points,
    }
