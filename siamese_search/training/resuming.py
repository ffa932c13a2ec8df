"""What a run that is resumed was asked to do. Knows nothing of networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from siamese_search.errors import TrainingError
from siamese_search.training import checkpoint
from siamese_search.training.plan import Plan
from siamese_search.training.settings import Settings


def resumed(folder: Path, given: Mapping[str, Any]) -> Plan | Settings:
    """The plan of the run in a folder, or its settings where it has none, with what is ``given``
    in their place, which ``train`` compares.

    Raises TrainingError where there is no run.
    """
    path = folder / checkpoint.NAME
    if not path.exists():
        raise TrainingError(f"{folder} has no {checkpoint.NAME} to resume from")
    _, facts = checkpoint.read_checkpoint(path)
    known = {field.name for field in fields(Settings)}
    saved = {name: value for name, value in facts["settings"].items() if name in known}
    settings = replace(Settings(**saved), **given)
    return Plan.read(folder, settings) or settings
