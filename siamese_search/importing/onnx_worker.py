"""The process that makes an encoder of an ONNX file: ``python -m
siamese_search.importing.onnx_worker FOLDER``, which has the request and gets the answer.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

from siamese_search.errors import SiaSearchError
from siamese_search.importing.onnx_file import ANSWER, MADE, REQUEST, OnnxOptions

try:
    import resource
except ImportError:  # not on every system
    resource = None  # type: ignore[assignment]


def main(place: Path) -> None:
    """Answer the request of a folder."""
    request = json.loads((place / REQUEST).read_text(encoding="utf-8"))
    _limit(request["memory"], request["seconds"])
    from siamese_search.importing.onnx_making import make  # within the limits, too

    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in request["options"].items()
    }
    path = Path(request["path"])
    answer: dict[str, Any]
    try:
        made = make(path, OnnxOptions(**fields), request["pictures"])
        (place / MADE).write_bytes(made.onnx)
        names = ("name", "architecture", "dimension", "origin")
        answer = {name: getattr(made, name) for name in names}
        answer["preprocessing"] = dataclasses.asdict(made.preprocessing)
    except SiaSearchError as error:
        kind, text = type(error).__name__, " ".join(str(error).split())
        answer = {"refused": text, "kind": kind}
    except MemoryError:
        text = f"it needs more than {request['memory'] / 1e9:.1f} GB of memory"
        answer = {"refused": f"{path} cannot become an encoder: {text}", "kind": "EncoderError"}
    (place / ANSWER).write_text(json.dumps(answer), encoding="utf-8")


def _limit(size: int, seconds: float) -> None:
    """Have the system end this process where it takes more, also once nobody waits for it."""
    if resource is None:
        return
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, size),
        (resource.RLIMIT_CPU, math.ceil(seconds) + 1),
    ):
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(
            what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
