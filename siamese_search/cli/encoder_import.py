"""``encoder import``: a network from elsewhere as an encoder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from siamese_search.cli.common import (
    DeviceOption,
    JsonOption,
    note,
    pace,
    print_json,
    say,
    tell_rejected,
)
from siamese_search.cli.encoder_calibrate import print_fit
from siamese_search.cli.encoder_onnx import (
    BgrOption,
    LayoutOption,
    LicenceOption,
    OutputOption,
    PoolOption,
    ScaleOption,
    onnx_options,
    sides,
)
from siamese_search.cli.program import program
from siamese_search.errors import RuntimeUnavailable, UsageError

if TYPE_CHECKING:
    from siamese_search.importing.imported import Imported
    from siamese_search.importing.measuring import Measured
    from siamese_search.importing.onnx_file import OnnxOptions
    from siamese_search.importing.reference import Fit
    from siamese_search.importing.stated import Stated

PICTURES = 16  # of a reference folder that torch and the exported graph are compared on
SLOW = 5.0  # images a second, below which the time for many is told


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A timm name, hf-hub:org/name, a folder with config.json and .safetensors, or an"
            " ONNX file.",
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
            help="Subtract this from pixels, which are from 0 to 1 (of an ONNX file: see --scale),"
            " in the order of the network's channels.",
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
            help="Your pictures, to check the encoder on (default: some that are generated);"
            " of ten identities or more, in a folder each, they also give its threshold.",
        ),
    ] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an encoder of a network from elsewhere, without training.

    It keeps its own pooling. The exported graph is compared with torch on pictures, that of an ONNX
    file with the file, and refused where they disagree. Only .safetensors are read: no pickles.
    """
    # Threads that spin while they wait slow a shared machine down many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from siamese_search.importing.measuring import measured
    from siamese_search.importing.sample import pictures_of
    from siamese_search.importing.writing import require_new, write_imported

    require_new(out)
    name = out.absolute().name
    shown = {"size": size, "resize": resize, "crop": crop, "interpolation": interpolation}
    numbers = {"mean": mean, "std": std}
    of_file = {"output": output, "pool": pool, "layout": layout, "scale": scale, "licence": licence}
    of_network = {"weights": weights, "checkpoint-folder": checkpoint_folder}
    is_file = source.lower().endswith(".onnx")
    if is_file:
        _require_none(source, of_network, "networks that timm knows")
    else:
        _require_none(source, of_file | {"bgr": bgr or None}, "ONNX files")
    make: Callable[[Sequence[str]], Imported]
    if is_file:
        options = onnx_options(name, bgr=bgr, **of_file, **shown, **numbers)  # type: ignore[arg-type]
        make = partial(_from_file, source, options)
    else:
        asked = _asked(**shown, **numbers)  # type: ignore[arg-type]
        make = partial(_from_network, source, name, weights, checkpoint_folder, asked)
    pictures = [] if reference is None else pictures_of(str(reference), PICTURES, tell_rejected)
    made = make(pictures)
    encoder = write_imported(made, out)
    fit = None if reference is None else _fitted(out, reference, device)
    note("measuring")
    _print(out, made, encoder.fingerprint, measured(out, device), fit, as_json)


def _fitted(out: Path, reference: Path, device: str | None) -> Fit | None:
    """The threshold that the reference gives; None where that has too few identities."""
    from siamese_search.importing.reference import fit_reference

    note("fitting the threshold")
    try:
        return fit_reference(out, [str(reference)], device=device)
    except UsageError as error:
        note(f"note: it has no threshold: {error}")
        return None


def _require_none(source: str, options: Mapping[str, object], what: str) -> None:
    """Raise UsageError for an option that would do nothing."""
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"--{option} is for {what}, and {source} is none of these")


def _asked(
    size: str | None,
    resize: str | None,
    crop: float | None,
    interpolation: str | None,
    mean: str | None,
    std: str | None,
) -> Stated:
    """What options say, before what files say."""
    from siamese_search.importing.stated import Stated

    height, width = sides(size) if size is not None else (None, None)
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
    return asked


def _from_file(source: str, options: OnnxOptions, pictures: Sequence[str]) -> Imported:
    from siamese_search.importing.checking import suited
    from siamese_search.importing.onnx_file import import_onnx

    return suited(import_onnx(source, options, pictures), pictures)


def _from_network(
    source: str,
    name: str,
    weights: Path | None,
    checkpoint_folder: Path | None,
    asked: Stated,
    pictures: Sequence[str],
) -> Imported:
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


def _print(
    out: Path,
    made: Imported,
    fingerprint: str,
    speed: Measured,
    fit: Fit | None,
    as_json: bool,
) -> None:
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
                "threshold": None if fit is None else fit.threshold,
            }
        )
        return
    taken = origin.get("input")  # of an ONNX file
    value = f", value {origin['output']['name']}" if taken else ""
    say(f"{out}: {made.dimension} dimensions, from {origin['file' if taken else 'source']}{value}")
    say(f"licence: {origin.get('licence') or 'the files do not say'}")
    cut = f", {shown.crop_fraction:.4g} of it" if shown.crop_fraction < 1 else ""
    seen = f"{shown.width} × {shown.height} pixels"
    by = f", by {taken['said by']}" if taken else ""
    say(f"pictures: {seen}, {shown.resize}{cut}, {shown.interpolation}{by}")
    if taken:
        scaled = f"mean {_list(taken['mean'] or [0])}, std {_list(taken['std'] or [1])}"
        say(f"channels: {taken['channels']}, from 0 to 255, {scaled}, {taken['layout']}")
        if origin["one at a time"]:
            say("its graph takes one picture at a time: so do the runtimes")
    agreement = ", ".join(f"{name} {cosine:.5f}" for name, cosine in origin["agreement"].items())
    say(f"least cosine to {'the file' if taken else 'torch'}: {agreement}")
    if fit is not None:
        print_fit(fit)
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


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def register(group: typer.Typer) -> None:
    """Add this module's command."""
    group.command("import")(import_)
