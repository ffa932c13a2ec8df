from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from siamese_search import Encoder, Gallery, Identification, Region
from siamese_search.arrays import FloatArray
from siamese_search.decision.learning import learned
from siamese_search.decision.metric import unit
from siamese_search.errors import ImageError, StorageError, UsageError
from siamese_search.evaluation.inbox import write_groups
from siamese_search.gallery import unknowns
from siamese_search.gallery.grouping import linked, separating, separating_unseen
from siamese_search.records import UnknownGroup

Pictures = Callable[..., Path]


def test_linkage_is_that_of_the_slow_way() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(60, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = [[n] for n in range(60)]
    while True:
        pairs = [
            (float((vectors[a] @ vectors[b].T).min()), i, j)
            for i, a in enumerate(groups)
            for j, b in enumerate(groups)
            if i < j
        ]
        least, i, j = max(pairs)
        if least < 0.3:
            break
        groups[i] += groups.pop(j)
    assert {frozenset(g) for g in linked(vectors, 0.3)} == {frozenset(g) for g in groups}
    assert linked(vectors[:1], 0.5) == [[0]]
    assert len(linked(vectors, 2.0)) == 60
    assert len(linked(vectors, -2.0)) == 1


def test_what_separates_is_told_by_items_of_different_identities() -> None:
    random = np.random.default_rng(1)
    vectors = random.normal(size=(100, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [str(n % 30) for n in range(100)]
    least = separating(vectors, names)
    assert least is not None
    near = [
        max(float(a @ b) for b, other in zip(vectors, names, strict=True) if other != name)
        for a, name in zip(vectors, names, strict=True)
    ]
    assert sum(score > least for score in near) in (4, 5)  # two may be each other's nearest
    assert separating(vectors, ["x"] * 100) is None
    assert separating(np.ones((4, 1), np.float32), list("aabb")) == pytest.approx(0.98)


def test_what_separates_new_things_is_not_told_by_what_a_metric_was_fitted_on() -> None:
    random = np.random.default_rng(0)
    noisy = np.exp(random.standard_normal(96))  # what pictures of one thing differ in
    noisy /= np.sqrt((noisy**2).mean())

    def things(count: int) -> FloatArray:
        centres = np.repeat(0.35 * random.standard_normal((count, 96)), 4, axis=0)
        return unit(centres + noisy * random.standard_normal(centres.shape)).astype(np.float32)

    enrolled, names = things(30), np.repeat(np.arange(30), 4)
    metric = learned(enrolled, names)
    assert metric is not None
    truth = separating(metric.apply(things(30)), names.astype(str).tolist())
    fitted = separating(metric.apply(enrolled), names.astype(str).tolist())
    told = separating_unseen(enrolled, names, None, metric)
    assert truth is not None
    assert fitted is not None
    assert told is not None
    assert abs(told - truth) < 0.5 * abs(fitted - truth)
    assert separating_unseen(enrolled[:40], names[:40], None, metric) is None


@pytest.fixture
def asked(tmp_path: Path, toy: Encoder, pictures: Pictures) -> Gallery:
    """Three views of a stranger, one of another, and one of somebody who is enrolled."""
    gallery = Gallery.open(tmp_path / "gallery", toy)
    gallery.enroll([pictures({"a": 1, "b": 1})])
    for seed, view in ((50, 0), (50, 1), (50, 2), (60, 0), (0, 1)):
        image = picture(seed, noise=3.0 * view)
        image.save(tmp_path / f"{seed}-{view}.png")
    paths = sorted(tmp_path.glob("*.png"))
    answers = dict(gallery.identify_each(paths, keep_unknown=True))
    assert [a.identity for a in answers.values() if not isinstance(a, Exception)].count("a") == 1
    list(gallery.identify_each(paths, keep_unknown=True))  # again keeps nothing twice
    return gallery


def test_what_has_no_file_is_kept_in_the_gallery(tmp_path: Path, toy: Encoder) -> None:
    content = BytesIO()
    picture(71).save(content, "PNG")
    whole = Image.new("RGB", (64, 64))
    whole.paste(picture(73), (8, 16))
    probes = [
        picture(70), content.getvalue(), np.asarray(picture(72)), Region(whole, (8, 16, 32, 32))
    ]  # fmt: skip
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll(picture(1), "a")
        answers = gallery.identify_each([*probes, picture(70), picture(1)], keep_unknown=True)
        assert len(list(answers)) == 6
        assert gallery.count_unknowns() == 4
        for group, seed in zip(gallery.unknowns(), range(70, 74), strict=True):
            assert Path(group.paths[0]).parent == gallery.folder / "unknowns"
            kept = Image.open(BytesIO(gallery.unknown(group.members[0])))
            assert np.array_equal(np.asarray(kept), np.asarray(picture(seed)))
            assert gallery.enroll_unknowns(group.number, str(seed)).added == 1
        assert [one.identity for one in gallery.identify(probes)] == ["70", "71", "72", "73"]
        (gallery.folder / "unknowns").rename(tmp_path / "elsewhere")
        (gallery.folder / "unknowns").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StorageError, match="leads out of the gallery"):
            list(gallery.identify_each([picture(80)], keep_unknown=True))


def test_what_nobody_fits_is_grouped_and_enrolled_under_a_name(
    asked: Gallery, tmp_path: Path
) -> None:
    group, single = asked.unknowns()
    assert [Path(path).name[:2] for path in group.paths] == ["50"] * 3
    assert [Path(path).name for path in single.paths] == ["60-0.png"]
    assert group.nearest is not None
    assert group.nearest.identity in "ab"
    (tmp_path / "50-2.png").unlink()
    report = asked.enroll_unknowns(group.number, "newcomer")
    assert report.added == 2
    assert [rejection.path for rejection in report.rejected] == [str(tmp_path / "50-2.png")]
    assert asked.identify([picture(50, noise=4)])[0].identity == "newcomer"
    assert sorted(len(one.paths) for one in asked.unknowns()) == [1, 1]  # the lost one stays
    with pytest.raises(UsageError, match="no group 99"):
        asked.enroll_unknowns(99, "x")
    assert asked.drop_unknowns(single.number) == 1
    assert asked.drop_unknowns() == 1
    assert asked.unknowns() == []


def test_what_is_enrolled_otherwise_is_kept_no_more(asked: Gallery, tmp_path: Path) -> None:
    kept = asked.unknowns()
    asked.enroll([tmp_path / "50-0.png", tmp_path / "60-0.png"], label="newcomer")
    (group,) = asked.unknowns()
    assert sorted(Path(path).name for path in group.paths) == ["50-1.png", "50-2.png"]
    list(asked.identify_each([tmp_path / "60-0.png"], threshold=1.0, keep_unknown=True))
    assert asked.count_unknowns() == 2
    asked.undo()
    assert [group.members for group in asked.unknowns()] == [group.members for group in kept]


def test_a_rebuild_embeds_them_again(asked: Gallery, coarse: Encoder, tmp_path: Path) -> None:
    (tmp_path / "60-0.png").unlink()
    assert asked.rebuild(coarse).switched
    (group,) = asked.unknowns()  # the other's file is gone
    assert len(group.paths) == 3
    (again,) = asked.unknowns()
    assert again == group


def test_what_looks_like_a_distractor_is_not_kept(asked: Gallery, pictures: Pictures) -> None:
    strange = pictures({"poster": 1}, "strange", first_seed=80)
    asked.enroll([strange], distractor=True)
    before = asked.unknowns()
    list(asked.identify_each([strange / "poster" / "0.png"], keep_unknown=True))
    assert asked.unknowns() == before


def test_a_file_that_was_written_over_is_not_enrolled_for_another(
    tmp_path: Path, toy: Encoder, pictures: Pictures
) -> None:
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([pictures({"a": 1})])
        for seed in (50, 60):  # a camera that always writes to the same file
            picture(seed).save(tmp_path / "snapshot.png")
            list(gallery.identify_each([tmp_path / "snapshot.png"], keep_unknown=True))
        first, second = sorted(gallery.unknowns(), key=lambda group: group.number)
        report = gallery.enroll_unknowns(first.number, "anna")
        assert report.added == 0
        assert "has other content than before" in report.rejected[0].reason
        assert gallery.enroll_unknowns(second.number, "berta").added == 1
        assert gallery.identify([picture(60)])[0].identity == "berta"


def test_a_switch_of_encoders_meanwhile_loses_no_probe(
    tmp_path: Path, toy: Encoder, coarse: Encoder, pictures: Pictures
) -> None:
    paths = []
    for seed in range(50, 54):
        picture(seed).save(tmp_path / f"{seed}.png")
        paths.append(tmp_path / f"{seed}.png")
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([pictures({"a": 1, "b": 1})])
        answers = gallery.identify_each(paths, keep_unknown=True)
        next(answers)
        with Gallery.open(tmp_path / "gallery") as other:
            assert other.rebuild(coarse).switched
        assert all(isinstance(answer, Identification) for _, answer in answers)
        assert gallery.encoder.fingerprint == coarse.fingerprint
        kept = gallery._catalog.unknowns()
        assert [Path(probe.source).name for probe in kept] == [path.name for path in paths]
        assert [len(probe.vector) for probe in kept] == [toy.dimension] + [coarse.dimension] * 3
        groups = gallery.unknowns()
        assert sorted(path for group in groups for path in group.paths) == [*map(str, paths)]


def test_a_probe_gone_before_it_could_be_embedded_again_is_an_error_of_its_own(
    tmp_path: Path, toy: Encoder, coarse: Encoder, pictures: Pictures
) -> None:
    paths = [tmp_path / f"{seed}.png" for seed in (50, 51, 52)]
    for seed, path in zip((50, 51, 52), paths, strict=True):
        picture(seed).save(path)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([pictures({"a": 1})])
        answers = gallery.identify_each(paths, keep_unknown=True)
        next(answers)
        with Gallery.open(tmp_path / "gallery") as other:
            other.rebuild(coarse)
        paths[1].unlink()
        (_, second), (_, third) = answers
        assert isinstance(second, ImageError)
        assert isinstance(third, Identification)


def test_kept_probes_can_be_seen_while_others_switch_encoders(
    asked: Gallery, coarse: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [group.paths for group in asked.unknowns()]
    groups = unknowns.Unknowns._groups
    switched: list[bool] = []

    def late(*arguments: Any) -> Any:
        if not switched:
            with Gallery.open(asked.folder) as other:
                switched.append(other.rebuild(coarse).switched)
        return groups(*arguments)

    monkeypatch.setattr(unknowns.Unknowns, "_groups", late)
    after = [group.paths for group in asked.unknowns()]
    assert switched == [True]
    assert sorted(sum(after, ())) == sorted(sum(before, ()))


def test_what_does_not_belong_is_left_out(asked: Gallery, tmp_path: Path) -> None:
    group, single = asked.unknowns()
    names = dict(zip(group.members, group.paths, strict=True))
    named = [number for number, path in names.items() if not path.endswith("50-2.png")]
    odd = named[0], tmp_path / "50-2.png"
    kept = set(group.paths) - {names[odd[0]], str(odd[1])}
    report = asked.enroll_unknowns(group.number, "newcomer", without=odd)
    assert report.added == len(kept)
    assert {item.source for item in asked.items("newcomer")} == kept
    left = [path for one in asked.unknowns() for path in one.paths]
    assert sorted(left) == sorted({*group.paths, *single.paths} - kept)
    asked.undo()
    group, single = asked.unknowns()
    assert asked.drop_unknowns(group.number, without=[group.members[0]]) == 2
    assert asked.count_unknowns() == 2
    with pytest.raises(UsageError, match=r"nowhere.png is in none of these groups"):
        asked.drop_unknowns(single.number, without=["nowhere.png"])
    with pytest.raises(UsageError, match="nothing is left"):
        asked.drop_unknowns(single.number, without=single.members)
    count = asked.count_unknowns()
    with pytest.raises(UsageError, match="number is None"):
        asked.drop_unknowns(members=single.members)  # which are not all
    with pytest.raises(UsageError, match=r"picture 10000 is not kept any more"):
        asked.drop_unknowns(single.number, members=[*single.members, 10_000])
    assert asked.count_unknowns() == count
    assert asked.drop_unknowns(single.number, members=single.members) == len(single.members)


def test_groups_that_are_one_are_enrolled_together(asked: Gallery) -> None:
    numbers = [group.number for group in asked.unknowns()]
    assert asked.enroll_unknowns(numbers, "all").added == 4
    assert asked.unknowns() == []
    asked.undo()
    assert len(asked.unknowns()) == 2


def alike(seed: int) -> Image.Image:
    """One of many pictures that are more alike than the toy encoder's threshold asks for."""
    tiles = np.random.default_rng(seed).normal(0, 16, (8, 8, 3)).repeat(4, 0).repeat(4, 1)
    return Image.fromarray((np.asarray(picture(0)) + tiles).clip(0, 255).astype(np.uint8))


def test_groups_are_as_close_as_the_gallery_needs(tmp_path: Path, toy: Encoder) -> None:
    paths = [tmp_path / f"{seed}.png" for seed in range(4)]
    for seed, path in enumerate(paths):
        alike(seed).save(path)
    with Gallery.open(tmp_path / "gallery", toy) as gallery:
        gallery.enroll([picture(50)], label="unlike")
        gallery.enroll([picture(51)], label="another")
        list(gallery.identify_each(paths, keep_unknown=True))
        assert [len(group.paths) for group in gallery.unknowns()] == [4]
        # Where so many alike things are enrolled, these four are none the less four.
        for seed in range(10, 40):
            gallery.enroll(alike(seed), label=f"id{seed}")
        assert [len(group.paths) for group in gallery.unknowns()] == [1] * 4


def test_of_very_many_the_latest_are_grouped(
    asked: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unknowns, "MOST", 2)
    assert sum(len(group.paths) for group in asked.unknowns()) == 2
    assert asked.count_unknowns() == 4


def test_pages_show_a_hundred_groups_each(tmp_path: Path) -> None:
    picture(0).resize((300, 200)).save(tmp_path / "a <b>.png")
    place = str(tmp_path / "a <b>.png")
    groups = [UnknownGroup(n, (n,), (place,), None) for n in range(1, 151)]
    pages = write_groups(tmp_path / "inbox.html", "title", groups)
    assert [page.name for page in pages] == ["inbox.html", "inbox-2.html"]
    first, second = (page.read_text() for page in pages)
    assert (first.count("<h2>"), second.count("<h2>")) == (100, 50)
    assert '<a href="inbox-2.html">2</a>' in first
    assert "150 a &lt;b&gt;.png" in second
    assert len(second) < 50 * 7000
    assert write_groups(tmp_path / "x.html", "title", groups[:1]) == [tmp_path / "x.html"]
