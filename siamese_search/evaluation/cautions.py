"""What would make the figures of an evaluation mean something else than they seem to.

Knows nothing of how these are measured.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from siamese_search.errors import ImageError
from siamese_search.evaluation.probes import Probes
from siamese_search.evaluation.results import UnmatchedLabel
from siamese_search.gallery.gallery import Gallery
from siamese_search.gallery.staleness import STALE
from siamese_search.pictures.read import content_hash, read_file
from siamese_search.records import Identification, ImageFile, Item

log = logging.getLogger("siasearch")


def enrolled_probes(
    gallery: Gallery, files: Sequence[ImageFile], answers: Sequence[Identification]
) -> int:
    """How many probes are enrolled themselves: the same file, or a copy of it."""
    found = {match.item for answer in answers for match in answer.matches}
    items = {item.number: item for item in gallery.items_by_number(found)}
    return sum(
        any(_is_copy(file, items[m.item]) for m in answer.matches if m.item in items)
        for file, answer in zip(files, answers, strict=True)
    )


def _is_copy(file: ImageFile, item: Item) -> bool:
    """Whether a file has an item's content; it is read only where it is as long."""
    if file.source is None:
        return False
    try:
        if os.path.getsize(file.source) != item.size:
            return False
        return content_hash(read_file(file.source)) == item.content
    except (OSError, ImageError):  # it is gone by now
        return False


def warn(gallery: Gallery, probes: Probes, unmatched: Sequence[UnmatchedLabel], same: int) -> None:
    """Warn of labels that are not enrolled, of probes that are enrolled themselves, and where
    nothing can be named, or at another rate than was calibrated for.
    """
    undecided, known = gallery.undecided, gallery.calibration
    if undecided is not None:
        log.warning("%s", undecided)
    if known is not None and gallery.is_stale(known):
        log.warning("%s", STALE)
    if known is not None and known.turns > 1:
        log.warning(
            "the gallery was calibrated for %d turns, and each probe is looked at in one: TPIR and"
            " FPIR are not those of `siasearch query --turns %d`",
            known.turns,
            known.turns,
        )
    near = [one for one in unmatched if one.near]
    if near:
        log.warning(
            "%d pictures count as strangers, though their labels are near to names that are"
            " enrolled, as %r to %r: see what is unmatched",
            sum(one.pictures for one in near),
            near[0].label,
            near[0].near[0],
        )
    elif len(unmatched) == len(set(probes.labels)):
        log.warning(
            "no probe is named as an identity that is enrolled, so all count as strangers: the"
            " gallery has names such as %r, the probes such as %r",
            gallery.identities()[0][0],
            min(probes.labels),
        )
    if same:
        log.warning(
            "%d of %d probes are enrolled themselves, and found of course", same, len(probes.files)
        )
