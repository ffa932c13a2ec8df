"""Prints docs/commands.md, the reference of every command, from what `--help` knows.

    python docs/reference.py > docs/commands.md

A test fails where that file is no longer what this prints.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

from siamese_search.cli.app import app

HEAD = """# Commands

This page is made by `python docs/reference.py` from the help of the commands. `siasearch COMMAND
--help` shows the same.

Results are on standard output; progress, messages and rejected files are on standard error. With
`--json`, standard output has JSON Lines and nothing else: one JSON object a line. Exit codes: 0 is
done, also where a query's answer is *unknown*. 1 is done in part (every rejected file is named with
its reason), or `verify` or `check` says no. 2 is stopped by an error: one line says what to do.

`siasearch --install-completion` makes your shell (bash, zsh, fish or PowerShell) complete commands
and options; `siasearch --show-completion` only shows what it would install.
"""
# In the order in which a new user needs them; a command that is missing here comes last.
ORDER = (
    "demo", "add", "query", "watch", "verify", "list", "info", "relabel", "remove", "undo", "redo",
    "calibrate", "benchmark", "audit", "unknowns", "plot", "explain", "train", "encoder list",
    "encoder info", "encoder compare", "encoder import", "encoder calibrate", "encoder export",
    "rebuild", "check", "prune", "compact", "export", "import", "copy", "split", "merge", "embed",
)  # fmt: skip


KINDS: dict[type, str] = {int: "N", float: "X", str: "TEXT", Path: "PATH", bool: ""}


@dataclass(frozen=True)
class Parameter:
    """An argument or option as its command's function declares it."""

    info: ArgumentInfo | OptionInfo
    name: str
    kind: type  # of one value
    default: Any  # inspect.Parameter.empty where it must be given

    @property
    def is_option(self) -> bool:
        return isinstance(self.info, OptionInfo)

    def names(self) -> list[str]:
        """As ``--gallery`` and ``-g``."""
        # Inside Annotated, typer keeps the first name where a default would be.
        declared = [self.info.default, *(self.info.param_decls or ())]
        given = [name for name in declared if isinstance(name, str) and name.startswith("-")]
        return given or [f"--{self.name.replace('_', '-')}"]

    def placeholder(self) -> str:
        """What stands for an argument's value in the usage."""
        shown = (self.info.metavar or self.name.upper()).replace("[", "").replace("]", "")
        return shown if self.default is inspect.Parameter.empty else f"[{shown}]"

    def left(self) -> str:
        """The first column of the table."""
        if not self.is_option:
            return f"`{self.placeholder()}`"
        names = ", ".join(f"`{name}`" for name in self.names())
        value = (self.info.metavar or KINDS[self.kind]).replace("|", "/")  # no cell ends
        return f"{names} `{value}`" if value else names

    def right(self) -> str:
        """The second column: the help, the default, the bounds, the environment's variable."""
        said = [" ".join((self.info.help or "").split()).replace("|", "\\|")]
        if self.default not in (inspect.Parameter.empty, ..., None, False):
            shown = self.default.as_posix() if isinstance(self.default, Path) else self.default
            said.append(f"Default: `{shown}`.")
        least, most = self.info.min, self.info.max
        if least is not None:
            said.append(f"From {least:g} to {most:g}." if most is not None else f"From {least:g}.")
        if self.info.envvar:
            said.append(f"Environment: `{self.info.envvar}`.")
        return " ".join(said)


def commands() -> dict[str, Callable[..., Any]]:
    """The function of every command by the command's name; of a group's, both names."""
    below = [one.typer_instance for one in app.registered_groups if one.typer_instance is not None]
    groups = [("", app), *((f"{one.info.name} ", one) for one in below)]
    found = {
        prefix + (one.name or one.callback.__name__): one.callback
        for prefix, group in groups
        for one in group.registered_commands
        if one.callback is not None
    }
    known = [name for name in ORDER if name in found]
    return {name: found[name] for name in [*known, *sorted(found.keys() - set(known))]}


def parameters(command: Callable[..., Any]) -> list[Parameter]:
    """A command's arguments and options, in the order of its function."""
    hints = get_type_hints(command, include_extras=True)
    found: list[Parameter] = []
    for name, declared in inspect.signature(command).parameters.items():
        hint = hints[name]  # Annotated, but for typer's own context
        found += [
            Parameter(info, name, _one(hint.__origin__), declared.default)
            for info in getattr(hint, "__metadata__", ())
            if isinstance(info, ArgumentInfo | OptionInfo) and not info.hidden
        ]
    return found


def _one(hint: Any) -> type:
    """The type of one value: ``int`` for ``list[int] | None``."""
    inner = [one for one in get_args(hint) if one is not type(None)]
    return _one(inner[0]) if inner else hint


def page() -> str:
    """The whole page in Markdown."""
    return HEAD + "".join(_section(name, command) for name, command in commands().items())


def _section(name: str, command: Callable[..., Any]) -> str:
    found = sorted(parameters(command), key=lambda one: one.is_option)  # arguments first
    usage = [one.placeholder() for one in found if not one.is_option]
    rows = "".join(f"| {one.left()} | {one.right()} |\n" for one in found)
    return (
        f"\n## {name}\n\n    {' '.join(['siasearch', name, *usage, '[OPTIONS]'])}\n\n"
        f"{inspect.getdoc(command)}\n\n| option | meaning |\n| --- | --- |\n{rows}"
    )


if __name__ == "__main__":
    print(page(), end="")
