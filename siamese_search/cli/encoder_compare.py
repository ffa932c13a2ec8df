"""``encoder compare``: which encoder is the best for somebody's own pictures."""

from __future__ import annotations

import dataclasses
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from siamese_search.cli.common import (
    DeviceOption,
    JsonOption,
    name_rejections,
    note,
    print_json,
    progress_bar,
    say,
)
from siamese_search.errors import RuntimeUnavailable, UsageError
from siamese_search.files import require_place
from siamese_search.pictures.sources import find, nameable, not_empty
from siamese_search.records import ImageFile, Rejection
from siamese_search.words import counted, printable

if TYPE_CHECKING:
    from siamese_search.evaluation.comparison import Comparison


def compare(
    encoders: Annotated[
        list[str],
        typer.Argument(metavar="ENCODER...", help="Two encoders or more, names or folders."),
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Labelled pictures: a folder's name is the identity, as for `add`.",
        ),
    ],
    shots: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pictures to enrol of each, beside one; default: 5 at most, so that as many others"
            " are left to ask about.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=5, help="How many draws.")] = 10,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PNG", help="Draw accuracy against images/s."),
    ] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare encoders on your own labelled pictures: what they find, how fast, and what it takes.

    recall@1: the nearest other picture shows the same thing. One shot, and several: that many
    pictures of half of the things are enrolled, all other pictures are asked, and the right thing
    is the best; *calibrated* as a gallery answers after `siasearch calibrate`. TPIR: it is named as
    well, where at most that share (FPIR) of the pictures of other things get a name. Memory is the
    most that a process holds which embeds. Encoders take turns, so that their rates compare.
    """
    if out is not None:
        if out.suffix.lower() != ".png":
            raise UsageError(f"--out {out}: plots are PNG files, name one that ends in .png")
        if not find_spec("matplotlib"):
            raise RuntimeUnavailable("plots need matplotlib: pip install 'siamese-search[plot]'")
        require_place(out)
    # Threads that spin while they wait slow a shared machine down many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from siamese_search.evaluation import comparison

    rejected: list[Rejection] = []
    files: list[ImageFile] = []
    kind = comparison.common_kind(encoders)
    for one in nameable(not_empty(find([str(data)], kind=kind), [str(data)], kind)):
        if isinstance(one, ImageFile):
            files.append(one)
        else:
            rejected.append(one)
    with progress_bar("embedding") as watch:
        found = comparison.compare(encoders, files, shots, seeds, device, watch)
    if as_json:
        print_json(_as_json(found, data))
    else:
        _print(found, data)
    if out is not None:
        from siamese_search.evaluation.comparison_words import plot
        from siamese_search.files import write_whole

        write_whole(out, plot(found, _title(found, data)))
        note(f"accuracy against images/s is drawn in {out}")
    rejected += found.rejected
    name_rejections(rejected)
    if rejected:
        raise typer.Exit(1)


def _title(found: Comparison, data: Path) -> str:
    things = counted(found.identities, "thing")
    return f"{printable(data)}: {counted(found.pictures, 'picture')} of {things}"


def _print(found: Comparison, data: Path) -> None:
    from siamese_search.evaluation import comparison_words, words

    say(
        f"{_title(found, data)}; {found.draws} draws, each enrols another half of the things;"
        " ± one standard error"
    )
    _print_table(comparison_words.table(found))
    for line in words.left_out_lines(found.left_out):
        say(line)
    for other in dict.fromkeys(one.other for one in found.differences):
        say(f"{found.differences[0].better} against {other}, on the same pictures:")
        _print_table(comparison_words.differences(found, other), left=(0, 2))
    for line in comparison_words.verdict(found):
        say(line)


def _print_table(rows: list[list[str]], left: tuple[int, ...] = (0,)) -> None:
    """Rows of cells in columns, numbers on the right, but for those on the ``left``."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{cell:<{width}}" if place in left else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        say(f"  {'  '.join(cells)}".rstrip())


def _as_json(found: Comparison, data: Path) -> dict[str, Any]:
    facts = dataclasses.asdict(found)
    # One line a figure and draw would say the same thing many times.
    facts["left_out"] = list({one["figure"]: one for one in facts["left_out"]}.values())
    return {"data": printable(data), **facts}


def register(group: typer.Typer) -> None:
    """Add this module's command."""
    group.command()(compare)
