"""What answers say in words, and how arguments out of range are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import picture

from siamese_search import Encoder, Gallery, evaluate
from siamese_search.errors import UsageError
from siamese_search.evaluation.splits import Split, evaluate_splits
from siamese_search.evaluation.verdict import compared, sure, verdict
from siamese_search.records import Identification, Match, Verification

SATSUMA = Match("satsuma", 0.71234, 3, "satsuma.png")
UNKNOWN = Identification(None, 0.71234, 0.013, 0.8, (SATSUMA,))


def test_a_confidence_stands_beside_the_name_that_it_is_of() -> None:
    assert verdict(UNKNOWN) == "unknown (nearest: satsuma, 1% sure; score 0.712, threshold 0.800)"
    named = replace(UNKNOWN, identity="satsuma", confidence=0.9)
    assert verdict(named) == "satsuma (90% sure; score 0.712)"
    never = replace(UNKNOWN, matches=(replace(SATSUMA, distractor=True),), confidence=0.9)
    said = "unknown, like a distractor (nearest: satsuma, 90% sure; score 0.712)"
    assert verdict(never) == said
    same = Verification(True, 0.9, 0.8, 0.7)
    assert compared(same) == "same (80% sure; score 0.900, threshold 0.700)"
    said = "different (30% sure that they are the same; score 0.600, threshold 0.700)"
    assert compared(Verification(False, 0.6, 0.3, 0.7)) == said


def test_nothing_is_said_to_be_certain() -> None:
    assert [sure(one) for one in (0.0, 0.0099, 0.01, 0.99, 0.991, 1.0)] == [
        "less than 1% sure", "less than 1% sure", "1% sure", "99% sure", "more than 99% sure",
        "more than 99% sure",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [7, -1, 0, float("nan"), "0.1", 0.0009, 0.31])
def test_a_rate_out_of_range_is_refused_with_its_name_its_range_and_the_value(
    tmp_path: Path, toy: Encoder, value: float
) -> None:
    said = rf"^fpir is {value}: give a share of strangers from 0\.001 to 0\.3, like 0\.01"
    probe = tmp_path / "probe.png"
    picture(0).save(probe)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([probe])
        for refused in (
            lambda: gallery.identify([probe], fpir=value),
            lambda: gallery.identify_each([probe], fpir=value),
            lambda: gallery.identify_embeddings(np.eye(1, 49, dtype=np.float32), fpir=value),
            lambda: gallery.calibrate(value),
            lambda: evaluate(gallery, [probe], fpir=value),
            lambda: evaluate_splits(toy, [], Split(fpir=value)),
        ):
            with pytest.raises(UsageError, match=said):
                refused()


@pytest.mark.parametrize("value", [7, -1.1, float("nan")])
def test_so_is_a_threshold(tmp_path: Path, toy: Encoder, value: float) -> None:
    probe = tmp_path / "probe.png"
    picture(0).save(probe)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([probe])
        for refused in (
            lambda: gallery.identify([probe], threshold=value),
            lambda: gallery.verify(probe, probe, threshold=value),
        ):
            with pytest.raises(UsageError, match=f"^threshold is {value}: give a cosine from -1"):
                refused()
        assert gallery.identify([probe], threshold=1)[0].threshold == 1
