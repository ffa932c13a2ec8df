"""Preprocessing as ONNX steps: a picture of any size to the pixels that an encoder takes.

What ``pictures/render.py`` does by Pillow, in operators of set 18. A scaled picture is two products
of matrices: one makes its columns of the picture's columns, the other its rows. Their weights are
those of Pillow's filters, for boxes that begin and end anywhere between pixels, as ONNX's own
Resize has not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.pictures.render import TRIM_LEAST, TRIM_MARGIN, TRIM_RESERVE

OPSET = 18
SUPPORT = {"box": 0.5, "bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}  # in pixels of the result
LUMINANCE = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # of red, green, blue, as Pillow has it


class Value:
    """A value of a graph that is being written; arithmetic on it writes further steps.

    Everything is float32, but where a step says otherwise.
    """

    def __init__(self, steps: Steps, name: str) -> None:
        self.steps = steps
        self.name = name

    def __add__(self, other: Value | float) -> Value:
        return self.steps.do("Add", self, other)

    def __sub__(self, other: Value | float) -> Value:
        return self.steps.do("Sub", self, other)

    def __rtruediv__(self, other: float) -> Value:
        return self.steps.do("Div", other, self)

    def __rsub__(self, other: float) -> Value:
        return self.steps.do("Sub", other, self)

    def __mul__(self, other: Value | float) -> Value:
        return self.steps.do("Mul", self, other)

    def __truediv__(self, other: Value | float) -> Value:
        return self.steps.do("Div", self, other)

    def least(self, *others: Value | float) -> Value:
        return self.steps.do("Min", self, *others)

    def most(self, *others: Value | float) -> Value:
        return self.steps.do("Max", self, *others)

    def on(self, operator: str, *others: Value | float, **attributes: Any) -> Value:
        """A step of any other operator."""
        return self.steps.do(operator, self, *others, **attributes)

    def whole(self) -> Value:
        """As int64, (1,): what steps take as a length."""
        return self.on("Cast", to=TensorProto.INT64).on("Reshape", self.steps.lengths(1))

    def real(self) -> Value:
        return self.on("Cast", to=TensorProto.FLOAT)


class Steps:
    """Steps that are written one after another, and the constants that they need."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._prefix = prefix

    def value(self, name: str) -> Value:
        """A value that is there already."""
        return Value(self, name)

    def do(self, operator: str, *inputs: Value | float, **attributes: Any) -> Value:
        """A step, which gives one value."""
        names = [
            one.name if isinstance(one, Value) else self.number(float(one)).name for one in inputs
        ]
        name = f"{self._prefix}{len(self.nodes) + len(self.constants)}"
        others = [f"{name}.places"] if operator == "TopK" else []
        self.nodes.append(helper.make_node(operator, names, [name, *others], **attributes))
        return Value(self, name)

    def number(self, number: float) -> Value:
        return self._constant(np.array(number, np.float32))

    def numbers(self, numbers: Sequence[float]) -> Value:
        return self._constant(np.array(numbers, np.float32))

    def lengths(self, *lengths: int) -> Value:
        """int64 (count,)."""
        return self._constant(np.array(lengths, np.int64))

    def _constant(self, values: Any) -> Value:
        name = f"{self._prefix}{len(self.nodes) + len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return Value(self, name)

    def joined(self, *values: Value) -> Value:
        """Arrays of one axis as one."""
        return self.do("Concat", *values, axis=0)


class Image:
    """A picture in a graph: float32 (height, width, channels), and its height and width."""

    def __init__(self, pixels: Value) -> None:
        self.pixels = pixels
        shape = pixels.on("Shape")
        steps = pixels.steps
        self.height, self.width = (
            shape.on("Gather", steps.lengths(axis)).real().on("Squeeze") for axis in (0, 1)
        )


Side = tuple[Value, Value]  # where something begins and ends on an axis, in pixels


def rendered(steps: Steps, name: str, how: Preprocessing) -> Value:
    """Steps from a picture, uint8 (height, width, 3) of any size, to uint8 (1, height, width,
    channels) as an encoder takes it.
    """
    given = steps.value(name)
    image = Image(given)
    if how.resize == "crop":
        scale = (image.width / how.width).least(image.height / how.height) * how.crop_fraction
        sides = []
        for length, target in ((image.height, how.height), (image.width, how.width)):
            left = ((length - scale * target) * 0.5).most(0.0)
            sides.append((left, length - left))
        shown = _scaled(given, sides, (how.height, how.width), how.interpolation)
        return _bytes(_grey(shown, how))
    zero = steps.number(0)
    whole = [(zero, image.height), (zero, image.width)]
    if how.resize == "squash":
        return _bytes(_grey(_scaled(given, whole, (how.height, how.width), how.interpolation), how))
    if how.resize == "pad":
        scale = (how.width / image.width).least(how.height / image.height)
    else:
        longest = TRIM_RESERVE * max(how.width, how.height)
        scale = (longest / image.width.most(image.height)).least(1.0)
    sizes = [(one * scale).on("Round").most(1.0) for one in (image.height, image.width)]
    shown = _grey(_scaled(given, whole, sizes, how.interpolation), how)
    return _bytes(_padded(shown, how) if how.resize == "pad" else _trimmed(shown, how))


def _grey(pixels: Value, how: Preprocessing) -> Value:
    """Whole numbers from 0 to 255; one channel of them where an encoder takes grey."""
    pixels = _rounded(pixels)
    if how.channels == 3:
        return pixels
    luminance = pixels * pixels.steps.numbers(LUMINANCE)
    return _rounded(luminance.on("ReduceSum", pixels.steps.lengths(2), keepdims=1))


def _rounded(pixels: Value) -> Value:
    return (pixels.on("Clip", 0.0, 255.0) + 0.5).on("Floor")


def _bytes(pixels: Value) -> Value:
    return (
        _rounded(pixels).on("Cast", to=TensorProto.UINT8).on("Unsqueeze", pixels.steps.lengths(0))
    )


def _scaled(
    pixels: Value, box: Sequence[Side], sizes: Sequence[Value | int], interpolation: str
) -> Value:
    """The box of a picture scaled to a height and a width: float32 (height, width, channels).

    As by Pillow, columns are made first, in whole numbers from 0 to 255; and what lies around the
    box counts at its edges.
    """
    steps = pixels.steps
    begins, ends, boxes = [], [], []
    image = Image(pixels)
    for (left, right), size, length in zip(box, sizes, (image.height, image.width), strict=True):
        reach = ((right - left) / size).most(1.0) * SUPPORT[interpolation]
        begin = (left - reach).on("Floor").most(0.0)
        begins.append(begin.whole())
        ends.append((right + reach).on("Ceil").least(length).whole())
        boxes.append((left - begin, right - begin))
    # Cut out while pixels are bytes: floats take four times the memory.
    part = pixels.on("Slice", steps.joined(*begins), steps.joined(*ends), steps.lengths(0, 1))
    image = Image(part)
    rows, columns = (
        _weights(length, side, size, interpolation)
        for length, side, size in zip((image.height, image.width), boxes, sizes, strict=True)
    )
    planes = part.on("Transpose", perm=[2, 0, 1]).real()
    narrow = _rounded(planes.on("MatMul", columns.on("Transpose", perm=[1, 0])))
    return rows.on("MatMul", narrow).on("Transpose", perm=[1, 2, 0])


def _weights(length: Value, side: Side, size: Value | int, interpolation: str) -> Value:
    """How much each of the ``length`` pixels of an axis counts for each of ``size`` pixels that its
    side from begin to end is scaled to: float32 (size, length), each row sums to one.
    """
    steps = length.steps
    (left, right), count = side, steps.number(size) if isinstance(size, int) else size
    scale = (right - left) / count
    centres = left + (steps.do("Range", 0.0, count, 1.0) + 0.5) * scale
    places = steps.do("Range", 0.0, length, 1.0) + 0.5
    apart = places - centres.on("Unsqueeze", steps.lengths(1))
    weights = _filtered((apart / scale.most(1.0)), interpolation)
    return weights / weights.on("ReduceSum", steps.lengths(1), keepdims=1)


def _filtered(x: Value, interpolation: str) -> Value:
    """Pillow's filters, at distances in pixels of the result."""
    far = x.on("Abs")
    if interpolation == "bilinear":
        return (1.0 - far).most(0.0)
    if interpolation == "box":
        steps = x.steps
        inside = x.on("Greater", -0.5).on("And", x.on("LessOrEqual", 0.5))
        return steps.do("Where", inside, 1.0, 0.0)
    if interpolation == "bicubic":
        near = (far * 1.5 - 2.5) * far * far + 1.0
        beyond = (((far - 5.0) * far + 8.0) * far - 4.0) * -0.5
        return far.on("Less", 1.0).on("Where", near, far.on("Less", 2.0).on("Where", beyond, 0.0))
    product = _sinc(x) * _sinc(x / 3.0)
    return far.on("Less", 3.0).on("Where", product, 0.0)


def _sinc(x: Value) -> Value:
    angle = x * float(np.pi)
    return x.on("Equal", 0.0).on("Where", 1.0, angle.on("Sin") / angle)


def _padded(pixels: Value, how: Preprocessing) -> Value:
    """In the middle of white of the encoder's size."""
    steps, image = pixels.steps, Image(pixels)
    before, after = [], []
    for target, length in ((how.height, image.height), (how.width, image.width)):
        room = target - length
        half = (room * 0.5).on("Floor")
        before.append(half.whole())
        after.append((room - half).whole())
    nought = steps.lengths(0)
    return pixels.on("Pad", steps.joined(*before, nought, *after, nought), 255.0)


def _trimmed(pixels: Value, how: Preprocessing) -> Value:
    """A square around what is drawn, scaled; as ``render``'s."""
    steps, image = pixels.steps, Image(pixels)
    paper = _border(pixels)
    apart = (pixels - paper).on("Abs").on("ReduceMax", steps.lengths(2), keepdims=0)
    most = apart.on("ReduceMax", steps.lengths(0, 1), keepdims=0)
    drawn = apart.on("Greater", (most * 0.5).most(32.0)).real()
    firsts, lasts = [], []
    for axis in (1, 0):  # rows, then columns
        along = drawn.on("ReduceMax", steps.lengths(axis), keepdims=0)
        firsts.append(along.on("ArgMax", axis=0, keepdims=0).real())
        lasts.append(along.on("ArgMax", axis=0, keepdims=0, select_last_index=1).real())
    extent = (lasts[0] - firsts[0]).most(lasts[1] - firsts[1]) + 1.0
    side = extent.most(image.height.most(image.width) * TRIM_LEAST) * TRIM_MARGIN
    begins = [(first + last + 1.0 - side) * 0.5 for first, last in zip(firsts, lasts, strict=True)]
    lengths = (image.height, image.width)
    outside = [begin + side - length for begin, length in zip(begins, lengths, strict=True)]
    room = steps.number(0).most(*(0.0 - one for one in begins), *outside).on("Ceil")
    if how.channels == 1:
        dark = paper.on("Less", 128.0)
        pixels = dark.on("Where", 255.0 - pixels, pixels)
        paper = dark.on("Where", 255.0 - paper, paper)
    ground = paper.on("Round")
    pads = steps.joined(
        *[room.whole()] * 2, steps.lengths(0), *[room.whole()] * 2, steps.lengths(0)
    )
    canvas = (pixels - ground).on("Pad", pads, 0.0) + ground
    box = [(begin + room, begin + room + side) for begin in begins]
    return _scaled(canvas, box, (how.height, how.width), how.interpolation)


def _border(pixels: Value) -> Value:
    """The median of a picture's outermost pixels, (channels,)."""
    steps, image = pixels.steps, Image(pixels)
    edges = [
        pixels.on("Gather", steps.lengths(place).on("Squeeze"), axis=axis)
        for axis in (0, 1)
        for place in (0, -1)
    ]
    border = steps.do("Concat", *edges, axis=0)  # (count, channels), an even count
    half = image.height + image.width
    # The larger half and one more, in order: of them the last two.
    last = border.on("TopK", (half + 1.0).whole(), axis=0).on(
        "Slice", steps.lengths(-2), steps.lengths(1 << 31), steps.lengths(0)
    )
    return last.on("ReduceMean", steps.lengths(0), keepdims=0)
