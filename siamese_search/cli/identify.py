"""``query`` and ``verify``: ask the gallery and the encoder."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.asking import (
    STANDARD_INPUT,
    as_asked,
    asked,
    boxes_of,
    changes,
    columns,
    in_grid,
    listed,
    moment,
    name_of,
    place_of,
    rows,
    when,
)
from siamese_search.cli.common import (
    DEFAULT_GALLERY,
    DecodingOption,
    DeviceOption,
    EncoderOption,
    GalleryOption,
    JsonLinesOption,
    JsonOption,
    RuleOption,
    ThresholdOption,
    conditions,
    cosine,
    decode_as,
    encoder_for,
    name_rejections,
    near,
    note,
    open_gallery,
    print_json,
    print_row,
    say,
    share,
    shown,
)
from siamese_search.cli.filming import (
    ChangesOption,
    EveryOption,
    ForOption,
    has_times,
    live_one,
    require_times,
    tell_step,
    until_stopped,
    watched,
)
from siamese_search.cli.finding import ExcludeOption, require_inside
from siamese_search.cli.program import command
from siamese_search.errors import UsageError
from siamese_search.evaluation.verdict import compared, verdict
from siamese_search.pictures.choosing import Exclusion
from siamese_search.words import counted

if TYPE_CHECKING:
    from siamese_search.cli.asking import Asked
    from siamese_search.gallery.gallery import Gallery
    from siamese_search.records import Identification, Rejection

SHOWN = 5  # identities, unless another number is asked for


def query(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Images to identify, or folders, with all folders in them, or zip and tar archives"
            " of these; - is an image on standard input. Also videos, or one camera (camera:0) or"
            " stream (rtsp://…, http://…).",
        ),
    ],
    gallery: GalleryOption = DEFAULT_GALLERY,
    k: Annotated[
        int | None,
        typer.Option("--k", "-k", min=1, help="How many identities to show (5)."),
    ] = None,
    threshold: ThresholdOption = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Search only items with this metadata; repeatable."),
    ] = None,
    rule: RuleOption = None,
    fpir: Annotated[
        float | None,
        typer.Option(
            parser=share,
            metavar="SHARE",
            help="Name about this share of strangers; needs a calibrated gallery.",
        ),
    ] = None,
    crop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y,W,H",
            help="Ask about this part of each picture only: left, top, width and height in pixels,"
            " of the picture upright; repeatable, each is answered on its own.",
        ),
    ] = None,
    grid: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=8,
            metavar="N",
            help="Several things in one picture: look through N times N overlapping windows, too,"
            " and show those in which an identity is named, each once.",
        ),
    ] = None,
    turns: Annotated[
        int,
        typer.Option(
            min=1,
            max=64,
            metavar="N",
            help="Things that lie anyhow: look at each picture in so many turns, 8 say, and answer"
            " by the one whose best identity stands out most.",
        ),
    ] = 1,
    keep_unknown: Annotated[
        bool,
        typer.Option("--keep-unknown", help="Keep images that get no name, for `unknowns`."),
    ] = False,
    exclude: ExcludeOption = None,
    every: EveryOption = None,
    bound: ForOption = None,
    only_changes: ChangesOption = False,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    decoding: DecodingOption = None,
    paths_from: Annotated[
        bool,
        typer.Option(
            "--paths-from",
            help="IMAGE is a file that lists images and folders, one path a line; - is standard"
            " input.",
        ),
    ] = False,
    as_json: JsonLinesOption = False,
    as_csv: Annotated[
        bool,
        typer.Option(
            "--csv",
            help="Print a table: a row with the best candidate per image; with --k, a row for each"
            " candidate.",
        ),
    ] = False,
) -> None:
    """Identify images: the best identity or unknown, and the k best candidates.

    With --json, every answer is a line: {"image": …, "identity": … or null, "score", "confidence",
    "threshold", "matches": [{"identity", "score", "item", "path", "distractor", "closer",
    "metadata"}, …]}; with --crop and --grid also "crop": [x, y, width, height], null for the whole
    picture; of a frame of a video also "time", in seconds, and of a camera or stream "taken", when
    it was received. Matches are in the order of "score" plus "closer", which is what a closer look
    adds, null where none was taken. "confidence" is that of the best identity, named or not. Both
    "threshold" and "confidence" are null where they are not known: the encoder's were never fitted,
    and the gallery is not calibrated. Then nothing is named.

    Of a video, camera or stream a frame is looked at every second, or --every so often; this needs
    `pip install 'siamese-search[video]'`. A camera's newest picture is asked about, until Ctrl-C.

    In a calibrated gallery the threshold differs from picture to picture: the nearer the second
    best identity is, the more the best needs. `plot neighbours` shows the sum.
    """
    from siamese_search.errors import ImageError
    from siamese_search.records import Rejection
    from siamese_search.words import printable

    decode_as(decoding)
    wanted = conditions(where) if where else None
    rejected: list[Rejection] = []
    kept = 0
    ranked = k is not None
    if as_json and as_csv:
        raise UsageError("--json and --csv: choose one")
    if fpir is not None and threshold is not None:
        raise UsageError("--fpir chooses a threshold: leave out --threshold")
    if crop and grid is not None:
        raise UsageError("--crop says where to look and --grid looks everywhere: give one of them")
    if only_changes and grid is not None:
        raise UsageError("--changes is about whole frames, or --crop: leave out --grid")
    parts = bool(crop) or grid is not None
    if keep_unknown and parts:
        raise UsageError(
            "--keep-unknown keeps whole files, which are enrolled whole later: leave it out, or"
            " --crop and --grid"
        )
    boxes = boxes_of(crop or [])
    leave_out = Exclusion.of(exclude or ())
    named = listed(images, rejected.append) if paths_from else images
    camera = live_one(named, bound)
    require_times(named, every, only_changes)
    require_inside([one for one in named if one not in (STANDARD_INPUT, camera)], exclude)
    answered = 0
    with (
        open_gallery(gallery, encoder, device) as source,
        until_stopped(lambda: counted(answered, "answer")) if camera else nullcontext(),
    ):
        if parts:
            source.encoder.require_pictures("--crop and --grid")
        if every is not None or only_changes:
            source.encoder.require_pictures("--every and --changes")
        if turns > 1:
            source.encoder.require_pictures("turns")
        pictures = source.encoder.kind.suffixes is None
        timed = pictures and has_times(named, every)
        if timed:
            tell_step(named, every)
        probes: Iterable[Asked]
        if camera is None:
            probes = asked(named, source.encoder.kind, rejected.append, leave_out, every)
        else:
            source.encoder.require_pictures("a camera or stream")
            probes = watched(camera, every, bound, rejected.append)
        warn_of_rate(source, turns, threshold, rule)
        ask = partial(
            source.identify_each,
            k=SHOWN if k is None else k,
            threshold=threshold,
            where=wanted,
            rule=rule,
            fpir=fpir,
            turns=turns,
            keep_unknown=keep_unknown,
        )
        if as_csv:
            print_row(columns(ranked, timed))
        answers = as_asked(ask, probes, boxes) if grid is None else in_grid(ask, probes, grid)
        for probe, box, answer in changes(answers) if only_changes else answers:
            image = name_of(probe)
            if isinstance(answer, ImageError):
                place = printable(image) + moment(probe)
                rejected.append(Rejection(place_of(place, box), str(answer)))
                continue
            answered += 1
            if not isinstance(probe, bytes):  # what is no file cannot be kept
                kept += answer.strange
            found = source.items_by_number([match.item for match in answer.matches])
            metadata = {item.number: item.metadata for item in found}
            if as_csv:
                time = [when(probe).get("time", "")] if timed else []
                for one in rows([place_of(image, box), *time], answer, ranked):
                    print_row(one)
            elif as_json:
                part = {"crop": box} if parts else {}
                about = {"image": image, **when(probe), **part}
                print_json({**about, **as_json_object(answer, metadata)})
            else:
                place = place_of(near(image) + moment(probe), box)
                typer.echo(described(place, answer, metadata, where))
        if kept:  # not those that are enrolled
            kept = source.count_unknowns()
    if keep_unknown:
        see = command("unknowns", gallery, DEFAULT_GALLERY)
        are = "is" if kept == 1 else "are"
        said = f"{counted(kept, 'image')} that got no name {are} kept: `{see}` shows them"
        none = "no image is kept: only files are that get no name, and are not enrolled"
        note(said if kept else none)
    name_rejections(rejected)
    if rejected:
        raise typer.Exit(1)


def warn_of_rate(
    source: Gallery, turns: int, threshold: float | None, rule: str | None = None
) -> None:
    """Say where the error rate is not what the gallery was calibrated for, and where a threshold is
    not for scores alone.
    """
    from siamese_search.gallery.staleness import STALE

    known = source.calibration
    if known is None:
        undecided = None if threshold is not None else source.undecided
        if undecided is not None:
            note(undecided)
        return
    if source.is_stale(known):
        note(STALE)
    if threshold is not None:
        if known.looked is not None and rule in (None, known.rule):
            note(
                "scores in this gallery have the votes of the closer look, and so --threshold is"
                " for their sum; where --where leaves out items, it is for scores without votes"
            )
        return
    if known.turns == turns:
        return
    if known.turns > 1:
        note(
            f"the gallery was calibrated for {known.turns} turns: ask with `--turns {known.turns}`,"
            " or calibrate it again"
        )
    else:
        note(
            "the error rate was calibrated for pictures as they are, and in several turns more"
            " strangers get a name: run `siasearch calibrate --strangers FOLDER"
            f" --turns {turns}`"
        )


Metadata = Mapping[int, Mapping[str, str]]
"""What is known of items, by their numbers; nothing of those just removed."""


def as_json_object(answer: Identification, metadata: Metadata) -> dict[str, object]:
    """An answer as ``query --json`` has it, without its image."""
    matches = [
        dataclasses.asdict(match) | {"metadata": metadata.get(match.item, {})}
        for match in answer.matches
    ]
    return dataclasses.asdict(answer) | {"matches": matches}


def described(
    image: str, answer: Identification, metadata: Metadata, where: list[str] | None
) -> str:
    """An answer for people: a line, and one for each candidate."""
    if answer.score is None:
        why = f"no item has {' and '.join(where)}" if where else "nothing is enrolled"
        return f"{image}: unknown ({shown(why)})"
    lines = [f"{image}: {shown(verdict(answer))}"]
    width = max(len(shown(match.identity)) for match in answer.matches)
    for rank, match in enumerate(answer.matches, start=1):
        needed = answer.threshold
        below = "" if needed is None or match.score >= needed else "  below threshold"
        below = "  distractor" if match.distractor else below
        place = near(match.path) if match.path else f"item {match.item}"
        known = "".join(f"  {key}={value}" for key, value in metadata.get(match.item, {}).items())
        named = shown(match.identity)
        added = "" if match.closer is None else f" {match.closer:+.3f}"
        score = f"{match.score:6.3f}{added}"
        lines.append(f"  {rank:>2}  {score}  {named:<{width}}  {place}{shown(known)}{below}")
    return "\n".join(lines)


def verify(
    a: Annotated[str, typer.Argument(metavar="A", help="One image.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another image.")],
    gallery: GalleryOption = DEFAULT_GALLERY,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            "-t",
            callback=cosine,
            help="The least score, from -1 to 1; default: the encoder's, also where the gallery is"
            " calibrated.",
        ),
    ] = None,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether two images show the same identity; exit code 1 where they differ, or where that
    is not known, since the encoder's threshold was never fitted: then there is a score alone.

    Uses the encoder named, else that of the gallery where there is one, else `general-2`, and its
    threshold. A gallery's calibration tells how the best of all its identities stands out from the
    others; a pair has no others, so it says nothing of a pair.
    """
    used = encoder_for(gallery, encoder, device)
    answer = used.verify(a, b, threshold)
    if answer.threshold is None:
        fit = (
            ", or have it fitted on pictures by"
            f" `siasearch encoder calibrate {shlex.quote(used.location)} --reference FOLDER`"
        )
        note(
            f"the threshold of the encoder {used.name} is not known, so it cannot be said whether"
            " they are the same: give one by --threshold"
            f"{fit if used.kind.suffixes is None else ''}"  # that of a package is its own
        )
    if as_json:
        print_json(dataclasses.asdict(answer))
    else:
        say(compared(answer))
    if not answer.same:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(query)
    app.command()(verify)
