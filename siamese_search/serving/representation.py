"""Representation: records as JSON, as ``siasearch --json`` prints them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search.embedding.protection import protected
from siamese_search.errors import EncoderError, ImageError
from siamese_search.evaluation.own_scores import OwnScores
from siamese_search.gallery.gallery import Gallery
from siamese_search.records import EnrollmentReport, Identification, UnknownGroup
from siamese_search.serving.jobs import without_evidence

CURVE = 200  # points of the DET curve
CONFUSED, PAIRS = 200, 3  # identities taken for others, and examples of each


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
    """A gallery: what it is, how it decides, what was changed last and what was
    taken back last; no path of the server's, and no address.
    """
    facts = dataclasses.asdict(gallery.info())
    change, undone = gallery.last_change(), gallery.last_change(undone=True)
    takes = None
    with suppress(EncoderError):  # it cannot be found
        takes = gallery.encoder.kind.suffixes
    index = facts["index"] and facts["index"].rpartition("#")[2]  # not where Milvus is
    return facts | {
        "gallery": name,
        "encoder": of_encoder(facts["encoder"]),
        "index": index,
        "decides": facts["calibration"],
        "calibration": without_evidence(gallery.calibration),
        "read_only": read_only,
        "takes": None if takes is None else sorted(takes),  # None for pictures
        "change": None if change is None else dataclasses.asdict(change),
        "undone": None if undone is None else dataclasses.asdict(undone),
    }


def of_encoder(location: str) -> str:
    """Where an encoder lies, as clients are told: of a folder the name alone."""
    named = protected(location)
    if named is not None:
        return str(named._replace(location=of_encoder(named.location)))
    return Path(location).name


def of_report(report: EnrollmentReport) -> dict[str, Any]:
    """What became of pictures that were given to be enrolled."""
    rejected = [{"path": one.path, "reason": one.reason} for one in report.rejected]
    return dataclasses.asdict(report) | {"rejected": rejected}


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
    """What decides for the gallery's own items: what the threshold in use costs, what others would
    (``points``, by the rate that they are meant for), and which identities it concerns.

    ``genuine`` and ``right`` are of the same items, in the order of ``items``.
    """
    points = [
        {
            "rate": rate,
            "threshold": threshold,
            "fpir": scores.fpir_at(threshold),
            "fnir": scores.fnir_at(threshold),
        }
        for rate, threshold in sorted(scores.thresholds.items())
    ]
    return {
        "items": [one.item for one in scores.asked],
        "genuine": scores.genuine.tolist(),
        "right": scores.right.tolist(),
        "impostor": [value if np.isfinite(value) else None for value in scores.impostor.tolist()],
        "calibrated": scores.calibrated,
        "threshold": scores.threshold,
        "standard": scores.standard,
        "fpir": scores.fpir,
        "fnir": scores.fnir,
        "eer": scores.eer,
        "points": points,
        "det": [point._asdict() for point in scores.det(CURVE)],
        "per_identity": [one._asdict() for one in scores.per_identity()],
        "confusions": [
            {**one._asdict(), "pairs": one.pairs[:PAIRS]} for one in scores.confusions()[:CONFUSED]
        ],
    }
