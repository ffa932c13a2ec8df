"""ONNX files as encoders: a network that somebody has exported, between pixels and embeddings.

A file may be hostile, so that everything that is done with it is done in a process of its own,
within bounds of time and memory. This part starts that process, and loads no ONNX.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from siamese_search.errors import EncoderError, ImageError, RuntimeUnavailable, UsageError
from siamese_search.importing.imported import Imported
from siamese_search.machine import memory
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.processes import command, environment

SECONDS = 600.0  # that reading and trying a file may take
LEAST_MEMORY, TIMES = 3 << 30, 12  # bytes, and copies of the files
WORKER = "siamese_search.importing.onnx_worker"
ERRORS = {one.__name__: one for one in (UsageError, ImageError)}  # others are EncoderErrors
REQUEST, ANSWER, MADE = "request.json", "answer.json", "encoder.onnx"


@dataclass(frozen=True)
class OnnxOptions:
    """What a user says of an ONNX file; None is what the file, or one beside it, must say.

    ``output`` is the value that becomes the embedding, also one inside of the graph; ``pool`` is
    ``mean``, ``max``, ``first`` (the class token) or ``rest`` (all tokens but that). ``mean`` and
    ``std`` are for pixels from 0 to ``scale``. ``resize``, ``crop`` and ``interpolation`` are those
    of ``Preprocessing``, bilinear where nobody says it.
    """

    name: str | None = None
    output: str | None = None
    pool: str | None = None
    layout: Literal["nchw", "nhwc"] | None = None
    size: tuple[int, int] | None = None  # height, width
    bgr: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: Literal[1, 255] | None = None
    resize: str | None = None
    crop: float | None = None
    interpolation: str | None = None
    licence: str | None = None


def import_onnx(
    path: str | os.PathLike[str],
    options: OnnxOptions | None = None,
    pictures: Sequence[str | os.PathLike[str]] = (),
    seconds: float = SECONDS,
) -> Imported:
    """An ONNX file as an encoder, checked against the file itself.

    The two agree on ``pictures``, or on drawn ones where none are named, to a cosine of 0.999 at
    least. Raises EncoderError for a file that cannot become one, that takes longer than
    ``seconds``, or much more memory than its size; UsageError for what must be said about it;
    ImageError for a picture that cannot be read; RuntimeUnavailable where ``onnx`` is missing.
    """
    if importlib.util.find_spec("onnx") is None:
        raise RuntimeUnavailable(
            "ONNX files are taken apart by the package onnx: pip install 'siamese-search[train]'"
        )
    options = options or OnnxOptions()
    with tempfile.TemporaryDirectory() as place:
        request = {
            "path": os.fspath(path),
            "options": dataclasses.asdict(options),
            "pictures": [os.fspath(one) for one in pictures],
            "memory": _memory_for(Path(path)),
            "seconds": seconds,
        }
        Path(place, REQUEST).write_text(json.dumps(request), encoding="utf-8")
        _run(Path(path), Path(place), seconds)
        answer: dict[str, Any] = json.loads(Path(place, ANSWER).read_text(encoding="utf-8"))
        if "refused" in answer:
            raise ERRORS.get(answer["kind"], EncoderError)(answer["refused"])
        answer["preprocessing"] = Preprocessing(**answer["preprocessing"])
        return Imported(**answer, onnx=Path(place, MADE).read_bytes(), weights={})


def _memory_for(path: Path) -> int:
    """How many bytes of memory it may take to read and to try a file: by its size, and that of what
    lies beside it, since a small file can claim to be large.
    """
    size = 0
    with suppress(OSError):  # the worker says what is wrong with it
        size = sum(one.stat().st_size for one in os.scandir(path.parent) if one.is_file())
    return min(3 * memory() // 4, LEAST_MEMORY + TIMES * size)


def _run(path: Path, place: Path, seconds: float) -> None:
    """Have the worker make an answer in a folder. Raises EncoderError where it makes none."""
    try:
        done = subprocess.run(
            [*command(WORKER), str(place)],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise EncoderError(
            f"{path} cannot become an encoder: to read and to try it takes longer than"
            f" {seconds:g} s"
        ) from error
    except OSError as error:
        raise RuntimeUnavailable(f"no process can be started: {error.strerror}") from error
    if done.returncode or not (place / ANSWER).is_file():
        code = done.returncode
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        how = signal.Signals(-code).name if code < 0 else last or f"exit code {code}"
        raise EncoderError(
            f"{path} cannot become an encoder: what reads and tries it ended with {how[:200]};"
            " it may need more memory than there is"
        )
