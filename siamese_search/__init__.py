"""siasearch: enrol pictures, identify new ones, also of things enrolled a second ago.

from siamese_search import Gallery

with Gallery.open("coins", encoder="general-2") as gallery:
    gallery.enroll(["pictures/"])
    print(gallery.identify(["photo.jpg"])[0].identity)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NoReturn

from siamese_search.errors import RuntimeUnavailable

if TYPE_CHECKING:
    from siamese_search.embedding.contract import EncoderProtocol
    from siamese_search.embedding.encoder import Encoder
    from siamese_search.errors import SiaSearchError
    from siamese_search.evaluation.evaluate import evaluate
    from siamese_search.gallery.gallery import Gallery
    from siamese_search.pictures.regions import Region
    from siamese_search.records import Identification, Match, Verification
    from siamese_search.training.run import train

__version__ = "0.1.0"  # pyproject.toml takes it from here

__all__ = [
    "Encoder",
    "EncoderProtocol",
    "Gallery",
    "Identification",
    "Match",
    "Region",
    "SiaSearchError",
    "Verification",
    "__version__",
    "evaluate",
    "train",
]

_HOMES = {
    "Encoder": "embedding.encoder",
    "EncoderProtocol": "embedding.contract",
    "Gallery": "gallery.gallery",
    "Identification": "records",
    "Match": "records",
    "Region": "pictures.regions",
    "SiaSearchError": "errors",
    "Verification": "records",
    "evaluate": "evaluation.evaluate",
    "train": "training.run",
}


def __getattr__(name: str) -> object:
    # Loaded when asked for: the command line must start without numpy, FAISS and OpenVINO.
    if name in _HOMES:
        try:
            return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        except ModuleNotFoundError:
            if name != "train":
                raise
            return _no_train  # `import *` and `hasattr` work without torch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _no_train(*_: object, **__: object) -> NoReturn:
    """In place of ``train`` where what it needs is not installed."""
    raise RuntimeUnavailable("training needs torch: pip install 'siamese-search[train]'")
