"""``encoder import``: a network from elsewhere as an encoder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.common import DeviceOption, JsonOption, note, pace, print_json, say
from siamese_search.cli.program import program
from siamese_search.errors import ImageError, RuntimeUnavailable, UsageError
from siamese_search.records import ImageFile

if TYPE_CHECKING:
    from siamese_search.importing.imported import Imported
    from siamese_search.importing.measuring import Measured
    from siamese_search.importing.stated import Stated

PICTURES = 16  # of a reference folder that torch and the exported graph are compared on
SLOW = 5.0  # images a second, below which the time for many is told


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A timm name, hf-hub:org/name, or a folder with config.json and .safetensors.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The encoder's folder.")],
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="The weights of the network that SOURCE names, as .safetensors; default: those"
            " that are published, by network.",
        ),
    ] = None,
    checkpoint_folder: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint-folder",
            metavar="DIR",
            help="A folder with these weights, and perhaps what else is published with them.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="N|WxH",
            help="Width and height of what the network sees, in pixels. This and what follows:"
            " default, as the files say.",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean", metavar="X,X,X", help="Subtract this from pixels, which are from 0 to 1."
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option("--std", metavar="X,X,X", help="Divide by this afterwards.")
    ] = None,
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
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="FOLDER",
            help="Your pictures, to check the encoder on; default: some that are generated.",
        ),
    ] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an encoder of a network from elsewhere, without training.

    It keeps its own pooling. The exported graph is compared with torch on pictures, and refused
    where they disagree. Only .safetensors are read: no pickles.
    """
    # Threads that spin while they wait slow a shared machine down many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from siamese_search.importing.stated import Stated
    from siamese_search.importing.writing import require_new, write_imported

    require_new(out)
    width, height = _sides(size) if size is not None else (None, None)
    asked = Stated(
        height=height,
        width=width,
        mean=_scaled("--mean", mean),
        std=_scaled("--std", std),
        resize=resize,
        crop=crop,
        interpolation=interpolation,
    )
    asked.preprocessing()  # tells of nonsense soon
    pictures = _pictures(reference) if reference is not None else []
    made = _imported(source, out, weights, checkpoint_folder, asked, pictures)
    encoder = write_imported(made, out)
    from siamese_search.importing.measuring import measured

    note("measuring")
    _print(out, made, encoder.fingerprint, measured(out, device), as_json)


def _imported(
    source: str,
    out: Path,
    weights: Path | None,
    checkpoint_folder: Path | None,
    asked: Stated,
    pictures: Sequence[str],
) -> Imported:
    """What a source becomes. The kinds of sources part here."""
    name = out.absolute().name
    if source.lower().endswith(".onnx"):
        raise UsageError(f"{source}: ONNX files are not imported yet")
    try:
        from siamese_search.importing.network import import_network
    except ImportError as error:
        raise RuntimeUnavailable(
            f"importing needs torch: pip install 'siamese-search[train]' ({error})"
        ) from error
    return import_network(
        source,
        name=name,
        weights=weights,
        checkpoint_folder=checkpoint_folder,
        asked=asked,
        pictures=pictures,
        tell=note,
    )


def _sides(text: str) -> tuple[int, int]:
    """Width and height of ``224`` or ``128x256``."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"--size is {text!r}: give pixels, as 224, or as 128x256")
    return int(parts[0]), int(parts[-1])


def _scaled(option: str, text: str | None) -> tuple[float, ...] | None:
    """Numbers for pixels from 0 to 1, for those from 0 to 255."""
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 <= value <= 1 for value in found):
        raise UsageError(f"{option} is {text!r}: give numbers from 0 to 1, as 0.485,0.456,0.406")
    return tuple(255.0 * value for value in found)


def _pictures(folder: Path) -> list[str]:
    """Some pictures of a folder that can be read, from all over it."""
    from siamese_search.pictures.preprocessing import Preprocessing
    from siamese_search.pictures.render import load
    from siamese_search.pictures.sources import find, not_empty

    images = not_empty(find([str(folder)]), [str(folder)])
    found = [one.path for one in images if isinstance(one, ImageFile)]
    chosen: list[str] = []
    for path in found[:: max(1, len(found) // PICTURES)]:
        try:
            load(path, Preprocessing(32, 32))
        except ImageError as error:
            note(f"rejected: {path}: {error}")
        else:
            chosen.append(path)
    if not chosen:
        raise UsageError(f"{folder} has no pictures that can be read: name another --reference")
    return chosen[:PICTURES]


def _print(out: Path, made: Imported, fingerprint: str, speed: Measured, as_json: bool) -> None:
    shown, origin = made.preprocessing, made.origin
    if as_json:
        print_json(
            {
                "encoder": str(out),
                "fingerprint": fingerprint,
                "dimension": made.dimension,
                "preprocessing": dataclasses.asdict(shown),
                "origin": origin,
                **dataclasses.asdict(speed),
            }
        )
        return
    say(f"{out}: {made.dimension} dimensions, from {origin['source']}")
    say(f"licence: {origin.get('licence') or 'the files do not say'}")
    cut = f", {shown.crop_fraction:.4g} of it" if shown.crop_fraction < 1 else ""
    seen = f"{shown.width} × {shown.height} pixels"
    say(f"pictures: {seen}, {shown.resize}{cut}, {shown.interpolation}")
    agreement = ", ".join(f"{name} {cosine:.5f}" for name, cosine in origin["agreement"].items())
    say(f"least cosine to torch: {agreement}")
    if made.architecture.get("precision"):
        note("note: bfloat16 is too coarse for it: it runs in float32")
    memory = "" if speed.memory is None else f", {speed.memory / 1e6:.0f} MB of memory"
    rate = speed.images_per_second
    say(f"{pace(rate)} images/s on {speed.device}{memory}")
    if rate < SLOW:
        note(
            f"note: 1000 pictures take {1000 / rate / 60:.0f} minutes here; a smaller --size, or a"
            " smaller network, is faster"
        )
    say(f"{program()} add FOLDER --encoder {out}   enrols with it")


def register(group: typer.Typer) -> None:
    """Add this module's command."""
    group.command("import")(import_)
