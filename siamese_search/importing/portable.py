"""An encoder as one ONNX file with its preprocessing inside, for programs that are not ours.

It takes a picture, uint8 (height, width, 3) RGB of any size, and gives its embedding, float32
(dimension,) of unit length. What an image file shows (its orientation, its colours over white) is
the other program's to find out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search import __version__
from siamese_search.arrays import PixelArray
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.onnx_runtime import ONNXRuntime, open_session, run_session
from siamese_search.embedding.record import GRAPH, SHIPPED, EncoderRecord, verified_graph
from siamese_search.errors import EncoderError, ImageError, RuntimeUnavailable
from siamese_search.importing.sample import drawn
from siamese_search.pictures import render

IMAGE, EMBEDDING = "image", "embedding"  # what the file takes and gives
AGREEMENT = 0.99  # the least cosine to the encoder: below it, it is another encoder
# Heights and widths of the pictures that are drawn to check it.
SIZES = ((40, 60), (224, 224), (300, 200), (480, 640), (700, 500), (1200, 900))


@dataclass(frozen=True)
class Portable:
    """The file's content, and how far it agrees with the encoder.

    ``cosines`` are those between the embeddings that the file and the encoder have of each of the
    pictures it was checked on, both in float32.
    """

    content: bytes
    cosines: tuple[float, ...]


def portable(encoder: Encoder, pictures: Sequence[Any] = ()) -> Portable:
    """One ONNX file of an encoder, checked in ONNX Runtime on ``pictures``, each as
    ``Encoder.embed`` takes them, or on drawn ones where there are none.

    Raises RuntimeUnavailable where ``onnx`` is not installed; ImageError for a picture that cannot
    be read; EncoderError for damaged files, and where file and encoder disagree.
    """
    if importlib.util.find_spec("onnx") is None:
        raise RuntimeUnavailable(
            "writing ONNX files needs the package onnx: pip install 'siamese-search[train]'"
        )
    content = _composed(encoder)
    place = encoder.folder / GRAPH
    session = open_session(place, content)
    exact = ONNXRuntime(encoder.folder, encoder.record)
    cosines = []
    for name, shown, pixels in _shown(encoder, pictures):
        (found,) = run_session(place, session, shown)
        wanted = exact.embed(pixels[None])[0]
        cosine = float(found @ wanted) if found.shape == wanted.shape else -1.0
        if not cosine >= AGREEMENT:
            raise EncoderError(
                f"{encoder.location} cannot be exported: of {name} the file makes another"
                f" embedding, at a cosine of {cosine:.4f}, where {AGREEMENT} is needed"
            )
        cosines.append(min(1.0, cosine))
    return Portable(content, tuple(cosines))


def _shown(encoder: Encoder, pictures: Sequence[Any]) -> list[tuple[str, PixelArray, PixelArray]]:
    """A name, what the file takes, and what the encoder takes, of every picture."""
    how = encoder.record.preprocessing
    found = []
    for one in pictures:
        try:
            whole = np.asarray(render.upright(one).convert("RGB"))
            found.append((str(one), whole, render.load(one, how)))
        except ImageError as error:
            raise ImageError(f"{one}: {error}") from error
    for number, (height, width) in enumerate(() if found else SIZES):
        picture = drawn(number, height, width)
        name = f"a drawn picture of {width}x{height} pixels"
        found.append((name, picture, render.prepare(picture, how)))
    return found


def _composed(encoder: Encoder) -> bytes:
    """The encoder's graph behind the steps that render a picture."""
    import onnx
    from onnx import TensorProto, helper, version_converter

    from siamese_search.importing.onnx_reading import opset_of
    from siamese_search.importing.onnx_rendering import OPSET, Steps, rendered
    from siamese_search.importing.onnx_wrapping import PRODUCER, needed, rename

    record = encoder.record
    model = onnx.load_from_string(verified_graph(encoder.folder, record))
    if opset_of(model) < OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except (RuntimeError, ValueError) as error:
            raise EncoderError(
                f"{encoder.location} cannot be exported: its operator set {opset_of(model)} cannot"
                f" be brought to {OPSET}: import it again from a file of {OPSET} or later"
            ) from error
    graph = model.graph
    pixels, given = graph.input[0].name, graph.output[0].name
    inner, outside = needed(graph, [given])
    rename(inner, {IMAGE: f"inner {IMAGE}", EMBEDDING: f"inner {EMBEDDING}"})
    given = f"inner {EMBEDDING}" if given == EMBEDDING else given
    pixels = f"inner {IMAGE}" if pixels == IMAGE else pixels
    steps = Steps("rendering ")
    shown = rendered(steps, IMAGE, record.preprocessing)
    last = helper.make_node("Squeeze", [given, steps.lengths(0).name], [EMBEDDING])
    link = helper.make_node("Identity", [shown.name], [pixels])
    whole = helper.make_graph(
        [*steps.nodes, link, *inner, last],
        "encoder",
        [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["height", "width", 3])],
        [helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, [record.dimension])],
        [*steps.constants, *(one for one in graph.initializer if one.name in outside)],
    )
    made = helper.make_model(
        whole,
        opset_imports=[helper.make_opsetid("", opset_of(model))],
        ir_version=max(8, model.ir_version),
        producer_name=PRODUCER,
        producer_version=__version__,
    )
    helper.set_model_props(made, _facts(encoder.folder, record))
    return bytes(made.SerializeToString(deterministic=True))


def _facts(folder: Path, record: EncoderRecord) -> dict[str, str]:
    """What the file says of itself."""
    fitted = record.calibration.get("fitted", True)
    return {
        "name": record.name,
        "fingerprint": record.fingerprint,
        "dimension": str(record.dimension),
        "threshold": f"{record.threshold:g}" if fitted else "not fitted",
        "licence": _licence(folder, record),
        "input": "one picture, uint8 (height, width, 3), RGB, upright, of any size",
        "output": "its embedding, float32 (dimension,), of unit length: compare by dot products",
    }


def _licence(folder: Path, record: EncoderRecord) -> str:
    if folder.parent == SHIPPED:
        return "Apache-2.0"
    imported = record.training.get("imported")
    said = imported.get("licence") if isinstance(imported, dict) else None
    return str(said) if said else "not known"
