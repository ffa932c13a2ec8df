"""An encoder's graph made of an ONNX file, and checked against the file. For the worker: a file may
take more time or memory than there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search.arrays import FloatArray, PixelArray
from siamese_search.embedding.onnx_runtime import open_session, run_session
from siamese_search.embedding.record import DIMENSION_AT_MOST, LOOP
from siamese_search.errors import EncoderError, ImageError, UsageError
from siamese_search.importing.beside import licence_beside
from siamese_search.importing.imported import Imported
from siamese_search.importing.onnx_file import OnnxOptions
from siamese_search.importing.onnx_reading import opset_of, read_model
from siamese_search.importing.onnx_settings import Settled, settle
from siamese_search.importing.onnx_wrapping import POOLS, Given, Taken, cut, needed, wrapped
from siamese_search.importing.sample import drawn_pixels
from siamese_search.pictures import render
from siamese_search.pictures.preprocessing import Preprocessing

AGREEMENT = 0.999  # the least cosine between what the file gives, and the encoder
PICTURES = 16  # that are compared at most
SHOWN = 8  # outputs that an error lists
LENGTH = 300  # of a text that the file says
BATCH = "batch"


def make(path: Path, options: OnnxOptions, pictures: Sequence[str]) -> Imported:
    """The encoder of a file, as ``import_onnx``, without bounds of time and memory."""
    if options.pool not in (None, *POOLS):
        raise UsageError(f"pool is {options.pool!r}: choose {', '.join(POOLS)}")
    model, digests = read_model(path)
    settled = settle(path, model, options)
    taken, how = settled.taken, settled.preprocessing
    pixels = _pixels(how, pictures)
    given = _given(path, model, taken, options, pixels[0])
    wanted = _unit(path, _as_the_file(path, model, taken, given, pixels))
    graph, batch, least = _checked(path, model, taken, given, pixels, wanted)
    return Imported(
        name=options.name or path.stem,
        architecture={"graph": "onnx"},
        preprocessing=how,
        dimension=given.dimension,
        onnx=graph,
        weights={},
        origin=_origin(path, model, digests, options, settled, given)
        | {"one at a time": batch == 1, "agreement": {"ONNX Runtime": round(least, 6)}},
    )


def _pixels(how: Preprocessing, pictures: Sequence[str]) -> PixelArray:
    """The pixels of pictures, or of drawn ones where there are none."""
    found = []
    for one in pictures[:PICTURES]:
        try:
            found.append(render.load(one, how))
        except ImageError as error:
            raise ImageError(f"{one}: {error}") from error
    return np.stack(found or drawn_pixels(how))


def _given(path: Path, model: Any, taken: Taken, options: OnnxOptions, image: PixelArray) -> Given:
    """The value that becomes the embedding. Raises UsageError where that is to be said."""
    graph = model.graph
    constants = {one.name for one in graph.initializer}
    made = {name for node in graph.node for name in node.output}
    names = [options.output] if options.output else [one.name for one in graph.output]
    if options.output and options.output not in made:
        raise UsageError(
            f"{path} has no value {options.output!r}; its outputs are"
            f" {', '.join(repr(one.name) for one in graph.output[:SHOWN])}"
        )
    lacking = {
        name: needed(graph, [name])[1] - constants - {taken.name} for name in names if name in made
    }
    usable = [name for name, outside in lacking.items() if not outside]
    if not usable:
        others = sorted(set().union(*lacking.values()))[:SHOWN]
        raise EncoderError(
            f"{path} cannot become an encoder: what it gives needs more than a picture:"
            f" {', '.join(others) or 'it gives nothing'}"
        )
    batch = taken.batch or 1
    session = open_session(path, cut(model, taken, usable, batch).SerializeToString())
    found = dict(
        zip(
            usable,
            run_session(path, session, taken.array(image[None].repeat(batch, 0))),
            strict=True,
        )
    )
    sizes = "; ".join(
        f"{name!r} {found[name].dtype} {found[name].shape}" for name in usable[:SHOWN]
    )
    fitting = {
        name: (1, *values.shape[1:])
        for name, values in found.items()
        if isinstance(values, np.ndarray)
        and values.dtype.kind == "f"
        and 2 <= values.ndim <= 4
        and len(values) == batch
        and values.size
    }
    flat = [name for name, shape in fitting.items() if len(shape) == 2]
    choices = flat or list(fitting)
    if not choices:
        raise EncoderError(
            f"{path} cannot become an encoder: it gives {sizes} for {batch} of its pictures, where"
            " floats of the sizes (n, dimension), (n, tokens, channels) or maps are needed"
        )
    if len(choices) > 1:
        raise UsageError(f"{path} gives several values: choose one by --output: {sizes}")
    return _pooled(path, choices[0], fitting[choices[0]], taken, options.pool)


def _pooled(path: Path, name: str, shape: tuple[int, ...], taken: Taken, pool: str | None) -> Given:
    """How a value of this shape becomes an embedding. Raises UsageError for what cannot be."""
    single = len(shape) == 2 or (
        len(shape) == 4 and 1 in (shape[2] * shape[3], shape[1] * shape[2])
    )
    possible = () if len(shape) == 2 else POOLS if len(shape) == 3 else ("mean", "max")
    if pool is None and not single:
        what = "tokens (1, count, channels)" if len(shape) == 3 else "maps"
        raise UsageError(
            f"{path} gives {what} of the sizes {shape} in {name!r}: say how to pool them, by --pool"
            f" {', '.join(possible)}"
        )
    if pool is not None and pool not in possible:
        ways = f"choose {' or '.join(possible)}" if possible else "leave out --pool"
        raise UsageError(f"{path} gives {name!r} of the sizes {shape}: {ways}")
    if pool == "rest" and shape[1] < 2:
        raise UsageError(f"{path} gives one token, and no rest: take --pool first")
    given = Given(name, shape, pool, last=len(shape) == 4 and taken.layout == "nhwc")
    if given.dimension > DIMENSION_AT_MOST:
        raise EncoderError(
            f"{path} cannot become an encoder: {name!r} has {given.dimension} values, and"
            f" {DIMENSION_AT_MOST} are the most"
        )
    return given


def _as_the_file(
    path: Path, model: Any, taken: Taken, given: Given, pixels: PixelArray
) -> FloatArray:
    """What the file makes of pictures (n, height, width, channels): (n, dimension), not of unit
    length. Each fills a batch of the size that the file has.
    """
    batch = taken.batch or 1
    session = open_session(path, cut(model, taken, [given.name], batch).SerializeToString())
    found = [
        run_session(path, session, taken.array(image[None].repeat(batch, 0)))[0][:1]
        for image in pixels
    ]
    return given.pooled(np.concatenate(found))


def _unit(path: Path, found: FloatArray) -> FloatArray:
    """Embeddings of unit length. Raises EncoderError for those that tell nothing apart."""
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise EncoderError(
            f"{path} cannot become an encoder: it gives values that are no finite numbers; look at"
            " its mean, std and scale"
        )
    if not lengths.all() or (len(found) > 1 and not np.ptp(found, axis=0).any()):
        raise EncoderError(
            f"{path} cannot become an encoder: it gives the same for every picture; look at its"
            " mean, std and scale, and the output"
        )
    embeddings: FloatArray = (found / lengths).astype(np.float32)
    return embeddings


def _checked(
    path: Path, model: Any, taken: Taken, given: Given, pixels: PixelArray, wanted: FloatArray
) -> tuple[bytes, int | str, float]:
    """The encoder's graph, the batch that it takes, and the least cosine to what is ``wanted``.

    Any batch, where pictures do not change each other's embeddings; else one at a time.
    """
    reasons = []
    for batch in (BATCH, 1):
        graph = wrapped(model, taken, given, batch)
        if b"\x08location" in graph or b"\x00location" in graph or LOOP.search(graph):
            raise EncoderError(
                f"{path} cannot become an encoder: it has names that only weights in other files"
                " and loops have; name its values otherwise"
            )
        try:
            session = open_session(path, graph)
            runs = [[image[None] for image in pixels]] + ([[pixels]] if batch == BATCH else [])
            least = min(
                _least(path, wanted, [run_session(path, session, one)[0] for one in run])
                for run in runs
            )
        except EncoderError as error:
            reasons.append(str(error))
            continue
        if least >= AGREEMENT:
            return graph, batch, least
        reasons.append(
            f"{path} cannot become an encoder: it and the encoder agree to a cosine of {least:.4f},"
            f" and {AGREEMENT} is needed"
        )
    if taken.batch and taken.batch > 1:
        raise EncoderError(
            f"{path} cannot become an encoder: it takes {taken.batch} pictures at a time, no fewer:"
            " export it with a batch of any size"
        )
    raise EncoderError(reasons[-1])


def _least(path: Path, wanted: FloatArray, found: list[FloatArray]) -> float:
    embeddings = np.concatenate(found)
    if embeddings.shape != wanted.shape:
        raise EncoderError(
            f"{path} cannot become an encoder: it gives {embeddings.shape} for {len(wanted)}"
            " pictures"
        )
    least = float((embeddings * wanted).sum(axis=1).min())
    return least if np.isfinite(least) else -1.0


def _origin(
    path: Path,
    model: Any,
    digests: dict[str, str],
    options: OnnxOptions,
    settled: Settled,
    given: Given,
) -> dict[str, Any]:
    """Where the encoder is from, and how the file was understood."""
    says = {one.key[:LENGTH]: one.value[:LENGTH] for one in model.metadata_props[:20]}
    written = next((v for k, v in says.items() if k.lower() in ("license", "licence")), None)
    folders = (path.parent, *([path.parent.parent] if path.parent.name == "onnx" else []))
    cards = (licence_beside(folder) for folder in folders)
    taken = settled.taken
    return {
        "source": "ONNX file",
        "file": path.name,
        "sha256": digests[path.name],
        "files": {name: digest for name, digest in digests.items() if name != path.name},
        "licence": options.licence or written or next(filter(None, cards), None),
        "producer": f"{model.producer_name} {model.producer_version}".strip()[:LENGTH],
        "operator set": opset_of(model),
        "says": says,
        "input": {
            "name": taken.name,
            "kind": taken.kind,
            "layout": taken.layout,
            "channels": "BGR" if taken.bgr else "RGB" if taken.channels == 3 else "grey",
            "mean": list(taken.mean),
            "std": list(taken.std),
            "said by": settled.beside or "options",
        },
        "output": {"name": given.name, "sizes": list(given.shape), "pool": given.pool},
    }
