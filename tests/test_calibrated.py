"""What ``calibrate`` prints, for people who have never heard of error rates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from siamese_search.cli.calibrated import described, replaced, unused, warning
from siamese_search.cli.common import DEFAULT_GALLERY
from siamese_search.decision.calibration import Evidence, fit
from siamese_search.decision.reference import Reference
from siamese_search.decision.rules import DEFAULT_RULE
from siamese_search.records import Calibration, GalleryInfo

NOW = GalleryInfo(
    "g", 40, 80, "general-2", "", 512, 0.8, "", 0, None, 0, None, None, 0,
    metric="learned from 80 items of 40 identities", closer="it puts candidates in order",
)  # fmt: skip


def calibrated(fpir: float, source: str = "gallery", each: int = 2) -> Calibration:
    """Of 80 pictures of 40 things; of as many own ones the evidence goes from 0 to 0.9."""
    random = np.random.default_rng(0)
    shown = [str(number // each) for number in range(80)]
    genuine = np.linspace(0, 0.9, 40)
    owners = [str(number) for number in range(40)]
    right = np.ones(40, bool)
    seen = Evidence(random.normal(0.2, 0.1, 80), shown, genuine, owners, right)
    return fit(seen, Reference.of({}), fpir, DEFAULT_RULE, (40, 80), source)


def said(found: Calibration, now: GalleryInfo = NOW) -> str:
    return "\n".join(described(found, now))


def test_it_says_what_was_asked_what_decides_and_what_to_expect() -> None:
    found = calibrated(0.05, "strangers")
    lines = said(found).splitlines()
    assert lines[0].endswith("(--fpir 0.05; the default is 0.01, 1%)")
    assert lines[0].startswith("asked: about 5% of strangers, things that are not enrolled,")
    assert lines[1].startswith("threshold: ")
    assert f"is {found.thresholds[0.05]:.3f} or more" in lines[1]
    assert f"your own: {found.named:.0%} of 40 pictures would get their name" in lines[2]
    assert "told by 80 pictures of 40 different strangers" in said(found)
    assert "comparing: learned from 80 items" in said(found)
    assert said(calibrated(0.01)).splitlines()[0].endswith("(--fpir 0.01; the default)")
    alone = calibrated(0.05, "strangers", each=1)
    assert "80 pictures, each of another stranger (pictures of one thing belong in" in said(alone)
    assert "in 8 turns each" in said(replace(found, turns=8))
    assert "scored by the rule best" in said(replace(found, rule="best"))


def test_what_says_nothing_is_left_out() -> None:
    found = calibrated(0.05)
    gains = {0.0004: False, -0.01: False, 0.02: True, None: True}
    for gain, told in gains.items():
        assert ("closer look" in said(replace(found, closer=1.0, closer_gain=gain))) == told
    assert "closer look" not in said(found, replace(NOW, closer=None))


def test_a_rate_that_names_few_of_the_own_comes_with_advice() -> None:
    found = calibrated(0.001)
    assert found.named is not None
    assert found.named < 0.5
    shares = found.named_at
    assert list(shares.values()) == sorted(shares.values())
    enough = min(rate for rate, share in shares.items() if share >= 0.5)
    advice = warning(found) or ""
    assert f"only {found.named:.0%} of your own pictures would get their name" in advice
    assert f": --fpir {enough:g} would name {shares[enough]:.0%}, and " in advice
    assert "more pictures of each identity" in advice
    assert "`siasearch audit`" in advice
    assert "--strangers FOLDER" in advice
    assert "--strangers FOLDER" not in (warning(replace(found, source="strangers")) or "")
    assert warning(calibrated(0.1)) is None
    never = replace(found, named=0.0, named_at=dict.fromkeys(found.named_at, 0.0))
    assert "get their name: more pictures of each identity help" in (warning(never) or "")
    some = replace(found, named_at={0.001: found.named, 0.3: 0.45})
    assert "--fpir 0.3 would name only 45%" in (warning(some) or "")
    nobody = replace(found, genuine=0, named=None, named_at={})
    assert "no identity has two pictures" in said(nobody)
    assert warning(nobody) is None


def test_it_says_what_it_replaced_and_how_to_go_back() -> None:
    first = replaced(None, calibrated(0.1), Path("shop"), NOW, {}) or ""
    assert " calibrate --off -g shop`" in first
    before = replace(calibrated(0.05, "strangers"), rule="best", turns=8)
    assert replaced(before, before, DEFAULT_GALLERY, NOW, {}) is None
    said = replaced(before, calibrated(0.05), DEFAULT_GALLERY, NOW, {}) or ""
    assert "the calibration for 5% of strangers" in said
    assert " calibrate --fpir 0.05 --rule best --strangers FOLDER --turns 8`" in said
    choices = {"metric": "auto", "closer": "auto"}
    said = replaced(before, before, DEFAULT_GALLERY, NOW, choices) or ""
    assert " --turns 8 --metric auto --closer auto` goes back" in said


def test_it_says_until_when_places_that_nobody_looks_at_are_kept() -> None:
    assert unused(Path("shop"), NOW) is None
    said = unused(Path("shop"), replace(NOW, places=3)) or ""
    assert "3 items still have the places that a closer look needs" in said
    assert " compact -g shop`" in said


def test_a_rate_that_was_not_typed_is_that_of_before() -> None:
    first = "\n".join(described(calibrated(0.1), NOW, kept=True)).splitlines()[0]
    assert first.endswith("(--fpir 0.1; as chosen before)")


def test_pictures_of_one_thing_widen_what_is_to_be_expected() -> None:
    each, some = (calibrated(0.2, "strangers", number) for number in (1, 16))
    assert (each.things, some.things) == (80, 5)
    assert some.upper - some.lower > 1.5 * (each.upper - each.lower)


@pytest.mark.parametrize("fpir", [0.05, 0.01])
def test_shares_by_rate_survive_storage(fpir: float) -> None:
    found = calibrated(fpir)
    fields = {name: getattr(found, name) for name in found.__dataclass_fields__}
    fields["named_at"] = {str(rate): share for rate, share in found.named_at.items()}
    assert Calibration.of(fields) == found
    del fields["named_at"], fields["things"]  # of an earlier release
    assert Calibration.of(fields) == replace(found, named_at={}, things=None)
