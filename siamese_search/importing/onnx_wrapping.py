"""ONNX graphs taken apart and put together: what a value needs, and a graph between pixels and
embeddings of unit length.

All steps that are added mean the same in every operator set that is taken. Graphs have no
subgraphs: their names are those of the top.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Layout = Literal["nchw", "nhwc"]
POOLS = ("mean", "max", "first", "rest")
PRODUCER = "siasearch"


@dataclass(frozen=True)
class Taken:
    """What a graph takes: an array ``name`` of one picture or several, and how pixels become it.

    ``kind`` is float32, float16 or uint8; ``mean`` and ``std`` are on the 0 to 255 scale, a number
    per channel in the order of the graph's channels, empty where it takes pixels as they are.
    ``batch`` is how many pictures the file takes at a time, None for any number.
    """

    name: str
    kind: Literal["float32", "float16", "uint8"]
    layout: Layout
    height: int
    width: int
    channels: int
    bgr: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch: int | None

    def array(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """What the graph takes for pixels uint8 (n, height, width, channels), by numpy."""
        shown: npt.NDArray[Any] = pixels[..., ::-1] if self.bgr else pixels
        if self.kind != "uint8":
            shown = shown.astype(np.float32)
            if self.mean:
                shown = shown - np.array(self.mean, np.float32)
            if self.std:
                shown = shown / np.array(self.std, np.float32)
        if self.layout == "nchw":
            shown = shown.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(shown.astype(self.kind))

    def sizes(self, batch: int | str) -> list[int | str]:
        """The sizes of the array for a batch."""
        if self.layout == "nchw":
            return [batch, self.channels, self.height, self.width]
        return [batch, self.height, self.width, self.channels]


@dataclass(frozen=True)
class Given:
    """The value of a graph that becomes the embedding, and how it is pooled.

    ``shape`` is that for one picture: (1, dimension); tokens (1, count, channels); or maps, whose
    channels are ``last`` or second. ``pool`` is one of POOLS, None to take all values as they are.
    """

    name: str
    shape: tuple[int, ...]
    pool: str | None = None
    last: bool = False

    @property
    def dimension(self) -> int:
        """How many values an embedding has."""
        if self.pool is None:
            return math.prod(self.shape[1:])
        return self.shape[-1] if len(self.shape) == 3 or self.last else self.shape[1]

    def pooled(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Values of the shape, or of several pictures, to float32 (n, dimension), by numpy."""
        given = values.astype(np.float32)
        if self.pool is None:
            return given.reshape(len(given), -1)
        if self.pool == "first":
            return given[:, 0]
        if self.pool == "rest":
            given = given[:, 1:]
        middle = (1,) if given.ndim == 3 else (1, 2) if self.last else (2, 3)
        found: npt.NDArray[np.float32] = (given.max if self.pool == "max" else given.mean)(middle)
        return found


def needed(graph: Any, names: Iterable[str]) -> tuple[list[Any], set[str]]:
    """The steps that these values need, in order, and what these steps need from outside."""
    wanted = set(names)
    steps = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            steps.append(node)
            wanted.difference_update(filter(None, node.output))
            wanted.update(filter(None, node.input))
    return steps[::-1], wanted


def cut(model: Any, taken: Taken, names: Sequence[str], batch: int | str) -> Any:
    """The model from what it takes, in a batch, to these values: only the steps that they need."""
    steps, outside = needed(model.graph, names)
    graph = helper.make_graph(
        steps,
        "network",
        [
            helper.make_tensor_value_info(
                taken.name, getattr(TensorProto, _KINDS[taken.kind]), taken.sizes(batch)
            )
        ],
        [onnx.ValueInfoProto(name=name) for name in names],
        [one for one in model.graph.initializer if one.name in outside],
    )
    return _model(graph, model)


def wrapped(model: Any, taken: Taken, given: Given, batch: int | str) -> bytes:
    """The graph of an encoder: ``pixels`` uint8 (batch, height, width, channels) to ``embedding``
    float32 (batch, dimension), each of unit length.
    """
    steps, outside = needed(model.graph, [given.name])
    names = {name for node in steps for name in (*node.input, *node.output)}
    made = _Steps(names)
    pixels, embedding = made.free("pixels"), made.free("embedding")
    before, after = _before(made, pixels, taken), _after(made, given, embedding)
    sizes = [batch, taken.height, taken.width, taken.channels]
    graph = helper.make_graph(
        [*before, *(without_notes(node) for node in steps), *after],
        "encoder",
        [helper.make_tensor_value_info(pixels, TensorProto.UINT8, sizes)],
        [helper.make_tensor_value_info(embedding, TensorProto.FLOAT, [batch, given.dimension])],
        [*(one for one in model.graph.initializer if one.name in outside), *made.constants],
    )
    return bytes(_model(graph, model).SerializeToString(deterministic=True))


def rename(steps: Iterable[Any], names: Mapping[str, str]) -> None:
    """Have values that steps make, and take from each other, called otherwise."""
    for node in steps:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]


def without_notes(node: Any) -> Any:
    """A step without what its exporter wrote of it, such as the paths of source files."""
    del node.metadata_props[:]
    node.doc_string = ""
    return node


_KINDS = {"float32": "FLOAT", "float16": "FLOAT16", "uint8": "UINT8"}


def _model(graph: Any, like: Any) -> Any:
    opsets = [one for one in like.opset_import if one.domain in ("", "ai.onnx")]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=like.ir_version, producer_name=PRODUCER
    )


class _Steps:
    """Makes steps whose values have names that no other has."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self.constants: list[Any] = []

    def free(self, name: str) -> str:
        """A name like this one, taken from now on."""
        found, number = name, 0
        while found in self._names:
            number += 1
            found = f"{name}_{number}"
        self._names.add(found)
        return found

    def constant(self, values: Any) -> str:
        name = self.free("siasearch")
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def chain(self, begin: str, end: str, links: Sequence[Any]) -> list[Any]:
        """Steps from one value to another: (operator, further inputs, attributes) each."""
        steps, value = [], begin
        for number, (operator, more, attributes) in enumerate(links):
            following = end if number == len(links) - 1 else self.free("siasearch")
            steps.append(helper.make_node(operator, [value, *more], [following], **attributes))
            value = following
        return steps


def _before(made: _Steps, pixels: str, taken: Taken) -> list[Any]:
    """The steps from pixels to what a graph takes."""
    links: list[Any] = []
    if taken.bgr:
        links.append(("Gather", [made.constant(np.array([2, 1, 0], np.int64))], {"axis": 3}))
    if taken.kind != "uint8":
        links.append(("Cast", [], {"to": TensorProto.FLOAT}))
        for operator, values in (("Sub", taken.mean), ("Div", taken.std)):
            if values:
                shaped = np.array(values, np.float32).reshape(1, 1, 1, -1)
                links.append((operator, [made.constant(shaped)], {}))
    if taken.layout == "nchw":
        links.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
    if taken.kind == "float16":
        links.append(("Cast", [], {"to": TensorProto.FLOAT16}))
    return made.chain(pixels, taken.name, links or [("Identity", [], {})])


def _after(made: _Steps, given: Given, embedding: str) -> list[Any]:
    """The steps from what a graph gives to embeddings."""
    links: list[Any] = [("Cast", [], {"to": TensorProto.FLOAT})]
    tokens = len(given.shape) == 3
    if given.pool in ("mean", "max", "rest"):
        if given.pool == "rest":
            others = np.arange(1, given.shape[1], dtype=np.int64)
            links.append(("Gather", [made.constant(others)], {"axis": 1}))
        if tokens or given.last:  # pooling takes channels second
            links.append(("Transpose", [], {"perm": [0, 2, 1] if tokens else [0, 3, 1, 2]}))
        links.append(("GlobalMaxPool" if given.pool == "max" else "GlobalAveragePool", [], {}))
    elif given.pool == "first":
        links.append(("Gather", [made.constant(np.array([0], np.int64))], {"axis": 1}))
    links += [("Flatten", [], {"axis": 1}), ("LpNormalization", [], {"axis": 1, "p": 2})]
    return made.chain(given.name, embedding, links)
