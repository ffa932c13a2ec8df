"""``encoder``: the group of the commands about encoders. Each of them has a file of its own."""

from __future__ import annotations

import typer

from siamese_search.cli import encoder_calibrate
from siamese_search.cli.help import Command, Commands

group = typer.Typer(
    name="encoder",
    cls=Commands,
    help="Fit an encoder's threshold.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add the group and its commands."""
    for module in (encoder_calibrate,):
        module.register(group)
    for registered in group.registered_commands:
        registered.cls = Command
    app.add_typer(group)
