"""The options of ``encoder import`` that ONNX files need, and what they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from siamese_search.errors import UsageError

if TYPE_CHECKING:
    from siamese_search.importing.onnx_file import OnnxOptions

OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="NAME",
        help="Of an ONNX file: the value that becomes the embedding, also one inside of the graph;"
        " needed where it gives several.",
    ),
]
PoolOption = Annotated[
    str | None,
    typer.Option(
        "--pool",
        metavar="mean|max|first|rest",
        help="Of an ONNX file that gives maps or tokens: how they become one vector. first is the"
        " class token, rest the mean of all others.",
    ),
]
LayoutOption = Annotated[
    str | None,
    typer.Option(
        "--layout",
        metavar="nchw|nhwc",
        help="Of an ONNX file: whether channels come before height and width, or last; needed where"
        " its sizes do not tell.",
    ),
]
BgrOption = Annotated[
    bool, typer.Option("--bgr", help="Of an ONNX file: blue comes first. Default: red does.")
]
ScaleOption = Annotated[
    int | None,
    typer.Option(
        "--scale",
        metavar="1|255",
        help="What --mean and --std are for: pixels from 0 to 1, or from 0 to 255.",
    ),
]
LicenceOption = Annotated[
    str | None,
    typer.Option("--licence", metavar="TEXT", help="Where the files do not say it: the licence."),
]


def onnx_options(
    name: str,
    output: str | None,
    pool: str | None,
    layout: str | None,
    size: str | None,
    bgr: bool,
    mean: str | None,
    std: str | None,
    scale: int | None,
    resize: str | None,
    crop: float | None,
    interpolation: str | None,
    licence: str | None,
) -> OnnxOptions:
    """What these options, as they were typed, say of an ONNX file. Raises UsageError."""
    from siamese_search.importing.onnx_file import OnnxOptions

    if layout not in (None, "nchw", "nhwc"):
        raise UsageError(f"--layout is {layout!r}: choose nchw or nhwc")
    if scale not in (None, 1, 255):
        raise UsageError(f"--scale is {scale}: choose 1 or 255")
    return OnnxOptions(
        name=name,
        output=output,
        pool=pool,
        layout=cast(Literal["nchw", "nhwc"] | None, layout),
        size=None if size is None else sides(size),
        bgr=bgr,
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        scale=cast(Literal[1, 255] | None, scale),
        resize=resize,
        crop=crop,
        interpolation=interpolation,
        licence=licence,
    )


def sides(text: str) -> tuple[int, int]:
    """Height and width of ``224``, or of ``128x256``, which is the width first."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(
            f"--size is {text!r}: give pixels, as 224, or width and height, as 128x256"
        )
    return int(parts[-1]), int(parts[0])


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} is {text!r}: give numbers, as 0.485,0.456,0.406") from None
