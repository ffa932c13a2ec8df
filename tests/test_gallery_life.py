"""The life of a gallery object: opened by a relative path, shared by threads, closed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import picture

from siamese_search import Encoder, Gallery
from siamese_search.errors import StorageError, UsageError
from siamese_search.storage import database


def test_a_gallery_opened_by_a_relative_path_stays_where_it_is(
    tmp_path: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with Gallery.open("gallery", toy) as gallery:
            gallery.enroll(picture(number), label=name, copy=True)
            gallery.compact()
    monkeypatch.chdir(tmp_path / "a")
    with Gallery.open("gallery") as gallery:
        monkeypatch.chdir(tmp_path / "b")
        gallery.enroll(picture(7), label="new", copy=True)
        gallery.remove("a")
        gallery.compact()
        assert gallery.check() == []
        assert gallery.folder == tmp_path / "a" / "gallery"
    with Gallery.open("gallery") as other:
        assert other.check() == []
        assert other.image(other.items("b")[0])


def checked_while_read(gallery: Gallery) -> None:
    with gallery.reading():
        gallery.check()


@pytest.mark.parametrize(
    "use",
    [
        lambda gallery: (gallery.identities(), gallery.count("a")),
        lambda gallery: gallery.identify(picture(1)),
        lambda gallery: gallery.check(),
        lambda gallery: (gallery.enroll(picture(1), label="a"), gallery.remove("a")),
        lambda gallery: checked_while_read(gallery),
    ],
)
def test_closing_waits_for_other_threads_and_tells_them(
    tmp_path: Path, toy: Encoder, use: Callable[[Gallery], object]
) -> None:
    gallery = Gallery.open(tmp_path / "gallery", toy)
    used, errors = threading.Event(), []

    def work() -> None:
        try:
            while True:
                use(gallery)
                used.set()
        except Exception as error:
            errors.append(error)
            used.set()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert used.wait(60)
    gallery.close()
    for thread in threads:
        thread.join(60)
    # Who removes what another thread has removed hears of that instead.
    assert len(errors) == 3
    assert all(isinstance(error, UsageError) for error in errors)


def test_a_closed_gallery_says_so(tmp_path: Path, toy: Encoder) -> None:
    gallery = Gallery.open(tmp_path / "gallery", toy)
    gallery.enroll(picture(1), label="a")
    stream = gallery.identify_each([picture(1), picture(2)])
    next(stream)
    gallery.close()
    gallery.close()
    uses: list[Callable[[], object]] = [
        lambda: len(gallery),
        lambda: gallery.identify(picture(1)),
        lambda: list(stream),
        lambda: gallery.enroll(picture(3), label="b"),
        lambda: gallery.check(),
        gallery.__enter__,
    ]
    for use in uses:
        with pytest.raises(UsageError, match="gallery is closed"):
            use()


def test_a_gallery_can_be_closed_by_who_reads_it(tmp_path: Path, toy: Encoder) -> None:
    gallery = Gallery.open(tmp_path / "gallery", toy)
    with gallery.reading():
        gallery.close()


def test_nothing_can_be_changed_inside_reading(tmp_path: Path, toy: Encoder) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        with gallery.reading(), pytest.raises(UsageError, match="inside `with gallery"):
            gallery.enroll(picture(1), label="a")
        assert gallery.enroll(picture(1), label="a").added == 1


def test_who_holds_the_database_may_be_of_this_process(
    tmp_path: Path, toy: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.0)
    with Gallery.open(tmp_path / "gallery", toy) as gallery, Gallery.open(gallery.folder) as other:
        gallery.enroll(picture(1), label="a")
        with gallery.reading(), pytest.raises(StorageError, match="another gallery object"):
            other.remove("a")


def test_a_file_is_no_gallery(tmp_path: Path, toy: Encoder) -> None:
    (tmp_path / "file").touch()
    for encoder in (toy, None):
        with pytest.raises(UsageError, match="file is a file: a gallery is a folder"):
            Gallery.open(tmp_path / "file", encoder)


def test_what_is_printed_of_objects_is_short(tmp_path: Path, toy: Encoder) -> None:
    gallery = Gallery.open(tmp_path / "gallery", toy)
    images = [picture(seed) for seed in range(60)]
    report = gallery.enroll(images, labels=[f"id{seed % 30}" for seed in range(60)])
    assert report.numbers == tuple(range(1, 61))
    assert gallery.enroll([images[0], picture(99)], "id0").numbers == (61,)
    assert repr(gallery) == f"<Gallery {gallery.folder}, 30 identities, 61 items>"
    assert repr(toy) == f"<Encoder {toy.location}, 49 dimensions>"
    for shown in (gallery.audit(), gallery.calibrate(), report):
        assert len(repr(shown)) < 500
    gallery.close()
    assert repr(gallery) == f"<Gallery {gallery.folder}, closed>"
