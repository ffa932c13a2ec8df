"""Outcomes of attacks in words and numbers for people, on pages and terminals alike."""

from __future__ import annotations

from typing import NamedTuple

from siamese_search.evaluation.robustness import EVADE, IMPERSONATE, Outcome, Robustness, Share
from siamese_search.words import counted

GOALS = {"": "", EVADE: ", to evade", IMPERSONATE: ", to impersonate"}
BOUNDS = "In brackets: where the share lies for other such pictures, nine times of ten."
RENDERED = (
    "Changes are made to the pixels that the encoder takes, after a picture is cropped and scaled."
    " Who can only hand in a file or a print can do less than the attacks; natural changes of a"
    " large picture do less, too."
)
NO_CHECK = "Too few probes to say what a check by agreement of views would refuse: it takes 60."


class OutcomeRow(NamedTuple):
    """A change with its strength, and shares as text; empty where that was not tried."""

    change: str
    strength: str
    evaded: str
    best: str
    misnamed: str
    impersonated: str
    refused: str


def outcome_rows(found: Robustness) -> list[OutcomeRow]:
    """A header, then a row for each outcome."""
    rates = ", ".join(f"{rate:.0%}" for rate in found.agreement)
    header = OutcomeRow(
        "change",
        "strength",
        "no longer named rightly",
        "right one still best",
        "named wrongly",
        "named as chosen",
        f"views refuse, at {rates}" if rates else "",
    )
    return [header, *(_row(one) for one in found.outcomes)]


def _row(one: Outcome) -> OutcomeRow:
    return OutcomeRow(
        one.change + GOALS[one.goal],
        "" if one.strength is None else f"{one.strength:g} {one.of}",
        share_words(one.evaded),
        share_words(one.best),
        share_words(one.misnamed),
        share_words(one.impersonated),
        ", ".join(f"{each.hits / each.of:.0%}" for each in one.refused.values() if each.of),
    )


def share_words(share: Share | None) -> str:
    """As ``3 of 50 (2-15%)``."""
    if share is None or not share.of:
        return ""
    low, high = round(100 * share.lower), round(100 * share.upper)
    return f"{share.hits} of {share.of} ({low}-{high}%)"


def robustness_lines(found: Robustness) -> list[str]:
    """What was attacked, and how the table is to be read."""
    probes = counted(found.enrolled, "probe") + " of enrolled identities"
    lines = [
        f"unattacked, {found.right} of {probes} are named rightly;"
        f" {counted(found.strangers, 'probe')} of strangers",
        f"changed: {found.attacked[0]} of those named rightly, {found.attacked[1]} of strangers",
        BOUNDS,
        RENDERED,
    ]
    if not found.agreement:
        return [*lines, NO_CHECK]
    alone, whole = (1000 * one for one in found.seconds)
    return [
        *lines,
        "Views refuse: of those rightly named, or of an attack's successes, how many a check by"
        " agreement of views would turn down, at the limit that turns down so many unattacked"
        f" pictures. It takes {whole:.0f} ms a picture, {alone:.0f} ms without.",
    ]
