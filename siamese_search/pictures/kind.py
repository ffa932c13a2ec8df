"""The kind of files that an encoder takes, by their names: pictures, or those of some suffixes.

Of videos the frames are pictures, where somebody asks for them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

VIDEOS: Final = frozenset({
    ".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".3gp", ".3g2", ".mts",
    ".m2ts", ".ts", ".wmv", ".asf", ".flv", ".ogv", ".vob", ".mxf", ".dv", ".mjpeg", ".mjpg",
})  # fmt: skip

VIDEO: Final = "video"  # names of metadata that a frame has: the path of its video,
TIME: Final = "time"  # and the seconds from its beginning

CAMERA: Final = "camera:"
STREAMS: Final = ("http://", "https://", "rtsp://", "rtsps://")

# What lies beside pictures and is none by its name: texts and data, side-cars, sound and films.
_NO_PICTURE: Final = frozenset({
    ".txt", ".md", ".rst", ".log", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml",
    ".toml", ".ini", ".cfg", ".html", ".htm", ".css", ".js", ".py", ".ipynb", ".pdf", ".rtf",
    ".doc", ".docx", ".odt", ".xls", ".xlsx", ".ods", ".ppt", ".pptx", ".db", ".sqlite", ".npy",
    ".npz", ".mat", ".pkl", ".xmp", ".aae", ".pp3", ".dop", ".cos", ".zip", ".tar", ".gz", ".tgz",
    ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar", ".mp3", ".wav", ".m4a", ".aac", ".ogg",
    ".flac", ".faiss",
})  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """Files of some ``suffixes``, lower case; None: pictures, which have many, or none, and, where
    asked for, ``videos``.
    """

    suffixes: frozenset[str] | None = None
    videos: bool = False

    def __str__(self) -> str:
        if self.suffixes is None:
            return "pictures or videos" if self.videos else "pictures"
        return f"files with the suffix {' or '.join(sorted(self.suffixes))}"

    def takes(self, name: str) -> bool:
        """Whether a file is of this kind by its name; whether it is, shows when it is decoded."""
        suffix = os.path.splitext(name)[1].lower()
        if self.suffixes is None:
            return suffix not in _NO_PICTURE and (self.videos or suffix not in VIDEOS)
        return suffix in self.suffixes


PICTURES: Final = Kind()
WITH_VIDEOS: Final = Kind(videos=True)


def is_video(name: str) -> bool:
    """Whether a file is a video by its name."""
    return os.path.splitext(name)[1].lower() in VIDEOS


def is_live(name: str) -> bool:
    """Whether this names a camera or stream, ``camera:0`` or ``rtsp://…``, and no file."""
    return name.lower().startswith((CAMERA, *STREAMS)) and not os.path.lexists(name)
