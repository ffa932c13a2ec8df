"""What lies beside a network's file: JSON that describes it, and a model card with its licence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from siamese_search.errors import EncoderError
from siamese_search.files import read_regular
from siamese_search.importing.stated import (
    Stated,
    from_open_clip,
    from_preprocessor,
    from_timm,
)

JSON_BYTES = 16 << 20  # at most
PREPROCESSOR, OPEN_CLIP = "preprocessor_config.json", "open_clip_config.json"
TIMM = "config.json"  # also that of transformers
README = "README.md"


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object; empty where there is no file. Raises EncoderError for anything else."""
    try:
        found = json.loads(read_regular(path, JSON_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise EncoderError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise EncoderError(f"{path} is no JSON: {type(error).__name__}") from error
    if not isinstance(found, dict):
        raise EncoderError(f"{path} has no JSON object")
    return found


def licence_beside(folder: Path) -> str | None:
    """The licence that a model card, ``README.md``, names in its head; None where it does not."""
    try:
        text = read_regular(folder / README, JSON_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = head and re.search(r"^license:\s*([\w.-]+)\s*$", head[1], re.MULTILINE)
    return found[1] if found else None


def stated_beside(folder: Path) -> tuple[Stated, bool, str | None]:
    """How a network in this folder takes pictures, whether blue comes first, and the file that says
    so, None where none does.

    Raises EncoderError for a file that makes no sense.
    """
    for name in (PREPROCESSOR, OPEN_CLIP, TIMM):
        fields, place = read_json(folder / name), str(folder / name)
        try:
            if name == PREPROCESSOR and fields:
                flipped = bool(fields.get("do_flip_channel_order", False))
                return from_preprocessor(fields, place), flipped, name
            if name == OPEN_CLIP and fields:
                return from_open_clip(fields, place), False, name
            shown = fields.get("pretrained_cfg")
            if name == TIMM and isinstance(shown, dict):
                return from_timm(shown, place), False, name
        except (AttributeError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
            raise EncoderError(f"{place} makes no sense: {error}") from error
    return Stated(), False, None
