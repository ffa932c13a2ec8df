"""Help that reads well, and suggestions for commands that others call by another name.

Knows the command-line library, and no command.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_name

from siamese_search.cli.program import program

# What other tools call a command, and what it is called here.
INSTEAD = {
    "delete": "remove",
    "rm": "remove",
    "search": "query",
    "identify": "query",
    "find": "query",
    "enroll": "add",
    "enrol": "add",
    "rename": "relabel",
    "move": "relabel",
    "mv": "relabel",
    "version": "--version",
    "help": "--help",
    "restore": "import",
    "backup": "export",
    "revert": "undo",
    "ls": "list",
    "show": "list",
    "recognize": "query",
    "recognise": "query",
    "status": "info",
    "stats": "info",
    "evaluate": "benchmark",
    "test": "benchmark",
    "compare": "verify",
    "encoders": "encoder list",
    "models": "encoder list",
}
# The same for the commands of a group.
INSTEAD_IN = {
    "encoder": {
        "ls": "list",
        "show": "info",
        "describe": "info",
        "measure": "info --measure",
        "benchmark": "compare",
        "diff": "compare",
    }
}
# What an option takes where it does not say so itself.
TAKES = {"<int>": "N", "<int range>": "N", "<float>": "X", "<float range>": "X", "<str>": "TEXT"}

PLAIN = (  # how values are refused
    (", unable to parse string as an integer", ""),
    (", unable to parse string as a number", ""),
    ("a valid integer", "a whole number"),
    ("a valid number", "a number"),
    ("greater than or equal to", "at least"),
    ("less than or equal to", "at most"),
    ("Input should be", "it must be"),
)


def called(app: typer.Typer, arguments: Sequence[str]) -> typer.Typer:
    """The same with nothing but the command that the arguments begin with, where they name one.

    Typer builds all commands at each call, which takes several times as long as a short one runs.
    """
    name, *others = arguments or [""]
    chosen = copy.copy(app)
    for group in app.registered_groups:
        if group.typer_instance is not None and group.typer_instance.info.name == name:
            below = copy.copy(group)
            below.typer_instance = called(group.typer_instance, others)
            chosen.registered_commands, chosen.registered_groups = [], [below]
            return chosen
    for command in app.registered_commands:
        if command.callback is not None and name == (
            command.name or get_command_name(command.callback.__name__)
        ):
            chosen.registered_commands, chosen.registered_groups = [command], []
            return chosen
    return app


class Commands(TyperGroup):
    """The commands, and what to type where one is called by another name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is asked for; says which one it may be where there is no such one."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            group = None if ctx.parent is None else ctx.info_name
            ctx.fail(f"no such command {args[0]!r}: {self._instead(args[0].lower(), group)}")
        return super().resolve_command(ctx, args)

    def _instead(self, typed: str, group: str | None) -> str:
        """What to type: the command that other tools call so, else those that are spelt alike."""
        elsewhere = INSTEAD if group is None else INSTEAD_IN.get(group, {})
        known = {**elsewhere, **{name: name for name in self.commands}}
        called = program() if group is None else f"{program()} {group}"
        if typed in known:
            return f"try `{called} {known[typed]}`"
        close = [known[name] for name in difflib.get_close_matches(typed, known, n=3, cutoff=0.65)]
        # Nobody shall remove anything because of a slip.
        meant = dict.fromkeys(f"`{called} {name}`" for name in close if name != "remove")
        if meant and close[0] != "remove":
            return f"did you mean {' or '.join(meant)}?"
        return f"`{called} --help` lists them"


class Command(TyperCommand):
    """A command whose help names what it takes as people write it: IMAGE..., not {IMAGE...}...."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """The arguments; a value that makes no sense is named in plain words."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            for said, plain in PLAIN:
                error.message = error.message.replace(said, plain)
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The parts of the usage line."""
        arguments = [one for one in self.get_params(ctx) if one.param_type_name == "argument"]
        return ["[OPTIONS]", *(_written(one) for one in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the lists of arguments and of options."""
        lists: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for one in self.get_params(ctx):
            record = one.get_help_record(ctx)
            if record is not None and one.param_type_name == "argument":
                lists["Arguments"].append((_name(one), record[1]))
            elif record is not None:
                takes = re.sub("<[^>]+>", lambda kind: TAKES.get(kind[0], "VALUE"), record[0])
                lists["Options"].append((takes, record[1]))
        for title, rows in lists.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _name(argument: Any) -> str:
    """An argument's name, as IMAGE...; brackets tell in the usage line that it may be left out."""
    return re.sub(r"[\[\]]", "", argument.metavar or argument.name.upper())


def _written(argument: Any) -> str:
    name = _name(argument)
    return name if argument.required else f"[{name}]"
