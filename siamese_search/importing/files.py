"""Files of networks: weights as safetensors.

No pickle is ever read: it can run anything. Knows nothing of networks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from siamese_search.embedding.backbones import WEIGHTS
from siamese_search.errors import EncoderError
from siamese_search.importing.beside import read_json

INDEX = "model.safetensors.index.json"  # of weights in several files
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".tar", ".joblib")
CONVERT = (
    'where you trust the file, `python -c "import torch, safetensors.torch as s;'
    " s.save_file(torch.load('{name}', weights_only=True), 'model.safetensors')\"` writes one that"
    " is taken"
)


def require_safetensors(path: Path) -> None:
    """Raise EncoderError for a file that is no safetensors by its name."""
    if path.suffix.lower() == ".safetensors":
        return
    if path.suffix.lower() in PICKLES:
        raise EncoderError(
            f"{path} is a pickle, which can run anything when it is read: siasearch reads"
            f" .safetensors only; {CONVERT.format(name=path.name)}"
        )
    raise EncoderError(f"{path} is no .safetensors file: siasearch reads no other weights")


def weights_in(folder: Path) -> list[Path]:
    """The files with the weights of a folder. Raises EncoderError where there are none to read."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
    if (folder / INDEX).is_file():
        return _parts(folder / INDEX)
    others = sorted(folder.glob("*.safetensors"))
    if len(others) == 1:
        return others
    if others:
        names = ", ".join(path.name for path in others[:4])
        raise EncoderError(f"{folder} has several files of weights ({names}): name one: --weights")
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICKLES:
            require_safetensors(path)
    raise EncoderError(f"{folder} has no weights: siasearch looks for {WEIGHTS[0]} there")


def _parts(index: Path) -> list[Path]:
    """The files that an index names, which all lie beside it."""
    named = read_json(index).get("weight_map")
    names = sorted(set(named.values())) if isinstance(named, dict) else []
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise EncoderError(f"{index} names no files beside it")
    for name in names:
        require_safetensors(index.parent / name)
    return [index.parent / name for name in names]


def read_tensors(paths: Iterable[Path]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of safetensors files, floating ones as float32, and each file's SHA-256 by name.

    Raises EncoderError for what is none, is cut short, or has a value that is not finite.
    """
    tensors: dict[str, Tensor] = {}
    digests: dict[str, str] = {}
    for path in paths:
        require_safetensors(path)
        try:
            with open(path, "rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
            loaded = safetensors.torch.load_file(path)
        except OSError as error:
            raise EncoderError(f"{path} cannot be read: {error.strerror or error}") from error
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise EncoderError(f"{path} is no safetensors file, or damaged: {error}") from error
        for name, values in loaded.items():
            tensors[name] = values.float() if values.is_floating_point() else values
            if values.is_floating_point() and not bool(tensors[name].isfinite().all()):
                raise EncoderError(f"{path} is damaged: {name} has values that are not finite")
    return tensors, digests
