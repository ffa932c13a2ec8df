"""What ``calibrate`` prints: what was asked, what decides now, and what is to be expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from siamese_search.cli.common import DEFAULT_GALLERY
from siamese_search.cli.program import command
from siamese_search.words import counted

if TYPE_CHECKING:
    from siamese_search.records import Calibration, GalleryInfo

CHOSEN = ("fpir", "rule", "source", "turns")  # what a calibration was asked for
MOST = 0.5  # of one's own pictures: below this there is advice how to name more


def described(made: Calibration, now: GalleryInfo, kept: bool = False) -> Iterator[str]:
    """A calibration, and what the gallery has learned for it, in plain lines. The rate is ``kept``
    where it is the one that was chosen before.
    """
    from siamese_search.gallery.learning import LEAST_GAIN

    found = made.deciding
    yield _asked(found, kept)
    yield _threshold(found)
    yield _own(found)
    yield _expected(found)
    known = now.threshold is not None  # something of the encoder
    if found.extrapolated:
        by = "what is known of the encoder" if known else "how best scores usually fall off"
        yield (
            f"  they are few for such a rate, which about {_needed(found):,} would show: the rest"
            f" is reckoned from {by}"
        )
    if not found.fitted:
        by = "reckoned from what is known of the encoder, too" if known else "not told"
        yield (
            f"how sure: {by}, since too few identities have several pictures that find each other"
        )
    if now.metric is not None:
        yield f"comparing: {now.metric}"
    helps = made.closer_gain is None or 100 * made.closer_gain >= LEAST_GAIN
    if now.closer is not None and (helps or made.looked):
        yield f"closer look: {now.closer}"


def warning(made: Calibration) -> str | None:
    """That few of one's own would get their name, and how to name more; None where many would."""
    found = made.deciding
    if found.named is None or found.named >= MOST:
        return None
    ways = "; ".join(_ways(found, found.named))
    return f"warning: only {found.named:.0%} of your own pictures would get their name: {ways}"


def replaced(
    before: Calibration | None,
    found: Calibration,
    gallery: Path,
    now: GalleryInfo,
    choices: Mapping[str, str],
) -> str | None:
    """What a new calibration has replaced, and what goes back to it; None where that was alike, or
    nothing. ``choices``, of metric and closer look, are those of before that are others now.
    """
    from siamese_search.evaluation.words import percent
    from siamese_search.gallery.staleness import again

    if before is None and now.threshold is None:
        return None
    if before is None:
        was, words = "the encoder's threshold", "calibrate --off"
    elif not choices and all(getattr(before, one) == getattr(found, one) for one in CHOSEN):
        return None
    else:
        was = f"the calibration for {percent(before.fpir)} of strangers"
        words = again(before) + "".join(f" --{name} {one}" for name, one in choices.items())
    return (
        f"note: this replaced {was}; `{command(words, gallery, DEFAULT_GALLERY)}` goes back to that"
    )


def unused(gallery: Path, now: GalleryInfo) -> str | None:
    """That the places that nothing looks at any more are kept, and until when."""
    if not now.places:
        return None
    by = f"`{command('compact', gallery, DEFAULT_GALLERY)}` or a rebuild"
    return (
        f"note: {counted(now.places, 'item')} still have the places that a closer look needs; {by}"
        " deletes them, and only a rebuild with the pictures at hand makes them again"
    )


def _asked(found: Calibration, kept: bool) -> str:
    from siamese_search.decision.calibration import FPIR
    from siamese_search.evaluation.words import percent

    default = "the default" if found.fpir == FPIR else f"the default is {FPIR:g}, {percent(FPIR)}"
    default = "as chosen before" if kept else default
    rate = f"{percent(found.fpir)} of strangers, things that are not enrolled, may get a name"
    turns = f", looked at in {found.turns} turns each" if found.turns > 1 else ""
    return f"asked: about {rate}{turns} (--fpir {found.fpir:.3g}; {default})"


def _threshold(found: Calibration) -> str:
    from siamese_search.decision.calibration import threshold_at
    from siamese_search.decision.rules import DEFAULT_RULE

    needed = threshold_at(found.fpir, found.thresholds)
    rule = f", scored by the rule {found.rule}" if found.rule != DEFAULT_RULE else ""
    return (
        "threshold: the best identity is named where its score, less half of the second best one's,"
        f" is {needed:.3f} or more{rule}"
    )


def _own(found: Calibration) -> str:
    if found.named is None or not found.genuine:
        return (
            "your own: how many would get their name cannot be told, since no identity has two"
            " pictures"
        )
    pictures = counted(found.genuine, "picture")
    return (
        f"your own: {found.named:.0%} of {pictures} would get their name, each looked up without"
        " itself; of pictures less like them, fewer"
    )


def _ways(found: Calibration, named: float) -> Iterator[str]:
    """How to name more of one's own than these."""
    from siamese_search.evaluation.words import percent

    laxer = {rate: share for rate, share in found.named_at.items() if rate > found.fpir}
    enough = [rate for rate, share in laxer.items() if share >= MOST]
    rate = min(enough, default=max(laxer, default=None))
    if rate is not None and laxer[rate] > named:
        only = "" if enough else "only "
        share = f"{only}{laxer[rate]:.0%}"
        yield f"--fpir {rate:g} would name {share}, and {percent(rate)} of strangers"
    yield "more pictures of each identity help"
    if found.source == "gallery" and found.extrapolated:
        yield "so may pictures of strangers (--strangers FOLDER): then less is reckoned"
    yield "wrong labels would show in `siasearch audit`"


def _expected(found: Calibration) -> str:
    """What share of strangers is to be expected, and who tells that."""
    from siamese_search.evaluation.words import percent

    things = found.things or found.identities
    if found.source == "gallery":
        who = f"your {counted(things, 'identity', 'identities')}, each a stranger to the others"
    elif things < found.strangers:
        who = f"{counted(found.strangers, 'picture')} of {counted(things, 'different stranger')}"
    else:
        who = (
            f"{counted(found.strangers, 'picture')}, each of another stranger (pictures of one"
            " thing belong in a folder of their own)"
        )
    return (
        f"expect: {percent(found.lower)} to {percent(found.upper)} of different strangers to get a"
        f" name, told by {who}; one that looks like yours may get it time and again"
    )


def _needed(found: Calibration) -> int:
    """About how many different strangers would show the rate, to two figures."""
    from siamese_search.evaluation.metrics import samples_needed

    things = found.things or found.identities
    count = things * samples_needed(found.fpir) / (found.independent or things)
    return int(float(f"{count:.2g}"))
