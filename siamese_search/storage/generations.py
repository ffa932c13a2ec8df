"""Generations: a gallery's embeddings under one encoder, and which of them is active."""

from __future__ import annotations

from dataclasses import dataclass

from siamese_search.records import Generation, Snapshot

CHUNK = 4096


@dataclass(frozen=True)
class State:
    """What a reader compares with what it has loaded."""

    generation: Generation
    snapshot: Snapshot | None
    epoch: int  # changes where embeddings of earlier items do, which numbers alone do not tell
    last_item: int
    last_removal: int
