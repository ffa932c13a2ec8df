from __future__ import annotations

import pytest
import typer
from shell import Shell

from siamese_search.cli import app
from siamese_search.cli.help import INSTEAD, called


def test_every_command_has_help() -> None:
    group = typer.main.get_command(app)
    commands = group.commands  # type: ignore[attr-defined]
    assert set(commands) == {
        "add", "query", "verify", "list", "info", "remove", "relabel", "undo", "redo",
        "check", "compact", "rebuild", "train", "demo", "calibrate", "audit",
        "benchmark", "unknowns", "explain", "plot", "serve", "encoder", "watch", "export", "import",
        "merge", "copy", "split", "prune", "embed",
    }  # fmt: skip
    below = commands["encoder"].commands
    assert {"list", "info", "compare", "import", "export"} <= set(below)
    for command in (*commands.values(), *below.values()):
        assert command.help
        for parameter in command.params:
            assert getattr(parameter, "help", None), (command.name, parameter.name)


def test_a_command_that_is_built_alone_is_the_same() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    below = {("encoder", name): one for name, one in commands["encoder"].commands.items()}
    for words, whole in ({(name,): one for name, one in commands.items()} | below).items():
        built = typer.main.get_command(called(app, [*words, "--json"]))
        for word in words:
            assert word == "encoder" or list(built.commands) == [word]  # type: ignore[attr-defined]
            built = built.commands[word]  # type: ignore[attr-defined]
        assert (built.name, built.help) == (whole.name, whole.help)
        assert [one.opts for one in built.params] == [one.opts for one in whole.params]
    for other in ([], ["lst"], ["--help"], ["--version", "list"]):
        assert called(app, other) is app


@pytest.mark.parametrize(
    ("typed", "instead"),
    [
        ("delete", "try `siasearch remove`"),
        ("search", "try `siasearch query`"),
        ("identify", "try `siasearch query`"),
        ("backup", "try `siasearch export`"),
        ("move", "try `siasearch relabel`"),
        ("version", "try `siasearch --version`"),
        ("remov", "`siasearch --help` lists them"),  # nothing is removed because of a slip
        ("quey", "did you mean `siasearch query`?"),
        ("seach", "did you mean `siasearch query`?"),
        ("Identfy", "did you mean `siasearch query`?"),
        ("xyzzy", "`siasearch --help` lists them"),
    ],
)
def test_a_command_by_another_name_says_what_to_type(
    shell: Shell, typed: str, instead: str
) -> None:
    said = shell(typed, "x.png", code=2).stderr
    assert f"o such command '{typed}'" in said
    assert instead in said


def test_what_is_suggested_exists() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = {"--version", "--help"}
    assert {name.split()[0] for name in INSTEAD.values()} <= set(commands) | options
    assert not INSTEAD.keys() & set(commands)


def test_help_is_written_as_people_write(shell: Shell) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    below = [("encoder", name) for name in commands["encoder"].commands]
    for words in (*((name,) for name in commands), *below):
        usage, *others = shell(*words, "--help").stdout.splitlines()
        assert not set("{}<>") & set(usage)
        assert not any(
            kind in line for line in others for kind in ("<int", "<float", "<str", "<li")
        )
    assert shell("query", "--help").stdout.startswith("Usage: siasearch query [OPTIONS] IMAGE...\n")
    assert shell("list", "--help").stdout.startswith("Usage: siasearch list [OPTIONS] [IDENTITY]\n")
    asked = shell("query", "--help").stdout
    assert shell("query", "-h").stdout == asked
    assert "JSON Lines" in asked
    assert "  IMAGE...  Images to identify" in asked
    assert "-k, --k N " in asked
    assert "rank 1" in shell("benchmark", "--help").stdout
