"""``encoder list`` and ``encoder info``: which encoders there are, and what one of them is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from siamese_search.cli.common import (
    DeviceOption,
    JsonLinesOption,
    JsonOption,
    name_rejections,
    near,
    note,
    print_json,
    say,
)
from siamese_search.errors import EncoderError
from siamese_search.records import Rejection
from siamese_search.words import printable

if TYPE_CHECKING:
    from siamese_search.embedding.about import About
    from siamese_search.embedding.encoder import Encoder
    from siamese_search.embedding.known import KnownEncoder
    from siamese_search.embedding.record import EncoderRecord

UNTIL = "until the gallery is calibrated"
HEADER = ("name", "dimension", "input", "MB", "threshold", "for, or from")


def list_(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER...",
            help="Look for encoders here and three folders deep; default: the current folder.",
        ),
    ] = None,
    as_json: JsonLinesOption = False,
) -> None:
    """List the encoders: those that are shipped, those of installed packages, and those in folders.

    The first column is what `--encoder` takes. No package is run: `encoder info` does that, and
    says what its encoder is. An encoder that cannot be opened is named, and the exit code is 1.
    """
    from siamese_search.embedding.known import OfferedEncoder, known_encoders

    rejected: list[Rejection] = []
    rows: list[tuple[str, ...]] = []
    for one in known_encoders([str(folder) for folder in folders or ()]):
        if isinstance(one, Rejection):
            rejected.append(one)
        elif isinstance(one, OfferedEncoder):
            name, package = one.location.split("@")
            if as_json:
                print_json({"encoder": one.location, "source": "package", "name": name})
            else:
                rows.append((one.location, "", "", "", "", f"offered by the package {package}"))
        elif as_json:
            print_json(_facts(one))
        else:
            rows.append(_row(one))
    if rows:
        _print_table([HEADER, *rows])
    if any(row[4] == "-" for row in rows):
        note(f"note: those without a threshold (-) give no names {UNTIL}")
    name_rejections(rejected)
    if rejected:
        raise typer.Exit(1)


def _facts(one: KnownEncoder) -> dict[str, Any]:
    from siamese_search.embedding.about import about

    record, told = one.record, about(one.folder, one.record)
    return {
        "encoder": printable(one.location),
        "source": one.source,
        "name": record.name,
        "dimension": record.dimension,
        "width": record.preprocessing.width,
        "height": record.preprocessing.height,
        "channels": record.preprocessing.channels,
        "bytes": told.size,
        "threshold": _threshold(record),
        "calibrated": record.calibrated,
        "purpose": told.purpose,
        "origin": told.origin,
        "fingerprint": record.fingerprint,
    }


def _row(one: KnownEncoder) -> tuple[str, ...]:
    from siamese_search.embedding.about import about

    record, told = one.record, about(one.folder, one.record)
    shown = record.preprocessing
    trained = f", on {told.trained_on}" if told.trained_on and told.purpose is None else ""
    return (
        printable(one.location),
        str(record.dimension),
        f"{shown.width} × {shown.height}{' grey' * (shown.channels == 1)}",
        f"{(told.size or 0) / 1e6:.1f}",
        f"{record.threshold:.3f}" if record.calibrated else "-",
        told.purpose or f"{told.origin}{trained}",
    )


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            # Names and words on the left, numbers on the right.
            f"{cell:<{width}}" if place in (0, len(row) - 1) else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        say("  ".join(cells).rstrip())


def info(
    encoder: Annotated[
        str, typer.Argument(metavar="ENCODER", help="A name of `encoder list`, or a folder.")
    ],
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Also measure how many images a second it takes on this machine."
        ),
    ] = False,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what an encoder is: its origin, its sizes, its threshold, whether its files are whole.

    Its files are read and compared with their checksums; if one is damaged, the exit code is 1.
    That of a package has none.
    """
    from siamese_search.embedding.about import about, about_offered
    from siamese_search.embedding.encoder import Encoder, OwnEncoder

    opened = Encoder.open(encoder, device)
    is_own = isinstance(opened, OwnEncoder)
    if measure:
        opened.require_pictures("rates that --measure takes")
    if is_own:
        told = about_offered(opened.location, str(opened.kind))
    else:
        told = about(opened.folder, opened.record)
    damage = None
    try:
        opened.verify_files()
    except EncoderError as error:
        damage = str(error)
    rate = None
    if measure and damage is None:
        from siamese_search.embedding.rate import measured_rate

        rate = measured_rate(opened)
    if as_json:
        found = _all_facts(encoder, opened, told) | {"ok": damage is None, "damage": damage}
        print_json(found | {"rate": rate and dataclasses.asdict(rate)})
    else:
        for name, value in _lines(opened, told):
            say(f"{name:<11} {value}")
        if rate is not None:
            say(
                f"{'rate':<12}{rate.mean:.0f} ± {rate.error:.0f} images/s on {rate.device}, the"
                " network alone; decoding is not in it"
            )
        if is_own:
            return
        say(f"{'files':<12}{damage or 'whole: they have the checksums that the encoder notes'}")
        if opened.location != opened.name:
            say(f"{'folder':<12}{near(printable(opened.folder))}")
    if damage is not None:
        raise typer.Exit(1)


def _threshold(record: EncoderRecord) -> float | None:
    return record.threshold if record.calibrated else None


def _all_facts(called: str, encoder: Encoder, told: About) -> dict[str, Any]:
    record, suffixes = encoder.record, encoder.kind.suffixes
    shown = dataclasses.asdict(record.preprocessing) if suffixes is None else None
    return {
        "encoder": printable(called),
        "name": record.name,
        "purpose": told.purpose,
        "origin": told.origin,
        "licence": told.licence,
        "trained_on": told.trained_on,
        "imported": told.imported,
        "dimension": record.dimension,
        "parameters": told.parameters,
        "bytes": told.size,
        "preprocessing": shown,
        "suffixes": None if suffixes is None else sorted(suffixes),
        "places": encoder.gives_places,
        "threshold": _threshold(record),
        "calibrated": record.calibrated,
        "calibration_data": record.calibration.get("data"),
        "fingerprint": encoder.fingerprint,
    }


def _lines(encoder: Encoder, told: About) -> list[tuple[str, str]]:
    record = encoder.record
    unknown = "not noted"
    fitted = record.calibration.get("data")
    threshold = f"{record.threshold:.4g}" + (f", fitted on {fitted}" if fitted else "")
    if not record.calibrated:
        threshold = f"not known: it gives no names {UNTIL}"
    weights = "" if told.parameters is None else f", {told.parameters / 1e6:.1f} million parameters"
    return [
        ("name", record.name),
        ("for", told.purpose or unknown),
        ("origin", told.origin),
        ("licence", told.licence or unknown),
        ("trained on", told.trained_on or unknown),
        *(
            (name, str(value))
            for name, value in sorted((told.imported or {}).items())
            if isinstance(value, str | int | float)
            and not isinstance(value, bool)
            and name not in ("source", "licence")
        ),
        (
            "dimension",
            f"{record.dimension}{', with places for the closer look' * encoder.gives_places}",
        ),
        *([] if told.size is None else [("size", f"{told.size / 1e6:.1f} MB on disk{weights}")]),
        ("input", told.takes),
        ("threshold", threshold),
        ("fingerprint", encoder.fingerprint),
    ]


def register(group: typer.Typer) -> None:
    """Add this module's commands."""
    group.command(name="list")(list_)
    group.command()(info)
