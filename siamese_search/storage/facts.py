"""Facts: all that is known of an item, and its checksum. Knows nothing of open databases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from siamese_search.arrays import FloatArray

ROWS = (
    "SELECT items.id, name, distractor, content, source, copy, size, added, was,"
    " (SELECT json_group_object(key, value) FROM metadata WHERE item = items.id), checksum"
    " FROM items JOIN identities ON identities.id = items.identity"
)


@dataclass(frozen=True)
class Facts:
    """All that is known of an item but for its number."""

    identity: str
    distractor: bool
    content: bytes
    source: str | None
    copy: str | None
    size: int
    added: str
    was: str | None
    metadata: Mapping[str, str]

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> Facts:
        """From a row that ``ROWS`` gives."""
        name, distractor, content, source, copy, size, added, was, metadata = row[1:-1]
        pairs = json.loads(metadata)
        return cls(name, bool(distractor), content, source, copy, size, added, was, pairs)

    @property
    def checksum(self) -> int:
        """The CRC-32 of these as JSON."""
        values = self.content.hex(), self.source, self.copy, self.size, self.added, self.was
        pairs = sorted(self.metadata.items())
        return crc32(json.dumps([self.identity, self.distractor, *values, pairs]).encode())


@dataclass(frozen=True)
class Enrolled:
    """Whose item some content is. ``source`` is None where it was enrolled without a file; ``was``
    is the identity that it was enrolled as, where it was relabelled since; ``copied`` tells whether
    the gallery has a copy, ``embedded`` whether the item has an embedding under its encoder.
    """

    number: int
    identity: str
    source: str | None
    was: str | None = None
    copied: bool = False
    embedded: bool = True


@dataclass(frozen=True)
class KeptProbe:
    """A probe that nobody fitted: the file's SHA-256 (hex) and path, and its embedding, float32
    (dimension,), in a generation's number.
    """

    number: int
    content: str
    source: str
    generation: int
    vector: FloatArray


@dataclass(frozen=True)
class Source:
    """The file that an item was enrolled from, as it was then; the ``place`` where it lies now as
    far as is known; whether the gallery has a copy.
    """

    item: int
    path: str
    place: str
    content: str
    size: int
    added: str
    copied: bool


def fault_in(row: tuple[Any, ...]) -> str | None:
    """What is wrong with a row that ``ROWS`` gives, None where it is as it was stored."""
    try:
        sound = Facts.of(row).checksum == row[-1]
    except (ValueError, TypeError, AttributeError):  # another kind of value
        sound = False
    return None if sound else f"what is known of item {row[0]} is damaged"


def facts_before(content: bytes, copy: str | None, kept: str) -> dict[str, Any] | None:
    """The other facts of an item as a change has kept them; None where these are damaged."""
    try:
        before: dict[str, Any] = json.loads(kept)
        checksum = before.pop("checksum", None)  # changes before format 7 have none
        facts = {**before, "distractor": bool(before["distractor"])}
        sound = checksum in (None, Facts(content=content, copy=copy, **facts).checksum)
    except (ValueError, TypeError, KeyError, AttributeError):  # another kind of value
        return None
    return before if sound else None
