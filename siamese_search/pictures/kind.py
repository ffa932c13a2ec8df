"""The kind of files that an encoder takes, by their names: pictures, or those of some suffixes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

# What lies beside pictures and is none by its name: texts and data, side-cars, sound and films.
_NO_PICTURE: Final = frozenset({
    ".txt", ".md", ".rst", ".log", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml",
    ".toml", ".ini", ".cfg", ".html", ".htm", ".css", ".js", ".py", ".ipynb", ".pdf", ".rtf",
    ".doc", ".docx", ".odt", ".xls", ".xlsx", ".ods", ".ppt", ".pptx", ".db", ".sqlite", ".npy",
    ".npz", ".mat", ".pkl", ".xmp", ".aae", ".pp3", ".dop", ".cos", ".zip", ".tar", ".gz", ".tgz",
    ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar", ".mp3", ".wav", ".m4a", ".aac", ".ogg",
    ".flac", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".3gp", ".faiss",
})  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """Files of some ``suffixes``, lower case; None: pictures, which have many, or none."""

    suffixes: frozenset[str] | None = None

    def __str__(self) -> str:
        if self.suffixes is None:
            return "pictures"
        return f"files with the suffix {' or '.join(sorted(self.suffixes))}"

    def takes(self, name: str) -> bool:
        """Whether a file is of this kind by its name; whether it is, shows when it is decoded."""
        suffix = os.path.splitext(name)[1].lower()
        if self.suffixes is None:
            return suffix not in _NO_PICTURE
        return suffix in self.suffixes


PICTURES: Final = Kind()
