"""Videos, cameras and streams that ``query`` is asked about: their options, times, and ends."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.common import note
from siamese_search.errors import UsageError
from siamese_search.pictures.kind import is_live, is_video

if TYPE_CHECKING:
    from siamese_search.pictures.video import Frame
    from siamese_search.records import Rejection

UNITS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """Seconds, from ``500ms``, ``1s``, ``2.5``, ``10m`` or ``1h``. Raises BadParameter."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) ?([a-z]*)", text.strip())
    if found is None or found[2] not in UNITS or not float(found[1]):
        raise typer.BadParameter(f"{text!r} is no time: write 500ms, 1s, 10m or 1h")
    return float(found[1]) * UNITS[found[2]]


EveryOption = Annotated[
    float | None,
    typer.Option(
        parser=duration,
        metavar="TIME",
        help="Of videos, cameras and streams, a frame every so often, as 500ms, 1s or 10m (1s)."
        " Videos in folders are looked at only with it.",
    ),
]
ForOption = Annotated[
    float | None,
    typer.Option(
        "--for",
        parser=duration,
        metavar="TIME",
        help="Ask about a camera or stream for so long; else until Ctrl-C.",
    ),
]
ChangesOption = Annotated[
    bool,
    typer.Option(
        "--changes",
        help="Of videos, cameras and streams, print only answers with another name than that of the"
        " frame before.",
    ),
]


def has_times(images: Iterable[str], every: float | None) -> bool:
    """Whether what was named has times: videos and cameras."""
    return every is not None or any(is_video(one) or is_live(one) for one in images)


def require_times(images: Sequence[str], every: float | None, only_changes: bool) -> None:
    """Raise UsageError for options that would do nothing, since what was named has no times."""
    if every is not None and not has_times(images, None) and not any(map(os.path.isdir, images)):
        raise UsageError("--every is about videos, cameras and streams: leave it out")
    if only_changes and not has_times(images, every):
        raise UsageError(
            "--changes is about videos, cameras and streams, and in folders it needs --every:"
            " leave it out"
        )


def live_one(images: Sequence[str], bound: float | None) -> str | None:
    """The camera or stream that was named. Raises UsageError where more was, or there is none to
    ask for so long.
    """
    live = [one for one in images if is_live(one)]
    if live and len(images) > 1:
        raise UsageError(
            "a camera or stream goes on and on: ask about it alone, and about others by another"
            " `query`"
        )
    if bound is not None and not live:
        raise UsageError("--for is about a camera or stream: leave it out")
    return live[0] if live else None


def watched(
    name: str, every: float | None, bound: float | None, reject: Callable[[Rejection], object]
) -> Iterator[Frame]:
    """The frames of a camera or stream; why there are no more is rejected."""
    from math import inf

    from siamese_search.errors import ImageError
    from siamese_search.pictures.video import STEP, live, public
    from siamese_search.records import Rejection
    from siamese_search.words import printable

    try:
        yield from live(name, STEP if every is None else every, inf if bound is None else bound)
    except ImageError as error:
        reject(Rejection(printable(public(name)), str(error)))


def tell_step(images: Iterable[str], every: float | None) -> None:
    """Say how often a frame is looked at, where nobody has."""
    if every is None and any(is_video(one) or is_live(one) for one in images):
        note("a frame is looked at every second: --every says otherwise")


@contextmanager
def until_stopped(said: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C or SIGTERM ends what is inside as it should end; what it has done is ``said`` then."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        note(f"stopped: {said()}")
    finally:
        signal.signal(signal.SIGTERM, before)
