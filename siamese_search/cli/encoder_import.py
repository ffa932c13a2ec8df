"""``encoder import``: a network from elsewhere as an encoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.common import JsonOption, print_json, say, tell_rejected
from siamese_search.cli.encoder_onnx import (
    BgrOption,
    LayoutOption,
    LicenceOption,
    OutputOption,
    PoolOption,
    ScaleOption,
    onnx_options,
)
from siamese_search.cli.program import program
from siamese_search.errors import UsageError

if TYPE_CHECKING:
    from siamese_search.importing.imported import Imported

PICTURES = 16  # of a reference folder that the file and the encoder are compared on


def import_(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="An ONNX file.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The encoder's folder.")],
    output: OutputOption = None,
    pool: PoolOption = None,
    layout: LayoutOption = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="N|WxH",
            help="Width and height of what the network sees, in pixels. This and what follows:"
            " default, as the files say.",
        ),
    ] = None,
    bgr: BgrOption = False,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            metavar="X,X,X",
            help="Subtract this from pixels, in the order of the network's channels.",
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option("--std", metavar="X,X,X", help="Divide by this afterwards.")
    ] = None,
    scale: ScaleOption = None,
    resize: Annotated[
        str | None,
        typer.Option(
            "--resize",
            metavar="crop|squash|pad",
            help="The middle of a picture, the whole of it whatever its aspect, or on white.",
        ),
    ] = None,
    crop: Annotated[
        float | None,
        typer.Option(
            "--crop", metavar="X", help="With crop: the share of the short side that is seen."
        ),
    ] = None,
    interpolation: Annotated[
        str | None,
        typer.Option(
            "--interpolation",
            metavar="NAME",
            help="How pictures are scaled: bilinear, bicubic, lanczos or box.",
        ),
    ] = None,
    licence: LicenceOption = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="FOLDER",
            help="Your pictures, to check the encoder on; default: some that are generated.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an encoder of a network from elsewhere, without training.

    The encoder is compared with the file on pictures, and refused where they disagree.
    """
    from siamese_search.importing.onnx_file import import_onnx
    from siamese_search.importing.sample import pictures_of
    from siamese_search.importing.writing import write_imported

    if not source.lower().endswith(".onnx"):
        raise UsageError(f"{source} is no .onnx file")
    if (out / "encoder.json").exists():
        raise UsageError(f"{out} holds an encoder: name another folder, or remove that first")
    options = onnx_options(
        out.absolute().name,
        output=output,
        pool=pool,
        layout=layout,
        size=size,
        bgr=bgr,
        mean=mean,
        std=std,
        scale=scale,
        resize=resize,
        crop=crop,
        interpolation=interpolation,
        licence=licence,
    )
    pictures = [] if reference is None else pictures_of(str(reference), PICTURES, tell_rejected)
    made = import_onnx(source, options, pictures)
    encoder = write_imported(made, out)
    _print(out, made, encoder.fingerprint, as_json)


def _print(out: Path, made: Imported, fingerprint: str, as_json: bool) -> None:
    shown, origin = made.preprocessing, made.origin
    if as_json:
        print_json(
            {
                "encoder": str(out),
                "fingerprint": fingerprint,
                "dimension": made.dimension,
                "preprocessing": dataclasses.asdict(shown),
                "origin": origin,
            }
        )
        return
    taken = origin["input"]
    say(
        f"{out}: {made.dimension} dimensions, from {origin['file']}, value"
        f" {origin['output']['name']}"
    )
    say(f"licence: {origin.get('licence') or 'the files do not say'}")
    cut = f", {shown.crop_fraction:.4g} of it" if shown.crop_fraction < 1 else ""
    seen = f"{shown.width} × {shown.height} pixels"
    say(f"pictures: {seen}, {shown.resize}{cut}, {shown.interpolation}, by {taken['said by']}")
    scaled = f"mean {_list(taken['mean'] or [0])}, std {_list(taken['std'] or [1])}"
    say(f"channels: {taken['channels']}, from 0 to 255, {scaled}, {taken['layout']}")
    if origin["one at a time"]:
        say("its graph takes one picture at a time: so do the runtimes")
    agreement = ", ".join(f"{name} {cosine:.5f}" for name, cosine in origin["agreement"].items())
    say(f"least cosine to the file: {agreement}")
    say(f"{program()} add FOLDER --encoder {out}   enrols with it")


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def register(group: typer.Typer) -> None:
    """Add this module's command."""
    group.command("import")(import_)
