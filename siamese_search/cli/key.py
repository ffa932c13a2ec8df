"""``--key``: every command about a gallery takes the key of a protected one."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

VARIABLE = "SIASEARCH_KEY"

KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key",
        envvar=VARIABLE,
        metavar="FILE",
        help="The key file of a gallery that was protected when it was exported.",
    ),
]


def keyed(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command with ``--key`` where it takes ``--gallery``; the process, and those that it starts,
    have the key from then on.
    """
    declared = inspect.signature(command, eval_str=True)
    if "gallery" not in declared.parameters:
        return command

    @wraps(command)
    def run(*arguments: Any, key: Path | None = None, **options: Any) -> Any:
        if key is not None:
            os.environ[VARIABLE] = str(key.absolute())  # the current folder may be another
        return command(*arguments, **options)

    option = inspect.Parameter("key", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = [*declared.parameters.values(), option.replace(annotation=KeyOption)]
    vars(run)["__signature__"] = declared.replace(parameters=parameters)
    run.__annotations__ = {**command.__annotations__, "key": KeyOption}
    return run
