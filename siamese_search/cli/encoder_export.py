"""``encoder export``: an encoder as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siamese_search.cli.common import JsonOption, print_json, say, tell_rejected
from siamese_search.errors import UsageError

PICTURES = 32  # of a folder that the file is checked on
TARGETS = ("onnx",)


def export(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A shipped encoder's name, or a folder.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")],
    to: Annotated[
        str, typer.Option("--to", metavar="onnx", help="The kind of file: onnx.")
    ] = "onnx",
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="FOLDER",
            help="Your pictures, to check the file on; default: some that are drawn.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write an encoder as one file with its preprocessing inside, for phones and other programs.

    The file takes a picture of any size, and gives its embedding. It is checked against the encoder
    in ONNX Runtime, and not written where they disagree.
    """
    from siamese_search.embedding.encoder import Encoder
    from siamese_search.files import require_place, write_whole
    from siamese_search.importing.portable import portable
    from siamese_search.importing.sample import pictures_of

    if to not in TARGETS:
        raise UsageError(f"--to is {to!r}: choose {' or '.join(TARGETS)}")
    require_place(out)
    encoder = Encoder.open(name, "cpu")
    encoder.require_pictures("files for other programs")
    pictures = [] if reference is None else pictures_of(str(reference), PICTURES, tell_rejected)
    made = portable(encoder, pictures)
    write_whole(out, made.content)
    least, mean = min(made.cosines), sum(made.cosines) / len(made.cosines)
    if as_json:
        print_json(
            {
                "file": str(out),
                "fingerprint": encoder.fingerprint,
                "bytes": len(made.content),
                "pictures": len(made.cosines),
                "least_cosine": least,
                "mean_cosine": mean,
            }
        )
        return
    say(f"{out}: {encoder.name}, {encoder.dimension} dimensions, {len(made.content) / 1e6:.1f} MB")
    say("takes uint8 (height, width, 3), RGB, of any size; gives float32 of unit length")
    kind = "pictures" if pictures else "drawn pictures"
    say(
        f"cosine to the encoder on {len(made.cosines)} {kind}: {least:.5f} at least, {mean:.5f} on"
        " average"
    )


def register(group: typer.Typer) -> None:
    """Add this module's command."""
    group.command("export")(export)
