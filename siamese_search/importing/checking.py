"""Whether an exported graph gives what torch gives, by every runtime of this machine."""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search.arrays import FloatArray, PixelArray
from siamese_search.embedding.onnx_runtime import ONNXRuntime
from siamese_search.embedding.openvino_runtime import OpenVINORuntime
from siamese_search.embedding.record import EncoderRecord
from siamese_search.embedding.runtimes import Runtime
from siamese_search.errors import EncoderError
from siamese_search.importing.imported import Imported
from siamese_search.importing.sample import drawn_pixels
from siamese_search.importing.writing import write_imported
from siamese_search.pictures import render
from siamese_search.pictures.preprocessing import Preprocessing

AGREEMENT = 0.999  # the least cosine
PICTURES, DRAWN = 8, Preprocessing(256, 256)


def rendered(pictures: Sequence[Any], how: Preprocessing) -> PixelArray:
    """The pixels of some pictures, uint8 (n, height, width, channels).

    Without pictures, of some that are drawn. Raises ImageError for what cannot be read.
    """
    return np.stack([render.load(one, how) for one in pictures or drawn_pixels(DRAWN, PICTURES)])


def checked(
    made: Imported, pixels: PixelArray, expected: FloatArray, names: Sequence[str] = ()
) -> Imported:
    """The same, with the least cosine to what torch gives by each runtime in its origin.

    ``expected`` is torch's float32 (n, dimension), ``names`` what to call the pictures. Where
    bfloat16 is too coarse for a network, it is marked to run in float32. Raises EncoderError,
    saying which runtime and picture, where a cosine is below 0.999.
    """
    found = {"ONNX Runtime": _least("ONNX Runtime", ONNXRuntime, made, pixels, expected, names)}
    if importlib.util.find_spec("openvino") is not None:
        try:
            found["OpenVINO"] = _least("OpenVINO", OpenVINORuntime, made, pixels, expected, names)
        except EncoderError:
            exact = {"precision": "float32"}
            made = dataclasses.replace(made, architecture=made.architecture | exact)
            found["OpenVINO"] = _least("OpenVINO", OpenVINORuntime, made, pixels, expected, names)
    return dataclasses.replace(made, origin=made.origin | {"agreement": found})


def suited(made: Imported, pictures: Sequence[Any] = ()) -> Imported:
    """The same, marked to run in float32 where bfloat16 is too coarse for it: a graph that ONNX
    Runtime was checked with already. Errors as with ``checked``.
    """
    if importlib.util.find_spec("openvino") is None:
        return made
    pixels = rendered(pictures, made.preprocessing)
    agreement = made.origin["agreement"]
    found = checked(made, pixels, _embedded(ONNXRuntime, made, pixels), [*map(str, pictures)])
    return dataclasses.replace(
        found, origin=found.origin | {"agreement": found.origin["agreement"] | agreement}
    )


def _embedded(
    open_runtime: Callable[[Path, EncoderRecord], Runtime], made: Imported, pixels: PixelArray
) -> FloatArray:
    """What a runtime gives for pixels, one picture after the other."""
    with tempfile.TemporaryDirectory() as place:
        encoder = write_imported(made, Path(place, "encoder"))
        runtime = open_runtime(encoder.folder, encoder.record)
        return np.concatenate([runtime.embed(one[None]) for one in pixels])


def _least(
    name: str,
    open_runtime: Callable[[Path, EncoderRecord], Runtime],
    made: Imported,
    pixels: PixelArray,
    expected: FloatArray,
    names: Sequence[str],
) -> float:
    """The least cosine of a runtime. Raises EncoderError where it is too low."""
    given = _embedded(open_runtime, made, pixels)
    # What is no number is the worst.
    cosines = np.nan_to_num((given * expected).sum(axis=1), nan=-1.0)
    worst = int(np.argmin(cosines))
    if cosines[worst] < AGREEMENT:
        which = names[worst] if names else f"generated picture {worst + 1}"
        raise EncoderError(
            f"{made.name} is not imported: {name} disagrees with it on {which}, with a cosine of"
            f" {cosines[worst]:.4f} where {AGREEMENT} is needed"
        )
    return round(float(cosines[worst]), 6)
