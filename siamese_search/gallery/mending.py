"""Mending: an index is made what the database says. Knows nothing of what an index is."""

from __future__ import annotations

from siamese_search.gallery.checking import index_differences
from siamese_search.gallery.compaction import Compaction
from siamese_search.gallery.snapshots import Snapshots
from siamese_search.storage.catalog import Catalog


def repair(catalog: Catalog, snapshots: Snapshots, compaction: Compaction) -> list[str]:
    """What was wrong with the index, a line each; it is mended. A collection is mended item by
    item, an index file, or a collection that is gone, is written anew.
    """
    remote = snapshots.remote
    with compaction.maintenance(wait=True):
        if remote.takes_changes(catalog.state()) and remote.is_there():
            remote.apply()
            found = list(remote.differences(repair=True))
            remote.recount()
            return found
    found = list(index_differences(catalog, snapshots))
    if found:
        compaction.compact(anew=True)
    return found
