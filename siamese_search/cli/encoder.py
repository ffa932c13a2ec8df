"""``encoder``: the group of the commands about encoders. Each of them has a file of its own."""

from __future__ import annotations

import typer

from siamese_search.cli import encoder_import
from siamese_search.cli.help import Command, Commands

group = typer.Typer(
    name="encoder",
    cls=Commands,
    help="Take encoders over from elsewhere.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add the group and its commands."""
    for module in (encoder_import,):
        module.register(group)
    for registered in group.registered_commands:
        registered.cls = Command
    app.add_typer(group)
