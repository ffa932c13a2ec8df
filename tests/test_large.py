"""Galleries whose index is not exact: what is large elsewhere is 2,000 items here."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from siamese_search import Encoder, Gallery
from siamese_search.errors import UsageError
from siamese_search.index import recipes
from siamese_search.snapshots import Snapshots

FloatArray = npt.NDArray[np.float32]
ITEMS = 2400


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "EXACT_AT_MOST", 2000)


def clustered(dimension: int, count: int = ITEMS) -> tuple[FloatArray, list[str]]:
    """Six to an identity."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(count // 6, dimension)).repeat(6, axis=0)
    vectors += 0.4 * random.normal(size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), [f"id{n // 6}" for n in range(count)]


def test_an_index_becomes_approximate_and_exact_again_with_its_size(
    tmp_path: Path, toy: Encoder
) -> None:
    vectors, names = clustered(toy.dimension)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors[:1800], names[:1800])
        assert (gallery.info()["recipe"], gallery.info()["recall"]) == ("SQfp16", None)
        gallery.enroll_embeddings(vectors[1800:], names[1800:])
        gallery.compact()
        facts = gallery.info()
        assert facts["recipe"] == "PCAR48,IVF512,PQ24x4fs"
        assert facts["recall"] >= 0.99
        answers = gallery.identify_embeddings(vectors[::40])
        assert [answer.identity for answer in answers] == names[::40]
        assert gallery.check() == []
        for name in dict.fromkeys(names[:900]):
            gallery.remove(name)
        gallery.compact()
        assert gallery.info()["recipe"] == "SQfp16"


def test_a_recipe_and_a_recall_hold_until_others_are_chosen(tmp_path: Path, toy: Encoder) -> None:
    vectors, names = clustered(toy.dimension)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors[:1500], names[:1500])
        gallery.compact("HNSW16")
        gallery.compact(recall=0.9)
        gallery.enroll_embeddings(vectors[1500:], names[1500:])
        gallery.compact()
        facts = gallery.info()
        assert (facts["recipe"], facts["indexed"]) == ("HNSW16", ITEMS)
        assert facts["recall"] >= 0.9
        for recall in (0, -1, 1.5, float("nan")):
            with pytest.raises(UsageError, match="share"):
                gallery.compact(recall=recall)
        with pytest.raises(UsageError, match="FAISS makes no index"):
            gallery.compact("")
        gallery.compact("auto")
        assert gallery.info()["recipe"].startswith("PCAR48")


def test_a_recipe_that_does_not_fit_any_more_gives_way_to_auto(
    tmp_path: Path, toy: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    vectors, names = clustered(toy.dimension)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors, names)
        gallery.compact("IVF1800,Flat", 0.5)
        for name in dict.fromkeys(names[:1200]):
            gallery.remove(name)
        # What it has learned from more items would serve fewer as well.
        (tmp_path / "gallery" / gallery.info()["index"]).unlink()
        gallery.compact()
        assert gallery.info()["recipe"] == "SQfp16"
        assert "made by the recipe auto this time" in caplog.text


def test_what_cannot_be_indexed_is_enrolled_all_the_same(
    tmp_path: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vectors, names = clustered(toy.dimension)

    def refusing(*_: object) -> None:
        raise UsageError("no index today")

    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        monkeypatch.setattr("siamese_search.snapshots.write_index", refusing)
        assert len(gallery.enroll_embeddings(vectors[:300], names[:300])) == 300
        assert "no index today" in caplog.text
        assert gallery.identify_embeddings(vectors[:1])[0].identity == "id0"


def test_a_few_changes_do_not_wait_for_a_long_compaction(
    tmp_path: Path,
    toy: Encoder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    vectors, names = clustered(toy.dimension)
    monkeypatch.setattr("siamese_search.snapshots.MANY_ITEMS", 2000)
    monkeypatch.setattr("siamese_search.snapshots.PENDING_SHARE", 100)
    monkeypatch.setattr("siamese_search.snapshots.PENDING_AT_LEAST", 20)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll_embeddings(vectors[:-300], names[:-300])
        before = gallery.info()["index"]
        caplog.set_level(logging.INFO, "siasearch")
        with monkeypatch.context() as patched:
            patched.setattr(Snapshots, "compact", lambda *a, **k: pytest.fail("it waits"))
            gallery.enroll_embeddings(vectors[-300:], names[-300:])
            assert "is compacted by process" in caplog.text
            deadline = time.monotonic() + 60
            # In the other process 2,400 items are few, so that its index is exact.
            while gallery.info()["index"] == before and time.monotonic() < deadline:
                time.sleep(0.1)
        assert (gallery.info()["indexed"], gallery.info()["recipe"]) == (ITEMS, "SQfp16")
        assert gallery.identify_embeddings(vectors[-1:])[0].identity == names[-1]
        assert gallery.check() == []
        assert not gallery.compact_if_due()
