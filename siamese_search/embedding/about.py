"""About an encoder: what its record and its files tell people who choose one.

Knows nothing of runtimes and pictures; loads no network.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from siamese_search.embedding.record import DESCRIPTION, SHIPPED, WEIGHTS, EncoderRecord
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.words import counted

HEADER_BYTES = 16 << 20  # of a file of weights, at most
SHIPPED_FOR = {
    "general-2": "photos of things of any kind: the default",
    "general": "the default before general-2, for galleries that were made with it",
    "glyph": "characters and symbols",
}
SHIPPED_LICENCE = "Apache-2.0"  # that of the package
RESIZING = {
    "crop": "the middle of the picture",
    "squash": "the whole picture, stretched",
    "pad": "the whole picture, on white",
    "trim": "what is drawn, cut out",
}


@dataclass(frozen=True)
class About:
    """What is told of an encoder. None is what nobody has noted.

    ``purpose`` is what it is for, ``origin`` where it comes from, ``trained_on`` which pictures it
    has learned from, ``imported`` all that was noted when it was taken over from elsewhere.
    ``size`` is that of its folder, in bytes, None where it has none; ``parameters`` counts its
    weights. ``takes`` says which files, and how pictures are brought to it.
    """

    purpose: str | None
    origin: str
    licence: str | None
    trained_on: str | None
    imported: Mapping[str, Any] | None
    parameters: int | None
    size: int | None
    takes: str


def about(folder: Path, record: EncoderRecord) -> About:
    """What an encoder's folder and its record tell."""
    shipped = folder.parent == SHIPPED
    imported = record.training.get("imported")
    imported = imported if isinstance(imported, dict) else None
    return About(
        purpose=SHIPPED_FOR.get(record.name) if shipped else _noted(record.training, "purpose"),
        origin=_origin(record, shipped, imported),
        licence=SHIPPED_LICENCE if shipped else _noted(imported or record.training, "licence"),
        trained_on=_trained_on(record.training),
        imported=imported,
        parameters=_parameters(folder / WEIGHTS),
        size=folder_size(folder, record),
        takes=input_in_words(record.preprocessing),
    )


def about_offered(location: str, takes: str) -> About:
    """What is told of an encoder of a package, whose ``location`` is NAME@PACKAGE."""
    origin = f"offered by the package {location.partition('@')[2]}"
    return About(None, origin, None, None, None, None, None, takes)


def folder_size(folder: Path, record: EncoderRecord) -> int:
    """Bytes of an encoder's files; what is missing counts nothing."""
    total = 0
    for file in (DESCRIPTION, *record.digests):
        with suppress(OSError):
            total += os.stat(folder / file).st_size
    return total


def input_in_words(shown: Preprocessing) -> str:
    """What an encoder takes, and how pictures are brought to it."""
    colours = "grey" if shown.channels == 1 else "colours"
    how = RESIZING[shown.resize]
    if shown.resize == "crop" and shown.crop_fraction < 1:
        how += f", {100 * shown.crop_fraction:.4g} % of its short side"
    return f"{shown.width} × {shown.height} pixels, {colours}; {how}, {shown.interpolation}"


def _origin(record: EncoderRecord, shipped: bool, imported: Mapping[str, Any] | None) -> str:
    if imported is not None:
        source = _noted(imported, "source") or "elsewhere"
        file = _noted(imported, "file")
        return f"imported from {source if file is None else f'{source} {file}'}"
    start = _noted(record.training, "start")
    settings = record.training.get("settings")
    if start is None and isinstance(settings, dict):
        start = _noted(settings, "start")
    if start is None:
        return "shipped with siasearch" if shipped else "not noted"
    began = {"scratch": "from scratch", "untuned": "from ImageNet's weights"}
    trained = f"trained {began.get(start, f'from {start}')}"
    return f"shipped with siasearch, {trained}" if shipped else trained


def _trained_on(training: Mapping[str, Any]) -> str | None:
    data = training.get("data")
    if not isinstance(data, dict) or not {"classes", "pictures"} <= data.keys():
        return None
    pictures, classes = data["pictures"], data["classes"]
    if not isinstance(pictures, int) or not isinstance(classes, int):
        return None
    return f"{counted(pictures, 'picture')} of {counted(classes, 'class', 'classes')}"


def _noted(facts: Mapping[str, Any], name: str) -> str | None:
    """A fact that is a text; None where there is none, or it is something else."""
    found = facts.get(name)
    return found if isinstance(found, str) and found else None


def _parameters(weights: Path) -> int | None:
    """How many numbers a file of weights holds, by its header; None where it tells of none."""
    try:
        with open(weights, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, HEADER_BYTES)))
        shapes = [one["shape"] for name, one in header.items() if name != "__metadata__"]
        return sum(prod(shape) for shape in shapes) or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None
