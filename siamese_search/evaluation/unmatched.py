"""Labels of probes that are not enrolled, and the names that they may stand for.

Knows nothing of galleries and pictures: names are compared with names.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from siamese_search.evaluation.results import UnmatchedLabel

NEAR = 3  # names that a label is said to be near to, at most
COMPARISONS = 200_000  # of spellings: more take too long
ALIKE = 0.8  # difflib's ratio from which spellings are near


def unmatched_labels(labels: Iterable[str], enrolled: Iterable[str]) -> tuple[UnmatchedLabel, ...]:
    """The labels (one a probe) that are not enrolled: those first that are near to a name that is,
    then those with most pictures.

    Near are names that differ by folders above, by case, or by spaces and other signs between
    words; then names that are spelled alike, as far as there are not too many to compare.
    """
    names = sorted(set(enrolled))
    counts = Counter(labels)
    missing = sorted(counts.keys() - set(names), key=lambda label: (-counts[label], label))
    same = _Places(names)
    found, compared = [], 0
    for label in missing:
        near = same.near(label)
        if not near and compared + len(names) <= COMPARISONS:
            compared += len(names)
            near = _spelled_alike(label, names)
        found.append(UnmatchedLabel(label, counts[label], tuple(near[:NEAR])))
    return tuple(sorted(found, key=lambda one: not one.near))  # keeps the order otherwise


def _parts(name: str) -> tuple[str, ...]:
    """The folders and the name, whatever the case and the signs between words."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    parts = tuple(re.sub(r"[\W_]+", "", part) for part in folded.split("/"))
    return tuple(part for part in parts if part) or (folded,)


class _Places:
    """Names by every way to write them without some of the folders above."""

    def __init__(self, names: Sequence[str]) -> None:
        self._by_end = defaultdict(list)
        for name in names:
            parts = _parts(name)
            for start in range(len(parts)):
                self._by_end[parts[start:]].append(name)

    def near(self, label: str) -> list[str]:
        """Names that are the label with other folders above, or the same but for spelling."""
        parts = _parts(label)
        longer = self._by_end.get(parts, [])
        shorter = [
            name
            for start in range(1, len(parts))
            for name in self._by_end.get(parts[start:], [])
            if _parts(name) == parts[start:]
        ]
        return sorted(longer, key=lambda name: (len(_parts(name)), name)) + shorter


def _spelled_alike(label: str, names: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(label, names, NEAR, ALIKE)
