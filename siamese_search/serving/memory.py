"""Memory: what a picture took is given back to the system once it has been looked at."""

from __future__ import annotations

import ctypes
from contextlib import suppress

LARGE = 4 << 20  # bytes of what is given back at once
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as <malloc.h> has them


def give_back_large_blocks() -> None:
    """Have glibc map large blocks, each of its own; elsewhere nothing is done.

    Otherwise it learns from the first large picture to keep such blocks, in each thread's arena:
    pictures of a few hundred bytes that claim millions of pixels would make a server grow by
    hundreds of megabytes. What is mapped is not even touched where a picture ends early.
    """
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, LARGE)
        library.mallopt(_TRIM_THRESHOLD, 4 * LARGE)  # else the rest is given back far too often
