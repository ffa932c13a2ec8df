"""``query`` and ``verify``: ask the gallery and the encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.asking import COLUMNS, asked, listed, name_of, row
from siamese_search.cli.common import (
    DEFAULT_GALLERY,
    DeviceOption,
    EncoderOption,
    GalleryOption,
    JsonLinesOption,
    JsonOption,
    RuleOption,
    ThresholdOption,
    conditions,
    encoder_for,
    name_rejections,
    near,
    note,
    open_gallery,
    print_json,
    print_row,
)
from siamese_search.errors import UsageError
from siamese_search.records import counted

if TYPE_CHECKING:
    from siamese_search.records import Identification, Rejection


def query(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Images to identify, or folders, with all folders in them; - is an image on"
            " standard input.",
        ),
    ],
    gallery: GalleryOption = DEFAULT_GALLERY,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many identities to show.")] = 5,
    threshold: ThresholdOption = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Search only items with this metadata; repeatable."),
    ] = None,
    rule: RuleOption = None,
    fpir: Annotated[
        float | None,
        typer.Option(help="Name about this share of strangers; needs a calibrated gallery."),
    ] = None,
    keep_unknown: Annotated[
        bool,
        typer.Option("--keep-unknown", help="Keep images that get no name, for `unknowns`."),
    ] = False,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
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
        bool, typer.Option("--csv", help="Print a table: a row with the best candidate per image.")
    ] = False,
) -> None:
    """Identify images: the best identity or unknown, and the k best candidates.

    With --json, every image's answer is a line: {"image": …, "identity": … or null, "score",
    "confidence", "threshold", "matches": [{"identity", "score", "item", "path", "distractor",
    "metadata"}, …]}.
    """
    from siamese_search.errors import ImageError
    from siamese_search.records import Identification, Rejection, printable

    wanted = conditions(where) if where else None
    rejected: list[Rejection] = []
    kept = 0
    if as_json and as_csv:
        raise UsageError("--json and --csv: choose one")
    if fpir is not None and threshold is not None:
        raise UsageError("--fpir chooses a threshold: leave out --threshold")
    probes = asked(listed(images, rejected.append) if paths_from else images, rejected.append)
    with open_gallery(gallery, encoder, device) as source:
        known = source.calibration
        if known is not None and source.is_stale(known):
            note("the gallery has changed much since it was calibrated: run `siasearch calibrate`")
        answers = source.identify_each(
            probes, k, threshold, wanted, rule, fpir, keep_unknown=keep_unknown
        )
        if as_csv:
            print_row(COLUMNS)
        for probe, answer in answers:
            image = name_of(probe)
            if isinstance(answer, ImageError):
                rejected.append(Rejection(printable(image), str(answer)))
            else:
                found = source.items_by_number([match.item for match in answer.matches])
                metadata = {item.number: item.metadata for item in found}
                if as_csv:
                    print_row(row(image, answer))
                elif as_json:
                    print_json({"image": image, **_as_json(answer, metadata)})
                else:
                    typer.echo(_described(image, answer, metadata, where))
            if keep_unknown and isinstance(answer, Identification) and image is probe:
                kept += answer.strange  # what is no file cannot be kept
    if keep_unknown:
        note(f"{counted(kept, 'image')} kept that got no name: see `siasearch unknowns`")
    name_rejections(rejected)
    if rejected:
        raise typer.Exit(1)


Metadata = Mapping[int, Mapping[str, str]]
"""What is known of items, by their numbers; nothing of those just removed."""


def _as_json(answer: Identification, metadata: Metadata) -> dict[str, object]:
    matches = [
        dataclasses.asdict(match) | {"metadata": metadata.get(match.item, {})}
        for match in answer.matches
    ]
    return dataclasses.asdict(answer) | {"matches": matches}


def _described(
    image: str, answer: Identification, metadata: Metadata, where: list[str] | None
) -> str:
    if answer.score is None:
        which = f" that has {' and '.join(where)}" if where else ""
        return f"{near(image)}: unknown (nothing to compare it with{which})"
    name = answer.identity or ("unknown, like a distractor" if answer.distracted else "unknown")
    needed = f", threshold {answer.threshold:.3f}" if answer.strange else ""
    lines = [
        f"{near(image)}: {name} (score {answer.score:.3f}{needed},"
        f" confidence {answer.confidence:.0%})"
    ]
    width = max(len(match.identity) for match in answer.matches)
    for rank, match in enumerate(answer.matches, start=1):
        below = "" if match.score >= answer.threshold else "  below threshold"
        below = "  distractor" if match.distractor else below
        place = near(match.path) if match.path else f"item {match.item}"
        known = "".join(f"  {key}={value}" for key, value in metadata.get(match.item, {}).items())
        lines.append(
            f"  {rank:>2}  {match.score:6.3f}  {match.identity:<{width}}  {place}{known}{below}"
        )
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
            min=-1.0,
            max=1.0,
            help="The least score; default: the encoder's, also where the gallery is calibrated.",
        ),
    ] = None,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether two images show the same identity; exit code 1 where they differ.

    Uses the encoder named, else that of the gallery where there is one, else `general`, and its
    threshold. A gallery's calibration tells how the best of all its identities stands out from the
    others; a pair has no others, so it says nothing of a pair.
    """
    answer = encoder_for(gallery, encoder, device).verify(a, b, threshold)
    if as_json:
        print_json(dataclasses.asdict(answer))
    else:
        typer.echo(
            f"{'same' if answer.same else 'different'} (score {answer.score:.3f},"
            f" threshold {answer.threshold:.3f}, confidence {answer.confidence:.0%})"
        )
    if not answer.same:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(query)
    app.command()(verify)
