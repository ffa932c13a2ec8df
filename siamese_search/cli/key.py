"""``--key``: every command about a gallery takes the key of a protected one."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from siamese_search.cli.common import DEFAULT_GALLERY
from siamese_search.errors import GalleryError, UsageError

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
    have the key from then on. Where the option would do nothing, it is an error.
    """
    declared = inspect.signature(command, eval_str=True)
    if "gallery" not in declared.parameters:
        return command

    @wraps(command)
    def run(*arguments: Any, key: Path | None = None, **options: Any) -> Any:
        if key is not None:
            if os.environ.get(VARIABLE) != str(key):  # which is set for all commands
                _require_use(key, options["gallery"], makes=command.__name__ == "import_")
            os.environ[VARIABLE] = str(key.absolute())  # the current folder may be another
        return command(*arguments, **options)

    option = inspect.Parameter("key", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = [*declared.parameters.values(), option.replace(annotation=KeyOption)]
    vars(run)["__signature__"] = declared.replace(parameters=parameters)
    run.__annotations__ = {**command.__annotations__, "key": KeyOption}
    return run


def _require_use(key: Path, gallery: Path | list[Path] | None, makes: bool) -> None:
    """Raise UsageError for a file that is no key, and where no gallery is protected that is there;
    but for a command that ``makes`` one, which may be.
    """
    from siamese_search.embedding.protection import Key, protected
    from siamese_search.gallery.opening import exists, opened_catalog

    Key.read(key)
    default = Path(os.environ.get("SIASEARCH_GALLERY") or DEFAULT_GALLERY)  # as `serve` has it
    folders = gallery if isinstance(gallery, list) else [gallery or default]
    for folder in folders:
        if not exists(folder):
            if makes:
                return
            continue
        try:
            with closing(opened_catalog(folder, None)) as catalog:
                if protected(catalog.state().generation.encoder):
                    return
        except GalleryError:  # the command says what is wrong
            return
    raise UsageError(
        f"--key {key}: there is no protected gallery in {', '.join(map(str, folders))}; leave out"
        " the key, or make one by `siasearch export --protect KEYFILE` and `import`"
    )
