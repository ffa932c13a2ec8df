"""Encoders that installed packages offer, by entry points of the group ``siasearch.encoders``.

Each is a name and what makes the encoder when it is called. None is loaded before it is asked for
by its name. Knows nothing of what an encoder does.
"""

from __future__ import annotations

import os
import re
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple

from siamese_search.errors import EncoderError

GROUP = "siasearch.encoders"
NAME = re.compile(r"([\w.-]+)(?:@([\w.-]+))?")
OBJECT = re.compile(r"[\w.]+:[\w.<>]+")  # where a program has the class of an encoder object


class Offer(NamedTuple):
    """An encoder made by a package, and its ``location``, NAME@PACKAGE."""

    made: object
    location: str


def names() -> list[str]:
    """What installed packages offer."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def locations() -> list[str]:
    """The same, each as NAME@PACKAGE, in the order of the names."""
    return sorted({f"{point.name}@{_package(point)}" for point in entry_points(group=GROUP)})


def offered(text: str) -> Offer | None:
    """The encoder of a NAME, or NAME@PACKAGE; None where this is no such name, but a folder, say.

    Raises EncoderError where its package is not here, several offer it, or it cannot be made; and
    for the place of an encoder object, of which a gallery keeps nothing else.
    """
    named, is_folder = NAME.fullmatch(text), os.path.isdir(text)
    if OBJECT.fullmatch(text) and not is_folder:
        raise EncoderError(
            f"{text} is the class of an encoder object, which only a program has: give it such an"
            " object, as Gallery.open(folder, encoder=object), or have a package offer it (entry"
            f" point {GROUP})"
        )
    if named is None:
        return None
    name, package = named.groups()
    every = [point for point in entry_points(group=GROUP) if point.name == name]
    points = [point for point in every if package in (None, _package(point))]
    if not points:
        if package is None or is_folder:
            return None
        raise EncoderError(
            f"the encoder {name!r} comes with the package {package!r}, which is not installed here,"
            " or does not offer it: install it, if you trust it"
        )
    if len(points) > 1:
        choice = ", ".join(f"{name}@{_package(point)}" for point in points)
        raise EncoderError(f"several packages offer an encoder {name!r}: choose one of {choice}")
    (point,) = points
    location = f"{name}@{_package(point)}"
    try:
        return Offer(point.load()(), location)
    except Exception as error:  # whatever a package does
        raise EncoderError(
            f"the encoder {location} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else ""
