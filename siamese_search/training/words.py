"""What a run gained, in words. Knows nothing of how that is measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from siamese_search.training.as_gallery import BETTER, CHANCE, WORSE, AsGallery, Difference
from siamese_search.words import counted

if TYPE_CHECKING:
    from siamese_search.training.run import TrainingReport


def gained(report: TrainingReport) -> Iterator[str]:
    """What was gained over the start, in lines."""
    if report.ended is not None:
        yield f"ended early, {report.ended}"
    if report.recall is None:
        yield "nothing could be held out, so whether it is better than its start is not known"
        return
    pictures = counted(report.held_out_pictures, "held-out picture")
    held = f"{pictures} of {counted(report.held_out_classes, 'class', 'classes')}"
    if report.recall_before is not None:
        yield f"recall@1 on {held}: {report.recall_before:.1%} before, {report.recall:.1%} now"
    if report.gained is not None and report.steps:
        points = _points(report.gained, report.gained_error)
        error = "" if report.gained_error is None else " (± one standard error over the classes)"
        yield f"mAP@R over the start, by plain cosines: {points}{error}"
    found = report.as_gallery
    if found is not None:
        yield f"as a gallery works, {found.against} against what was trained:"
        if found.several is not None:
            yield f"  up to {found.shots} pictures of each enrolled: {_named(found.several)}"
        yield f"  one picture of each enrolled: {_named(found.one_shot)}"
        if found.chosen_of > 1:
            yield (
                f"the same pictures chose the best of {found.chosen_of} epochs, which flatters what"
                " was trained a little"
            )
    if report.adapted is not None:
        one = report.adapted.main
        yield (
            "galleries' metrics begin with how your pictures vary:"
            f" {_points(one.gained, one.error)} named rightly"
        )
    elif report.steps == 0:
        yield "galleries' metrics begin as under the start: nothing better was learned"
    yield from _verdict(report, found)


def _verdict(report: TrainingReport, found: AsGallery | None) -> Iterator[str]:
    if report.steps == 0:
        yield "no step was asked for: the weights are those of the start"
    elif report.kept == 0:
        yield (
            "nothing was gained: the starting weights are kept; more classes or pictures, or more"
            " --steps, may help"
        )
    elif found is None:
        yield "too little was held out to say whether it is better"
    else:
        says = {
            BETTER: f"better: the trained encoder names more rightly than {found.against}",
            WORSE: f"worse: use {found.against}, which names more rightly",
            CHANCE: f"{CHANCE}; more held-out classes might tell",
        }
        one = found.one_shot.verdict
        other = "" if one == found.verdict else f"; with one picture of each: {one}"
        yield says[found.verdict] + other
    if found is not None and not found.unseen:
        yield "these are classes that it was trained on: how it does with new ones is not known"


def _named(found: Difference) -> str:
    points = _points(found.gained, found.error)
    return f"{found.other:.1%} and {found.trained:.1%} named rightly, {points}"


def _points(gained: float, error: float | None) -> str:
    """A difference in points of per cent, with its standard error."""
    spread = "" if error is None else f" ± {100 * error:.1f}"
    return f"{100 * gained:+.1f}{spread} points"
