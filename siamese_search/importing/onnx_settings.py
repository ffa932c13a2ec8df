"""How an ONNX file takes pictures: what its graph says, the files beside it, and the user.

Nothing that matters is guessed: what nobody says is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from onnx import TensorProto

from siamese_search.errors import EncoderError, UsageError
from siamese_search.importing.beside import stated_beside
from siamese_search.importing.onnx_file import OnnxOptions
from siamese_search.importing.onnx_wrapping import Layout, Taken
from siamese_search.importing.stated import SIDE_AT_MOST, Stated
from siamese_search.pictures.preprocessing import Preprocessing

KINDS: dict[int, Literal["float32", "float16", "uint8"]] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.UINT8: "uint8",
}
BATCH_AT_MOST = 64  # that a file may be fixed to
COLOURS = (1, 3)  # channels


@dataclass(frozen=True)
class Settled:
    """How a file takes pictures, and which file beside it said so, None where none did."""

    taken: Taken
    preprocessing: Preprocessing
    beside: str | None


def settle(path: Path, model: Any, options: OnnxOptions) -> Settled:
    """How a model takes pictures.

    Raises UsageError, naming options, for what nobody says and for options that contradict the
    file; EncoderError for a graph that takes no pictures.
    """
    one = _input(path, model.graph)
    kind = KINDS[one.type.tensor_type.elem_type]
    lengths = [
        length.dim_value if length.dim_value > 0 else None
        for length in one.type.tensor_type.shape.dim
    ]
    said, flipped, beside = _said(path, options, kind)
    layout = _layout(path, lengths, options)
    channels, height, width = lengths[1:] if layout == "nchw" else (lengths[3], *lengths[1:3])
    size = _size(path, (height, width), options, said)
    channels = channels or said.channels or len(said.mean or ())
    if channels not in COLOURS:
        raise UsageError(
            f"{path} takes pictures of {channels or 'any number of'} channels: encoders have 1 or 3"
        )
    missing = [
        option
        for option, value in (
            ("--size N", size),
            (
                "--mean and --std, with --scale 1 or 255",
                kind == "uint8" or (said.mean and said.std),
            ),
            ("--resize crop, squash or pad", said.resize),
        )
        if not value
    ]
    if missing or size is None:
        raise UsageError(
            f"nothing says how {path} takes its pictures: give {'; '.join(missing)} (or put its"
            " preprocessor_config.json, open_clip_config.json or timm's config.json beside it)"
        )
    how = Stated(
        height=size[0],
        width=size[1],
        channels=channels,
        resize=said.resize,
        crop=said.crop or 1.0,
        interpolation=said.interpolation or "bilinear",
    ).preprocessing()
    mean, std = ([], []) if kind == "uint8" else said.scale(channels)
    bgr = options.bgr or flipped
    if bgr and channels == 1:
        raise UsageError(f"{path} takes grey pictures: leave out --bgr")
    batch = lengths[0]
    if batch is not None and batch > BATCH_AT_MOST:
        raise EncoderError(
            f"{path} cannot become an encoder: it takes {batch} pictures at a time, no fewer"
        )
    taken = Taken(
        name=one.name,
        kind=kind,
        layout=layout,
        height=size[0],
        width=size[1],
        channels=channels,
        bgr=bgr,
        mean=tuple(mean) if any(mean) else (),
        std=tuple(std) if set(std) - {1.0} else (),
        batch=batch,
    )
    return Settled(taken, how, beside)


def _input(path: Path, graph: Any) -> Any:
    """The one input that pictures fit into."""
    constants = {one.name for one in graph.initializer}
    inputs = [one for one in graph.input if one.name not in constants]
    fitting = [
        one
        for one in inputs
        if one.type.tensor_type.elem_type in KINDS and len(one.type.tensor_type.shape.dim) == 4
    ]
    if len(fitting) != 1:
        names = ", ".join(repr(one.name) for one in inputs[:8]) or "none"
        raise EncoderError(
            f"{path} cannot become an encoder: of its inputs ({names}), {len(fitting) or 'none'}"
            f" take{'' if len(fitting) else 's'} pictures as float32, float16 or uint8 of four"
            " sizes, and it must be one"
        )
    return fitting[0]


def _said(path: Path, options: OnnxOptions, kind: str) -> tuple[Stated, bool, str | None]:
    """What the options say and, where they do not, the files beside it."""
    folder = path.parent
    said, flipped, beside = stated_beside(folder)
    if beside is None and folder.name == "onnx":  # as hubs put it
        said, flipped, beside = stated_beside(folder.parent)
    values = options.mean, options.std, options.scale
    if any(values) and not all(values):
        raise UsageError(
            "--mean, --std and --scale go together: --scale 1 for those of pixels from 0 to 1, 255"
            " for those of pixels from 0 to 255"
        )
    if any(values) and kind == "uint8":
        raise UsageError(f"{path} takes pixels as they are (uint8): leave out --mean and --std")
    scaled = [
        tuple(value * 255.0 / cast(int, options.scale) for value in one) if one else None
        for one in (options.mean, options.std)
    ]
    wanted = Stated(
        mean=scaled[0],
        std=scaled[1],
        resize=options.resize,
        crop=options.crop,
        interpolation=options.interpolation,
    )
    if options.crop and (options.resize or said.resize) != "crop":
        raise UsageError("--crop is a share of what --resize crop cuts out: say that, too")
    if options.resize:
        said = Stated(**{**vars(said), "crop": None})
    return wanted.over(said), flipped, beside


def _layout(path: Path, lengths: list[int | None], options: OnnxOptions) -> Layout:
    """Where the channels are: by the sizes where these tell, else as the options say."""
    possible: list[Layout] = []
    if lengths[1] is None or lengths[1] in COLOURS:
        possible.append("nchw")
    if lengths[3] is None or lengths[3] in COLOURS:
        possible.append("nhwc")
    if len(possible) == 2:  # a size that is known tells more than one that may be anything
        places: dict[Layout, int] = {"nchw": 1, "nhwc": 3}
        told = [where for where in possible if lengths[places[where]] in COLOURS]
        possible = told if len(told) == 1 else possible
    if options.layout is None and len(possible) == 1:
        return possible[0]
    sizes = "×".join(str(one or "?") for one in lengths)
    if options.layout is None and possible:
        raise UsageError(
            f"{path} takes arrays of {sizes}, which does not tell where the channels are: give"
            " --layout nchw or nhwc"
        )
    channels = lengths[1] if options.layout == "nchw" else lengths[3]
    if not possible or not (channels is None or channels in COLOURS):
        raise UsageError(
            f"{path} takes arrays of {sizes}, which are no pictures of 1 or 3 channels"
            + (f" in the layout {options.layout}" if options.layout else "")
        )
    assert options.layout is not None
    return options.layout


def _size(
    path: Path, fixed: tuple[int | None, int | None], options: OnnxOptions, said: Stated
) -> tuple[int, int] | None:
    """Height and width: the file's own, else as is said; None where nothing tells."""
    described = (said.height, said.width or said.height) if said.height else None
    wanted: tuple[int | None, int | None] = options.size or described or fixed
    for own, other in zip(fixed, wanted, strict=True):
        if own is not None and other is not None and own != other:
            source = "--size says" if options.size else "the file beside it says"
            raise UsageError(
                f"{path} takes {_sides(fixed)} pixels, but {source} {_sides(wanted)}: give --size"
                f" {_sides(fixed)} if the graph is right"
            )
    if wanted[0] is None or wanted[1] is None:
        return None
    if not all(1 <= side <= SIDE_AT_MOST for side in wanted if side is not None):
        raise UsageError(f"{path} takes {_sides(wanted)} pixels: at most {SIDE_AT_MOST} a side")
    return wanted[0], wanted[1]


def _sides(size: tuple[int | None, int | None]) -> str:
    """A height and a width as ``--size`` has them, the width first."""
    return "x".join(str(one or "?") for one in reversed(size))
