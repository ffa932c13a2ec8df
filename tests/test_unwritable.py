"""Full disks and missing permissions: a clear error, no half of a batch, and reads still work."""

from __future__ import annotations

import io
import os
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path

import pytest
from conftest import picture, write_toy_encoder
from crashing import prepare_process
from test_faults import answers, run, unit

from siamese_search.embedding.encoder import Encoder
from siamese_search.errors import StorageError
from siamese_search.files import write_whole
from siamese_search.gallery.gallery import Gallery


def in_new_process(function: Callable[..., None], *arguments: object) -> None:
    """Call a function of this module in a fresh process; its failures are ours."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(function, *arguments).result()


def enrol_until_full(
    root: Path, limit: Callable[[int], None], sizes: list[int], in_place: bool
) -> None:
    """Try every writing operation where ``limit`` lets it write so much and no more."""
    prepare_process()
    fine = Encoder.open(write_toy_encoder(root / "fine"))
    coarse = Encoder.open(write_toy_encoder(root / "coarse", pool=8))
    for number in range(24):
        picture(number).save(root / f"{number:02}.png")
    paths = sorted(root.glob("*.png"))
    folder = root / "gallery"
    with Gallery.open(folder, fine) as gallery:
        gallery.enroll(paths[:16])
        gallery.compact()
        names = [name for name, _ in gallery.identities()]
    before = answers(folder)
    database = (folder / "gallery.db").stat().st_size
    operations: list[Callable[[Gallery], object]] = [
        lambda gallery: gallery.enroll(paths),
        lambda gallery: gallery.enroll(paths, copy=True),
        lambda gallery: gallery.compact(),
        lambda gallery: gallery.rebuild(),
        lambda gallery: gallery.rebuild(coarse),
        lambda gallery: gallery.remove(names[0]),
        lambda gallery: gallery.relabel(names[0], "renamed " * 500),
    ]
    refusals: list[str] = []
    for size in sizes:
        for operation in operations:
            shutil.copytree(folder, root / "trial")
            with Gallery.open(root / "trial", fine) as gallery:
                limit(size)
                try:
                    operation(gallery)
                except StorageError as error:
                    refusals.append(str(error))
                finally:
                    # A limit on a file's size, unlike a disk, also forbids to undo a change.
                    if size >= database or not in_place:
                        assert gallery.check() == []
                        assert len(gallery.search(unit(3, gallery.encoder.dimension, 1), 5)) == 2
                    limit(resource.RLIM_INFINITY)
                    assert gallery.check() == []
                    kept = len(gallery)
                # Batches are of five, one identity each, so half of one would show.
                assert kept in (15, 16, 21, 24), kept
            with Gallery.open(root / "trial") as gallery:
                gallery.enroll(paths)
                gallery.compact()
                assert gallery.check() == []
            shutil.rmtree(root / "trial")
    assert answers(folder) == before
    assert len(refusals) > len(sizes)
    assert all(str(root / "trial") in refusal for refusal in refusals)


def with_limited_files(root: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (min(size, hard) if hard > 0 else size, hard))

    enrol_until_full(
        root,
        limit,
        [0, 100, 600, 3000, 4000, 20_000, 40_000, 160_000, 240_000, 260_000, 290_000],
        True,
    )


def test_a_full_disk_stops_a_write_and_nothing_else(tmp_path: Path) -> None:
    in_new_process(with_limited_files, tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("needs root to mount a small disk")
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def with_small_disk(root: Path) -> None:
    def limit(size: int) -> None:
        (root / "ballast").unlink(missing_ok=True)
        if size != resource.RLIM_INFINITY:
            free = shutil.disk_usage(root).free
            (root / "ballast").write_bytes(b"x" * max(0, free - size))

    enrol_until_full(root, limit, [0, 4096, 12_288, 40_960], False)


def test_a_small_disk_that_fills_up_stops_a_write_and_nothing_else(small_disk: Path) -> None:
    in_new_process(with_small_disk, small_disk)


@pytest.fixture
def reachable(toy_folder: Path) -> Iterator[Path]:
    """A folder that every user can look into, with a gallery and its encoder."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        shutil.copytree(toy_folder, root / "toy")
        for number in range(6):
            picture(number).save(root / f"{number}.png")
        with Gallery.open(root / "gallery", Encoder.open(root / "toy")) as gallery:
            gallery.enroll([root / f"{number}.png" for number in range(5)])
            gallery.compact()
        yield root
        (root / "gallery").chmod(0o755)


def look_without_permission(root: Path, journal: bytes) -> None:
    prepare_process()
    results: dict[str, tuple[int, str, str]] = {}
    gallery = ["--gallery", str(root / "gallery"), "--json"]
    commands = {
        "query": ["query", str(root / "2.png")],
        "list": ["list"],
        "info": ["info"],
        "check": ["check"],
        "add": ["add", str(root / "5.png")],
        "copying": ["add", "--copy", str(root / "5.png")],
        "remove": ["remove", "1"],
        "relabel": ["relabel", "1", "one"],
        "compact": ["compact"],
        "rebuild": ["rebuild"],
    }
    # To have all imported while it may be, with a gallery of its own.
    shutil.copytree(root / "gallery", root / "spare", ignore=shutil.ignore_patterns("*-journal"))
    run(pytest.MonkeyPatch(), "query", str(root / "2.png"), "--gallery", str(root / "spare"))
    if os.geteuid() == 0:
        os.setuid(65534)
    for name, command in commands.items():
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
            with redirect_stderr(io.StringIO()) as err:
                code = run(patch, *command, *gallery)
            results[name] = code, out.getvalue(), err.getvalue()
    if journal:
        # Nobody may roll it back, so nobody may look past it.
        assert {code for code, _, _ in results.values()} <= {1, 2}, results
        return
    for name in ("query", "list", "info", "check"):
        assert results.pop(name)[0] == 0, name
    for name, (code, out_text, err_text) in results.items():
        assert (code, out_text) == (2, ""), name
        assert err_text.startswith("error: "), name
        assert "permission" in err_text.lower(), err_text


@pytest.mark.parametrize("journal", [b"", b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\0" * 504])
def test_a_gallery_without_write_permission_can_be_read_but_not_changed(
    journal: bytes, reachable: Path
) -> None:
    folder = reachable / "gallery"
    if journal:
        (folder / "gallery.db-journal").write_bytes(journal)
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    in_new_process(look_without_permission, reachable, journal)


@pytest.mark.parametrize("kind", ["folder", "pipe", "nowhere"])
def test_a_file_is_written_over_no_other_thing(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "folder":
        target.mkdir()
    elif kind == "pipe":  # as a device is: it would be gone
        os.mkfifo(target)
    else:
        target = tmp_path / "nowhere" / "target"
    with pytest.raises(StorageError, match="target"):
        write_whole(target, b"content")
    assert target.is_dir() == (kind == "folder")
    assert target.is_fifo() == (kind == "pipe")
