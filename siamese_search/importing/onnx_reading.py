"""ONNX files of anybody, read whole: with their weights inside, and without steps that might not
end.

A file may claim anything. What it claims is held against what is there before anything is run.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from siamese_search.errors import EncoderError
from siamese_search.files import read_regular

BYTES = (1 << 31) - 1  # what an ONNX file can hold at most, its weights inside
NODES = 100_000
OPSET = 7  # the first that ONNX Runtime runs
DOMAINS = ("", "ai.onnx")
# By the type of a tensor: the bytes that a value has, and the field with the values one by one.
STORED = {
    TensorProto.FLOAT: (4, "float_data"),
    TensorProto.DOUBLE: (8, "double_data"),
    TensorProto.INT64: (8, "int64_data"),
    TensorProto.UINT64: (8, "uint64_data"),
    TensorProto.UINT32: (4, "uint64_data"),
    **{
        kind: (size, "int32_data")
        for size, kinds in (
            (1, (TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL)),
            (
                2,
                (TensorProto.UINT16, TensorProto.INT16, TensorProto.FLOAT16, TensorProto.BFLOAT16),
            ),
            (4, (TensorProto.INT32,)),
        )
        for kind in kinds
    },
}


def read_model(path: Path) -> tuple[Any, dict[str, str]]:
    """The model of a file, all weights inside, and the SHA-256 of each file read, by its name.

    Raises EncoderError for what is no ONNX file, is cut short, claims what is not there, keeps
    weights outside of its own folder, or has control flow or steps that are not ONNX's own.
    """
    content = _read(path, BYTES)
    digests = {path.name: hashlib.sha256(content).hexdigest()}
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, MemoryError) as error:
        raise _refused(path, "it is no ONNX file, is cut short, or claims too much") from error
    size = len(content)
    del content
    if not model.ir_version or not model.graph.node:
        raise _refused(path, "it is no ONNX file, or has no graph")
    opset = opset_of(model)
    if opset < OPSET:
        raise _refused(
            path, f"its operator set {opset} is too old: export it with {OPSET} or later"
        )
    model = _without_functions(path, model)
    _require_plain(path, model.graph)
    _fill(path, list(_tensors(model.graph)), BYTES - size, digests)
    return model, digests


def opset_of(model: Any) -> int:
    """The version of ONNX's own operator set that a model is written in; 0 where it names none."""
    return max((one.version for one in model.opset_import if one.domain in DOMAINS), default=0)


def _refused(path: Path, why: str) -> EncoderError:
    return EncoderError(f"{path} cannot become an encoder: {why}")


def _read(path: Path, most: int) -> bytes:
    try:
        return read_regular(path, most)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise EncoderError(f"{path} cannot be read: {why}") from error


def _without_functions(path: Path, model: Any) -> Any:
    """The model with its own functions put in where they are called: not where they call each other
    without end, or would fill the memory.
    """
    if not model.functions:
        return model
    bodies = {(one.domain, one.name): one.node for one in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Any, within: frozenset[tuple[str, str]]) -> int:
        total = 0
        for key, times in Counter((node.domain, node.op_type) for node in nodes).items():
            if key in within or len(within) > 50:
                raise _refused(path, f"its function {key[1]!r} calls itself, or too many others")
            if key in bodies and key not in sizes:
                sizes[key] = size(bodies[key], within | {key})
            total += times * sizes.get(key, 1)
        return total

    if size(model.graph.node, frozenset()) > NODES:
        raise _refused(path, f"its functions unfold to more than {NODES} steps")
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        raise _refused(path, "its functions make no sense") from error


def _require_plain(path: Path, graph: Any) -> None:
    """Raise EncoderError for too many steps, control flow, and steps that are not ONNX's own."""
    if len(graph.node) > NODES:
        raise _refused(path, f"it has more than {NODES} steps")
    if graph.sparse_initializer:
        raise _refused(path, "it has sparse weights: save it with dense ones")
    for node in graph.node:
        if node.domain not in DOMAINS:
            raise _refused(
                path,
                f"its step {node.op_type!r} is one of {node.domain!r}, not of ONNX itself: export"
                " it without",
            )
        if any(one.HasField("g") or one.graphs for one in node.attribute):
            raise _refused(
                path,
                f"it has a step {node.op_type!r}, and so might not end: export it without control"
                " flow, or have onnxsim take out what never changes",
            )
        if any(one.HasField("sparse_tensor") or one.sparse_tensors for one in node.attribute):
            raise _refused(path, "it has sparse weights: save it with dense ones")


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for one in node.attribute:
            if one.HasField("t"):
                yield one.t
            yield from one.tensors


def _fill(path: Path, tensors: list[Any], room: int, digests: dict[str, str]) -> None:
    """Put in the values that lie in other files, ``room`` bytes of them at most; EncoderError for a
    tensor that has more or fewer values than it claims.
    """
    files: dict[str, bytes] = {}
    for tensor in tensors:
        size, field = STORED.get(tensor.data_type, (0, ""))
        if not size:
            raise _refused(path, f"its tensor {tensor.name!r} is of a kind that encoders have not")
        if any(length < 0 for length in tensor.dims):
            raise _refused(path, f"its tensor {tensor.name!r} has a negative size")
        claimed = math.prod(tensor.dims)
        if tensor.data_location == TensorProto.EXTERNAL:
            room -= claimed * size
            if room < 0:
                raise _refused(path, f"its weights are more than {BYTES / 1e9:.1f} GB")
            tensor.raw_data = _external(path, tensor, claimed * size, files, digests)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
        raw = tensor.HasField("raw_data")
        found = len(tensor.raw_data) / size if raw else len(getattr(tensor, field))
        if found != claimed:
            raise _refused(
                path, f"its tensor {tensor.name!r} claims {claimed} values and has {found:g}"
            )


def _external(
    path: Path, tensor: Any, size: int, files: dict[str, bytes], digests: dict[str, str]
) -> bytes:
    """The bytes of a tensor that lie in another file of the same folder."""
    said = {one.key: one.value for one in tensor.external_data}
    location = said.get("location", "")
    if location not in files:
        files[location] = _read(_inside(path, location), BYTES)
        digests[location] = hashlib.sha256(files[location]).hexdigest()
    try:
        begin, length = int(said.get("offset") or 0), int(said.get("length") or size)
    except ValueError as error:
        raise _refused(path, f"its tensor {tensor.name!r} lies nowhere in {location}") from error
    content = files[location][begin : begin + length] if begin >= 0 else b""
    if length != size or len(content) != size:
        raise _refused(
            path, f"its tensor {tensor.name!r} claims {size} bytes of {location}, which has not"
        )
    return content


def _inside(path: Path, location: str) -> Path:
    """A file that a model names, where it lies in the model's folder, also after links."""
    parts = PurePath(location.replace("\\", "/"))
    try:
        folder = path.parent.resolve()
        place = (folder / parts).resolve()
        inside = place.is_relative_to(folder) and place != folder
    except (OSError, RuntimeError, ValueError):  # links in a circle, a name that no file has
        inside = False
    if not inside or parts.is_absolute() or os.pardir in parts.parts:
        raise _refused(
            path,
            f"it keeps weights in {location[:200]!r}, outside of its own folder: put them, not a"
            " link, beside it",
        )
    return place
