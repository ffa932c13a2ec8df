"""Arguments from Python: one or many, in their ranges, and named where they are neither."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import picture

from siamese_search import Encoder, Gallery, Identification, evaluate
from siamese_search.errors import ImageError, UsageError
from siamese_search.records import ImageFile


@pytest.fixture(scope="module")
def gallery(toy: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """That no test changes."""
    return filled(tmp_path_factory.mktemp("asked"), toy)


def filled(folder: Path, encoder: Encoder) -> Gallery:
    made = Gallery.open(folder / "gallery", encoder)
    images = [picture(seed) for seed in range(4)]
    made.enroll(images, labels=list("abab"), metadata=[{"year": n} for n in range(4)])
    return made


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda g: g.list_identities(limit=-1), "limit is -1: give a whole number from 0"),
        (lambda g: g.list_identities(offset=-3), "offset is -3"),
        (lambda g: g.list_identities(5), "search is 5: it needs text"),
        (lambda g: g.count_identities(5), "search is 5"),
        (lambda g: g.items("a", limit=0), "limit is 0: give a whole number from 1"),
        (lambda g: g.items("a", after="x"), "after is 'x'"),
        (lambda g: g.sample(-1), "limit is -1"),
        (lambda g: g.left_out(0), "limit is 0"),
        (lambda g: g.left_out(items="a"), "items is 'a': it needs a number"),
        (lambda g: g.audit(duplicate=5), "duplicate is 5: give a cosine"),
        (lambda g: g.undo("3"), "number is '3': give a whole number"),
        (lambda g: g.redo(0), "number is 0"),
        (lambda g: g.unknown("x"), "number is 'x'"),
        (lambda g: g.enroll_unknowns("x", "y"), "number is 'x'"),
        (lambda g: g.image(1), "item is 1: it needs an Item"),
        (lambda g: g.search(g.encoder.embed(picture(0)), "3"), "k is '3'"),
        (lambda g: g.identify(picture(0), where={"a": ["x"]}), "where is .*numbers or dates"),
        (lambda g: g.items_where({"a": ["x"]}), "where is"),
        (lambda g: g.items_by_number("x"), "numbers is 'x'"),
        (lambda g: g.calibrate(turns="x"), "x turns"),
        (lambda g: g.calibrate(strangers=[picture(0)]), r"strangers\[0\] is of type Image"),
        (lambda g: evaluate(g, cast(Any, [("a", "b")])), r"probes\[0\] is of type tuple"),
        (lambda g: evaluate(g, "nowhere"), "nowhere: no such file"),
        (lambda g: g.identify(picture(0), where={"a": "\ud800"}), "where is .* that are none"),
        (lambda g: g.items_where({"\ud800": "a"}), "where is .* that are none"),
        (
            lambda g: g.enroll([picture(9)], labels=["a"], metadata={"a": "\udfff\ud800"}),
            "metadata is .* that are none",
        ),
        (lambda g: g.enroll(["\udfff.jpg"]), r"'\\udfff.jpg' cannot be the path of a file"),
        (lambda g: g.calibrate(strangers=["a\0b"]), r"'a\\x00b' cannot be the path"),
        (lambda g: g.export("\udfff.zip"), "cannot be the path"),
        (lambda g: g.export_items("\udfff.csv"), "cannot be the path"),
        (lambda g: g.copy("a\0b"), "cannot be the path"),
        (lambda g: Gallery.open("\udfff", g.encoder), "cannot be the path"),
        (lambda g: Gallery.exists("a\0b"), "cannot be the path"),
        (lambda g: Gallery.exists(cast(Any, None)), "None is no path"),
        (lambda g: g.items("a", after=2**70), "after is 1180591620717411303424: .* of 64 bits"),
        (lambda g: g.list_identities(offset=2**70), "offset is"),
        (lambda g: g.unknown(2**70), "number is"),
        (lambda g: g.audit(rule=cast(Any, ["best"])), "unknown rule"),
        (lambda g: g.verify(picture(0), picture(1), cast(Any, np.ones(2))), "threshold is"),
        (lambda g: g.identify_embeddings(np.eye(1, 49), encoder=cast(Any, "toy")), "encoder is"),
        (lambda g: g.identify_embeddings(np.eye(1, 49), turns=2), "1 embedding, not of 2 turns"),
        (lambda g: evaluate(cast(Any, "gallery"), "probes"), "gallery is 'gallery'"),
        (lambda g: g.encoder.protected("a\0b"), "cannot be the path"),
    ],
)
def test_what_makes_no_sense_is_named(
    gallery: Gallery, ask: Callable[[Gallery], object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        ask(gallery)


def test_items_stand_for_their_numbers(toy: Encoder, tmp_path: Path) -> None:
    gallery = filled(tmp_path, toy)
    (first,), (second,) = (gallery.items_by_number(number) for number in (1, 2))
    assert gallery.items_by_number([first, 2]) == [first, second]
    assert [one.item for one in gallery.left_out(items=[second])] == [2]
    assert gallery.split(tmp_path / "part", [first], keep=True).items == 1
    assert gallery.relabel(None, "new", second) == 1
    assert gallery.remove(item=gallery.items("new")) == 1
    with pytest.raises(UsageError, match="needs a number"):
        gallery.drop_unknowns(cast(Any, first))


def test_one_is_taken_as_many_and_numbers_as_plain_ones(gallery: Gallery, tmp_path: Path) -> None:
    picture(0).save(tmp_path / "0.png")
    one, year, half = cast(tuple[Any, ...], (np.int64(1), {"year": 1}, np.float32(0.5)))
    assert [item.number for item in gallery.items_by_number(one)] == [1]
    assert gallery.covers("a") == {"a": 1}
    for probes in (tmp_path / "0.png", str(tmp_path), ImageFile(str(tmp_path / "0.png"), "a")):
        assert evaluate(gallery, probes).figures
    (answer,) = gallery.identify(picture(1), where=year, threshold=half)
    assert answer.matches[0].item == 2
    found = gallery.verify(picture(0), picture(1), threshold=half)
    assert type(answer.threshold) is type(found.threshold) is float
    assert gallery.enroll(picture(1), label="b", watch=None).skipped == 1
    assert not list(gallery.left_out(items=[2**70]))
    looks, none = gallery.encoder.embed([picture(0)] * 2), np.array([None, None])
    (turned,) = gallery.identify_embeddings(looks, places=cast(Any, none), turns=2)
    assert turned.matches[0].item == 1


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 5, 3)), r"float64 and shape \(4, 5, 3\).*array \* 255"),
        (np.zeros((4, 5, 1), np.uint8), r"take array\[..., 0\]"),
        (np.zeros((4, 5, 4), np.uint8), r"fromarray"),
        (np.zeros((3, 4, 5), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((4, 5, 3), np.int64), r"int64 .* it needs uint8"),
        (object(), "of type object: a picture is a path"),
    ],
)
def test_one_array_that_is_no_picture_loses_no_other(
    gallery: Gallery, array: Any, said: str
) -> None:
    images = [picture(0), array, picture(1)]
    first, wrong, last = [answer for _, answer in gallery.identify_each(images)]
    assert isinstance(first, Identification)
    assert isinstance(last, Identification)
    assert isinstance(wrong, ImageError)
    with pytest.raises(ImageError, match=r"images\[1\]: .*" + said):
        gallery.identify(images)
    report = gallery.enroll(images, labels=["a", "x", "b"])
    assert (report.skipped, [one.path for one in report.rejected]) == (2, ["images[1]"])


def test_a_plain_install_says_what_training_needs() -> None:
    """Without torch and what comes with it."""
    code = """
import sys
for name in ("torch", "timm", "torchvision", "safetensors", "pytorch_metric_learning"):
    sys.modules[name] = None
import siamese_search
from siamese_search import *
assert hasattr(siamese_search, "train") and siamese_search.errors
try:
    train("photos", "encoder")
except siamese_search.errors.RuntimeUnavailable as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "training needs torch: pip install 'siamese-search[train]'\n"
