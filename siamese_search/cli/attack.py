"""``benchmark --attack``: how answers hold when pictures are changed, and what is printed of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from siamese_search.cli.common import name_rejections, note, print_json, progress_bar
from siamese_search.records import ImageFile, Rejection
from siamese_search.words import duration

if TYPE_CHECKING:
    from siamese_search.evaluation.robustness import Robustness
    from siamese_search.gallery.gallery import Gallery


@dataclass(frozen=True)
class Planned:
    """What was asked for: see ``robustness.Plan``."""

    kind: str
    limit: int
    steps: int
    seed: int


@dataclass(frozen=True)
class Attacked:
    """What was measured, with a title and what could not be read."""

    title: str
    found: Robustness
    rejected: tuple[Rejection, ...]


def attack_gallery(gallery: Gallery, files: Sequence[ImageFile], planned: Planned) -> Robustness:
    """Attack a gallery's answers to labelled files; says first how long that takes."""
    from siamese_search.evaluation.campaign import Campaign
    from siamese_search.evaluation.robustness import Plan

    plan = Plan(planned.kind, planned.limit, planned.steps, planned.seed)
    campaign = Campaign(gallery, files, plan)
    note(f"this takes about {duration(campaign.seconds())} at most; --limit N changes fewer probes")
    with progress_bar("attacking") as watch:
        return campaign.measured(watch)


def print_attacked(attacked: Attacked, report: Path | None, as_json: bool) -> None:
    """Print what was measured, name what could not be read, and write the report if one is asked
    for.
    """
    title, found = attacked.title, attacked.found
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        _print(title, found)
    name_rejections(attacked.rejected)
    if report is not None:
        from siamese_search.evaluation.robustness_report import write_robustness

        write_robustness(report, title, found)
        plots = "" if find_spec("matplotlib") else "; for plots: pip install 'siamese-search[plot]'"
        note(f"the report is in {report}{plots}")


def _print(title: str, found: Robustness) -> None:
    from siamese_search.evaluation.robustness_words import outcome_rows, robustness_lines

    typer.echo(title)
    for line in robustness_lines(found):
        typer.echo(line)
    rows = outcome_rows(found)
    kept = [place for place in range(len(rows[0])) if any(row[place] for row in rows[1:])]
    widths = [max(len(row[place]) for row in rows) for place in kept]
    aligned: list[Callable[[str, int], str]] = [str.ljust, str.ljust, *[str.rjust] * len(kept)]
    for row in rows:
        cells = zip(kept, widths, aligned, strict=False)
        typer.echo("  " + "  ".join(to(row[place], width) for place, width, to in cells).rstrip())
