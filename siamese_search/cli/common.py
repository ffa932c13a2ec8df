"""Options and output that commands share. Results go to standard output, the rest to error."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from siamese_search.cli.program import spoken
from siamese_search.errors import UsageError, require_between
from siamese_search.words import counted

if TYPE_CHECKING:
    from siamese_search.embedding.encoder import Encoder
    from siamese_search.gallery.gallery import Gallery
    from siamese_search.records import Progress, Rejection


def cosine(option: typer.CallbackParam, value: float | None) -> float | None:
    """The value of an option that is a cosine. Raises UsageError for any that is none."""
    if value is not None:
        require_between(f"--{option.name}", value, -1, 1, "a cosine from -1 to 1")
    return value


def way_to_decode(option: typer.CallbackParam, value: str | None) -> str | None:
    """The value of an option that says where pictures are decoded. Raises UsageError for others."""
    if value not in (None, "here", "apart"):
        raise UsageError(f"--{option.name} is {value!r}: choose here or apart")
    return value


def share(text: str) -> float:
    """A share, as 0.05 or 5%. Raises BadParameter for any other text."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise typer.BadParameter("it must be a share, as 0.05 or 5%") from None


GalleryOption = Annotated[
    Path,
    typer.Option(
        "--gallery", "-g", envvar="SIASEARCH_GALLERY", metavar="DIR", help="The gallery's folder."
    ),
]
EncoderOption = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        "-e",
        metavar="E",
        help="An encoder's name, shipped or of a package, or a folder.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        envvar="SIASEARCH_DEVICE",
        metavar="auto|cpu|cuda|mps",
        help="What runs the encoder; auto takes a GPU that torch sees.",
    ),
]
DecodingOption = Annotated[
    str | None,
    typer.Option(
        "--decoding",
        envvar="SIASEARCH_DECODING",
        metavar="here|apart",
        callback=way_to_decode,
        help="Where pictures are decoded: here, or apart, in processes of their own. Then a file"
        " that crashes or blocks its decoder is refused, and the others go on.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print machine-readable results on standard output.")
]
JsonLinesOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print machine-readable results on standard output: JSON Lines, an object a line.",
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        "-t",
        callback=cosine,
        help="The least score, from -1 to 1, whatever the calibration; default: by that, else the"
        " encoder's.",
    ),
]
RuleOption = Annotated[
    str | None,
    typer.Option(
        metavar="RULE",
        help="What the score of an identity with several items is: balanced (the mean of its"
        " best item's and its prototype's), best, mean-of-best, prototype or trimmed.",
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Go on without asking.")]
DEFAULT_ENCODER = "general-2"
DEFAULT_GALLERY = Path("indexes") / "default"
LINE_SECONDS = 10.0  # between two lines of progress

# What steers a terminal, or the order in which it shows letters: controls, line ends, bidi marks.
_STEERING = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]"
)
_CONTROLS = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029]")


def decode_as(decoding: str | None) -> None:
    """Have this process decode pictures here or apart from now on; None leaves it as it is."""
    if decoding is not None:
        os.environ["SIASEARCH_DECODING"] = decoding


def open_gallery(folder: Path, encoder: str | None = None, device: str | None = None) -> Gallery:
    """Open a gallery that exists."""
    from siamese_search.gallery.gallery import Gallery

    if not Gallery.exists(folder):
        return Gallery.open(folder)  # raises, also where an encoder is named
    return Gallery.open(folder, encoder, device, background=True)


def encoder_for(gallery: Path, encoder: str | None, device: str | None) -> Encoder:
    """The encoder named, else that of the gallery where there is one, else the default."""
    from siamese_search.embedding.encoder import Encoder
    from siamese_search.gallery.gallery import Gallery

    if encoder is None and Gallery.exists(gallery):
        with Gallery.open(gallery, device=device) as source:
            return source.encoder
    return Encoder.open(encoder or DEFAULT_ENCODER, device)


def shown(text: str) -> str:
    r"""Any text as one line for people, which forges no other: what steers a terminal as \xNN."""
    return _STEERING.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def near(path: str) -> str:
    """A path for people: relative where it lies below the current folder."""
    here = os.path.join(os.getcwd(), "")
    return shown(path.removeprefix(here))


def print_json(value: Any) -> None:
    """One JSON value on a line."""
    encoding = sys.stdout.encoding or ""  # a stream may have none
    text = json.dumps(value, ensure_ascii=encoding.lower() not in ("utf-8", "utf8"))
    typer.echo(_STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def print_row(values: Iterable[object]) -> None:
    r"""A row of a table, as CSV on one line: controls as \xNN, all else as it is, for programs."""
    line = StringIO()
    cells = (_CONTROLS.sub(_escaped, cell) if isinstance(cell, str) else cell for cell in values)
    csv.writer(line, lineterminator="").writerow(cells)
    typer.echo(line.getvalue())


def conditions(texts: Iterable[str]) -> dict[str, str]:
    """What --where asks for, KEY=VALUE each. Raises UsageError for anything else."""
    wanted: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--where {text!r}: write key=value")
        if wanted.setdefault(key, value) != value:
            raise UsageError(f"--where {key}: no item has both {wanted[key]!r} and {value!r}")
    return wanted


def say(line: str) -> None:
    """A line of a result for people, whatever names are in it."""
    typer.echo(shown(spoken(line)))


def note(message: str) -> None:
    """A message for people, on standard error: one line, whatever names are in it.

    What cannot be written there stops nothing: nobody would read of that either.
    """
    with suppress(OSError):
        typer.echo(shown(spoken(message)), err=True)


def confirmed(question: str, yes: bool, unasked: str | None = None) -> bool:
    """Whether to go on: asked on a terminal, unless ``yes``.

    Where nobody can be asked, yes, unless ``unasked`` says why not: raises UsageError then.
    """
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        if unasked is not None:
            raise UsageError(unasked)
        return True
    typer.echo(f"{question} [y/N] ", err=True, nl=False)  # nothing goes to standard output
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def name_rejections(rejected: Iterable[Rejection]) -> None:
    """Name every file that was rejected, with its reason."""
    for rejection in rejected:
        tell_rejected(rejection.path, rejection.reason)


def tell_rejected(path: str, reason: str) -> None:
    """Name a file that was rejected, with its reason."""
    note(f"rejected: {path}: {reason}")


@contextmanager
def progress_bar(
    what: str, count: Callable[[], int] | None = None
) -> Iterator[Callable[[Progress], None]]:
    """A watcher that draws a bar with rate and time left where a person is looking, and else
    prints a line every ten seconds.

    ``count`` finds the total, and is called only where that is shown.
    """
    if not sys.stderr.isatty():
        yield _Lines(count)
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[done]}"),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TimeRemainingColumn(),
    )
    total = count() if count else None
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task(what, total=total, rate="", done="")

        def watch(progress: Progress) -> None:
            speed = display.tasks[task].speed
            rate = f"{pace(speed)} images/s" if speed else ""
            whole = progress.total or total
            if whole != display.tasks[task].total:  # another stage has another pace
                display.reset(task, total=whole)
            done = f"{progress.done}/{whole}" if whole else str(progress.done or "")
            display.update(
                task, completed=progress.done, done=done, rate=rate, description=progress.stage
            )

        yield watch


class _Lines:
    """A line of progress now and then."""

    def __init__(self, count: Callable[[], int] | None) -> None:
        self._count = count
        self._total: int | None = None
        self._of: int | None = None
        self._done = 0
        self._when = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        # A stage's name may say how it goes, and so change along the way.
        if progress.total != self._of or progress.done < self._done:
            self._of, self._done = progress.total, 0
        now = time.monotonic()
        passed = now - self._when
        if passed < LINE_SECONDS:
            return
        if progress.total is None and self._count is not None:
            self._total, self._count = self._count(), None
        whole = progress.total or self._total
        done = f"{progress.done} of {whole}" if whole else f"{progress.done}"
        rate = (progress.done - self._done) / passed
        left = (whole - progress.done) / rate if whole and rate else 0.0
        note(f"{progress.stage}: {done}, {pace(rate)} a second{_left(left)}")
        self._done, self._when = progress.done, now


def pace(rate: float) -> str:
    """A rate as a number that says something of slow ones, too."""
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


def _left(seconds: float) -> str:
    """How long it still takes, in words, where that is a minute or more."""
    if seconds < 60:
        return ""
    minutes = round(seconds / 60)
    if minutes < 90:
        return f", about {counted(minutes, 'minute')} left"
    return f", about {counted(round(minutes / 60), 'hour')} left"
