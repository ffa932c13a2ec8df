"""Compaction: when a new index file is due, and how it is made."""

from __future__ import annotations

from siamese_search.storage.generations import State


def pending_in(state: State) -> int:
    """How many items came or went since the snapshot."""
    snapshot = state.snapshot
    seen = (snapshot.last_item, snapshot.last_removal) if snapshot else (0, 0)
    return state.last_item - seen[0] + state.last_removal - seen[1]
