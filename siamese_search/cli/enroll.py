"""``add``: enrol images."""

from __future__ import annotations

import shlex
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.common import (
    DEFAULT_ENCODER,
    DEFAULT_GALLERY,
    DecodingOption,
    DeviceOption,
    EncoderOption,
    GalleryOption,
    JsonOption,
    YesOption,
    decode_as,
    encoder_for,
    name_rejections,
    near,
    note,
    print_json,
    progress_bar,
    say,
)
from siamese_search.cli.filming import duration
from siamese_search.cli.finding import (
    ExcludeOption,
    FlatOption,
    IdentityFromOption,
    LabelOption,
    ManifestOption,
    PassedOver,
    naming_by,
    require_paths,
)
from siamese_search.cli.naming import (
    noting,
    settle_label,
    settle_names,
    single_pictures,
    warn_of_unknown,
)
from siamese_search.cli.program import command
from siamese_search.errors import UsageError
from siamese_search.pictures.choosing import Exclusion
from siamese_search.pictures.find import Passed
from siamese_search.pictures.kind import WITH_VIDEOS, is_video
from siamese_search.pictures.sources import Files, find, nameable, not_empty, read_manifest
from siamese_search.records import ImageFile, Rejection
from siamese_search.words import counted, same_picture

if TYPE_CHECKING:
    from siamese_search.records import EnrollmentReport

PLANNED = 20  # identities that --dry-run lists


def add(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH...", help="Images, or folders of them; with --every, videos."),
    ] = None,
    gallery: GalleryOption = DEFAULT_GALLERY,
    label: LabelOption = None,
    manifest: ManifestOption = None,
    from_query: Annotated[
        str | None,
        typer.Option(
            "--from-query",
            metavar="FILE",
            help="Enrol, with --label, the images that `query --json` was asked about: its output,"
            " or - for standard input.",
        ),
    ] = None,
    exclude: ExcludeOption = None,
    flat: FlatOption = False,
    identity_from: IdentityFromOption = None,
    encoder: EncoderOption = None,
    copy: Annotated[
        bool,
        typer.Option(
            "--copy",
            help="Keep a copy of every image in the gallery, also of those enrolled already.",
        ),
    ] = False,
    every: Annotated[
        float | None,
        typer.Option(
            parser=duration,
            metavar="TIME",
            help="Enrol videos, too: a frame every so often, as 500ms, 1s or 10m. Needs --copy.",
        ),
    ] = None,
    distractor: Annotated[
        bool,
        typer.Option(
            "--distractor", help="Never give a name to what looks like these: it is unknown."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only say how many images would get which identity; change nothing."
        ),
    ] = False,
    yes: YesOption = False,
    device: DeviceOption = None,
    decoding: DecodingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Enrol images; makes the gallery if there is none.

    In a folder, an image's identity is its folder's path relative to PATH (Greek/character01);
    an image directly in PATH, or named itself, is its own identity, named by its file. Where there
    are several such, `add` says so and asks first on a terminal; elsewhere it needs --yes, or
    --label. What is enrolled already is skipped without being decoded, so the same command may be
    run again at any time. Texts, side-cars and films in folders are passed over, and so are hidden
    folders and those of systems (@eaDir, #recycle, $RECYCLE.BIN, __MACOSX). With --every and
    --copy, frames of videos are enrolled as pictures, with the video and the time as metadata.
    """
    from siamese_search.gallery.gallery import Gallery

    decode_as(decoding)
    if from_query is not None and (paths or manifest is not None):
        raise UsageError("--from-query names the images itself: enrol others by another `add`")
    if from_query is not None and label is None:
        raise UsageError("--from-query enrols all its images as one identity: name it by --label")
    if not paths and manifest is None and from_query is None:
        raise UsageError("name images or folders to enrol, or a --manifest")
    naming = naming_by(label, flat, identity_from)
    require_paths(paths, naming, exclude)
    leave_out = Exclusion.of(exclude or ())
    if label is not None and manifest is not None:
        raise UsageError("--label and --manifest both name identities: use one")

    # Read once: it may be a pipe.
    listed = list(read_manifest(str(manifest))) if manifest else []
    if from_query is not None and label is not None:
        listed += _asked_about(from_query, label)

    passed = PassedOver()

    # An encoder is named only to make a gallery, or to insist on the one it has.
    if encoder is None and not Gallery.exists(gallery):
        encoder = DEFAULT_ENCODER
    used = encoder_for(gallery, encoder, device)
    kind = used.kind
    if every is not None:
        used.require_pictures("--every")
        kind = WITH_VIDEOS
        if not (copy or dry_run):
            raise UsageError(
                "a frame of a video has no file of its own: --copy keeps a picture of it"
            )
    elif kind.suffixes is None and any(is_video(path) for path in paths or ()):
        raise UsageError("to enrol a video, say how often a frame is taken: --every 1s, and --copy")

    def found(passed: Passed = lambda path, why: None) -> Files:
        return chain(nameable(find(paths or (), label, passed, kind, leave_out, naming)), listed)

    places = [*(paths or ()), *([str(manifest)] if manifest else ())]
    files = not_empty(found(passed), places, kind)
    named = label is not None or naming is not None
    told = not named and settle_names(paths or (), gallery, yes or dry_run, kind, leave_out)
    if label is not None:
        settle_label(paths or (), label, yes or dry_run)
    if every is not None and not dry_run:
        files = _filmed(files, every)
    if dry_run:
        complete = _print_plan(files, every is not None, as_json)
        passed.tell(kind)
        if not complete:
            raise typer.Exit(1)
        return
    with Gallery.open(gallery, encoder, device, background=True) as target:
        before, names = len(target), set[str]()
        files = noting(files, names)
        try:
            count = None if every is not None else lambda: sum(1 for _ in found())
            with progress_bar("enrolling", count) as watch:
                report = target.enroll_found(files, copy=copy, distractor=distractor, watch=watch)
        except KeyboardInterrupt:
            done = len(target) - before
            kept = counted(done, "image") if done else "none"
            note(f"interrupted: {kept} enrolled so far; run the same command again to go on")
            raise typer.Exit(1) from None
        single = single_pictures(target, names) if report.added and not distractor else None
        undecided = target.undecided
    if report.added:
        warn_of_unknown(names)
    passed.tell(kind)
    if single and not told:
        note(single)
    if undecided is not None:
        note(f"note: {undecided}")
    print_report(report, gallery, as_json)


def _filmed(files: Files, every: float) -> Files:
    """The same files, with the frames of videos in their place."""
    from siamese_search.pictures.video import filmed

    for file in files:
        if isinstance(file, ImageFile) and is_video(file.path):
            yield from filmed(file, every)
        else:
            yield file


def _print_plan(files: Files, with_videos: bool, as_json: bool) -> bool:
    """Print how many images would get which identity; no file is opened for that, so that of
    videos no frames are counted. Returns whether nothing is rejected.
    """
    plan: Counter[str] = Counter()
    videos, rejected = 0, []
    for file in files:
        if isinstance(file, Rejection):
            rejected.append(file)
        else:
            plan[file.identity] += 1
            videos += with_videos and is_video(file.path)
    name_rejections(rejected)
    if as_json:
        kinds = {"images": plan.total() - videos, "videos": videos}
        said = [{"path": one.path, "reason": one.reason} for one in rejected]
        print_json(kinds | {"identities": dict(sorted(plan.items())), "rejected": said})
        return not rejected
    for identity, images in sorted(plan.items())[:PLANNED]:
        say(f"{images:>8}  {identity}")
    if len(plan) > PLANNED:
        typer.echo(f"          and {len(plan) - PLANNED} more identities: --json lists all")
    identities = counted(len(plan), "identity", "identities")
    total = counted(plan.total() - videos, "image")
    if videos:
        total += f" and {counted(videos, 'video')}, whose frames are not counted,"
    typer.echo(f"{total} of {identities}; nothing was enrolled")
    return not rejected


def _asked_about(answers: str, label: str) -> list[ImageFile]:
    """The images that a file of answers is about.

    All of it is read before the gallery is opened: the query may be running yet.
    """
    from siamese_search.pictures.sources import read_answers

    if answers == "-":
        with open(0, "rb", closefd=False) as lines:
            return read_answers(lines, "standard input", label)
    with open(answers, "rb") as lines:
        return read_answers(lines, answers, label)


def tell_of(report: EnrollmentReport, gallery: Path) -> None:
    """Say what of an enrolment a person should know: what was rejected, replaced or renamed."""
    for was, now, count in report.relabelled:
        note(f"{counted(count, 'image')} of {was!r} skipped: relabelled {now!r} since")
    if report.unembedded:
        rebuild = command("rebuild", gallery, DEFAULT_GALLERY)
        note(
            f"note: {counted(report.unembedded, 'item')} of those skipped"
            f" {'has' if report.unembedded == 1 else 'have'} no embedding under the gallery's"
            f" encoder, so nothing finds them: `{rebuild}` embeds what is still lacking"
        )
    if report.replaced:
        first, path = report.replaced[0]
        more = f" and {len(report.replaced) - 1} more" if len(report.replaced) > 1 else ""
        remove = command(f"remove --item {first}", gallery, DEFAULT_GALLERY)
        note(
            f"note: item {first} ({near(path)}){more} was enrolled from a file that holds another"
            f" picture now, and stays: `{remove}` if it should go"
        )
    told = {same_picture(was) for was, _, _ in report.renamed}
    name_rejections(one for one in report.rejected if one.reason not in told)
    for was, now, count in report.renamed:
        relabel = command(
            f"relabel {shlex.quote(was)} {shlex.quote(now)}", gallery, DEFAULT_GALLERY
        )
        note(
            f"rejected: {counted(count, 'image')}, all of {was!r}, under another name, {now!r}: if"
            f" the folder was renamed, `{relabel}`"
        )


def tell_calibrated(report: EnrollmentReport, gallery: Path) -> None:
    """Say where the gallery has calibrated itself after an enrolment."""
    if report.calibrated is not None:
        more, off = (
            command(words, gallery, DEFAULT_GALLERY) for words in ("calibrate", "calibrate --off")
        )
        note(
            f"note: the gallery calibrated itself, since the threshold of its encoder is not known:"
            f" about {100 * report.calibrated:g}% of strangers may get a name; `{more}` also learns"
            f" how its items are best compared, `{off}` takes that back"
        )


def print_report(report: EnrollmentReport, gallery: Path, as_json: bool) -> None:
    """Print what an enrolment did; exit code 1 where something was rejected."""
    tell_of(report, gallery)
    if as_json:
        print_json(
            {
                "added": report.added,
                "skipped": report.skipped,
                "rejected": [{"path": r.path, "reason": r.reason} for r in report.rejected],
                "identities": report.identities,
                "items": report.items,
            }
            | ({"copied": report.copied} if report.copied else {})
            | ({"replaced": [n for n, _ in report.replaced]} if report.replaced else {})
            | ({"calibrated": report.calibrated} if report.calibrated else {})
            | ({"unembedded": report.unembedded} if report.unembedded else {})
        )
    else:
        copied = f"; copies made of {report.copied}" if report.copied else ""
        typer.echo(
            f"{report.added} added, {report.skipped} skipped (enrolled already{copied}),"
            f" {len(report.rejected)} rejected\n"
            f"{gallery} has {counted(report.identities, 'identity', 'identities')},"
            f" {counted(report.items, 'item')}"
        )
    tell_calibrated(report, gallery)
    if report.rejected:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(add)
