"""A gallery that was used before a fork answers in both processes, and harms neither."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import picture, write_toy_encoder

from siamese_search import Encoder, Gallery

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no forks")
SECONDS = 60  # after which a child hangs


def forked(work: Callable[[], object]) -> int:
    """What a forked process that does this ends with: 0 where it succeeds."""
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    encoder = Encoder.open(write_toy_encoder(tmp_path / "toy"), "cpu")
    gallery = Gallery.open(tmp_path / "gallery", encoder)
    for number in range(8):
        gallery.enroll([picture(number)], label=f"identity {number % 4}")
    gallery.compact()
    return gallery


def test_both_processes_answer_after_a_fork(gallery: Gallery) -> None:
    probes = [picture(seed, 4) for seed in range(8)]
    before = gallery.identify(probes)

    def child() -> None:
        assert gallery.identify(probes) == before
        assert gallery.check() == []
        gallery.close()

    assert forked(child) == 0
    assert gallery.identify(probes) == before


def test_what_a_child_enrols_is_found_by_the_parent_and_by_the_next_child(gallery: Gallery) -> None:
    def asked(name: str) -> None:
        assert gallery.identify([picture(90)])[0].identity == name

    assert forked(lambda: gallery.enroll([picture(90)], label="new")) == 0
    asked("new")
    gallery.relabel("new", "newer")
    assert forked(lambda: asked("newer")) == 0
    assert gallery.check() == []


def test_a_fork_in_the_middle_of_another_threads_work_leaves_no_lock_behind(
    gallery: Gallery,
) -> None:
    queries = np.stack([gallery.encoder.embed([picture(seed)])[0] for seed in range(4)])
    done = threading.Event()

    def enrol() -> None:
        number = 100
        while not done.is_set():
            gallery.enroll([picture(number)], label="more")
            gallery.search(queries, 3)
            number += 1

    thread = threading.Thread(target=enrol)
    thread.start()
    try:
        for _ in range(5):
            assert forked(lambda: gallery.search(queries, 3)) == 0
            assert forked(lambda: gallery.remove(item=gallery.items("more")[0].number)) == 0
    finally:
        done.set()
        thread.join()
    assert gallery.check() == []


def test_a_gallery_that_was_closed_stays_closed_in_a_child(gallery: Gallery) -> None:
    gallery.close()

    def child() -> None:
        with pytest.raises(Exception, match="closed"):
            gallery.identities()

    assert forked(child) == 0
